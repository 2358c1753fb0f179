"""How far each strategy is from the lower bound, as a picture."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from expertstream.errors import ConfigError
from expertstream.files import replacing
from expertstream.units import counted

FORMATS = ("png", "svg", "pdf")
# two of Okabe and Ito's colours: told apart by readers with colour-blindness and in print
FASTEST, OTHERS = "#D55E00", "#56B4E9"
EVEN = 1.0  # strategies within so many per cent of the bound from the fastest one are marked with it


def write_chart(rows: Sequence[dict[str, Any]], path: str | os.PathLike[str], *, title: str) -> None:
    """Bars of latency above the lower bound, in per cent: a panel for each number of tokens, a bar for each strategy.

    Args:
        rows: of ``Comparison.by_tokens``. path: a .png, .svg or .pdf file. title: shown above the picture.

    Raises:
        ConfigError: no rows, another kind of file, or it cannot be written.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise ConfigError(f"'{path}' is not a name for a chart; it must end in one of: .{', .'.join(FORMATS)}")
    if not rows:
        raise ConfigError("there is nothing to draw: the comparison has no rows")
    save_figure(_draw(rows, title), path)


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure whose name ends in one of ``FORMATS``; the same figure gives the same bytes.

    Raises:
        ConfigError: the file cannot be written.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    # a fixed salt and no date
    with replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "expertstream"}):
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=None if kind == "png" else _no_date(kind))


def _no_date(kind: str) -> dict[str, None]:
    return {"Date" if kind == "svg" else "CreationDate": None}


def _draw(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    tokens = list(dict.fromkeys(row["tokens"] for row in rows))
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    above = {(row["tokens"], row["strategy"]): 100 * ((row["gap"] or 1.0) - 1) for row in rows}
    figure = Figure(figsize=(2.0 + 2.0 * max(len(tokens), 2), 1.6 + 0.24 * len(strategies)), layout="constrained")
    panels = figure.subplots(1, len(tokens), sharey=True, squeeze=False)[0]
    for n, axes in zip(tokens, panels, strict=True):
        values = [above.get((n, strategy)) for strategy in strategies]
        best = min(value for value in values if value is not None)
        colours = [FASTEST if value is not None and value <= best + EVEN else OTHERS for value in values]
        bars = axes.barh(range(len(values)), [value or 0.0 for value in values], 0.72, color=colours)
        labels = ["not run" if value is None else f"{value:.1f}" for value in values]
        for text, colour in zip(axes.bar_label(bars, labels=labels, fontsize=8, padding=2), colours, strict=True):
            text.set_fontweight("bold" if colour == FASTEST else "normal")
        axes.set_title(counted(n, "token"), fontsize=9)
        axes.set_xlim(0, 1.3 * max(*(value or 0.0 for value in values), 1.0))
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(strategies)), strategies, fontsize=8)
    panels[0].invert_yaxis()
    figure.supxlabel(
        f"latency above the lower bound (%); bold and orange: within {EVEN:g} point of the fastest", fontsize=9
    )
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=9)
    return figure
