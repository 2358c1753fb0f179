"""What adaptive streaming does with each expert: what moves, how it is cut, and what stays for how long."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import BufferTooSmallError
from expertstream.package.timing import compute_ps
from expertstream.schedule import (
    by_expert,
    ddr_binds,
    least_traffic,
    links_are_free,
    passes,
    tile_size,
    token_turns,
    weights_stay,
)
from expertstream.schedule.adaptive import (
    LINK_SHARE,
    LINK_SHARE_OF_DDR,
    SMALLEST_TURN,
    TILE_SHARE,
    TILE_SHARES_OF_DDR,
    TURN_SHARE,
)
from expertstream.strategy.micro_slices import micro_slices
from expertstream.strategy.plan import Options
from expertstream.strategy.tiles import tile_sizes
from expertstream.strategy.tokens import token_batches
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
SLICES_A_DIE = 2  # at least, of an expert whose weights stay
SLOTS = 18  # micro-slices of experts whose weights stay that fit a weight buffer, at least
ENTRY_SLOTS = 24  # of those whose weights are computed where they come in, and gone then
TILE_SLOTS = 34  # of those whose weights visit several dies
FEWEST_SLOTS = 8  # of either, where
OVERHEAD_SHARE = 20  # more than 1/20 of the layer's time would go into control overhead
BUDGET_SHARE = 1 / 2  # of what weights that stay could fill, where all tokens of an expert come at once
BUDGET_SHARE_OF_TURNS = 3 / 10  # the same where tokens come in turns, and fill their buffers
BLOCKS_PER_BUDGET = 6  # so many blocks of an expert's micro-slices are there at once


class LayerTimes(NamedTuple):
    """Time that the layer takes at full rate of all channels, and of all MAC arrays, ps."""

    load: int
    compute: int

    @classmethod
    def of(cls, workload: LayerWorkload, batches: Batches) -> LayerTimes:
        """Of these passes; each loads the experts that have tokens in it."""
        package = workload.package
        size = int(((batches.load > 0).any(axis=2) * workload.expert_bytes).sum())
        return cls(size * 10**12 // package.ddr_bytes_per_s, workload.macs * 10**12 // package.macs_per_s)


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
        links_ps: about the time for which a link is busy with gathered tokens and with weights that visit several dies.
    """

    tile: Ints
    most: Ints
    parts: Ints
    block: Ints
    spare: int
    budget: int
    links_ps: int

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

        Weights stay or visit tiles that leave room for tokens, whichever suits the layer better, if links have time
        for it; or the other, if they have time for that; or else what needs the fewest bytes on links. Where DDR binds,
        larger tiles come first, for fewer copies of tokens, if they leave links more time than that.

        Args:
            room: tokens of other dies, with their partial sums, for which every die has room.
        """
        n_dies, token_bytes = workload.package.n_dies, workload.remote_token_bytes
        tokens = batches.load.sum(axis=2).max(axis=0)
        stops = (batches.load > 0).sum(axis=2).max(axis=0)
        sizes = tile_sizes(workload.package)

        def visiting(share: int) -> Modes:
            tile = np.array([tile_size(n, room, sizes, share) for n in tokens.tolist()], dtype=np.int64)
            return cls._visiting(workload, batches, tile, options, times)

        stay = [(partial(cls._staying, workload, batches, room, options), LINK_SHARE)]
        visit = [(partial(visiting, TILE_SHARE), LINK_SHARE)]
        if ddr_binds(*times):
            larger, large = (partial(visiting, share) for share in TILE_SHARES_OF_DDR)
            visit = [(larger, LINK_SHARE_OF_DDR), (large, LINK_SHARE)]
        forms = [*stay, *visit] if weights_stay(*times) else [*visit, *stay]
        for form, share in forms if n_dies > 1 else []:
            modes = form()
            if links_are_free(modes.links_ps, *times, share):
                return modes
        each = zip(tokens.tolist(), stops.tolist(), workload.expert_bytes.tolist(), strict=True)
        tile = np.array([least_traffic(n, s, token_bytes, w, room, sizes) for n, s, w in each], dtype=np.int64)
        return cls._visiting(workload, batches, tile, options, times)

    @classmethod
    def _visiting(
        cls, workload: LayerWorkload, batches: Batches, tile: Ints, options: Options, times: LayerTimes
    ) -> Modes:
        """No weights stay; ``tile``: int64 [experts], as of the class.

        Micro-slices are narrow, or as wide as their control overhead asks for and as two trajectories allow.
        """
        n_dies, buffer = workload.package.n_dies, workload.package.die.weight_buffer_bytes
        load = batches.load.sum(axis=2)
        visits = np.where(tile > 0, tile, n_dies)
        slots = np.maximum(2 * (n_dies + 1), np.where(tile == 1, ENTRY_SLOTS, TILE_SLOTS))
        widest = np.maximum(1, buffer // (slots * workload.column_bytes))
        parts = _parts(workload, tile, widest, options)
        overhead_ps = int(compute_ps(workload.package.die, 0, 0, 0, workload.model.weight_bits))
        taken_ps = int(((load > 0) * parts * visits).sum()) * overhead_ps // n_dies
        if taken_ps * OVERHEAD_SHARE > max(times):
            fewest = max(FEWEST_SLOTS, 2 * (int(visits[load.any(axis=0)].max()) + 1))
            wider = widest * (taken_ps * OVERHEAD_SHARE) // max(*times, 1)
            widest = np.maximum(widest, np.minimum(wider, buffer // (fewest * workload.column_bytes)))
            parts = _parts(workload, tile, widest, options)
        block = np.zeros_like(tile)
        links_ps = _links_ps(workload, batches, tile, parts, block)
        return cls(tile, load.max(axis=0), parts, block, 0, 0, links_ps)

    @classmethod
    def _staying(cls, workload: LayerWorkload, batches: Batches, room: int, options: Options) -> Modes:
        """Weights stay, of all experts whose tokens can be gathered in turns."""
        tokens = batches.load.sum(axis=2).max(axis=0)
        turns = np.array([token_turns(n, room) for n in tokens.tolist()], dtype=np.int64)
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
        most = np.maximum(1, -(-tokens // np.maximum(turns, 1)))
        return cls(tile, most, parts, block, spare, budget, _links_ps(workload, batches, tile, parts, block))


def _links_ps(workload: LayerWorkload, batches: Batches, tile: Ints, parts: Ints, block: Ints) -> int:
    """``Modes.links_ps``; arrays as in Modes."""
    n_dies = workload.package.n_dies
    load = batches.load.sum(axis=2)
    visits = np.where(tile > 0, tile, n_dies)
    gathers = np.where(block > 0, parts // np.maximum(block, 1), 1)  # how often tokens are gathered
    sent = (load * gathers * (n_dies // visits - 1)).sum() * workload.remote_token_bytes
    sent += ((load > 0) * workload.expert_bytes * (visits - 1)).sum()
    return int(sent) // n_dies * 10**12 // workload.package.d2d.bandwidth_bytes_per_s


def _parts(workload: LayerWorkload, tile: Ints, widest: Ints | int, options: Options) -> Ints:
    """Micro-slices of each expert whose weights do not stay, int64 [experts].

    They are striped over the channels, and every tile of several dies gets equally many.

    Args:
        tile: int64 [experts], as in Modes. widest: columns of a micro-slice, int or int64 [experts].
    """
    n_dies, n_channels = workload.package.n_dies, len(workload.package.channels)
    circulating: Ints | int = micro_slices(workload, options.micro_slices)[0]
    if options.micro_slices is None:
        finest = max(1, workload.package.die.weight_buffer_bytes // (TILE_SLOTS * workload.column_bytes))
        circulating = np.maximum(circulating, -(-workload.columns // (finest * n_dies)))
    striped = np.maximum(2, -(-workload.columns // (widest * n_channels))) * n_channels
    step = np.lcm(n_channels, n_dies // np.maximum(tile, 1))
    return np.where(tile == 0, circulating * n_dies, np.where(tile == 1, striped, -(-striped // step) * step))


def adaptive_batches(workload: LayerWorkload) -> Batches:
    """The fewest passes, or more that give room for tokens of other dies, if that pays (``schedule.passes``)."""
    times = LayerTimes.of(workload, workload.in_passes(1))
    chosen = token_batches(workload).passes
    reserve = TURN_SHARE * SMALLEST_TURN * workload.remote_token_bytes
    try:
        enough, plenty = (token_batches(workload, n * reserve).passes for n in (1, 2))
        chosen = passes(chosen, enough, plenty, *times)
    except BufferTooSmallError:  # not even in the smallest passes
        pass
    return workload.in_passes_by_expert(chosen) if by_expert(chosen, *times) else workload.in_passes(chosen)
