"""What activities share: timeline rows, gate signals, buffer space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine import layout as at
from expertstream.engine.compile import njit

Vector = NDArray[np.int64]


@njit
def record(m: Vector, end: int, kind: int, resource: int, stop: int, ready: int, space: int) -> None:
    """Write a row of the timeline: an activity that starts now."""
    n = m[at.K_ROWS]
    m[at.K_ROWS] = n + 1
    row = m[at.O_ROWS] + at.T_COLS * n
    m[row + at.T_START] = m[at.K_NOW]
    m[row + at.T_END] = end
    m[row + at.T_KIND] = kind
    m[row + at.T_RESOURCE] = resource
    m[row + at.T_STOP] = stop
    m[row + at.T_READY] = ready
    m[row + at.T_SPACE] = space


@njit
def signal(m: Vector, gate: int) -> None:
    """Count a gate down (-1: no gate); at zero it opens."""
    if gate >= 0:
        m[m[at.O_GATES] + gate] -= 1
        if m[m[at.O_GATES] + gate] == 0:
            m[m[at.O_OPENED] + m[at.K_OPENED]] = gate
            m[at.K_OPENED] += 1


@njit
def has_room(m: Vector, stop: int) -> bool:
    """Whether the forward-count rule lets a chunk take the buffer space of a stop."""
    s = m[at.O_STOPS] + at.S_COLS * stop
    return bool(m[m[at.O_POOL_FREE] + m[s + at.S_POOL]] >= m[s + at.S_NEED])


@njit
def take(m: Vector, stop: int) -> None:
    """Take the buffer space of a stop."""
    s = m[at.O_STOPS] + at.S_COLS * stop
    m[m[at.O_POOL_FREE] + m[s + at.S_POOL]] -= m[s + at.S_SPACE]
    m[at.K_FREE] -= m[s + at.S_SPACE]
    m[s + at.S_TAKEN] = m[at.K_NOW]


@njit
def release(m: Vector, stop: int) -> None:
    """End one use of a stop's buffer space; give it back after the last."""
    s = m[at.O_STOPS] + at.S_COLS * stop
    m[s + at.S_REFS] -= 1
    if m[s + at.S_REFS] > 0:
        return
    m[s + at.S_FREED] = m[at.K_NOW]
    chunk = m[s + at.S_CHUNK]
    if m[s + at.S_SPACE] > 0:
        pool = m[s + at.S_POOL]
        m[m[at.O_POOL_FREE] + pool] += m[s + at.S_SPACE]
        m[at.K_FREE] += m[s + at.S_SPACE]
        if 0 < m[at.K_WATERMARK] <= m[at.K_FREE]:
            m[at.K_WATERMARK] = 0
            m[at.K_DECIDE] = 1
        if m[m[at.O_IS_DIRTY] + pool] == 0:
            m[m[at.O_IS_DIRTY] + pool] = 1
            m[m[at.O_DIRTY] + m[at.K_DIRTY]] = pool
            m[at.K_DIRTY] += 1
    m[m[at.O_CHUNKS] + at.C_COLS * chunk + at.C_LEFT] -= 1
    if m[m[at.O_CHUNKS] + at.C_COLS * chunk + at.C_LEFT] == 0:
        group = m[m[at.O_CHUNKS] + at.C_COLS * chunk + at.C_GROUP]
        m[m[at.O_GROUP_LEFT] + group] -= 1
        if m[m[at.O_GROUP_LEFT] + group] == 0:
            m[m[at.O_GROUP_STATE] + group] = at.COMPLETE
            m[at.K_DECIDE] = 1
