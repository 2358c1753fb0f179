"""What to explore: the specification file of a sweep or a search."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from expertstream.config import load_config, misfit
from expertstream.errors import ConfigError, nearest
from expertstream.explore.conditions import check_kinds, check_together
from expertstream.explore.expressions import Expression
from expertstream.explore.fields import Value, field_paths, kind_of, parse_value
from expertstream.explore.rows import result_columns
from expertstream.strategy import DEFAULT, get_strategy
from expertstream.strategy.base import CHOICES, unused

MAX_POINTS: Final = 5_000_000
_FROZEN = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
Spec = TypeVar("Spec", bound="Base")


class Range(BaseModel):
    """Values between two ends; ``steps`` of them in a grid, evenly spaced on a linear or logarithmic scale."""

    model_config = _FROZEN

    first: Any = Field(alias="from")
    last: Any = Field(alias="to")
    steps: int | None = Field(default=None, ge=2)
    scale: Literal["linear", "log"] = "linear"


class Axis(BaseModel):
    """A varied field with its values in base units: a list, or the ends of a range."""

    model_config = _FROZEN

    path: str
    values: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    steps: int | None = None
    log: bool = False

    @property
    def is_range(self) -> bool:
        """Whether any value between the ends may be taken."""
        return not self.values

    def at(self, share: float) -> Value:
        """The value at a share from 0 to below 1 of the way through the list or the range."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        value = min(max(value, self.low), self.high)
        return round(value) if kind_of(self.path) is int else value

    @property
    def size(self) -> int:
        """Number of values in a grid, equal ones counted apart."""
        return len(self.values) or int(self.steps or 0)

    def grid(self) -> tuple[Value, ...]:
        """All values of a list, or the steps of a range, both ends included."""
        if self.values:
            return self.values
        assert self.steps is not None
        return tuple(dict.fromkeys(self.at(i / (self.steps - 1)) for i in range(self.steps)))


