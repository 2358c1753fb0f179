"""Lower bounds of a layer's latency, and of the traffic that a strategy chose."""

from __future__ import annotations

from dataclasses import dataclass

from expertstream.analysis.busy_times import measure_busy_times
from expertstream.engine.timeline import Timeline
from expertstream.workload import LayerWorkload


@dataclass(frozen=True)
class Bounds:
    """No run of the layer is faster than ``bound_ps``, under any strategy; the D2D bound is the strategy's own.

    What the bounds leave out: latencies, headers, rounding up of transfers and computes, SRAM bandwidth, control
    overhead and array fill, weights that a later pass loads again, idle MAC arrays before the first weights are there,
    and that what is loaded last is computed after it.

    Attributes:
        ddr_ps: bytes of the activated experts, each once / bandwidth of all DDR channels (efficiency included); without
            what a head start can have loaded at most: what the channels carry in it, or all weight buffers together.
        compute_ps: MACs / MAC rate of all dies that work.
        d2d_ps: busy time of the busiest directed link, from the origin of the timeline on.
    """

    ddr_ps: int
    compute_ps: int
    d2d_ps: int

    @property
    def bound_ps(self) -> int:
        """The larger of the DDR and the compute bound."""
        return max(self.ddr_ps, self.compute_ps)

    def gap(self, latency_ps: int) -> float | None:
        """Latency / lower bound; None where there is no work."""
        return latency_ps / self.bound_ps if self.bound_ps else None

    def utilisation(self, latency_ps: int) -> float:
        """MACs done / MACs that all dies that work could do in the latency: the compute bound over the latency."""
        return self.compute_ps / max(latency_ps, 1)


def lower_bounds(workload: LayerWorkload, timeline: Timeline) -> Bounds:
    """Bounds of a layer on the network that it ran on."""
    ddr_bytes = int(workload.expert_bytes[workload.activated].sum())
    bandwidth = int(timeline.network.channel_bandwidth.sum())
    rate = workload.package.macs_per_s
    ahead = min(bandwidth * timeline.origin_ps, int(timeline.network.buffer_bytes[:, 0].sum()) * 10**12)
    return Bounds(
        ddr_ps=-(-max(ddr_bytes * 10**12 - ahead, 0) // bandwidth),
        compute_ps=-(-workload.macs * 10**12 // rate),
        d2d_ps=int(measure_busy_times(timeline).link_ps.max(initial=0)),
    )
