"""Ablation A1 to A4, and what each ingredient gives with everything else held equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from expertstream.analysis.stalls import CAUSES
from expertstream.reproduce import drawing
from expertstream.reproduce.layers import MODELS, layer_points, preset_of, row_of, simulated, waits_of
from expertstream.reproduce.means import cells, mac_percent, mean_of, ratio_of, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study
from expertstream.units import signed

LAYERS: Final = 3
STEPS: Final = ("A1", "A2", "A3", "A4")
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "A1": {"strategy": "fse-dp-naive"},
    "A2": {"strategy": "fse-dp"},
    "A3": {"strategy": "fse-dp-paired"},
    "A4": {"strategy": "fse-dp-rule5"},
    "A3, 1 ring": {"strategy": "fse-dp-paired", "options": {"rings": 1}},
    "A3, 2 rings": {"strategy": "fse-dp-paired", "options": {"rings": 2}},
    "A3, re-dispatch": {"strategy": "fse-dp-paired", "options": {"redispatch": True}},
    **{f"A3, {n} micro-slices": {"strategy": "fse-dp-paired", "options": {"micro_slices": n}} for n in (4, 8, 16)},
    "A2, whole experts": {"strategy": "fse-dp", "options": {"layout": "whole"}},
    "A3, whole experts": {"strategy": "fse-dp-paired", "options": {"layout": "whole"}},
    "ep": {"strategy": "ep"},
    "ep, no prefetch": {"strategy": "ep", "options": {"depth": 1}},
    "ep, paired order": {"strategy": "ep", "options": {"order": "paired"}},
    "tp-per-expert": {"strategy": "tp-per-expert"},
}
INGREDIENTS: Final = {  # with it, without it
    "micro-slice flow": ("A2", "A1"),
    "paired order": ("A3", "A2"),
    "paired order in EP": ("ep, paired order", "ep"),
    "paired order, whole experts in a DDR channel": ("A3, whole experts", "A2, whole experts"),
    "striped over the DDR channels, not whole experts": ("A3", "A3, whole experts"),
    "prefetch in EP": ("ep", "ep, no prefetch"),
    "rule 5": ("A4", "A3"),
    "4 rings, not 1": ("A3", "A3, 1 ring"),
    "4 rings, not 2": ("A3", "A3, 2 rings"),
    "re-dispatch": ("A3, re-dispatch", "A3"),
    "4 micro-slices, not the automatic number": ("A3, 4 micro-slices", "A3"),
    "8 micro-slices, not the automatic number": ("A3, 8 micro-slices", "A3"),
    "16 micro-slices, not the automatic number": ("A3, 16 micro-slices", "A3"),
}
WAITS: Final = tuple(f"wait_{cause.replace(' ', '_')}" for cause in CAUSES)
SPREAD: Final = ("latency_ms", "gap", "mac_percent", "peak_mb")  # each with the least and the most of a layer


def points(setting: Setting) -> list[Point]:
    """A few layers of synthetic routing of the paper's models, and of every capture whose model has a preset."""
    few = replace(setting, seeds=1, layers=min(setting.layers or LAYERS, LAYERS))
    files = {str(file): model for file in setting.traces if (model := preset_of(Path(file)))}
    sources: list[tuple[str, str | None]] = [(model, None) for model in MODELS]
    sources += [(model, file) for file, model in files.items()]
    layers = [p for model, file in sources for p in layer_points(few, tokens=setting.tokens, sources={model: file})]
    return [point | {"variant": name} | variant for point in layers for name, variant in VARIANTS.items()]


def measure(point: Point) -> Row:
    """What ``row_of`` gives, and the share of the latency in which MAC arrays wait, by cause."""
    result = simulated(point)
    return row_of(result) | waits_of(result)


def table(rows: Sequence[Row]) -> list[Row]:
    """Latency, gap (with its spread over the layers), utilisation, SRAM and waits of each variant."""
    named = [row | {"source": Path(row["trace"]).stem if row.get("trace") else row["model"]} for row in rows]
    by = ("source", "tokens", "variant")
    values: dict[str, Callable[[list[Row]], float]] = {
        "latency_ms": mean_of("latency_ps", 1e-9),
        "gap": ratio_of("latency_ps", "bound_ps"),
        "mac_percent": mac_percent,
        "peak_mb": mean_of("peak_bytes", 1e-6),
        **{f"{wait}_percent": mean_of(wait, 100) for wait in WAITS},
    }
    out = summary(named, by, **values)
    some = cells(named, *by)
    for row in out:
        layers = summary(some[tuple(row[name] for name in by)], (*by, "layer"), **values)
        for name in SPREAD:
            row[f"{name}_least"], row[f"{name}_most"] = (end(one[name] for one in layers) for end in (min, max))
        for name in [key for key in row if key.endswith("_half_interval")]:
            del row[name]  # one draw each: the spread is that of the layers
    return out


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per source: latency over the bound of A1 to A4 and the opponents."""
    sources = cells(rows, "source")
    figure, axes = drawing.panels(-(-len(sources) // 2), 2)
    for place, ((source,), mine) in zip(axes, sources.items(), strict=False):
        series = {
            VARIANTS[variant]["strategy"]: [(row["gap"], 0.0) for row in some]
            for (variant,), some in cells(mine, "variant").items()
            if "options" not in VARIANTS[variant]
        }
        drawing.grouped_bars(place, [str(n) for (n,) in cells(mine, "tokens")], series, label="latency / bound")
        place.axhline(1, color="black", lw=0.9)
        place.set_title(source.replace("__", ", "), fontsize=6)
        place.set_xlabel("tokens per iteration", fontsize=7)
    drawing.hide_rest(axes, len(sources))
    drawing.legend(figure, axes[0])
    drawing.caption(figure, "Latency over the lower bound, sums over the layers: A1 to A4, EP and TP expert by expert")
    return figure


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What section VI says of the ablation, and each ingredient's gain."""
    at = {(row["variant"], row["source"], row["tokens"]): row for row in rows}
    cases = list(dict.fromkeys((row["source"], row["tokens"]) for row in rows))
    out = []
    for before, after in pairwise(STEPS):
        worse = [case for case in cases if at[after, *case]["latency_ms"] > 1.001 * at[before, *case]["latency_ms"]]
        waits = "; ".join(_waits(at, before, after, case) for case in worse[:4])
        out.append(
            Claim(
                "VI, Fig. 15",
                f"{after} is no slower than {before}",
                f"in {len(cases) - len(worse)} of {len(cases)} cases (0.1 % counts as equal)",
                "differs" if worse else "agrees",
                f"What MAC arrays wait for where it is slower: {waits}" if worse else "",
            )
        )
    for name, (with_it, without) in INGREDIENTS.items():
        gains = [100 * (at[without, *case]["latency_ms"] / at[with_it, *case]["latency_ms"] - 1) for case in cases]
        out.append(
            Claim(
                "beyond the paper",
                f"{name}, everything else equal",
                f"{signed(min(gains))} to {signed(max(gains))} % of speed, mean {signed(sum(gains) / len(gains))} %",
                "not comparable",
                "The paper gives utilisation only",
            )
        )
    saved = [100 * (1 - at["A3", *case]["peak_mb"] / at["ep", *case]["peak_mb"]) for case in cases]
    out.append(
        Claim(
            "VI, Fig. 12",
            "Up to 78.8 % less on-chip memory than EP",
            f"fse-dp-paired needs {min(saved):.0f} to {max(saved):.0f} % less than ep",
            "agrees" if max(saved) >= 78 else "differs",
            "EP needs two whole experts per die: the larger the expert, the more is saved",
        )
    )
    most = max(row["peak_mb_most"] for row in rows if row["variant"] == "A3")
    out.append(
        Claim(
            "VI, Fig. 12",
            "The package stays below 32 MB",
            f"fse-dp-paired: at most {most:.0f} MB",
            "agrees" if most < 32 else "differs",
            "With many tokens FSE-DP fills any weight buffer that it is given",
        )
    )
    return out


def _waits(at: dict[tuple[Any, ...], Row], before: str, after: str, case: tuple[Any, ...]) -> str:
    """The causes of waiting that grew most."""
    names = [key for key in at[after, *case] if key.startswith("wait_")]
    more = max(names, key=lambda key: at[after, *case][key] - at[before, *case][key])
    cause = more.removeprefix("wait_").removesuffix("_percent").replace("_", " ")
    slower = 100 * (at[after, *case]["latency_ms"] / at[before, *case]["latency_ms"] - 1)
    return (
        f"{case[0]}, {case[1]} tokens ({signed(slower)} %): {cause} {at[before, *case][more]:.1f} to "
        f"{at[after, *case][more]:.1f} % of the time"
    )


STUDY = Study(
    name="ablation",
    title="Ablation A1 to A4, and each ingredient alone",
    section="VI, Fig. 15, and beyond",
    points=points,
    measure=measure,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        f"{LAYERS} layers of the paper's models (SYNTHETIC routing) and of every capture that fits a model's preset, "
        "evenly spread over them, one draw or window of tokens. Left out: FLAME-MoE-290M, whose shape is not known "
        "here, and captures of counts (Gemma 4, Mixtral, OLMoE), which do not say which token went where.",
        "The test chip with its own buffers; EP gets the SRAM for two whole experts. DDR layouts are the strategies' "
        "own unless a variant says otherwise. Fewer than 4 micro-slices per expert and die do not fit the weight "
        "buffer for the larger experts.",
    ),
)
