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
REQUIRED_COLUMNS = ("token", "layer", "request", "position", "phase", "experts")
REQUIRED_METADATA = ("n_experts", "model", "source", "id_space", "synthetic")


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
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
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
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError):
        raise TraceError(
            f"'{path}' is not a readable Parquet file; it may be cut off or damaged: copy or write it again"
        ) from None
    metadata = table.schema.metadata or {}
    if metadata.get(b"format") != FORMAT:
        raise TraceError(f"'{path}' is a Parquet file but not a trace: its metadata has no format {FORMAT.decode()}")
    if missing := [name for name in REQUIRED_COLUMNS if name not in names]:
        raise TraceError(f"'{path}' is not a whole trace: it has no column '{missing[0]}'")
    if missing := [name for name in REQUIRED_METADATA if name.encode() not in metadata]:
        raise TraceError(f"'{path}' is not a whole trace: its metadata has no '{missing[0]}'")
    number = metadata[b"n_experts"].decode("ascii", errors="replace")
    if not number.isdigit():
        raise TraceError(f"'{path}': n_experts is '{number}' in its metadata, a number needed")
    if table.num_rows == 0:
        raise TraceError(f"'{path}': the trace is empty: it has no rows")
    if holes := [name for name in names if table[name].null_count]:
        raise TraceError(f"'{path}' is not a whole trace: column '{holes[0]}' has empty cells")
    token, layer = table["token"].to_numpy(), table["layer"].to_numpy()
    layers = int((token == token[0]).sum())
    n = table.num_rows // layers
    if not (
        n * layers == table.num_rows
        and (token.reshape(n, layers) == token[::layers, None]).all()
        and (layer.reshape(n, layers) == layer[:layers]).all()
    ):
        raise TraceError(f"'{path}' is not a whole trace: one row per token and layer, in that order, is needed")

    def per_token(name: str) -> Any:
        return table[name].to_numpy()[::layers]

    return {
        "experts": _lists(path, table, "experts", n, layers),
        "weights": _lists(path, table, "weights", n, layers) if "weights" in names else None,
        "request": per_token("request"),
        "position": per_token("position"),
        "phase": per_token("phase"),
        "layer_index": layer[:layers],
        "n_experts": int(number),
        "model": metadata[b"model"].decode(errors="replace"),
        "source": metadata[b"source"].decode(errors="replace"),
        "id_space": metadata[b"id_space"].decode(errors="replace"),
        "synthetic": metadata[b"synthetic"] == b"true",
    }


def _lists(path: Path, table: Any, name: str, n: int, layers: int) -> Any:
    """A list column as an array [n, layers, k]; every list must be of one length and without holes."""
    column = table[name].combine_chunks()
    if not pa.types.is_list(column.type):
        raise TraceError(f"'{path}': column '{name}' holds {column.type}, lists of numbers needed")
    sizes, values = np.diff(column.offsets.to_numpy()), column.flatten()
    if values.null_count or (sizes != sizes[0]).any():
        raise TraceError(f"'{path}': the lists of column '{name}' differ in length or have empty cells")
    return values.to_numpy(zero_copy_only=False).reshape(n, layers, int(sizes[0]))
