"""The registry of strategies: the built-in ones and plug-ins of the entry-point group ``expertstream.strategies``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from expertstream.errors import ConfigError, nearest
from expertstream.strategy.ep import plan_ep, plan_ep_streamed
from expertstream.strategy.fse_dp import plan_id_order, plan_naive, plan_paired, plan_rule5
from expertstream.strategy.plan import Options, Plan
from expertstream.strategy.token_ring import plan_token_ring
from expertstream.strategy.tp import plan_tp
from expertstream.workload import LayerWorkload

DEFAULT = "fse-dp-paired"
GROUP = "expertstream.strategies"


@dataclass(frozen=True)
class Strategy:
    """A named way to lay out a layer.

    Attributes:
        plan: turns a workload into work for the engine.
    """

    name: str
    summary: str
    plan: Callable[[LayerWorkload, Options], Plan]


BUILT_IN = (
    Strategy("ep", "experts at home dies, whole experts double-buffered in extra SRAM", plan_ep),
    Strategy("ep-streamed", "experts at home dies, weights in micro-slices, the package's own SRAM", plan_ep_streamed),
    Strategy("tp", "d_ffn split over all dies, tokens gathered, partial sums reduce-scattered", plan_tp),
    Strategy("fse-dp-naive", "phase-wise ring of whole slices (A1)", plan_naive),
    Strategy("fse-dp-naive-tokens", "its dual: slices stay, tokens go round the ring", plan_token_ring),
    Strategy("fse-dp", "micro-slice flow, rules 1 to 4, Algorithm 1, experts in id order (A2)", plan_id_order),
    Strategy("fse-dp-paired", "fse-dp with paired load (A3)", plan_paired),
    Strategy("fse-dp-rule5", "fse-dp-paired with rule 5: micro-slices go to the roomiest die first (A4)", plan_rule5),
)


@cache
def _strategies() -> dict[str, Strategy]:
    found = {s.name: s for s in BUILT_IN}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        strategy = point.load()
        if not isinstance(strategy, Strategy) or strategy.name in found:
            raise ConfigError(
                f"entry point '{point.name}' of group {GROUP} gives {strategy!r}; it must be an "
                "expertstream.Strategy with a name of its own"
            )
        found[strategy.name] = strategy
    return found


def strategy_names() -> list[str]:
    """Names of all strategies, built-in ones first."""
    return list(_strategies())


def get_strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        ConfigError: there is none.
    """
    known = _strategies()
    if name not in known:
        raise ConfigError(f"unknown strategy '{name}'{nearest(name, known)} Available: {', '.join(known)}")
    return known[name]
