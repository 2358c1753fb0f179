"""What a worker does: run a batch of points and return their rows."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from expertstream.errors import ConfigError, ExpertStreamError
from expertstream.explore.expressions import Expression
from expertstream.explore.fields import Value, change_package, change_technology, field_paths, value_of
from expertstream.explore.jobs import Batch, Job
from expertstream.explore.rows import FAILED, OK, Row, result_columns, result_row, schema
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options, Strategy, get_strategy
from expertstream.strategy.plan import parse_prediction

Strategies = dict[str, Strategy]


@dataclass(frozen=True)
class Done:
    """Rows of a batch, and how long they took."""

    rows: pa.Table
    seconds: float


@dataclass(frozen=True)
class BatchTask:
    """A batch as a task for an executor."""

    batch: Batch

    def run(self) -> Done:
        """Run every job."""
        return run_batch(self.batch)

    def failed(self, message: str) -> Done:
        """A failure of every job."""
        rows = [_failed(self.batch, job, message) for job in self.batch.jobs]
        return Done(pa.Table.from_pylist(rows, schema=schema(self.batch.fields)), 0.0)

    def halves(self) -> list[BatchTask]:
        """The first and the second half of the jobs."""
        half = len(self.batch.jobs) // 2
        parts = (self.batch.jobs[half:], self.batch.jobs[:half]) if half else ()
        return [BatchTask(replace(self.batch, jobs=jobs)) for jobs in parts]


def run_batch(batch: Batch) -> Done:
    """Run every job of a batch; a failure is a row with its message.

    Raises:
        ConfigError: this worker lacks a strategy, or what the file of one imports; then no row would be right.
    """
    began = time.perf_counter()
    limits = tuple(Expression(text, [*result_columns(), *field_paths()]) for text in batch.limits)
    strategies = load_strategies(batch)
    rows = [_run(batch, job, limits, strategies) for job in batch.jobs]
    table = pa.Table.from_pylist(rows, schema=schema(batch.fields))
    return Done(table, time.perf_counter() - began)


def load_strategies(batch: Batch) -> Strategies:
    """The strategies of a batch by name. Raises ConfigError for one that is not installed here, or whose file fails."""
    return {name: get_strategy(name, source) for name, source in batch.strategies.items()}


def _run(batch: Batch, job: Job, limits: tuple[Expression, ...], strategies: Strategies) -> Row:
    try:
        return _simulated(batch, job, limits, strategies)
    except ExpertStreamError as error:
        return _failed(batch, job, str(error))
    except Exception as error:  # one bad point must not end a sweep of a million
        return _failed(batch, job, f"{type(error).__name__}: {error}")


def simulate_job(batch: Batch, job: Job, strategies: Strategies) -> Result:
    """Simulate one job of a batch.

    Args:
        strategies: ``load_strategies`` of the batch.

    Raises:
        ConfigError: there is no such model or routing, or a field cannot have its value.
        WorkloadError: the layer cannot run on the package.
    """
    point = _point(batch, job)
    model, routing = batch.models[job.model], batch.routings[job.routing]
    if isinstance(model, str):
        raise ConfigError(model)
    if isinstance(routing, str):
        raise ConfigError(routing)
    names = {"decision_time": "decision_ps", "lead_time": "lead_ps"}
    options: dict[str, Any] = {names.get(name, name): value for name, value in _below("options", point).items()}
    if isinstance(options.get("prediction"), str):
        options["prediction"] = parse_prediction(options["prediction"])
    return simulate(
        model,
        change_package(batch.packages[str(point["package"])], _below("package", point)),
        routing,
        strategies[str(point["strategy"])],
        spread=point["spread"],  # type: ignore[arg-type]
        options=Options(training=batch.trainings.get(job.routing), **options),
        technology=change_technology(batch.technologies[str(point["technology"])], _below("technology", point)),
    )


def _simulated(batch: Batch, job: Job, limits: tuple[Expression, ...], strategies: Strategies) -> Row:
    result = simulate_job(batch, job, strategies)
    point, model = _point(batch, job), result.workload.model
    package = batch.packages[str(point["package"])]
    technology = batch.technologies[str(point["technology"])]
    results = result_row(result)
    documents = {"model": model, "package": package, "technology": technology}

    def lookup(path: str) -> Value:
        if path in results:
            return results[path]  # type: ignore[no-any-return]
        root, _, rest = path.partition(".")
        return value_of(documents[root], rest) if path not in point and root in documents else point.get(path)

    feasible = all(limit.holds(lookup) for limit in limits)
    return _inputs(batch, job) | {"status": OK, "feasible": feasible} | results


def _failed(batch: Batch, job: Job, message: str) -> Row:
    return _inputs(batch, job) | {"status": FAILED, "message": message, "feasible": False}


def _inputs(batch: Batch, job: Job) -> Row:
    return {"point": job.number, "hash": job.hash, **dict(zip(batch.fields, job.values, strict=True))}


def _point(batch: Batch, job: Job) -> dict[str, Value]:
    return batch.fixed | dict(zip(batch.fields, job.values, strict=True))


def _below(root: str, point: dict[str, Value]) -> dict[str, Value]:
    return {path.removeprefix(f"{root}."): value for path, value in point.items() if path.startswith(f"{root}.")}
