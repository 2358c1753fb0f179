"""What a strategy hands to the engine, with what is needed to explain and to replay it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import ADMITTED, COMPLETE
from expertstream.engine.run import Dispatcher, View
from expertstream.engine.work import Work
from expertstream.errors import WorkloadError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """Choices that strategies share.

    Attributes:
        micro_slices: micro-slices per expert and die; None: chosen by the strategy and reported.
        placement: home dies of EP's experts, "contiguous" or "round-robin".
        rings: logical rings that FSE-DP's micro-slices take in turn: 1 one ring in one direction, 2 in both, 4 also the
            ring along the columns of the mesh in both.
        redispatch: FSE-DP first re-dispatches tokens, so that each die has about the same number of every expert.
        decision_ps: time that one scheduling decision takes.
    """

    micro_slices: int | None = None
    placement: str = "round-robin"
    rings: int = 4
    redispatch: bool = False
    decision_ps: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.micro_slices is not None and self.micro_slices < 1:
            raise WorkloadError(f"micro_slices is {self.micro_slices}; it must be at least 1 (or left out)")
        if self.placement not in ("contiguous", "round-robin"):
            raise WorkloadError(f"placement is '{self.placement}'; allowed: contiguous, round-robin")
        if self.rings not in (1, 2, 4):
            raise WorkloadError(f"rings is {self.rings}; allowed: 1, 2, 4")
        if self.decision_ps < 0:
            raise WorkloadError(f"decision_ps is {self.decision_ps}; it must not be negative")


@dataclass(frozen=True, eq=False)
class Plan:
    """A layer as work for the engine.

    Attributes:
        slices: int64 [n, 3] expert, first and last + 1 column; a chunk's tag is a row number, -1 for no weights.
        set_ptr, set_ids: token set i is ``set_ids[set_ptr[i] : set_ptr[i + 1]]``; a stop's tag is a set number.
        buffer_bytes: int64 [dies, 2], weight and token buffer that the strategy was given.
        passes: passes over the tokens; weights are loaded once per pass.
        ddr_layout: where the weights lie, in words.
        notes: choices made that a reader of the result needs.
    """

    work: Work
    dispatcher: Dispatcher
    slices: Ints
    set_ptr: Ints
    set_ids: Ints
    buffer_bytes: Ints
    passes: int
    ddr_layout: str
    notes: tuple[str, ...] = field(default=())


class InOrder:
    """Admits a prologue at once, then groups in order, at most ``window`` of a queue at a time, phase after phase.

    Args:
        prologue: groups admitted first.
        phases: for each phase (a pass over the tokens) a list of queues, each a list of groups in order. A phase starts
            when the one before has completed.
    """

    def __init__(self, prologue: Sequence[int], phases: Sequence[Sequence[Sequence[int]]], window: int) -> None:
        self._prologue = list(prologue)
        self._phases = [[list(queue) for queue in phase] for phase in phases]
        self._running: list[list[int]] = [[] for _ in self._phases[0]] if self._phases else []
        self._window = window
        self._phase = 0

    def decide(self, view: View) -> Iterable[int]:
        """Groups that fit the windows now."""
        picked, self._prologue = self._prologue, []
        state = view.group_state
        if self._phase >= len(self._phases):
            return picked
        self._running = [[g for g in queue if state[g] != COMPLETE] for queue in self._running]
        if not any(self._running) and not any(self._phases[self._phase]):
            self._phase += 1
            if self._phase == len(self._phases):
                return picked
            self._running = [[] for _ in self._phases[self._phase]]
        for queue, running in zip(self._phases[self._phase], self._running, strict=True):
            while queue and len(running) < self._window:
                running.append(queue.pop(0))
                picked.append(running[-1])
        return picked


def any_pending(view: View, groups: Sequence[int]) -> bool:
    """Whether a decision about one of ``groups`` has been taken and has not taken effect yet."""
    return any(view.group_state[g] == ADMITTED for g in groups)


def cut(columns: int, parts: int) -> Ints:
    """Boundaries of ``parts`` column ranges that differ by at most one column, int64 [min(parts, columns) + 1]."""
    parts = max(1, min(parts, columns))
    return np.arange(parts + 1, dtype=np.int64) * columns // parts
