"""Tokens that stay where they live: activations for the layer, accumulators for a pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError
from expertstream.strategy.plan import ranks_within
from expertstream.strategy.tiles import Tiles
from expertstream.units import counted, format_bytes
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
            f"{counted(workload.n_tokens, 'token')} on {counted(workload.package.n_dies, 'die')} need at least "
            f"{format_bytes(needed)} even in the smallest passes; use fewer tokens per iteration or a larger token "
            "buffer"
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
    group = work.new_group(decided=False)
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
    def of(cls, batches: Batches, most: Ints | int, tiles: Tiles | None = None) -> TokenTurns:
        """Turns of at most ``most`` tokens, int or int64 [experts].

        With ``tiles`` the tokens of an expert with tiles of several dies are cut into a turn for each die of a tile:
        turn k has those that live at die k of any tile, as far as the turns remain equal.
        """
        _, n_experts, n_dies = batches.load.shape
        cell = np.repeat(np.arange(batches.load.size), batches.load.reshape(-1))
        parts = np.ones(n_experts, dtype=np.int64) if tiles is None else tiles.size
        part = np.zeros(cell.size, dtype=np.int64)
        if tiles is not None:
            for n in np.unique(parts[parts > 1]).tolist():
                mine = parts[cell // n_dies % n_experts] == n
                part[mine] = tiles.place[n][1][cell[mine] % n_dies]
        order = np.lexsort((cell % n_dies, ranks_within(cell), part, cell // n_dies))
        key = cell[order] // n_dies
        lists, index, size = np.unique(key, return_inverse=True, return_counts=True)
        expert = lists % n_experts
        tiled = parts[expert] > 1
        count = np.where(tiled, np.minimum(parts[expert], size), -(-size // np.broadcast_to(most, n_experts)[expert]))
        first = np.cumsum(count) - count
        turn = first[index] + ranks_within(key) * count[index] // size[index]
        if tiles is not None:
            _even_out(turn, tiles, n_dies, expert, size, first, count, np.flatnonzero(tiled))
        n = int(count.sum())
        ptr = np.concatenate(([0], np.cumsum(np.bincount(turn, minlength=n)))).astype(np.int64)
        on_die = np.bincount(turn * n_dies + cell[order] % n_dies, minlength=n * n_dies).astype(np.int64)
        return cls(lists, count, first, ptr, batches.ids[order], on_die.reshape(n, n_dies))


def _even_out(
    turn: Ints, tiles: Tiles, n_dies: int, expert: Ints, size: Ints, first: Ints, count: Ints, lists: Ints
) -> None:
    """Let the dies that have been given the fewest tokens by larger experts have what does not divide evenly."""
    begin = np.cumsum(size) - size
    given = np.zeros(n_dies)
    for i in lists[np.argsort(-size[lists], kind="stable")].tolist():
        members = tiles.members[int(tiles.size[expert[i]])][:, : int(count[i])]
        load = np.full(members.shape[1], size[i] // count[i])
        load[np.argsort(given[members].sum(axis=0), kind="stable")[: size[i] % count[i]]] += 1
        given[members] += load / members.shape[0]
        turn[begin[i] : begin[i] + size[i]] = first[i] + np.repeat(np.arange(load.size), load)
