"""The event kernel: chunks, transfers, computes, buffers. It knows nothing of what the chunks mean.

Every chunk visits its stops in order. At a stop it takes buffer space, may wait for a gate, may be computed, and is
sent on; the space is given back when the last use has ended (its compute, its onward transfer, its hold gate).

No deadlock. A chunk may enter a buffer only if, besides its own bytes, one largest chunk per later stop of its own
fits as well (S_NEED; the forward-count rule of Toueg and Ullman, 1979). Suppose chunks were stuck. Let p be stuck at u
with r stops left after the next one, v: less than S_NEED is free at v. The chunk q that entered v last had r_q stops
left and r_q slots were free after it came, and at least as many are now; so r_q <= r. If r_q = 0, q only waits for
its compute, which ends. Otherwise q is stuck in turn with r_q - 1 < r stops left after its next one: the number falls
at every step and cannot fall for ever.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.compile import njit
from expertstream.engine.layout import (
    ADMITTED,
    C_BYTES,
    C_CHANNEL,
    C_FIRST,
    C_FLOW,
    C_GATE,
    C_GROUP,
    C_LEFT,
    C_LOAD,
    C_NEXT,
    C_POOL,
    COMPLETE,
    COMPUTE,
    DECIDE,
    DONE,
    EV_ADMIT,
    EV_ARRIVE,
    EV_COMPUTE_END,
    EV_LOAD_END,
    EV_SEND_END,
    K_DECIDE,
    K_DIRTY,
    K_EVENTS,
    K_HANDLED,
    K_NOW,
    K_OPENED,
    K_POPPED,
    K_ROWS,
    K_SEQ,
    LOAD,
    S_ARRIVE,
    S_BLOCKED,
    S_CHUNK,
    S_CLASS,
    S_COMPUTE,
    S_DIE,
    S_DONE,
    S_FREED,
    S_GATE,
    S_HOLD,
    S_LAST,
    S_LIFO,
    S_NEED,
    S_NEXT,
    S_READY,
    S_REFS,
    S_SEQ,
    S_SPACE,
    S_SPACE_WAIT,
    S_STATE,
    S_TAKEN,
    SEND,
    STARTED,
    T_END,
    T_KIND,
    T_READY,
    T_RESOURCE,
    T_SPACE,
    T_START,
    T_STOP,
)

Table = NDArray[np.int64]


class State(NamedTuple):
    """All of a run's state, as int64 arrays, so that the kernel can stop at a decision point and go on.

    Shapes: P = 2 x dies pools (pool = 2 x die + kind), L links, H channels, G groups.
    """

    stops: Table  # [stops, S_COLS]
    chunks: Table  # [chunks, C_COLS]
    gates: Table  # [gates] signals missing
    gate_ptr: Table  # [gates + 1]
    gate_items: Table  # waiters of each gate: 4 x index + (0 chunk, 1 stop's gate, 2 stop's hold)
    opened: Table  # [gates] queue of opened gates
    group_ptr: Table  # [groups + 1]
    group_chunks: Table  # chunks of each group, in load order
    group_left: Table  # [groups] unfinished chunks
    group_state: Table  # [groups] WAITING, ADMITTED, STARTED or COMPLETE
    events: Table  # [capacity, 3] heap of (time, sequence, 8 x item + kind)
    ready: Table  # [stops, 2] one heap a die of (key, stop)
    ready_base: Table  # [dies]
    ready_size: Table  # [dies]
    die_busy: Table  # [dies]
    channel_busy: Table  # [channels] end of the running load, -1 idle
    channel_head: Table  # [channels, 3] first and last queued chunk, time since which the first could have started
    channel_latency: Table  # [channels]
    link_busy: Table  # [links]
    link_wait: Table  # [links, 2] first and last waiting stop
    pool_free: Table  # [P]
    pool_wait: Table  # [P, 4] sends: first, last; placements: first, last
    dirty: Table  # [P] stack of pools that gave space back
    is_dirty: Table  # [P]
    path_ptr: Table  # [dies * dies + 1]
    path_links: Table
    path_class: Table  # [dies * dies, 3] bandwidth bytes/s, latency ps, header bytes
    rows: Table  # [rows, T_COLS]
    ctl: Table  # [K_COLS]


@njit
def _push(heap: Table, n: int, time: int, seq: int, item: int) -> None:
    i = n
    while i > 0:
        up = (i - 1) >> 1
        if heap[up, 0] < time or (heap[up, 0] == time and heap[up, 1] < seq):
            break
        heap[i, 0] = heap[up, 0]
        heap[i, 1] = heap[up, 1]
        heap[i, 2] = heap[up, 2]
        i = up
    heap[i, 0] = time
    heap[i, 1] = seq
    heap[i, 2] = item


@njit
def _pop(heap: Table, n: int) -> None:
    """Drop the root of a heap of ``n`` events."""
    last = n - 1
    time = heap[last, 0]
    seq = heap[last, 1]
    item = heap[last, 2]
    i = 0
    while True:
        c = 2 * i + 1
        if c >= last:
            break
        if c + 1 < last and (
            heap[c + 1, 0] < heap[c, 0] or (heap[c + 1, 0] == heap[c, 0] and heap[c + 1, 1] < heap[c, 1])
        ):
            c += 1
        if time < heap[c, 0] or (time == heap[c, 0] and seq < heap[c, 1]):
            break
        heap[i, 0] = heap[c, 0]
        heap[i, 1] = heap[c, 1]
        heap[i, 2] = heap[c, 2]
        i = c
    heap[i, 0] = time
    heap[i, 1] = seq
    heap[i, 2] = item


@njit
def _event(st: Any, time: int, kind: int, item: int) -> None:
    # Ties in time: kind is the priority (ends before arrivals before admissions), then the order of creation.
    ctl = st.ctl
    ctl[K_SEQ] += 1
    _push(st.events, ctl[K_EVENTS], time, (kind << 56) | ctl[K_SEQ], 8 * item + kind)
    ctl[K_EVENTS] += 1


@njit
def _row(st: Any, end: int, kind: int, resource: int, stop: int, ready: int, space: int) -> None:
    n = st.ctl[K_ROWS]
    st.ctl[K_ROWS] = n + 1
    row = st.rows[n]
    row[T_START] = st.ctl[K_NOW]
    row[T_END] = end
    row[T_KIND] = kind
    row[T_RESOURCE] = resource
    row[T_STOP] = stop
    row[T_READY] = ready
    row[T_SPACE] = space


@njit
def _signal(st: Any, gate: int) -> None:
    if gate >= 0:
        st.gates[gate] -= 1
        if st.gates[gate] == 0:
            st.opened[st.ctl[K_OPENED]] = gate
            st.ctl[K_OPENED] += 1


@njit
def _take(st: Any, stop: int) -> bool:
    """Take the buffer space of a stop if the forward-count rule allows it."""
    s = st.stops[stop]
    space = s[S_SPACE]
    if space > 0:
        pool = 2 * s[S_DIE] + st.chunks[s[S_CHUNK], C_POOL]
        if st.pool_free[pool] < s[S_NEED]:
            return False
        st.pool_free[pool] -= space
    s[S_TAKEN] = st.ctl[K_NOW]
    return True


@njit
def _release(st: Any, stop: int) -> None:
    """End one use of a stop's buffer space; give it back after the last."""
    s = st.stops[stop]
    s[S_REFS] -= 1
    if s[S_REFS] > 0:
        return
    s[S_FREED] = st.ctl[K_NOW]
    chunk = s[S_CHUNK]
    if s[S_SPACE] > 0:
        pool = 2 * s[S_DIE] + st.chunks[chunk, C_POOL]
        st.pool_free[pool] += s[S_SPACE]
        if st.is_dirty[pool] == 0:
            st.is_dirty[pool] = 1
            st.dirty[st.ctl[K_DIRTY]] = pool
            st.ctl[K_DIRTY] += 1
    st.chunks[chunk, C_LEFT] -= 1
    if st.chunks[chunk, C_LEFT] == 0:
        group = st.chunks[chunk, C_GROUP]
        st.group_left[group] -= 1
        if st.group_left[group] == 0:
            st.group_state[group] = COMPLETE
            st.ctl[K_DECIDE] = 1


