"""How long each MAC array, DDR channel and D2D link is busy, and what it moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis.sums import totals
from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.engine.timeline import Timeline
from expertstream.units import counted, format_time

Ints = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BusyTimes:
    """For how long the resources of a run are busy, and what they move. Latencies of channels and links occupy nothing.

    Busy times count from the origin of the timeline on (a head start is no part of the latency), bytes from the start.

    Attributes:
        compute_ps: int64 [dies], time for which each MAC array is busy.
        channel_ps, channel_bytes: int64 [channels], time busy and bytes loaded.
        link_ps, link_bytes: int64 [links], directed; headers take time and are not in the bytes. A transfer over
            several hops counts at every link of its path.
        latency_ps: of the run.
    """

    compute_ps: Ints
    channel_ps: Ints
    channel_bytes: Ints
    link_ps: Ints
    link_bytes: Ints
    latency_ps: int

    def __repr__(self) -> str:
        """Of how much, in one line."""
        return (
            f"BusyTimes({counted(self.compute_ps.size, 'die')}, {counted(self.channel_ps.size, 'DDR channel')}, "
            f"{counted(self.link_ps.size, 'directed link')}, in {format_time(self.latency_ps)})"
        )

    @property
    def compute_share(self) -> Shares:
        """Share of the latency for which each MAC array is busy, float64 [dies]."""
        return self.compute_ps / max(self.latency_ps, 1)

    @property
    def channel_share(self) -> Shares:
        """Share of the latency for which each DDR channel is busy, float64 [channels]."""
        return self.channel_ps / max(self.latency_ps, 1)

    @property
    def link_share(self) -> Shares:
        """Share of the latency for which each directed link is busy, float64 [links]."""
        return self.link_ps / max(self.latency_ps, 1)


def measure_busy_times(timeline: Timeline) -> BusyTimes:
    """Busy times and bytes of all resources."""
    network = timeline.network
    busy = timeline.end_ps - timeline.start_ps
    if timeline.origin_ps:
        busy = np.maximum(timeline.end_ps - np.maximum(timeline.start_ps, timeline.origin_ps), 0)
    computes = np.flatnonzero(timeline.kind == COMPUTE)
    loads = np.flatnonzero(timeline.kind == LOAD)
    sends = np.flatnonzero(timeline.kind == SEND)
    n_pairs = network.n_dies * network.n_dies
    pair = timeline.source[sends] * network.n_dies + timeline.die[sends]
    hops = np.diff(network.path_ptr)

    def of_links(values: Ints) -> Ints:
        return totals(network.path_links, np.repeat(totals(pair, values, n_pairs), hops), network.n_links)

    return BusyTimes(
        compute_ps=totals(timeline.resource[computes], busy[computes], network.n_dies),
        channel_ps=totals(timeline.resource[loads], busy[loads], network.n_channels),
        channel_bytes=totals(timeline.resource[loads], timeline.bytes[loads], network.n_channels),
        link_ps=of_links(busy[sends]),
        link_bytes=of_links(timeline.bytes[sends]),
        latency_ps=timeline.latency_ps,
    )
