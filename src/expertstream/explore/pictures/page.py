"""The same pictures as one interactive page: everything is in the file, nothing is loaded."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import singledispatch
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from expertstream.analysis.sensitivity import OUTPUTS
from expertstream.explore.pictures.heatmap import HeatMap, borders
from expertstream.explore.pictures.labels import BLUE, GREY, ORANGE, RED, SCALE, column_label, field_label
from expertstream.explore.pictures.parallel import Parallel
from expertstream.explore.pictures.pareto import ParetoPlot, wide
from expertstream.explore.pictures.tornado import BRACKETS, MOST_BARS, Tornado, swing_text
from expertstream.files import replacing

Data = HeatMap | ParetoPlot | Parallel | Tornado


def write_page(pictures: Sequence[tuple[str, Data]], path: Path, title: str) -> None:
    """Write named pictures as one HTML file that works offline. Raises ConfigError if it cannot be written."""
    parts = []
    for number, (name, data) in enumerate(pictures):
        figure = interactive(data)
        figure.update_layout(template="plotly_white", title={"text": _wrapped(data.title), "font": {"size": 13}})
        text = plotly.io.to_html(
            figure,
            include_plotlyjs=number == 0,
            full_html=False,
            div_id=f"picture-{name}",
            config={"displaylogo": False, "responsive": True, "plotlyServerURL": ""},
        )
        parts.append(f"<section>\n{text}\n</section>\n")
    head = f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title></head>\n'
    with replacing(path) as temporary:
        temporary.write_text(f"{head}<body>\n{''.join(parts)}</body>\n</html>\n", encoding="utf-8")


def _wrapped(text: str) -> str:
    return "<br>".join(escape(line) for line in textwrap.wrap(text, 120))


@singledispatch
def interactive(data: Any) -> Any:
    """The plotly figure of a picture's data."""
    raise TypeError(type(data).__name__)


