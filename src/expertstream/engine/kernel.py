"""The event kernel: chunks, transfers, computes, buffers. It knows nothing of what the chunks mean.

Every chunk visits its stops in order. At a stop it takes buffer space, may wait for a gate, may be computed, and is
sent on; the space is given back when the last use has ended (its compute, its onward transfer, its hold gate).

No deadlock. A chunk may enter a buffer only if, besides its own bytes, one largest chunk per later stop of its own
fits as well (S_NEED; the forward-count rule of Toueg and Ullman, 1979). Suppose chunks were stuck. Let p be stuck at u
with r stops left after the next one, v: less than S_NEED is free at v. The chunk q that entered v last had r_q stops
left and r_q slots were free after it came, and at least as many are now; so r_q <= r. If r_q = 0, q only waits for
its compute, which ends. Otherwise q is stuck in turn with r_q - 1 < r stops left after its next one: the number falls
at every step and cannot fall for ever.

All state is one int64 vector ``m`` (layout.py says where what is), so that the kernel can stop at a decision point and
go on, and because a call that passes thirty arrays costs more than the event that it serves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.compile import njit
from expertstream.engine.layout import (
    ADMITTED,
    C_BYTES,
    C_CHANNEL,
    C_COLS,
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
    K_CHANNELS,
    K_DECIDE,
    K_DIES,
    K_DIRTY,
    K_EVENTS,
    K_HANDLED,
    K_NOW,
    K_OPENED,
    K_POPPED,
    K_ROWS,
    K_SEQ,
    LOAD,
    O_CHANNEL_BUSY,
    O_CHANNEL_HEAD,
    O_CHANNEL_LATENCY,
    O_CHUNKS,
    O_DIE_BUSY,
    O_DIRTY,
    O_EVENTS,
    O_GATE_ITEMS,
    O_GATE_PTR,
    O_GATES,
    O_GROUP_CHUNKS,
    O_GROUP_LEFT,
    O_GROUP_PTR,
    O_GROUP_STATE,
    O_IS_DIRTY,
    O_LINK_BUSY,
    O_LINK_TO,
    O_LINK_WAIT,
    O_OPENED,
    O_PATH_CLASS,
    O_PATH_LINKS,
    O_PATH_PTR,
    O_POOL_FREE,
    O_POOL_WAIT,
    O_READY,
    O_READY_BASE,
    O_READY_SIZE,
    O_ROWS,
    O_STOPS,
    S_ARRIVE,
    S_BLOCKED,
    S_CHUNK,
    S_CLASS,
    S_COLS,
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
    S_SPACE,
    S_SPACE_WAIT,
    S_STATE,
    S_TAKEN,
    SEND,
    STARTED,
    T_COLS,
    T_END,
    T_KIND,
    T_READY,
    T_RESOURCE,
    T_SPACE,
    T_START,
    T_STOP,
)

Vector = NDArray[np.int64]


@njit
def _push(m: Vector, n: int, time: int, seq: int, item: int) -> None:
    h = m[O_EVENTS]
    i = n
    while i > 0:
        up = (i - 1) >> 1
        if m[h + 3 * up] < time or (m[h + 3 * up] == time and m[h + 3 * up + 1] < seq):
            break
        m[h + 3 * i] = m[h + 3 * up]
        m[h + 3 * i + 1] = m[h + 3 * up + 1]
        m[h + 3 * i + 2] = m[h + 3 * up + 2]
        i = up
    m[h + 3 * i] = time
    m[h + 3 * i + 1] = seq
    m[h + 3 * i + 2] = item


@njit
def _pop(m: Vector, n: int) -> None:
    """Drop the root of a heap of ``n`` events."""
    h = m[O_EVENTS]
    last = n - 1
    time = m[h + 3 * last]
    seq = m[h + 3 * last + 1]
    item = m[h + 3 * last + 2]
    i = 0
    while True:
        c = 2 * i + 1
        if c >= last:
            break
        if c + 1 < last and (
            m[h + 3 * (c + 1)] < m[h + 3 * c]
            or (m[h + 3 * (c + 1)] == m[h + 3 * c] and m[h + 3 * (c + 1) + 1] < m[h + 3 * c + 1])
        ):
            c += 1
        if time < m[h + 3 * c] or (time == m[h + 3 * c] and seq < m[h + 3 * c + 1]):
            break
        m[h + 3 * i] = m[h + 3 * c]
        m[h + 3 * i + 1] = m[h + 3 * c + 1]
        m[h + 3 * i + 2] = m[h + 3 * c + 2]
        i = c
    m[h + 3 * i] = time
    m[h + 3 * i + 1] = seq
    m[h + 3 * i + 2] = item


@njit
def _event(m: Vector, time: int, kind: int, item: int) -> None:
    # Ties in time: kind is the priority (ends before arrivals before admissions), then the order of creation.
    m[K_SEQ] += 1
    _push(m, m[K_EVENTS], time, (kind << 56) | m[K_SEQ], 8 * item + kind)
    m[K_EVENTS] += 1


@njit
def _row(m: Vector, end: int, kind: int, resource: int, stop: int, ready: int, space: int) -> None:
    n = m[K_ROWS]
    m[K_ROWS] = n + 1
    row = m[O_ROWS] + T_COLS * n
    m[row + T_START] = m[K_NOW]
    m[row + T_END] = end
    m[row + T_KIND] = kind
    m[row + T_RESOURCE] = resource
    m[row + T_STOP] = stop
    m[row + T_READY] = ready
    m[row + T_SPACE] = space


@njit
def _signal(m: Vector, gate: int) -> None:
    if gate >= 0:
        m[m[O_GATES] + gate] -= 1
        if m[m[O_GATES] + gate] == 0:
            m[m[O_OPENED] + m[K_OPENED]] = gate
            m[K_OPENED] += 1


@njit
def _take(m: Vector, stop: int) -> bool:
    """Take the buffer space of a stop if the forward-count rule allows it."""
    s = m[O_STOPS] + S_COLS * stop
    space = m[s + S_SPACE]
    if space > 0:
        pool = 2 * m[s + S_DIE] + m[m[O_CHUNKS] + C_COLS * m[s + S_CHUNK] + C_POOL]
        if m[m[O_POOL_FREE] + pool] < m[s + S_NEED]:
            return False
        m[m[O_POOL_FREE] + pool] -= space
    m[s + S_TAKEN] = m[K_NOW]
    return True


@njit
def _release(m: Vector, stop: int) -> None:
    """End one use of a stop's buffer space; give it back after the last."""
    s = m[O_STOPS] + S_COLS * stop
    m[s + S_REFS] -= 1
    if m[s + S_REFS] > 0:
        return
    m[s + S_FREED] = m[K_NOW]
    chunk = m[s + S_CHUNK]
    if m[s + S_SPACE] > 0:
        pool = 2 * m[s + S_DIE] + m[m[O_CHUNKS] + C_COLS * chunk + C_POOL]
        m[m[O_POOL_FREE] + pool] += m[s + S_SPACE]
        if m[m[O_IS_DIRTY] + pool] == 0:
            m[m[O_IS_DIRTY] + pool] = 1
            m[m[O_DIRTY] + m[K_DIRTY]] = pool
            m[K_DIRTY] += 1
    m[m[O_CHUNKS] + C_COLS * chunk + C_LEFT] -= 1
    if m[m[O_CHUNKS] + C_COLS * chunk + C_LEFT] == 0:
        group = m[m[O_CHUNKS] + C_COLS * chunk + C_GROUP]
        m[m[O_GROUP_LEFT] + group] -= 1
        if m[m[O_GROUP_LEFT] + group] == 0:
            m[m[O_GROUP_STATE] + group] = COMPLETE
            m[K_DECIDE] = 1


