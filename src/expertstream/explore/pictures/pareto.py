"""Pareto plots: every design in the plane of two objectives, and how fast a search found the front."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from expertstream.errors import ConfigError
from expertstream.explore.pareto import front
from expertstream.explore.pictures.labels import (
    BLUE,
    GREY,
    RED,
    column_label,
    field_label,
    field_text,
    headline,
    put_title,
)
from expertstream.explore.results import Results
from expertstream.explore.rows import Row

MOST_PAIRS = 6


@dataclass(frozen=True, eq=False)
class ParetoPlot:
    """Designs and their objectives.

    Attributes:
        objectives: result columns. values: float64 [n, objectives], in the units that are drawn.
        feasible, best: bool [n]; ``best``: no feasible design is as good in all objectives and better in one.
        history: hypervolume after each trial of a search, empty otherwise. texts: what each design is.
    """

    objectives: tuple[str, ...]
    values: NDArray[np.float64]
    feasible: NDArray[np.bool_]
    best: NDArray[np.bool_]
    history: tuple[float, ...]
    texts: tuple[str, ...]
    title: str

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of objectives that are drawn."""
        return list(itertools.combinations(range(len(self.objectives)), 2))[:MOST_PAIRS]


def pareto_plot(results: Results) -> ParetoPlot:
    """Arrange the rows of a search by its objectives, of a sweep by latency, energy and die area.

    Raises:
        ConfigError: fewer than two objectives, or no row that ran.
    """
    ways = results.objectives()
    if len(ways) < 2:
        raise ConfigError("a Pareto plot needs two objectives; this search has one")
    rows = [row for row in results.ran if all(row[name] is not None for name in ways)]
    if not rows:
        raise ConfigError("no point ran, so there is nothing to draw")
    raw = np.array([[row[name] for name in ways] for row in rows], dtype=np.float64)
    signs = np.array([1.0 if way == "minimize" else -1.0 for way in ways.values()])
    feasible = np.array([row["feasible"] for row in rows], dtype=np.bool_)
    best = np.zeros(feasible.size, dtype=np.bool_)
    at = np.flatnonzero(feasible)
    best[at[front(raw[at] * signs)]] = True
    factors = np.array([column_label(name)[1] for name in ways])
    return ParetoPlot(
        objectives=tuple(ways),
        values=raw * factors,
        feasible=feasible,
        best=best,
        history=tuple(results.history),
        texts=tuple(describe(row, list(results.spec.fields)) for row in rows),
        title=headline(results),
    )


def describe(row: Row, fields: Sequence[str]) -> str:
    """The varied fields of a row in words."""
    return ", ".join(f"{field_label(path)} {field_text(path, row[path])}" for path in fields)


def draw_pareto(data: ParetoPlot) -> Figure:
    """A panel for each pair of objectives, and for a search one of the hypervolume over its trials."""
    n = len(data.pairs) + bool(data.history)
    columns = min(n, 2 if n in (2, 4) else 3)
    lines = -(-n // columns)
    figure = Figure(figsize=(4.2 * columns, 3.5 * lines + 0.7), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    kinds = (
        (~data.feasible, GREY, 10, "breaks a limit"),
        (data.feasible & ~data.best, BLUE, 12, "feasible"),
        (data.best, RED, 26, "best trade-offs"),
    )
    for axes, (a, b) in zip(grid, data.pairs, strict=False):
        for chosen, colour, size, label in kinds:
            x, y = data.values[chosen, a], data.values[chosen, b]
            axes.scatter(x, y, s=size, color=colour, label=label, linewidths=0)
        for at, set_label, set_scale in ((a, axes.set_xlabel, axes.set_xscale), (b, axes.set_ylabel, axes.set_yscale)):
            set_label(column_label(data.objectives[at])[0])
            if wide(data.values[:, at]):
                set_scale("log")
        axes.grid(alpha=0.25)
    if data.history:
        axes = grid[len(data.pairs)]
        axes.plot(range(1, len(data.history) + 1), data.history, color=BLUE, drawstyle="steps-post")
        axes.set_xlabel("trials")
        axes.set_ylabel("hypervolume (share of the box)")
        axes.set_ylim(0, max(1.0, *data.history))
        axes.grid(alpha=0.25)
    for axes in grid[n:]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    put_title(figure, data.title)
    return figure


def wide(values: NDArray[np.float64]) -> bool:
    """Whether values span so much that a logarithmic axis shows them better."""
    return bool(values.min() > 0 and values.max() > 20 * values.min())
