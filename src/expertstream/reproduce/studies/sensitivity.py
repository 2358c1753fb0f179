"""Sensitivity to DDR and D2D bandwidth: where FSE-DP becomes D2D-bound and TP overtakes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from matplotlib.figure import Figure

from expertstream.analysis.utilisation import measure_utilisation
from expertstream.package import Package
from expertstream.reproduce import drawing
from expertstream.reproduce.layers import layer_points, models_with_routing, row_of, simulated
from expertstream.reproduce.means import cells, mean_of, ratio_of, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study

OURS: Final = "fse-dp-paired"
TP: Final = ("tp", "tp-per-expert")
STRATEGIES: Final = ("ep", *TP, "fse-dp-naive", "fse-dp", OURS, "fse-dp-rule5")
DDR: Final = (1, 2, 4, 8, 16)
D2D_GB: Final = (144, 288, 512)


def points(setting: Setting) -> list[Point]:
    """The middle layer of every model at 64 and 256 tokens, on every pair of bandwidths."""
    few = replace(setting, seeds=1, layers=1)
    sizes = [n for n in setting.tokens if n in (64, 256)] or list(setting.tokens[:1])
    layers = layer_points(few, tokens=sizes, sources=models_with_routing(setting))
    base = Package.preset("test-chip-2x2").channels[0].bandwidth_bytes_per_s
    return [
        point
        | {"strategy": strategy, "ddr_times": times, "d2d_gb": gb}
        | {"changes": {"channels.bandwidth": base * times, "d2d.bandwidth": gb * 10**9}}
        for point in layers
        for times in DDR
        for gb in D2D_GB
        for strategy in STRATEGIES
    ]


def measure(point: Point) -> Row:
    """What ``row_of`` gives, and the busy time of the busiest link."""
    result = simulated(point)
    return row_of(result) | {"d2d_bound_ps": int(measure_utilisation(result.timeline).link_ps.max(initial=0))}


def table(rows: Sequence[Row]) -> list[Row]:
    """Latency, gap, share of the time for which the busiest link is busy, and SRAM."""
    out = summary(
        rows,
        ("model", "tokens", "ddr_times", "d2d_gb", "strategy"),
        latency_ms=mean_of("latency_ps", 1e-9),
        gap=ratio_of("latency_ps", "bound_ps"),
        link_share=ratio_of("d2d_bound_ps", "latency_ps"),
        peak_mb=mean_of("peak_bytes", 1e-6),
    )
    return [{name: value for name, value in row.items() if not name.endswith("_half_interval")} for row in out]


def draw(rows: Sequence[Row]) -> Figure:
    """Speed of FSE-DP against the faster TP over the DDR bandwidth, a panel per number of tokens and D2D bandwidth."""
    panels = cells(rows, "tokens", "d2d_gb")
    sizes = cells(rows, "tokens")
    figure, axes = drawing.panels(len(sizes), len(D2D_GB), sharey=True)
    for place, ((tokens, gb), mine) in zip(axes, sorted(panels.items()), strict=True):
        for number, ((model,), some) in enumerate(cells(mine, "model").items()):
            ratio = [_ratio(one) for one in cells(some, "ddr_times").values()]
            marker = drawing.MARKERS[number % len(drawing.MARKERS)]
            place.plot(DDR, ratio, marker=marker, color=f"C{number}", ms=3, lw=0.9, label=model)
        place.axhline(1, color="black", lw=0.9)
        place.set_xscale("log", base=2)
        place.set_title(f"{tokens} tokens, D2D {gb} GB/s", fontsize=8)
        place.set_xlabel("DDR, times 25.6 GB/s a die", fontsize=7)
        place.set_ylabel("speed over TP", fontsize=7)
    drawing.legend(figure, axes[0], cols=4)
    drawing.caption(figure, "fse-dp-paired against the faster of tp and tp-per-expert: below 1, TP is faster")
    return figure


def _ratio(rows: Sequence[Row]) -> float:
    latency = {row["strategy"]: row["latency_ms"] for row in rows}
    return float(min(latency[name] for name in TP) / latency[OURS])


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Where TP overtakes, for each D2D bandwidth."""
    out = []
    for gb in D2D_GB:
        mine = [row for row in rows if row["d2d_gb"] == gb]
        found = []
        for (model, tokens), some in cells(mine, "model", "tokens").items():
            by_ddr = {times: _ratio(one) for (times,), one in cells(some, "ddr_times").items()}
            links = {row["ddr_times"]: row["link_share"] for row in some if row["strategy"] == OURS}
            first = next((times for times in DDR if by_ddr[times] < 0.99), None)
            where = "never" if first is None else f"at x{first} (busiest link {100 * links[first]:.0f} % busy)"
            found.append(f"{model}, {tokens} tokens: {where}")
        out.append(
            Claim(
                "beyond the paper",
                f"FSE-DP against TP as DDR gets faster, D2D {gb} GB/s",
                f"TP is more than 1 % faster from: {'; '.join(found)}",
                "not comparable",
                "The paper does not compare with TP. FSE-DP sends every weight over up to three links, TP only tokens",
            )
        )
    return out


STUDY = Study(
    name="sensitivity",
    title="Sensitivity to DDR and D2D bandwidth",
    section="beyond the paper",
    points=points,
    measure=measure,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        "One layer of every model (and of the capture with the most tokens of each), one draw or window, at 64 and 256 "
        "tokens; the test chip with its DDR bandwidth x1 to x16 and D2D links of 144, 288 and 512 GB/s.",
    ),
)