@njit
def _wait_for_link(m: Vector, link: int, stop: int) -> None:
    """Queue a send at a busy link, behind those that already wait there."""
    tail = m[m[O_LINK_WAIT] + 2 * link + 1]
    m[m[O_STOPS] + S_COLS * stop + S_NEXT] = -1
    if tail < 0:
        m[m[O_LINK_WAIT] + 2 * link] = stop
    else:
        m[m[O_STOPS] + S_COLS * tail + S_NEXT] = stop
    m[m[O_LINK_WAIT] + 2 * link + 1] = stop


@njit
def _transfer_ps(n_bytes: int, bandwidth: int) -> int:
    """ceil(bytes * 1e12 / bandwidth) in two steps that stay within int64."""
    a = n_bytes * 1_000_000
    q = a // bandwidth
    return q * 1_000_000 + ((a - q * bandwidth) * 1_000_000 + bandwidth - 1) // bandwidth


@njit
def _try_send(m: Vector, stop: int) -> bool:
    """Start the transfer from ``stop`` to the next one, or put it in the wait list of what it lacks first."""
    s = m[O_STOPS] + S_COLS * stop
    chunk = m[s + S_CHUNK]
    n_dies = m[K_DIES]
    pair = m[s + S_DIE] * n_dies + m[m[O_STOPS] + S_COLS * (stop + 1) + S_DIE]
    first = m[m[O_PATH_PTR] + pair]
    last = m[m[O_PATH_PTR] + pair + 1]
    now = m[K_NOW]
    if m[s + S_BLOCKED] >= 0:
        m[s + S_SPACE_WAIT] += now - m[s + S_BLOCKED]
        m[s + S_BLOCKED] = -1
    for i in range(first, last):
        if m[m[O_LINK_BUSY] + m[m[O_PATH_LINKS] + i]]:
            _wait_for_link(m, m[m[O_PATH_LINKS] + i], stop)
            return False
    if not _take(m, stop + 1):
        pool = 2 * m[m[O_STOPS] + S_COLS * (stop + 1) + S_DIE] + m[m[O_CHUNKS] + C_COLS * chunk + C_POOL]
        m[s + S_NEXT] = -1
        m[s + S_BLOCKED] = now
        if m[m[O_POOL_WAIT] + 4 * pool + 1] < 0:
            m[m[O_POOL_WAIT] + 4 * pool] = stop
        else:
            m[m[O_STOPS] + S_COLS * m[m[O_POOL_WAIT] + 4 * pool + 1] + S_NEXT] = stop
        m[m[O_POOL_WAIT] + 4 * pool + 1] = stop
        return False
    end = now
    if last > first:
        cls = m[O_PATH_CLASS] + 3 * pair
        end = now + _transfer_ps(m[m[O_CHUNKS] + C_COLS * chunk + C_BYTES] + m[cls + 2], m[cls])
        for i in range(first, last):
            m[m[O_LINK_BUSY] + m[m[O_PATH_LINKS] + i]] = 1
        _row(m, end, SEND, m[m[O_PATH_LINKS] + first], stop, m[s + S_READY], m[s + S_SPACE_WAIT])
    _event(m, end, EV_SEND_END, stop)
    return True