@interactive.register
def _(data: HeatMap) -> Any:
    n = len(data.panels)
    columns = min(n, 2)
    lines = -(-n // columns)
    titles = [escape(panel.title) for panel in data.panels]
    figure = make_subplots(lines, columns, subplot_titles=titles, shared_yaxes=True,
                           horizontal_spacing=0.05, vertical_spacing=0.1)  # fmt: skip
    label, _ = column_label(data.value)
    x, y = list(range(len(data.x.ticks))), list(range(len(data.y.ticks)))
    for number, panel in enumerate(data.panels):
        at = {"row": number // columns + 1, "col": number % columns + 1}
        texts = [
            [
                f"{field_label(data.x.path)} {data.x.ticks[i]}<br>{field_label(data.y.path)} {data.y.ticks[j]}<br>"
                f"{label} {panel.values[j, i]:.4g}<br>{'feasible' if panel.feasible[j, i] else 'breaks a limit'}"
                for i in x
            ]
            for j in y
        ]
        cells = [[None if np.isnan(v) else float(v) for v in line] for line in panel.values]
        figure.add_trace(
            go.Heatmap(x=x, y=y, z=cells, text=texts, hoverinfo="text", coloraxis="coloraxis", xgap=1, ygap=1), **at
        )
        pale = [[None if panel.feasible[j, i] or np.isnan(panel.values[j, i]) else 1 for i in x] for j in y]
        grey = [[0, "rgba(255,255,255,0.6)"], [1, "rgba(255,255,255,0.6)"]]
        figure.add_trace(go.Heatmap(x=x, y=y, z=pale, colorscale=grey, showscale=False, hoverinfo="skip"), **at)
        lines_x: list[float | None] = []
        lines_y: list[float | None] = []
        for ends_x, ends_y in borders(panel.feasible) if data.limited else []:
            lines_x += [*ends_x, None]
            lines_y += [*ends_y, None]
        edge = {"color": RED, "width": 2.5}
        figure.add_trace(go.Scatter(x=lines_x, y=lines_y, mode="lines", line=edge, hoverinfo="skip", name="feasible",
                                    showlegend=number == 0), **at)  # fmt: skip
        if panel.star:
            mark = {"symbol": "star" if panel.exact else "star-open", "size": 15, "color": "white" if panel.exact else
                    "black", "line": {"color": "black", "width": 1.2}}  # fmt: skip
            star_x, star_y = panel.star
            figure.add_trace(go.Scatter(x=[star_x], y=[star_y], mode="markers", marker=mark, name="preset",
                                        showlegend=number == 0), **at)  # fmt: skip
    figure.update_xaxes(tickvals=x, ticktext=list(data.x.ticks), showticklabels=False, zeroline=False)
    figure.update_yaxes(tickvals=y, ticktext=list(data.y.ticks), zeroline=False)
    for number in range(max(n - columns, 0), n):  # those with nothing below
        at = {"row": number // columns + 1, "col": number % columns + 1}
        figure.update_xaxes(title_text=field_label(data.x.path), showticklabels=True, **at)
    for line in range(lines):
        figure.update_yaxes(title_text=field_label(data.y.path), row=line + 1, col=1)
    bar = {"title": {"text": label, "side": "right"}}
    legend = {"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "x": 1, "xanchor": "right"}
    height = max(300, 22 * len(y) + 100) * lines + 120
    return figure.update_layout(coloraxis={"colorscale": SCALE, "colorbar": bar}, height=height, legend=legend)


@interactive.register
def _(data: ParetoPlot) -> Any:
    n = len(data.pairs) + bool(data.history)
    columns = min(n, 2)
    lines = -(-n // columns)
    figure = make_subplots(lines, columns, vertical_spacing=0.14)
    kinds = (
        (~data.feasible, GREY, 5, "breaks a limit"),
        (data.feasible & ~data.best, BLUE, 6, "feasible"),
        (data.best, RED, 9, "best trade-offs"),
    )
    texts = np.array(data.texts, dtype=object)
    for number, (a, b) in enumerate(data.pairs):
        at = {"row": number // columns + 1, "col": number % columns + 1}
        for chosen, colour, size, name in kinds:
            figure.add_trace(
                go.Scatter(
                    x=data.values[chosen, a].tolist(), y=data.values[chosen, b].tolist(), mode="markers", name=name,
                    marker={"color": colour, "size": size}, text=texts[chosen].tolist(), legendgroup=name,
                    hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>", showlegend=number == 0,
                ),
                **at,
            )  # fmt: skip
        for objective, update in ((a, figure.update_xaxes), (b, figure.update_yaxes)):
            scale = "log" if wide(data.values[:, objective]) else "linear"
            update(title_text=column_label(data.objectives[objective])[0], type=scale, **at)
    if data.history:
        at = {"row": (n - 1) // columns + 1, "col": (n - 1) % columns + 1}
        trials = list(range(1, len(data.history) + 1))
        line = {"color": BLUE, "shape": "hv"}
        figure.add_trace(go.Scatter(x=trials, y=list(data.history), mode="lines", line=line, showlegend=False,
                                    hovertemplate="trial %{x}: %{y:.4f}<extra></extra>"), **at)  # fmt: skip
        figure.update_xaxes(title_text="trials", **at)
        figure.update_yaxes(title_text="hypervolume (share of the box)", rangemode="tozero", **at)
    return figure.update_layout(height=420 * lines + 80)


@interactive.register
def _(data: Parallel) -> Any:
    axes = [
        {
            "label": escape(coordinate.label),
            "values": coordinate.places.tolist(),
            "range": [0, 1],
            "tickvals": [place for place, _ in coordinate.ticks],
            "ticktext": [escape(text) for _, text in coordinate.ticks],
        }
        for coordinate in data.coordinates
    ]
    feasible = {"label": "feasible", "values": data.feasible.astype(int).tolist(), "range": [0, 1], "tickvals": [0, 1],
                "ticktext": ["no", "yes"]}  # fmt: skip
    line = {"color": data.colour.tolist(), "colorscale": SCALE, "showscale": True,
            "colorbar": {"title": {"text": data.colour_label, "side": "right"}}}  # fmt: skip
    figure = go.Figure(go.Parcoords(dimensions=[*axes, feasible], line=line))
    return figure.update_layout(height=520, margin={"t": 110, "l": 90})


@interactive.register
def _(data: Tornado) -> Any:
    shown = [name for name in OUTPUTS if data.swings[name]]
    figure = make_subplots(1, len(shown), horizontal_spacing=0.24)
    most = max(len(data.swings[name]) for name in shown)
    for number, name in enumerate(shown):
        label, factor = column_label(name)
        middle = data.nominal[name] * factor
        swings = data.swings[name][: 2 * MOST_BARS]
        names = [swing_text(swing) for swing in swings]
        for end, colour in (("low", BLUE), ("high", ORANGE)):
            ends = [getattr(swing, end) * factor for swing in swings]
            figure.add_trace(
                go.Bar(
                    y=names, x=[value - middle for value in ends], base=middle, orientation="h", customdata=ends,
                    marker={"color": colour}, name=f"at its {end} end", legendgroup=end, showlegend=number == 0,
                    hovertemplate="%{y}: %{customdata:.4g}<extra></extra>",
                ),
                row=1, col=number + 1,
            )  # fmt: skip
        figure.update_xaxes(title_text=f"{label}; nominal {middle:.4g}", row=1, col=number + 1)
    figure.update_yaxes(autorange="reversed", automargin=True)
    text = "<br>".join(textwrap.wrap(f"the constant, {BRACKETS}", 28))
    legend = {"title": {"text": text, "font": {"size": 11}}}
    return figure.update_layout(barmode="overlay", height=30 * min(most, 2 * MOST_BARS) + 200, legend=legend)
