"""Micro-slices on their trajectories: which dies each visits, in which order, and where it starts (paper, IV)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.strategy.plan import cut
from expertstream.strategy.shares import Movement, Shares
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cutting:
    """Every expert cut into micro-slices.

    Attributes:
        slices: int64 [n, 3] expert, first and last + 1 column.
        per_expert, first: how many an expert has, and which is its first, int64 [experts].
    """

    slices: Ints
    per_expert: Ints
    first: Ints

    @classmethod
    def of(cls, columns: Ints, parts: int | Ints) -> Cutting:
        """Cut experts of so many columns, int64 [experts], into ``parts`` each (or one per column, if fewer)."""
        bounds = [cut(int(c), int(n)) for c, n in np.broadcast(columns, parts)]
        per_expert = np.array([b.size - 1 for b in bounds], dtype=np.int64)
        expert = np.repeat(np.arange(columns.size), per_expert)
        firsts, lasts = (np.concatenate([b[s] for b in bounds]) for s in (slice(None, -1), slice(1, None)))
        slices = np.stack((expert, firsts, lasts), axis=1).astype(np.int64)
        return cls(slices, per_expert, np.cumsum(per_expert) - per_expert)

    @property
    def width(self) -> Ints:
        """Columns of each micro-slice, int64 [n]."""
        return np.asarray(self.slices[:, 2] - self.slices[:, 1])


@dataclass(frozen=True)
class Flow:
    """How micro-slices travel.

    Attributes:
        rings: cyclic orders of all dies, taken in turn by the micro-slices.
        at_once: a micro-slice is sent on while it is computed (rule 1), not after.
        roomiest: it starts at the die of its trajectory that has the most free storage (rule 5), not at the one
            nearest to its DDR channel.
        whole: an expert lies in one channel, the experts in turn; else its micro-slices are striped over all.
        late: experts that are computed where nothing else is ready, bool [passes, experts]; None: none.
    """

    rings: list[list[int]]
    at_once: bool = True
    roomiest: bool = False
    whole: bool = False
    late: NDArray[np.bool_] | None = None

    def ddr_layout(self, channels: int) -> str:
        """Where experts lie, in words."""
        if channels == 1:
            return "all experts in the only DDR channel"
        if self.whole:
            return f"each expert whole in one of {channels} DDR channels, in turn"
        return f"each expert's micro-slices striped evenly over {channels} DDR channels"


def add_micro_slices(
    work: Work, workload: LayerWorkload, cutting: Cutting, shares: Shares, movement: Movement, groups: Ints, done: Ints,
    flow: Flow,
) -> None:  # fmt: skip
    """Add all micro-slices of all passes, striped over the DDR channels in turn.

    Each visits the dies that compute tokens of its expert, in the order of its ring; if it enters the package at
    another die, that one passes it on.

    Args:
        groups: int64 [passes, micro-slices], group of each. done: gate of each pass, set to the number of
            its signals here.
    """
    turn = 0
    for p in range(shares.load.shape[0]):
        turn = _add_pass(work, workload, cutting, shares, movement, groups[p], int(done[p]), flow, p, turn)


def _add_pass(
    work: Work, workload: LayerWorkload, cutting: Cutting, shares: Shares, movement: Movement, groups: Ints, done: int,
    flow: Flow, p: int, turn: int,
) -> int:  # fmt: skip
    package, model, load = workload.package, workload.model, shares.load[p]
    n_dies, n_experts = package.n_dies, workload.columns.size
    active = np.flatnonzero(load.sum(axis=1))
    count = cutting.per_expert[active]
    of = np.repeat(np.arange(active.size), count)  # row of ``active`` of each micro-slice
    number = turn + np.arange(of.size)
    channel, ring = number % len(package.channels), number // len(package.channels) % len(flow.rings)
    if flow.whole:
        channel, ring = active[of] % len(package.channels), number % len(flow.rings)
    tag = cutting.first[active[of]] + np.arange(of.size) - np.repeat(np.cumsum(count) - count, count)
    routes = [_Routes.of(workload, np.array(r, dtype=np.int64), load[active] > 0) for r in flow.rings]
    by_rank, start, entry_of = (
        np.stack([getattr(r, name) for r in routes]) for name in ("by_rank", "start", "entry_of")
    )
    length = (load[active] > 0).sum(axis=1)[of]
    # Chunks: one for each micro-slice, or with rule 5 one for each die where it may start.
    piece = np.repeat(np.arange(of.size), length) if flow.roomiest else np.arange(of.size)
    variant = np.arange(piece.size) - np.searchsorted(piece, piece)
    row, way, length = of[piece], ring[piece], length[piece]
    first_rank = (start[way, row, channel[piece]] + variant) % length
    first_die = by_rank[way, row, first_rank]
    entry = entry_of[way, channel[piece], first_die]
    through = (entry != first_die).astype(np.int64)
    n_stops = length + through
    chunk = np.repeat(np.arange(piece.size), n_stops)
    position = np.arange(chunk.size) - np.repeat(np.cumsum(n_stops) - n_stops, n_stops) - through[chunk]
    passing = position < 0
    rank = (first_rank[chunk] + position) % length[chunk]
    die = np.where(passing, entry[chunk], by_rank[way[chunk], row[chunk], rank])
    expert = active[row[chunk]]
    tokens = np.where(passing, 0, load[expert, die])
    width = cutting.width[tag[piece]]
    work_ps = compute_ps(package.die, tokens, model.d_model, width[chunk], model.weight_bits)
    local = (position == 0) & (through[chunk] == 0)
    computed = movement.computed[p, expert, die]
    chunks = work.add_ragged(
        n_stops,
        {
            "bytes": width * workload.column_bytes,
            "group": groups[tag[piece]],
            "channel": channel[piece],
            "gate": movement.placed[p, active[row]],
            "tag": tag[piece],
            "flow": int(flow.at_once),
        },
        {
            "die": die,
            "compute_ps": np.where(passing, 0, work_ps),
            "gate": np.where(passing, -1, movement.arrived[p, expert, die]),
            "rank": (local.astype(np.int64) if flow.at_once else 0)
            + (0 if flow.late is None else 2 * flow.late[p, expert]),
            "lifo": (~local).astype(np.int64) if flow.at_once else 0,
            "done": np.where(passing, -1, np.where(computed >= 0, computed, done)),
            "tokens": tokens,
            "tag": np.where(passing, -1, (p * n_experts + expert) * n_dies + die),
        },
    )
    if flow.roomiest:
        for n in np.unique(length[length > 1]).tolist():
            rows = np.flatnonzero(length == n).reshape(-1, n)
            work.add_alternatives(chunks[rows], first_die[rows])
    visits = shares.load[p][active] > 0
    own = visits & (movement.computed[p, active] < 0)
    work.set_gate(done, int((own.sum(axis=1) * count).sum()) + int((shares.moves[:, 0] == p).sum()))
    return turn + of.size


@dataclass(frozen=True, eq=False)
class _Routes:
    """Trajectories of the experts along one ring.

    Attributes:
        by_rank: int64 [experts, dies], the dies of each trajectory in the order of the ring, then the others.
        start: int64 [experts, channels], place in the trajectory of the die nearest to each channel, by hops, the next
            along the ring if several are.
        entry_of: int64 [channels, dies], die attached to the channel at which a micro-slice for a die comes in.
    """

    by_rank: Ints
    start: Ints
    entry_of: Ints

    @classmethod
    def of(cls, workload: LayerWorkload, ring: Ints, member: NDArray[np.bool_]) -> _Routes:
        """Routes of experts with the trajectories ``member``, bool [experts, dies]."""
        n_dies, hops = ring.size, workload.topology.hops
        place = np.empty(n_dies, dtype=np.int64)
        place[ring] = np.arange(n_dies)
        on_ring = member[:, ring]
        rank_at = np.cumsum(on_ring, axis=1) - 1
        starts, entries = [], []
        for channel in workload.package.channels:
            attached = np.array(channel.dies, dtype=np.int64)
            ahead = (np.arange(n_dies)[None, :] - place[attached][:, None]) % n_dies
            cost = hops[attached][:, ring] * n_dies + ahead  # [attached, dies in ring order]
            nearest = np.where(on_ring, cost.min(axis=0), np.iinfo(np.int64).max).argmin(axis=1)
            starts.append(rank_at[np.arange(member.shape[0]), nearest])
            entries.append(attached[cost.argmin(axis=0)][place])
        by_rank = ring[np.argsort(~on_ring, axis=1, kind="stable")]
        return cls(by_rank, np.stack(starts, axis=1), np.stack(entries))
