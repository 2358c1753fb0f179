"""The yardstick: a bare Numba binary heap that pushes and pops as many events as the engine, and does nothing else."""

from __future__ import annotations

import timeit

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@numba.njit
def _drain(heap: Ints, delays: Ints, waiting: int, events: int) -> int:
    """Keep ``waiting`` events in the heap; pop and push ``events`` times, ordered by (time, sequence)."""
    size = 0
    for seq in range(events + waiting):
        if size == waiting:  # pop the root
            size -= 1
            t, s, x = heap[size, 0], heap[size, 1], heap[size, 2]
            now = heap[0, 0]
            i = 0
            while True:
                c = 2 * i + 1
                if c >= size:
                    break
                if c + 1 < size and (
                    heap[c + 1, 0] < heap[c, 0] or (heap[c + 1, 0] == heap[c, 0] and heap[c + 1, 1] < heap[c, 1])
                ):
                    c += 1
                if t < heap[c, 0] or (t == heap[c, 0] and s < heap[c, 1]):
                    break
                heap[i, 0], heap[i, 1], heap[i, 2] = heap[c, 0], heap[c, 1], heap[c, 2]
                i = c
            heap[i, 0], heap[i, 1], heap[i, 2] = t, s, x
        else:
            now = 0
        when = now + delays[seq % delays.size]
        i = size
        size += 1
        while i > 0:
            up = (i - 1) >> 1
            if heap[up, 0] < when or (heap[up, 0] == when and heap[up, 1] < seq):
                break
            heap[i, 0], heap[i, 1], heap[i, 2] = heap[up, 0], heap[up, 1], heap[up, 2]
            i = up
        heap[i, 0], heap[i, 1], heap[i, 2] = when, seq, seq
    return heap[0, 0]


def seconds(events: int, waiting: int) -> float:
    """Best of five runs."""
    heap = np.zeros((waiting + 1, 3), dtype=np.int64)
    delays = np.random.default_rng(0).integers(1, 1_000_000, 4096)
    _drain(heap, delays, waiting, 10)
    return min(timeit.repeat(lambda: _drain(heap, delays, waiting, events), number=1))
