"""The native form of a trace: Parquet, one row per token and layer, the rest in the file's metadata.

Columns: token int32, layer int32, request int32, position int32, phase int8, experts list<int16>, and, where gate
weights were captured, weights list<float32>. Rows are grouped by blocks of BLOCK tokens, in a block by layer: each row
group holds one layer of one block, so that a few layers or requests of a large file are read without the others.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.files import replacing, writing
from expertstream.trace.checks import check_experts, check_layers, check_shapes, check_tokens, check_weights, to_type

if TYPE_CHECKING:
    from expertstream.trace.routing import RoutingTrace

FORMAT = b"expertstream-trace-1"
BLOCK = 65536  # tokens of a row group
MAX_CHOICES = 2**30  # (token, layer, expert) that are read at once: 2 GiB
MAX_ROWS = 2**27  # of a row group
REQUIRED_COLUMNS = ("token", "layer", "request", "position", "phase", "experts")
REQUIRED_METADATA = ("n_experts", "model", "source", "id_space", "synthetic")
PER_TOKEN = ("request", "position", "phase")
_DAMAGED = (pa.ArrowException, OSError, ValueError)


class _UnfinishedError(Exception):
    """The file is to be dropped."""


class TraceWriter:
    """Writes a trace that need not fit into memory, block by block; the file appears whole or not at all.

    Use it in a ``with`` block; if the block or an ``append`` fails, nothing is left of the file.

    Args:
        path: must end in .parquet. layer_index: the model's layer numbers. weights: whether gate weights follow.

    Raises:
        TraceError: the name does not end in .parquet, its folder cannot be written, or the layers are not those of a
            trace. At the end of the block: an ``append`` failed though the block went on, or nothing was appended.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        layer_index: Collection[int],
        n_experts: int,
        model: str,
        source: str,
        id_space: str = "the model's own expert ids",
        synthetic: bool = False,
        weights: bool = False,
    ) -> None:
        self.path, self.layers, self.tokens = Path(path), [int(layer) for layer in layer_index], 0
        self._n_experts, self._k, self._weights = n_experts, 0, weights
        self._where, self._refused = f"'{path}'", ""  # refused: why no more tokens are taken
        check_layers(self._where, np.array(self.layers, dtype=np.int32), n_experts)
        if self.path.suffix != ".parquet":
            raise TraceError(f"'{path}' is not a name for a trace; it must end in .parquet")
        kinds: dict[str, Any] = {
            "token": pa.int32(),
            "layer": pa.int32(),
            "request": pa.int32(),
            "position": pa.int32(),
        }
        kinds |= {"phase": pa.int8(), "experts": pa.list_(pa.int16())}
        if weights:
            kinds["weights"] = pa.list_(pa.float32())
        metadata: dict[bytes | str, bytes | str] = {
            "format": FORMAT.decode(),
            "n_experts": str(n_experts),
            "model": model,
            "source": source,
        }
        metadata |= {"id_space": id_space, "synthetic": "true" if synthetic else "false"}
        metadata |= {"layers": ",".join(map(str, self.layers)), "block": str(BLOCK)}
        self._schema = pa.schema(kinds, metadata=metadata)
        self._waiting: list[dict[str, Any]] = []
        self._waiting_tokens = 0
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(path, TraceError))
            sink = stack.enter_context(temporary.open("wb"))
            self._file = stack.enter_context(
                pq.ParquetWriter(sink, self._schema, compression="zstd", write_page_checksum=True)
            )
            self._open = stack.pop_all()

    def append(self, experts: Any, request: Any, position: Any, phase: Any, weights: Any = None) -> None:
        """Add tokens: experts (and weights) [tokens, layers, k], the others [tokens]; they are copied.

        Raises:
            TraceError: they are no tokens of this trace, or the disk is full. The file is then lost.
        """
        if self._refused:
            raise TraceError(self._refused)
        arrays = {"experts": experts, "request": request, "position": position, "phase": phase, "weights": weights}
        try:
            self._append({name: array for name, array in arrays.items() if array is not None})
        except BaseException as error:
            reason = str(error).removeprefix(f"{self._where}: ") or type(error).__name__
            self._refused = f"{self._where} is not written, as tokens could not be appended: {reason}"
            raise

    def _append(self, arrays: dict[str, Any]) -> None:
        if ("weights" in arrays) != self._weights:
            raise TraceError(
                f"{self._where}: tokens {'without' if self._weights else 'with'} gate weights, but the file was begun "
                f"{'with' if self._weights else 'without'} them; give weights={not self._weights} when it is begun"
            )
        if len({len(array) for array in arrays.values()}) > 1:
            lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
            raise TraceError(f"{self._where}: the arrays are of different numbers of tokens: {lengths}")
        for first in range(0, len(arrays["experts"]), BLOCK):
            part = {name: to_type(self._where, name, array[first : first + BLOCK]) for name, array in arrays.items()}
            self._check(part)
            self._waiting.append(part)
            self._waiting_tokens += len(part["experts"])
            if self._waiting_tokens >= BLOCK:
                self._write()

    def _check(self, part: dict[str, NDArray[Any]]) -> None:
        check_shapes(self._where, part)
        _, layers, k = part["experts"].shape
        if layers != len(self.layers):
            raise TraceError(f"{self._where}: experts has {layers} layers, layer_index {len(self.layers)}")
        self._k = self._k or k
        if k != self._k:
            raise TraceError(f"{self._where}: k is {k}, but {self._k} for the tokens before")
        index, start = np.array(self.layers), self.tokens + self._waiting_tokens
        check_tokens(self._where, part["request"], part["position"], part["phase"], start)
        check_experts(self._where, part["experts"], index, self._n_experts, start)
        if self._weights:
            check_weights(self._where, part["weights"], index, start)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            with suppress(_UnfinishedError), self._open:
                if kind is not None:
                    raise _UnfinishedError  # not the block's own error, which may be an OSError of another file
                if self._refused:
                    raise TraceError(self._refused)
                while self._waiting_tokens:
                    self._write()
                if not self.tokens:
                    raise TraceError(f"{self._where} is not written: no tokens were appended")
        finally:
            self._refused = f"{self._where} is closed; append tokens within one 'with' block"

    def _write(self) -> None:
        joined = {name: np.concatenate([part[name] for part in self._waiting]) for name in self._waiting[0]}
        block = {name: array[:BLOCK] for name, array in joined.items()}
        self._waiting = [{name: array[BLOCK:] for name, array in joined.items()}]
        n, _, k = block["experts"].shape
        self._waiting_tokens = len(joined["experts"]) - n
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * k)
        same = {name: pa.array(block[name], type=self._schema.field(name).type) for name in PER_TOKEN}
        same["token"] = pa.array(np.arange(self.tokens, self.tokens + n), type=pa.int32())
        with writing(self.path, TraceError):
            for at, layer in enumerate(self.layers):
                columns = same | {"layer": pa.array(np.full(n, layer), type=pa.int32())}
                for name in ("experts", "weights"):
                    if name in block:
                        values = pa.array(block[name][:, at].reshape(-1), type=self._schema.field(name).type.value_type)
                        columns[name] = pa.ListArray.from_arrays(offsets, values)
                table = pa.table([columns[name] for name in self._schema.names], schema=self._schema)
                self._file.write_table(table, row_group_size=BLOCK)
        self.tokens += n


