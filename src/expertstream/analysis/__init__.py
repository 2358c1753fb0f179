"""What a timeline says: buffers, busy times of resources, stalls, lower bounds, energy; and what a design takes."""

from expertstream.analysis.activity import Activity, count_activity
from expertstream.analysis.area import AREA_COMPONENTS, Area, Budget, die_area
from expertstream.analysis.bounds import Bounds, lower_bounds
from expertstream.analysis.buffers import Buffers, measure_buffers, occupancy
from expertstream.analysis.busy_times import BusyTimes, measure_busy_times
from expertstream.analysis.energy import COMPONENTS, Energy, energy_by_component, measure_energy, rated_power_w
from expertstream.analysis.metrics import Metrics, measure
from expertstream.analysis.stalls import CAUSES, stall_ps
from expertstream.analysis.windows import Windows, busy_in_windows, links_of_sends, macs_in_windows

__all__ = [
    "AREA_COMPONENTS",
    "CAUSES",
    "COMPONENTS",
    "Activity",
    "Area",
    "Bounds",
    "Budget",
    "Buffers",
    "BusyTimes",
    "Energy",
    "Metrics",
    "Windows",
    "busy_in_windows",
    "count_activity",
    "die_area",
    "energy_by_component",
    "links_of_sends",
    "lower_bounds",
    "macs_in_windows",
    "measure",
    "measure_buffers",
    "measure_busy_times",
    "measure_energy",
    "occupancy",
    "rated_power_w",
    "stall_ps",
]
