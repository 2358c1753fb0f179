"""Run work on a network: set up the kernel's state, answer its decision points, return the timeline."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from expertstream.engine import kernel
from expertstream.engine import layout as at
from expertstream.engine.network import Network
from expertstream.engine.state import State, build
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from expertstream.errors import SimulationStuckError, WorkloadError
from expertstream.units import counted

Ints = NDArray[np.int64]


class View:
    """What a dispatcher may look at when it decides. The arrays are the engine's own: read only.

    Attributes:
        free_bytes: int64 [dies, 2], free bytes of each weight and token buffer, without what is kept for what passes.
        group_state: int64 [groups], WAITING, ADMITTED, STARTED or COMPLETE (layout.py).
        stalled: nothing more will happen unless a group is admitted.
    """

    def __init__(self, state: State, n_dies: int) -> None:
        self._vector = state.vector
        self._heads = state.tables["channel_head"][:, 0]
        self._channel_busy = state.tables["channel_busy"]
        self.free_bytes: Ints = state.tables["pool_free"][: 2 * n_dies].reshape(n_dies, 2)
        self.stalled = False
        self.group_state: Ints = state.tables["group_state"]

    @property
    def now_ps(self) -> int:
        """Time of the decision, ps."""
        return int(self._vector[at.K_NOW])

    @property
    def all_free_bytes(self) -> int:
        """Free bytes of all buffers of all dies together."""
        return int(self._vector[at.K_FREE])

    def ask_at(self, all_free_bytes: int) -> None:
        """Ask the dispatcher again as soon as so many bytes are free; the last call counts, and once."""
        self._vector[at.K_WATERMARK] = all_free_bytes

    @property
    def dry_channel(self) -> bool:
        """Whether some DDR channel has no load queued."""
        return bool(min(self._heads.tolist()) < 0)

    def with_states(self, group_state: Ints) -> View:
        """The same view with other states of the groups, int64 [groups]."""
        other = copy(self)
        other.group_state = group_state
        return other

    def is_idle(self, channel: int) -> bool:
        """Whether a DDR channel loads nothing and has nothing to load."""
        return bool(self._heads[channel] < 0 and not self._channel_busy[channel])

    @property
    def roomy_dies(self) -> int:
        """Dies whose weight buffer is not full, as a bit mask, bit d for die d."""
        return sum(1 << die for die, free in enumerate(self.free_bytes[:, 0].tolist()) if free > 0)


class Admission(NamedTuple):
    """A group that starts, and the time that the decision took, ps."""

    group: int
    decision_ps: int


class Dispatcher(Protocol):
    """Decides which groups start, whenever a group completes or a DDR channel has nothing left to load.

    It may have itself asked at other times too (``View.ask_at``), and is asked once more where all stands still
    (``View.stalled``).
    """

    def decide(self, view: View) -> Iterable[int | Admission]:
        """Return the groups to admit now, in order; each group once in a run. None: nothing for now.

        An ``Admission`` says itself how long its decision took.
        """
        ...


class AllAtOnce:
    """Admits every group at the start, in the order of their numbers."""

    def __init__(self, n_groups: int) -> None:
        self._left = list(range(n_groups))

    def decide(self, view: View) -> Iterable[int]:
        """Return all groups, the first time."""
        left, self._left = self._left, []
        return left


def run(work: Work, network: Network, dispatcher: Dispatcher | None = None, *, decision_ps: int = 0) -> Timeline:
    """Simulate ``work`` on ``network`` and return its timeline.

    Args:
        dispatcher: decides the order in which groups start; default: all at once.
        decision_ps: time of a decision for which the dispatcher gives none; decisions follow one another. The start of
            a group of ``work.undecided`` is none.

    Raises:
        BufferTooSmallError: a chunk can never enter one of its stops; names the smallest workable size.
        SimulationStuckError: no event is left but work is; says which chunks wait for what.
        WorkloadError: the work refers to what does not exist, or the dispatcher admits a group twice.
    """
    state = build(work, network)
    dispatcher = AllAtOnce(work.n_groups) if dispatcher is None else dispatcher
    view = View(state, network.n_dies)
    ctl = state.vector
    ctl[at.K_DECIDE] = 1
    free_at = 0
    while True:
        view.stalled = kernel.advance(state.vector) != at.DECIDE
        if view.stalled and _unfinished(state, work).size == 0:
            break
        ctl[at.K_DECIDE] = 0
        for decided in dispatcher.decide(view):
            if not isinstance(decided, Admission):
                decided = Admission(decided, 0 if decided in work.undecided else decision_ps)
            group, took_ps = decided
            if not 0 <= group < work.n_groups:
                raise WorkloadError(f"the dispatcher admits group {group}; the groups are 0 to {work.n_groups - 1}")
            if state.tables["group_state"][group] != at.WAITING:
                raise WorkloadError(f"the dispatcher admits group {group} twice; each group once in a run")
            free_at = max(free_at, int(ctl[at.K_NOW])) + took_ps
            kernel.admit(state.vector, group, max(free_at, work.not_before_ps.get(group, 0)))
            ctl[at.K_DECIDE] = 1
        if view.stalled and not ctl[at.K_DECIDE]:
            raise SimulationStuckError(_explain(state, network, _unfinished(state, work)))
    return Timeline.of_run(state, work, network)


def _unfinished(state: State, work: Work) -> Ints:
    """Chunks that are not done, without those of optional groups that were never admitted; int64."""
    chunks = state.tables["chunks"]
    left = np.flatnonzero(chunks[:, at.C_LEFT] > 0)
    if not work.parts:
        return left
    group = chunks[left, at.C_GROUP]
    spared = np.isin(group, work.optional) & (state.tables["group_state"][group] == at.WAITING)
    unspared: Ints = left[~spared]
    return unspared


def _explain(state: State, network: Network, left: Ints) -> str:
    chunks, stops, gates = state.tables["chunks"], state.tables["stops"], state.tables["gates"]
    group_state, pool_free = state.tables["group_state"], state.tables["pool_free"]
    lines = [f"no event is left, with {counted(left.size, 'chunk')} unfinished at {int(state.vector[at.K_NOW])} ps:"]
    for chunk in left[:8]:
        group = int(chunks[chunk, at.C_GROUP])
        first = int(chunks[chunk, at.C_FIRST])
        if group_state[group] == at.WAITING:
            why = f"its group {group} was never admitted by the dispatcher"
        elif chunks[chunk, at.C_GATE] >= 0:
            gate = int(chunks[chunk, at.C_GATE])
            why = f"gate {gate} lacks {int(gates[gate])} signals"
        else:
            at_stop = first
            while stops[at_stop, at.S_LAST] == 0 and stops[at_stop + 1, at.S_STATE] > 0:
                at_stop += 1
            row = stops[at_stop]
            die = int(row[at.S_DIE])
            if row[at.S_STATE] == 0:
                free = pool_free.reshape(-1, 2)[die].tolist()
                why = f"it cannot enter die {die}: needs {int(row[at.S_NEED])} bytes, free (weights, tokens) {free}"
            elif row[at.S_STATE] == 1:
                gate = int(row[at.S_GATE])
                why = f"at die {die} it waits for gate {gate}, which lacks {int(gates[gate])} signals"
            elif row[at.S_HOLD] >= 0 and gates[row[at.S_HOLD]] > 0:
                gate = int(row[at.S_HOLD])
                why = f"at die {die} it is held until gate {gate} opens, which lacks {int(gates[gate])} signals"
            else:
                why = f"it cannot leave die {die}: the next buffer has no room or its link is never free"
        lines.append(f"  chunk {int(chunk)} of group {group}: {why}")
    if left.size > 8:
        lines.append(f"  ... and {left.size - 8} more")
    return "\n".join(lines)
