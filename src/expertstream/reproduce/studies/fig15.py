"""Fig. 15: ablation of FSE-DP by utilisation, A1 to A5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expertstream.reproduce import drawing
from expertstream.reproduce.iterations import PAIRED, curve_points, iterations_row
from expertstream.reproduce.layers import MACS_DONE, SAMPLING, layer_points, layer_row, with_strategies
from expertstream.reproduce.means import by_routing, cells, interval, mac_percent, mean_of, ratio_of, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study
from expertstream.units import signed

VARIANTS: Final = {
    "fse-dp-naive": "A1 naive",
    "fse-dp": "A2 rules 1-4",
    "fse-dp-paired": "A3 + paired load",
    "fse-dp-rule5": "A4 + rule 5",
}
WITHOUT, WITH = f"{PAIRED}, 0 %", f"{PAIRED}, 20 %"  # token buffering, which needs several iterations
A5: Final = "A5 = A3 + 20 % slack"


def points(setting: Setting) -> list[Point]:
    """Every layer under every variant, and iterations of many requests without and with token buffering."""
    layers = with_strategies(layer_points(setting, tokens=setting.tokens), tuple(VARIANTS))
    return [*layers, *curve_points(setting, [WITHOUT, WITH])]


def table(rows: Sequence[Row]) -> list[Row]:
    """Utilisation, and the most that the bounds allow, of each (model, tokens, variant)."""
    found = _variants([row for row in rows if "iterations" not in row])
    paired = {(row["model"], row["tokens"]): row for row in found if row["strategy"] == PAIRED and not row["captured"]}
    for (model, tokens), mine in cells([row for row in rows if "iterations" in row], "model", "tokens").items():
        rate = {(row["curve"], row["seed"]): row["experts_macs"] / row["experts_ps"] for row in mine}
        ratio, half = interval([rate[WITH, seed] / rate[WITHOUT, seed] for (seed,) in cells(mine, "seed")])
        a3 = paired[model, tokens]
        found.append(
            {
                **dict.fromkeys(a3),
                "model": model,
                "tokens": tokens,
                "strategy": "fse-dp-buffered",
                "captured": False,
                "seeds": len(cells(mine, "seed")),
                "mac_percent": a3["mac_percent"] * ratio,
                "mac_percent_half_interval": a3["mac_percent"] * half,
                "most_percent": a3["most_percent"],
                "variant": A5,
            }
        )
    return found


def _variants(rows: Sequence[Row]) -> list[Row]:
    found = summary(
        rows,
        ("model", "tokens", "strategy"),
        mac_percent=mac_percent,
        latency_ms=mean_of("latency_ps", 1e-9),
        bound_ms=mean_of("bound_ps", 1e-9),
        most_percent=lambda mine: 100 * ratio_of("compute_bound_ps", "bound_ps")(mine),
    )
    return [
        row
        | {
            "variant": VARIANTS[row["strategy"]],
            "gap": row["latency_ms"] / row["bound_ms"],
        }
        for row in found
    ]


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per model; the line is the utilisation at the lower bound of the latency."""
    text = "MACs done on the 2x2 test chip in % of its peak, mean over the layers, 95 % intervals"
    return drawing.by_model(rows, _bars, xlabel="tokens per iteration", text=text, legend_cols=6)


def _bars(place: Axes, rows: Sequence[Row]) -> None:
    groups = cells(rows, "tokens")
    bars = {
        variant: {row["tokens"]: (row["mac_percent"], row["mac_percent_half_interval"]) for row in some}
        for (variant,), some in cells(rows, "variant").items()
    }
    drawing.grouped_bars(
        place,
        [str(tokens) for (tokens,) in groups],
        {variant: [of.get(tokens, (math.nan, math.nan)) for (tokens,) in groups] for variant, of in bars.items()},
        label="MACs / peak (%)",
        styles={variant: name for name, variant in VARIANTS.items()} | {A5: "fse-dp-buffered"},
    )
    drawing.lines_across(place, [some[-1]["most_percent"] for some in groups.values()], "at the bound")


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What section VI says of the ablation."""

    def gains(after: str, before: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for label, own in by_routing(rows).items():
            use = {(row["strategy"], row["model"], row["tokens"]): row["mac_percent"] for row in own}
            settings = list(dict.fromkeys((row["model"], row["tokens"]) for row in own))
            mine = [100 * (use[after, *at] / use[before, *at] - 1) for at in settings if (after, *at) in use]
            found |= {label: mine} if mine else {}
        return found

    def every(some: dict[str, list[float]]) -> list[float]:
        return [gain for gains in some.values() for gain in gains]

    flow, paired = gains("fse-dp", "fse-dp-naive"), gains("fse-dp-paired", "fse-dp")
    fifth, gained = gains("fse-dp-rule5", "fse-dp-paired"), gains("fse-dp-buffered", "fse-dp-paired")
    bound = "At low token counts every variant runs at the DDR bound, and utilisation is what DDR allows"
    return [
        _claim(
            "A2 (rules 1 to 4) uses the MAC arrays better than A1 (naive)",
            flow,
            min(every(flow)) > -0.5 and max(every(flow)) > 5,
            bound,
        ),
        _claim(
            "A3 (paired load) improves on A2",
            paired,
            min(every(paired)) > -0.5 and max(every(paired)) > 1,
            f"{bound}; where DDR and compute times are about equal, hot experts first fill the buffers and stall DDR",
        ),
        _claim(
            "A4 (rule 5) is marginal over A3",
            fifth,
            max(map(abs, every(fifth))) < 3,
            "Rule 5 changes something only where buffers are full",
        ),
        _claim(
            "A5 (20 % token buffering) improves on A3",
            gained,
            min(every(gained)) > -0.5 and max(every(gained)) > 1,
            "Deferred tokens are missing in an iteration, which still loads nearly the same experts; see fig14",
        ),
    ]


def _claim(claimed: str, gains: dict[str, list[float]], met: bool, reason: str) -> Claim:
    texts = [
        f"{label}{signed(min(some))} to {signed(max(some))} %, median {signed(sorted(some)[len(some) // 2])} %"
        for label, some in gains.items()
    ]
    ours = f"utilisation {''.join(texts)}"
    return Claim("VI, Fig. 15", claimed, ours, "agrees" if met else "differs", reason)


STUDY = Study(
    name="fig15",
    title="Ablation of FSE-DP by utilisation",
    section="VI, Fig. 15",
    points=points,
    measure=layer_row,
    measure_iterations=iterations_row,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        *SAMPLING,
        MACS_DONE,
        "A5 is A3 times the ratio of MACs per time, of expert blocks alone, with 20 % slack to those without under the "
        "same requests (fig14, up to 256 tokens).",
    ),
)
