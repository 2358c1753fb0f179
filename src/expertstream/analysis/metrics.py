"""Everything that one run reports, from its timeline (docs/model.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis.activity import count_activity
from expertstream.analysis.area import Area, die_area
from expertstream.analysis.bounds import Bounds, lower_bounds
from expertstream.analysis.buffers import Buffers, measure_buffers
from expertstream.analysis.busy_times import BusyTimes, measure_busy_times
from expertstream.analysis.energy import Energy, measure_energy, rated_power_w
from expertstream.analysis.stalls import CAUSES, stall_ps
from expertstream.analysis.sums import totals
from expertstream.engine.layout import COMPUTE, LOAD
from expertstream.engine.timeline import Timeline
from expertstream.package.technology import DEFAULT_TECHNOLOGY, Technology
from expertstream.strategy.plan import Plan
from expertstream.units import format_time
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Metrics:
    """Measures of one run.

    Attributes:
        latency_ps: time from the start of the layer to its last output, ps.
        busy: time for which each MAC array, channel and link is busy, ps, and the bytes that channels and links moved.
        buffers: peaks and means, bytes.
        bounds: the lower bounds, ps. passes: passes over the tokens.
        overhead_ps: int64 [dies], time for which a MAC array is busy beyond its MACs at the full rate: control, weights
            that come from SRAM more slowly than they are used, fill and drain of a systolic array.
        stall_ps: int64 [dies, causes], idle time by cause (``CAUSES``).
        given_bytes: int64 [dies, 2], weight and token buffers that the strategy was given.
        live_dies: dies that work.
        lead_ps: head start before the time from which the latency counts. ahead_bytes: weights of which the load began
            in it and that the layer needed. wasted_bytes: loaded from DDR, and not needed (wrong predictions).
        computes: computes that were run; ``n_events``: events that the engine processed.
        technology: name of the profile of ``energy`` (pJ), ``area`` (with the buffers that the strategy was given) and
            ``rated_power_w``, float64 [3], the power with everything at its full rate.
    """

    latency_ps: int
    busy: BusyTimes
    buffers: Buffers
    overhead_ps: Ints
    stall_ps: Ints
    bounds: Bounds
    given_bytes: Ints
    passes: int
    computes: int
    n_events: int
    live_dies: int
    lead_ps: int
    ahead_bytes: int
    wasted_bytes: int
    technology: str
    energy: Energy
    area: Area
    rated_power_w: NDArray[np.float64]

    def __repr__(self) -> str:
        """The main figures, in one line."""
        gap = "no work" if self.gap is None else f"{self.gap:.3f} x lower bound"
        return (
            f"Metrics(latency {format_time(self.latency_ps)}, {gap}, utilisation {100 * self.utilisation:.1f} %; "
            "to_dict() has all)"
        )

    @property
    def utilisation(self) -> float:
        """MACs done / MACs that the dies that work could do in the latency; overhead is no work."""
        return self.bounds.utilisation(self.latency_ps)

    @property
    def times_ps(self) -> Ints:
        """What MAC arrays do with the latency, int64 [dies, 2 + causes]: MACs at the full rate, overhead, stalls."""
        macs = self.busy.compute_ps - self.overhead_ps
        return np.column_stack((macs, self.overhead_ps, self.stall_ps))

    @property
    def overhead(self) -> float:
        """Share of the latency for which MAC arrays are busy with overhead, mean over the dies that work."""
        return float(self.overhead_ps.sum()) / (self.live_dies * max(self.latency_ps, 1))

    @property
    def ddr_bytes(self) -> int:
        """Bytes loaded from DDR."""
        return int(self.busy.channel_bytes.sum())

    @property
    def d2d_bytes(self) -> int:
        """Payload bytes times hops."""
        return int(self.busy.link_bytes.sum())

    @property
    def gap(self) -> float | None:
        """Latency / lower bound; None where there is no work."""
        return self.bounds.gap(self.latency_ps)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; units in the key names. Lists are per die, DDR channel or directed link."""
        stalls = dict(zip(CAUSES, self.stall_ps.T, strict=True))
        return {
            "latency_ps": self.latency_ps,
            "bound_ps": self.bounds.bound_ps,
            "ddr_bound_ps": self.bounds.ddr_ps,
            "compute_bound_ps": self.bounds.compute_ps,
            "d2d_bound_ps": self.bounds.d2d_ps,
            "gap": self.gap,
            "utilisation": self.utilisation,
            "overhead": self.overhead,
            "ddr_bytes": self.ddr_bytes,
            "lead_ps": self.lead_ps,
            "ahead_bytes": self.ahead_bytes,
            "wasted_bytes": self.wasted_bytes,
            "d2d_bytes": self.d2d_bytes,
            "peak_package_bytes": self.buffers.package_peak_both_bytes,
            "peak_package_weight_bytes": int(self.buffers.package_peak_bytes[0]),
            "peak_package_token_bytes": int(self.buffers.package_peak_bytes[1]),
            "mean_package_weight_bytes": float(self.buffers.package_mean_bytes[0]),
            "mean_package_token_bytes": float(self.buffers.package_mean_bytes[1]),
            "peak_weight_bytes": self.buffers.peak_bytes[:, 0].tolist(),
            "peak_token_bytes": self.buffers.peak_bytes[:, 1].tolist(),
            "mean_weight_bytes": self.buffers.mean_bytes[:, 0].tolist(),
            "mean_token_bytes": self.buffers.mean_bytes[:, 1].tolist(),
            "weight_buffer_bytes": self.given_bytes[:, 0].tolist(),
            "token_buffer_bytes": self.given_bytes[:, 1].tolist(),
            "compute_ps": self.busy.compute_ps.tolist(),
            "overhead_ps": self.overhead_ps.tolist(),
            "channel_ps": self.busy.channel_ps.tolist(),
            "channel_bytes": self.busy.channel_bytes.tolist(),
            "link_ps": self.busy.link_ps.tolist(),
            "link_bytes": self.busy.link_bytes.tolist(),
            "stall_ps": {cause: per_die.tolist() for cause, per_die in stalls.items()},
            "passes": self.passes,
            "computes": self.computes,
            "n_events": self.n_events,
            "technology": self.technology,
            **self.energy.to_dict(),
            **self.area.to_dict(),
            "rated_power_w": self.rated_power_w.tolist(),
        }