@njit
def _wait_for_link(st: Any, link: int, stop: int) -> None:
    """Queue a send at a busy link, in the order of the requests."""
    stops = st.stops
    seq = stops[stop, S_SEQ]
    tail = st.link_wait[link, 1]
    stops[stop, S_NEXT] = -1
    if tail < 0:
        st.link_wait[link, 0] = stop
        st.link_wait[link, 1] = stop
    elif stops[tail, S_SEQ] < seq:
        stops[tail, S_NEXT] = stop
        st.link_wait[link, 1] = stop
    else:
        previous = -1
        at = st.link_wait[link, 0]
        while stops[at, S_SEQ] < seq:
            previous = at
            at = stops[at, S_NEXT]
        stops[stop, S_NEXT] = at
        if previous < 0:
            st.link_wait[link, 0] = stop
        else:
            stops[previous, S_NEXT] = stop


@njit
def _transfer_ps(n_bytes: int, bandwidth: int) -> int:
    """ceil(bytes * 1e12 / bandwidth) in two steps that stay within int64."""
    a = n_bytes * 1_000_000
    q = a // bandwidth
    return q * 1_000_000 + ((a - q * bandwidth) * 1_000_000 + bandwidth - 1) // bandwidth


@njit
def _try_send(st: Any, stop: int) -> bool:
    """Start the transfer from ``stop`` to the next one, or put it in the wait list of what it lacks first."""
    stops = st.stops
    s = stops[stop]
    chunk = s[S_CHUNK]
    n_dies = st.die_busy.shape[0]
    pair = s[S_DIE] * n_dies + stops[stop + 1, S_DIE]
    first = st.path_ptr[pair]
    last = st.path_ptr[pair + 1]
    now = st.ctl[K_NOW]
    if s[S_BLOCKED] >= 0:
        s[S_SPACE_WAIT] += now - s[S_BLOCKED]
        s[S_BLOCKED] = -1
    for i in range(first, last):
        if st.link_busy[st.path_links[i]]:
            _wait_for_link(st, st.path_links[i], stop)
            return False
    if not _take(st, stop + 1):
        pool = 2 * stops[stop + 1, S_DIE] + st.chunks[chunk, C_POOL]
        s[S_NEXT] = -1
        s[S_BLOCKED] = now
        if st.pool_wait[pool, 1] < 0:
            st.pool_wait[pool, 0] = stop
        else:
            stops[st.pool_wait[pool, 1], S_NEXT] = stop
        st.pool_wait[pool, 1] = stop
        return False
    end = now
    if last > first:
        cls = st.path_class[pair]
        end = now + _transfer_ps(st.chunks[chunk, C_BYTES] + cls[2], cls[0])
        for i in range(first, last):
            st.link_busy[st.path_links[i]] = 1
        _row(st, end, SEND, st.path_links[first], stop, s[S_READY], s[S_SPACE_WAIT])
    _event(st, end, EV_SEND_END, stop)
    return True