class Base(BaseModel):
    """What sweeps and searches share: the fixed inputs, the varied fields, constraints and limits.

    Attributes:
        model, package, technology, trace, strategy, tokens, layer, mix, spread: inputs where they are not varied; names
            of presets or files. trace None: synthetic routing. layer None: the middle one of the trace.
        fields: varied fields: a list of values, or {from, to, steps, scale}.
        where: conditions on the inputs; other points are not run. limits: conditions on the results; a point that
            breaks one is kept and called infeasible.
    """

    model_config = _FROZEN

    model: str
    package: str = "test-chip-2x2"
    technology: str = "5nm"
    trace: str | None = None
    strategy: str = DEFAULT
    tokens: int = Field(default=64, ge=1)
    layer: int | None = Field(default=None, ge=0)
    mix: str = "round-robin"
    spread: str = "contiguous"
    fields: dict[str, Any]
    where: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Base:
        for name in ("strategy", "mix", "spread"):
            _located(lambda name=name: parse_value(name, getattr(self, name)), name)
        if not self.fields:
            raise misfit("no field is varied; write for example 'tokens: [16, 64]'", "fields")
        for path in self.fields:
            self._axis(path)
        for number, text in enumerate(self.where):
            _located(lambda text=text: check_kinds(Expression(text, field_paths())), "where", number)
        for number, text in enumerate(self.limits):
            known = [*result_columns(), *field_paths()]
            _located(lambda text=text, known=known: check_kinds(Expression(text, known)), "limits", number)
        for key, given in (("where", self.conditions()), ("limits", self.bounds())):
            at = check_together(given)
            if at is not None:
                before = "; ".join(expression.text for expression in given[:at])
                others = f"together with those before it ({before})" if before else "by itself"
                raise misfit(f"'{given[at].text}' can never hold {others}", key, at)
        return self

    @field_validator("fields", mode="before")
    @classmethod
    def _plain(cls, value: Any, _: ValidationInfo) -> Any:
        if isinstance(value, list) or value is None:
            raise ValueError("expected fields and their values, such as 'tokens: [16, 64]'")
        return value

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The varied fields, values in base units."""
        return tuple(self._axis(path) for path in self.fields)

    def conditions(self) -> tuple[Expression, ...]:
        """The expressions of ``where``."""
        return tuple(Expression(text, field_paths()) for text in self.where)

    def bounds(self) -> tuple[Expression, ...]:
        """The expressions of ``limits``."""
        return tuple(Expression(text, [*result_columns(), *field_paths()]) for text in self.limits)

    def fixed(self) -> dict[str, Value]:
        """Inputs that are not varied, by path."""
        own = ("model", "package", "technology", "trace", "strategy", "tokens", "layer", "mix", "spread")
        return {name: getattr(self, name) for name in own if name not in self.fields}

    def without_effect(self) -> list[str]:
        """What is said of varied options that change nothing under some of the strategies."""
        names = next((axis.values for axis in self.axes if axis.path == "strategy"), (self.strategy,))
        strategies = [get_strategy(str(name)) for name in names]
        said = []
        for path in self.fields:
            name = path.removeprefix("options.")
            under = [strategy.name for strategy in strategies if name in CHOICES and unused([name], [strategy])]
            if path != name and under:
                said.append(f"{path} changes nothing under {', '.join(under)}")
        if "options.lead_time" in self.fields and "options.prediction" not in self.fields:
            said.append("options.lead_time changes nothing, as nothing is predicted; vary options.prediction, too")
        return said

    def digest(self, documents: Iterable[str] = ()) -> str:
        """A hash of what decides the results: the specification, and the files' contents."""
        content = [self.model_dump(mode="json"), sorted(documents)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def _axis(self, path: str) -> Axis:
        """The values of a field. Raises misfit at their place in the file."""
        given = self.fields[path]
        kind = _located(lambda: kind_of(path), "fields", path)
        if isinstance(given, (list, tuple)):
            if not given:
                raise misfit(f"{path} has no values; give at least one", "fields", path)
            values = [_value(path, value, at) for at, value in enumerate(given)]
            return Axis(path=path, values=tuple(dict.fromkeys(values)))
        if not isinstance(given, dict):
            text = f"{path}: give a list of values, or {{from: ..., to: ..., steps: ...}}, not {given!r}"
            raise misfit(text, "fields", path)
        unknown = [key for key in given if key not in ("from", "to", "steps", "scale")]
        if unknown or not {"from", "to"} <= set(given):
            text = f"{path}: a range is {{from: ..., to: ..., steps: ..., scale: linear or log}}"
            raise misfit(text, "fields", path, *unknown[:1])
        try:
            ends = Range.model_validate(dict(given))
        except ValidationError as error:
            wrong = error.errors()[0]
            message = wrong["msg"][0].lower() + wrong["msg"][1:]
            key = wrong["loc"][0]
            raise misfit(f"{path}: '{key}': {message} (given: {wrong['input']!r})", "fields", path, key) from None
        if kind not in (int, float):
            raise misfit(f"{path} takes no numbers, so it needs a list of values", "fields", path)
        low, high = _value(path, ends.first, "from"), _value(path, ends.last, "to")
        assert isinstance(low, (int, float))
        assert isinstance(high, (int, float))
        if low >= high or (ends.scale == "log" and low <= 0):
            text = f"{path}: 'from' must be below 'to'{' and above 0' if ends.scale == 'log' else ''}"
            raise misfit(text, "fields", path, "from")
        return Axis(path=path, low=low, high=high, steps=ends.steps, log=ends.scale == "log")


class SweepSpec(Base):
    """A sweep: ``mode`` says which points of the varied fields are run.

    "grid": every combination; "zip": the first value of each list, then the second, ...; "random" and
    "latin-hypercube": ``points`` of them, drawn with ``seed``.
    """

    mode: Literal["grid", "zip", "random", "latin-hypercube"] = "grid"
    points: int | None = Field(default=None, ge=1, le=MAX_POINTS)
    seed: int = Field(default=0, ge=0)

    @property
    def size(self) -> int:
        """Number of points, before conditions drop some and equal ones are joined."""
        if self.points is not None:
            return self.points
        return math.prod(axis.size for axis in self.axes) if self.mode == "grid" else self.axes[0].size

    @model_validator(mode="after")
    def _mode(self) -> SweepSpec:
        axes = self.axes
        drawn = self.mode in ("random", "latin-hypercube")
        if drawn != (self.points is not None):
            text = f"mode '{self.mode}' needs the number of points" if drawn else f"mode '{self.mode}' takes no points"
            raise misfit(f"{text}; points are of random and latin-hypercube", "points" if self.points else "mode")
        for axis in axes:
            if not drawn and axis.is_range and axis.steps is None:
                raise misfit(f"{axis.path}: a range in mode '{self.mode}' needs steps", "fields", axis.path)
        if self.mode == "zip" and len({len(axis.grid()) for axis in axes}) > 1:
            lengths = ", ".join(f"{axis.path} {len(axis.grid())}" for axis in axes)
            raise misfit(f"zip needs lists of one length; given: {lengths}", "fields")
        if self.mode == "grid" and math.prod(axis.size for axis in axes) > MAX_POINTS:
            raise misfit(f"the grid has more than {MAX_POINTS} points; take fewer values, or mode random", "fields")
        return self


class SearchSpec(Base):
    """A search for the best trade-offs between ``objectives`` (result columns: minimize or maximize).

    Attributes:
        trials: designs to try; population: designs of a generation of NSGA-II, which are tried in parallel.
        reference: for each objective a value that is worse than any worth having, for the hypervolume; default: the
            worst of the feasible designs.
    """

    objectives: dict[str, Literal["minimize", "maximize"]] = Field(min_length=1)
    trials: int = Field(default=200, ge=1, le=MAX_POINTS)
    population: int = Field(default=20, ge=4, le=10_000)
    seed: int = Field(default=0, ge=0)
    reference: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _objectives(self) -> SearchSpec:
        columns = result_columns()
        for name in self.objectives:
            _located(lambda name=name: _column(name, columns), "objectives", name)
        for name in self.reference:
            _located(lambda name=name: _column(name, list(self.objectives)), "reference", name)
        return self


def load_sweep(path: str | os.PathLike[str]) -> SweepSpec:
    """Read a sweep's specification. Raises ConfigError with file, line and column."""
    return load_config(path, SweepSpec)


def load_search(path: str | os.PathLike[str]) -> SearchSpec:
    """Read a search's specification. Raises ConfigError with file, line and column."""
    return load_config(path, SearchSpec)


def _column(name: str, columns: Sequence[str]) -> None:
    if name not in columns:
        raise ConfigError(f"'{name}' is no result{nearest(name, columns) or '.'} Results: {', '.join(columns)}")


def _value(path: str, value: object, at: str | int) -> Value:
    parsed: Value = _located(lambda: parse_value(path, value), "fields", path, at)
    return parsed


def _located(check: Any, *at: str | int) -> Any:
    try:
        return check()
    except ConfigError as error:
        raise misfit(str(error), *at) from None
