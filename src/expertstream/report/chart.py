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
from expertstream.report.files import replacing

FORMATS = ("png", "svg", "pdf")
# Okabe and Ito's colours: told apart by readers with colour-blindness and in print
COLOURS = ("#0072B2", "#56B4E9", "#E69F00", "#999999", "#CC79A7", "#009E73", "#D55E00", "#000000", "#F0E442")


def write_chart(rows: Sequence[dict[str, Any]], path: str | os.PathLike[str], *, title: str) -> None:
    """Bars of latency above the lower bound, in per cent, per strategy and number of tokens.

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


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure whose name ends in one of ``FORMATS``; the same figure gives the same bytes.

    Raises:
        ConfigError: the file cannot be written.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    # a fixed salt and no date
    with replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "expertstream"}):
        figure.savefig(temporary, format=kind, dpi=150, metadata=None if kind == "png" else _no_date(kind))


def _no_date(kind: str) -> dict[str, None]:
    return {"Date" if kind == "svg" else "CreationDate": None}


def _draw(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    tokens = list(dict.fromkeys(row["tokens"] for row in rows))
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    above = {(row["tokens"], row["strategy"]): 100 * ((row["gap"] or 1.0) - 1) for row in rows}
    figure = Figure(figsize=(max(7.0, 0.45 * len(tokens) * len(strategies)), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / len(strategies)
    for number, strategy in enumerate(strategies):
        at = [group + (number - (len(strategies) - 1) / 2) * width for group in range(len(tokens))]
        height = [above.get((n, strategy), 0.0) for n in tokens]
        bars = axes.bar(at, height, width * 0.92, label=strategy, color=COLOURS[number % len(COLOURS)])
        axes.bar_label(bars, labels=[f"{value:.1f}" for value in height], fontsize=7, padding=1)
    axes.set_xticks(range(len(tokens)), [str(n) for n in tokens])
    axes.set_xlabel("tokens per iteration")
    axes.set_ylabel("latency above the lower bound (%)")
    axes.set_title("\n".join(textwrap.wrap(title, 90)), fontsize=9)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, ncols=3, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure
