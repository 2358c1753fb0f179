"""What a table of results says, without making rows of all of it: there may be millions."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute

from expertstream.explore.jobs import Inputs
from expertstream.explore.rows import OK, Row
from expertstream.explore.spec import Base

CHUNK: Final = 10_000
pc: Any = pyarrow.compute  # its stubs know no tables


def count(table: pa.Table, column: str, value: str | bool) -> int:
    """Rows whose ``column`` has a value."""
    return int(pc.sum(pc.equal(table[column], value)).as_py() or 0)


def fastest(table: pa.Table, n: int, *, feasible: bool) -> list[Row]:
    """The ``n`` rows of least latency, then least energy, of those that ran (and, if asked, are feasible)."""
    ran = pc.equal(table["status"], OK)
    kept = table.filter(pc.and_(ran, table["feasible"]) if feasible else ran)
    order = [("latency_ps", "ascending"), ("energy_pj", "ascending"), ("point", "ascending")]
    return kept.take(pc.sort_indices(kept, sort_keys=order)[:n]).to_pylist()


def failures(table: pa.Table) -> list[tuple[str, int]]:
    """Messages of failures and how often each occurs, the most frequent first."""
    counted = Counter(message for message in table["message"].to_pylist() if message)
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def broken_limits(spec: Base, table: pa.Table) -> dict[str, int]:
    """How many of the rows that ran break each limit."""
    inputs, limits = Inputs(spec), spec.bounds()
    broken = {limit.text: 0 for limit in limits}
    for chunk in table.filter(pc.equal(table["status"], OK)).to_batches(max_chunksize=CHUNK):
        for row in chunk.to_pylist():
            for limit in limits:
                broken[limit.text] += not limit.holds(partial(inputs.value, inputs.fixed | row))
    return broken
