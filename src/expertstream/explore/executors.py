"""Where batches run: in this process, in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, Literal, Protocol

from expertstream.errors import ConfigError
from expertstream.explore.jobs import Batch
from expertstream.explore.worker import Done, failed_rows, run_batch

Kind = Literal["serial", "processes", "dask"]
MAX_DEATHS: Final = 3  # workers that may die with a batch before it counts as failed
AHEAD: Final = 2  # batches in flight per worker, so that none waits for the next
WAIT_S: Final = 30  # for a scheduler to answer and for its first worker


class Executor(Protocol):
    """Runs batches; the order of the results is free."""

    workers: int

    def run(self, batches: Iterator[Batch]) -> Iterator[Done]:
        """Take batches when workers have room and give their rows as they come."""
        ...

    def close(self) -> None:
        """Let the workers go; a later ``run`` starts new ones."""
        ...


def make_executor(kind: str, *, workers: int | None = None, address: str | None = None) -> Executor:
    """The executor of a name.

    Args:
        workers: processes, also of a local Dask cluster; None: one per core. address: of a Dask scheduler.

    Raises:
        ConfigError: an unknown kind, or options that it does not take.
    """
    if kind not in ("serial", "processes", "dask"):
        raise ConfigError(f"--executor '{kind}' is unknown; allowed: serial, processes, dask")
    if address is not None and kind != "dask":
        raise ConfigError(f"--address is for --executor dask, not {kind}")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}; it must be at least 1")
    if address is not None and workers is not None:
        raise ConfigError("--workers is for a cluster of this machine; the scheduler at --address has its own workers")
    n = workers or len(os.sched_getaffinity(0))
    if kind == "serial":
        return Serial()
    return Processes(n) if kind == "processes" else Dask(n, address)


class Serial:
    """Everything in this process."""

    workers = 1

    def run(self, batches: Iterator[Batch]) -> Iterator[Done]:
        """One batch after another."""
        return map(run_batch, batches)

    def close(self) -> None:
        """Nothing to do."""


class Processes:
    """Processes of this machine. A worker that dies costs no row: its batches run again in new processes."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin_worker)
        return self._pool

    def close(self) -> None:
        """End the processes."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def run(self, batches: Iterator[Batch]) -> Iterator[Done]:
        """Rows of the batches, as they come."""
        deaths: dict[int, int] = {}
        again: list[Batch] = []
        while True:
            flying: dict[Future[Done], Batch] = {}
            try:
                while True:
                    while len(flying) < AHEAD * self.workers:
                        batch = again.pop() if again else next(batches, None)
                        if batch is None:
                            break
                        flying[self._started().submit(run_batch, batch)] = batch
                    if not flying:
                        return
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        done = future.result()
                        del flying[future]
                        yield done
            except BrokenProcessPool:
                self.close()
                for future, batch in flying.items():
                    if future.done() and future.exception() is None:
                        yield future.result()
                        continue
                    first = batch.jobs[0].number
                    deaths[first] = deaths.get(first, 0) + 1
                    if deaths[first] < MAX_DEATHS:
                        again.append(batch)
                    else:
                        yield Done(failed_rows(batch, f"worker processes died {MAX_DEATHS} times with it"), 0.0)


class Dask:
    """A Dask cluster: the scheduler at ``address``, or one of this machine with a process per worker."""

    def __init__(self, workers: int, address: str | None) -> None:
        self.workers, self.address = workers, address
        self._client: Any = None
        self._cluster: Any = None

    def run(self, batches: Iterator[Batch]) -> Iterator[Done]:
        """Rows of the batches, as they come. A worker that is lost costs no row: Dask runs its batches elsewhere.

        Raises:
            ConfigError: Dask is not installed, the scheduler cannot be reached or is lost, or has no workers.
        """
        distributed, client = self._started()
        flying: dict[Any, Batch] = {}
        for batch in _up_to(batches, AHEAD * self._threads(client)):
            flying[client.submit(run_batch, batch, pure=False)] = batch
        finished = distributed.as_completed(list(flying))
        for future in finished:
            batch = flying.pop(future)
            failure = future.exception() if future.status == "error" else None
            if isinstance(failure, distributed.KilledWorker):
                yield Done(failed_rows(batch, f"Dask workers died with it: {failure}"), 0.0)
            elif failure is not None or future.status != "finished":
                raise ConfigError(
                    f"the Dask cluster gave up a batch ({failure or future.status}); do its workers have the same "
                    "versions of Python and expertstream? Run the same command again to go on"
                )
            else:
                yield future.result()
            future.release()
            for more in _up_to(batches, AHEAD * self._threads(client) - len(flying)):
                flying[added := client.submit(run_batch, more, pure=False)] = more
                finished.add(added)

    def _started(self) -> tuple[Any, Any]:
        """The module ``distributed``, and a client with at least one worker."""
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError:
            raise ConfigError('Dask is not installed; pip install "expertstream[explore]"') from None
        if self._client is not None:
            return distributed, self._client
        try:
            if self.address is None:
                self._cluster = distributed.LocalCluster(self.workers, threads_per_worker=1, dashboard_address=None)
            self._client = distributed.Client(self._cluster or self.address, timeout=WAIT_S)
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"cannot reach a Dask scheduler at '{self.address}': {reason}; start one with 'dask scheduler' and "
                "give its address, such as tcp://127.0.0.1:8786"
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=WAIT_S)
        except TimeoutError:
            raise ConfigError(
                f"the Dask scheduler at '{self.address}' has no worker after {WAIT_S} s; start some: "
                f"dask worker {self.address}"
            ) from None
        return distributed, self._client

    def close(self) -> None:
        """Leave the cluster; end it if it is of this machine."""
        for part in (self._client, self._cluster):
            if part is not None:
                part.close()
        self._client = self._cluster = None

    def _threads(self, client: Any) -> int:
        self.workers = max(sum(client.nthreads().values()), 1)
        return self.workers


def _up_to(batches: Iterator[Batch], n: int) -> Iterator[Batch]:
    for _ in range(n):
        batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
