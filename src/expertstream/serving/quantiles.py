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

    def histogram(self, bins: int = 40) -> dict[str, list[int]]:
        """Counts of equally wide ranges from the least value to the largest; no more ranges than there are values.

        Returns:
            ``edges`` (one more than ``counts``, whole numbers) and ``counts``; both empty where there are no values.
        """
        if not self.count:
            return {"edges": [], "counts": []}
        least, most = min(self._buckets), max(self._buckets)
        bins = min(bins, most - least + 1)
        counts = [0] * bins
        for bucket, n in self._buckets.items():
            counts[(bucket - least) * bins // (most - least + 1)] += n
        return {"edges": [least + -(-(most - least + 1) * i // bins) for i in range(bins + 1)], "counts": counts}

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
