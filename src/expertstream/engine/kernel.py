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

from expertstream.engine import layout as at
from expertstream.engine.compile import njit
from expertstream.engine.heaps import pop_event, pop_ready, push_ready, schedule
from expertstream.engine.sends import request_send, retry_sends, wake_link
from expertstream.engine.space import has_room, record, release, signal, take

Vector = NDArray[np.int64]


@njit
def _start_compute(m: Vector, die: int) -> None:
    """Let an idle die take the first of its ready stops."""
    if m[m[at.O_READY_SIZE] + die] == 0 or m[m[at.O_DIE_BUSY] + die]:
        return
    stop = pop_ready(m, die)
    s = m[at.O_STOPS] + at.S_COLS * stop
    m[m[at.O_DIE_BUSY] + die] = 1
    end = m[at.K_NOW] + m[s + at.S_COMPUTE]
    ready = m[s + at.S_READY]
    record(m, end, at.COMPUTE, die, stop, ready, 0)
    schedule(m, end, at.EV_COMPUTE_END, stop)
    if m[s + at.S_LAST] == 0 and m[m[at.O_CHUNKS] + at.C_COLS * m[s + at.S_CHUNK] + at.C_FLOW]:
        request_send(m, stop)


@njit
def _ready(m: Vector, stop: int) -> None:
    """The chunk is here and its gate is open: queue its compute, or pass it on."""
    s = m[at.O_STOPS] + at.S_COLS * stop
    m[s + at.S_STATE] = 2
    if m[s + at.S_COMPUTE] > 0:
        m[at.K_SEQ] += 1
        seq = m[at.K_SEQ]
        key = (m[s + at.S_CLASS] << 48) + ((1 << 47) - seq if m[s + at.S_LIFO] else seq)
        m[s + at.S_READY] = m[at.K_NOW]
        die = m[s + at.S_DIE]
        push_ready(m, die, key, stop)
        _start_compute(m, die)
    else:
        if m[s + at.S_LAST] == 0:
            request_send(m, stop)
        signal(m, m[s + at.S_DONE])
        release(m, stop)


@njit
def _arrive(m: Vector, stop: int) -> None:
    s = m[at.O_STOPS] + at.S_COLS * stop
    m[s + at.S_REFS] = 2 - m[s + at.S_LAST]
    if m[s + at.S_HOLD] >= 0 and m[m[at.O_GATES] + m[s + at.S_HOLD]] > 0:
        m[s + at.S_REFS] += 1
    else:
        m[s + at.S_HOLD] = -1
    m[s + at.S_STATE] = 1
    signal(m, m[s + at.S_ARRIVE])
    if m[s + at.S_GATE] < 0 or m[m[at.O_GATES] + m[s + at.S_GATE]] <= 0:
        _ready(m, stop)


@njit
def _choose(m: Vector, head: int) -> int:
    """Of chunks that exclude one another, the one whose target die has the most free space; the first of equals."""
    best = head
    most = -1
    chunk = head
    while chunk >= 0:
        c = m[at.O_CHUNKS] + at.C_COLS * chunk
        free = m[m[at.O_POOL_FREE] + 2 * m[c + at.C_TARGET] + m[c + at.C_POOL]]
        if free > most:
            best = chunk
            most = free
        chunk = m[c + at.C_OTHER]
    return best


@njit
def _try_load(m: Vector, channel: int) -> None:
    """Start the first queued load of an idle channel if its die has room."""
    head = m[m[at.O_CHANNEL_HEAD] + 3 * channel]
    if head < 0 or m[m[at.O_CHANNEL_BUSY] + channel]:
        return
    chosen = _choose(m, head)
    stop = m[m[at.O_CHUNKS] + at.C_COLS * chosen + at.C_FIRST]
    if not has_room(m, stop):
        return
    take(m, stop)
    other = head
    while other >= 0:
        if other != chosen:
            m[m[at.O_CHUNKS] + at.C_COLS * other + at.C_LEFT] = 0
        other = m[m[at.O_CHUNKS] + at.C_COLS * other + at.C_OTHER]
    now = m[at.K_NOW]
    m[m[at.O_CHANNEL_BUSY] + channel] = 1
    nxt = m[m[at.O_CHUNKS] + at.C_COLS * head + at.C_NEXT]
    m[m[at.O_CHANNEL_HEAD] + 3 * channel] = nxt
    end = now + m[m[at.O_CHUNKS] + at.C_COLS * head + at.C_LOAD]
    since = m[m[at.O_CHANNEL_HEAD] + 3 * channel + 2]
    record(m, end, at.LOAD, channel, stop, since, now - since)
    if nxt < 0:
        m[m[at.O_CHANNEL_HEAD] + 3 * channel + 1] = -1
        m[at.K_DECIDE] = 1
    schedule(m, end, at.EV_LOAD_END, stop)