@njit
def _request_send(m: Vector, stop: int) -> None:
    m[m[O_STOPS] + S_COLS * stop + S_READY] = m[K_NOW]
    _try_send(m, stop)


@njit
def _start_compute(m: Vector, die: int) -> None:
    """Let an idle die take the first of its ready stops."""
    n = m[m[O_READY_SIZE] + die]
    if n == 0 or m[m[O_DIE_BUSY] + die]:
        return
    base = m[m[O_READY_BASE] + die]
    stop = m[m[O_READY] + 2 * base + 1]
    n -= 1
    m[m[O_READY_SIZE] + die] = n
    key = m[m[O_READY] + 2 * (base + n)]
    item = m[m[O_READY] + 2 * (base + n) + 1]
    i = 0
    while True:
        c = 2 * i + 1
        if c >= n:
            break
        if c + 1 < n and m[m[O_READY] + 2 * (base + c + 1)] < m[m[O_READY] + 2 * (base + c)]:
            c += 1
        if key < m[m[O_READY] + 2 * (base + c)]:
            break
        m[m[O_READY] + 2 * (base + i)] = m[m[O_READY] + 2 * (base + c)]
        m[m[O_READY] + 2 * (base + i) + 1] = m[m[O_READY] + 2 * (base + c) + 1]
        i = c
    m[m[O_READY] + 2 * (base + i)] = key
    m[m[O_READY] + 2 * (base + i) + 1] = item
    s = m[O_STOPS] + S_COLS * stop
    m[m[O_DIE_BUSY] + die] = 1
    end = m[K_NOW] + m[s + S_COMPUTE]
    ready = m[s + S_READY]
    _row(m, end, COMPUTE, die, stop, ready, 0)
    _event(m, end, EV_COMPUTE_END, stop)
    if m[s + S_LAST] == 0 and m[m[O_CHUNKS] + C_COLS * m[s + S_CHUNK] + C_FLOW]:
        _request_send(m, stop)


