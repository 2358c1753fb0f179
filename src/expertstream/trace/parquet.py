"""The native form of a trace: Parquet, one row per token and layer, the rest in the file's metadata.

Columns: token int32, layer int32, request int32, position int32, phase int8, experts list<int16>, and, where gate
weights were captured, weights list<float32>.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expertstream.errors import TraceError

if TYPE_CHECKING:
    from expertstream.trace.routing import RoutingTrace

FORMAT = b"expertstream-trace-1"


def write(trace: RoutingTrace, path: Path) -> None:
    """Write atomically: to a temporary name beside ``path``, then rename."""
    if path.suffix != ".parquet":
        raise TraceError(f"'{path}' is not a name for a trace; it must end in .parquet")
    n, layers, k = trace.experts.shape
    rows = n * layers
    offsets = np.arange(rows + 1, dtype=np.int32) * k

    def lists(values: Any, kind: pa.DataType) -> Any:
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1), type=kind))

    def per_token(values: Any, kind: pa.DataType) -> Any:
        return pa.array(np.repeat(values, layers), type=kind)

    columns = {
        "token": per_token(np.arange(n), pa.int32()),
        "layer": pa.array(np.tile(trace.layer_index, n), type=pa.int32()),
        "request": per_token(trace.request, pa.int32()),
        "position": per_token(trace.position, pa.int32()),
        "phase": per_token(trace.phase, pa.int8()),
        "experts": lists(trace.experts, pa.int16()),
    }
    if trace.weights is not None:
        columns["weights"] = lists(trace.weights, pa.float32())
    metadata = {
        b"format": FORMAT,
        b"n_experts": str(trace.n_experts).encode(),
        b"model": trace.model.encode(),
        b"source": trace.source.encode(),
        b"id_space": trace.id_space.encode(),
        b"synthetic": b"true" if trace.synthetic else b"false",
    }
    table = pa.table(columns).replace_schema_metadata(metadata)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        pq.write_table(table, temporary, compression="zstd")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise TraceError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()


def read(path: Path) -> dict[str, Any]:
    """Fields of a RoutingTrace. Raises TraceError for a damaged file or one that is not a trace."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise TraceError(f"'{path}' is not a readable Parquet file (cut off or damaged?): {error}") from None
    metadata = table.schema.metadata or {}
    if metadata.get(b"format") != FORMAT:
        raise TraceError(f"'{path}' is a Parquet file but not a trace: its metadata has no format {FORMAT.decode()}")
    try:
        layer = table["layer"].to_numpy()
        if layer.size == 0:
            raise TraceError(f"'{path}': the trace is empty: it has no rows")
        again = np.flatnonzero(layer[1:] == layer[0])
        layers = int(again[0]) + 1 if again.size else layer.size
        shape = (layer.size // layers, layers, -1)

        def flat(name: str) -> Any:
            lists: Any = table[name].combine_chunks()
            return lists.flatten().to_numpy()

        return {
            "experts": flat("experts").astype(np.int16).reshape(shape),
            "weights": flat("weights").astype(np.float32).reshape(shape) if "weights" in table.column_names else None,
            "request": table["request"].to_numpy()[::layers].astype(np.int32),
            "position": table["position"].to_numpy()[::layers].astype(np.int32),
            "phase": table["phase"].to_numpy()[::layers].astype(np.int8),
            "layer_index": layer[:layers].astype(np.int32),
            "n_experts": int(metadata[b"n_experts"]),
            "model": metadata[b"model"].decode(),
            "source": metadata[b"source"].decode(),
            "id_space": metadata[b"id_space"].decode(),
            "synthetic": metadata[b"synthetic"] == b"true",
        }
    except (KeyError, ValueError) as error:
        raise TraceError(f"'{path}' does not hold a whole trace (rows or columns are missing): {error}") from None
