"""Strategies: how a layer's work is laid out on a package. One plug-in each."""

from expertstream.strategy.plan import Options, Plan
from expertstream.strategy.registry import DEFAULT, Strategy, get_strategy, strategy_names

__all__ = ["DEFAULT", "Options", "Plan", "Strategy", "get_strategy", "strategy_names"]
