"""Heat maps of a result over two fields: the feasible region, and the preset as a star (as the paper's Fig. 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from expertstream.errors import ConfigError, nearest
from expertstream.explore.fields import Value
from expertstream.explore.pictures.labels import (
    RED,
    SCALE,
    better_is_more,
    check_column,
    column_label,
    field_label,
    field_text,
    headline,
    put_title,
)
from expertstream.explore.results import Results
from expertstream.explore.rows import Row
from expertstream.explore.spec import SweepSpec

MOST_TICKS: Final = 24  # an axis with more values is cut into parts
PARTS: Final = 12
MOST_PANELS: Final = 6
MOST_NUMBERS: Final = 130  # cells of a panel that have their value written in


@dataclass(frozen=True)
class Axis:
    """A field along an axis: cell i holds the values from ``edges[i]`` (below ``edges[i + 1]``), or value i.

    Attributes:
        ticks: the texts of the cells.
    """

    path: str
    values: tuple[Value, ...]
    ticks: tuple[str, ...]
    edges: tuple[float, ...] = ()

    def cell(self, value: Value) -> int:
        """The cell of a value."""
        if not self.edges:
            return self.values.index(value)
        at = int(np.searchsorted(np.array(self.edges), _number(value), side="right")) - 1
        return min(max(at, 0), len(self.ticks) - 1)

    def place(self, value: Value) -> float | None:
        """Where a value lies, in cells; between two cells if it is between their values. None: outside."""
        if value is None:
            return None
        if self.edges:
            inside = self.edges[0] <= _number(value) <= self.edges[-1]
            return float(np.interp(_number(value), self.edges, np.arange(len(self.edges)) - 0.5)) if inside else None
        if value in self.values:
            return float(self.values.index(value))
        if not all(isinstance(v, (int, float)) for v in (*self.values, value)):
            return None
        numbers, number = [_number(v) for v in self.values], _number(value)
        if not numbers[0] <= number <= numbers[-1]:
            return None
        return float(np.interp(number, numbers, np.arange(len(numbers))))


@dataclass(frozen=True, eq=False)
class Panel:
    """One heat map: float64 [ny, nx] values, NaN where nothing ran, and bool [ny, nx] whether some row is feasible.

    Attributes:
        star: where the preset lies, in cells; None: outside, or there is none. exact: the panel's own field is at the
            preset's value, too.
    """

    title: str
    values: NDArray[np.float64]
    feasible: NDArray[np.bool_]
    star: tuple[float, float] | None
    exact: bool


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Heat maps of ``value`` over the same two axes, a panel for each value of a third field.

    Attributes:
        limited: whether there are limits, so that a feasible region is shown.
    """

    x: Axis
    y: Axis
    value: str
    panels: tuple[Panel, ...]
    title: str
    limited: bool = True


def heat_map(results: Results, x: str | None = None, y: str | None = None, value: str = "utilisation") -> HeatMap:
    """Arrange the rows of two fields.

    Args:
        x, y: fields; default: the two with the most values. A third field of up to ``MOST_PANELS`` values makes panels;
            of further ones the best feasible row is shown (else the best).

    Raises:
        ConfigError: a field that was not varied, no such result, or fewer than two fields.
    """
    check_column(value)
    varied = results.varied()
    if len(varied) < 2:
        raise ConfigError("a heat map needs two fields with two values each; these results vary fewer")
    for option, path in (("--x", x), ("--y", y)):
        if path is not None and path not in varied:
            known = f"{nearest(path, varied) or ';'} varied: {', '.join(varied)}"
            raise ConfigError(f"{option} '{path}' is not varied{known}")
    if x is not None and x == y:
        raise ConfigError(f"--x and --y are both '{x}'; give two fields")
    by_size = sorted((path for path in varied if path not in (x, y)), key=lambda path: -len(varied[path]))
    x = x or by_size.pop(0)
    y = y or by_size.pop(0)
    # panels of a search or of random points would be full of holes
    whole = isinstance(results.spec, SweepSpec) and results.spec.mode == "grid"
    third = next((path for path in by_size if whole and len(varied[path]) <= MOST_PANELS), None)
    rest = [path for path in by_size if path != third]
    across, up = _axis(x, varied[x]), _axis(y, varied[y])
    panels = []
    for of in varied[third] if third else [None]:
        rows = [row for row in results.ran if third is None or row[third] == of]
        preset = None if third is None else results.preset(third)
        star = (across.place(results.preset(x)), up.place(results.preset(y)))
        title = "" if third is None else f"{field_label(third)} {field_text(third, of)}"
        cells, feasible = _cells(rows, across, up, value)
        at = None if star[0] is None or star[1] is None else (star[0], star[1])
        panels.append(Panel(title, cells, feasible, at, preset is None or preset == of))
    best = "largest" if better_is_more(value) else "smallest"
    note = f"; of {', '.join(map(field_label, rest))}: the {best} of the feasible ones" if rest else ""
    binned = " (values in parts)" if across.edges or up.edges else ""
    return HeatMap(across, up, value, tuple(panels), f"{headline(results)}{note}{binned}", bool(results.spec.limits))