def write(trace: RoutingTrace, path: Path) -> None:
    """Write atomically: to a temporary name beside ``path``, then rename."""
    with writer_like(trace, path) as file:
        file.append(trace.experts, trace.request, trace.position, trace.phase, trace.weights)


def writer_like(trace: RoutingTrace, path: Path) -> TraceWriter:
    """A writer for the tokens of a trace and others like it. Raises TraceError as ``TraceWriter`` does."""
    return TraceWriter(
        path,
        layer_index=trace.layer_index.tolist(),
        n_experts=trace.n_experts,
        model=trace.model,
        source=trace.source,
        id_space=trace.id_space,
        synthetic=trace.synthetic,
        weights=trace.weights is not None,
    )


@dataclass(frozen=True)
class _Group:
    """A row group: its number, layers (one, or all that it holds), range of tokens and rows."""

    number: int
    layers: frozenset[int]
    first: int
    last: int
    rows: int


def read(path: Path, layers: Collection[int] | None = None, requests: Collection[int] | None = None) -> dict[str, Any]:
    """Fields of a RoutingTrace, of some layers or requests only. Raises TraceError for a damaged or other file."""
    with _opened(path, mapped=layers is not None) as file:
        return _read(path, file, layers, requests)


def layers_of(path: Path) -> list[int]:
    """The model's numbers of the layers of a file, rising. Raises TraceError as ``read`` does."""
    with _opened(path) as file:
        return _known(path, file)[1]


