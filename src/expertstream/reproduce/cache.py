"""Rows kept by content: a row is found again only for the same point, measured by the same sources."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from expertstream.explore.shards import Shards
from expertstream.reproduce.study import Point, Row

PACKAGE: Final = Path(__file__).parent.parent
NO_NUMBERS: Final = (  # sources that change no row
    "cli/",
    "report/",
    "reproduce/__init__.py",
    "reproduce/drawing.py",
    "reproduce/means.py",
    "reproduce/registry.py",
    "reproduce/studies/",  # but the measure's own module
)
LIBRARIES: Final = ("numpy", "numba", "scipy")
_SCHEMA: Final = pa.schema([("sources", pa.string()), ("hash", pa.string()), ("row", pa.string())])


@cache
def fingerprint() -> str:
    """A hash of everything that decides a row but its point: the package's sources and data, and libraries."""
    content = hashlib.sha256()
    for library in LIBRARIES:
        content.update(f"{library} {version(library)}\n".encode())
    for file in sorted(PACKAGE.rglob("*")):
        name = file.relative_to(PACKAGE).as_posix()
        if file.suffix in (".py", ".yaml", ".parquet") and not name.startswith(NO_NUMBERS):
            content.update(f"{name} {_of_file(file)}\n".encode())
    return content.hexdigest()


def hash_of(measure: Callable[[Point], Row], point: Point) -> str:
    """A hash of a point and of what measures it."""
    trace = point.get("trace")
    content = {**point, "trace": _of_file(Path(trace))} if trace else point
    what = [fingerprint(), _of_module(measure.__module__, measure), measure.__qualname__, content]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@cache
def _of_file(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def _of_module(name: str, measure: Any) -> str:
    return hashlib.sha256(inspect.getsource(inspect.getmodule(measure) or measure).encode()).hexdigest()


class Cache:
    """The rows in a folder. Those of other sources are deleted.

    Raises:
        ConfigError: the folder is in use, or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._shards = Shards(folder, _SCHEMA)
        self._shards.load(keep=lambda table: table["sources"].to_pylist()[:1] == [fingerprint()])
        self.rows: dict[str, Row] = {}
        for table in self._shards.tables:
            self._learn((str(line["hash"]), str(line["row"])) for line in table.to_pylist())

    def add(self, rows: dict[str, str]) -> None:
        """Keep rows, JSON texts by hash. Raises ConfigError if they cannot be written."""
        values = {"sources": [fingerprint()] * len(rows), "hash": list(rows), "row": list(rows.values())}
        self._shards.add(pa.table(values, schema=_SCHEMA))
        self._learn(rows.items())

    def close(self) -> None:
        """Let others use the folder."""
        self._shards.close()

    def _learn(self, rows: Iterable[tuple[str, str]]) -> None:
        self.rows.update((key, json.loads(row)) for key, row in rows)
