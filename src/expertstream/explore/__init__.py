"""Explore designs: sweeps, searches and recommendations, on one core or a cluster."""

from expertstream.explore.executors import Executor, make_executor
from expertstream.explore.recommend import Recommendation, recommend
from expertstream.explore.search import Search, search
from expertstream.explore.spec import SearchSpec, SweepSpec, load_search, load_sweep
from expertstream.explore.sweep import Sweep, sweep

__all__ = [
    "Executor",
    "Recommendation",
    "Search",
    "SearchSpec",
    "Sweep",
    "SweepSpec",
    "load_search",
    "load_sweep",
    "make_executor",
    "recommend",
    "search",
    "sweep",
]
