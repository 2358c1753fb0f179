"""Searches: the best trade-offs between objectives, with NSGA-II of Optuna."""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from expertstream.errors import ConfigError
from expertstream.explore.executors import Executor
from expertstream.explore.expressions import Expression
from expertstream.explore.fields import Value
from expertstream.explore.jobs import Inputs, Job, Progress, Values, no_points
from expertstream.explore.journal import open_study
from expertstream.explore.pareto import front, hypervolume
from expertstream.explore.rows import OK, Row
from expertstream.explore.run import run_jobs, speed
from expertstream.explore.spec import Axis, SearchSpec
from expertstream.explore.store import Store
from expertstream.explore.sweep import default_executor, spec_document
from expertstream.files import write_json

SUMMARY: Final = "search.json"


@dataclass(frozen=True, eq=False)
class Search:
    """A finished search.

    Attributes:
        table: a row for each design that ran, in the order of the trials (``point``).
        front: the feasible rows that no other feasible one beats, in the order of the first objective.
        history: after each trial, the hypervolume of the feasible designs so far, as a share of the box between the
            best value of each objective and ``reference``.
        reference: value of each objective beyond which a design counts for nothing.
        ran: designs that this call simulated.
    """

    table: pa.Table
    front: tuple[Row, ...]
    history: tuple[float, ...]
    reference: dict[str, float]
    ran: int

    def document(self) -> dict[str, Any]:
        """What ``search.json`` holds: the same whatever the executor, and however often the search was stopped."""
        return {
            "trials": len(self.history),
            "designs": self.table.num_rows,
            "reference": self.reference,
            "hypervolume": list(self.history),
            "front": list(self.front),
        }


def search(
    spec: SearchSpec,
    folder: str | os.PathLike[str],
    executor: Executor | None = None,
    *,
    progress: Progress | None = None,
) -> Search:
    """Try ``spec.trials`` designs, generation by generation; stopped, the same call goes on.

    The same specification and seed give the same trials, whatever the executor and however often it was stopped: every
    trial draws from a generator of its own number, and a generation is judged when all of it has run. Designs that
    break a limit are judged by how far they are from it; designs that break a condition of ``where`` are not run.

    Raises:
        ConfigError: Optuna is not installed, an input cannot be read, a design may ask for more tokens than its trace
            has, or the folder belongs to another specification.
    """
    optuna = _optuna()
    inputs = Inputs(spec)
    inputs.check_tokens(_largest(spec, inputs), of_search=True)
    store = Store(folder, inputs.fields, spec_document(spec, inputs))
    executor = executor or default_executor()
    try:
        study = open_study(optuna, Path(folder), list(spec.objectives.values()))
        ran, fresh, trials = 0, 0, _Trials(optuna, study, spec)
        began = time.monotonic()
        jobs: dict[int, Job] = {}
        for first in range(0, spec.trials, spec.population):
            before, generation = ran, range(first, min(first + spec.population, spec.trials))
            points = {number: trials.values(number) for number in generation}
            wanted = {number: inputs.job(number, at) for number, at in points.items() if inputs.allowed(at)}
            jobs |= wanted
            unique = list({job.hash: job for job in reversed(wanted.values())}.values())[::-1]
            known = set() if not trials.open(generation) else store.done()
            if trials.open(generation):
                todo = [job for job in unique if job.hash not in known]
                ran += run_jobs(inputs, todo, store, executor)
                rows = {row["hash"]: row for row in store.table().to_pylist()}
                for number in generation:
                    row = rows[wanted[number].hash] if number in wanted else None
                    trials.tell(number, row, _violations(spec, inputs, row, points[number]))
            if progress:
                fresh += generation.stop - first if ran > before else 0
                rest = speed(fresh, spec.trials - generation.stop, began, "trials") if fresh else "resuming"
                progress(generation.stop, spec.trials, rest)
        if not jobs:
            raise no_points(spec.where, spec.trials)
        table = store.finish()
        found = _result(spec, table, [jobs[n].hash if n in jobs else None for n in range(spec.trials)], ran)
        write_json(found.document(), Path(folder) / SUMMARY)
        return found
    finally:
        executor.close()
        store.close()


class _Trials:
    """Optuna's trials by their numbers."""

    def __init__(self, optuna: Any, study: Any, spec: SearchSpec) -> None:
        self._optuna, self._study, self._spec = optuna, study, spec
        self._axes = spec.axes
        self._running: dict[int, Any] = {}

    def values(self, number: int) -> Values:
        """The design of a trial: as it was before, or a new one."""
        trials = self._study.get_trials(deepcopy=False)
        if number < len(trials) and trials[number].state.is_finished():
            return tuple(trials[number].params[axis.path] for axis in self._axes)
        self._study.sampler = self._optuna.samplers.NSGAIISampler(
            population_size=self._spec.population,
            seed=int(np.random.SeedSequence([self._spec.seed, number]).generate_state(1)[0]),
        )
        if number < len(trials):  # it was running when the search was stopped
            trial = self._optuna.trial.Trial(self._study, trials[number]._trial_id)
        else:
            trial = self._study.ask()
        self._running[number] = trial
        return tuple(_suggest(trial, axis) for axis in self._axes)

    def open(self, generation: Sequence[int]) -> bool:
        """Whether some trial of a generation has not been judged."""
        return any(number in self._running for number in generation)

    def tell(self, number: int, row: Row | None, violations: list[float]) -> None:
        """Judge a trial by its row; None or a failure: it says nothing."""
        trial = self._running.pop(number, None)
        if trial is None:
            return
        values = None if row is None or row["status"] != OK else [row[name] for name in self._spec.objectives]
        if values is None or any(value is None for value in values):
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            return
        for limit, violation in zip(self._spec.limits, violations, strict=True):
            trial.set_constraint(limit, violation)
        self._study.tell(trial, values)


