"""Fig. 18: utilisation on 2x2, 3x3 and 4x4 dies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from expertstream.reproduce import drawing
from expertstream.reproduce.layers import MACS_DONE, SAMPLING, layer_points, layer_row, with_strategies
from expertstream.reproduce.means import cells, mac_percent, mean_of, ratio_of, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study
from expertstream.units import signed

MODEL: Final = "qwen3-30b-a3b"
TOKENS: Final = (64, 256, 1024)
STRATEGIES: Final = ("ep", "hydra", "fse-dp-paired")
LAYOUTS: Final = {  # DDR channels: where, and the packages from small to large
    "DDR on corner dies": ("test-chip-2x2", "3x3", "4x4"),
    "DDR on edge dies": ("test-chip-2x2", "3x3-edge", "4x4-edge"),
}


def points(setting: Setting) -> list[Point]:
    """Every layer on every package."""
    layers = layer_points(setting, tokens=TOKENS, sources={MODEL: None})
    packages = dict.fromkeys(name for names in LAYOUTS.values() for name in names)
    return [point for name in packages for point in with_strategies(layers, STRATEGIES, package=name)]


def table(rows: Sequence[Row]) -> list[Row]:
    """Utilisation and gap of each (layout, package, tokens, strategy), and how much of that on 2x2 is left."""
    found = summary(
        rows,
        ("package", "tokens", "strategy"),
        mac_percent=mac_percent,
        gap=ratio_of("latency_ps", "bound_ps"),
        most_percent=lambda mine: 100 * mean_of("compute_bound_ps")(mine) / mean_of("bound_ps")(mine),
    )
    on_2x2 = {
        (row["tokens"], row["strategy"]): row["mac_percent"] for row in found if row["package"] == "test-chip-2x2"
    }
    return [
        {"layout": layout, "dies": name.removeprefix("test-chip-").removesuffix("-edge")}
        | row
        | {"kept_percent": 100 * row["mac_percent"] / on_2x2[row["tokens"], row["strategy"]]}
        for layout, names in LAYOUTS.items()
        for name in names
        for row in found
        if row["package"] == name
    ]


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per layout and number of tokens; the line is the utilisation at the lower bound of the latency."""
    panels = cells(rows, "layout", "tokens")
    figure, axes = drawing.panels(2, len(panels) // 2)
    for place, ((layout, tokens), mine) in zip(axes, panels.items(), strict=False):
        sizes = cells(mine, "dies")
        series = drawing.bars_of(mine, "strategy", "mac_percent")
        drawing.grouped_bars(place, [dies for (dies,) in sizes], series)
        drawing.lines_across(place, [some[0]["most_percent"] for some in sizes.values()], "at the bound")
        place.set_title(f"{layout}, {tokens} tokens", fontsize=8)
        place.set_ylabel("MACs / peak (%)", fontsize=7)
    drawing.legend(figure, axes[0])
    drawing.caption(
        figure, "Qwen3-30B-A3B: MACs done on larger packages in % of their peak, mean over the layers, 95 % intervals"
    )
    return figure


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What section VI says of larger packages."""
    out = []
    for layout in LAYOUTS:
        on_4x4 = [row for row in rows if row["layout"] == layout and row["dies"] == "4x4"]
        kept = {(row["strategy"], row["tokens"]): row["kept_percent"] for row in on_4x4}
        use = {(row["strategy"], row["tokens"]): row["mac_percent"] for row in on_4x4}
        parts = [", ".join(f"{kept[name, n]:.0f}" for name in STRATEGIES) + f" % at {n} tokens" for n in TOKENS]
        gains = [100 * (use["hydra", n] / use["ep", n] - 1) for n in TOKENS]
        percent = ", ".join(f"{signed(gain, 0)} % at {n} tokens" for gain, n in zip(gains, TOKENS, strict=True))
        least = all(kept["fse-dp-paired", n] >= max(kept["ep", n], kept["hydra", n]) - 0.5 for n in TOKENS)
        out += [
            Claim(
                "VI, Fig. 18",
                "From 2x2 to 4x4 the utilisation of FSE-DP falls least",
                f"{layout}: EP, Hydra, FSE-DP keep {'; '.join(parts)}",
                "agrees" if least else "differs",
                "With DDR on the corners a quarter of the DDR bandwidth is left per die on 4x4: at the bound, where "
                "FSE-DP is on every size up to 256 tokens, nothing more can be kept",
            ),
            Claim(
                "VI-B, Fig. 18",
                "Hydra is better than EP on larger arrays",
                f"{layout}, 4x4: utilisation {percent} against EP",
                "agrees" if min(gains) > 1 else "differs",
                "Hydra saves D2D traffic, which is no bottleneck at 288 GB/s per link while DDR is; our EP has the "
                "best of three placements",
            ),
        ]
    return out


STUDY = Study(
    name="fig18",
    title="Utilisation on 2x2, 3x3 and 4x4 dies",
    section="VI, Fig. 18",
    points=points,
    measure=layer_row,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        *SAMPLING,
        MACS_DONE,
        "Synthetic routing in the place of C4. Two layouts: DDR channels on the four corner dies, as in the paper, and "
        "one on every edge die.",
    ),
)
