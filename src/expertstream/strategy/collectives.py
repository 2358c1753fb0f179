"""Ring all-gather and ring reduce-scatter of token blocks, as chunks for the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.package import Topology

Ints = NDArray[np.int64]


def ring_gather(work: Work, topology: Topology, group: int, block_bytes: Ints, gate: ArrayLike) -> Ints:
    """Send every die's block round the ring, so that all dies have all blocks.

    The blocks land in an area that the caller has placed, so they take no space of their own.

    Args:
        block_bytes: int64 [dies]; a die without a block sends nothing.
        gate: opens when the blocks may start; one gate, or one per die of departure, int64 [dies].

    Returns:
        The gates that open when a die has all blocks, int64 [dies].
    """
    n_dies = topology.n_dies
    ring = np.array(topology.ring(range(n_dies)), dtype=np.int64)
    sources = np.flatnonzero(block_bytes[ring])
    gathered = work.new_gates(np.full(n_dies, sources.size))
    stops = ring[(sources[:, None] + np.arange(n_dies)) % n_dies]
    work.add_chunks(
        group=group,
        bytes=block_bytes[stops[:, 0]],
        die=stops,
        pool=TOKENS,
        gate=np.broadcast_to(gate, n_dies)[stops[:, 0]],
        space=0,
        arrive=gathered[stops],
    )
    return gathered


def ring_reduce_scatter(
    work: Work, topology: Topology, group: int, block_bytes: Ints, computed: Ints, done: int
) -> int:
    """Let every die's block of partial sums go round the ring, collect what each die has, and end at that die.

    Arriving partial sums are added at once, without landing space and in no time.

    Args:
        block_bytes: int64 [dies]; bytes of the block that ends at a die.
        computed: int64 [dies], the gates that open when a die's own partial sums are complete.
        done: the gate that each block signals at its end.

    Returns:
        How many blocks there are: the signals that ``done`` gets.
    """
    n_dies = topology.n_dies
    ring = np.array(topology.ring(range(n_dies)), dtype=np.int64)
    ends = np.flatnonzero(block_bytes[ring])
    stops = ring[(ends[:, None] + 1 + np.arange(n_dies)) % n_dies]
    last = np.full(stops.shape, -1, dtype=np.int64)
    last[:, -1] = done
    work.add_chunks(
        group=group,
        bytes=block_bytes[stops[:, -1]],
        die=stops,
        pool=TOKENS,
        gate=computed[stops[:, 0]],
        space=0,
        stop_gate=computed[stops],
        done=last,
    )
    return int(ends.size)
