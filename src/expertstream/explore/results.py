"""Results of a sweep or a search, read back from their folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expertstream.config import check_config
from expertstream.documents import load_model, load_package, load_technology
from expertstream.errors import ConfigError
from expertstream.explore.fields import DOCUMENTS, Value, value_of
from expertstream.explore.rows import OK, Row
from expertstream.explore.search import SUMMARY
from expertstream.explore.spec import Base, SearchSpec, SweepSpec
from expertstream.explore.store import RESULTS, read_object


@dataclass(frozen=True, eq=False)
class Results:
    """What a folder of results holds.

    Attributes:
        rows: all rows, in the order of their points. history: a search's hypervolume after each trial; empty for a
            sweep.
    """

    spec: Base
    rows: Sequence[Row]
    history: Sequence[float] = ()

    @property
    def ran(self) -> list[Row]:
        """The rows that did not fail."""
        return [row for row in self.rows if row["status"] == OK]

    def objectives(self) -> dict[str, str]:
        """Columns to weigh, "minimize" or "maximize": a search's own; of a sweep, latency, energy and die area."""
        if isinstance(self.spec, SearchSpec):
            return dict(self.spec.objectives)
        return dict.fromkeys(("latency_ps", "energy_pj", "die_area_mm2"), "minimize")

    def varied(self) -> dict[str, list[Value]]:
        """The values that each varied field takes in the rows, of fields with two or more.

        Numbers are ascending, others in the order of the specification.
        """
        found = {}
        for axis in self.spec.axes:
            values = {row[axis.path] for row in self.rows}
            if len(values) > 1:
                numbers = all(isinstance(value, (int, float)) for value in values)
                found[axis.path] = sorted(values) if numbers else [value for value in axis.values if value in values]
        return found

    def preset(self, path: str) -> Value:
        """The value that a field has in the preset that was varied; None where there is no such value."""
        root, _, rest = path.partition(".")
        if not rest or root not in DOCUMENTS or root in self.spec.fields:
            return None
        load: dict[str, Any] = {"model": load_model, "package": load_package, "technology": load_technology}
        try:
            return value_of(load[root](getattr(self.spec, root)), rest)
        except ConfigError:  # a file that is not here any more: the pictures do without
            return None


def load_results(folder: str | os.PathLike[str], value: str = "utilisation") -> Results:
    """Read what ``sweep`` or ``search`` has written so far, finished or not: fields, objectives and one more result.

    Raises:
        ConfigError: the folder holds no results, or they cannot be read.
    """
    place = Path(folder)
    document = read_object(place / "spec.json")
    if document is None:
        raise ConfigError(
            f"'{folder}' holds no results: spec.json is missing or damaged; give the folder that sweep, search or "
            "recommend wrote (--output)"
        )
    for key in ("digest", "version"):
        document.pop(key, None)
    kind = SearchSpec if "objectives" in document else SweepSpec
    spec = check_config(document, kind, f"{place / 'spec.json'}")
    whole = place / RESULTS
    files = [whole] if whole.exists() else sorted((place / "shards").glob("*.parquet"))
    objectives = Results(spec, []).objectives()
    columns = list(
        dict.fromkeys(["point", "hash", "status", "feasible", "synthetic", *spec.fields, *objectives, value])
    )
    rows: dict[str, Row] = {}
    for file in files:
        try:
            table = pq.read_table(file, columns=columns, page_checksum_verification=True)
            rows |= {row["hash"]: row for row in table.to_pylist()}
        except (OSError, pa.ArrowException):
            raise _damaged(file) from None
    if not rows:
        raise ConfigError(f"'{folder}' holds no rows yet; run the sweep or search again to go on")
    history: list[float] = []
    if (place / SUMMARY).exists():
        history = (read_object(place / SUMMARY) or {}).get("hypervolume", [None])
        if not isinstance(history, list) or not all(isinstance(share, (int, float)) for share in history):
            raise _damaged(place / SUMMARY)
    return Results(spec, sorted(rows.values(), key=lambda row: int(row["point"])), history)


def _damaged(file: Path) -> ConfigError:
    return ConfigError(f"'{file}' is damaged; run the sweep or search again to make it anew")
