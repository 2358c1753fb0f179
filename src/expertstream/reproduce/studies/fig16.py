"""Fig. 16: design space under limits of area and power, Qwen3 at 64 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expertstream.analysis import Budget
from expertstream.analysis.area import die_area
from expertstream.analysis.energy import rated_power_w
from expertstream.model import MoEModel
from expertstream.package.technology import Technology
from expertstream.reproduce import drawing
from expertstream.reproduce.layers import (
    MACS_DONE,
    SAMPLING,
    layer_points,
    layer_row,
    one_layer_per_seed,
    package_of,
    with_strategies,
)
from expertstream.reproduce.means import cells, mac_percent, mean_of, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study
from expertstream.units import signed

MODEL: Final = "qwen3-30b-a3b"
TOKENS: Final = 64
GB, MIB = 10**9, 2**20
DDR: Final = (12.8, 25.6, 48, 96, 192, 256, 384)  # GB/s per die
BUFFER: Final = (2, 4, 8, 14, 16, 24)  # MiB of weights per die
D2D: Final = (128, 288, 512, 1024)  # GB/s per directed link
STATED_BUFFER, STATED_D2D = 14, 288
TARGET: Final = 60  # per cent
LEVELS: Final = ("low", "nominal", "high")
BUDGET: Final = Budget()


def points(setting: Setting) -> list[Point]:
    """DDR bandwidth x buffer at 288 GB/s of D2D, and DDR bandwidth x D2D at 14 MiB; a layer of each seed."""
    layers = one_layer_per_seed(layer_points(setting, tokens=(TOKENS,), sources={MODEL: None}))
    designs = [(ddr, buffer, STATED_D2D) for ddr in DDR for buffer in BUFFER]
    designs += [(ddr, STATED_BUFFER, d2d) for ddr in DDR for d2d in D2D if d2d != STATED_D2D]
    return [
        point
        for ddr, buffer, d2d in designs
        for point in with_strategies(
            layers,
            ("fse-dp-paired",),
            changes={
                "channels.bandwidth": round(ddr * GB),
                "die.weight_buffer": buffer * MIB,
                "d2d.bandwidth": d2d * GB,
            },
        )
    ]


def measure(point: Point) -> Row:
    """The layer's measures with the design's area and rated power, [low, nominal, high]."""
    package, technology = package_of(point), Technology.preset("5nm")
    model = MoEModel.preset(point["model"])
    area = die_area(package, technology, model)
    power = rated_power_w(package, technology, model, area)
    return layer_row(point) | {
        "area_mm2": area.total_mm2.tolist(),
        "power_w": power.tolist(),
        "fits": BUDGET.holds(area, power),
    }


def table(rows: Sequence[Row]) -> list[Row]:
    """A row per design: utilisation, gap, area, power, and whether they are within limits."""
    plain = [
        row
        | {
            "ddr_gb_per_s": row["changes"]["channels.bandwidth"] / GB,
            "buffer_mib": row["changes"]["die.weight_buffer"] // MIB,
            "d2d_gb_per_s": row["changes"]["d2d.bandwidth"] // GB,
        }
        for row in rows
    ]
    by = ("ddr_gb_per_s", "buffer_mib", "d2d_gb_per_s")
    out = summary(
        plain,
        by,
        mac_percent=mac_percent,
        latency_ms=mean_of("latency_ps", 1e-9),
        bound_ms=mean_of("bound_ps", 1e-9),
    )
    some = cells(plain, *by)
    for row in out:
        design = some[tuple(row[name] for name in by)][0]
        for at, level in enumerate(LEVELS):
            row |= {f"area_mm2_{level}": design["area_mm2"][at], f"power_w_{level}": design["power_w"][at]}
            row[f"fits_{level}"] = design["fits"][at]
        row["gap"] = row["latency_ms"] / row["bound_ms"]
    return out


def draw(rows: Sequence[Row]) -> Figure:
    """Utilisation over DDR bandwidth and buffer, and over DDR and D2D bandwidth; area and power with their ranges."""
    figure, axes = drawing.panels(2, 2, height=2.2)
    by_buffer = [row for row in rows if row["d2d_gb_per_s"] == STATED_D2D]
    by_d2d = [row for row in rows if row["buffer_mib"] == STATED_BUFFER]
    _map(axes[0], by_buffer, "buffer_mib", "weight buffer (MiB per die)", f"D2D {STATED_D2D} GB/s")
    _map(axes[1], by_d2d, "d2d_gb_per_s", "D2D (GB/s per link)", f"buffer {STATED_BUFFER} MiB")
    stated = [row for row in by_buffer if row["ddr_gb_per_s"] == 48]
    links = [row for row in by_d2d if row["ddr_gb_per_s"] == 48]
    _range(axes[2], stated, "buffer_mib", "area_mm2", f"D2D {STATED_D2D} GB/s")
    axes[2].axhline(BUDGET.area_mm2, color="black", lw=0.9)
    axes[2].set_xlabel("weight buffer (MiB per die)", fontsize=7)
    axes[2].set_ylabel("area of a die (mm²)", fontsize=8)
    for d2d, colour, aside in zip((128, 512), ("#009E73", "#D55E00"), (-0.3, 0.3), strict=True):
        low, middle, high = (next(r for r in links if r["d2d_gb_per_s"] == d2d)[f"area_mm2_{x}"] for x in LEVELS)
        error, label = [[middle - low], [high - middle]], f"D2D {d2d} GB/s"
        axes[2].errorbar(
            [STATED_BUFFER + aside], [middle], yerr=error, color=colour, marker="o", ms=3, lw=1, label=label
        )
    axes[2].legend(fontsize=6, frameon=False)
    fixed = [row for row in by_buffer if row["buffer_mib"] == STATED_BUFFER]
    _range(axes[3], fixed, "ddr_gb_per_s", "power_w", f"{STATED_BUFFER} MiB, D2D {STATED_D2D} GB/s")
    axes[3].axhline(BUDGET.power_w, color="black", lw=0.9)
    axes[3].set_xlabel("DDR (GB/s per die)", fontsize=7)
    axes[3].set_ylabel("rated power (W)", fontsize=8)
    axes[3].legend(fontsize=6, frameon=False)
    drawing.caption(
        figure,
        f"Qwen3-30B-A3B, {TOKENS} tokens, 2x2: MACs done in % of the peak (below 30 mm² and 60 W: bold at all "
        "constants, italic at some, grey at none), area and power from low to high constants",
    )
    return figure


def _map(axes: Axes, rows: Sequence[Row], y: str, label: str, title: str) -> None:
    of = {(row["ddr_gb_per_s"], row[y]): row for row in rows}
    texts = {at: _text(row["mac_percent"], [row[f"fits_{level}"] for level in LEVELS]) for at, row in of.items()}
    values = {at: row["mac_percent"] for at, row in of.items()}
    drawing.heat_map(axes, values, texts, cmap="cividis", least=0, most=100)
    axes.set_xlabel("DDR (GB/s per die)", fontsize=7)
    axes.set_ylabel(label, fontsize=8)
    axes.set_title(title, fontsize=8)


def _text(percent: float, fits: Sequence[bool]) -> dict[str, Any]:
    style = {"weight": "bold"} if all(fits) else {"style": "italic"} if any(fits) else {}
    light = percent > 60
    colour = ("#555555" if light else "#BBBBBB") if not any(fits) else ("black" if light else "white")
    return {"s": f"{percent:.0f}", "fontsize": 7, "color": colour, **style}


def _range(axes: Axes, rows: Sequence[Row], x: str, value: str, label: str) -> None:
    at, colour = [row[x] for row in rows], "#0072B2"
    low, middle, high = ([row[f"{value}_{level}"] for row in rows] for level in LEVELS)
    axes.plot(at, middle, color=colour, marker="o", ms=3, lw=1.2, label=label)
    axes.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What section VI says of the design space."""
    of = {(row["ddr_gb_per_s"], row["buffer_mib"], row["d2d_gb_per_s"]): row for row in rows}
    stated = of[48, 16, STATED_D2D]
    enough = [row for row in rows if row["mac_percent"] > TARGET]
    ddr = min((row["ddr_gb_per_s"] for row in enough), default=None)
    least = min((row["buffer_mib"] for row in enough if row["ddr_gb_per_s"] == ddr), default=None)
    fits = [level for level in LEVELS if any(row[f"fits_{level}"] for row in enough)]
    step = f"{ddr:g} GB/s, with {least} MiB, is our first step above {TARGET} %" if enough else "no step is above"
    area = "{area_mm2_nominal:.0f} ({area_mm2_low:.0f} to {area_mm2_high:.0f}) mm2 and {power_w_nominal:.0f} "
    area += "({power_w_low:.0f} to {power_w_high:.0f}) W"
    within = f"within both limits at {', '.join(fits)} constants" if fits else "not within both limits at any constants"
    few, many = (of[48, STATED_BUFFER, d2d]["mac_percent"] for d2d in (288, 512))
    return [
        Claim(
            "VI, Fig. 16",
            "Above 60 % utilisation needs at least 48 GB/s of DDR per die and 16 MB of buffer",
            f"{stated['mac_percent']:.0f} % there, {stated['gap']:.2f} x the lower bound; {step}",
            "agrees" if ddr == 48 and least in (14, 16) else "differs",
            "At 64 tokens each activated expert is fetched for a few tokens: DDR sets the latency, and utilisation "
            "cannot exceed compute time / DDR time, whatever the schedule",
        ),
        Claim(
            "VI, Fig. 16",
            "Such designs are within 30 mm2 per die and 60 W per package",
            f"48 GB/s and 16 MiB: {area.format(**stated)}; designs above {TARGET} % are {within}",
            "agrees" if "nominal" in fits else "differs",
            "Area follows from UCIe modules and SRAM, whose published constants differ by a factor of up to 8; power "
            "from DDR's energy per bit at the bandwidth that 60 % needs",
        ),
        Claim(
            "VI, Fig. 16",
            "With 14 MB, D2D of up to 512 GB/s is needed",
            f"512 instead of 288 GB/s changes utilisation by {signed(many - few)} points at 48 GB/s of DDR",
            "agrees" if many - few > 1 else "differs",
            "D2D is no bottleneck: a micro-slice passes three links for each time that it is loaded, and a link has 6 "
            "times the bandwidth of a DDR channel even at 48 GB/s",
        ),
    ]


STUDY = Study(
    name="fig16",
    title="Design space under limits of area and power",
    section="VI, Fig. 16",
    points=points,
    measure=measure,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        SAMPLING[0],
        "One layer of each seed, from the middle of its share, synthetic routing in the place of C4.",
        "Area: ceil(BW_d2d / BW_module) A_module per link + A_compute + A_buffer + other logic; power: P_compute + "
        "P_d2d + P_ddr at full rate; constants of the technology profile 5nm, all low, nominal, or high at once "
        "(docs/energy.md). 4 MiB of tokens per die come on top of the weight buffer.",
        MACS_DONE,
        "Buffers of the paper in MB are taken as MiB of weights.",
    ),
)
