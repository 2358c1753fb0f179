"""Expert orders: by id, and the paired load of the paper's section IV-A."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

OrderName = Literal["id", "paired"]


def id_order(token_counts: Sequence[int]) -> list[int]:
    """Activated experts (count > 0) in the order of their ids."""
    return [e for e, count in enumerate(token_counts) if count > 0]


def paired_order(token_counts: Sequence[int]) -> list[int]:
    """Activated experts, hottest, coldest, second hottest, second coldest, ... (section IV-A).

    Experts with equal counts are ranked by id, lower first, so that a stable sorter in hardware agrees.
    """
    ranked = sorted(id_order(token_counts), key=lambda e: (-token_counts[e], e))
    n = len(ranked)
    return [ranked[i // 2] if i % 2 == 0 else ranked[n - 1 - i // 2] for i in range(n)]


ORDERS: dict[OrderName, Callable[[Sequence[int]], list[int]]] = {"id": id_order, "paired": paired_order}
