"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from expertstream.errors import ConfigError, ExpertStreamError


def check_writable(path: str | os.PathLike[str], error: type[ExpertStreamError] = ConfigError) -> None:
    """Raise ``error`` if ``path`` cannot be written; to be asked before long work."""
    try:
        reason = _obstacle(Path(path))
    except OSError as failure:  # such as a name that is too long
        reason = failure.strerror
    if reason:
        raise error(f"cannot write '{path}': {reason}")


def _obstacle(file: Path) -> str | None:
    if file.is_dir():
        return "it is a folder; give the name of a file"
    if file.parent.exists() and not file.parent.is_dir():
        return f"'{file.parent}' is a file, not a folder"
    if not file.parent.is_dir():
        return f"there is no folder '{file.parent}'; create it first"
    if not os.access(file if file.exists() and not file.is_file() else file.parent, os.W_OK):
        return f"no permission to write in '{file.parent}'"
    return None


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, unless it is there. Raises ConfigError if it cannot be one."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise ConfigError(f"cannot use '{path}' as a folder: {reason}; give another one") from None
    return Path(path)


@contextmanager
def writing(path: str | os.PathLike[str], error: type[ExpertStreamError] = ConfigError) -> Iterator[None]:
    """Turn what the system says against writing in the block (a full disk) into an ``error`` that names ``path``."""
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as failure:
        raise error(f"cannot write '{path}': {failure.strerror or failure}") from None


@contextmanager
def replacing(
    path: str | os.PathLike[str], error: type[ExpertStreamError] = ConfigError, *, durable: bool = False
) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; it takes the place of ``path`` if the block ends well.

    A pipe or a device is written as it is. A link goes on pointing at its file, which is replaced.

    Args:
        durable: wait until the disk has the file, so that a loss of power takes nothing that was reported as kept.

    Raises:
        error: the file cannot be written.
    """
    check_writable(path, error)
    with writing(path, error):
        if Path(path).exists() and not Path(path).is_file():
            yield Path(path)
            return
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name}.{uuid4().hex[:12]}.tmp")  # each writer has its own
        try:
            yield temporary
            if durable:
                _flush(temporary)
            temporary.replace(target)
            if durable:
                _flush(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


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