def _number(value: Value) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def _axis(path: str, values: Sequence[Value]) -> Axis:
    numbers = [float(v) for v in values if isinstance(v, (int, float))]
    if len(values) <= MOST_TICKS or len(numbers) < len(values):
        return Axis(path, tuple(values), tuple(field_text(path, value) for value in values))
    edges = np.linspace(numbers[0], numbers[-1], PARTS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    return Axis(path, tuple(values), tuple(f"~{field_text(path, float(f'{m:.2g}'))}" for m in middle), tuple(edges))


def _cells(rows: Sequence[Row], x: Axis, y: Axis, value: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    _, factor = column_label(value)
    sign = -1.0 if better_is_more(value) else 1.0
    cells = np.full((len(y.ticks), len(x.ticks)), np.nan)
    feasible = np.zeros(cells.shape, dtype=np.bool_)
    for row in sorted(rows, key=lambda row: (not row["feasible"], sign * (row[value] or 0.0), row["point"])):
        at = y.cell(row[y.path]), x.cell(row[x.path])
        if np.isnan(cells[at]) and row[value] is not None:
            cells[at], feasible[at] = row[value] * factor, row["feasible"]
    return cells, feasible


def draw_heat_map(data: HeatMap) -> Figure:
    """The heat maps as a figure: cells without a feasible row are hatched, the feasible region has a border."""
    n = len(data.panels)
    columns = min(n, 3 if n in (3, 5, 6) else 2)
    lines = -(-n // columns)
    width = max(3.4, 0.42 * len(data.x.ticks)) * columns + 1.6
    height = max(2.6, 0.30 * len(data.y.ticks)) * lines + 1.7
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    known = np.concatenate([panel.values.ravel() for panel in data.panels])
    known = known[~np.isnan(known)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    image: Any = None
    for number, axes in enumerate(grid.ravel()):
        if number >= n:
            axes.set_axis_off()
            continue
        image = _draw_panel(axes, data, data.panels[number], low, high)
    for axes in grid.ravel()[max(n - columns, 0) : n]:  # those with nothing below
        axes.set_xlabel(field_label(data.x.path))
        axes.tick_params(axis="x", labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel(field_label(data.y.path))
    figure.colorbar(image, ax=grid, label=column_label(data.value)[0], shrink=0.9)
    put_title(figure, data.title)
    feasible: list[Any] = [
        Patch(fill=False, edgecolor=RED, linewidth=1.6, label="feasible"),
        Patch(facecolor="white", edgecolor="#999999", hatch="//", label="breaks a limit"),
    ]
    marks = feasible if data.limited else []
    if any(np.isnan(panel.values).any() for panel in data.panels):
        marks.append(Patch(facecolor="white", edgecolor="#999999", label="failed or not run"))
    if any(panel.star for panel in data.panels):
        hollow = "" if all(panel.exact for panel in data.panels) else " (hollow: another value of the panel's field)"
        marks.append(Line2D([], [], marker="*", color="white", markeredgecolor="black", markersize=12, linestyle="",
                            label=f"preset{hollow}"))  # fmt: skip
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)
    return figure


def _draw_panel(axes: Axes, data: HeatMap, panel: Panel, low: float, high: float) -> Any:
    ny, nx = panel.values.shape
    image = axes.imshow(panel.values, origin="lower", cmap=SCALE, vmin=low, vmax=high, aspect="auto")
    for j, i in np.argwhere(~panel.feasible & ~np.isnan(panel.values)).tolist():
        axes.add_patch(
            Rectangle((i - 0.5, j - 0.5), 1, 1, facecolor=(1, 1, 1, 0.6), edgecolor="#999999", linewidth=0, hatch="//")
        )
    if ny * nx <= MOST_NUMBERS:
        for (j, i), cell in np.ndenumerate(panel.values):
            if not np.isnan(cell):
                dark = panel.feasible[j, i] and (cell - low) < 0.55 * max(high - low, 1e-300)
                axes.text(i, j, f"{cell:.3g}", ha="center", va="center", fontsize=6, color="white" if dark else "black")
    for ends in borders(panel.feasible) if data.limited else []:
        axes.plot(*ends, color=RED, linewidth=1.6, solid_capstyle="projecting")
    if panel.star:
        axes.plot(*panel.star, marker="*", markersize=13, markeredgecolor="black", linestyle="",
                  color="white" if panel.exact else "none")  # fmt: skip
    axes.set_xticks(range(nx), data.x.ticks, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(ny), data.y.ticks, fontsize=7)
    axes.set_xlim(-0.5, nx - 0.5)
    axes.set_ylim(-0.5, ny - 0.5)
    axes.set_title(panel.title, fontsize=8)
    return image


def borders(inside: NDArray[np.bool_]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The lines between cells that are ``inside``, bool [ny, nx], and others: ((x, x), (y, y)) in cells."""
    padded = np.pad(inside, 1)
    lines = []
    for j, i in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]).tolist():
        lines.append(((i - 0.5, i - 0.5), (j - 0.5, j + 0.5)))
    for j, i in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]).tolist():
        lines.append(((i - 0.5, i + 0.5), (j - 0.5, j - 0.5)))
    return lines