@njit
def _request_send(st: Any, stop: int) -> None:
    st.ctl[K_SEQ] += 1
    st.stops[stop, S_SEQ] = st.ctl[K_SEQ]
    st.stops[stop, S_READY] = st.ctl[K_NOW]
    _try_send(st, stop)


@njit
def _start_compute(st: Any, die: int) -> None:
    """Let an idle die take the first of its ready stops."""
    n = st.ready_size[die]
    if n == 0 or st.die_busy[die]:
        return
    base = st.ready_base[die]
    heap = st.ready
    stop = heap[base, 1]
    n -= 1
    st.ready_size[die] = n
    key = heap[base + n, 0]
    item = heap[base + n, 1]
    i = 0
    while True:
        c = 2 * i + 1
        if c >= n:
            break
        if c + 1 < n and heap[base + c + 1, 0] < heap[base + c, 0]:
            c += 1
        if key < heap[base + c, 0]:
            break
        heap[base + i, 0] = heap[base + c, 0]
        heap[base + i, 1] = heap[base + c, 1]
        i = c
    heap[base + i, 0] = key
    heap[base + i, 1] = item
    s = st.stops[stop]
    st.die_busy[die] = 1
    end = st.ctl[K_NOW] + s[S_COMPUTE]
    ready = s[S_READY]
    _row(st, end, COMPUTE, die, stop, ready, 0)
    _event(st, end, EV_COMPUTE_END, stop)
    if s[S_LAST] == 0 and st.chunks[s[S_CHUNK], C_FLOW]:
        _request_send(st, stop)


@njit
def _ready(st: Any, stop: int) -> None:
    """The chunk is here and its gate is open: queue its compute, or pass it on."""
    s = st.stops[stop]
    s[S_STATE] = 2
    if s[S_COMPUTE] > 0:
        st.ctl[K_SEQ] += 1
        seq = st.ctl[K_SEQ]
        key = (s[S_CLASS] << 48) + ((1 << 47) - seq if s[S_LIFO] else seq)
        s[S_READY] = st.ctl[K_NOW]
        die = s[S_DIE]
        base = st.ready_base[die]
        i = st.ready_size[die]
        st.ready_size[die] = i + 1
        while i > 0:
            up = (i - 1) >> 1
            if st.ready[base + up, 0] < key:
                break
            st.ready[base + i, 0] = st.ready[base + up, 0]
            st.ready[base + i, 1] = st.ready[base + up, 1]
            i = up
        st.ready[base + i, 0] = key
        st.ready[base + i, 1] = stop
        _start_compute(st, die)
    else:
        if s[S_LAST] == 0:
            _request_send(st, stop)
        _signal(st, s[S_DONE])
        _release(st, stop)


