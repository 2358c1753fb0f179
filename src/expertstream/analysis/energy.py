"""Energy and power of a run, from its timeline and a technology profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis.activity import Activity, count_activity
from expertstream.analysis.area import Area, die_area
from expertstream.engine.timeline import Timeline
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.strategy.plan import Plan
from expertstream.workload import LayerWorkload

Floats = NDArray[np.float64]
COMPONENTS: Final = ("mac", "sram", "control", "d2d", "ddr", "leakage")
SCALE: Final = 10**9  # power is summed in whole nW, so that the sum of many starts and ends is exact


@dataclass(frozen=True, eq=False)
class Energy:
    """Energy of a run in pJ; each array is float64 [3]: low, nominal, high.

    All constants of a profile are at their low (high) figure for the low (high) result: a range that holds whichever
    of them are off, not a confidence interval.

    Attributes:
        by_component_pj: of each of ``COMPONENTS``: "mac"; "sram", reads and writes of the buffers; "control", clock,
            control and wires; "d2d"; "ddr", device and interface; "leakage" of all dies for the latency.
        ahead_pj: what of it was spent in a head start, before the time from which the latency counts.
        peak_power_w: largest power at any instant, each activity's energy being spread evenly over its time.
        tokens, latency_ps: of the run.
    """

    by_component_pj: Mapping[str, Floats]
    ahead_pj: Floats
    peak_power_w: Floats
    tokens: int
    latency_ps: int

    @property
    def total_pj(self) -> Floats:
        """Energy of all components."""
        return np.asarray(sum(self.by_component_pj[name] for name in COMPONENTS), dtype=np.float64)

    @property
    def per_token_pj(self) -> Floats:
        """Energy per token of the iteration."""
        return self.total_pj / max(self.tokens, 1)

    @property
    def average_power_w(self) -> Floats:
        """Energy spent in the latency / latency (pJ per ps is W)."""
        return (self.total_pj - self.ahead_pj) / max(self.latency_ps, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; lists are [low, nominal, high]."""
        return {
            "energy_pj": self.total_pj.tolist(),
            "energy_per_token_pj": self.per_token_pj.tolist(),
            "energy_by_component_pj": {name: self.by_component_pj[name].tolist() for name in COMPONENTS},
            "average_power_w": self.average_power_w.tolist(),
            "peak_power_w": self.peak_power_w.tolist(),
        }


def measure_energy(
    workload: LayerWorkload,
    plan: Plan,
    timeline: Timeline,
    technology: Technology,
    area: Area | None = None,
    activity: Activity | None = None,
) -> Energy:
    """Energy of a run: what each activity did (``count_activity``) times the constants of ``technology``.

    Args:
        area: of a die, for its leakage; None: that of the package with the buffers that the plan was given.
        activity: what ``count_activity`` says, where it is known.
    """
    activity = activity or count_activity(workload, plan, timeline)
    model = workload.model
    area = area or die_area(workload.package, technology, model, plan.buffer_bytes)
    leakage_w = len(workload.package.live_dies) * area.leakage_w  # dead dies are taken to be off
    components = energy_by_component(
        technology,
        model,
        macs=_total(activity.macs),
        sram_read_bytes=_total(activity.sram_read_bytes),
        sram_write_bytes=_total(activity.sram_write_bytes),
        d2d_bytes=_total(activity.d2d_bytes),
        ddr_bytes=_total(activity.ddr_bytes),
        leakage_pj=leakage_w * timeline.latency_ps,
    )
    mac = technology.mac(model.weight_bits, model.activation_bits).levels
    return Energy(
        by_component_pj=components,
        ahead_pj=_ahead_pj(timeline, activity, technology, mac),
        peak_power_w=_peak_power_w(timeline, activity, technology, mac) + leakage_w,
        tokens=workload.n_tokens,
        latency_ps=timeline.latency_ps,
    )


