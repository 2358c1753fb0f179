"""Routing traces: captures of a router, or calibrated synthetic ones."""

from expertstream.trace.calibration import Calibration
from expertstream.trace.calibration_file import load_calibration, save_calibration
from expertstream.trace.capture import capture, register_router
from expertstream.trace.fitting import calibrate
from expertstream.trace.held_out import HeldOut, held_out
from expertstream.trace.importers import Imported, import_trace
from expertstream.trace.packaged import packaged_trace
from expertstream.trace.parquet import TraceWriter
from expertstream.trace.routing import Mix, Routing, RoutingTrace
from expertstream.trace.statistics import TraceStatistics, statistics
from expertstream.trace.synthesis import Profile, synthesize

__all__ = [
    "Calibration",
    "HeldOut",
    "Imported",
    "Mix",
    "Profile",
    "Routing",
    "RoutingTrace",
    "TraceStatistics",
    "TraceWriter",
    "calibrate",
    "capture",
    "held_out",
    "import_trace",
    "load_calibration",
    "packaged_trace",
    "register_router",
    "save_calibration",
    "statistics",
    "synthesize",
]
