"""A page of pictures of a trace: popularity, long tails, co-activation. One file, for a browser without a network."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from expertstream.files import replacing
from expertstream.trace import RoutingTrace
from expertstream.trace.held_out import co_activation
from expertstream.trace.skew import Load, Popularity
from expertstream.trace.statistics import iterations, sample, windows
from expertstream.units import counted

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
TAIL_TOKENS = (16, 64, 256, 1024)
TAIL_WINDOWS = 16
STYLE = """body{margin:0 auto;max-width:1100px;padding:0 24px 48px;font:16px/1.5 system-ui,sans-serif;color:#16191d;
background:#fff}h1{font-size:1.6rem;overflow-wrap:anywhere}h2{margin-top:40px}p{max-width:75ch}table{border-collapse:
collapse}th,td{padding:2px 12px;text-align:right;white-space:nowrap;
vertical-align:bottom;border-bottom:1px solid #c9d0d8}.badge{background:#fff3cd;padding:6px
12px}th{white-space:normal}.scroll{overflow-x:auto}"""


def looked_at(trace: RoutingTrace) -> list[NDArray[np.int64]]:
    """Tokens whose choices the page looks at beside those of the statistics, for ``RoutingTrace.note``."""
    return [w for n in TAIL_TOKENS for w in windows(trace, n, "round-robin", most_windows=TAIL_WINDOWS)]


def write_trace_html(
    trace: RoutingTrace,
    counts: NDArray[np.float64],
    skew: Popularity,
    load: Sequence[Load],
    path: str | os.PathLike[str],
) -> None:
    """Write the page; the same trace gives the same bytes. Raises ConfigError if the file cannot be written.

    Args:
        counts: tokens of each expert at each layer, [layers, E].
    """
    few = sample(trace)
    layers = [str(layer) for layer in trace.layer_index.tolist()]
    middle = len(layers) // 2
    parts = [
        ("Popularity", _popularity_text(skew), _heat(counts / counts.mean(axis=1, keepdims=True), layers)),
        (
            "Long tails",
            "Tokens of each expert in one iteration (one token of each request in turn), experts sorted: "
            "mean over layers and iterations. Dashed: uniform independent routing.",
            _tails(trace),
        ),
        (
            f"Co-activation at layer {layers[middle]}",
            "Correlation of the choices of two experts by the same token. Blue: seldom together, red: often."
            + ("" if few.n_tokens == trace.n_tokens else f" Of {counted(few.n_tokens, 'token')} drawn from all."),
            _together(co_activation(few, middle)),
        ),
    ]
    badge = f'<p class="badge"><strong>SYNTHETIC</strong> {escape(trace.source)}</p>' if trace.synthetic else ""
    title = f"Routing of {trace.model}"
    about = (
        f"{counted(trace.n_tokens, 'token')}, {counted(len(layers), 'layer')}, {counted(trace.n_experts, 'expert')}, "
        f"{trace.top_k} of them per token. Source: {trace.source}."
    )
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>')
        file.write(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">')
        file.write(f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head>\n<body><h1>{escape(title)}</h1>")
        file.write(f"{badge}<p>{escape(about)}</p>{_table(load)}\n")
        for number, (heading, text, figure) in enumerate(parts):
            picture = plotly.io.to_html(
                figure,
                include_plotlyjs=False,
                full_html=False,
                div_id=f"figure-{number}",
                config={"displaylogo": False},
            )
            file.write(f"<section><h2>{escape(heading)}</h2><p>{escape(text)}</p>{picture}</section>\n")
        file.write("<p>Written by expertstream. This page is complete: it loads nothing and sends nothing.</p>")
        file.write('<script>document.documentElement.dataset.ready = "1"</script></body></html>\n')


def _popularity_text(skew: Popularity) -> str:
    return (
        f"Tokens of each expert at each layer, as a multiple of the mean. Gini {skew.gini:.2f}, Zipf exponent "
        f"{skew.zipf_exponent:.2f}, Dirichlet alpha {skew.dirichlet_alpha:.2f}, busiest expert "
        f"{skew.max_over_mean:.1f} times the mean."
    )


def _heat(multiples: Any, layers: list[str]) -> go.Figure:
    figure = go.Figure(go.Heatmap(z=multiples.round(3), y=layers, colorscale="Viridis", colorbar={"title": "x mean"}))
    return _sized(figure, "expert", "layer", 220 + 14 * len(layers)).update_yaxes(type="category", autorange="reversed")


def _tails(trace: RoutingTrace) -> go.Figure:
    figure = go.Figure()
    colours = ("#0072b2", "#d55e00", "#007f5c", "#a8487f")
    rank = np.arange(1, trace.n_experts + 1)
    for tokens, colour in zip(TAIL_TOKENS, colours, strict=True):
        found = [
            _sorted(chosen, trace.n_experts)
            for chosen in iterations(trace, tokens, "round-robin", most_windows=TAIL_WINDOWS)
        ]
        if found:
            scores = np.random.default_rng([0, tokens]).random((16, tokens, trace.n_experts))
            uniform = _sorted(scores.argpartition(trace.top_k - 1, axis=2)[:, :, : trace.top_k], trace.n_experts)
            real = np.mean(found, axis=0).round(3)
            figure.add_scatter(x=rank, y=real, name=f"{tokens} tokens", line={"color": colour})
            dashed = {"color": colour, "dash": "dash", "width": 1}
            figure.add_scatter(x=rank, y=uniform.round(3), name=f"{tokens} tokens, uniform", line=dashed)
    return _sized(figure, "experts, busiest first", "tokens", 460).update_yaxes(type="log")


def _sorted(chosen: Any, e: int) -> Any:
    """Tokens of the experts in falling order, mean over the layers, float64 [E]."""
    return np.mean([np.sort(np.bincount(rows.reshape(-1), minlength=e))[::-1] for rows in chosen], axis=0)


def _together(correlation: Any) -> go.Figure:
    off = correlation.copy()
    np.fill_diagonal(off, np.nan)
    known = np.abs(off[np.isfinite(off)])
    most = float(np.quantile(known, 0.995)) if known.size else 1.0
    drawn = [[None if math.isnan(value) else round(value, 4) for value in row] for row in off.tolist()]
    figure = go.Figure(go.Heatmap(z=drawn, colorscale="RdBu_r", zmin=-most, zmax=most, colorbar={"title": "r"}))
    figure.update_xaxes(constrain="domain")  # squares, without empty axis beside them
    return _sized(figure, "expert", "expert", 640).update_yaxes(
        autorange="reversed", scaleanchor="x", constrain="domain"
    )


def _sized(figure: go.Figure, x: str, y: str, height: int) -> go.Figure:
    margin = {"l": 60, "r": 20, "t": 20, "b": 50}
    return figure.update_layout(template="plotly_white", height=height, margin=margin, xaxis_title=x, yaxis_title=y)


def _table(load: Sequence[Load]) -> str:
    names = ("activated", "uniform_activated", "max_over_mean", "uniform_max_over_mean", "gini", "uniform_gini")
    head = "".join(f"<th>{title}</th>" for title in ("mix", "tokens", *(name.replace("_", " ") for name in names)))
    rows = "".join(
        f"<tr><td>{row.mix}</td><td>{row.tokens}</td>"
        + "".join(f"<td>{getattr(row, n):.3f}</td>" for n in names)
        + "</tr>"
        for row in load
    )
    return (
        f'<h2>Experts of an iteration</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
        "<p>Activated: share of the experts with a token. Uniform: independent routing without preferences.</p>"
    )
