"""What adaptive streaming does with each expert: what moves, how it is cut, and what stays for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import BufferTooSmallError
from expertstream.schedule import all_tokens_move, balanced, passes, token_turns, tokens_move, weights_stay
from expertstream.schedule.adaptive import SMALLEST_TURN, TURN_SHARE
from expertstream.strategy.micro_slices import micro_slices
from expertstream.strategy.plan import Options
from expertstream.strategy.tiles import tile_sizes
from expertstream.strategy.tokens import token_batches
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
SLICES_A_DIE = 2  # at least, of an expert whose weights stay
import os
BUDGET_SHARE = float(os.environ.get('BS','3.33'))  # weights that stay may fill 1/2 of what they could, where channels or arrays have time to spare
BLOCKS_PER_BUDGET = int(os.environ.get('BB','6'))  # so many blocks of an expert's micro-slices are there at once


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
        gathers: bool, whether its tokens move to where its weights come in.
        most: int64, tokens that move at a time, if they do.
        parts: int64, its micro-slices.
        block: int64, micro-slices that stay together until all turns of tokens have met them; 0: none stay.
        spare, budget: bytes of each weight buffer that those that stay leave free, and that they may fill.
    """

    gathers: NDArray[np.bool_]
    most: Ints
    tile: Ints
    parts: Ints
    block: Ints
    spare: int
    budget: int

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
        n_dies, n_channels = workload.package.n_dies, len(workload.package.channels)
        tokens = batches.load.sum(axis=2).max(axis=0)
        cheaper = _cheaper(workload, batches, times)
        parts, _ = micro_slices(workload, options.micro_slices)
        load_ps = batches.passes * times.load
        turns = np.array([token_turns(n, room) if c else 0 for n, c in zip(tokens.tolist(), cheaper, strict=True)])
        clusters = np.where(cheaper, _clusters(workload, tokens, room, load_ps, times.compute), 1)
        clustered = bool((clusters > 1).any()) and n_dies > 1
        turns = np.where(clusters > 1, 1, turns)
        turns = np.where(clusters > n_dies, 0, turns)
        clusters = np.where(clusters > n_dies, 1, clusters)
        stay = weights_stay(int(turns.max(initial=0)), load_ps, times.compute) and not clustered
        whole, stays = (turns == 1) & (not stay), (turns > 0) & stay
        weight_buffer, columns = workload.package.die.weight_buffer_bytes, workload.columns
        circulate = bool((~(whole | stays) & (tokens > 0)).any())
        while True:
            # What passes through the die of its channel shares that buffer with trajectories over all dies: of these
            # two must fit, as in micro_slices.py, whichever micro-slices they are made of.
            import os
            slots = 2 * (n_dies + 1) if circulate or not stay and not clustered else (16 if balanced(load_ps, times.compute) else int(os.environ.get('SS','18')))
            if clustered: slots = 2 * (n_dies + 1) if circulate or not balanced(load_ps, times.compute) else int(os.environ.get('SLB', str(2*n_dies+2)))
            widest = max(1, weight_buffer // (slots * workload.column_bytes))
            spare = (n_dies + 1 if circulate else int(clusters.max()) + 1) * widest * workload.column_bytes
            # Beside those that stay, one that passes through must find room for itself, the next stop and the spare.
            budget = max(0, weight_buffer - spare - 2 * widest * workload.column_bytes)
            budget = int(budget/(BUDGET_SHARE if int(turns.max(initial=0)) > 1 else float(os.environ.get('B1','2'))))
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
        striped = np.maximum(2, -(-columns // (widest * n_channels))) * n_channels
        step = np.lcm(n_channels, n_dies // clusters)
        striped = np.where(clusters > 1, -(-striped // step) * step, striped)
        return cls(
            whole | stays,
            np.maximum(1, -(-tokens // np.maximum(turns, 1))),
            np.where(whole, clusters, 1),
            np.where(stays, block * blocks, np.where(whole, striped, parts * n_dies)),
            block,
            spare,
            budget,
        )


def _clusters(workload: LayerWorkload, tokens: Ints, room: int, load_ps: int, compute_ps: int) -> Ints:
    import os
    n = workload.package.n_dies
    if load_ps < float(os.environ.get("GR", "0.857")) * compute_ps:
        return np.ones(tokens.size, dtype=np.int64)
    K = float(os.environ.get("K", "10"))
    options = tile_sizes(workload.package)
    return np.array([next((g for g in options if t * (K if g < n else 2) <= g * room), n + 1) for t in tokens.tolist()], dtype=np.int64)


def adaptive_batches(workload: LayerWorkload, times: LayerTimes) -> Batches:
    """The fewest passes, or more that give room for tokens of other dies, if that pays (``schedule.passes``)."""
    batches = token_batches(workload)
    reserve = TURN_SHARE * SMALLEST_TURN * workload.remote_token_bytes
    try:
        enough, plenty = (token_batches(workload, n * reserve).passes for n in (1, 2))
    except BufferTooSmallError:  # not even in the smallest passes
        return batches
    return workload.in_passes(passes(batches.passes, enough, plenty, times.load, times.compute))


def _cheaper(workload: LayerWorkload, batches: Batches, times: LayerTimes) -> NDArray[np.bool_]:
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
