"""Parallel coordinates: a line per design through its fields and objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from expertstream.errors import ConfigError
from expertstream.explore.pictures.labels import GREY, SCALE, column_label, field_label, field_text, headline, put_title
from expertstream.explore.pictures.pareto import wide
from expertstream.explore.results import Results

MOST_LINES: Final = 2000
MOST_TICKS: Final = 9


@dataclass(frozen=True, eq=False)
class Coordinate:
    """One axis: its label, float64 [n] places of the designs from 0 to 1, and ticks as (place, text)."""

    label: str
    places: NDArray[np.float64]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, eq=False)
class Parallel:
    """Designs as lines.

    Attributes:
        coordinates: the varied fields, then the objectives.
        feasible: bool [n]. colour: float64 [n], the first objective, called ``colour_label``.
    """

    coordinates: tuple[Coordinate, ...]
    feasible: NDArray[np.bool_]
    colour: NDArray[np.float64]
    colour_label: str
    title: str


def parallel(results: Results) -> Parallel:
    """Arrange the rows; of more than ``MOST_LINES``, the feasible ones that are best at the first objective.

    Raises:
        ConfigError: no field has two values, or no row ran.
    """
    ways = results.objectives()
    first, way = next(iter(ways.items()))
    varied = results.varied()
    rows = [row for row in results.ran if all(row[name] is not None for name in ways)]
    if not varied or not rows:
        raise ConfigError("parallel coordinates need a field with two values, and rows that ran")
    sign = 1.0 if way == "minimize" else -1.0
    rows.sort(key=lambda row: (not row["feasible"], sign * row[first], row["point"]))
    left_out = max(len(rows) - MOST_LINES, 0)
    rows = rows[:MOST_LINES]
    coordinates = []
    for path, values in varied.items():
        if len(values) <= MOST_TICKS or not all(isinstance(value, (int, float)) for value in values):
            at = {value: i / (len(values) - 1) for i, value in enumerate(values)}
            places = np.array([at[row[path]] for row in rows])
            ticks = tuple((place, field_text(path, value)) for value, place in at.items())
            coordinates.append(Coordinate(field_label(path), places, ticks))
        else:
            numbers = np.array([float(row[path]) for row in rows])
            coordinates.append(_numeric(field_label(path), numbers, lambda value, path=path: field_text(path, value)))
    for name in ways:
        label, factor = column_label(name)
        coordinates.append(_numeric(label, np.array([row[name] * factor for row in rows]), lambda v: f"{v:.3g}"))
    label, factor = column_label(first)
    return Parallel(
        coordinates=tuple(coordinates),
        feasible=np.array([row["feasible"] for row in rows], dtype=np.bool_),
        colour=np.array([row[first] * factor for row in rows], dtype=np.float64),
        colour_label=label,
        title=headline(results) + (f"; {left_out} slower or infeasible ones left out" if left_out else ""),
    )


def _numeric(label: str, values: NDArray[np.float64], text: object) -> Coordinate:
    assert callable(text)
    low, high = float(values.min()), float(values.max())
    if wide(values):
        at = np.geomspace(low, high, 5)
        places = np.log(values / low) / np.log(high / low)
    else:
        at = np.linspace(low, high, 5)
        places = (values - low) / ((high - low) or 1.0)
    shown = at if high > low else at[:1]
    return Coordinate(label, places, tuple((i / 4, text(float(f"{value:.3g}"))) for i, value in enumerate(shown)))


def draw_parallel(data: Parallel) -> Figure:
    """Lines of feasible designs in the colour of the first objective, of the others in grey behind them."""
    n = len(data.coordinates)
    figure = Figure(figsize=(1.55 * n + 1.5, 4.6), layout="constrained")
    axes = figure.subplots()
    places = np.stack([coordinate.places for coordinate in data.coordinates], axis=1)
    lines = np.stack((np.broadcast_to(np.arange(n), places.shape), places), axis=2)
    inside = data.feasible if data.feasible.any() else ~data.feasible
    norm = Normalize(float(data.colour[inside].min()), float(data.colour[inside].max()))
    axes.add_collection(LineCollection(list(lines[~inside]), colors=GREY, linewidths=0.5, alpha=0.25))
    best_last = np.flatnonzero(inside)[::-1]
    colours = colormaps[SCALE](norm(data.colour[best_last]))
    axes.add_collection(LineCollection(list(lines[best_last]), colors=colours, linewidths=0.9, alpha=0.8))
    for i, coordinate in enumerate(data.coordinates):
        axes.axvline(i, color="black", linewidth=0.8)
        for place, text in coordinate.ticks:
            axes.annotate(text, (i, place), xytext=(3, 0), textcoords="offset points", fontsize=6.5, va="center",
                          bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})  # fmt: skip
    axes.set_xticks(range(n), [coordinate.label.replace(" (", "\n(") for coordinate in data.coordinates], fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(-0.1, n - 0.4)
    axes.set_ylim(-0.04, 1.04)
    axes.spines[:].set_visible(False)
    figure.colorbar(ScalarMappable(norm, SCALE), ax=axes, label=data.colour_label, fraction=0.03, pad=0.01)
    few = "; grey: a limit is broken" if not data.feasible.all() else ""
    put_title(figure, f"{data.title}{few}")
    return figure