@njit
def _ready(m: Vector, stop: int) -> None:
    """The chunk is here and its gate is open: queue its compute, or pass it on."""
    s = m[O_STOPS] + S_COLS * stop
    m[s + S_STATE] = 2
    if m[s + S_COMPUTE] > 0:
        m[K_SEQ] += 1
        seq = m[K_SEQ]
        key = (m[s + S_CLASS] << 48) + ((1 << 47) - seq if m[s + S_LIFO] else seq)
        m[s + S_READY] = m[K_NOW]
        die = m[s + S_DIE]
        base = m[m[O_READY_BASE] + die]
        i = m[m[O_READY_SIZE] + die]
        m[m[O_READY_SIZE] + die] = i + 1
        while i > 0:
            up = (i - 1) >> 1
            if m[m[O_READY] + 2 * (base + up)] < key:
                break
            m[m[O_READY] + 2 * (base + i)] = m[m[O_READY] + 2 * (base + up)]
            m[m[O_READY] + 2 * (base + i) + 1] = m[m[O_READY] + 2 * (base + up) + 1]
            i = up
        m[m[O_READY] + 2 * (base + i)] = key
        m[m[O_READY] + 2 * (base + i) + 1] = stop
        _start_compute(m, die)
    else:
        if m[s + S_LAST] == 0:
            _request_send(m, stop)
        _signal(m, m[s + S_DONE])
        _release(m, stop)


@njit
def _arrive(m: Vector, stop: int) -> None:
    s = m[O_STOPS] + S_COLS * stop
    m[s + S_REFS] = 2 - m[s + S_LAST]
    if m[s + S_HOLD] >= 0 and m[m[O_GATES] + m[s + S_HOLD]] > 0:
        m[s + S_REFS] += 1
    else:
        m[s + S_HOLD] = -1
    m[s + S_STATE] = 1
    _signal(m, m[s + S_ARRIVE])
    if m[s + S_GATE] < 0 or m[m[O_GATES] + m[s + S_GATE]] <= 0:
        _ready(m, stop)


@njit
def _try_load(m: Vector, channel: int) -> None:
    """Start the first queued load of an idle channel if its die has room."""
    head = m[m[O_CHANNEL_HEAD] + 3 * channel]
    if head < 0 or m[m[O_CHANNEL_BUSY] + channel]:
        return
    stop = m[m[O_CHUNKS] + C_COLS * head + C_FIRST]
    if not _take(m, stop):
        return
    now = m[K_NOW]
    m[m[O_CHANNEL_BUSY] + channel] = 1
    nxt = m[m[O_CHUNKS] + C_COLS * head + C_NEXT]
    m[m[O_CHANNEL_HEAD] + 3 * channel] = nxt
    end = now + m[m[O_CHUNKS] + C_COLS * head + C_LOAD]
    since = m[m[O_CHANNEL_HEAD] + 3 * channel + 2]
    _row(m, end, LOAD, channel, stop, since, now - since)
    if nxt < 0:
        m[m[O_CHANNEL_HEAD] + 3 * channel + 1] = -1
        m[K_DECIDE] = 1
    _event(m, end, EV_LOAD_END, stop)


@njit
def _inject(m: Vector, chunk: int) -> None:
    """The chunk may start: queue its load, or place it where it is."""
    c = m[O_CHUNKS] + C_COLS * chunk
    channel = m[c + C_CHANNEL]
    m[c + C_NEXT] = -1
    m[c + C_GATE] = -1
    if channel >= 0:
        if m[m[O_CHANNEL_HEAD] + 3 * channel + 1] < 0:
            m[m[O_CHANNEL_HEAD] + 3 * channel] = chunk
            m[m[O_CHANNEL_HEAD] + 3 * channel + 2] = m[K_NOW]
        else:
            m[m[O_CHUNKS] + C_COLS * m[m[O_CHANNEL_HEAD] + 3 * channel + 1] + C_NEXT] = chunk
        m[m[O_CHANNEL_HEAD] + 3 * channel + 1] = chunk
        _try_load(m, channel)
        return
    stop = m[c + C_FIRST]
    pool = 2 * m[m[O_STOPS] + S_COLS * stop + S_DIE] + m[c + C_POOL]
    if m[m[O_STOPS] + S_COLS * stop + S_SPACE] > 0 and (m[m[O_POOL_WAIT] + 4 * pool + 3] >= 0 or not _take(m, stop)):
        if m[m[O_POOL_WAIT] + 4 * pool + 3] < 0:
            m[m[O_POOL_WAIT] + 4 * pool + 2] = chunk
        else:
            m[m[O_CHUNKS] + C_COLS * m[m[O_POOL_WAIT] + 4 * pool + 3] + C_NEXT] = chunk
        m[m[O_POOL_WAIT] + 4 * pool + 3] = chunk
        return
    m[m[O_STOPS] + S_COLS * stop + S_TAKEN] = m[K_NOW]
    _arrive(m, stop)


