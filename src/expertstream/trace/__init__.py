"""Routing traces: captures of a router, or calibrated synthetic ones."""

from expertstream.trace.packaged import packaged_trace
from expertstream.trace.routing import Mix, Routing, RoutingTrace
from expertstream.trace.statistics import TraceStatistics, statistics
from expertstream.trace.synthesis import Profile, synthesize

__all__ = [
    "Mix",
    "Profile",
    "Routing",
    "RoutingTrace",
    "TraceStatistics",
    "packaged_trace",
    "statistics",
    "synthesize",
]
