"""Run work on a network: set up the kernel's state, answer its decision points, return the timeline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from expertstream.engine import kernel
from expertstream.engine import layout as at
from expertstream.engine.network import Network
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError, SimulationStuckError

Ints = NDArray[np.int64]
POOL_NAMES = ("weight buffer", "token buffer")


class View:
    """What a dispatcher may look at when it decides. The arrays are the engine's own: read only.

    Attributes:
        free_bytes: int64 [dies, 2], free bytes of each weight and token buffer.
        group_state: int64 [groups], WAITING, ADMITTED, STARTED or COMPLETE (layout.py).
    """

    def __init__(self, state: kernel.State, n_dies: int) -> None:
        self._state = state
        self.free_bytes: Ints = state.pool_free.reshape(n_dies, 2)
        self.group_state: Ints = state.group_state

    @property
    def now_ps(self) -> int:
        """Time of the decision, ps."""
        return int(self._state.ctl[at.K_NOW])

    @property
    def dry_channel(self) -> bool:
        """Whether some DDR channel has no load queued."""
        return bool((self._state.channel_head[:, 0] < 0).any())


class Dispatcher(Protocol):
    """Decides which groups start, whenever a group completes or a DDR channel has nothing left to load."""

    def decide(self, view: View) -> Iterable[int]:
        """Return the groups to admit now, in order; each group once in a run. None: nothing for now."""
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
        decision_ps: time that each decision takes; decisions follow one another.

    Raises:
        BufferTooSmallError: a chunk can never enter one of its stops; names the smallest workable size.
        SimulationStuckError: no event is left but work is; says which chunks wait for what.
        ValueError: the dispatcher admits a group twice.
    """
    state = _state(work, network)
    dispatcher = AllAtOnce(work.n_groups) if dispatcher is None else dispatcher
    view = View(state, network.n_dies)
    ctl = state.ctl
    ctl[at.K_DECIDE] = 1
    free_at = 0
    while kernel.advance(state) == at.DECIDE:
        ctl[at.K_DECIDE] = 0
        for group in dispatcher.decide(view):
            if state.group_state[group] != at.WAITING:
                raise ValueError(f"the dispatcher admitted group {group} twice")
            free_at = max(free_at, int(ctl[at.K_NOW])) + decision_ps
            kernel.admit(state, group, free_at)
            ctl[at.K_DECIDE] = 1
    if np.any(state.chunks[:, at.C_LEFT] > 0):
        raise SimulationStuckError(_explain(state, network))
    return Timeline.of_run(state, work, network)


