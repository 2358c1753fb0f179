"""Sensitivity to DDR and D2D bandwidth: where FSE-DP becomes D2D-bound, and where TP overtakes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from matplotlib.figure import Figure

from expertstream.analysis.busy_times import measure_busy_times
from expertstream.package import Package
from expertstream.reproduce import drawing
from expertstream.reproduce.layers import layer_points, models_with_routing, row_of, simulated, waits_of
from expertstream.reproduce.means import cells, mean_of, ratio_of, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study

OURS: Final = "fse-dp-paired"
ADAPTIVE: Final = "fse-dp-adaptive"
TP: Final = ("tp", "tp-per-expert")
STRATEGIES: Final = ("ep", *TP, "fse-dp-naive", "fse-dp", OURS, "fse-dp-rule5", ADAPTIVE)
DDR: Final = (1, 2, 4, 8, 16)
D2D_GB: Final = (144, 288, 512)
LAYERS: Final = 3
EVEN: Final = 0.01  # latencies that differ by less are called even


def points(setting: Setting) -> list[Point]:
    """A few layers of every model at 64 and 256 tokens, on every pair of bandwidths."""
    few = replace(setting, seeds=1, layers=min(setting.layers or LAYERS, LAYERS))
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
    """What ``row_of`` gives, the waits by cause, and the busy time of the busiest link."""
    result = simulated(point)
    busiest = int(measure_busy_times(result.timeline).link_ps.max(initial=0))
    return row_of(result) | waits_of(result) | {"link_ps": busiest}


def table(rows: Sequence[Row]) -> list[Row]:
    """Latency, gap, SRAM, busiest link over the bound (above 1 a run is D2D-bound), waits for D2D and other dies."""
    out = summary(
        rows,
        ("model", "tokens", "ddr_times", "d2d_gb", "strategy"),
        latency_ms=mean_of("latency_ps", 1e-9),
        gap=ratio_of("latency_ps", "bound_ps"),
        links_over_bound=ratio_of("link_ps", "bound_ps"),
        wait_others_percent=lambda mine: 100 * mean_of("wait_d2d")(mine) + 100 * mean_of("wait_other_die")(mine),
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
            by_ddr = cells(some, "ddr_times").values()
            ratio, bound = [speed(one) for one in by_ddr], [d2d_bound(one) for one in by_ddr]
            marker, title = drawing.MARKERS[number % len(drawing.MARKERS)], drawing.title_of(model)
            place.plot(DDR, ratio, color=f"C{number}", lw=0.9, marker=marker, mfc="white", mew=0.7, ms=4, label=title)
            filled = [at for at, limited in enumerate(bound) if limited]
            place.plot(
                [DDR[at] for at in filled],
                [ratio[at] for at in filled],
                marker,
                color=f"C{number}",
                mew=0.7,
                ms=4,
                zorder=3,
            )
        place.axhline(1, color="black", lw=0.9)
        place.set_xscale("log", base=2)
        place.set_xticks(DDR, [f"x{times}" for times in DDR])
        place.set_title(f"{tokens} tokens, D2D {gb} GB/s", fontsize=8)
        place.set_xlabel("DDR bandwidth, times 25.6 GB/s a die", fontsize=7)
        place.set_ylabel("speed over TP", fontsize=7)
    drawing.legend(figure, axes[0], cols=4)
    drawing.caption(
        figure,
        "fse-dp-paired against the faster of tp and tp-per-expert: below 1, TP is faster. Filled: the busiest link "
        "needs longer than DDR and the MAC arrays (D2D-bound)",
    )
    return figure


def speed(rows: Sequence[Row], of: str = OURS) -> float:
    """How many times faster than the faster of the two TPs ``of`` is; rows: a table's of one place, a strategy each."""
    latency = {row["strategy"]: row["latency_ms"] for row in rows}
    return float(min(latency[name] for name in TP) / latency[of])


def d2d_bound(rows: Sequence[Row], of: str = OURS) -> bool:
    """Whether the busiest link of ``of`` needs longer than DDR and the MAC arrays at their full rates."""
    return any(row["links_over_bound"] > 1 for row in rows if row["strategy"] == of)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Where FSE-DP becomes D2D-bound, and where TP overtakes it."""
    out = []
    places = cells(rows, "d2d_gb", "tokens")
    for (gb, tokens), mine in places.items():
        limited, slower, behind = [], [], []
        behind_tp = [one for one in cells(mine, "model", "ddr_times").values() if speed(one) < 1 - EVEN]
        waits = [row["wait_others_percent"] for one in behind_tp for row in one if row["strategy"] == OURS]
        for some in cells(mine, "model").values():
            by_ddr = cells(some, "ddr_times")
            limited.append(_first(times for (times,), one in by_ddr.items() if d2d_bound(one)))
            slower.append(_first(times for (times,), one in by_ddr.items() if speed(one) < 1 - EVEN))
            behind.append(_first(times for (times,), one in by_ddr.items() if speed(one, ADAPTIVE) < 1 - EVEN))
        out.append(
            Claim(
                "beyond the paper",
                f"{tokens} tokens, D2D {gb} GB/s: the DDR bandwidth from which FSE-DP is limited by D2D, and TP faster",
                f"D2D-bound {_counts(limited)}; TP more than {EVEN:.0%} faster than {OURS} {_counts(slower)}, than "
                f"{ADAPTIVE} {_counts(behind)} (of {len(limited)} models). Where TP is faster, MAC arrays of {OURS} "
                f"wait for transfers and other dies for {min(waits, default=0):.0f} to {max(waits, default=0):.0f} % "
                "of the time",
                "not comparable",
                "The paper does not compare with TP. FSE-DP sends every weight over up to three links, TP only tokens",
            )
        )
    return out


def _first(found: Iterable[int]) -> int | None:
    return min(found, default=None)


def _counts(found: Sequence[int | None]) -> str:
    """From which DDR bandwidth how many models."""
    known = Counter(times for times in found if times is not None)
    parts = [f"from x{times} ({known[times]})" for times in DDR if known[times]]
    never = [f"never ({found.count(None)})"] if None in found else []
    return ", ".join(parts + never)


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
        f"{LAYERS} layers of every model (of its capture with the most tokens, if it has one), evenly spread over it, "
        "one draw or window of tokens, at 64 and 256 tokens; the test chip with its DDR bandwidth x1 to x16 and D2D "
        "links of 144, 288 and 512 GB/s.",
        "D2D-bound: the busiest link is busy for longer than DDR needs for the experts' weights and the MAC arrays for "
        "their work, each at its full rate.",
    ),
)
