"""Mean and quantiles of a stream of times in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DIGITS = 10  # binary digits that are kept: a value is at most 0.1 % above what is reported


class Quantiles:
    """Counts whole numbers in buckets that are exact up to 2^10 and within 0.1 % above; the mean is exact."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0

    def add(self, value: int) -> None:
        """Count a value, at least 0."""
        shift = max(0, value.bit_length() - DIGITS - 1)
        bucket = (value >> shift) << shift
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += value

    def quantile(self, share: float) -> int | None:
        """The smallest value that at least ``share`` of all do not exceed, None where there are none."""
        if not self.count:
            return None
        rank, seen = share * self.count, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return bucket
        return max(self._buckets)

    def summary(self) -> dict[str, Any]:
        """Mean, p50 and p99."""
        mean = self.total / self.count if self.count else None
        return {"mean": mean, "p50": self.quantile(0.5), "p99": self.quantile(0.99), "count": self.count}

    def state(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return {"total": self.total, "buckets": sorted(self._buckets.items())}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Quantiles:
        """Continue from ``state``."""
        new = cls()
        new._buckets = {int(bucket): int(n) for bucket, n in state["buckets"]}
        new.count = sum(new._buckets.values())
        new.total = int(state["total"])
        return new
