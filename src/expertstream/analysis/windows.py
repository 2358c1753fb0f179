"""How busy every resource is in equal windows of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.engine.timeline import Timeline

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Windows:
    """Busy times in n windows; summed over the windows they are those of ``BusyTimes``, exactly.

    Attributes:
        edges_ps: int64 [n + 1], from the origin of the timeline to its end; windows differ by at most one picosecond.
        compute_ps: int64 [dies, n]. channel_ps: int64 [channels, n]. link_ps: int64 [links, n], directed.
    """

    edges_ps: Ints
    compute_ps: Ints
    channel_ps: Ints
    link_ps: Ints


def busy_in_windows(timeline: Timeline, n: int) -> Windows:
    """Cut the run into ``n`` windows (fewer if it is shorter than that many picoseconds, one if it takes no time)."""
    edges = _edges(timeline, n)
    network = timeline.network
    computes, loads = (np.flatnonzero(timeline.kind == kind) for kind in (COMPUTE, LOAD))
    rows, links = links_of_sends(timeline)
    return Windows(
        edges_ps=edges,
        compute_ps=_busy(timeline, computes, timeline.die[computes], network.n_dies, edges),
        channel_ps=_busy(timeline, loads, timeline.resource[loads], network.n_channels, edges),
        link_ps=_busy(timeline, rows, links, network.n_links, edges),
    )


def macs_in_windows(timeline: Timeline, macs: Ints, n: int) -> NDArray[np.float64]:
    """MACs of each die in the windows of ``busy_in_windows``, float64 [dies, n].

    Args:
        macs: of each row of the timeline, int64 [rows] (``Activity``); a compute does them evenly over its time.
    """
    edges = _edges(timeline, n)
    out = np.zeros((timeline.network.n_dies, edges.size - 1))
    for die in range(out.shape[0]):
        mine = np.flatnonzero((timeline.kind == COMPUTE) & (timeline.die == die))  # sorted and without overlap
        if mine.size:
            times = np.column_stack((timeline.start_ps[mine], timeline.end_ps[mine])).reshape(-1)
            done = np.repeat(np.concatenate(([0], np.cumsum(macs[mine]))), 2)[1:-1]
            out[die] = np.diff(np.interp(edges, times, done))
    return out


def links_of_sends(timeline: Timeline) -> tuple[Ints, Ints]:
    """Every link that a send occupies: rows of the timeline, ascending, and link numbers along each path, int64."""
    network = timeline.network
    sends = np.flatnonzero(timeline.kind == SEND)
    pair = timeline.source[sends] * network.n_dies + timeline.die[sends]
    first, hops = network.path_ptr[pair], np.diff(network.path_ptr)[pair]
    nth = np.arange(int(hops.sum())) - np.repeat(np.cumsum(hops) - hops, hops)
    return np.repeat(sends, hops), network.path_links[np.repeat(first, hops) + nth]


def _edges(timeline: Timeline, n: int) -> Ints:
    n = max(1, min(n, timeline.latency_ps))
    edges = timeline.latency_ps // n * np.arange(n + 1, dtype=np.int64)
    edges += timeline.latency_ps % n * np.arange(n + 1, dtype=np.int64) // n  # in two steps: no product above int64
    return edges + timeline.origin_ps


def _busy(timeline: Timeline, rows: Ints, resource: Ints, n: int, edges: Ints) -> Ints:
    out = np.zeros((n, edges.size - 1), dtype=np.int64)
    for number in range(n):
        mine = rows[resource == number]  # a resource serves one activity at a time: sorted and without overlap
        start, end = timeline.start_ps[mine], timeline.end_ps[mine]
        before = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(end - start)))
        at = np.searchsorted(end, edges, side="right")  # activities that have ended
        running = np.zeros(edges.size, dtype=np.int64)
        some = at < start.size
        running[some] = np.maximum(edges[some] - start[at[some]], 0)
        out[number] = np.diff(before[at] + running)
    return out
