"""What adaptive streaming does with each expert: what moves, how it is cut, and what stays for how long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.schedule import token_turns, tokens_move
from expertstream.strategy.micro_slices import micro_slices
from expertstream.strategy.plan import Options
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
COMPUTE_BOUND = 3
SLICES_A_DIE = 2  # at least, of an expert whose tokens come in turns


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
    parts: Ints
    block: Ints
    spare: int
    budget: int

    @classmethod
    def of(cls, workload: LayerWorkload, batches: Batches, room: int, options: Options) -> Modes:
        """Decide for all passes.

        Args:
            room: tokens of other dies, with their partial sums, for which every die has room.
        """
        n_dies, n_channels = workload.package.n_dies, len(workload.package.channels)
        tokens = batches.load.sum(axis=2).max(axis=0)
        stops = (batches.load > 0).sum(axis=2).max(axis=0)
        spread = min(n_dies, n_channels)
        token_bytes = workload.activation_bytes + workload.partial_sum_bytes
        weights = workload.expert_bytes
        cheaper = np.array(
            [
                n_dies > 1 and tokens_move(n, s, spread, token_bytes, w)
                for n, s, w in zip(tokens.tolist(), stops.tolist(), weights.tolist(), strict=True)
            ]
        )
        parts, _ = micro_slices(workload, options.micro_slices)
        turns = np.array([token_turns(n, room) if c else 0 for n, c in zip(tokens.tolist(), cheaper, strict=True)])
        whole, several = turns == 1, (turns > 1) & compute_bound(workload)
        weight_buffer, columns = workload.package.die.weight_buffer_bytes, workload.columns
        circulate = bool((~(whole | several) & (tokens > 0)).any())
        while True:
            # What passes through the die of its channel shares that buffer with trajectories over all dies: of these
            # two must fit, as in micro_slices.py, whichever micro-slices they are made of.
            slots = 2 * (n_dies + 1) if circulate or not compute_bound(workload) else 16
            widest = max(1, weight_buffer // (slots * workload.column_bytes))
            spare = (n_dies + 1 if circulate else 2) * widest * workload.column_bytes
            # Beside those that stay, one that passes through must find room for itself, the next stop and the spare.
            budget = max(0, weight_buffer - spare - 2 * widest * workload.column_bytes)
            a_die = np.maximum(SLICES_A_DIE, -(-columns // (widest * n_dies)))  # micro-slices of an expert at a die
            size = -(-columns // (a_die * n_dies)) * workload.column_bytes
            at_once = np.minimum(a_die, budget // 2 // np.maximum(size, 1))
            fits = (at_once > 0) & (a_die * n_dies <= columns)
            if circulate or fits[several].all():
                break
            circulate = True
        several &= fits
        blocks = -(-a_die // np.maximum(at_once, 1))
        block = np.where(several, -(-a_die // blocks) * n_dies, 0)
        stay = np.maximum(2, -(-columns // (widest * n_channels))) * n_channels
        return cls(
            whole | several,
            np.maximum(1, -(-tokens // np.maximum(turns, 1))),
            np.where(several, block * blocks, np.where(whole, stay, parts * n_dies)),
            block,
            spare,
            budget,
        )


def compute_bound(workload: LayerWorkload) -> bool:
    """Whether computing the layer takes at least COMPUTE_BOUND times as long as loading it once."""
    package = workload.package
    size = int(workload.expert_bytes[workload.activated].sum())
    rate = sum(c.effective_bytes_per_s for c in package.channels)
    return workload.macs * rate >= COMPUTE_BOUND * size * package.macs_per_s
