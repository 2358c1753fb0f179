"""Algorithm 1 over a whole layer as a state machine: the software that the hardware scheduler is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from expertstream.errors import WorkloadError
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
    """Takes the decisions of one layer (of one pass over its tokens)."""

    def decide(self, room: int) -> Decision:
        """Decide which expert loads next; to be asked only while some are left."""
        ...

    def complete(self, expert: int) -> None:
        """All work of an expert has ended."""
        ...


class SoftwareScheduler:
    """Algorithm 1 of the paper (section V-A).

    Args:
        order: activated experts in the order in which they are considered.
        trajectories: T(e) of every expert as a bit mask, bit d for die d; not 0 for an expert of ``order``.
        dies: number of dies.
    """

    def __init__(self, order: Sequence[int], trajectories: Sequence[int], dies: int) -> None:
        self.remaining = list(order)
        self.running: list[int] = []
        self._trajectories = trajectories
        self._all = (1 << dies) - 1

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
        return Decision(expert, streams, load_die(self._trajectories[expert], idle if streams else 0, room))

    def complete(self, expert: int) -> None:
        """All work of a running expert has ended.

        Raises:
            WorkloadError: it is not running.
        """
        if expert not in self.running:
            raise WorkloadError(f"expert {expert} completed, but it is not running; running: {self.running}")
        self.running.remove(expert)
