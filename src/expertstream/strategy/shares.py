"""Which die computes which tokens of an expert: where they live, or where they are re-dispatched to (paper, III)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shares:
    """Tokens of each (pass, expert) by the die that computes them.

    Attributes:
        load: int64 [passes, experts, dies].
        ptr, ids: token set of (p, e, d), with ``i = (p * experts + e) * dies + d``: ``ids[ptr[i] : ptr[i + 1]]``.
        moves: int64 [n, 5] pass, expert, die that the tokens leave, die that computes them, number of tokens.
    """

    load: Ints
    ptr: Ints
    ids: Ints
    moves: Ints

    @classmethod
    def at_home(cls, batches: Batches) -> Shares:
        """Every token is computed where it lives."""
        return cls(batches.load, batches.ptr, batches.ids, np.empty((0, 5), dtype=np.int64))

    @classmethod
    def balanced(cls, batches: Batches, most: int, columns: Ints | None = None) -> Shares:
        """Every die computes about as many tokens of an expert as any other; a die is sent at most ``most`` of them.

        A die computes the average, rounded up or down: up are the dies that have been given the fewest columns x tokens
        by hotter experts, so that rounding evens out over the experts. What a die has beyond goes, in the order of the
        dies, to those that have too few.

        Args:
            columns: int64 [experts], d_ffn columns; None: all the same.
        """
        passes, n_experts, dies = batches.load.shape
        flat = batches.load.reshape(-1, dies)
        load = flat.copy()
        width = np.ones(n_experts, dtype=np.int64) if columns is None else columns
        moves: list[tuple[int, int, int, int, int]] = []
        pieces = np.split(batches.ids, batches.ptr[1:-1])
        given = np.zeros((passes, dies), dtype=np.int64)
        active = np.flatnonzero(flat.sum(axis=1))
        for row in active[np.argsort(-flat[active].sum(axis=1), kind="stable")].tolist():
            p, e = divmod(row, n_experts)
            target = _targets(flat[row], most, given[p])
            given[p] += target * width[e]
            surplus = [(d, int(flat[row, d] - target[d])) for d in np.flatnonzero(flat[row] > target).tolist()]
            for d in np.flatnonzero(flat[row] < target).tolist():
                lacks = int(target[d] - flat[row, d])
                while lacks:
                    giver, has = surplus.pop()
                    n = min(has, lacks)
                    if has > n:
                        surplus.append((giver, has - n))
                    lacks -= n
                    moves.append((p, e, giver, d, n))
                    own = pieces[row * dies + giver]
                    pieces[row * dies + giver] = own[:-n]
                    pieces[row * dies + d] = np.concatenate((pieces[row * dies + d], own[-n:]))
            load[row] = target
        return cls(
            load.reshape(passes, n_experts, dies),
            np.concatenate(([0], np.cumsum(load))).astype(np.int64),
            np.concatenate(pieces).astype(np.int64) if pieces else batches.ids,
            np.array(moves, dtype=np.int64).reshape(-1, 5),
        )


def _targets(load: Ints, most: int, given: Ints) -> Ints:
    """The most even loads with the same sum of which none is more than ``most`` above the given one; int64 [dies].

    Of equally even ones that which rounds up where the least was ``given`` before, int64 [dies].
    """
    low, extra = divmod(int(load.sum()), load.size)
    target = np.full(load.size, low, dtype=np.int64)
    target[np.lexsort((-load, given))[:extra]] += 1
    short = np.maximum(target - load - most, 0)
    target -= short
    # What may not be moved stays with the dies that have the largest surplus.
    for _ in range(int(short.sum())):
        target[np.argmax(load - target)] += 1
    return target


@dataclass(frozen=True, eq=False)
class Movement:
    """Gates of the tokens that move; -1 where none do.

    Attributes:
        placed: int64 [passes, experts], opens when there is room for the expert's tokens wherever they go.
        arrived: int64 [passes, experts, dies], opens when the tokens of a die are there and may be computed.
        computed: int64 [passes, experts, dies], to be signalled by each compute of a die that was sent tokens.
    """

    placed: Ints
    arrived: Ints
    computed: Ints


def add_movement(
    work: Work, workload: LayerWorkload, shares: Shares, groups: Ints, per_expert: Ints, ready: Ints, done: Ints
) -> Movement:
    """Send tokens to where they are computed, and their partial sums back.

    An expert's weights must wait for ``placed``, so that room for tokens is taken in the order in which experts are
    admitted, at all dies before any weights, and a die never waits for tokens that cannot come.

    Args:
        groups: int64 [passes, experts]. per_expert: micro-slices of each expert, all computed at every die of its
            trajectory, int64 [experts]. ready, done: gates of each pass (tokens.add_residents); every packet of partial
            sums signals ``done``.
    """
    shape = shares.load.shape
    placed, arrived = np.full(shape[:2], -1, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
    arrived[:] = ready[:, None, None]
    computed = np.full(shape, -1, dtype=np.int64)
    if shares.moves.size == 0:
        return Movement(placed, arrived, computed)
    p, e, source, to, tokens = shares.moves.T
    packets, received = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    np.add.at(packets, (p, e, to), 1)
    np.add.at(received, (p, e, to), tokens)
    at = np.nonzero(packets)
    targets = (packets > 0).sum(axis=2)
    placed[targets > 0] = work.new_gates(targets[targets > 0])
    later = ready[at[0]] >= 0
    arrived[at] = work.new_gates(packets[at] + later)
    computed[at] = work.new_gates(per_expert[at[1]])
    combined = np.full(shape, -1, dtype=np.int64)
    combined[at] = work.new_gates(packets[at])
    work.add_chunks(
        group=groups[at[0], at[1]],
        bytes=received[at] * workload.remote_token_bytes,
        die=at[2][:, None],
        pool=TOKENS,
        arrive=placed[at[0], at[1]][:, None],
        hold=combined[at][:, None],
    )
    waits = tuple(index[later] for index in at)
    work.add_chunks(
        group=groups[waits[0], waits[1]],
        bytes=0,
        die=waits[2][:, None],
        pool=TOKENS,
        gate=ready[waits[0]],
        arrive=arrived[waits][:, None],
    )
    nothing = np.full(p.size, -1, dtype=np.int64)
    work.add_chunks(
        group=groups[p, e],
        bytes=tokens * workload.activation_bytes,
        die=np.stack((source, to), axis=1),
        pool=TOKENS,
        gate=placed[p, e],
        space=0,
        arrive=np.stack((nothing, arrived[p, e, to]), axis=1),
    )
    work.add_chunks(
        group=groups[p, e],
        bytes=tokens * workload.partial_sum_bytes,
        die=np.stack((to, source), axis=1),
        pool=TOKENS,
        gate=computed[p, e, to],
        space=0,
        arrive=np.stack((nothing, combined[p, e, to]), axis=1),
        done=np.stack((nothing, done[p]), axis=1),
    )
    return Movement(placed, arrived, computed)
