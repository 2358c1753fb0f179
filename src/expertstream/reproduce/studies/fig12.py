"""Fig. 12: on-chip memory per model and strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expertstream.reproduce import drawing
from expertstream.reproduce.layers import SAMPLING, layer_points, layer_row, with_strategies
from expertstream.reproduce.means import by_routing, cells, mean_of, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study
from expertstream.units import signed

MIB: Final = 2**20
BASELINES: Final = ("ep", "hydra")
OURS: Final = "fse-dp-paired"
SMALL: Final = 3 * MIB  # a weight buffer per die with which the package has 28 MiB in all, tokens included
SMALL_NAME: Final = "fse-dp-paired, 3 MiB"
LIMIT_MB: Final = 32


def points(setting: Setting) -> list[Point]:
    """Every layer; FSE-DP also with a small weight buffer."""
    layers = layer_points(setting, tokens=setting.tokens)
    small = with_strategies(layers, (OURS,), changes={"die.weight_buffer": SMALL})
    return with_strategies(layers, (*BASELINES, OURS)) + small


def table(rows: Sequence[Row]) -> list[Row]:
    """Peak SRAM of the package in MB, mean and maximum over the layers, of each (model, tokens, strategy)."""
    named = [row | {"strategy": SMALL_NAME if row.get("changes") else row["strategy"]} for row in rows]
    by = ("model", "tokens", "strategy")
    out = summary(
        named,
        by,
        peak_mb=mean_of("peak_bytes", 1e-6),
        weights_mb=mean_of("peak_weight_bytes", 1e-6),
        tokens_mb=mean_of("peak_token_bytes", 1e-6),
        latency_ms=mean_of("latency_ps", 1e-9),
        bound_ms=mean_of("bound_ps", 1e-9),
    )
    some = cells(named, *by)
    for row in out:
        row["most_mb"] = max(one["peak_bytes"] for one in some[tuple(row[name] for name in by)]) / 1e6
        row["gap"] = row["latency_ms"] / row["bound_ms"]
    return out


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per model; the line is the paper's 32 MB."""
    text = "Peak SRAM of the 2x2 package, weights and tokens, mean over the layers; FSE-DP also with 3 MiB a die"
    return drawing.by_model(rows, _bars, xlabel="tokens per iteration", text=text)


def _bars(place: Axes, rows: Sequence[Row]) -> None:
    groups = [str(tokens) for (tokens,) in cells(rows, "tokens")]
    series = drawing.bars_of(rows, "strategy", "peak_mb")
    drawing.grouped_bars(place, groups, series, label="peak SRAM (MB)", styles={SMALL_NAME: "fse-dp"})
    place.axhline(LIMIT_MB, color="black", lw=0.9, label=f"{LIMIT_MB} MB")


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What sections I and VI say of memory."""
    out = []
    for name, given in ((OURS, "with the 14 MiB of weights per die of the test chip"), (SMALL_NAME, "with 3 MiB")):
        texts, saved, most = [], [], 0.0
        for label, own in by_routing(rows).items():
            at = {(row["strategy"], row["model"], row["tokens"]): row for row in own}
            settings = list(dict.fromkeys((row["model"], row["tokens"]) for row in own))
            peaks = [(at[name, *s]["peak_mb"], at[baseline, *s]["peak_mb"]) for s in settings for baseline in BASELINES]
            mine = [100 * (1 - own_peak / their_peak) for own_peak, their_peak in peaks]
            slower = max(100 * (at[name, *s]["latency_ms"] / at[OURS, *s]["latency_ms"] - 1) for s in settings)
            cost = f", for {signed(slower, 0)} % of latency at most" if name == SMALL_NAME else ""
            texts.append(f"{label or given + ' it saves '}{min(mine):.0f} to {max(mine):.0f} %{cost}")
            saved += mine
            most = max(most, *(row["most_mb"] for row in own if row["strategy"] == name))
        out += [
            Claim(
                "VI, Fig. 12",
                "Up to 78.8 % less on-chip memory than EP and Hydra",
                "".join(texts),
                "agrees" if max(saved) >= 70 else "differs",
                "EP needs two whole experts per die: the larger the expert, the more FSE-DP saves. Where experts are "
                "small, FSE-DP fills the buffer that it is given with what it loads ahead",
            ),
            Claim(
                "VI, Fig. 12",
                "The package stays below 32 MB",
                f"{given}: at most {most:.0f} MB",
                "agrees" if most < LIMIT_MB else "differs",
                "At high token counts FSE-DP fills any weight buffer that it is given, and the tokens themselves need "
                "up to 16 MiB",
            ),
        ]
    return out


STUDY = Study(
    name="fig12",
    title="On-chip memory per model",
    section="VI, Fig. 12",
    points=points,
    measure=layer_row,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        *SAMPLING,
        "Peak of what is in the buffers at one time, weights and tokens, all dies together; MB are 1e6 bytes. EP and "
        "Hydra get the SRAM for two whole experts per die.",
    ),
)
