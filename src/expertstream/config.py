"""Frozen configuration from YAML, with errors that name file, line, column and the nearest known key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from expertstream.errors import ConfigError, nearest
from expertstream.kinds import misplaced

Model = TypeVar("Model", bound=BaseModel)
ROOT = Path(__file__).parent
NUMBER_NEEDED: Final = "a number is needed, not true or false"


def preset_names(room: str) -> list[str]:
    """Names of the packaged presets of a room ("model", "package", "package/technology"), sorted."""
    return sorted(p.stem for p in (ROOT / room / "presets").glob("*.yaml"))


def preset_path(room: str, name: str) -> Path:
    """The YAML file of a packaged preset. Raises ConfigError for an unknown name."""
    names = preset_names(room)
    if name not in names:
        what = Path(room).name
        raise ConfigError(f"unknown {what} preset '{name}'{nearest(name, names) or '.'} Available: {', '.join(names)}")
    return ROOT / room / "presets" / f"{name}.yaml"


def load_config(path: str | os.PathLike[str], cls: type[Model]) -> Model:
    """Read a YAML file into a frozen configuration class.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not fit the class; with file, line and column.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"'{path}' is not a text file; a YAML file is needed") from None
    return parse_config(text, cls, str(path))


def parse_config(text: str, cls: type[Model], source: str) -> Model:
    """Like ``load_config`` for a text; ``source`` names it in messages."""
    try:
        data = YAML(typ="rt").load(StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {error.problem}") from None
    except ValueError:  # the parser's int() refuses thousands of digits
        raise ConfigError(f"{source}: not valid YAML: a number has too many digits") from None
    except YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not valid YAML: nested too deeply") from None
    if not isinstance(data, CommentedMap):
        found = "nothing" if data is None else "a list" if isinstance(data, CommentedSeq) else f"only {_short(data)}"
        raise ConfigError(f"{source}: expected keys and values, such as 'name: value', found {found}")
    try:
        checked = cls.model_validate(data, context={"from_file": True})
    except ValidationError as error:
        required = [field.alias or name for name, field in cls.model_fields.items() if field.is_required()]
        reason = misplaced(data.keys(), _keys(cls), required)
        lines = [f"{source}: {reason}"] if reason else [_explain(item, data, cls, source) for item in _items(error)]
        raise ConfigError("\n".join(lines)) from None
    for place in truth_taken_for_numbers(data, checked):
        line, column, _ = _locate(list(place), data, cls)
        key = ".".join(map(str, place))
        raise ConfigError(f"{source}:{line + 1}:{column + 1}: {key}: {NUMBER_NEEDED}")
    return checked


def truth_taken_for_numbers(data: Any, value: Any) -> Iterator[tuple[str | int, ...]]:
    """Places in ``data`` where pydantic made 1 of true, or 0 of false, in ``value``."""
    if isinstance(data, bool) and not isinstance(value, bool):
        yield ()
    pairs: Iterable[tuple[str | int, Any, Any]] = ()
    if isinstance(data, dict) and isinstance(value, BaseModel):
        names = {field.alias or name: name for name, field in type(value).model_fields.items()}
        pairs = ((key, item, getattr(value, names[key])) for key, item in data.items() if key in names)
    elif isinstance(data, dict) and isinstance(value, dict):
        pairs = ((key, item, value[key]) for key, item in data.items() if key in value)
    elif isinstance(data, list) and isinstance(value, (list, tuple)) and len(data) == len(value):
        pairs = ((at, item, value[at]) for at, item in enumerate(data))
    for key, item, made in pairs:
        yield from ((key, *place) for place in truth_taken_for_numbers(item, made))


def check_config(data: Any, cls: type[Model], what: str) -> Model:
    """Validate values given from Python, where plain integers are in base units.

    Raises:
        ConfigError: a value does not fit; the message starts with ``what``.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        lines = [f"{what}: {_say(item, _locate(_location(item), data, cls)[2])}" for item in _items(error)]
        raise ConfigError("\n".join(lines)) from None


def misfit(message: str, *at: str | int) -> PydanticCustomError:
    """Error for a validator of a whole model to raise; ``at`` is the place of the culprit below that model."""
    return PydanticCustomError("misfit", "{text}", {"text": message, "at": at})


def _items(error: ValidationError) -> list[Any]:
    """The errors, unknown keys first: they often explain missing ones."""
    # a list whose items are all wrong is also reported as too short
    items = [item for item in error.errors() if not (item["type"] == "too_short" and item["input"])]
    return sorted(items, key=lambda item: item["type"] != "extra_forbidden")


def _location(item: Any) -> list[str | int]:
    return [*item["loc"], *(item["ctx"]["at"] if item["type"] == "misfit" else ())]


def _explain(item: Any, data: CommentedMap, cls: type[BaseModel], source: str) -> str:
    line, column, known = _locate(_location(item), data, cls)
    return f"{source}:{line + 1}:{column + 1}: {_say(item, known)}"


def _say(item: Any, known: list[str]) -> str:
    """What is wrong with the value, which constraint it breaks, and what is allowed."""
    location = _location(item)
    key = ".".join(str(part) for part in location)
    prefix = f"{key}: " if key else ""
    match item["type"]:
        case "extra_forbidden":
            name = str(location[-1])
            return f"unknown key '{name}'{nearest(name, known) or '.'} Known keys: {', '.join(known)}"
        case "missing":
            return f"key '{key}' is missing"
        case "misfit":
            return f"{prefix}{item['msg']}"
        case "value_error":
            return f"{prefix}{item['ctx']['error']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "expected keys and values"
        case "tuple_type" | "list_type":
            message = "expected a list"
        case "too_short":
            return f"{prefix}needs at least {item['ctx']['min_length']} item"
        case _:
            message = item["msg"][0].lower() + item["msg"][1:]
    return f"{prefix}{message} (given: {_short(item['input'])})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _locate(location: list[Any], data: Any, cls: type[BaseModel] | None) -> tuple[int, int, list[str]]:
    """Line and column (from 0) of the deepest part of a location that the file has, and the keys known there."""
    line, column, known = 0, 0, _keys(cls)
    for part in location:
        known = _keys(cls)
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)
        )
        if not inside:
            break
        if isinstance(data, (CommentedMap, CommentedSeq)):
            marks = data.lc.data or {}
            line, column = marks.get(part, (line, column))[:2]  # a key merged by "<<" has no mark of its own
        data = data[part]
        cls = _class_of(cls, part)
    return line, column, known


def _keys(cls: type[BaseModel] | None) -> list[str]:
    return [field.alias or name for name, field in cls.model_fields.items()] if cls else []


def _class_of(cls: type[BaseModel] | None, part: object) -> type[BaseModel] | None:
    """Configuration class of a field; a list's item keeps the class of its list."""
    if cls is None or isinstance(part, int):
        return cls
    field: FieldInfo | None = next((f for n, f in cls.model_fields.items() if part in (n, f.alias)), None)
    queue: list[Any] = [field.annotation] if field else []
    while queue:
        kind = queue.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        queue += getattr(kind, "__args__", ())
    return None
