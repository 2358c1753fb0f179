"""Where tasks run: in this process, in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, Final, Literal, Protocol, TypeVar

from expertstream.errors import ConfigError

Kind = Literal["serial", "processes", "dask"]
Done_co = TypeVar("Done_co", covariant=True)
Done = TypeVar("Done")
DIED: Final = "worker processes died with it"
AHEAD: Final = 2  # tasks in flight per worker, so that none waits for the next
# Dask has workers give memory back after every point, and each point would ask for it anew (docs/explore.md)
KEEP_MEMORY: Final = {"MALLOC_TRIM_THRESHOLD_": 2**30, "MALLOC_MMAP_THRESHOLD_": 2**25}
WAIT_S: Final = 30  # for a scheduler to answer and for its first worker


class Task(Protocol[Done_co]):
    """A piece of work that travels to a worker by pickle."""

    def run(self) -> Done_co:
        """Do the work."""
        ...

    def failed(self, message: str) -> Done_co:
        """What stands for the result if no worker could do it."""
        ...

    def halves(self) -> Sequence[Task[Done_co]]:
        """Two tasks that together are this one; none if it cannot be divided."""
        ...


class Executor(Protocol):
    """Runs tasks; the order of the results is free."""

    workers: int

    def run(self, tasks: Iterator[Task[Done]]) -> Iterator[Done]:
        """Take tasks when workers have room and give their results as they come."""
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
    if kind == "serial" and workers not in (None, 1):
        raise ConfigError(f"--workers is {workers}, but --executor serial has one; leave one of them out")
    if address is not None and workers is not None:
        raise ConfigError("--workers is for a cluster of this machine; the scheduler at --address has its own workers")
    n = workers or len(os.sched_getaffinity(0))
    if kind == "serial":
        return Serial()
    return Processes(n) if kind == "processes" else Dask(n, address)


class Serial:
    """Everything in this process."""

    workers = 1

    def run(self, tasks: Iterator[Task[Done]]) -> Iterator[Done]:
        """One task after another."""
        return map(_run, tasks)

    def close(self) -> None:
        """Nothing to do."""


class Processes:
    """Processes of this machine. A worker that dies costs nothing: its tasks run again in new processes."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._processes: set[BaseProcess] = set()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin_worker)
        return self._pool

    def close(self) -> None:
        """End the processes, whatever they do."""
        pool, self._pool = self._pool, None
        processes, self._processes = self._processes, set()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()

    def run(self, tasks: Iterator[Task[Done]]) -> Iterator[Done]:
        """Results of the tasks, as they come.

        Tasks that were under way when a worker died run again, each alone. One that is alone when a worker dies is
        halved, down to the smallest that kills workers, which counts as failed.
        """
        suspects: list[Task[Done]] = []
        while True:
            alone, flying = bool(suspects), dict[Future[Done], Task[Done]]()
            try:
                yield from self._through(iter([suspects.pop()]) if alone else tasks, flying)
                if not alone:
                    return
            except BrokenProcessPool:
                self.close()
                for future, task in flying.items():
                    if future.done() and future.exception() is None:
                        yield future.result()
                    elif not alone:
                        suspects.append(task)
                    elif halves := task.halves():
                        suspects += halves
                    else:
                        yield task.failed(DIED)

    def _through(self, tasks: Iterator[Task[Done]], flying: dict[Future[Done], Task[Done]]) -> Iterator[Done]:
        """Hand tasks in and give results; ``flying`` holds what is under way, also when BrokenProcessPool is raised."""
        while True:
            for task in _up_to(tasks, AHEAD * self.workers - len(flying)):
                flying[self._submit(task)] = task
            if not flying:
                return
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                done = future.result()
                del flying[future]
                yield done

    def _submit(self, task: Task[Done]) -> Future[Done]:
        pool, others = self._started(), set(multiprocessing.active_children())
        try:
            with _without_interrupts():
                return pool.submit(_run, task)
        except BrokenProcessPool as error:  # a worker has died in the meantime
            failed: Future[Done] = Future()
            failed.set_exception(error)
            return failed
        finally:
            self._processes |= set(multiprocessing.active_children()) - others