def _state(work: Work, network: Network) -> kernel.State:
    c, s = work.chunk_arrays(), work.stop_arrays()
    n_chunks, n_stops, n_dies = c["bytes"].size, s["die"].size, network.n_dies
    chunk_of = np.repeat(np.arange(n_chunks), c["n_stops"])
    first = np.cumsum(c["n_stops"]) - c["n_stops"]
    stops = np.zeros((n_stops, at.S_COLS), dtype=np.int64)
    last = np.zeros(n_stops, dtype=np.int64)
    last[first + c["n_stops"] - 1] = 1
    need = _need(c, s, chunk_of, first, network)
    for column, values in (
        (at.S_CHUNK, chunk_of),
        (at.S_DIE, s["die"]),
        (at.S_SPACE, s["space"]),
        (at.S_COMPUTE, s["compute_ps"]),
        (at.S_GATE, s["gate"]),
        (at.S_CLASS, s["rank"]),
        (at.S_LIFO, s["lifo"]),
        (at.S_ARRIVE, s["arrive"]),
        (at.S_DONE, s["done"]),
        (at.S_HOLD, s["hold"]),
        (at.S_TOKENS, s["tokens"]),
        (at.S_LAST, last),
        (at.S_NEED, need),
        (at.S_NEXT, -1),
        (at.S_BLOCKED, -1),
    ):
        stops[:, column] = values
    chunks = np.zeros((n_chunks, at.C_COLS), dtype=np.int64)
    bandwidth = network.channel_bandwidth[np.maximum(c["channel"], 0)] if n_chunks else c["bytes"]
    for column, values in (
        (at.C_BYTES, c["bytes"]),
        (at.C_POOL, c["pool"]),
        (at.C_GROUP, c["group"]),
        (at.C_CHANNEL, c["channel"]),
        (at.C_GATE, c["gate"]),
        (at.C_FLOW, c["flow"]),
        (at.C_FIRST, first),
        (at.C_LEFT, c["n_stops"]),
        (at.C_NEXT, -1),
        (at.C_LOAD, transfer_ps(c["bytes"], bandwidth)),
    ):
        chunks[:, column] = values
    gates = work.gate_array().copy()
    gate_ptr, gate_items = _gate_waiters(c["gate"], s["gate"], s["hold"], gates.size)
    order = np.argsort(c["group"], kind="stable").astype(np.int64)
    per_group = np.bincount(c["group"], minlength=work.n_groups).astype(np.int64)
    n_pools, n_links, n_channels = 2 * n_dies, network.n_links, network.n_channels
    computes = np.bincount(s["die"][s["compute_ps"] > 0], minlength=n_dies).astype(np.int64)
    rows = int(n_chunks + n_stops + computes.sum())
    minus = np.full
    return kernel.State(
        stops=stops,
        chunks=chunks,
        gates=gates,
        gate_ptr=gate_ptr,
        gate_items=gate_items,
        opened=np.zeros(gates.size + 1, dtype=np.int64),
        group_ptr=np.concatenate(([0], np.cumsum(per_group))).astype(np.int64),
        group_chunks=order,
        group_left=per_group.copy(),
        group_state=np.zeros(work.n_groups, dtype=np.int64),
        events=np.zeros((n_dies + n_links + n_channels + 3 * n_chunks + work.n_groups + 8, 3), dtype=np.int64),
        ready=np.zeros((int(computes.sum()) + 1, 2), dtype=np.int64),
        ready_base=(np.cumsum(computes) - computes).astype(np.int64),
        ready_size=np.zeros(n_dies, dtype=np.int64),
        die_busy=np.zeros(n_dies, dtype=np.int64),
        channel_busy=np.zeros(n_channels, dtype=np.int64),
        channel_head=np.tile(np.array([-1, -1, 0], dtype=np.int64), (n_channels, 1)),
        channel_latency=network.channel_latency_ps,
        link_busy=np.zeros(n_links, dtype=np.int64),
        link_wait=minus((n_links, 2), -1, dtype=np.int64),
        pool_free=network.buffer_bytes.reshape(-1).copy(),
        pool_wait=minus((n_pools, 4), -1, dtype=np.int64),
        dirty=np.zeros(n_pools + 1, dtype=np.int64),
        is_dirty=np.zeros(n_pools, dtype=np.int64),
        path_ptr=network.path_ptr,
        path_links=network.path_links,
        path_class=np.stack(
            (network.path_bandwidth, network.path_latency_ps, np.full(n_dies * n_dies, network.header_bytes)), axis=1
        ),
        rows=np.zeros((rows, at.T_COLS), dtype=np.int64),
        ctl=np.zeros(at.K_COLS, dtype=np.int64),
    )


def transfer_ps(n_bytes: Ints, bandwidth: Ints) -> Ints:
    """Time to move bytes at bytes/s, ps, rounded up; int64 [n] each. Exact: two steps that stay within int64."""
    a = n_bytes * 1_000_000
    q, r = a // bandwidth, a % bandwidth
    return q * 1_000_000 + (r * 1_000_000 + bandwidth - 1) // bandwidth