@njit
def _arrive(st: Any, stop: int) -> None:
    s = st.stops[stop]
    s[S_REFS] = 2 - s[S_LAST]
    if s[S_HOLD] >= 0 and st.gates[s[S_HOLD]] > 0:
        s[S_REFS] += 1
    else:
        s[S_HOLD] = -1
    s[S_STATE] = 1
    _signal(st, s[S_ARRIVE])
    if s[S_GATE] < 0 or st.gates[s[S_GATE]] <= 0:
        _ready(st, stop)


@njit
def _try_load(st: Any, channel: int) -> None:
    """Start the first queued load of an idle channel if its die has room."""
    head = st.channel_head[channel, 0]
    if head < 0 or st.channel_busy[channel]:
        return
    stop = st.chunks[head, C_FIRST]
    if not _take(st, stop):
        return
    now = st.ctl[K_NOW]
    st.channel_busy[channel] = 1
    nxt = st.chunks[head, C_NEXT]
    st.channel_head[channel, 0] = nxt
    end = now + st.chunks[head, C_LOAD]
    since = st.channel_head[channel, 2]
    _row(st, end, LOAD, channel, stop, since, now - since)
    if nxt < 0:
        st.channel_head[channel, 1] = -1
        st.ctl[K_DECIDE] = 1
    _event(st, end, EV_LOAD_END, stop)


@njit
def _inject(st: Any, chunk: int) -> None:
    """The chunk may start: queue its load, or place it where it is."""
    c = st.chunks[chunk]
    channel = c[C_CHANNEL]
    c[C_NEXT] = -1
    c[C_GATE] = -1
    if channel >= 0:
        if st.channel_head[channel, 1] < 0:
            st.channel_head[channel, 0] = chunk
            st.channel_head[channel, 2] = st.ctl[K_NOW]
        else:
            st.chunks[st.channel_head[channel, 1], C_NEXT] = chunk
        st.channel_head[channel, 1] = chunk
        _try_load(st, channel)
        return
    stop = c[C_FIRST]
    pool = 2 * st.stops[stop, S_DIE] + c[C_POOL]
    if st.stops[stop, S_SPACE] > 0 and (st.pool_wait[pool, 3] >= 0 or not _take(st, stop)):
        if st.pool_wait[pool, 3] < 0:
            st.pool_wait[pool, 2] = chunk
        else:
            st.chunks[st.pool_wait[pool, 3], C_NEXT] = chunk
        st.pool_wait[pool, 3] = chunk
        return
    st.stops[stop, S_TAKEN] = st.ctl[K_NOW]
    _arrive(st, stop)


@njit
def _wake_pool(st: Any, pool: int) -> None:
    """Space was given back: retry the sends, then the placements, then the loads that wait for it."""
    stop = st.pool_wait[pool, 0]
    st.pool_wait[pool, 0] = -1
    st.pool_wait[pool, 1] = -1
    while stop >= 0:
        nxt = st.stops[stop, S_NEXT]
        _try_send(st, stop)
        stop = nxt
    while st.pool_wait[pool, 2] >= 0:
        chunk = st.pool_wait[pool, 2]
        if not _take(st, st.chunks[chunk, C_FIRST]):
            break
        st.pool_wait[pool, 2] = st.chunks[chunk, C_NEXT]
        if st.pool_wait[pool, 2] < 0:
            st.pool_wait[pool, 3] = -1
        _arrive(st, st.chunks[chunk, C_FIRST])
    for channel in range(st.channel_busy.shape[0]):
        head = st.channel_head[channel, 0]
        if head >= 0 and st.channel_busy[channel] == 0:
            _try_load(st, channel)


@njit
def _wake_link(st: Any, link: int) -> None:
    stop = st.link_wait[link, 0]
    st.link_wait[link, 0] = -1
    st.link_wait[link, 1] = -1
    while stop >= 0:
        nxt = st.stops[stop, S_NEXT]
        started = _try_send(st, stop)
        if started and st.link_busy[link]:
            # The rest keeps waiting, in its order, without being looked at.
            if nxt >= 0:
                if st.link_wait[link, 0] < 0:
                    st.link_wait[link, 0] = nxt
                    at = nxt
                    while st.stops[at, S_NEXT] >= 0:
                        at = st.stops[at, S_NEXT]
                    st.link_wait[link, 1] = at
                else:
                    while nxt >= 0:
                        after = st.stops[nxt, S_NEXT]
                        _wait_for_link(st, link, nxt)
                        nxt = after
            return
        stop = nxt


