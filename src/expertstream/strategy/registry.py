"""The registry of strategies: the built-in ones and plug-ins of the entry-point group ``expertstream.strategies``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, wraps
from importlib.metadata import EntryPoint, entry_points

from expertstream.errors import ConfigError, nearest
from expertstream.strategy.adaptive import plan_adaptive
from expertstream.strategy.base import Strategy
from expertstream.strategy.ep import placements, plan_ep, plan_ep_replicated, plan_ep_streamed, plan_hydra
from expertstream.strategy.fse_dp import plan_id_order, plan_naive, plan_paired, plan_rule5
from expertstream.strategy.plan import Options, Plan
from expertstream.strategy.prefetch import PlanOf, prefetching
from expertstream.strategy.token_ring import plan_token_ring
from expertstream.strategy.tp import plan_tp
from expertstream.strategy.tp_per_expert import plan_tp_per_expert
from expertstream.strategy.user import as_strategy, is_reference, load_strategy
from expertstream.workload import LayerWorkload

DEFAULT = "fse-dp-paired"
GROUP = "expertstream.strategies"


def _without_depth(plan: PlanOf) -> PlanOf:
    """A strategy that takes no depth; if it is given one, its plan says that it does not apply."""

    @wraps(plan)
    def planned(workload: LayerWorkload, options: Options) -> Plan:
        made = plan(workload, options)
        return made if options.depth is None else replace(made, prefetch=f"{made.prefetch}; depth does not apply")

    return planned


_STRATEGIES = (
    Strategy("ep", "experts at home dies, whole experts double-buffered in extra SRAM", plan_ep, placements),
    Strategy(
        "ep-streamed",
        "experts at home dies, weights in micro-slices, the package's own SRAM",
        plan_ep_streamed,
        placements,
    ),
    Strategy("ep-replicated", "ep with hot experts on several dies", plan_ep_replicated, fitted=True),
    Strategy("hydra", "ep with experts placed by popularity and affinity between layers", plan_hydra, fitted=True),
    Strategy("tp", "d_ffn split over all dies, tokens gathered, partial sums reduce-scattered", plan_tp),
    Strategy("tp-per-expert", "tp gathered and reduced expert by expert, in one pass", plan_tp_per_expert),
    Strategy("fse-dp-naive", "phase-wise ring of whole slices (A1)", plan_naive),
    Strategy("fse-dp-naive-tokens", "its dual: slices stay, tokens go round the ring", _without_depth(plan_token_ring)),
    Strategy("fse-dp", "micro-slice flow, rules 1 to 4, Algorithm 1, experts in id order (A2)", plan_id_order),
    Strategy("fse-dp-paired", "fse-dp with paired load (A3)", plan_paired),
    Strategy("fse-dp-rule5", "fse-dp-paired with rule 5: micro-slices go to the roomiest die first (A4)", plan_rule5),
    Strategy(
        "fse-dp-adaptive",
        "beyond the paper: per expert, weights or tokens move, or some of both",
        _without_depth(plan_adaptive),
    ),
)


_OF_EP = _OF_TP = frozenset({"micro_slices", "order", "depth"})
_OF_FSE_DP = frozenset({"micro_slices", "rings", "redispatch", "layout", "depth"})
_TAKES = {
    "ep": _OF_EP | {"placement"},
    "ep-streamed": _OF_EP | {"placement"},
    "ep-replicated": _OF_EP,
    "hydra": _OF_EP,
    "tp": _OF_TP,
    "tp-per-expert": _OF_TP,
    "fse-dp-naive": frozenset({"redispatch", "layout", "depth"}),
    "fse-dp-naive-tokens": frozenset({"redispatch"}),
    "fse-dp": _OF_FSE_DP,
    "fse-dp-paired": _OF_FSE_DP,
    "fse-dp-rule5": _OF_FSE_DP,
    "fse-dp-adaptive": frozenset({"micro_slices", "rings"}),
}
BUILT_IN = tuple(replace(s, plan=prefetching(s.plan), takes=_TAKES[s.name]) for s in _STRATEGIES)


@cache
def _strategies() -> dict[str, Strategy]:
    found = {s.name: s for s in BUILT_IN}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        strategy = as_strategy(_loaded(point), f"entry point '{point.name}' of group {GROUP}")
        if strategy.name in found:
            raise ConfigError(
                f"entry point '{point.name}' of group {GROUP} gives a strategy called '{strategy.name}', but there is "
                "one already; give it a name of its own"
            )
        found[strategy.name] = strategy
    return found


def _loaded(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:  # whatever a plug-in raises when it is imported
        raise ConfigError(
            f"entry point '{point.name}' of group {GROUP} ({point.value}) cannot be imported: "
            f"{type(error).__name__}: {error}; repair or uninstall that plug-in"
        ) from error


def strategy_names() -> list[str]:
    """Names of all strategies, built-in ones first."""
    return list(_strategies())


def get_strategy(strategy: str | Strategy, source: bytes | None = None) -> Strategy:
    """The strategy of that name, or of a user's file.

    Args:
        strategy: a name, ``file.py:Name`` (docs/extending.md), or a strategy, which is returned.
        source: the text of the user's file, where another process has read it.

    Raises:
        ConfigError: there is none, or the user's file does not give one.
    """
    if isinstance(strategy, Strategy):
        return strategy
    if not isinstance(strategy, str):
        raise ConfigError(f"the strategy is {strategy!r}; give a name, such as '{DEFAULT}', or a Strategy")
    if is_reference(strategy):
        return load_strategy(strategy, source)
    known = _strategies()
    if strategy not in known:
        raise ConfigError(
            f"unknown strategy '{strategy}'{nearest(strategy, known) or '.'} Available: {', '.join(known)}; "
            "one of your own: file.py:Name"
        )
    return known[strategy]
