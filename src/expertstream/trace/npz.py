"""Reader of NumPy ``.npz`` and ``.npy`` files from anywhere: nothing in them is executed, and no array is made before
its size is known from its header.

A ``.npz`` capture holds experts int16 [tokens, layers, k]; optional weights float16 of the same shape, request and
position int32 [tokens], phase int8 [tokens]; num_experts; layer_index [layers]. The layout of a header:
numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import math
import warnings
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from expertstream.errors import TraceError

MAX_BYTES = 2**31  # of all arrays that are read from one file
TRACE_ARRAYS = ("experts", "weights", "request", "position", "phase", "layer_index", "num_experts")
_DAMAGED = (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read(path: Path) -> dict[str, Any]:
    """Fields of a RoutingTrace. Raises TraceError for a damaged file or one that is not a trace."""
    names = array_names(path)
    if "counts" in names and "experts" not in names:
        raise TraceError(
            f"'{path}' holds expert counts only; a schedule needs the experts of each token: use a per-token capture"
        )
    missing = [name for name in ("experts", "num_experts") if name not in names]
    if missing:
        raise TraceError(f"'{path}' is not a trace: it has no '{missing[0]}' (found: {', '.join(sorted(names))})")
    arrays = read_arrays(path, TRACE_ARRAYS)
    experts, number = arrays["experts"], arrays["num_experts"]
    if experts.ndim != 3:
        raise TraceError(f"'{path}': experts has shape {experts.shape}, [tokens, layers, k] needed")
    if number.size != 1 or number.dtype.kind not in "iu":
        raise TraceError(f"'{path}': num_experts has shape {number.shape} and type {number.dtype}, one integer needed")
    tokens, layers, _ = experts.shape
    unknown = np.full(tokens, -1)
    return {
        "experts": experts,
        "weights": arrays.get("weights"),
        "request": arrays.get("request", unknown),
        "position": arrays.get("position", unknown),
        "phase": arrays.get("phase", unknown),
        "layer_index": arrays.get("layer_index", np.arange(layers)),
        "n_experts": int(number.reshape(-1)[0]),
        "model": path.name.split("__")[0].removesuffix(".npz"),
        "source": path.name,
    }


def array_names(path: Path) -> list[str]:
    """Names of the arrays of a ``.npz`` file. Raises TraceError for a damaged one."""
    try:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]
    except _DAMAGED:
        raise _unreadable(path, ".npz") from None


def read_arrays(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Those of the named arrays that a ``.npz`` file has.

    Raises:
        TraceError: the file is damaged, an array holds Python objects, or all together are too large.
    """
    arrays: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                name = info.filename.removesuffix(".npy")
                if name in names and info.filename.endswith(".npy"):
                    used = sum(array.nbytes for array in arrays.values())
                    with file.open(info) as handle:
                        arrays[name] = _array(handle, f"'{path}': array '{name}'", MAX_BYTES - used)
    except _DAMAGED:
        raise _unreadable(path, ".npz") from None
    return arrays


def read_array(path: Path) -> Any:
    """The array of a ``.npy`` file. Raises TraceError as ``read_arrays`` does."""
    try:
        with path.open("rb") as handle:
            return _array(handle, f"'{path}'", MAX_BYTES)
    except _DAMAGED:
        raise _unreadable(path, ".npy") from None


def parse_array(handle: IO[bytes], what: str) -> Any:
    """The array of ``.npy`` bytes; ``what`` names them in messages. Raises TraceError as ``read_arrays`` does."""
    try:
        return _array(handle, what, MAX_BYTES)
    except _DAMAGED:
        raise TraceError(f"{what} is no readable NumPy array; it may be cut off or damaged") from None


def _array(handle: IO[bytes], what: str, most: int) -> Any:
    try:
        shape, fortran, kind = _header(handle)
    except Exception:  # NumPy evaluates a header as a Python literal, which can fail in many ways
        raise ValueError from None
    if kind.hasobject:
        raise TraceError(f"{what} holds Python objects, which are never loaded; save it as an array of numbers")
    size = math.prod(shape) * kind.itemsize
    if size > most:
        raise TraceError(f"{what} has {size} bytes; at most {most} are read: import the file in parts")
    data = handle.read(size)
    if len(data) < size or handle.read(1):  # the second read also checks the checksum of a zip member
        raise EOFError
    array = np.frombuffer(data, dtype=kind)
    return array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)


def _header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    major, _ = np.lib.format.read_magic(handle)
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote, and of odd literals in damaged ones
        return readers[major](handle)


def _unreadable(path: Path, kind: str) -> TraceError:
    return TraceError(f"'{path}' is not a readable {kind} file; it may be cut off or damaged: copy or write it again")
