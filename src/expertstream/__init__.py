"""Simulate and compare Mixture-of-Experts layers on multi-chiplet packages."""

from expertstream.interrupts import importing as _importing

with _importing():
    from expertstream.comparison import Comparison, compare
    from expertstream.errors import ExpertStreamError
    from expertstream.model import MoEModel
    from expertstream.package import Package
    from expertstream.package.technology import Technology
    from expertstream.simulate import Result, simulate
    from expertstream.strategy import Options, Plan, Strategy, strategy_names
    from expertstream.trace import (
        Routing,
        RoutingTrace,
        TraceWriter,
        calibrate,
        capture,
        import_trace,
        packaged_trace,
        register_router,
        synthesize,
    )

__all__ = [
    "Comparison",
    "ExpertStreamError",
    "MoEModel",
    "Options",
    "Package",
    "Plan",
    "Result",
    "Routing",
    "RoutingTrace",
    "Strategy",
    "Technology",
    "TraceWriter",
    "calibrate",
    "capture",
    "compare",
    "import_trace",
    "packaged_trace",
    "register_router",
    "simulate",
    "strategy_names",
    "synthesize",
]
