"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expertstream.errors import ConfigError


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ConfigError if ``path`` cannot be written; to be asked before long work."""
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"cannot write '{path}': it is a folder; give the name of a file")
    if not file.parent.is_dir():
        raise ConfigError(f"cannot write '{path}': there is no folder '{file.parent}'; create it first")
    if not os.access(file if file.exists() and not file.is_file() else file.parent, os.W_OK):
        raise ConfigError(f"cannot write '{path}': no permission to write in '{file.parent}'")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, unless it is there. Raises ConfigError if it cannot be one."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot use '{path}' as a folder: {error.strerror}; give another one") from None
    return Path(path)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; it takes the place of ``path`` if the block ends well.

    Raises:
        ConfigError: the file cannot be written.
    """
    check_writable(path)
    target = Path(path).resolve()
    if target.exists() and not target.is_file():  # a pipe or a device must not be replaced by a file
        yield target
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """JSON text of plain values, two spaces deep; numbers that JSON cannot express (NaN, infinity) become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def write_json(value: Any, path: str | os.PathLike[str]) -> None:
    """Write ``to_json(value)``. Raises ConfigError if the file cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(to_json(value), encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
