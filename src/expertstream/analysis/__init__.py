"""What a timeline says: buffers, use of resources, stalls, lower bounds."""

from expertstream.analysis.bounds import Bounds, lower_bounds
from expertstream.analysis.buffers import Buffers, measure_buffers, occupancy
from expertstream.analysis.metrics import Metrics, measure
from expertstream.analysis.stalls import CAUSES, stall_ps
from expertstream.analysis.utilisation import Utilisation, measure_utilisation
from expertstream.analysis.windows import Windows, busy_in_windows, links_of_sends

__all__ = [
    "CAUSES",
    "Bounds",
    "Buffers",
    "Metrics",
    "Utilisation",
    "Windows",
    "busy_in_windows",
    "links_of_sends",
    "lower_bounds",
    "measure",
    "measure_buffers",
    "measure_utilisation",
    "occupancy",
    "stall_ps",
]
