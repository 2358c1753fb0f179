"""Frozen configuration from YAML, with errors that name file, line, column and the nearest known key."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from expertstream.errors import ConfigError, nearest

Model = TypeVar("Model", bound=BaseModel)
ROOT = Path(__file__).parent


def preset_names(room: str) -> list[str]:
    """Names of the packaged presets of a room ("model", "package"), sorted."""
    return sorted(p.stem for p in (ROOT / room / "presets").glob("*.yaml"))


def preset_path(room: str, name: str) -> Path:
    """The YAML file of a packaged preset. Raises ConfigError for an unknown name."""
    names = preset_names(room)
    if name not in names:
        raise ConfigError(f"unknown {room} preset '{name}'{nearest(name, names)} Available: {', '.join(names)}")
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
    except YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    if not isinstance(data, CommentedMap):
        raise ConfigError(f"{source}: expected keys and values, found {'nothing' if data is None else repr(data)}")
    try:
        return cls.model_validate(data, context={"from_file": True})
    except ValidationError as error:
        messages = [_explain(item, data, cls, source) for item in error.errors()]
        raise ConfigError("\n".join(messages)) from None


def _explain(item: Any, data: CommentedMap, cls: type[BaseModel], source: str) -> str:
    location = [part for part in item["loc"] if isinstance(part, int) or part]
    line, column, known = _locate(location, data, cls)
    where = f"{source}:{line + 1}:{column + 1}"
    key = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        name = str(location[-1])
        return f"{where}: unknown key '{name}'{nearest(name, known)} Known keys: {', '.join(known)}"
    if item["type"] == "missing":
        return f"{where}: key '{key}' is missing"
    if item["type"] == "value_error":
        return f"{where}: {key + ': ' if key else ''}{item['ctx']['error']}"
    return f"{where}: {key}: {item['msg'][0].lower()}{item['msg'][1:]} (given: {item['input']!r})"


def _locate(location: list[Any], data: Any, cls: type[BaseModel] | None) -> tuple[int, int, list[str]]:
    """Line and column (from 0) of the deepest part of a location that the file has, and the keys known there."""
    line, column, known = 0, 0, _keys(cls)
    for part in location:
        known = _keys(cls)
        if isinstance(data, CommentedMap) and part in data:
            line, column = data.lc.key(part)
        elif isinstance(data, CommentedSeq) and isinstance(part, int) and part < len(data):
            line, column = data.lc.item(part)
        else:
            break
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
