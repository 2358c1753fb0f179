"""Rows on disk: written as they come, safe against kill -9, a full disk and two writers."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expertstream.errors import ConfigError
from expertstream.explore.rows import FAILED, schema
from expertstream.report.files import replacing

RESULTS: Final = "results.parquet"


class Store:
    """A folder with the specification and the rows of an exploration.

    A batch of rows becomes one file of ``shards/``, written under another name, flushed and renamed: it is there whole
    or not at all. ``results.parquet`` is made of all shards, in the order of the points, when everything has run.

    Args:
        spec: plain values that decide the results, with a "digest"; a folder of another digest is refused.

    Raises:
        ConfigError: the folder holds results of another specification, is in use, or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], fields: Sequence[str], spec: dict[str, Any]) -> None:
        self.folder, self.schema = Path(folder), schema(fields)
        self.damaged: list[str] = []
        try:
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise ConfigError(f"cannot use '{folder}' as a folder for results: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(f"another run is writing to '{folder}'; wait for it, or give another --output") from None
        try:
            self._check_spec(spec)
        except ConfigError:
            self._lock.close()
            raise
        self._next = 0
        self._tables: list[pa.Table] = [table for file in self._shards() if (table := self._read(file)) is not None]

    def _check_spec(self, spec: dict[str, Any]) -> None:
        file = self.folder / "spec.json"
        if not file.exists():
            if any((self.folder / "shards").glob("*.parquet")):
                raise ConfigError(f"'{self.folder}' holds results but no spec.json; give another --output")
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(spec, indent=2, sort_keys=True, default=str) + "\n")
            return
        try:
            there = json.loads(file.read_text())
        except (OSError, ValueError):
            raise ConfigError(f"'{file}' cannot be read; give another --output") from None
        if there.get("digest") != spec["digest"]:
            now = json.loads(json.dumps(spec, default=str))
            differing = [key for key in {**there, **now} if key != "digest" and there.get(key) != now.get(key)]
            what = f"it differs in: {', '.join(differing)}" if differing else "a model, package or trace has changed"
            raise ConfigError(
                f"'{self.folder}' holds results of another specification ({what}); give another --output, "
                "or delete the folder"
            )

    def _shards(self) -> list[Path]:
        files = sorted((self.folder / "shards").glob("*.parquet"))
        self._next = max((int(file.stem) for file in files if file.stem.isdigit()), default=-1) + 1
        return files

    def _read(self, file: Path) -> pa.Table | None:
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException):
            self.damaged.append(file.name)  # its points run again
            file.replace(file.with_suffix(".damaged"))
            return None
        return table.cast(self.schema)

    def done(self, *, failed: bool = True) -> set[str]:
        """Hashes of the points whose rows are here; ``failed``: count failures too."""
        return {
            str(key)
            for table in self._tables
            for key, status in zip(table["hash"].to_pylist(), table["status"].to_pylist(), strict=True)
            if failed or status != FAILED
        }

    def add(self, rows: pa.Table) -> None:
        """Keep rows for good.

        Raises:
            ConfigError: the disk is full or the folder is gone; nothing half-written stays.
        """
        name = self.folder / "shards" / f"{self._next:08d}.parquet"
        temporary = name.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                pq.write_table(rows, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(name)
            folder = os.open(name.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ConfigError(
                f"cannot write '{name}': {error.strerror or error}; {self.rows()} rows are safe, run the same command "
                "again to go on"
            ) from None
        self._next += 1
        self._tables.append(rows)

    def rows(self) -> int:
        """Number of rows kept."""
        return sum(table.num_rows for table in self._tables)

    def table(self) -> pa.Table:
        """All rows in the order of their points; of a point that ran again, the last row."""
        whole = pa.concat_tables([self.schema.empty_table(), *self._tables]).combine_chunks()
        last = {key: place for place, key in enumerate(whole["hash"].to_pylist())}
        kept = np.array(list(last.values()), dtype=np.int64)
        order = np.argsort(np.asarray(whole["point"])[kept], kind="stable")
        return whole.take(kept[order]).combine_chunks()

    def finish(self) -> pa.Table:
        """Write ``results.parquet`` and return its table."""
        table = self.table()
        with replacing(self.folder / RESULTS) as temporary:
            pq.write_table(table, temporary)
        return table

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.close()
