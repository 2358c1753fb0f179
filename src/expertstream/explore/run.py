"""Run jobs on an executor into a store."""

from __future__ import annotations

import time
from collections.abc import Sequence

from expertstream.errors import WorkerError
from expertstream.explore.executors import Executor
from expertstream.explore.jobs import Inputs, Job, Progress
from expertstream.explore.pace import Pace
from expertstream.explore.store import Store
from expertstream.explore.worker import BatchTask
from expertstream.units import counted


def run_jobs(
    inputs: Inputs,
    jobs: Sequence[Job],
    store: Store,
    executor: Executor,
    progress: Progress | None = None,
    *,
    retry_failed: bool = False,
) -> int:
    """Run the jobs whose rows are not in the store yet; rows are stored batch by batch. Returns how many ran.

    Raises:
        ConfigError: the disk is full, or a cluster cannot be used. WorkerError: an executor lost rows.
    """
    done = store.done(failed=not retry_failed)
    left = [job for job in jobs if job.hash not in done]
    if not left:
        return 0
    pace = Pace()
    began, before, ran = time.monotonic(), len(jobs) - len(left), 0
    batches = pace.batches(left, executor.workers)
    for result in executor.run(BatchTask(inputs.batch(chunk)) for chunk in batches):
        store.add(result.rows)
        ran += result.rows.num_rows
        pace.learn(result.rows.num_rows, result.seconds)
        if progress:
            progress(before + ran, len(jobs), speed(ran, len(left) - ran, began, "points"))
    if ran != len(left):
        raise WorkerError(
            f"rows of {counted(len(left) - ran, 'point')} never came; run the same command again to go on"
        )
    return ran


def speed(done: int, left: int, began: float, what: str) -> str:
    """Rate and time left in words; ``began``: of ``time.monotonic``, when none was done."""
    rate = done / max(time.monotonic() - began, 1e-9)
    return f"{rate:.3g} {what}/s, {_span(left / rate) if rate else 'unknown time'} left"


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
