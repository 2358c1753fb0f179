"""Run studies: points to rows on an executor, rows to tables, figures and claims in files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from expertstream.errors import ConfigError, ExpertStreamError
from expertstream.explore.executors import Executor
from expertstream.explore.pace import Pace
from expertstream.files import replacing, write_json
from expertstream.report.chart import save_figure
from expertstream.reproduce.cache import Cache, hash_of
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """A study that was run: its claims, the files written, points in all and those that this call ran."""

    study: Study
    claims: tuple[Claim, ...]
    files: tuple[Path, ...]
    points: int
    ran: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.study.name,
            "title": self.study.title,
            "section": self.study.section,
            "points": self.points,
            "ran": self.ran,
            "files": [str(file) for file in self.files],
            "claims": [asdict(claim) for claim in self.claims],
        }


@dataclass(frozen=True)
class Answer:
    """Rows of some points as JSON texts by hash, or the message of a failure, and how long they took."""

    rows: dict[str, str]
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class PointsTask:
    """Some points of a study, for a worker."""

    measure: Callable[[Point], Row]
    points: dict[str, Point]

    def run(self) -> Answer:
        """Measure them; the first that cannot be measured ends the study."""
        began, rows = time.perf_counter(), {}
        for key, point in self.points.items():
            try:
                rows[key] = json.dumps(self.measure(point))
            except ExpertStreamError as error:
                return Answer(rows, time.perf_counter() - began, f"{json.dumps(point)}: {error}")
        return Answer(rows, time.perf_counter() - began)

    def failed(self, message: str) -> Answer:
        """The points that killed a worker."""
        return Answer({}, 0.0, f"{json.dumps(next(iter(self.points.values())))}: {message}")

    def halves(self) -> list[PointsTask]:
        """The first and the second half of the points."""
        keys = list(self.points)
        half = len(keys) // 2
        parts = (keys[half:], keys[:half]) if half else ()
        return [PointsTask(self.measure, {key: self.points[key] for key in part}) for part in parts]


def reproduce(
    studies: Sequence[Study],
    folder: str | os.PathLike[str],
    setting: Setting,
    executor: Executor,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Run studies; write NAME.png, NAME.svg, NAME.csv and NAME.json of each into ``folder``, and rows into its cache.

    Killed at any time, the same call goes on. The bytes of the files do not depend on the executor.

    Args:
        progress: called as ``progress(done, total, what)``.

    Raises:
        ConfigError: the folder cannot be written, or a point cannot be measured.
    """
    out = Path(folder)
    rows_of = Cache(out / "cache")
    try:
        plans = [(study, list(study.points(setting))) for study in studies]
        total, done, outcomes = sum(len(points) for _, points in plans), 0, []
        for study, points in plans:
            if progress:
                progress(done, total, study.name)
            hashes = [hash_of(study.measure_of(point), point) for point in points]
            missing = {key: p for key, p in zip(hashes, points, strict=True) if key not in rows_of.rows}
            ready = done + len(points) - len(missing)

            def say(ran: int, ready: int = ready, name: str = study.name) -> None:
                if progress:
                    progress(ready + ran, total, name)

            _measure(study, missing, rows_of, executor, say)
            rows = [point | rows_of.rows[key] for key, point in zip(hashes, points, strict=True)]
            outcomes.append(_write(study, setting, rows, out, len(missing)))
            done += len(points)
        if progress:
            progress(total, total, "done")
        return outcomes
    finally:
        executor.close()
        rows_of.close()


def measured(study: Study, points: Sequence[Point]) -> list[Row]:
    """Rows of some points, measured here and now."""
    return [point | json.loads(json.dumps(study.measured(point))) for point in points]


def _measure(
    study: Study, missing: dict[str, Point], cache: Cache, executor: Executor, say: Callable[[int], None]
) -> None:
    pace, ran = Pace(), 0
    batches = pace.batches(list(missing), executor.workers)
    tasks = (PointsTask(study.measured, {key: missing[key] for key in keys}) for keys in batches)
    for answer in executor.run(tasks):
        if answer.rows:
            cache.add(answer.rows)
        if answer.failure:
            raise ConfigError(f"{study.name} cannot measure the point {answer.failure}")
        ran += len(answer.rows)
        pace.learn(len(answer.rows), answer.seconds)
        say(ran)


def _rounded(row: Row) -> Row:
    """Six digits, as in the file: figures and claims say no more than it."""
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}


def _write(study: Study, setting: Setting, rows: Sequence[Row], folder: Path, ran: int) -> Outcome:
    table = [_rounded(row) for row in study.table(rows)]
    claims = tuple(study.claims(table))
    figure = study.draw(table)
    files = tuple(folder / f"{study.name}.{ending}" for ending in ("png", "svg", "csv", "json"))
    save_figure(figure, files[0])
    save_figure(figure, files[1])
    with replacing(files[2]) as temporary:
        columns = dict.fromkeys(name for row in table for name in row)  # a row may lack some
        pyarrow.csv.write_csv(pa.table({name: [row.get(name) for row in table] for name in columns}), temporary)
    about = {
        "name": study.name,
        "title": study.title,
        "section": study.section,
        "seeds": len({row["seed"] for row in rows if "seed" in row}),
        "layers_per_seed": _layers(setting, rows),
        "traces": [file.name for file in setting.traces],
        "assumptions": list(study.assumptions),
        "claims": [asdict(claim) for claim in claims],
    }
    write_json(about, files[3])
    return Outcome(study, claims, files, len(rows), ran)


def _layers(setting: Setting, rows: Sequence[Row]) -> str:
    """Which layers are simulated under a seed; whole iterations have ``every``, of how many MoE layers one is."""
    every = sorted({row["every"] for row in rows if "every" in row} - {1})
    kinds = [f"of whole iterations every {n}th MoE layer" for n in every]
    if any("every" not in row for row in rows):
        kinds.insert(0, "all" if setting.full else "shared out among the seeds")
    return "; ".join(kinds) or "all"
