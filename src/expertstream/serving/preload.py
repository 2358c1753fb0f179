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

from expertstream.engine.layout import LOAD, SEND, WEIGHTS
from expertstream.engine.state import transfer_ps
from expertstream.engine.timeline import Timeline
from expertstream.package import Package, Topology
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


@dataclass(frozen=True)
class Lead:
    """What a block needs before its start, of what the block before leaves.

    Attributes:
        held_bytes: largest sum of what lies in each die's weight buffer before the start.
        sends: whether links are used.
    """

    held_bytes: tuple[int, ...]
    sends: bool

    def fits(self, before: Tail) -> bool:
        """Whether the block before leaves that much; of its links nothing is known."""
        room = zip(self.held_bytes, before.free_bytes, strict=True)
        return not self.sends and all(held <= free for held, free in room)


def measure_lead(timeline: Timeline) -> Lead:
    """What was done before the timeline's origin."""
    origin = timeline.origin_ps
    held = []
    for die in range(timeline.network.n_dies):
        mine = (timeline.hold_die == die) & (timeline.hold_pool == WEIGHTS) & (timeline.hold_from_ps < origin)
        held.append(_peak(timeline, mine, 0))
    return Lead(tuple(held), bool(((timeline.kind == SEND) & (timeline.start_ps < origin)).any()))


def own_channels(package: Package) -> Ints:
    """The channel in which a die's weights lie, where it is attached to that die alone; else -1; int64 [dies]."""
    nearest = Topology.of(package).nearest_channel
    alone = [package.channels[channel].dies == (die,) for die, channel in enumerate(nearest.tolist())]
    return np.where(alone, nearest, -1)


def measure_tail(own: Ints, plan: Plan, timeline: Timeline) -> Tail:
    """How long each die's channel stands idle at the end, and what its weight buffer has room for."""
    end = timeline.end_of_all_ps
    loads = timeline.kind == LOAD
    last = np.zeros(timeline.network.n_channels, dtype=np.int64)
    np.maximum.at(last, timeline.resource[loads], timeline.end_ps[loads])
    since = np.where(own >= 0, last[own], end)
    # An entry that is still to come may ask for more than its own bytes, at most for one largest chunk a stop.
    largest = int(timeline.hold_bytes[timeline.hold_pool == WEIGHTS].max(initial=0))
    most = largest * int(plan.work.chunk_arrays()["n_stops"].max(initial=0))
    kept = 0 if timeline.network.transit_bytes is None else int(timeline.network.transit_bytes[WEIGHTS])
    free = []
    for die, start in enumerate(since.tolist()):
        stays = (timeline.hold_die == die) & (timeline.hold_pool == WEIGHTS) & (timeline.hold_to_ps > start)
        asked = most if (timeline.hold_from_ps[stays] >= start).any() else 0
        free.append(max(0, int(plan.buffer_bytes[die, WEIGHTS]) - kept - _peak(timeline, stays, start) - asked))
    first = int(since.min(initial=end))
    idle = np.minimum(end - since, timeline.latency_ps)
    return Tail(tuple(idle.tolist()), tuple(free), _peak(timeline, timeline.hold_to_ps > first, first))


def _peak(timeline: Timeline, stays: NDArray[np.bool_], start: int) -> int:
    """Largest sum of the bytes of ``stays`` from ``start`` on, all of which end after it."""
    held = timeline.hold_bytes[stays]
    times = np.concatenate((np.maximum(timeline.hold_from_ps[stays], start), timeline.hold_to_ps[stays]))
    change = np.concatenate((held, -held))
    order = np.argsort(times, kind="stable")  # what is taken at an instant counts before what is given back
    return int(np.cumsum(change[order]).max(initial=0))


class Preloads:
    """What may be loaded ahead for a block.

    Args:
        own: of ``own_channels``. first: for each die the bytes of the micro-slices that its channel loads first, int64
            [n].
    """

    def __init__(self, package: Package, own: Ints, first: Sequence[Ints]) -> None:
        self._room = package.die.weight_buffer_bytes
        self._bytes = [np.cumsum(n_bytes) for n_bytes in first]
        self._arrive = []  # of each micro-slice, ps after the first of them starts
        for channel, n_bytes in zip(own.tolist(), first, strict=True):
            spec = package.channels[channel]
            speed = np.full_like(n_bytes, spec.effective_bytes_per_s)
            times = spec.latency_ps + np.cumsum(transfer_ps(n_bytes, speed))
            self._arrive.append(times if channel >= 0 else times[:0])

    def count(self, tail: Tail) -> Ints:
        """How many micro-slices each die's channel can load in the tail of the block before, int64 [dies]."""
        counts = np.zeros(len(self._bytes), dtype=np.int64)
        for die, (arrive, held) in enumerate(zip(self._arrive, self._bytes, strict=True)):
            if arrive.size and arrive[0] <= tail.idle_ps[die]:
                in_time = int(np.searchsorted(arrive, tail.idle_ps[die], side="right"))
                fitting = int(np.searchsorted(held, min(tail.free_bytes[die], self._room), side="right"))
                counts[die] = min(in_time, fitting)
        return counts

    def loaded(self, counts: Ints) -> int:
        """Bytes of so many micro-slices."""
        return sum(int(held[n - 1]) for n, held in zip(counts.tolist(), self._bytes, strict=True) if n)
