"""What the figures share: sizes for print, colours that readers with colour-blindness tell apart, captions."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expertstream.reproduce.means import cells
from expertstream.reproduce.study import Row

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


def by_model(
    rows: Sequence[Row], fill: Callable[[Axes, Sequence[Row]], None], *, xlabel: str, text: str, legend_cols: int = 5
) -> Figure:
    """A panel per model, into which ``fill`` draws the model's rows.

    Args:
        text: the caption. legend_cols: columns of the legend for all panels; 0: none.
    """
    models = cells(rows, "model")
    figure, axes = panels(-(-len(models) // 2), 2)
    for place, ((model,), mine) in zip(axes, models.items(), strict=False):
        fill(place, mine)
        place.set_title(title_of(model, "captured" if mine[0].get("captured") else None), fontsize=8)
        place.set_xlabel(xlabel, fontsize=7)
    hide_rest(axes, len(models))
    if legend_cols:
        legend(figure, axes[0], cols=legend_cols)
    caption(figure, text)
    return figure


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


def bars_of(rows: Sequence[Row], series: str, value: str) -> dict[str, list[tuple[float, float]]]:
    """(value, half interval) of the rows, by the column ``series``; for ``grouped_bars``."""
    return {
        name: [(row[value], row[f"{value}_half_interval"]) for row in some]
        for (name,), some in cells(rows, series).items()
    }


def lines_across(axes: Axes, values: Sequence[float], label: str) -> None:
    """A line across each group of ``grouped_bars``."""
    for at, value in enumerate(values):
        axes.hlines(value, at - 0.46, at + 0.46, color="black", lw=0.9, label=label if at == 0 else "")


def heat_map(
    axes: Axes,
    values: Mapping[tuple[float, float], float | None],
    texts: Mapping[tuple[float, float], dict[str, Any]],
    *,
    cmap: str,
    least: float,
    most: float,
) -> None:
    """A coloured cell for each (x, y), blank where the value is None, with a text.

    Args:
        texts: of each cell, as arguments of ``Axes.text``: ``s``, ``color`` and the like.
    """
    xs, ys = (sorted({at[axis] for at in values}) for axis in (0, 1))
    grid = np.array([[np.nan if (value := values[x, y]) is None else value for x in xs] for y in ys])
    axes.imshow(grid, origin="lower", aspect="auto", cmap=cmap, vmin=least, vmax=most)
    for (x, y), text in texts.items():
        axes.text(xs.index(x), ys.index(y), ha="center", va="center", **text)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])


def legend(figure: Figure, axes: Axes, *, cols: int = 5) -> None:
    """One legend for all panels, below them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=cols, fontsize=7, frameon=False)


def caption(figure: Figure, text: str) -> None:
    """A line or two above the panels."""
    width = int(figure.get_figwidth() * 15)
    figure.suptitle("\n".join(textwrap.wrap(text, width)), fontsize=8)
