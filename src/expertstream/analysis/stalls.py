"""Why MAC arrays stand idle: every idle picosecond of every die has one cause."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis.sums import totals
from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.engine.timeline import Timeline

Ints = NDArray[np.int64]
CAUSES = ("ddr", "d2d", "space", "other die", "no work")
DDR, D2D, SPACE, OTHER, NO_WORK = range(5)


def stall_ps(timeline: Timeline) -> Ints:
    """Idle time of each die by cause, int64 [dies, len(CAUSES)] ps; with the compute time it adds up to the latency.

    An idle gap is explained by what the compute that ends it waited for, in this order:

    1. Until its weights have come from DDR (load end plus channel latency; for a chunk that was not loaded, such as a
       whole expert that waits for all its parts, the last load of its group so far), by what that channel did:
       "ddr" while it loaded (this chunk or others before it), "space" while its next load found no room, "other die"
       while nothing was asked of it (work elsewhere had to end, or a decision be taken, first).
    2. Until the chunk has come from another die: "other die" before its transfer was asked for, "space" for the time
       up to its start that it waited for room, "d2d" for the rest: links busy, the transfer and its latency.
    3. From then on the compute waited at a gate: "d2d" if a transfer into the die opened it, else "other die".

    After a die's last compute, and throughout for a die without computes: "no work". A head start counts for nothing.
    """
    out = np.zeros((timeline.network.n_dies, len(CAUSES)), dtype=np.int64)
    computes, before, last_end = _computes(timeline)
    out[:, NO_WORK] = timeline.end_of_all_ps - last_end
    idle = timeline.start_ps[computes] > before
    rows, begin = computes[idle], before[idle]
    if rows.size == 0:
        return out
    parts = np.zeros((len(CAUSES), rows.size), dtype=np.int64)
    loaded = _wait_for_load(timeline, rows, begin, parts)
    here = _wait_for_send(timeline, rows, loaded, parts)
    _wait_at_gate(timeline, rows, here, parts)
    for cause in range(NO_WORK):
        out[:, cause] = totals(timeline.die[rows], parts[cause], out.shape[0])
    return out


def _computes(timeline: Timeline) -> tuple[Ints, Ints, Ints]:
    """Rows of the computes, when the die last became idle before each, and when each die did for good."""
    n_dies = timeline.network.n_dies
    rows = np.flatnonzero(timeline.kind == COMPUTE)
    die = timeline.die[rows]
    order = np.argsort(die.astype(np.uint16), kind="stable")  # 16 bits: radix sort
    rows, die = rows[order], die[order]
    end = timeline.end_ps[rows]
    before = np.concatenate((np.zeros(1, dtype=np.int64), end[:-1]))[: rows.size]
    origin = timeline.origin_ps
    count = np.bincount(die, minlength=n_dies)
    ends = np.cumsum(count)
    some = count > 0
    before[(ends - count)[some]] = origin
    last_end = np.full(n_dies, origin, dtype=np.int64)
    last_end[some] = end[ends[some] - 1]
    return rows, before, last_end


def _wait_for_load(timeline: Timeline, rows: Ints, begin: Ints, parts: Ints) -> Ints:
    """Explain each gap until the weights are loaded; return the time from which the gap is still to be explained."""
    loads = np.flatnonzero(timeline.kind == LOAD)
    if loads.size == 0:
        return begin
    channel = timeline.resource[loads]
    loads = loads[np.argsort(channel.astype(np.uint16), kind="stable")]
    channel, start, end = timeline.resource[loads], timeline.start_ps[loads], timeline.end_ps[loads]
    arrival = end + timeline.network.channel_latency_ps[channel]
    cause = _load_of(timeline, rows, loads, arrival)
    until = np.where(cause >= 0, np.maximum(arrival[cause], begin), begin)
    first = np.concatenate(([True], channel[1:] != channel[:-1]))
    free = np.where(first, 0, np.concatenate(([0], end[:-1])))  # when the channel became free
    asked = np.maximum(timeline.ready_ps[loads], free)
    unasked, blocked = np.cumsum(asked - free), np.cumsum(start - asked)  # up to the start of each load
    behind = np.flatnonzero((cause >= 0) & (until > begin))
    mine, since = cause[behind], begin[behind]
    # The first load of that channel that ended after the gap began; none began before it if ``mine`` did.
    at = np.minimum(_position(channel, end, channel[mine], since), mine)
    done_unasked = unasked[at] - np.clip(asked[at] - since, 0, asked[at] - free[at])
    done_blocked = blocked[at] - np.clip(start[at] - since, 0, start[at] - asked[at])
    parts[OTHER, behind] += unasked[mine] - done_unasked
    parts[SPACE, behind] += blocked[mine] - done_blocked
    parts[DDR] += until - begin - parts[OTHER] - parts[SPACE]
    return until


def _load_of(timeline: Timeline, rows: Ints, loads: Ints, arrival: Ints) -> Ints:
    """For each compute the place in ``loads`` of what it waited for, -1 for none."""
    by_chunk = np.full(int(timeline.chunk.max()) + 1, -1, dtype=np.int64)
    by_chunk[timeline.chunk[loads]] = np.arange(loads.size)
    cause = by_chunk[timeline.chunk[rows]]
    unloaded = np.flatnonzero(cause < 0)
    if unloaded.size:
        index = rows[unloaded]
        group = timeline.group[loads]
        cause[unloaded] = _latest(group, arrival, timeline.group[index], timeline.start_ps[index])
    return cause


def _wait_for_send(timeline: Timeline, rows: Ints, begin: Ints, parts: Ints) -> Ints:
    """Explain the rest until the chunk has come from another die; return from when on there is still a rest."""
    sends = np.flatnonzero(timeline.kind == SEND)
    by_stop = np.full(int(timeline.stop.max()) + 2, -1, dtype=np.int64)
    by_stop[timeline.stop[sends] + 1] = sends  # a chunk's stops are numbered in order
    send = by_stop[timeline.stop[rows]]
    came = np.flatnonzero(send >= 0)
    send, since = send[came], begin[came]
    until = np.maximum(_arrival(timeline, send), since)
    start = timeline.start_ps[send]
    other = np.clip(timeline.ready_ps[send] - since, 0, None)
    space = np.clip(start - np.maximum(start - timeline.space_ps[send], since), 0, None)
    parts[OTHER, came] += other
    parts[SPACE, came] += space
    parts[D2D, came] += until - since - other - space
    here = begin.copy()
    here[came] = until
    return here


def _wait_at_gate(timeline: Timeline, rows: Ints, begin: Ints, parts: Ints) -> None:
    """Explain the rest: the chunk was here, but its gate was shut until the compute started."""
    rest = timeline.start_ps[rows] - begin
    waited = np.flatnonzero(rest)
    if waited.size == 0:
        return
    sends = np.flatnonzero(timeline.kind == SEND)
    arrival = _arrival(timeline, sends)
    index = rows[waited]
    latest = _latest(timeline.die[sends], arrival, timeline.die[index], timeline.start_ps[index])
    opened = latest >= 0
    opened[opened] = arrival[latest[opened]] == timeline.start_ps[index[opened]]
    parts[D2D, waited] += np.where(opened, rest[waited], 0)
    parts[OTHER, waited] += np.where(opened, 0, rest[waited])


def _arrival(timeline: Timeline, sends: Ints) -> Ints:
    pair = timeline.source[sends] * timeline.network.n_dies + timeline.die[sends]
    arrival: Ints = timeline.end_ps[sends] + timeline.network.path_latency_ps[pair]
    return arrival


def _latest(key: Ints, time: Ints, at_key: Ints, at_time: Ints) -> Ints:
    """For each query the index of the last event of its key up to its time, -1 for none.

    Args:
        key, time: int64 [events]. at_key, at_time: int64 [queries].
    """
    order: Ints = np.argsort(time, kind="stable")
    order = order[np.argsort(key[order], kind="stable")]
    found = _position(key[order], time[order], at_key, at_time) - 1
    if order.size == 0:
        return found
    found_one = (found >= 0) & (key[order][found] == at_key)
    return np.where(found_one, order[found], -1).astype(np.int64)


def _position(key: Ints, time: Ints, at_key: Ints, at_time: Ints) -> Ints:
    """How many events, sorted by key and time, come up to and with each query's key and time; int64 [queries]."""
    moments = np.sort(time)
    # Times by their rank: key and time then fit one integer, whatever the times are.
    scale = time.size + 1
    events = key * scale + np.searchsorted(moments, time, side="right")
    queries = at_key * scale + np.searchsorted(moments, at_time, side="right")
    return np.searchsorted(events, queries, side="right").astype(np.int64)
