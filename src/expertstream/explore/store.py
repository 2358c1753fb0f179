"""The rows of a sweep or a search on disk."""

from __future__ import annotations

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
from expertstream.explore.shards import Shards
from expertstream.files import replacing

RESULTS: Final = "results.parquet"


def read_object(file: Path) -> dict[str, Any] | None:
    """What a JSON file of ours holds; None if it is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


class Store(Shards):
    """A folder with the specification and the rows of an exploration.

    ``results.parquet`` is made of all shards, in the order of the points, when everything has run.

    Args:
        spec: plain values that decide the results, with a "digest"; a folder of another digest is refused.

    Raises:
        ConfigError: the folder holds results of another specification, is in use, or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], fields: Sequence[str], spec: dict[str, Any]) -> None:
        super().__init__(folder, schema(fields))
        try:
            self._check_spec(spec)
        except ConfigError:
            self.close()
            raise
        self.load()

    def _check_spec(self, spec: dict[str, Any]) -> None:
        file = self.folder / "spec.json"
        if not file.exists():
            if any((self.folder / "shards").glob("*.parquet")):
                raise ConfigError(f"'{self.folder}' holds results but no spec.json; give another --output")
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(spec, indent=2, default=str) + "\n")
            return
        there = read_object(file)
        if there is None:
            raise ConfigError(f"'{file}' cannot be read; give another --output")
        if there.get("digest") != spec["digest"]:
            now = json.loads(json.dumps(spec, default=str))
            differing = [key for key in {**there, **now} if key != "digest" and there.get(key) != now.get(key)]
            what = (
                f"it differs in: {', '.join(differing)}"
                if differing
                else "a model, package, trace or strategy has changed"
            )
            raise ConfigError(
                f"'{self.folder}' holds results of another specification ({what}); give another --output, "
                "or delete the folder"
            )

    def done(self, *, failed: bool = True) -> set[str]:
        """Hashes of the points whose rows are here; ``failed``: count failures too."""
        return {
            str(key)
            for table in self.tables
            for key, status in zip(table["hash"].to_pylist(), table["status"].to_pylist(), strict=True)
            if failed or status != FAILED
        }

    def table(self) -> pa.Table:
        """All rows in the order of their points; of a point that ran again, the last row."""
        whole = pa.concat_tables([self.schema.empty_table(), *self.tables]).combine_chunks()
        last = {key: place for place, key in enumerate(whole["hash"].to_pylist())}
        kept = np.array(list(last.values()), dtype=np.int64)
        order = np.argsort(np.asarray(whole["point"])[kept], kind="stable")
        return whole.take(kept[order]).combine_chunks()

    def finish(self) -> pa.Table:
        """Write ``results.parquet`` and return its table. Raises ConfigError if the disk is full; the rows stay."""
        table = self.table()
        try:
            with replacing(self.folder / RESULTS) as temporary:
                pq.write_table(table, temporary, write_page_checksum=True)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; all {table.num_rows} rows are safe, run the same command again to go on"
            ) from None
        return table