def read_choices(path: Path, layer: int, weights: bool) -> dict[str, Any]:
    """Experts and, if wanted and there, weights of one layer, [tokens, 1, k]. Raises TraceError as ``read`` does."""
    with _opened(path) as file:
        groups, _, n = _known(path, file)
        return _choices(path, file, groups, [layer], np.ones(n, dtype=bool), weights)


@contextmanager
def _opened(path: Path, mapped: bool = True) -> Iterator[Any]:
    try:
        # Pages are mapped, not copied; those of other layers and requests are never touched. Where all layers are read,
        # they are not: mapped pages of a large file would fill the memory until it is closed.
        with pq.ParquetFile(path, memory_map=mapped, page_checksum_verification=True) as file:
            yield file
    except _DAMAGED:
        raise TraceError(
            f"'{path}' is not a readable Parquet file; it may be cut off or damaged: copy or write it again"
        ) from None


def _known(path: Path, file: Any) -> tuple[list[_Group], list[int], int]:
    """Row groups, layers and number of tokens."""
    names, metadata = file.schema_arrow.names, file.schema_arrow.metadata or {}
    _check_metadata(path, names, metadata, file.metadata.num_rows)
    groups = _groups(path, file, metadata)
    known = sorted(set().union(*(group.layers for group in groups)))
    n, rest = divmod(file.metadata.num_rows, len(known))
    if rest or any(not 0 <= group.first <= group.last < n for group in groups):
        raise _not_whole(path)
    return groups, known, n


def _read(path: Path, file: Any, layers: Collection[int] | None, requests: Collection[int] | None) -> dict[str, Any]:
    groups, known, n = _known(path, file)
    metadata = file.schema_arrow.metadata
    wanted = known if layers is None else sorted(set(layers))
    if missing := sorted(set(wanted) - set(known)):
        raise TraceError(f"'{path}': layer {missing[0]} is not in the trace; it has {', '.join(map(str, known))}")
    per_token = {name: np.zeros(n, dtype=np.int32) for name in PER_TOKEN}
    seen = np.zeros(n, dtype=bool)
    for group in groups:
        if known[0] in group.layers:
            table = _columns(path, file, group, ("token", "layer", *PER_TOKEN))
            mine = table["layer"] == known[0]
            token = table["token"][mine]
            seen[token] = True
            for name in PER_TOKEN:
                per_token[name][token] = table[name][mine]
    if not seen.all():
        raise _not_whole(path)
    keep = np.ones(n, dtype=bool) if requests is None else np.isin(per_token["request"], list(requests))
    if not keep.any():
        raise TraceError(f"'{path}': none of the requests that were asked for is in the trace")
    return {
        **_choices(path, file, groups, wanted, keep),
        **{name: array if requests is None else array[keep] for name, array in per_token.items()},
        "layer_index": np.array(wanted, dtype=np.int32),
        "n_experts": int(metadata[b"n_experts"]),
        "model": metadata[b"model"].decode(errors="replace"),
        "source": metadata[b"source"].decode(errors="replace"),
        "id_space": metadata[b"id_space"].decode(errors="replace"),
        "synthetic": metadata[b"synthetic"] == b"true",
    }


def _check_metadata(path: Path, names: list[str], metadata: dict[bytes, bytes], rows: int) -> None:
    if metadata.get(b"format") != FORMAT:
        raise TraceError(f"'{path}' is a Parquet file but not a trace: its metadata has no format {FORMAT.decode()}")
    if missing := [name for name in REQUIRED_COLUMNS if name not in names]:
        raise TraceError(f"'{path}' is not a whole trace: it has no column '{missing[0]}'")
    if missing := [name for name in REQUIRED_METADATA if name.encode() not in metadata]:
        raise TraceError(f"'{path}' is not a whole trace: its metadata has no '{missing[0]}'")
    number = metadata[b"n_experts"].decode("ascii", errors="replace")
    if not number.isdigit():
        raise TraceError(f"'{path}': n_experts is '{number}' in its metadata, a number needed")
    if rows == 0:
        raise TraceError(f"'{path}': the trace is empty: it has no rows")


