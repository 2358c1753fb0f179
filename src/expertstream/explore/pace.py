"""How many jobs travel to a worker in one go."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

TARGET_S: Final = 1.0  # of a batch: long against what handing it out costs (milliseconds), short against losing it
FIRST: Final = 4  # jobs of a batch while nothing is known
LARGEST: Final = 1000
T = TypeVar("T")


class Pace:
    """How many jobs make a batch of about ``TARGET_S``."""

    def __init__(self) -> None:
        self._jobs, self._seconds = 0, 0.0

    def learn(self, jobs: int, seconds: float) -> None:
        """Take in how long some jobs took."""
        # the newest batches count most: the first ones pay for compilation, later ones may be larger
        self._jobs, self._seconds = self._jobs // 2 + jobs, self._seconds / 2 + seconds

    @property
    def size(self) -> int:
        """Jobs of the next batch."""
        if not self._seconds:
            return FIRST
        return min(max(int(TARGET_S * self._jobs / self._seconds), 1), LARGEST)

    def batches(self, jobs: Sequence[T], workers: int) -> Iterator[list[T]]:
        """Cut jobs into batches, each as large as is right when it is asked for."""
        rest, left = iter(jobs), len(jobs)
        while left:
            fair = -(-left // (2 * workers))  # so that no worker is left with one long batch at the end
            chunk = list(itertools.islice(rest, min(self.size, max(fair, FIRST))))
            left -= len(chunk)
            yield chunk