@njit
def _retry_sends(m: Vector, pool: int) -> None:
    """Start the sends that wait for space in ``pool`` and now have it, and their link, in the order of waiting."""
    previous = -1
    stop = m[m[O_POOL_WAIT] + 4 * pool]
    while stop >= 0:
        s = m[O_STOPS] + S_COLS * stop
        following = m[s + S_NEXT]
        pair = m[s + S_DIE] * m[K_DIES] + (pool >> 1)
        first = m[m[O_PATH_PTR] + pair]
        # A send over one link stays in this list while the link is busy: moving it back and forth costs more.
        one_link = m[m[O_PATH_PTR] + pair + 1] == first + 1
        if m[m[O_POOL_FREE] + pool] < m[s + S_COLS + S_NEED] or (
            one_link and m[m[O_LINK_BUSY] + m[m[O_PATH_LINKS] + first]]
        ):
            previous = stop
        else:
            if previous < 0:
                m[m[O_POOL_WAIT] + 4 * pool] = following
            else:
                m[m[O_STOPS] + S_COLS * previous + S_NEXT] = following
            if following < 0:
                m[m[O_POOL_WAIT] + 4 * pool + 1] = previous
            _try_send(m, stop)
        stop = following


@njit
def _wake_pool(m: Vector, pool: int) -> None:
    """Space was given back: retry the sends, then the placements, then the loads that wait for it."""
    _retry_sends(m, pool)
    while m[m[O_POOL_WAIT] + 4 * pool + 2] >= 0:
        chunk = m[m[O_POOL_WAIT] + 4 * pool + 2]
        if not _take(m, m[m[O_CHUNKS] + C_COLS * chunk + C_FIRST]):
            break
        m[m[O_POOL_WAIT] + 4 * pool + 2] = m[m[O_CHUNKS] + C_COLS * chunk + C_NEXT]
        if m[m[O_POOL_WAIT] + 4 * pool + 2] < 0:
            m[m[O_POOL_WAIT] + 4 * pool + 3] = -1
        _arrive(m, m[m[O_CHUNKS] + C_COLS * chunk + C_FIRST])
    for channel in range(m[K_CHANNELS]):
        head = m[m[O_CHANNEL_HEAD] + 3 * channel]
        if head >= 0 and m[m[O_CHANNEL_BUSY] + channel] == 0:
            _try_load(m, channel)


@njit
def _wake_link(m: Vector, link: int) -> None:
    """Retry the sends that wait for an idle link until one of them starts; the others keep their places."""
    stop = m[m[O_LINK_WAIT] + 2 * link]
    tail = m[m[O_LINK_WAIT] + 2 * link + 1]
    m[m[O_LINK_WAIT] + 2 * link] = -1
    m[m[O_LINK_WAIT] + 2 * link + 1] = -1
    while stop >= 0:
        following = m[m[O_STOPS] + S_COLS * stop + S_NEXT]
        if _try_send(m, stop):
            # Nothing has been queued here meanwhile: a retried send waits for another link, or for space.
            m[m[O_LINK_WAIT] + 2 * link] = following
            m[m[O_LINK_WAIT] + 2 * link + 1] = tail if following >= 0 else -1
            return
        stop = following


@njit
def _settle(m: Vector) -> None:
    """Handle opened gates and freed space until nothing more follows at this instant."""
    while m[K_HANDLED] < m[K_OPENED] or m[K_DIRTY] > 0:
        if m[K_DIRTY] > 0:
            m[K_DIRTY] -= 1
            pool = m[m[O_DIRTY] + m[K_DIRTY]]
            m[m[O_IS_DIRTY] + pool] = 0
            _wake_pool(m, pool)
            continue
        gate = m[m[O_OPENED] + m[K_HANDLED]]
        m[K_HANDLED] += 1
        for i in range(m[m[O_GATE_PTR] + gate], m[m[O_GATE_PTR] + gate + 1]):
            kind = m[m[O_GATE_ITEMS] + i] & 3
            item = m[m[O_GATE_ITEMS] + i] >> 2
            if kind == 0:
                if (
                    m[m[O_CHUNKS] + C_COLS * item + C_GATE] >= 0
                    and m[m[O_GROUP_STATE] + m[m[O_CHUNKS] + C_COLS * item + C_GROUP]] == STARTED
                ):
                    _inject(m, item)
            elif kind == 1:
                if m[m[O_STOPS] + S_COLS * item + S_STATE] == 1:
                    _ready(m, item)
            elif m[m[O_STOPS] + S_COLS * item + S_STATE] > 0 and m[m[O_STOPS] + S_COLS * item + S_HOLD] >= 0:
                _release(m, item)