@njit
def _inject(m: Vector, chunk: int) -> None:
    """The chunk may start: queue its load, or place it where it is."""
    c = m[at.O_CHUNKS] + at.C_COLS * chunk
    channel = m[c + at.C_CHANNEL]
    m[c + at.C_NEXT] = -1
    m[c + at.C_GATE] = -1
    if channel >= 0:
        if m[m[at.O_CHANNEL_HEAD] + 3 * channel + 1] < 0:
            m[m[at.O_CHANNEL_HEAD] + 3 * channel] = chunk
            m[m[at.O_CHANNEL_HEAD] + 3 * channel + 2] = m[at.K_NOW]
        else:
            m[m[at.O_CHUNKS] + at.C_COLS * m[m[at.O_CHANNEL_HEAD] + 3 * channel + 1] + at.C_NEXT] = chunk
        m[m[at.O_CHANNEL_HEAD] + 3 * channel + 1] = chunk
        _try_load(m, channel)
        return
    stop = m[c + at.C_FIRST]
    pool = m[m[at.O_STOPS] + at.S_COLS * stop + at.S_POOL]
    if m[m[at.O_STOPS] + at.S_COLS * stop + at.S_SPACE] > 0 and (
        m[m[at.O_POOL_WAIT] + 4 * pool + 3] >= 0 or not has_room(m, stop)
    ):
        if m[m[at.O_POOL_WAIT] + 4 * pool + 3] < 0:
            m[m[at.O_POOL_WAIT] + 4 * pool + 2] = chunk
        else:
            m[m[at.O_CHUNKS] + at.C_COLS * m[m[at.O_POOL_WAIT] + 4 * pool + 3] + at.C_NEXT] = chunk
        m[m[at.O_POOL_WAIT] + 4 * pool + 3] = chunk
        return
    take(m, stop)
    _arrive(m, stop)


@njit
def _wake_pool(m: Vector, pool: int) -> None:
    """Space was given back: retry the sends, then the placements, then the loads that wait for it."""
    retry_sends(m, pool)
    while m[m[at.O_POOL_WAIT] + 4 * pool + 2] >= 0:
        chunk = m[m[at.O_POOL_WAIT] + 4 * pool + 2]
        stop = m[m[at.O_CHUNKS] + at.C_COLS * chunk + at.C_FIRST]
        if not has_room(m, stop):
            break
        take(m, stop)
        m[m[at.O_POOL_WAIT] + 4 * pool + 2] = m[m[at.O_CHUNKS] + at.C_COLS * chunk + at.C_NEXT]
        if m[m[at.O_POOL_WAIT] + 4 * pool + 2] < 0:
            m[m[at.O_POOL_WAIT] + 4 * pool + 3] = -1
        _arrive(m, stop)
    for channel in range(m[at.K_CHANNELS]):
        head = m[m[at.O_CHANNEL_HEAD] + 3 * channel]
        if head >= 0 and m[m[at.O_CHANNEL_BUSY] + channel] == 0:
            _try_load(m, channel)


@njit
def _settle(m: Vector) -> None:
    """Handle opened gates and freed space until nothing more follows at this instant."""
    while m[at.K_HANDLED] < m[at.K_OPENED] or m[at.K_DIRTY] > 0:
        if m[at.K_DIRTY] > 0:
            m[at.K_DIRTY] -= 1
            pool = m[m[at.O_DIRTY] + m[at.K_DIRTY]]
            m[m[at.O_IS_DIRTY] + pool] = 0
            _wake_pool(m, pool)
            continue
        gate = m[m[at.O_OPENED] + m[at.K_HANDLED]]
        m[at.K_HANDLED] += 1
        for i in range(m[m[at.O_GATE_PTR] + gate], m[m[at.O_GATE_PTR] + gate + 1]):
            kind = m[m[at.O_GATE_ITEMS] + i] & 3
            item = m[m[at.O_GATE_ITEMS] + i] >> 2
            if kind == 0:
                if (
                    m[m[at.O_CHUNKS] + at.C_COLS * item + at.C_GATE] >= 0
                    and m[m[at.O_GROUP_STATE] + m[m[at.O_CHUNKS] + at.C_COLS * item + at.C_GROUP]] == at.STARTED
                ):
                    _inject(m, item)
            elif kind == 1:
                if m[m[at.O_STOPS] + at.S_COLS * item + at.S_STATE] == 1:
                    _ready(m, item)
            elif (
                m[m[at.O_STOPS] + at.S_COLS * item + at.S_STATE] > 0
                and m[m[at.O_STOPS] + at.S_COLS * item + at.S_HOLD] >= 0
            ):
                release(m, item)


