"""Binary heaps of the kernel: events by (time, priority, sequence), ready computes by pick order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine import layout as at
from expertstream.engine.compile import njit

Vector = NDArray[np.int64]


@njit
def _push(m: Vector, n: int, time: int, seq: int, item: int) -> None:
    h = m[at.O_EVENTS]
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
def pop_event(m: Vector) -> None:
    """Drop the first event."""
    n = m[at.K_EVENTS]
    m[at.K_EVENTS] = n - 1
    h = m[at.O_EVENTS]
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
def schedule(m: Vector, time: int, kind: int, item: int) -> None:
    """Let something happen to ``item`` at ``time``."""
    # Ties in time: kind is the priority (ends before arrivals before admissions), then the order of creation.
    m[at.K_SEQ] += 1
    _push(m, m[at.K_EVENTS], time, (kind << 56) | m[at.K_SEQ], 8 * item + kind)
    m[at.K_EVENTS] += 1


@njit
def push_ready(m: Vector, die: int, key: int, stop: int) -> None:
    """Queue a compute at a die; the smallest key is picked first."""
    base = m[m[at.O_READY_BASE] + die]
    i = m[m[at.O_READY_SIZE] + die]
    m[m[at.O_READY_SIZE] + die] = i + 1
    while i > 0:
        up = (i - 1) >> 1
        if m[m[at.O_READY] + 2 * (base + up)] < key:
            break
        m[m[at.O_READY] + 2 * (base + i)] = m[m[at.O_READY] + 2 * (base + up)]
        m[m[at.O_READY] + 2 * (base + i) + 1] = m[m[at.O_READY] + 2 * (base + up) + 1]
        i = up
    m[m[at.O_READY] + 2 * (base + i)] = key
    m[m[at.O_READY] + 2 * (base + i) + 1] = stop


@njit
def pop_ready(m: Vector, die: int) -> int:
    """Take the first stop of a die's queue, which is not empty."""
    base = m[m[at.O_READY_BASE] + die]
    stop: int = m[m[at.O_READY] + 2 * base + 1]
    n = m[m[at.O_READY_SIZE] + die] - 1
    m[m[at.O_READY_SIZE] + die] = n
    key = m[m[at.O_READY] + 2 * (base + n)]
    item = m[m[at.O_READY] + 2 * (base + n) + 1]
    i = 0
    while True:
        c = 2 * i + 1
        if c >= n:
            break
        if c + 1 < n and m[m[at.O_READY] + 2 * (base + c + 1)] < m[m[at.O_READY] + 2 * (base + c)]:
            c += 1
        if key < m[m[at.O_READY] + 2 * (base + c)]:
            break
        m[m[at.O_READY] + 2 * (base + i)] = m[m[at.O_READY] + 2 * (base + c)]
        m[m[at.O_READY] + 2 * (base + i) + 1] = m[m[at.O_READY] + 2 * (base + c) + 1]
        i = c
    m[m[at.O_READY] + 2 * (base + i)] = key
    m[m[at.O_READY] + 2 * (base + i) + 1] = item
    return stop
