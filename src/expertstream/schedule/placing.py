"""Where the micro-slices of an expert whose tokens move are computed: at the die that would be done with each first."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.compile import njit

Ints = NDArray[np.int64]
MARGIN: Final = 4


@njit
def place(
    channel_free: Ints, link_free: Ints, die_free: Ints, path_ptr: Ints, path_links: Ints, channel: int, ways: Ints,
    load_ps: Ints, send_ps: Ints, compute_ps: Ints, die: Ints,
) -> None:  # fmt: skip
    """Choose a die for each micro-slice that a DDR channel loads, one after another.

    Three tables of clocks say until when channels, links and dies are taken by what has been placed before; they are
    kept up to date. A micro-slice comes in when its channel is free, crosses the links when all of its way are, and is
    computed when the die is free; the die that ends first gets it, the first of equals. It is then taken for a quarter
    (1 / MARGIN) longer, so that a die that could just keep up shares with its neighbours before others queue at it. In
    hardware a comparator tree over the candidate dies: an adder and two comparisons each, a cycle for each micro-slice.

    Args:
        channel_free, link_free, die_free: int64 [channels], [links], [dies], ps; changed.
        path_ptr, path_links: the ways between dies (Topology.network_arrays).
        ways: int64 [candidates, 2], a die that may compute, and the way from the die at the channel to it as a row of
            ``path_ptr``; nearest first.
        load_ps, send_ps, compute_ps: int64 [micro-slices].
        die: int64 [micro-slices], the result.
    """
    for i in range(load_ps.size):
        channel_free[channel] += load_ps[i]
        came = channel_free[channel]
        best, end, crossed = 0, np.int64(-1), came
        for k in range(ways.shape[0]):
            here = came
            first, last = path_ptr[ways[k, 1]], path_ptr[ways[k, 1] + 1]
            for j in range(first, last):
                here = max(here, link_free[path_links[j]])
            if last > first:
                here += send_ps[i]
            done = max(here, die_free[ways[k, 0]]) + compute_ps[i]
            if end < 0 or done < end:
                best, end, crossed = k, done, here
        for j in range(path_ptr[ways[best, 1]], path_ptr[ways[best, 1] + 1]):
            link_free[path_links[j]] = crossed
        die[i] = ways[best, 0]
        die_free[die[i]] = end + compute_ps[i] // MARGIN