@njit
def admit(m: Vector, group: int, time: int) -> None:
    """Let a group's chunks start at ``time`` (ps, not before now)."""
    m[m[at.O_GROUP_STATE] + group] = at.ADMITTED
    schedule(m, time, at.EV_ADMIT, group)


@njit
def advance(m: Vector) -> int:
    """Run until no event is left (at.DONE) or a decision point has been reached (at.DECIDE)."""
    while m[at.K_EVENTS] > 0:
        time = m[m[at.O_EVENTS] + 3 * 0]
        if m[at.K_DECIDE] and time > m[at.K_NOW]:
            return at.DECIDE
        kind = m[m[at.O_EVENTS] + 3 * 0 + 2] & 7
        item = m[m[at.O_EVENTS] + 3 * 0 + 2] >> 3
        pop_event(m)
        m[at.K_POPPED] += 1
        m[at.K_NOW] = time
        if kind == at.EV_COMPUTE_END:
            die = m[m[at.O_STOPS] + at.S_COLS * item + at.S_DIE]
            m[m[at.O_DIE_BUSY] + die] = 0
            signal(m, m[m[at.O_STOPS] + at.S_COLS * item + at.S_DONE])
            if (
                m[m[at.O_STOPS] + at.S_COLS * item + at.S_LAST] == 0
                and m[m[at.O_CHUNKS] + at.C_COLS * m[m[at.O_STOPS] + at.S_COLS * item + at.S_CHUNK] + at.C_FLOW] == 0
            ):
                request_send(m, item)
            release(m, item)
            _start_compute(m, die)
        elif kind == at.EV_SEND_END:
            n_dies = m[at.K_DIES]
            pair = (
                m[m[at.O_STOPS] + at.S_COLS * item + at.S_DIE] * n_dies
                + m[m[at.O_STOPS] + at.S_COLS * (item + 1) + at.S_DIE]
            )
            for i in range(m[m[at.O_PATH_PTR] + pair], m[m[at.O_PATH_PTR] + pair + 1]):
                m[m[at.O_LINK_BUSY] + m[m[at.O_PATH_LINKS] + i]] = 0
            if m[m[at.O_PATH_CLASS] + 3 * pair + 1] > 0:
                schedule(m, time + m[m[at.O_PATH_CLASS] + 3 * pair + 1], at.EV_ARRIVE, item + 1)
            else:
                _arrive(m, item + 1)
            release(m, item)
            for i in range(m[m[at.O_PATH_PTR] + pair], m[m[at.O_PATH_PTR] + pair + 1]):
                link = m[m[at.O_PATH_LINKS] + i]
                for pool in range(2 * m[m[at.O_LINK_TO] + link], 2 * m[m[at.O_LINK_TO] + link] + 2):
                    if m[m[at.O_LINK_BUSY] + link] == 0:
                        retry_sends(m, pool)
                if m[m[at.O_LINK_BUSY] + link] == 0:
                    wake_link(m, link)
        elif kind == at.EV_LOAD_END:
            channel = m[m[at.O_CHUNKS] + at.C_COLS * m[m[at.O_STOPS] + at.S_COLS * item + at.S_CHUNK] + at.C_CHANNEL]
            m[m[at.O_CHANNEL_BUSY] + channel] = 0
            m[at.K_DECIDE] |= m[
                m[at.O_CHUNKS] + at.C_COLS * m[m[at.O_STOPS] + at.S_COLS * item + at.S_CHUNK] + at.C_ASK
            ]
            m[m[at.O_CHANNEL_HEAD] + 3 * channel + 2] = time
            if m[m[at.O_CHANNEL_LATENCY] + channel] > 0:
                schedule(m, time + m[m[at.O_CHANNEL_LATENCY] + channel], at.EV_ARRIVE, item)
            else:
                _arrive(m, item)
            _try_load(m, channel)
        elif kind == at.EV_ARRIVE:
            _arrive(m, item)
        else:
            m[m[at.O_GROUP_STATE] + item] = at.STARTED
            m[at.K_DECIDE] = 1
            for i in range(m[m[at.O_GROUP_PTR] + item], m[m[at.O_GROUP_PTR] + item + 1]):
                chunk = m[m[at.O_GROUP_CHUNKS] + i]
                gate = m[m[at.O_CHUNKS] + at.C_COLS * chunk + at.C_GATE]
                if gate < 0 or m[m[at.O_GATES] + gate] <= 0:
                    _inject(m, chunk)
        _settle(m)
    if m[at.K_DECIDE]:
        return at.DECIDE
    return at.DONE