def _groups(path: Path, file: Any, metadata: dict[bytes, bytes]) -> list[_Group]:
    """Row groups with what they hold: by the file's own word, checked when they are read, else by their columns.

    Parquet's statistics would say it, too, but of damaged ones pyarrow does not survive the reading.
    """
    rows = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    if max(rows) > MAX_ROWS or sum(rows) > MAX_CHOICES:
        raise TraceError(f"'{path}' has {sum(rows)} rows, {max(rows)} of them in one group, which is too much to read")
    layers = metadata.get(b"layers", b"").decode("ascii", errors="replace").split(",")
    block = metadata.get(b"block", b"").decode("ascii", errors="replace")
    if all(layer.isdigit() for layer in layers) and block.isdigit() and len(rows) % len(layers) == 0:
        blocks = np.arange(len(rows)) // len(layers) * int(block)
        if int(block) <= MAX_ROWS and all(0 < n <= int(block) for n in rows):
            return [
                _Group(g, frozenset([int(layers[g % len(layers)])]), int(first), int(first) + n - 1, n)
                for g, (first, n) in enumerate(zip(blocks, rows, strict=True))
            ]
    found = []
    for number, n in enumerate(rows):
        if n:
            table = _columns(path, file, _Group(number, frozenset(), 0, MAX_ROWS, n), ("token", "layer"))
            token = table["token"]
            found.append(_Group(number, frozenset(table["layer"].tolist()), int(token.min()), int(token.max()), n))
    return found


def _columns(path: Path, file: Any, group: _Group, names: tuple[str, ...]) -> dict[str, Any]:
    table = file.read_row_group(group.number, columns=list(names), use_threads=False)
    if holes := [name for name in names if table[name].null_count]:
        raise TraceError(f"'{path}' is not a whole trace: column '{holes[0]}' has empty cells")
    columns = {name: table[name].to_numpy() for name in names}
    for name, column in columns.items():
        if column.dtype.kind not in "iu":
            raise TraceError(f"'{path}': column '{name}' holds {table[name].type}, whole numbers needed")
        if wrong := column[column != column.astype(np.int32)].tolist():
            raise TraceError(f"'{path}': column '{name}' holds {wrong[0]}, which is no int32")
    token = columns["token"]
    if not group.first <= int(token.min()) <= int(token.max()) <= group.last:
        raise _not_whole(path)
    return columns


def _choices(
    path: Path, file: Any, groups: list[_Group], wanted: list[int], keep: Any, weights: bool = True
) -> dict[str, Any]:
    groups = [group for group in groups if group.layers & set(wanted) and keep[group.first : group.last + 1].any()]
    names = ["experts"] + ["weights"] * (weights and "weights" in file.schema_arrow.names)
    return {"weights": None} | {name: _lists(path, file, groups, name, wanted, keep) for name in names}


def _lists(path: Path, file: Any, groups: list[_Group], name: str, wanted: list[int], keep: Any) -> Any:
    """A list column as an array [tokens, layers, k]; every list must be of one length and without holes."""
    row_of = np.cumsum(keep, dtype=np.int32) - 1
    out: Any = None
    filled = np.zeros((int(keep.sum()), len(wanted)), dtype=bool)
    for group in groups:
        table = file.read_row_group(group.number, columns=[name], use_threads=False)
        column = table[name].combine_chunks()
        if not pa.types.is_list(column.type):
            raise TraceError(f"'{path}': column '{name}' holds {column.type}, lists of numbers needed")
        if column.null_count:
            raise TraceError(f"'{path}' is not a whole trace: column '{name}' has empty cells")
        sizes, values = np.diff(column.offsets.to_numpy()), column.flatten()
        k = int(sizes[0]) if out is None else out.shape[2]
        if values.null_count or (sizes != k).any():
            raise TraceError(f"'{path}': the lists of column '{name}' differ in length or have empty cells")
        numbers = values.to_numpy(zero_copy_only=False).reshape(-1, k)
        if numbers.dtype.kind not in "iuf":
            raise TraceError(
                f"'{path}': {name} holds {numbers.dtype}, {'int16' if name == 'experts' else 'float32'} needed"
            )
        if out is None:
            if filled.size * k > MAX_CHOICES:
                raise TraceError(
                    f"'{path}' has {filled.size * k} choices of experts; at most {MAX_CHOICES} are read at once: load "
                    "some of its layers or requests"
                )
            out = np.zeros((*filled.shape, k), dtype=numbers.dtype)
        about = _columns(path, file, group, ("token", "layer"))
        token, layer = about["token"], about["layer"]
        for number in sorted(group.layers & set(wanted)):
            at = wanted.index(number)
            mine = np.flatnonzero((layer == number) & keep[token])
            filled[row_of[token[mine]], at] = True
            out[row_of[token[mine]], at] = numbers[mine]
    if out is None or not filled.all():
        raise _not_whole(path)
    return out


def _not_whole(path: Path) -> TraceError:
    return TraceError(f"'{path}' is not a whole trace: one row per token and layer, numbered from 0 on, is needed")
