"""Tokens that stay where they live: activations for the layer, accumulators for a pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError
from expertstream.strategy.plan import ranks_within
from expertstream.units import format_bytes
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]


def token_batches(workload: LayerWorkload, reserve_bytes: int = 0) -> Batches:
    """Cut the tokens into the fewest passes whose residents leave ``reserve_bytes`` of every token buffer free.

    Residents of a die: the activations of all its tokens, for the whole layer, and the accumulators of its tokens of
    the running pass. A finished token's output replaces its activations in place.

    Raises:
        BufferTooSmallError: even one token per die and pass does not fit.
    """
    on_die = workload.tokens_on_die
    room = workload.package.die.token_buffer_bytes - reserve_bytes - int(on_die.max()) * workload.activation_bytes
    per_pass = room // workload.partial_sum_bytes
    if per_pass < 1:
        needed = workload.package.die.token_buffer_bytes - room + workload.partial_sum_bytes
        raise BufferTooSmallError(
            f"the token buffer of a die is {format_bytes(workload.package.die.token_buffer_bytes)}, but "
            f"{workload.n_tokens} tokens on {workload.package.n_dies} dies need at least {format_bytes(needed)} "
            "even in the smallest passes; use fewer tokens per iteration or a larger token buffer"
        )
    return workload.in_passes(-(-int(on_die.max()) // int(per_pass)))


def add_residents(work: Work, workload: LayerWorkload, batches: Batches, done: Ints) -> tuple[int, Ints]:
    """Place activations and accumulators.

    Args:
        done: int64 [passes], the gate that opens when a pass is finished.

    Returns:
        The group of the residents, and the gate that opens when a pass's accumulators are in place, int64 [passes]
        (-1 for the first pass: they are there from the start).
    """
    group = work.new_group()
    dies = np.flatnonzero(workload.tokens_on_die)
    work.add_chunks(
        group=group,
        bytes=workload.tokens_on_die[dies] * workload.activation_bytes,
        die=dies[:, None],
        pool=TOKENS,
        hold=done[-1],
    )
    ready = np.full(batches.passes, -1, dtype=np.int64)
    for p in range(batches.passes):
        here = np.flatnonzero(batches.tokens[p])
        if p > 0:
            ready[p] = work.new_gates(here.size)[0]
        work.add_chunks(
            group=group,
            bytes=batches.tokens[p, here] * workload.partial_sum_bytes,
            die=here[:, None],
            pool=TOKENS,
            gate=done[p - 1] if p > 0 else -1,
            arrive=ready[p],
            hold=done[p],
        )
    return group, ready


@dataclass(frozen=True, eq=False)
class DieClusters:
    """Each expert's partition of the dies into clusters of equal size, arcs of the ring.

    Tokens of an expert are divided over its clusters and gathered in each; its weights visit all clusters.

    Attributes:
        count: int64 [experts], clusters of each expert; divides the number of dies.
        ring: int64 [dies], the ring. place: int64 [dies], place of each die on it.
    """

    count: Ints
    ring: Ints
    place: Ints

    @classmethod
    def of(cls, ring: list[int], count: Ints) -> DieClusters:
        order = np.array(ring, dtype=np.int64)
        return cls(count, order, np.argsort(order))

    def peers(self, expert: int, die: Ints) -> Ints:
        """For each of these dies those with its place in every cluster, int64 [n, clusters]; column k in cluster k."""
        n, count = self.ring.size, int(self.count[expert])
        size = n // count
        return self.ring[self.place[die][:, None] % size + size * np.arange(count)]

    def of_die(self, expert: int, die: Ints) -> Ints:
        return self.place[die] * self.count[expert] // self.ring.size


@dataclass(frozen=True, eq=False)
class TokenTurns:
    """The tokens of each (pass, expert) that has some, cut into turns; each takes about evenly from all dies.

    Attributes:
        key: int64 [lists], pass x experts + expert, ascending.
        count, first: turns of each, and which is its first, int64 [lists].
        ptr, ids: tokens of turn i are ``ids[ptr[i] : ptr[i + 1]]``.
        on_die: int64 [turns, dies], how many of them live on each die.
    """

    key: Ints
    count: Ints
    first: Ints
    ptr: Ints
    ids: Ints
    on_die: Ints

    @classmethod
    def of(cls, batches: Batches, most: Ints | int, clusters: DieClusters | None = None) -> TokenTurns:
        """Turns of at most ``most`` tokens, int or int64 [experts].

        With ``clusters`` the tokens of an expert that has several are cut into as many turns, one for each cluster, which gets
        those that live there, as far as the turns remain equal.
        """
        _, n_experts, n_dies = batches.load.shape
        cell = np.repeat(np.arange(batches.load.size), batches.load.reshape(-1))
        number = np.ones(n_experts, dtype=np.int64) if clusters is None else clusters.count
        near = np.zeros(cell.size, dtype=np.int64)
        if clusters is not None:
            near = clusters.place[cell % n_dies] * number[cell // n_dies % n_experts] // n_dies
        order = np.lexsort((cell % n_dies, ranks_within(cell), near, cell // n_dies))
        key = cell[order] // n_dies
        lists, index, size = np.unique(key, return_inverse=True, return_counts=True)
        expert = lists % n_experts
        several = number[expert] > 1
        count = np.where(several, np.minimum(number[expert], size), -(-size // np.broadcast_to(most, n_experts)[expert]))
        first = np.cumsum(count) - count
        # The remainder goes to each of the clusters in turn.
        extra = np.where(several, np.arange(lists.size) % count, 0)
        turn = first[index] + (ranks_within(key) * count[index] + extra[index]) // size[index]
        n = int(count.sum())
        ptr = np.concatenate(([0], np.cumsum(np.bincount(turn, minlength=n)))).astype(np.int64)
        on_die = np.bincount(turn * n_dies + cell[order] % n_dies, minlength=n * n_dies).astype(np.int64)
        return cls(lists, count, first, ptr, batches.ids[order], on_die.reshape(n, n_dies))