def measure(workload: LayerWorkload, plan: Plan, timeline: Timeline, technology: Technology | None = None) -> Metrics:
    """Measure a run of ``plan``; ``technology``: default "5nm"."""
    technology = technology or Technology.preset(DEFAULT_TECHNOLOGY)
    busy = measure_busy_times(timeline)
    loads = timeline.kind == LOAD
    activity = count_activity(workload, plan, timeline)
    area = die_area(workload.package, technology, workload.model, plan.buffer_bytes)
    return Metrics(
        latency_ps=timeline.latency_ps,
        busy=busy,
        buffers=measure_buffers(timeline),
        overhead_ps=busy.compute_ps - _at_full_rate_ps(workload, timeline, activity.macs),
        stall_ps=stall_ps(timeline),
        bounds=lower_bounds(workload, timeline),
        given_bytes=plan.buffer_bytes,
        passes=plan.passes,
        computes=int((timeline.kind == COMPUTE).sum()),
        n_events=timeline.n_events,
        live_dies=len(workload.package.live_dies),
        lead_ps=timeline.origin_ps,
        ahead_bytes=int(timeline.bytes[loads & ~timeline.optional & (timeline.start_ps < timeline.origin_ps)].sum()),
        wasted_bytes=int(timeline.bytes[loads & timeline.optional].sum()),
        technology=technology.name,
        energy=measure_energy(workload, plan, timeline, technology, area, activity),
        area=area,
        rated_power_w=rated_power_w(workload.package, technology, workload.model, area),
    )


def _at_full_rate_ps(workload: LayerWorkload, timeline: Timeline, macs: Ints) -> Ints:
    """Time that the MACs of each die take at its full rate, rounded down, int64 [dies]; ``macs`` of each row."""
    die = workload.package.die
    rate = die.macs_per_cycle * die.clock_hz
    done = totals(timeline.die, macs, timeline.network.n_dies).tolist()
    return np.array([n * 10**12 // rate for n in done], dtype=np.int64)
