"""Sweeps: every point of a specification, once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from expertstream.explore.executors import Executor, make_executor
from expertstream.explore.jobs import Inputs, Progress, jobs_of, points_of
from expertstream.explore.rows import FAILED
from expertstream.explore.run import run_jobs
from expertstream.explore.spec import Base, SweepSpec
from expertstream.explore.store import Store
from expertstream.explore.summary import count


@dataclass(frozen=True, eq=False)
class Sweep:
    """A finished sweep.

    Attributes:
        table: one row per point (``rows.schema``), in the order of the points.
        ran: points that this call ran; the others were there. damaged: files of rows that could not be read; their
            points ran again.
    """

    table: pa.Table
    ran: int
    damaged: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Points that failed."""
        return count(self.table, "status", FAILED)


def sweep(
    spec: SweepSpec,
    folder: str | os.PathLike[str],
    executor: Executor | None = None,
    *,
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> Sweep:
    """Run the points of ``spec`` that ``folder`` does not hold yet, and write ``folder/results.parquet``.

    Killed at any time, even by kill -9, the same call goes on: finished batches stay, and only the few points of the
    batches that were running then run again. The bytes of results.parquet do not depend on the executor.

    Args:
        executor: default: a process per core. progress: called as ``progress(done, total, what)``.
        retry_failed: run points again that failed before.

    Raises:
        ConfigError: an input cannot be read, no point is left, or the folder belongs to another specification.
    """
    inputs = Inputs(spec)
    jobs = jobs_of(inputs, points_of(spec), spec.size, progress)
    store = Store(folder, inputs.fields, spec_document(spec, inputs))
    executor = executor or default_executor()
    try:
        ran = run_jobs(inputs, jobs, store, executor, progress, retry_failed=retry_failed)
        return Sweep(store.finish(), ran, tuple(store.damaged))
    finally:
        executor.close()
        store.close()


def default_executor() -> Executor:
    """A process per core."""
    return make_executor("processes")


def spec_document(spec: Base, inputs: Inputs) -> dict[str, Any]:
    """What a store keeps of a specification: rows of another version of the program are not mixed with new ones."""
    about = {"version": version("expertstream")}
    return spec.model_dump(mode="json") | about | {"digest": spec.digest([*inputs.digests(), about["version"]])}