class Dask:
    """A Dask cluster: the scheduler at ``address``, or one of this machine with a process per worker."""

    def __init__(self, workers: int, address: str | None) -> None:
        self.workers, self.address = workers, address
        self._client: Any = None
        self._cluster: Any = None

    def run(self, tasks: Iterator[Task[Done]]) -> Iterator[Done]:
        """Results of the tasks, as they come. A worker that is lost costs nothing: Dask runs its tasks elsewhere.

        Raises:
            ConfigError: Dask is not installed, the scheduler cannot be reached or is lost, or has no workers.
        """
        distributed, client = self._started()
        try:
            yield from self._through(distributed, client, tasks)
        except OSError as error:  # so Dask says that a connection is gone
            raise self._lost(client, type(error).__name__) from None

    def _through(self, distributed: Any, client: Any, tasks: Iterator[Task[Done]]) -> Iterator[Done]:
        flying: dict[Any, Task[Done]] = {}
        for task in _up_to(tasks, AHEAD * self._threads(client)):
            flying[client.submit(_run_on_dask, task, pure=False)] = task
        finished = distributed.as_completed(list(flying))
        for future in finished:
            task = flying.pop(future)
            failure = future.exception() if future.status == "error" else None
            halves = task.halves() if isinstance(failure, distributed.KilledWorker) else ()
            if halves:  # down to the smallest task that kills workers
                for half in halves:
                    flying[added := client.submit(_run_on_dask, half, pure=False)] = half
                    finished.add(added)
            elif isinstance(failure, distributed.KilledWorker):
                yield task.failed(DIED)
            elif failure is None and future.status != "finished":
                raise self._lost(client, future.status)
            elif isinstance(failure, ConfigError):
                raise failure
            elif failure is not None:
                raise ConfigError(
                    f"the Dask cluster gave up a task ({failure}); do its workers have the same "
                    "versions of Python and expertstream? Run the same command again to go on"
                )
            else:
                yield future.result()
            future.release()
            for more in _up_to(tasks, AHEAD * self._threads(client) - len(flying)):
                flying[added := client.submit(_run_on_dask, more, pure=False)] = more
                finished.add(added)

    def _started(self) -> tuple[Any, Any]:
        """The module ``distributed``, and a client with at least one worker."""
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError:
            raise ConfigError('Dask is not installed; pip install "expertstream[explore]"') from None
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what is wrong is said once, here
        if self._client is not None:
            return distributed, self._client
        try:
            if self.address is None:
                self._cluster = _local_cluster(distributed, self.workers)
            self._client = distributed.Client(self._cluster or self.address, timeout=WAIT_S)
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if self.address is None:
                raise ConfigError(f"cannot start a Dask cluster on this machine: {reason}") from None
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

    def _lost(self, client: Any, how: str) -> ConfigError:
        return ConfigError(
            f"lost the Dask scheduler at '{client.scheduler.address}' ({how}); all rows that came are safe, run the "
            "same command again to go on"
        )

    def close(self) -> None:
        """Leave the cluster; end it if it is of this machine."""
        for part in (self._client, self._cluster):
            if part is not None:
                part.close()
        self._client = self._cluster = None

    def _threads(self, client: Any) -> int:
        self.workers = max(sum(client.nthreads().values()), 1)
        return self.workers


def _run(task: Task[Done]) -> Done:
    return task.run()


def _run_on_dask(task: Task[Done]) -> Done:
    """Run a task; if the worker lacks something for it, its name goes into the message."""
    try:
        return task.run()
    except ConfigError as error:
        worker = importlib.import_module("distributed").get_worker().address
        raise ConfigError(
            f"Dask worker {worker} on {socket.gethostname()}: {error}; install there what is installed here, and run "
            "the same command again to go on"
        ) from None


def _local_cluster(distributed: Any, workers: int) -> Any:
    config: Any = importlib.import_module("dask.config")
    name = "distributed.nanny.pre-spawn-environ"
    with config.set({name: {**config.get(name), **KEEP_MEMORY}}):
        return distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)


def _up_to(tasks: Iterator[Task[Done]], n: int) -> Iterator[Task[Done]]:
    for _ in range(n):
        task = next(tasks, None)
        if task is None:
            return
        yield task


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start meanwhile never hear Ctrl-C, not even while they import; this one hears it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
