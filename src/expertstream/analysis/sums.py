"""Integer sums by group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def totals(index: Ints, values: Ints, n: int) -> Ints:
    """Sum of ``values`` for each index, int64 [n]; exact while every sum is below 2**53 (2.5 hours in ps, 9 PB)."""
    return np.bincount(index, weights=values, minlength=n).astype(np.int64)
