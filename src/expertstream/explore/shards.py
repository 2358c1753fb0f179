"""Rows in a folder: written as they come, safe against kill -9, a full disk and two writers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from expertstream.errors import ConfigError
from expertstream.files import replacing


class Shards:
    """The files of ``folder/shards/``, each a batch of rows.

    A file is there whole or not at all, and for good once ``add`` returns. The folder is locked until ``close``.

    Attributes:
        tables: the rows, in the order in which they were written. damaged: files that could not be read; they were
            renamed.

    Raises:
        ConfigError: the folder is in use, or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], schema: pa.Schema) -> None:
        self.folder, self.schema = Path(folder), schema
        self.damaged: list[str] = []
        self.tables: list[pa.Table] = []
        self._next = 0
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

    def load(self, keep: Callable[[pa.Table], bool] = lambda table: True) -> None:
        """Read what is there; files whose rows are not to be kept, and what a killed run left, are deleted."""
        for unfinished in (self.folder / "shards").glob("*.tmp"):
            unfinished.unlink()
        files = sorted((self.folder / "shards").glob("*.parquet"))
        self._next = max((int(file.stem) for file in files if file.stem.isdigit()), default=-1) + 1
        for file in files:
            table = self._read(file)
            if table is not None and keep(table):
                self.tables.append(table)
            elif table is not None:
                file.unlink()

    def _read(self, file: Path) -> pa.Table | None:
        try:
            return pq.read_table(file, page_checksum_verification=True).cast(self.schema)
        except (OSError, ValueError, pa.ArrowException):  # ValueError: other columns
            self.damaged.append(file.name)  # its rows are made again
            file.replace(file.with_suffix(".damaged"))
            return None

    def add(self, rows: pa.Table) -> None:
        """Keep rows for good.

        Raises:
            ConfigError: the disk is full or the folder is gone; nothing half-written stays.
        """
        name = self.folder / "shards" / f"{self._next:08d}.parquet"
        try:
            with replacing(name, durable=True) as temporary:
                pq.write_table(rows, temporary, write_page_checksum=True)
        except ConfigError as error:
            raise ConfigError(f"{error}; {self.rows()} rows are safe, run the same command again to go on") from None
        self._next += 1
        self.tables.append(rows)

    def rows(self) -> int:
        """Number of rows kept."""
        return sum(table.num_rows for table in self.tables)

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.close()
