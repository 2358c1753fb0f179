"""Strategies: how a layer's work is laid out on a package. One plug-in each."""

from expertstream.strategy.base import Strategy
from expertstream.strategy.plan import Options, Plan
from expertstream.strategy.registry import DEFAULT, get_strategy, strategy_names
from expertstream.strategy.user import blame, check_plan, source_of

__all__ = [
    "DEFAULT",
    "Options",
    "Plan",
    "Strategy",
    "blame",
    "check_plan",
    "get_strategy",
    "source_of",
    "strategy_names",
]
