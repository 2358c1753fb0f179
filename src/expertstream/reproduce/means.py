"""Means over layers with confidence intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from expertstream.reproduce.study import Row

CONFIDENCE = 0.95


def cells(rows: Sequence[Row], *by: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that have the same values of the columns ``by``, in the order in which they first appear."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in by), []).append(row)
    return found


def over_seeds(rows: Sequence[Row], value: Callable[[list[Row]], float]) -> tuple[float, float]:
    """Mean over the seeds of ``value`` (of all rows of one seed), and half its confidence interval (``interval``)."""
    return interval([value(mine) for mine in cells(rows, "seed").values()])


def summary(rows: Sequence[Row], by: Sequence[str], **values: Callable[[list[Row]], float]) -> list[Row]:
    """A row per cell of the columns ``by``: those, whether the routing was captured, layers, seeds, and for each of
    ``values`` its mean over the seeds and ``NAME_half_interval`` (``over_seeds``).
    """
    out: list[Row] = []
    for key, mine in cells(rows, *by).items():
        line: Row = dict(zip(by, key, strict=True)) | {
            "captured": bool(mine[0].get("trace")),
            "layers": len({row["layer"] for row in mine}),
            "seeds": len({row["seed"] for row in mine}),
        }
        for name, value in values.items():
            line[name], line[f"{name}_half_interval"] = over_seeds(mine, value)
        out.append(line)
    return out


def by_routing(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of a table with "captured", apart: "" for synthetic routing, "; captured: " for captured routing, if any."""
    parts = {"": [row for row in rows if not row["captured"]], "; captured: ": [row for row in rows if row["captured"]]}
    return {label: mine for label, mine in parts.items() if mine}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the 95 % confidence interval of Student's t; 0 for a single value."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return float(array.mean()), 0.0
    quantile = float(stats.t.ppf(0.5 + CONFIDENCE / 2, array.size - 1))
    return float(array.mean()), quantile * float(array.std(ddof=1)) / math.sqrt(array.size)


def mean_of(column: str, scale: float = 1) -> Callable[[list[Row]], float]:
    """The mean of a column, times ``scale``."""
    return lambda rows: scale * sum(row[column] for row in rows) / len(rows)


def mac_percent(rows: list[Row]) -> float:
    """MACs done in per cent of what all MAC arrays could do in the latency of layers that run one after another.

    Unlike busy time it does not count an array that waits for weights from SRAM or for control.
    """
    return 100 * ratio_of("compute_bound_ps", "latency_ps")(rows)


def ratio_of(above: str, below: str) -> Callable[[list[Row]], float]:
    """The ratio of two columns' sums, as of layers that run one after another."""
    return lambda rows: sum(row[above] for row in rows) / sum(row[below] for row in rows)