def _need(c: dict[str, Ints], s: dict[str, Ints], chunk_of: Ints, first: Ints, network: Network) -> Ints:
    """Free bytes a chunk must find at each stop (kernel.py, forward-count rule); int64 [stops]."""
    space = s["space"]
    if space.size == 0:
        return space
    buffered = (space > 0).astype(np.int64)
    through = np.cumsum(buffered)
    ends = first + c["n_stops"] - 1
    later = through[ends][chunk_of] - through
    pool = c["pool"][chunk_of]
    need = space.copy()
    for kind in (0, 1):
        moving = (pool == kind) & (buffered > 0)
        per_chunk = np.bincount(chunk_of[moving], minlength=c["bytes"].size)
        multi = moving & (per_chunk[chunk_of] > 1)
        slot = int(space[multi].max()) if multi.any() else 0
        need[moving] += later[moving] * slot
    need[space == 0] = 0
    capacity = network.buffer_bytes[s["die"], pool]
    short = np.flatnonzero(need > capacity)
    if short.size:
        worst = short[np.argmax(need[short])]
        raise BufferTooSmallError(
            f"the {POOL_NAMES[int(pool[worst])]} of die {int(s['die'][worst])} is {int(capacity[worst])} bytes, "
            f"but a chunk of {int(c['bytes'][chunk_of[worst]])} bytes with {int(later[worst])} further stops needs "
            f"{int(need[worst])} bytes; give it at least that, or use smaller chunks (more micro-slices)"
        )
    return need


def _gate_waiters(chunk_gate: Ints, stop_gate: Ints, stop_hold: Ints, n_gates: int) -> tuple[Ints, Ints]:
    gates, items = [], []
    for kind, waits in enumerate((chunk_gate, stop_gate, stop_hold)):
        index = np.flatnonzero(waits >= 0)
        gates.append(waits[index])
        items.append(4 * index + kind)
    gate, item = np.concatenate(gates), np.concatenate(items)
    order = np.argsort(gate, kind="stable")
    ptr = np.concatenate(([0], np.cumsum(np.bincount(gate, minlength=n_gates)))).astype(np.int64)
    return ptr, item[order].astype(np.int64)


def _explain(state: kernel.State, network: Network) -> str:
    left = np.flatnonzero(state.chunks[:, at.C_LEFT] > 0)
    lines = [f"no event is left but {left.size} chunks are unfinished at {int(state.ctl[at.K_NOW])} ps:"]
    for chunk in left[:8]:
        group = int(state.chunks[chunk, at.C_GROUP])
        first = int(state.chunks[chunk, at.C_FIRST])
        if state.group_state[group] == at.WAITING:
            why = f"its group {group} was never admitted by the dispatcher"
        elif state.chunks[chunk, at.C_GATE] >= 0:
            gate = int(state.chunks[chunk, at.C_GATE])
            why = f"gate {gate} lacks {int(state.gates[gate])} signals"
        else:
            at_stop = first
            while state.stops[at_stop, at.S_LAST] == 0 and state.stops[at_stop + 1, at.S_STATE] > 0:
                at_stop += 1
            row = state.stops[at_stop]
            die = int(row[at.S_DIE])
            if row[at.S_STATE] == 0:
                free = state.pool_free.reshape(-1, 2)[die].tolist()
                why = f"it cannot enter die {die}: needs {int(row[at.S_NEED])} bytes, free (weights, tokens) {free}"
            elif row[at.S_STATE] == 1:
                gate = int(row[at.S_GATE])
                why = f"at die {die} it waits for gate {gate}, which lacks {int(state.gates[gate])} signals"
            elif row[at.S_HOLD] >= 0 and state.gates[row[at.S_HOLD]] > 0:
                gate = int(row[at.S_HOLD])
                why = f"at die {die} it is held until gate {gate} opens, which lacks {int(state.gates[gate])} signals"
            else:
                why = f"it cannot leave die {die}: the next buffer has no room or its link is never free"
        lines.append(f"  chunk {int(chunk)} of group {group}: {why}")
    if left.size > 8:
        lines.append(f"  ... and {left.size - 8} more")
    return "\n".join(lines)
