"""What adaptive streaming does with each expert: what moves, how it is cut, and what stays for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import BufferTooSmallError
from expertstream.schedule import all_tokens_move, passes, tile_size, token_turns, tokens_move, weights_stay
from expertstream.schedule.adaptive import SMALLEST_TURN, TURN_SHARE
from expertstream.strategy.micro_slices import micro_slices
from expertstream.strategy.plan import Options
from expertstream.strategy.tiles import tile_sizes
from expertstream.strategy.tokens import token_batches
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
SLICES_A_DIE = 2  # at least, of an expert whose weights stay
SLOTS = 18  # micro-slices of experts whose weights stay that fit a weight buffer, at least
BUDGET_SHARE = 1 / 2  # of what weights that stay could fill, where all tokens of an expert come at once
BUDGET_SHARE_OF_TURNS = 3 / 10  # the same where tokens come in turns, and fill their buffers
BLOCKS_PER_BUDGET = 6  # so many blocks of an expert's micro-slices are there at once


class LayerTimes(NamedTuple):
    """Time that the layer takes at full rate of all channels, each expert loaded once, and of all MAC arrays, ps."""

    load: int
    compute: int

    @classmethod
    def of(cls, workload: LayerWorkload) -> LayerTimes:
        """Of the activated experts."""
        package = workload.package
        size = int(workload.expert_bytes[workload.activated].sum())
        rate = sum(c.effective_bytes_per_s for c in package.channels)
        return cls(size * 10**12 // rate, workload.macs * 10**12 // package.macs_per_s)


@dataclass(frozen=True, eq=False)
class Modes:
    """Choices for each expert of a layer, arrays over the experts.

    Attributes:
        tile: int64, dies that its micro-slices visit, each of which has a part of its tokens (tiles.py); 0: its tokens
            stay, as far as they need not be evened out, and its weights visit all dies that hold some.
        most: int64, tokens that are gathered at a time, if they are.
        parts: int64, its micro-slices.
        block: int64, micro-slices that stay together until all turns of tokens have met them; 0: none stay.
        spare, budget: bytes of each weight buffer that those that stay leave free, and that they may fill.
    """

    tile: Ints
    most: Ints
    parts: Ints
    block: Ints
    spare: int
    budget: int

    @property
    def gathers(self) -> NDArray[np.bool_]:
        """Whether an expert's tokens move to where its weights come in, bool [experts]."""
        return self.tile > 0

    @property
    def stays(self) -> NDArray[np.bool_]:
        """Whether an expert's micro-slices stay, bool [experts]."""
        return self.block > 0

    @classmethod
    def of(cls, workload: LayerWorkload, batches: Batches, room: int, options: Options, times: LayerTimes) -> Modes:
        """Decide for all passes.

        Args:
            room: tokens of other dies, with their partial sums, for which every die has room.
        """
        n_dies = workload.package.n_dies
        tokens = batches.load.sum(axis=2).max(axis=0)
        moves = _moves(workload, batches, times)
        if weights_stay(batches.passes * times.load, times.compute):
            turns = _each(moves, tokens, lambda n: token_turns(n, room))
            return cls._staying(workload, tokens, turns, options)
        sizes = tile_sizes(workload.package)
        tile = _each(moves, tokens, lambda n: tile_size(n, room, sizes))
        widest = workload.package.die.weight_buffer_bytes // (2 * (n_dies + 1) * workload.column_bytes)
        return cls(tile, tokens, _parts(workload, tile, max(1, widest), options), np.zeros_like(tile), 0, 0)

    @classmethod
    def _staying(cls, workload: LayerWorkload, tokens: Ints, turns: Ints, options: Options) -> Modes:
        """Weights of all gathered experts stay; ``turns``: of each expert's tokens, 0: they are not gathered."""
        n_dies, stays = workload.package.n_dies, turns > 0
        weight_buffer, columns = workload.package.die.weight_buffer_bytes, workload.columns
        circulate = bool((~stays & (tokens > 0)).any())
        while True:
            # What passes through the die of its channel shares that buffer with trajectories over all dies: of these
            # two must fit, as in micro_slices.py, whichever micro-slices they are made of.
            slots = 2 * (n_dies + 1) if circulate else SLOTS
            widest = max(1, weight_buffer // (slots * workload.column_bytes))
            spare = (n_dies + 1 if circulate else 2) * widest * workload.column_bytes
            # Beside those that stay, one that passes through must find room for itself, the next stop and the spare.
            share = BUDGET_SHARE if turns.max(initial=0) <= 1 else BUDGET_SHARE_OF_TURNS
            budget = int(share * max(0, weight_buffer - spare - 2 * widest * workload.column_bytes))
            a_die = np.maximum(SLICES_A_DIE, -(-columns // (widest * n_dies)))  # micro-slices of an expert at a die
            size = -(-columns // (a_die * n_dies)) * workload.column_bytes
            at_once = np.maximum(budget // BLOCKS_PER_BUDGET // np.maximum(size, 1), 2 * size <= budget)
            at_once = np.minimum(a_die, at_once)
            fits = (at_once > 0) & (a_die * n_dies <= columns)
            if circulate or fits[stays].all():
                break
            circulate = True
        stays &= fits
        blocks = -(-a_die // np.maximum(at_once, 1))
        block = np.where(stays, -(-a_die // blocks) * n_dies, 0)
        tile = stays.astype(np.int64)
        parts = np.where(stays, block * blocks, _parts(workload, tile, widest, options))
        return cls(tile, np.maximum(1, -(-tokens // np.maximum(turns, 1))), parts, block, spare, budget)


def _each(some: NDArray[np.bool_], tokens: Ints, decide: Callable[[int], int]) -> Ints:
    """A decision for some experts by their tokens, int64 [experts]; 0 for the others."""
    return np.array([decide(n) if yes else 0 for n, yes in zip(tokens.tolist(), some, strict=True)], dtype=np.int64)


def _parts(workload: LayerWorkload, tile: Ints, widest: int, options: Options) -> Ints:
    """Micro-slices of each expert whose weights do not stay, int64 [experts].

    They are striped over the channels, and every tile of several dies gets equally many.

    Args:
        tile: int64 [experts], as in Modes. widest: columns of a micro-slice.
    """
    n_dies, n_channels = workload.package.n_dies, len(workload.package.channels)
    circulating, _ = micro_slices(workload, options.micro_slices)
    striped = np.maximum(2, -(-workload.columns // (widest * n_channels))) * n_channels
    step = np.lcm(n_channels, n_dies // np.maximum(tile, 1))
    return np.where(tile == 0, circulating * n_dies, np.where(tile == 1, striped, -(-striped // step) * step))


def adaptive_batches(workload: LayerWorkload, times: LayerTimes) -> Batches:
    """The fewest passes, or more that give room for tokens of other dies, if that pays (``schedule.passes``)."""
    batches = token_batches(workload)
    reserve = TURN_SHARE * SMALLEST_TURN * workload.remote_token_bytes
    try:
        enough, plenty = (token_batches(workload, n * reserve).passes for n in (1, 2))
    except BufferTooSmallError:  # not even in the smallest passes
        return batches
    return workload.in_passes(passes(batches.passes, enough, plenty, times.load, times.compute))


def _moves(workload: LayerWorkload, batches: Batches, times: LayerTimes) -> NDArray[np.bool_]:
    """Whether moving an expert's tokens is cheaper than circulating its weights, bool [experts]."""
    n_dies, n_channels = workload.package.n_dies, len(workload.package.channels)
    token_bytes = workload.remote_token_bytes
    sent = int(batches.load.sum()) * token_bytes * (n_dies - 1) // n_dies
    links_ps = sent * 10**12 // workload.package.d2d.bandwidth_bytes_per_s
    if n_dies > 1 and all_tokens_move(links_ps, batches.passes * times.load, times.compute):
        return np.ones(workload.columns.size, dtype=np.bool_)
    tokens = batches.load.sum(axis=2).max(axis=0)
    stops = (batches.load > 0).sum(axis=2).max(axis=0)
    spread = min(n_dies, n_channels)
    return np.array(
        [
            n_dies > 1 and tokens_move(n, s, spread, token_bytes, w)
            for n, s, w in zip(tokens.tolist(), stops.tolist(), workload.expert_bytes.tolist(), strict=True)
        ]
    )
