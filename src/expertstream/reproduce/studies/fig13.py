"""Fig. 13: what four dies do over time: receive, load from DDR, compute, send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.engine.timeline import Timeline
from expertstream.reproduce import drawing
from expertstream.reproduce.layers import SAMPLING, layer_points, simulated, with_strategies
from expertstream.reproduce.means import cells
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study

MODEL: Final = "qwen3-30b-a3b"
TOKENS: Final = 256
FROM, TO = 0.40, 0.43  # the part of the run that is drawn
LANES: Final = ("receive", "DDR load", "compute", "send")
COLOURS: Final = ("#56B4E9", "#E69F00", "#D55E00", "#0072B2")


def points(setting: Setting) -> list[Point]:
    """The layer in the middle of the model."""
    layers = layer_points(setting, tokens=(TOKENS,), sources={MODEL: None})
    return with_strategies([layers[len(layers) // 2]], ("fse-dp-paired",))


def measure(point: Point) -> Row:
    """Activities in the part that is drawn, as [die, lane, start, end] in ps, and busy shares of the whole run."""
    result = simulated(point)
    timeline, dies = result.timeline, result.workload.package.n_dies
    first, last = (round(share * result.latency_ps) for share in (FROM, TO))
    rows: list[list[int]] = []
    shares = np.zeros((dies, len(LANES)))
    both = np.zeros(dies)
    for die in range(dies):
        busy = [_merged(timeline, die, lane) for lane in range(len(LANES))]
        shares[die] = [float((spans[:, 1] - spans[:, 0]).sum()) / result.latency_ps for spans in busy]
        both[die] = _overlap(busy[1], busy[2]) / result.latency_ps
        for lane, spans in enumerate(busy):
            inside = spans[(spans[:, 1] > first) & (spans[:, 0] < last)]
            rows += [[die, lane, max(start, first), min(end, last)] for start, end in inside.tolist()]
    return {
        "activities": rows,
        "shares": shares.tolist(),
        "load_and_compute": both.tolist(),
        "latency_ps": result.latency_ps,
        "gap": result.metrics.gap,
    }


def _merged(timeline: Timeline, die: int, lane: int) -> NDArray[np.int64]:
    """Times for which a die does what ``LANES[lane]`` says, int64 [n, 2], ascending and without overlap."""
    kind = timeline.kind
    mine = [
        (kind == SEND) & (timeline.die == die),
        (kind == LOAD) & (timeline.die == die),
        (kind == COMPUTE) & (timeline.die == die),
        (kind == SEND) & (timeline.source == die),
    ][lane]
    spans = np.stack((timeline.start_ps[mine], timeline.end_ps[mine]), axis=1)
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    if lane in (1, 2) or not len(spans):  # one at a time: each is drawn by itself
        return spans
    reached = np.maximum.accumulate(spans[:, 1])
    begins = np.flatnonzero(np.append(True, spans[1:, 0] > reached[:-1]))
    return np.stack((spans[begins, 0], reached[np.append(begins[1:] - 1, len(spans) - 1)]), axis=1)


def _overlap(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Time within both of two sets of spans that do not overlap one another."""
    edges = np.unique(np.concatenate((a.ravel(), b.ravel())))
    inside = [
        np.searchsorted(s[:, 0], edges[:-1], "right") > np.searchsorted(s[:, 1], edges[:-1], "right") for s in (a, b)
    ]
    return int(np.diff(edges)[inside[0] & inside[1]].sum())


def table(rows: Sequence[Row]) -> list[Row]:
    """A row per activity drawn; busy shares of the die over the whole run in each."""
    row = rows[0]
    return [
        {
            "die": die,
            "activity": LANES[lane],
            "start_us": start / 1e6,
            "end_us": end / 1e6,
            "busy_percent": 100 * row["shares"][die][lane],
            "loads_under_compute_percent": 100 * row["load_and_compute"][die] / max(row["shares"][die][2], 1e-12),
            "layer": row["layer"],
            "latency_us": row["latency_ps"] / 1e6,
            "gap": row["gap"],
        }
        for die, lane, start, end in row["activities"]
    ]


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per die, a lane per activity."""
    dies = cells(rows, "die")
    figure, axes = drawing.panels(len(dies), 1, height=1.0, sharex=True)
    for place, ((die,), mine) in zip(axes, dies.items(), strict=True):
        for lane, (name, colour) in enumerate(zip(LANES, COLOURS, strict=True)):
            spans = [(row["start_us"], row["end_us"] - row["start_us"]) for row in mine if row["activity"] == name]
            place.broken_barh(spans, (-lane - 0.4, 0.8), facecolor=colour, edgecolor="white", linewidth=0.25)
        busy = {row["activity"]: row["busy_percent"] for row in mine}
        place.set_yticks(
            [-lane for lane in range(len(LANES))], [f"{n} {busy.get(n, 0):.0f} %" for n in LANES], fontsize=6
        )
        place.set_ylabel(f"die {die}", fontsize=8)
    axes[-1].set_xlim(min(row["start_us"] for row in rows), max(row["end_us"] for row in rows))
    axes[-1].set_xlabel("time in the layer (µs)", fontsize=8)
    drawing.caption(
        figure,
        f"Qwen3-30B-A3B, {TOKENS} tokens, layer {rows[0]['layer']}, fse-dp-paired: a part of "
        f"{rows[0]['latency_us']:.0f} µs ({rows[0]['gap']:.2f} x lower bound); per cent: busy over the whole layer",
    )
    return figure


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What the figure shows."""
    busy = {name: [row["busy_percent"] for row in rows if row["activity"] == name] for name in LANES}
    hidden = [row["loads_under_compute_percent"] for row in rows]
    return [
        Claim(
            "VI, Fig. 13",
            "Receiving, loading, computing and sending go on at the same time on every die",
            f"DDR busy {min(busy['DDR load']):.0f} %, MAC arrays {min(busy['compute']):.0f} % of the layer; "
            f"{min(hidden):.0f} to {max(hidden):.0f} % of the compute time runs while the die loads",
            "agrees" if min(hidden) > 90 else "differs",
            "DDR is the bottleneck: it is never idle, and compute hides behind it, rather than the reverse",
        )
    ]


STUDY = Study(
    name="fig13",
    title="Activity timeline of four dies",
    section="VI, Fig. 13",
    points=points,
    measure=measure,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        *SAMPLING[:1],
        f"One layer in the middle of the model, {TOKENS} tokens; the paper does not say which run it shows.",
        "Receive and send: at least one of the die's links is busy.",
    ),
)
