"""The state of a run: one int64 vector, with views of its tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine import layout as at
from expertstream.engine.check import check_work
from expertstream.engine.forwarding import stop_on_the_way
from expertstream.engine.network import Network
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError

Ints = NDArray[np.int64]
POOL_NAMES = ("weight buffer", "token buffer")


@dataclass(frozen=True, eq=False)
class State:
    """The vector that the kernel works on, and views of the tables that Python reads (shapes in layout.py).

    Attributes:
        chunk_tag, stop_tag: the caller's labels, int64 [chunks] and [stops].
    """

    vector: Ints
    tables: dict[str, Ints]
    chunk_tag: Ints
    stop_tag: Ints

    @classmethod
    def of(cls, tables: dict[str, Ints], tags: tuple[Ints, Ints], n_dies: int, n_channels: int) -> State:
        """Lay out the tables behind the control scalars."""
        sizes = [tables[name].size for name in at.TABLES]
        starts = at.K_COLS + np.concatenate(([0], np.cumsum(sizes)))
        vector = np.zeros(int(starts[-1]), dtype=np.int64)
        vector[at.K_DIES], vector[at.K_CHANNELS] = n_dies, n_channels
        vector[at.O_STOPS : at.O_STOPS + len(at.TABLES)] = starts[:-1]
        vector[at.K_FREE] = tables["pool_free"].sum()
        views = {}
        for name, start, size in zip(at.TABLES, starts[:-1].tolist(), sizes, strict=True):
            vector[start : start + size] = tables[name].reshape(-1)
            views[name] = vector[start : start + size].reshape(tables[name].shape)
        return cls(vector, views, *tags)


def build(work: Work, network: Network) -> State:
    """State at time zero. Raises WorkloadError (check_work) and BufferTooSmallError."""
    c, s = work.chunk_arrays(), work.stop_arrays()
    check_work(work, network, c, s)
    s["need"] = needed_bytes(c, s)
    kept = np.zeros(2, dtype=np.int64) if network.transit_bytes is None else network.transit_bytes
    room = network.buffer_bytes - kept
    _check_capacity(c, s, room)
    c, s = stop_on_the_way(c, s, network)
    n_chunks, n_stops, n_dies = c["bytes"].size, s["die"].size, network.n_dies
    chunk_of = np.repeat(np.arange(n_chunks), c["n_stops"])
    first = np.cumsum(c["n_stops"]) - c["n_stops"]
    stops = np.zeros((n_stops, at.S_COLS), dtype=np.int64)
    last = np.zeros(n_stops, dtype=np.int64)
    last[first + c["n_stops"] - 1] = 1
    passing = s["passing"]
    number, following = np.arange(n_stops), np.append(passing[1:], 0)
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
        (at.S_NEED, s["need"]),
        (at.S_NEXT, -1),
        (at.S_BLOCKED, -1),
        (at.S_POOL, 2 * (s["die"] + n_dies * (passing > 0)) + c["pool"][chunk_of]),
        (at.S_TO, np.where((last > 0) | (passing > 0), -1, number + 1 + following)),
        (at.S_VIA, np.where(following > 0, number + 1, -1)),
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
        (at.C_OTHER, c["other"]),
        (at.C_TARGET, c["target"]),
        (at.C_ASK, np.isin(c["group"], list(work.parts)).astype(np.int64)),
        (at.C_LOAD, transfer_ps(c["bytes"], bandwidth)),
    ):
        chunks[:, column] = values
    gates = work.gate_array().copy()
    gate_ptr, gate_items = _gate_waiters(np.where(c["first"] > 0, c["gate"], -1), s["gate"], s["hold"], gates.size)
    order = np.argsort(c["group"], kind="stable").astype(np.int64)
    order = order[c["first"][order] > 0]
    per_group = np.bincount(c["group"][order], minlength=work.n_groups).astype(np.int64)
    n_pools, n_links, n_channels = 4 * n_dies, network.n_links, network.n_channels
    computes = np.bincount(s["die"][s["compute_ps"] > 0], minlength=n_dies).astype(np.int64)
    rows = int(n_chunks + n_stops + computes.sum())
    minus = np.full
    tables: dict[str, Ints] = {
        "stops": stops,
        "chunks": chunks,
        "gates": gates,
        "gate_ptr": gate_ptr,
        "gate_items": gate_items,
        "opened": np.zeros(gates.size + 1, dtype=np.int64),
        "group_ptr": np.concatenate(([0], np.cumsum(per_group))).astype(np.int64),
        "group_chunks": order,
        "group_left": per_group.copy(),
        "group_state": np.zeros(work.n_groups, dtype=np.int64),
        "events": np.zeros((n_dies + n_links + n_channels + 3 * n_chunks + work.n_groups + 8, 3), dtype=np.int64),
        "ready": np.zeros((int(computes.sum()) + 1, 2), dtype=np.int64),
        "ready_base": (np.cumsum(computes) - computes).astype(np.int64),
        "ready_size": np.zeros(n_dies, dtype=np.int64),
        "die_busy": np.zeros(n_dies, dtype=np.int64),
        "channel_busy": np.zeros(n_channels, dtype=np.int64),
        "channel_head": np.tile(np.array([-1, -1, 0], dtype=np.int64), (n_channels, 1)),
        "channel_latency": network.channel_latency_ps,
        "link_busy": np.zeros(n_links, dtype=np.int64),
        "link_wait": minus((n_links, 2), -1, dtype=np.int64),
        "pool_free": np.concatenate((room.reshape(-1), np.tile(kept, n_dies))),
        "pool_wait": minus((n_pools, 4), -1, dtype=np.int64),
        "dirty": np.zeros(n_pools + 1, dtype=np.int64),
        "is_dirty": np.zeros(n_pools, dtype=np.int64),
        "path_ptr": network.path_ptr,
        "path_links": network.path_links,
        "path_class": np.stack(
            (network.path_bandwidth, network.path_latency_ps, np.full(n_dies * n_dies, network.header_bytes)), axis=1
        ),
        "rows": np.zeros((rows, at.T_COLS), dtype=np.int64),
        "link_to": network.links[:, 1],
    }
    return State.of(tables, (c["tag"], s["tag"]), n_dies, n_channels)


def transfer_ps(n_bytes: Ints, bandwidth: Ints) -> Ints:
    """Time to move bytes at bytes/s, ps, rounded up; int64 [n], for one bandwidth or as many.

    Exact: two steps that stay within int64.
    """
    a = n_bytes * 1_000_000
    q, r = a // bandwidth, a % bandwidth
    return q * 1_000_000 + (r * 1_000_000 + bandwidth - 1) // bandwidth


def needed_bytes(c: dict[str, Ints], s: dict[str, Ints]) -> Ints:
    """Free bytes a chunk must find at each stop (kernel.py, forward-count rule); int64 [stops]."""
    space = s["space"]
    if space.size == 0:
        return space
    chunk_of = np.repeat(np.arange(c["bytes"].size), c["n_stops"])
    buffered = (space > 0).astype(np.int64)
    later = _later_stops(c, buffered, chunk_of)
    pool = c["pool"][chunk_of]
    need = space + c["spare"][chunk_of]
    for kind in (0, 1):
        moving = (pool == kind) & (buffered > 0)
        per_chunk = np.bincount(chunk_of[moving], minlength=c["bytes"].size)
        multi = moving & (per_chunk[chunk_of] > 1)
        slot = int(space[multi].max()) if multi.any() else 0
        need[moving] += later[moving] * slot
    need[space == 0] = 0
    return need


def _later_stops(c: dict[str, Ints], buffered: Ints, chunk_of: Ints) -> Ints:
    """How many buffers a chunk visits after each stop; ``buffered``: 1 where a stop takes space; int64 [stops]."""
    through: Ints = np.cumsum(buffered)
    later: Ints = through[np.cumsum(c["n_stops"]) - 1][chunk_of] - through
    return later


def _check_capacity(c: dict[str, Ints], s: dict[str, Ints], room: Ints) -> None:
    need = s["need"]
    if need.size == 0:
        return
    chunk_of = np.repeat(np.arange(c["bytes"].size), c["n_stops"])
    pool = c["pool"][chunk_of]
    capacity = room[s["die"], pool]
    short = np.flatnonzero(need > capacity)
    if short.size:
        worst = short[np.argmax(need[short])]
        later = _later_stops(c, (s["space"] > 0).astype(np.int64), chunk_of)
        raise BufferTooSmallError(
            f"the {POOL_NAMES[int(pool[worst])]} of die {int(s['die'][worst])} is {int(capacity[worst])} bytes, "
            f"but a chunk of {int(c['bytes'][chunk_of[worst]])} bytes with {int(later[worst])} further stops needs "
            f"{int(need[worst])} bytes; give it at least that, or use smaller chunks (more micro-slices)"
        )


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
