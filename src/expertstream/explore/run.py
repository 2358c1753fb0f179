"""Run jobs on an executor into a store."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from expertstream.explore.executors import Executor
from expertstream.explore.jobs import Batch, Inputs, Job
from expertstream.explore.store import Store

TARGET_S: Final = 1.0  # of a batch: long against what handing it out costs (milliseconds), short against losing it
FIRST: Final = 4  # jobs of a batch while nothing is known
LARGEST: Final = 1000

Progress = Callable[[int, int, str], None]


def run_jobs(
    inputs: Inputs,
    jobs: Sequence[Job],
    store: Store,
    executor: Executor,
    progress: Progress | None = None,
    *,
    retry_failed: bool = False,
) -> int:
    """Run the jobs whose rows are not in the store yet; rows are stored batch by batch. Returns how many ran."""
    done = store.done(failed=not retry_failed)
    left = [job for job in jobs if job.hash not in done]
    if not left:
        return 0
    pace = _Pace()
    began, before, ran = time.monotonic(), len(jobs) - len(left), 0
    for result in executor.run(_batches(inputs, left, pace, executor)):
        store.add(result.rows)
        ran += result.rows.num_rows
        pace.learn(result.rows.num_rows, result.seconds)
        if progress:
            rate = ran / max(time.monotonic() - began, 1e-9)
            text = f"{rate:.0f} points/s, {_span((len(left) - ran) / rate)} left"
            progress(before + ran, len(jobs), text)
    return ran


class _Pace:
    """How many jobs make a batch of about ``TARGET_S``."""

    def __init__(self) -> None:
        self._jobs, self._seconds = 0, 0.0

    def learn(self, jobs: int, seconds: float) -> None:
        # the newest batches count most: the first ones pay for compilation, later ones may be larger
        self._jobs, self._seconds = self._jobs // 2 + jobs, self._seconds / 2 + seconds

    @property
    def size(self) -> int:
        if not self._seconds:
            return FIRST
        return min(max(int(TARGET_S * self._jobs / self._seconds), 1), LARGEST)


def _batches(inputs: Inputs, jobs: Sequence[Job], pace: _Pace, executor: Executor) -> Iterator[Batch]:
    rest, left = iter(jobs), len(jobs)
    while left:
        fair = -(-left // (2 * executor.workers))  # so that no worker is left with one long batch at the end
        chunk = list(itertools.islice(rest, min(pace.size, max(fair, FIRST))))
        left -= len(chunk)
        yield inputs.batch(chunk)


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
