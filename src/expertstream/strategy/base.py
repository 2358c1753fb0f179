"""What a strategy is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from expertstream.errors import ConfigError
from expertstream.strategy.plan import Options, Plan
from expertstream.workload import LayerWorkload

CHOICES: Final = ("micro_slices", "placement", "order", "rings", "redispatch", "layout", "depth")  # of ``Options``


@dataclass(frozen=True)
class Strategy:
    """A named way to lay out a layer.

    Attributes:
        name: what results call it; no commas, so that it can stand in a list.
        summary: one line for lists of strategies.
        plan: turns a workload into work for the engine.
        variants: the options to try, of which the fastest run is reported.
        fitted: whether it needs ``Options.training``.
        takes: which of ``CHOICES`` change something; None: it does not say.

    Raises:
        ConfigError: the name is empty or has a comma, or ``plan`` cannot be called.
    """

    name: str
    summary: str
    plan: Callable[[LayerWorkload, Options], Plan]
    variants: Callable[[Options], tuple[Options, ...]] = lambda options: (options,)
    fitted: bool = False
    takes: frozenset[str] | None = None

    def __post_init__(self) -> None:
        """Check what a user may get wrong."""
        if not isinstance(self.name, str) or not self.name.strip() or "," in self.name:
            raise ConfigError(f"a strategy's name is {self.name!r}; it must be a text without commas, such as 'mine'")
        if not callable(self.plan):
            raise ConfigError(
                f"the plan of strategy '{self.name}' is {self.plan!r}; it must be a function plan(workload, options)"
            )


def unused(choices: Iterable[str], strategies: Sequence[Strategy]) -> list[str]:
    """Those of the ``choices`` (names of ``CHOICES``) that change nothing under any of the strategies."""
    return [name for name in choices if all(s.takes is not None and name not in s.takes for s in strategies)]
