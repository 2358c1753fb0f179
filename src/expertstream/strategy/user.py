"""Strategies that users write: loading them, and errors that point into their files (docs/extending.md)."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from expertstream.errors import ConfigError, ExpertStreamError, nearest
from expertstream.strategy.base import Strategy
from expertstream.strategy.plan import Options, Plan
from expertstream.workload import LayerWorkload

WANTED = "an expertstream.Strategy, or a class whose objects have a name, a summary and a plan(workload, options)"
OURS = Path(__file__).resolve().parents[1]


def is_reference(text: str) -> bool:
    """Whether a strategy is given as ``file.py:Name`` instead of by its name."""
    return ".py:" in text or text.endswith(".py")


def source_of(reference: str) -> bytes | None:
    """The text of the file of ``file.py:Name``; None of a strategy that is given by its name.

    Raises:
        ConfigError: the file is missing or cannot be read.
    """
    if not is_reference(reference):
        return None
    file = Path(_parts(reference)[0])
    if not file.is_file():
        raise ConfigError(f"there is no strategy file '{file}'; write --strategy path/to/file.py:Name")
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the strategy file '{file}': {error.strerror}") from None


def load_strategy(reference: str, source: bytes | None = None) -> Strategy:
    """The strategy that ``file.py:Name`` names. The file is run anew each time.

    Args:
        source: the file's text (``source_of``), where another process has read it; None: it is read.

    Raises:
        ConfigError: the file is missing, fails, or does not define the name, or the name is no strategy.
    """
    file, name = _parts(reference)
    text = source_of(reference) if source is None else source
    defined = _run(file, text or b"")
    own = [key for key, value in defined.items() if _is_candidate(value, defined["__name__"])]
    if name not in defined:
        missing = f"'{file}' defines no '{name}'{nearest(name, own) or '.'}" if name else f"'{file}' needs a name."
        raise ConfigError(f"{missing} Strategies in it: {', '.join(own) or 'none'}; write {file}:Name")
    return as_strategy(defined[name], f"'{name}' of {file}")


def _parts(reference: str) -> tuple[str, str]:
    file, _, name = (reference, "", "") if reference.endswith(".py") else reference.rpartition(":")
    return file, name


def as_strategy(value: object, what: str) -> Strategy:
    """A strategy of what a user gives: a ``Strategy``, or a class like it.

    Raises:
        ConfigError: it is something else; the message starts with ``what``.
    """
    if isinstance(value, Strategy):
        return value
    if isinstance(value, type) and callable(getattr(value, "plan", None)):
        with blame(value):
            made: Any = value()
        absent = [key for key in ("name", "summary") if not isinstance(getattr(made, key, None), str)]
        if absent:
            raise ConfigError(f"{what} has no {' and no '.join(absent)} (a text); it must be {WANTED}")
        return Strategy(made.name, made.summary, made.plan)
    raise ConfigError(f"{what} is {_describe(value)}; it must be {WANTED}")


@contextmanager
def blame(code: object) -> Iterator[None]:
    """Turn an exception in a user's function or class into one message with the file and the line."""
    try:
        yield
    except ExpertStreamError:
        raise
    except (Exception, SystemExit) as error:
        file = _file_of(code)
        place = _place(error, file) if file else None
        if place is None:  # a fault of expertstream's own
            raise
        raise ConfigError(f"{place}: {type(error).__name__}: {error}") from error


def check_plan(plan: object, strategy: Strategy, workload: LayerWorkload, options: Options) -> None:
    """Check what a strategy hands over, as far as the engine does not.

    Raises:
        ConfigError: not a plan, arrays of a wrong shape, or a prediction that was passed over.
    """
    who = f"the plan of strategy '{strategy.name}'"
    if not isinstance(plan, Plan):
        raise ConfigError(f"{who} is {_describe(plan)}; plan(workload, options) must return an expertstream.Plan")
    shapes = {"buffer_bytes": (workload.package.n_dies, 2), "slices": (len(plan.slices), 3)}
    for name, shape in shapes.items():
        array = np.asarray(getattr(plan, name))
        if array.shape != shape or array.dtype.kind not in "iu":
            raise ConfigError(f"{who} has {name} {array.dtype} {list(array.shape)}; int64 {list(shape)} needed")
    tags = plan.work.chunk_arrays()["tag"]
    if tags.size and not -1 <= int(tags.min()) <= int(tags.max()) < len(plan.slices):
        raise ConfigError(
            f"{who} has chunks with tags {tags.min()} to {tags.max()}, but {len(plan.slices)} slices; a tag is a row "
            "of slices, or -1 for a chunk without weights"
        )
    if options.prediction is not None and options.lead_ps > 0 and plan.head_start is None:
        raise ConfigError(
            f"strategy '{strategy.name}' has no option prediction; wrap its plan with "
            "expertstream.strategy.prefetch.prefetching, or leave prediction out"
        )


def _run(file: str, source: bytes) -> dict[str, Any]:
    """Names that a file with this text defines."""
    path = Path(file).resolve()
    name = f"expertstream_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        raise ConfigError(f"{error.filename or file}:{error.lineno}: not valid Python: {error.msg}") from None
    except (Exception, SystemExit) as error:
        if isinstance(error, ExpertStreamError):
            raise ConfigError(f"{_place(error, path) or file}: {error}") from error
        raise ConfigError(f"{_place(error, path) or file}: {type(error).__name__}: {error}") from error
    return vars(module)


def _is_candidate(value: object, module: str) -> bool:
    if isinstance(value, type):
        return value.__module__ == module and callable(getattr(value, "plan", None))
    return isinstance(value, Strategy)


def _describe(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def _file_of(code: Any) -> Path | None:
    """The file of a function, method or class, None where it is built in or expertstream's own."""
    while isinstance(code, functools.partial):
        code = code.func
    try:
        if not isinstance(code, type):
            code = inspect.unwrap(code if inspect.isroutine(code) else type(code).__call__)
        path = Path(inspect.getfile(code)).resolve()
    except (TypeError, ValueError, AttributeError):
        return None
    return None if path.is_relative_to(OURS) else path


def _place(error: BaseException, file: Path) -> str | None:
    """``file:line, in function`` of the last frame of ``error`` in a file, None where it has none."""
    shown = os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve() == file:
            inside = "" if frame.name == "<module>" else f", in {frame.name}"
            return f"{shown}:{frame.lineno}{inside}"
    return None