def _suggest(trial: Any, axis: Axis) -> Value:
    if not axis.is_range or axis.steps is not None:
        return trial.suggest_categorical(axis.path, list(axis.grid()))  # type: ignore[no-any-return]
    if isinstance(axis.at(0.5), int):
        return int(trial.suggest_int(axis.path, int(axis.low), int(axis.high), log=axis.log))
    return float(trial.suggest_float(axis.path, axis.low, axis.high, log=axis.log))


def _violations(spec: SearchSpec, inputs: Inputs, row: Row | None, values: Values) -> list[float]:
    if row is None or row["status"] != OK:
        return []
    point = inputs.fixed | dict(zip(inputs.fields, values, strict=True))
    return [limit.violation(lambda p: row[p] if p in row else inputs.value(point, p)) for limit in spec.bounds()]


def _result(spec: SearchSpec, table: pa.Table, trials: list[str | None], ran: int) -> Search:
    rows = {row["hash"]: row for row in table.to_pylist() if row["feasible"]}
    signs = np.array([1.0 if way == "minimize" else -1.0 for way in spec.objectives.values()])
    place = {key: i for i, key in enumerate(rows)}
    values = np.array([[row[name] for name in spec.objectives] for row in rows.values()], dtype=np.float64)
    if not rows:
        return Search(table, (), (0.0,) * len(trials), {}, ran)
    values = values * signs
    best, worst = values.min(axis=0), values.max(axis=0)
    given = [spec.reference.get(name) for name in spec.objectives]
    reference = np.array([w if g is None else g * s for g, w, s in zip(given, worst, signs, strict=True)])
    box = float(np.prod(np.where(reference > best, reference - best, 1.0)))
    history, best_yet = [0.0], np.empty((0, len(signs)))
    for key in trials:
        at = place.get(key or "")
        if at is None or (best_yet <= values[at]).all(axis=1).any():  # nothing new
            history.append(history[-1])
            continue
        best_yet = np.vstack((best_yet, values[at]))
        best_yet = best_yet[front(best_yet)]
        history.append(hypervolume(best_yet, reference) / box)
    chosen = [list(rows.values())[i] for i in front(values)]
    first = next(iter(spec.objectives))
    chosen.sort(key=lambda row: (row[first] * signs[0], row["point"]))
    limits = dict(zip(spec.objectives, (reference * signs).tolist(), strict=True))
    return Search(table, tuple(chosen), tuple(history[1:]), limits, ran)


def _largest(spec: SearchSpec, inputs: Inputs) -> list[Job]:
    """For each trace, model and mix a design with the most tokens that the conditions on these allow."""
    chosen = [axis for axis in spec.axes if axis.path in ("trace", "model", "mix")]
    tokens = next((axis for axis in spec.axes if axis.path == "tokens"), None)
    free = {axis.path for axis in spec.axes} - {axis.path for axis in chosen} - {"tokens"}
    decided = [one for one in spec.conditions() if not any(name in free or _root(name) in free for name in one.names)]
    most = [spec.tokens] if tokens is None else sorted(_ends(tokens, decided), reverse=True)
    jobs = []
    for others in itertools.product(*(axis.values for axis in chosen)):
        values = {axis.path: axis.at(0.0) for axis in spec.axes}
        values |= {axis.path: value for axis, value in zip(chosen, others, strict=True)}
        for n in most:
            point = inputs.fixed | values | {"tokens": n}
            if all(one.holds(partial(inputs.value, point)) for one in decided):
                jobs.append(inputs.job(0, tuple(point[path] for path in inputs.fields)))
                break
    return jobs


def _ends(tokens: Axis, conditions: Sequence[Expression]) -> set[int]:
    """The values that tokens can have, or of a range without steps those at its ends and where a condition changes."""
    if not tokens.is_range or tokens.steps is not None:
        return {int(value) for value in tokens.grid() if value is not None}
    at = [one.value for of in conditions for one in of.comparisons() if one.name == "tokens"]
    near = {int(value) + by for value in at for by in (-1, 0, 1)}
    return {n for n in near if tokens.low <= n <= tokens.high} | {int(tokens.low), int(tokens.high)}


def _root(path: str) -> str:
    return path.split(".")[0]


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise ConfigError('Optuna is not installed; pip install "expertstream[explore]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