def energy_by_component(
    technology: Technology,
    model: MoEModel,
    *,
    macs: int,
    sram_read_bytes: int,
    sram_write_bytes: int,
    d2d_bytes: int,
    ddr_bytes: int,
    leakage_pj: Floats,
) -> dict[str, Floats]:
    """Energy of each of ``COMPONENTS`` in pJ, float64 [3], from what was done (``Activity``, summed)."""
    mac = macs * technology.mac(model.weight_bits, model.activation_bits).levels
    sram = sram_read_bytes * technology.sram_read.levels + sram_write_bytes * technology.sram_write.levels
    return {
        "mac": mac,
        "sram": sram,
        "d2d": 8 * d2d_bytes * technology.link.energy.levels,
        "ddr": 8 * ddr_bytes * technology.dram.energy.levels,
        "control": (mac + sram) * technology.control.levels,
        "leakage": leakage_pj,
    }


def rated_power_w(package: Package, technology: Technology, model: MoEModel, area: Area) -> Floats:
    """Power with every MAC array, link and DDR channel that works at its full rate, W, float64 [3]: low, nominal, high.

    P_compute + P_d2d + P_ddr of the paper's budget (section VI, Fig. 16). P_compute: MACs at the MAC rate, weights
    read at the SRAM bandwidth, control and leakage.
    """
    mac = technology.mac(model.weight_bits, model.activation_bits).levels
    dies = len(package.live_dies)
    read = dies * package.die.sram_bandwidth_bytes_per_s * technology.sram_read.levels
    compute = (package.macs_per_s * mac + read) * (1 + technology.control.levels)
    d2d = 8 * sum(package.live_links.values()) * technology.link.energy.levels
    ddr = 8 * package.ddr_bytes_per_s * technology.dram.energy.levels
    return (compute + d2d + ddr) / 10**12 + dies * area.leakage_w


def _peak_power_w(timeline: Timeline, activity: Activity, technology: Technology, mac: Floats) -> Floats:
    """Peak of the dynamic power, W, float64 [3]."""
    if len(timeline) == 0:
        return np.zeros(3)
    times = np.concatenate((timeline.start_ps, timeline.end_ps))
    order = np.argsort(times, kind="stable")
    last = np.append(np.diff(times[order]) != 0, True)
    duration = np.maximum(timeline.end_ps - timeline.start_ps, 1)
    peak = np.zeros(3)
    for level in range(3):
        power = np.rint(_of_rows_pj(activity, technology, mac, level) / duration * SCALE).astype(np.int64)
        change = np.concatenate((power, -power))[order]
        peak[level] = int(np.cumsum(change)[last].max(initial=0)) / SCALE
    return peak


def _ahead_pj(timeline: Timeline, activity: Activity, technology: Technology, mac: Floats) -> Floats:
    """Dynamic energy before the origin of the timeline, pJ, float64 [3]."""
    early = np.flatnonzero(timeline.start_ps < timeline.origin_ps)
    if early.size == 0:
        return np.zeros(3)
    start, end = timeline.start_ps[early], timeline.end_ps[early]
    share = np.where(end <= timeline.origin_ps, 1.0, (timeline.origin_ps - start) / np.maximum(end - start, 1))
    return np.array([_of_rows_pj(activity, technology, mac, level)[early] @ share for level in range(3)])


def _of_rows_pj(activity: Activity, technology: Technology, mac: Floats, level: int) -> Floats:
    """Dynamic energy of each row of the timeline at one level of the constants, pJ, float64 [rows]."""
    array_pj = activity.macs * mac[level]
    array_pj += activity.sram_read_bytes * technology.sram_read.levels[level]
    array_pj += activity.sram_write_bytes * technology.sram_write.levels[level]
    wires_pj = activity.d2d_bytes * (8 * technology.link.energy.levels[level])
    wires_pj += activity.ddr_bytes * (8 * technology.dram.energy.levels[level])
    return np.asarray(array_pj * (1 + technology.control.levels[level]) + wires_pj, dtype=np.float64)


def _total(values: NDArray[np.int64]) -> int:
    return int(values.sum())
