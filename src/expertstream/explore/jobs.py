"""Points as jobs: what a worker needs to run each, and the content hash that tells points apart."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from expertstream.comparison import Splits, in_parts
from expertstream.documents import load_model, load_package, load_technology
from expertstream.errors import ConfigError, ExpertStreamError, TooFewTokensError
from expertstream.explore.fields import DOCUMENTS, Value, change_model, value_of
from expertstream.explore.spec import Base, SweepSpec
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.strategy import Options, get_strategy, source_of
from expertstream.trace import Routing, RoutingTrace, packaged_trace
from expertstream.units import counted

FORMAT: Final = "2"  # part of every hash; raised when rows come to mean something else
_ROUTING: Final = ("trace", "tokens", "layer", "mix")  # fields that decide a routing, beside the model's
EACH: Final = 1000  # points between two reports of progress
Progress = Callable[[int, int, str], None]
Values = tuple[Value, ...]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Job:
    """One point: its number in the exploration, its content hash, the values of the varied fields; keys of inputs."""

    number: int
    hash: str
    values: Values
    model: Key
    routing: Key


@dataclass(frozen=True)
class Batch:
    """Jobs that a worker runs in one go, with all that they need (nothing is read from a worker's disk).

    Attributes:
        fields: paths of the varied fields. fixed: the other inputs, by path. limits: conditions on the results.
        models, routings: by the jobs' keys; a text is the reason why there is none. packages, technologies: by name.
        trainings: by the routings' keys, the part of the trace on which strategies that need one are fitted.
        strategies: by name, the text of the file of a user's own; None for the others.
    """

    jobs: tuple[Job, ...]
    fields: tuple[str, ...]
    fixed: dict[str, Value]
    limits: tuple[str, ...]
    models: dict[Key, MoEModel | str]
    routings: dict[Key, Routing | str]
    packages: dict[str, Package]
    technologies: dict[str, Technology]
    trainings: dict[Key, RoutingTrace]
    strategies: dict[str, bytes | None]


@dataclass
class Inputs:
    """Loads each document, trace and routing once, and makes jobs of points.

    Raises:
        ConfigError: a model, package or technology cannot be read, or all points have one routing and there is none.
        TraceError: a trace cannot be read.
    """

    spec: Base
    documents: dict[str, dict[str, BaseModel]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Load what the specification names, so that a missing file is known before anything runs."""
        self.fields = tuple(self.spec.fields)
        self.fixed = self.spec.fixed()
        axes = {axis.path: axis for axis in self.spec.axes}
        load = {"model": load_model, "package": load_package, "technology": load_technology}
        for root in DOCUMENTS:
            names = axes[root].values if root in axes else (self.fixed[root],)
            self.documents[root] = {str(name): load[root](str(name)) for name in names}
        traces = axes["trace"].values if "trace" in axes else (self.fixed["trace"],)
        self._files = [str(name) for name in traces if name]
        self._traces: dict[Any, RoutingTrace] = {name: RoutingTrace.open(name) for name in self._files}
        self._splits: dict[Any, Splits] = {}
        self._models: dict[Key, MoEModel | str] = {}
        self._routings: dict[Key, Routing | str] = {}
        self._trainings: dict[Key, RoutingTrace] = {}
        strategies = axes["strategy"].values if "strategy" in axes else (self.fixed["strategy"],)
        self._strategies = {str(name): source_of(str(name)) for name in strategies}
        self._fitted = any(get_strategy(name, source).fitted for name, source in self._strategies.items())
        self._too_few: set[Key] = set()  # routings whose trace has fewer tokens; the reason is in their place
        self._digests: dict[Key, str] = {}
        self._where = self.spec.conditions()
        if not any(path in _ROUTING or path.split(".")[0] == "model" for path in self.fields):
            reason = self._routings[self._keys(self.fixed)[1]]
            if isinstance(reason, str):
                raise ConfigError(reason)

    def digests(self) -> list[str]:
        """Hashes of the contents of all documents, trace files and users' strategies."""
        texts = [_digest(doc.model_dump_json()) for docs in self.documents.values() for doc in docs.values()]
        texts += [_digest(source) for source in self._strategies.values() if source is not None]
        return texts + [
            _file_digest(key) if key in self._files else _digest(trace.experts.tobytes())
            for key, trace in self._traces.items()
        ]

    def allowed(self, values: Values) -> bool:
        """Whether a point fulfils every condition of ``where``."""
        if not self._where:
            return True
        point = self.fixed | dict(zip(self.fields, values, strict=True))
        return all(condition.holds(lambda path: self.value(point, path)) for condition in self._where)

    def value(self, point: dict[str, Value], path: str) -> Value:
        """Value of any field at a point."""
        if path in point:
            return point[path]
        root, _, rest = path.partition(".")
        return value_of(self.documents[root][str(point[root])], rest) if root in DOCUMENTS else None

    def job(self, number: int, values: Values) -> Job:
        """The job of a point."""
        point = self.fixed | dict(zip(self.fields, values, strict=True))
        model_key, routing_key = self._keys(point)
        said = {*_ROUTING} - {"tokens"}  # by the digest of the routing
        rest = {path: v for path, v in point.items() if path not in said and not path.startswith("model.")}
        for root in DOCUMENTS[1:]:
            rest[root] = self._document_digest(root, str(point[root]))
        rest["model"], rest["routing"] = self._digests[model_key], self._digests[routing_key]
        source = self._strategies[str(point["strategy"])]
        if source is not None:
            rest["strategy's file"] = _digest(source)
        content = json.dumps([FORMAT, sorted(rest.items(), key=lambda item: item[0])])
        return Job(number, _digest(content), values, model_key, routing_key)

    def _keys(self, point: dict[str, Value]) -> tuple[Key, Key]:
        """Keys of the model and the routing of a point, which are made if they are not known."""
        changes = {path: value for path, value in point.items() if path.startswith("model.")}
        model_key: Key = (point["model"], *changes.items())
        if model_key not in self._models:
            try:
                self._models[model_key] = self._model(point, changes)
            except ExpertStreamError as error:
                self._models[model_key] = str(error)
            self._digests[model_key] = _digest(_json(self._models[model_key]))
        routing_key: Key = (point["trace"] or model_key, point["tokens"], point["layer"], point["mix"])
        if routing_key not in self._routings:
            try:
                self._routings[routing_key] = self._routing(point, model_key, routing_key)
            except ExpertStreamError as error:
                self._routings[routing_key] = str(error)
                if isinstance(error, TooFewTokensError):
                    self._too_few.add(routing_key)
            self._digests[routing_key] = _digest(_json(self._routings[routing_key]))
            if routing_key in self._trainings:
                self._digests[routing_key] += _digest(self._trainings[routing_key].experts.tobytes())
        return model_key, routing_key

    def check_tokens(self, jobs: Sequence[Job], *, of_search: bool = False) -> None:
        """Raise ConfigError if traces have fewer tokens than jobs ask for; ``of_search``: they are not all designs."""
        short: dict[Key, list[tuple[int, str]]] = {}  # by trace and mix: tokens and reasons
        for key in {job.routing: None for job in jobs if job.routing in self._too_few}:
            short.setdefault((key[0], key[3]), []).append((key[1], str(self._routings[key])))
        if not short:
            return
        n = sum(job.routing in self._too_few for job in jobs)
        some = "some designs" if of_search else f"{n} of {counted(len(jobs), 'point')}"
        tokens = sorted({number for found in short.values() for number, _ in found})
        reasons = "; ".join(min(found)[1] for found in short.values())
        raise ConfigError(
            f"{some} ask for more tokens than there are ({_few(tokens)}), so nothing was run. "
            f"{reasons}; or leave the {'designs' if of_search else 'points'} out, as in 'where: [tokens <= 1024]'"
        )

    def batch(self, jobs: Sequence[Job]) -> Batch:
        """Jobs with what they need."""
        return Batch(
            jobs=tuple(jobs),
            fields=self.fields,
            fixed=self.fixed,
            limits=self.spec.limits,
            models={job.model: self._models[job.model] for job in jobs},
            routings={job.routing: self._routings[job.routing] for job in jobs},
            packages=self.documents["package"],  # type: ignore[arg-type]
            technologies=self.documents["technology"],  # type: ignore[arg-type]
            trainings={job.routing: self._trainings[job.routing] for job in jobs if job.routing in self._trainings},
            strategies=self._strategies,
        )

    def _document_digest(self, root: str, name: str) -> str:
        key = (root, name)
        if key not in self._digests:
            self._digests[key] = _digest(self.documents[root][name].model_dump_json())
        return self._digests[key]

    def _model(self, point: dict[str, Value], changes: dict[str, Value]) -> MoEModel:
        model = self.documents["model"][str(point["model"])]
        assert isinstance(model, MoEModel)
        return change_model(model, {path.removeprefix("model."): value for path, value in changes.items()})

    def _routing(self, point: dict[str, Value], model_key: Key, key: Key) -> Routing:
        model = self._models[model_key]
        if isinstance(model, str):
            raise ConfigError(model)
        if point["trace"]:
            trace = self._traces[point["trace"]]
            trace.check_fits(model)
        else:
            trace = self._traces.setdefault(model_key, packaged_trace(model))
        layers = trace.layer_index
        layer = int(layers[layers.size // 2]) if point["layer"] is None else int(point["layer"])
        tokens, mix = int(point["tokens"] or 0), point["mix"]
        if self._fitted:  # then every strategy is judged on the part that is left, as ``compare`` does
            splits = self._splits.setdefault(key[0], {})
            trace, options = in_parts(trace, tokens, Options(), mix=mix, splits=splits)  # type: ignore[arg-type]
            if options.training is not None:
                self._trainings[key] = _up_to(options.training, layer)
        return trace.iteration(tokens, layer, mix=mix)  # type: ignore[arg-type]


def points_of(spec: SweepSpec) -> Iterator[tuple[int, Values]]:
    """Numbered points of a sweep, in order; those of random modes are the same for the same seed."""
    axes = spec.axes
    if spec.mode == "grid":
        return enumerate(itertools.product(*(axis.grid() for axis in axes)))
    if spec.mode == "zip":
        return enumerate(zip(*(axis.grid() for axis in axes), strict=True))
    rng, n = np.random.default_rng(spec.seed), int(spec.points or 0)
    shares = rng.random((n, len(axes)))
    if spec.mode == "latin-hypercube":  # each axis is cut into n equal parts, and each part is met once
        for column in range(len(axes)):
            shares[:, column] = (rng.permutation(n) + shares[:, column]) / n
    return enumerate(tuple(axis.at(float(u)) for axis, u in zip(axes, row, strict=True)) for row in shares)


def jobs_of(
    inputs: Inputs, points: Iterable[tuple[int, Values]], size: int = 0, progress: Progress | None = None
) -> list[Job]:
    """Jobs of the points that fulfil the conditions, each content once.

    Args:
        size: number of points, for ``progress(done, size, what)``.

    Raises:
        ConfigError: no point is left, or a point asks for more tokens than its trace has.
    """
    seen: set[str] = set()
    jobs, total = [], 0
    for number, values in points:
        total += 1
        if progress and total % EACH == 0:
            progress(total, size, "preparing")
        if not inputs.allowed(values):
            continue
        job = inputs.job(number, values)
        if job.hash not in seen:
            seen.add(job.hash)
            jobs.append(job)
    if not jobs:
        raise no_points(inputs.spec.where, total)
    inputs.check_tokens(jobs)
    return jobs


def no_points(where: Sequence[str], total: int) -> ConfigError:
    """The error of conditions that leave nothing to run."""
    return ConfigError(
        f"the conditions of 'where' leave none of {counted(total, 'point')}; they may contradict one another: "
        f"{'; '.join(where)}"
    )


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _up_to(trace: RoutingTrace, layer: int) -> RoutingTrace:
    """A trace in memory without the layers after ``layer`` and the weights, as a batch that travels should be small."""
    at = np.flatnonzero(trace.layer_index <= layer)
    return replace(trace, experts=np.asarray(trace.experts[:, at]), weights=None, layer_index=trace.layer_index[at])


def _json(value: MoEModel | Routing | str) -> str:
    if isinstance(value, MoEModel):
        return value.model_dump_json()
    if isinstance(value, str):
        return value
    arrays = _digest(
        value.experts.tobytes() + value.weights.tobytes() + (b"" if value.before is None else value.before.tobytes())
    )
    return json.dumps([arrays, list(value.experts.shape), value.n_experts, value.layer])


def _file_digest(name: str) -> str:
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:32]
