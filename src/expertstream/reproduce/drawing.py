"""What the figures share: sizes for print, colours that readers with colour-blindness tell apart, captions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN, PAGE = 3.5, 7.16  # widths of a two-column paper, inches
# Okabe and Ito's colours; opponents are cool, FSE-DP is warm, so that families are told apart without the legend
STYLES: Final[dict[str, tuple[str, str]]] = {  # colour and hatch
    "ep": ("#0072B2", ""),
    "hydra": ("#56B4E9", "//"),
    "tp": ("#000000", ""),
    "tp-per-expert": ("#999999", "\\\\"),
    "fse-dp-naive": ("#F0E442", ""),
    "fse-dp": ("#E69F00", ".."),
    "fse-dp-paired": ("#D55E00", ""),
    "fse-dp-rule5": ("#CC79A7", "xx"),
    "fse-dp-buffered": ("#009E73", "//"),
    "fse-dp-adaptive": ("#009E73", "||"),
}
OTHERS: Final = ("#009E73", "#CC79A7", "#F0E442", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
TITLES: Final = {
    "phi-3.5-moe-paper": "Phi-3.5-MoE (Table I)",
    "yuan2-m32-paper": "Yuan2.0-M32 (Table I)",
    "deepseek-moe-16b": "DeepSeek-MoE-16B",
    "qwen3-30b-a3b": "Qwen3-30B-A3B",
}


def panels(rows: int, cols: int, *, width: float = PAGE, height: float = 1.9, **rest: Any) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows`` x ``cols`` panels, each of ``height`` inches, and the panels row by row."""
    figure = Figure(figsize=(width, height * rows + 0.6), layout="constrained")
    axes = list(figure.subplots(rows, cols, squeeze=False, **rest).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=7)
        one.set_axisbelow(True)
    return figure, axes


def title_of(model: str, trace: str | None = None) -> str:
    """A model's name for a panel; captured routing says so."""
    return TITLES.get(model, model) + (" (captured)" if trace else "")


def style_of(name: str) -> dict[str, Any]:
    """Colour and hatch of a strategy's bars."""
    colour, hatch = STYLES.get(name, (OTHERS[sum(name.encode()) % len(OTHERS)], ""))
    return {"color": colour, "hatch": hatch, "edgecolor": "white"}


def colour_of(name: str) -> str:
    """Colour of a strategy's line."""
    return str(style_of(name)["color"])


def hide_rest(axes: Sequence[Axes], used: int) -> None:
    """Hide the panels that nothing is drawn in."""
    for empty in axes[used:]:
        empty.set_visible(False)


def grouped_bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    label: str = "",
    styles: Mapping[str, str] | None = None,
) -> None:
    """Bars with confidence intervals: for each of ``groups`` one of each series, (value, half interval).

    Args:
        styles: the strategy whose style a series has, where that is not its name.
    """
    width = 0.84 / max(len(series), 1)
    for number, (name, values) in enumerate(series.items()):
        at = [place + (number - (len(series) - 1) / 2) * width for place in range(len(groups))]
        heights, errors = [value for value, _ in values], [half for _, half in values]
        style = style_of((styles or {}).get(name, name))
        axes.bar(at, heights, width * 0.94, yerr=errors, label=name, error_kw={"lw": 0.7}, linewidth=0, **style)
    axes.set_xticks(range(len(groups)), groups)
    if label:
        axes.set_ylabel(label, fontsize=8)


def legend(figure: Figure, axes: Axes, *, cols: int = 5) -> None:
    """One legend for all panels, below them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=cols, fontsize=7, frameon=False)


def caption(figure: Figure, text: str) -> None:
    """A line or two above the panels."""
    width = int(figure.get_figwidth() * 15)
    figure.suptitle("\n".join(textwrap.wrap(text, width)), fontsize=8)