@njit
def _settle(st: Any) -> None:
    """Handle opened gates and freed space until nothing more follows at this instant."""
    ctl = st.ctl
    while ctl[K_HANDLED] < ctl[K_OPENED] or ctl[K_DIRTY] > 0:
        if ctl[K_DIRTY] > 0:
            ctl[K_DIRTY] -= 1
            pool = st.dirty[ctl[K_DIRTY]]
            st.is_dirty[pool] = 0
            _wake_pool(st, pool)
            continue
        gate = st.opened[ctl[K_HANDLED]]
        ctl[K_HANDLED] += 1
        for i in range(st.gate_ptr[gate], st.gate_ptr[gate + 1]):
            kind = st.gate_items[i] & 3
            item = st.gate_items[i] >> 2
            if kind == 0:
                if st.chunks[item, C_GATE] >= 0 and st.group_state[st.chunks[item, C_GROUP]] == STARTED:
                    _inject(st, item)
            elif kind == 1:
                if st.stops[item, S_STATE] == 1:
                    _ready(st, item)
            elif st.stops[item, S_STATE] > 0 and st.stops[item, S_HOLD] >= 0:
                _release(st, item)


@njit
def admit(st: Any, group: int, at: int) -> None:
    """Let a group's chunks start at time ``at`` (ps, not before now)."""
    st.group_state[group] = ADMITTED
    _event(st, at, EV_ADMIT, group)


@njit
def advance(st: Any) -> int:
    """Run until no event is left (DONE) or a decision point has been reached (DECIDE)."""
    ctl = st.ctl
    events = st.events
    while ctl[K_EVENTS] > 0:
        time = events[0, 0]
        if ctl[K_DECIDE] and time > ctl[K_NOW]:
            return DECIDE
        kind = events[0, 2] & 7
        item = events[0, 2] >> 3
        _pop(events, ctl[K_EVENTS])
        ctl[K_EVENTS] -= 1
        ctl[K_POPPED] += 1
        ctl[K_NOW] = time
        if kind == EV_COMPUTE_END:
            die = st.stops[item, S_DIE]
            st.die_busy[die] = 0
            _signal(st, st.stops[item, S_DONE])
            if st.stops[item, S_LAST] == 0 and st.chunks[st.stops[item, S_CHUNK], C_FLOW] == 0:
                _request_send(st, item)
            _release(st, item)
            _start_compute(st, die)
        elif kind == EV_SEND_END:
            n_dies = st.die_busy.shape[0]
            pair = st.stops[item, S_DIE] * n_dies + st.stops[item + 1, S_DIE]
            for i in range(st.path_ptr[pair], st.path_ptr[pair + 1]):
                st.link_busy[st.path_links[i]] = 0
            if st.path_class[pair, 1] > 0:
                _event(st, time + st.path_class[pair, 1], EV_ARRIVE, item + 1)
            else:
                _arrive(st, item + 1)
            _release(st, item)
            for i in range(st.path_ptr[pair], st.path_ptr[pair + 1]):
                if st.link_wait[st.path_links[i], 0] >= 0 and st.link_busy[st.path_links[i]] == 0:
                    _wake_link(st, st.path_links[i])
        elif kind == EV_LOAD_END:
            channel = st.chunks[st.stops[item, S_CHUNK], C_CHANNEL]
            st.channel_busy[channel] = 0
            st.channel_head[channel, 2] = time
            if st.channel_latency[channel] > 0:
                _event(st, time + st.channel_latency[channel], EV_ARRIVE, item)
            else:
                _arrive(st, item)
            _try_load(st, channel)
        elif kind == EV_ARRIVE:
            _arrive(st, item)
        else:
            st.group_state[item] = STARTED
            ctl[K_DECIDE] = 1
            for i in range(st.group_ptr[item], st.group_ptr[item + 1]):
                chunk = st.group_chunks[i]
                gate = st.chunks[chunk, C_GATE]
                if gate < 0 or st.gates[gate] <= 0:
                    _inject(st, chunk)
        _settle(st)
    if ctl[K_DECIDE]:
        return DECIDE
    return DONE
