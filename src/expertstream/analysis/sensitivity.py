"""How much each constant of a technology profile moves a run's energy, area and power."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from expertstream.analysis.activity import count_activity
from expertstream.analysis.area import die_area
from expertstream.analysis.energy import measure_energy, rated_power_w
from expertstream.engine.timeline import Timeline
from expertstream.package.technology import Technology
from expertstream.strategy.plan import Plan
from expertstream.workload import LayerWorkload

OUTPUTS: Final = ("energy_pj", "die_area_mm2", "rated_power_w")


@dataclass(frozen=True)
class Swing:
    """What one constant does: a result with the constant at its low and at its high end, all others nominal.

    Attributes:
        constant: its dotted name, such as "memory.ddr3.energy". confidence: "high", "medium" or "low".
        low, high: the result, in the unit of ``OUTPUTS``; low may exceed high (a faster module takes less area).
    """

    constant: str
    confidence: str
    low: float
    high: float


def sensitivity(
    workload: LayerWorkload, plan: Plan, timeline: Timeline, technology: Technology
) -> tuple[Mapping[str, float], Mapping[str, tuple[Swing, ...]]]:
    """Vary each constant alone over its range; the schedule stays, as no constant decides a time.

    Returns:
        The nominal value of each of ``OUTPUTS``, and for each the constants that move it, widest swing first.
    """

    activity = count_activity(workload, plan, timeline)

    def values(profile: Technology) -> dict[str, float]:
        area = die_area(workload.package, profile, workload.model, plan.buffer_bytes)
        energy = measure_energy(workload, plan, timeline, profile, area, activity)
        power = rated_power_w(workload.package, profile, workload.model, area)
        return {"energy_pj": energy.total_pj[1], "die_area_mm2": area.total_mm2[1], "rated_power_w": power[1]}

    nominal = values(technology)
    swings: dict[str, list[Swing]] = {name: [] for name in OUTPUTS}
    for path, constant in technology.constants():
        low, high = (values(technology.replace(**{path: end})) for end in (constant.low, constant.high))
        for name in OUTPUTS:
            if low[name] != nominal[name] or high[name] != nominal[name]:
                swings[name].append(Swing(path, constant.confidence, float(low[name]), float(high[name])))
    width: Callable[[Swing], tuple[float, str]] = lambda swing: (-abs(swing.high - swing.low), swing.constant)  # noqa: E731
    return {n: float(v) for n, v in nominal.items()}, {n: tuple(sorted(swings[n], key=width)) for n in OUTPUTS}
