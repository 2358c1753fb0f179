"""One row per point: its columns, and how they follow from a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import pyarrow as pa

from expertstream.analysis import CAUSES, COMPONENTS
from expertstream.explore.fields import kind_of
from expertstream.simulate import Result

Row = dict[str, Any]
OK, FAILED = "ok", "failed"

_WHOLE: Final = (
    "latency_ps",
    "bound_ps",
    "ddr_bound_ps",
    "compute_bound_ps",
    "d2d_bound_ps",
    "ddr_bytes",
    "d2d_bytes",
    "peak_package_bytes",
    "peak_package_weight_bytes",
    "peak_package_token_bytes",
)
_RANGES: Final = (
    "energy_pj",
    "energy_per_token_pj",
    "average_power_w",
    "peak_power_w",
    "die_area_mm2",
    "rated_power_w",
)


@cache
def result_columns() -> tuple[str, ...]:
    """Names of the result columns; of a range of constants, ``X`` is nominal beside ``X_low`` and ``X_high``."""
    return tuple(name for name, _ in _result_types())


def schema(fields: Sequence[str]) -> pa.Schema:
    """Arrow schema of the rows: point, hash, status, message, feasible, the varied fields, the results."""
    kinds: dict[type, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
    names: list[tuple[str, pa.DataType]] = [("point", pa.int64())]
    names += [("hash", pa.string()), ("status", pa.string()), ("message", pa.string())]
    names += [("feasible", pa.bool_()), *((path, kinds[kind_of(path)]) for path in fields)]
    return pa.schema([*names, *_result_types()])


def result_row(result: Result) -> Row:
    """The result columns of a run."""
    metrics, model, tokens = result.metrics, result.workload.model, result.workload.n_tokens
    values = metrics.to_dict()
    row: Row = {name: values[name] for name in (*_WHOLE, "gap", "utilisation", "overhead", "passes")}
    for name in _RANGES:
        row[f"{name}_low"], row[name], row[f"{name}_high"] = values[name]
    for component in COMPONENTS:
        row[f"energy_{component}_pj"] = values["energy_by_component_pj"][component][1]
    seconds = metrics.latency_ps / 10**12
    row["layer_tokens_per_s"] = tokens / seconds if seconds else None
    row["model_tokens_per_s"] = tokens / (seconds * len(model.moe_layers)) if seconds else None
    row["synthetic"] = result.workload.routing.synthetic
    row["sram_bytes"] = int(metrics.given_bytes.sum())
    idle = metrics.stall_ps.sum(axis=0) / max(metrics.latency_ps * metrics.stall_ps.shape[0], 1)
    row |= {_stall(cause): float(share) for cause, share in zip(CAUSES, idle, strict=True)}
    row["ddr_busy"] = float(metrics.busy.channel_share.mean())
    row["d2d_busy"] = float(metrics.busy.link_share.max(initial=0.0))
    return row


def _stall(cause: str) -> str:
    return f"stall_{cause.replace(' ', '_')}"


def _result_types() -> list[tuple[str, pa.DataType]]:
    whole: pa.DataType = pa.int64()
    real: pa.DataType = pa.float64()
    types = [("synthetic", pa.bool_()), ("passes", whole), *((name, whole) for name in _WHOLE), ("sram_bytes", whole)]
    types += [
        ("gap", real),
        ("utilisation", real),
        ("overhead", real),
        ("layer_tokens_per_s", real),
        ("model_tokens_per_s", real),
    ]
    types += [(f"{name}{level}", real) for name in _RANGES for level in ("_low", "", "_high")]
    types += [(f"energy_{component}_pj", real) for component in COMPONENTS]
    return types + [(_stall(cause), real) for cause in CAUSES] + [("ddr_busy", real), ("d2d_busy", real)]
