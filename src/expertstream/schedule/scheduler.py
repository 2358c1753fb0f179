"""Algorithm 1 over a whole layer as a state machine: the software that the hardware scheduler is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from expertstream.errors import WorkloadError
from expertstream.schedule.cycles import COMPLETION_CYCLES, DECISION_CYCLES, END_CYCLES, layer_cycles
from expertstream.schedule.order import ORDERS, OrderName
from expertstream.schedule.trajectory import load_die, next_expert


class Decision(NamedTuple):
    """One scheduling decision.

    Attributes:
        expert: starts to load now.
        streams: its trajectory meets the idle dies (else it is pre-loaded).
        die: where its micro-slices enter, if they all enter at one die.
    """

    expert: int
    streams: bool
    die: int


class LayerScheduler(Protocol):
    """Takes the decisions of one layer after another (of one pass over a layer's tokens after another).

    Attributes:
        cycles: clock cycles that its hardware has worked so far (``cycles.py``).
    """

    @property
    def cycles(self) -> int: ...  # noqa: D102

    def begin(self, counts: Sequence[int], trajectories: Sequence[int]) -> None:
        """Take the experts of a layer; the one before must have completed.

        Args:
            counts: tokens of each expert, int [experts].
            trajectories: T(e) of each expert as a bit mask, bit d for die d; not 0 where ``counts`` is not.
        """
        ...

    @property
    def left(self) -> bool:
        """Whether some expert of the layer has not started."""
        ...

    def decide(self, room: int) -> Decision:
        """Decide which expert loads next; to be asked only while some are left."""
        ...

    def complete(self, expert: int) -> None:
        """All work of an expert has ended."""
        ...


class SchedulerFactory(Protocol):
    """Makes a scheduler for a package and a model."""

    def __call__(self, order: OrderName, *, dies: int, experts: int, tokens: int) -> LayerScheduler:
        """Make one for so many dies and experts, and layers of up to so many tokens."""
        ...


class SoftwareScheduler:
    """Algorithm 1 of the paper (section V-A).

    Args:
        order: in which activated experts are considered.
        dies: number of dies. experts: of a layer. tokens: of a layer; any number.
    """

    def __init__(self, order: OrderName, *, dies: int, experts: int, tokens: int = 0) -> None:
        self.cycles = 0
        self.remaining: list[int] = []
        self.running: list[int] = []
        self._order, self._experts, self._all = ORDERS[order], experts, (1 << dies) - 1
        self._trajectories: Sequence[int] = []
        self._releases = False  # the last completion has not reached the idle vector

    def begin(self, counts: Sequence[int], trajectories: Sequence[int]) -> None:
        """Take the experts of a layer: int [experts] each, as in ``LayerScheduler``.

        Raises:
            WorkloadError: experts of the layer before are left or running.
        """
        if self.remaining or self.running:
            raise WorkloadError(f"a layer begins, but experts {self.remaining + self.running} have not completed")
        self.remaining, self._trajectories = self._order(counts), trajectories
        self.cycles += layer_cycles(len(self.remaining), self._experts)

    @property
    def left(self) -> bool:
        """Whether some expert has not started."""
        return bool(self.remaining)

    @property
    def idle(self) -> int:
        """Dies that no running expert uses, as a bit mask (the Idle Chiplet Vector)."""
        busy = 0
        for expert in self.running:
            busy |= self._trajectories[expert]
        return self._all & ~busy

    def decide(self, room: int) -> Decision:
        """Decide which expert loads next.

        Args:
            room: dies whose weight buffer has room, as a bit mask.

        Raises:
            WorkloadError: no expert is left.
        """
        if not self.remaining:
            raise WorkloadError("a scheduling decision was asked for, but every expert of the layer has started")
        idle = self.idle
        expert, streams = next_expert(self.remaining, self._trajectories, idle)
        self.remaining.remove(expert)
        self.running.append(expert)
        self.cycles += DECISION_CYCLES + (COMPLETION_CYCLES if self._releases else 0)
        self._releases = False
        return Decision(expert, streams, load_die(self._trajectories[expert], idle if streams else 0, room))

    def complete(self, expert: int) -> None:
        """All work of a running expert has ended.

        Raises:
            WorkloadError: it is not running.
        """
        if expert not in self.running:
            raise WorkloadError(f"expert {expert} completed, but it is not running; running: {self.running}")
        self.running.remove(expert)
        self._releases = bool(self.remaining or self.running)
        self.cycles += COMPLETION_CYCLES if self._releases else COMPLETION_CYCLES + END_CYCLES
