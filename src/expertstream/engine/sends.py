"""Transfers between dies: starting them, and waiting for links and for space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine import layout as at
from expertstream.engine.compile import njit
from expertstream.engine.heaps import schedule
from expertstream.engine.space import has_room, record, take

Vector = NDArray[np.int64]


@njit
def _wait_for_link(m: Vector, link: int, stop: int) -> None:
    """Queue a send at a busy link, behind those that already wait there."""
    tail = m[m[at.O_LINK_WAIT] + 2 * link + 1]
    m[m[at.O_STOPS] + at.S_COLS * stop + at.S_NEXT] = -1
    if tail < 0:
        m[m[at.O_LINK_WAIT] + 2 * link] = stop
    else:
        m[m[at.O_STOPS] + at.S_COLS * tail + at.S_NEXT] = stop
    m[m[at.O_LINK_WAIT] + 2 * link + 1] = stop


@njit
def _transfer_ps(n_bytes: int, bandwidth: int) -> int:
    """ceil(bytes * 1e12 / bandwidth) in two steps that stay within int64."""
    a = n_bytes * 1_000_000
    q = a // bandwidth
    return q * 1_000_000 + ((a - q * bandwidth) * 1_000_000 + bandwidth - 1) // bandwidth


@njit
def _full_pool(m: Vector, stop: int) -> int:
    """The first pool without room for the transfer from ``stop`` to the next stop, -1 where all have room."""
    s = m[at.O_STOPS] + at.S_COLS * stop
    for ahead in (m[s + at.S_TO], m[s + at.S_VIA]):
        if ahead >= 0 and not has_room(m, ahead):
            return int(m[m[at.O_STOPS] + at.S_COLS * ahead + at.S_POOL])
    return -1


@njit
def try_send(m: Vector, stop: int) -> bool:
    """Start the transfer from ``stop`` to the next one, or put it in the wait list of what it lacks first."""
    s = m[at.O_STOPS] + at.S_COLS * stop
    chunk = m[s + at.S_CHUNK]
    n_dies = m[at.K_DIES]
    pair = m[s + at.S_DIE] * n_dies + m[m[at.O_STOPS] + at.S_COLS * (stop + 1) + at.S_DIE]
    first = m[m[at.O_PATH_PTR] + pair]
    last = m[m[at.O_PATH_PTR] + pair + 1]
    now = m[at.K_NOW]
    if m[s + at.S_BLOCKED] >= 0:
        m[s + at.S_SPACE_WAIT] += now - m[s + at.S_BLOCKED]
        m[s + at.S_BLOCKED] = -1
    for i in range(first, last):
        if m[m[at.O_LINK_BUSY] + m[m[at.O_PATH_LINKS] + i]]:
            _wait_for_link(m, m[m[at.O_PATH_LINKS] + i], stop)
            return False
    pool = _full_pool(m, stop)
    if pool >= 0:
        m[s + at.S_NEXT] = -1
        m[s + at.S_BLOCKED] = now
        if m[m[at.O_POOL_WAIT] + 4 * pool + 1] < 0:
            m[m[at.O_POOL_WAIT] + 4 * pool] = stop
        else:
            m[m[at.O_STOPS] + at.S_COLS * m[m[at.O_POOL_WAIT] + 4 * pool + 1] + at.S_NEXT] = stop
        m[m[at.O_POOL_WAIT] + 4 * pool + 1] = stop
        return False
    if m[s + at.S_TO] >= 0:
        take(m, m[s + at.S_TO])
    if m[s + at.S_VIA] >= 0:
        take(m, m[s + at.S_VIA])
    end = now
    if last > first:
        cls = m[at.O_PATH_CLASS] + 3 * pair
        end = now + _transfer_ps(m[m[at.O_CHUNKS] + at.C_COLS * chunk + at.C_BYTES] + m[cls + 2], m[cls])
        for i in range(first, last):
            m[m[at.O_LINK_BUSY] + m[m[at.O_PATH_LINKS] + i]] = 1
        record(m, end, at.SEND, m[m[at.O_PATH_LINKS] + first], stop, m[s + at.S_READY], m[s + at.S_SPACE_WAIT])
    schedule(m, end, at.EV_SEND_END, stop)
    return True


@njit
def request_send(m: Vector, stop: int) -> None:
    """Ask for the transfer from ``stop`` to the next one."""
    m[m[at.O_STOPS] + at.S_COLS * stop + at.S_READY] = m[at.K_NOW]
    try_send(m, stop)


@njit
def retry_sends(m: Vector, pool: int) -> None:
    """Start the sends that wait for space in ``pool`` and now have it, and their link, in the order of waiting."""
    previous = -1
    stop = m[m[at.O_POOL_WAIT] + 4 * pool]
    while stop >= 0:
        s = m[at.O_STOPS] + at.S_COLS * stop
        following = m[s + at.S_NEXT]
        there = m[s + at.S_COLS + at.S_DIE]
        pair = m[s + at.S_DIE] * m[at.K_DIES] + there
        first = m[m[at.O_PATH_PTR] + pair]
        # A send over one link stays in the list of the die there while the link is busy, which retries this list once
        # it is idle: moving the send back and forth costs more.
        one_link = m[m[at.O_PATH_PTR] + pair + 1] == first + 1 and there == pool >> 1
        if _full_pool(m, stop) == pool or (one_link and m[m[at.O_LINK_BUSY] + m[m[at.O_PATH_LINKS] + first]]):
            previous = stop
        else:
            if previous < 0:
                m[m[at.O_POOL_WAIT] + 4 * pool] = following
            else:
                m[m[at.O_STOPS] + at.S_COLS * previous + at.S_NEXT] = following
            if following < 0:
                m[m[at.O_POOL_WAIT] + 4 * pool + 1] = previous
            try_send(m, stop)
        stop = following


@njit
def wake_link(m: Vector, link: int) -> None:
    """Retry the sends that wait for an idle link until one of them starts; the others keep their places."""
    stop = m[m[at.O_LINK_WAIT] + 2 * link]
    tail = m[m[at.O_LINK_WAIT] + 2 * link + 1]
    m[m[at.O_LINK_WAIT] + 2 * link] = -1
    m[m[at.O_LINK_WAIT] + 2 * link + 1] = -1
    while stop >= 0:
        following = m[m[at.O_STOPS] + at.S_COLS * stop + at.S_NEXT]
        if try_send(m, stop):
            # Nothing has been queued here meanwhile: a retried send waits for another link, or for space.
            m[m[at.O_LINK_WAIT] + 2 * link] = following
            m[m[at.O_LINK_WAIT] + 2 * link + 1] = tail if following >= 0 else -1
            return
        stop = following
