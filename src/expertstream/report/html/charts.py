"""Charts as SVG that need no script: steps over time, histograms, stacked bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

WIDTH, HEIGHT = 760, 190
LEFT, RIGHT, TOP, BOTTOM = 74, 12, 10, 26
Show = Callable[[float], str]


def steps(
    name: str,
    edges: Sequence[float],
    curves: Sequence[tuple[str, str, Sequence[float]]],
    show_x: Show,
    show_y: Show,
    *,
    base: int = 10,
) -> str:
    """Values that hold from one edge to the next.

    Args:
        name: of the chart, unique in the page. edges: one more than each curve has values.
        curves: for each its title, its class (a colour of the page), and its values from 0 on.
        base: 2 for round numbers of bytes.
    """
    top = max((max(values, default=0) for _, _, values in curves), default=0)
    frame = _Frame(edges[0], edges[-1], top, show_x, show_y, base=base)
    paths = []
    for title, ink, values in curves:
        way = f"M{frame.x(edges[0]):.1f} {frame.y(values[0]):.1f}"
        for start, end, value in zip(edges[:-1], edges[1:], values, strict=True):
            way += f"L{frame.x(start):.1f} {frame.y(value):.1f}H{frame.x(end):.1f}"
        paths.append(f'<path class="{ink}" d="{way}"><title>{escape(title)}</title></path>')
    return _figure(name, frame, "".join(paths), [(title, ink) for title, ink, _ in curves])


def histogram(
    name: str, edges: Sequence[float], counts: Sequence[int], show_x: Show, marks: Sequence[tuple[str, float]] = ()
) -> str:
    """How many values lie in each range; ``marks`` are named places on the axis."""
    frame = _Frame(edges[0], edges[-1], max(counts), show_x, lambda n: f"{n:g}", counts=True)
    bars = []
    for start, end, n in zip(edges[:-1], edges[1:], counts, strict=True):
        x, width = frame.x(start), max(1.0, frame.x(end) - frame.x(start) - 1)
        text = f"{show_x(start)} to {show_x(end)}: {n}"
        bars.append(
            f'<rect class="compute" x="{x:.1f}" y="{frame.y(n):.1f}" width="{width:.1f}" '
            f'height="{frame.y(0) - frame.y(n):.1f}"><title>{escape(text)}</title></rect>'
        )
    for title, at in marks:
        x = frame.x(at)
        late = x > LEFT + 0.75 * (WIDTH - LEFT - RIGHT)
        bars.append(
            f'<path class="mark" d="M{x:.1f} {TOP}V{frame.y(0):.1f}"/><text class="{"end" if late else "start"}" '
            f'x="{x + (-4 if late else 4):.1f}" y="{TOP + 10}">{escape(title)}</text>'
        )
    return _figure(name, frame, "".join(bars), [])


def stacks(name: str, rows: Sequence[Sequence[float]], parts: Sequence[tuple[str, str]], show_y: Show) -> str:
    """A bar for each of ``rows``, numbered from 0, of one value for each of ``parts`` (title, class)."""
    frame = _Frame(0, len(rows), max((sum(row) for row in rows), default=0), lambda x: f"{x:g}", show_y, whole=True)
    bars = []
    for number, row in enumerate(rows):
        below = 0.0
        for (title, ink), value in zip(parts, row, strict=True):
            if value > 0:
                x, y = frame.x(number) + 1, frame.y(below + value)
                bars.append(
                    f'<rect class="{ink}" x="{x:.1f}" y="{y:.1f}" width="{frame.x(number + 1) - x:.1f}" '
                    f'height="{frame.y(below) - y:.1f}"><title>{number}: {escape(title)}, '
                    f"{escape(show_y(value))}</title></rect>"
                )
            below += value
    used = [part for at, part in enumerate(parts) if any(row[at] > 0 for row in rows)]
    return _figure(name, frame, "".join(bars), used)


class _Frame:
    """Axes: from ``first`` to ``last`` along x (``whole``: numbers of bars), from 0 to ``top`` along y (``counts``)."""

    def __init__(
        self,
        first: float,
        last: float,
        top: float,
        show_x: Show,
        show_y: Show,
        *,
        whole: bool = False,
        counts: bool = False,
        base: int = 10,
    ) -> None:
        self.first, self.last, self.top = first, max(last, first + 1), top or 1
        self.show_x, self.show_y, self.whole, self.counts, self.base = show_x, show_y, whole, counts, base

    def x(self, value: float) -> float:
        return LEFT + (value - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)

    def svg(self) -> str:
        parts = []
        for value in _ticks(0, self.top, 4, self.base):
            if self.counts and value % 1:
                continue
            y = self.y(value)
            label = escape(self.show_y(value) if value else "0")
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{label}</text>')
        before = ""
        for value in _ticks(self.first, self.last - self.whole, 6):
            label = escape(self.show_x(value) if value else "0")
            if (self.whole and value % 1) or label == before:  # so close together that they read alike
                continue
            before = label
            x = self.x(value + 0.5 * self.whole)
            end = x > WIDTH - RIGHT - 30
            parts.append(f'<text class="{"end" if end else ""}" x="{x:.1f}" y="{HEIGHT - 8}">{label}</text>')
        return "".join(parts)


def _ticks(first: float, last: float, most: int, base: int = 10) -> list[float]:
    """Round numbers from ``first`` to ``last``, at most about ``most`` of them."""
    least = (last - first) / most
    if least <= 0:
        return [first]
    power = float(base) ** math.floor(math.log(least, base))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return [step * n for n in range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)]


def _figure(name: str, frame: _Frame, content: str, legend: Sequence[tuple[str, str]]) -> str:
    ident = "chart-" + "".join(c if c.isalnum() else "-" for c in name.lower())
    keys = "".join(f'<li class="{ink}">{escape(title)}</li>' for title, ink in legend)
    listed = f'<ul class="legend">{keys}</ul>' if len(legend) > 1 else ""
    return f"""<figure class="chart">
<h4 id="{ident}">{escape(name)}</h4>
{listed}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{ident}">
{frame.svg()}{content}
</svg>
</figure>
"""