@njit
def admit(m: Vector, group: int, at: int) -> None:
    """Let a group's chunks start at time ``at`` (ps, not before now)."""
    m[m[O_GROUP_STATE] + group] = ADMITTED
    _event(m, at, EV_ADMIT, group)


@njit
def advance(m: Vector) -> int:
    """Run until no event is left (DONE) or a decision point has been reached (DECIDE)."""
    while m[K_EVENTS] > 0:
        time = m[m[O_EVENTS] + 3 * 0]
        if m[K_DECIDE] and time > m[K_NOW]:
            return DECIDE
        kind = m[m[O_EVENTS] + 3 * 0 + 2] & 7
        item = m[m[O_EVENTS] + 3 * 0 + 2] >> 3
        _pop(m, m[K_EVENTS])
        m[K_EVENTS] -= 1
        m[K_POPPED] += 1
        m[K_NOW] = time
        if kind == EV_COMPUTE_END:
            die = m[m[O_STOPS] + S_COLS * item + S_DIE]
            m[m[O_DIE_BUSY] + die] = 0
            _signal(m, m[m[O_STOPS] + S_COLS * item + S_DONE])
            if (
                m[m[O_STOPS] + S_COLS * item + S_LAST] == 0
                and m[m[O_CHUNKS] + C_COLS * m[m[O_STOPS] + S_COLS * item + S_CHUNK] + C_FLOW] == 0
            ):
                _request_send(m, item)
            _release(m, item)
            _start_compute(m, die)
        elif kind == EV_SEND_END:
            n_dies = m[K_DIES]
            pair = m[m[O_STOPS] + S_COLS * item + S_DIE] * n_dies + m[m[O_STOPS] + S_COLS * (item + 1) + S_DIE]
            for i in range(m[m[O_PATH_PTR] + pair], m[m[O_PATH_PTR] + pair + 1]):
                m[m[O_LINK_BUSY] + m[m[O_PATH_LINKS] + i]] = 0
            if m[m[O_PATH_CLASS] + 3 * pair + 1] > 0:
                _event(m, time + m[m[O_PATH_CLASS] + 3 * pair + 1], EV_ARRIVE, item + 1)
            else:
                _arrive(m, item + 1)
            _release(m, item)
            for i in range(m[m[O_PATH_PTR] + pair], m[m[O_PATH_PTR] + pair + 1]):
                link = m[m[O_PATH_LINKS] + i]
                for pool in range(2 * m[m[O_LINK_TO] + link], 2 * m[m[O_LINK_TO] + link] + 2):
                    if m[m[O_LINK_BUSY] + link] == 0:
                        _retry_sends(m, pool)
                if m[m[O_LINK_BUSY] + link] == 0:
                    _wake_link(m, link)
        elif kind == EV_LOAD_END:
            channel = m[m[O_CHUNKS] + C_COLS * m[m[O_STOPS] + S_COLS * item + S_CHUNK] + C_CHANNEL]
            m[m[O_CHANNEL_BUSY] + channel] = 0
            m[m[O_CHANNEL_HEAD] + 3 * channel + 2] = time
            if m[m[O_CHANNEL_LATENCY] + channel] > 0:
                _event(m, time + m[m[O_CHANNEL_LATENCY] + channel], EV_ARRIVE, item)
            else:
                _arrive(m, item)
            _try_load(m, channel)
        elif kind == EV_ARRIVE:
            _arrive(m, item)
        else:
            m[m[O_GROUP_STATE] + item] = STARTED
            m[K_DECIDE] = 1
            for i in range(m[m[O_GROUP_PTR] + item], m[m[O_GROUP_PTR] + item + 1]):
                chunk = m[m[O_GROUP_CHUNKS] + i]
                gate = m[m[O_CHUNKS] + C_COLS * chunk + C_GATE]
                if gate < 0 or m[m[O_GATES] + gate] <= 0:
                    _inject(m, chunk)
        _settle(m)
    if m[K_DECIDE]:
        return DECIDE
    return DONE
