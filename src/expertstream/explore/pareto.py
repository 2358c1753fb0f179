"""Trade-offs between objectives: which designs no other one beats, and how much they cover. All are minimised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def front(values: Floats) -> NDArray[np.int64]:
    """Rows that no other row beats (as good in all objectives, better in one), ascending; of equal rows the first.

    Args:
        values: float64 [n, objectives].
    """
    order = np.lexsort(values.T[::-1])  # by the first objective, then the next: only earlier rows can beat a row
    kept: list[int] = []
    best = np.empty_like(values)
    for i in order.tolist():
        if not (best[: len(kept)] <= values[i]).all(axis=1).any():
            best[len(kept)] = values[i]
            kept.append(i)
    return np.array(sorted(kept), dtype=np.int64)


def hypervolume(values: Floats, reference: Floats) -> float:
    """Volume of what the rows dominate up to ``reference`` (Zitzler and Thiele, 1998), by slicing objectives.

    Args:
        values: float64 [n, objectives]. reference: float64 [objectives]; rows beyond it count for nothing.
    """
    inside = values[(values < reference).all(axis=1)]
    if inside.shape[0] == 0:
        return 0.0
    inside = inside[front(inside)]
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    if inside.shape[1] == 1:
        return float(reference[0] - inside[0, 0])
    depth = np.append(inside[1:, -1], reference[-1]) - inside[:, -1]
    slices = (hypervolume(inside[: i + 1, :-1], reference[:-1]) * d for i, d in enumerate(depth) if d)
    return float(sum(slices))
