"""Overlap of blocks: DDR channels that have nothing left to load for a block load weights of the next one.

Only weights that depend on no result are loaded early: those of the first projections of an attention block, or of the
output head. A channel loads whole micro-slices, for the die that it is attached to, after its last transfer for the
present block and no later than that block's end. They take weight-buffer space that the block neither holds nor can ask
for any more, so that the block runs as it would alone; the next block finds them in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import LOAD, WEIGHTS
from expertstream.engine.state import transfer_ps
from expertstream.engine.timeline import Timeline
from expertstream.package import Package
from expertstream.strategy import Plan

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tail:
    """What a block leaves unused at its end.

    Attributes:
        idle_ps: for each die the time from its channel's last transfer to the block's end; 0 for a die without a
            channel of its own. free_bytes: weight-buffer space of each die that is certainly free in that time.
        held_bytes: largest sum of all buffers from the first of these times on.
    """

    idle_ps: tuple[int, ...]
    free_bytes: tuple[int, ...]
    held_bytes: int


def own_channels(package: Package) -> Ints:
    """The channel that serves a die alone, int64 [dies], -1 where there is none."""
    own = np.full(package.n_dies, -1, dtype=np.int64)
    for number, channel in reversed(list(enumerate(package.channels))):
        if len(channel.dies) == 1:
            own[channel.dies[0]] = number
    return own


def measure_tail(own: Ints, plan: Plan, timeline: Timeline) -> Tail:
    """How long each die's channel stands idle at the end, and what its weight buffer has room for."""
    end = timeline.latency_ps
    loads = timeline.kind == LOAD
    last = np.zeros(timeline.network.n_channels, dtype=np.int64)
    np.maximum.at(last, timeline.resource[loads], timeline.end_ps[loads])
    since = np.where(own >= 0, last[own], end)
    # An entry that is still to come may ask for more than its own bytes, at most for one largest chunk a stop.
    largest = int(timeline.hold_bytes[timeline.hold_pool == WEIGHTS].max(initial=0))
    most = largest * int(plan.work.chunk_arrays()["n_stops"].max(initial=0))
    free = []
    for die, start in enumerate(since.tolist()):
        stays = (timeline.hold_die == die) & (timeline.hold_pool == WEIGHTS) & (timeline.hold_to_ps > start)
        asked = most if (timeline.hold_from_ps[stays] >= start).any() else 0
        free.append(max(0, int(plan.buffer_bytes[die, WEIGHTS]) - _peak(timeline, stays, start) - asked))
    first = int(since.min(initial=end))
    return Tail(tuple((end - since).tolist()), tuple(free), _peak(timeline, timeline.hold_to_ps > first, first))


def _peak(timeline: Timeline, stays: NDArray[np.bool_], start: int) -> int:
    """Largest sum of the bytes of ``stays`` from ``start`` on, all of which end after it."""
    held = timeline.hold_bytes[stays]
    times = np.concatenate((np.maximum(timeline.hold_from_ps[stays], start), timeline.hold_to_ps[stays]))
    change = np.concatenate((held, -held))
    order = np.argsort(times, kind="stable")  # what is taken at an instant counts before what is given back
    return int(np.cumsum(change[order]).max(initial=0))


def count_preloads(package: Package, own: Ints, first: Sequence[Ints], tail: Tail) -> Ints:
    """How many of a block's first micro-slices each die's channel can load in the tail of the block before.

    Args:
        first: for each die the bytes of the micro-slices that its channel loads first, int64 [n].

    Returns:
        int64 [dies].
    """
    counts = np.zeros(len(first), dtype=np.int64)
    for die, n_bytes in enumerate(first):
        if own[die] < 0 or tail.idle_ps[die] == 0 or not n_bytes.size:
            continue
        channel = package.channels[int(own[die])]
        arrive = channel.latency_ps + np.cumsum(
            transfer_ps(n_bytes, np.full_like(n_bytes, channel.effective_bytes_per_s))
        )
        room = min(tail.free_bytes[die], package.die.weight_buffer_bytes)
        counts[die] = np.count_nonzero((arrive <= tail.idle_ps[die]) & (np.cumsum(n_bytes) <= room))
    return counts
