"""Opens a file of unknown origin by its first bytes: as arrays, tensors, JSON or CSV, within limits of size.

Nothing of a file is executed. NumPy's object arrays are refused. Of PyTorch files only those pass whose pickle names
nothing but tensors, storages and plain containers; they are then loaded with ``weights_only=True``, memory-mapped, so
that a storage cannot reach beyond the file.
"""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertstream.errors import TraceError
from expertstream.trace import npz

MAX_JSON_BYTES = 2**26  # of one document: Python objects take some 20 times as much
HEADER_BYTES = 4096
_SAFE = re.compile(r"torch\._utils _rebuild_tensor_v2|torch \w+Storage|torch Size|torch device|collections OrderedDict")


@dataclass(frozen=True)
class Content:
    """An opened file.

    Attributes:
        kind: npz, npy, pt, json, csv or parquet.
        value: npz: names of the arrays; npy: the array; pt: the object; json: the first document; csv: the column names
            in small letters; parquet: None.
    """

    path: Path
    kind: str
    value: Any


def open_content(path: Path) -> Content:
    """Open a file. Raises TraceError if it is missing, damaged, too large or of a kind that is not known."""
    if not path.is_file():
        raise TraceError(f"'{path}' is a folder; name the files" if path.is_dir() else f"there is no file '{path}'")
    try:
        with path.open("rb") as handle:
            start = handle.read(HEADER_BYTES)
    except OSError as error:
        raise TraceError(f"cannot read '{path}': {error.strerror}") from None
    if not start:
        raise TraceError(f"'{path}' is empty; write it again")
    if start.startswith(b"PAR1"):
        return Content(path, "parquet", None)
    if start.startswith(b"\x93NUMPY"):
        return Content(path, "npy", npz.read_array(path))
    if start.startswith(b"PK\x03\x04"):
        return _zip(path)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] in (b"{", b"["):
        return Content(path, "json", next(documents(path)))
    columns = text.split(b"\n")[0].decode("utf-8", errors="replace").strip().lower().split(",")
    if len(columns) > 1 and all(re.fullmatch(r'"?\w+"?', column.strip()) for column in columns):
        return Content(path, "csv", [column.strip().strip('"') for column in columns])
    raise TraceError(
        f"'{path}' is of no known kind: neither Parquet, .npz, .npy, .pt (zip), JSON nor CSV with a header line"
    )


def documents(path: Path) -> Iterator[Any]:
    """The JSON documents of a file: one, or one per line. Raises TraceError for text that is not JSON or too long."""
    try:
        with path.open("rb") as handle:
            first = handle.readline(MAX_JSON_BYTES + 1)
            document, whole = _parsed(first)
            if not whole or not handle.readline(MAX_JSON_BYTES + 1):
                handle.seek(0)
                text = handle.read(MAX_JSON_BYTES + 1)
                document, whole = _parsed(text)
                if len(text) > MAX_JSON_BYTES or not whole:
                    raise _not_json(path, len(text))
                yield document
                return
            handle.seek(0)
            number = 0
            while line := handle.readline(MAX_JSON_BYTES + 1):
                number += 1
                if not line.strip():
                    continue
                document, whole = _parsed(line)
                if not whole:
                    raise _not_json(path, len(line), number)
                yield document
    except OSError as error:
        raise TraceError(f"cannot read '{path}': {error.strerror}") from None


def as_array(value: Any) -> Any:
    """A tensor as an array that shares its memory; anything else as it is. Raises TraceError for what cannot be one."""
    if not hasattr(value, "detach"):
        return value
    try:
        if value.numel() * 8 <= npz.MAX_BYTES:
            return value.detach().numpy()
    except (TypeError, RuntimeError):
        pass
    raise TraceError(f"a tensor of shape {list(value.shape)} and type {value.dtype} is too large or no array")


def _parsed(text: bytes) -> tuple[Any, bool]:
    try:
        return json.loads(text), True
    except (ValueError, RecursionError):
        return None, False


def _not_json(path: Path, size: int, line: int | None = None) -> TraceError:
    where = f"'{path}'" if line is None else f"'{path}', line {line},"
    if size > MAX_JSON_BYTES:
        return TraceError(
            f"{where} is longer than {MAX_JSON_BYTES} bytes, which is as long as a JSON document may be; write one "
            "request per line, or cut it into parts"
        )
    return TraceError(f"{where} is not readable JSON; it may be cut off or damaged: copy or write it again")


def _zip(path: Path) -> Content:
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            size = sum(info.file_size for info in file.infolist())
            pickles = [name for name in names if name.endswith("data.pkl")]
            if not pickles:
                return Content(path, "npz", npz.array_names(path))
            if size > npz.MAX_BYTES:
                raise TraceError(f"'{path}' has {size} bytes unpacked; at most {npz.MAX_BYTES} are read")
            if file.testzip() is not None:
                raise _damaged_pt(path)
            for name in pickles:
                _check_pickle(path, file.read(name))
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        raise _damaged_pt(path) from None
    return Content(path, "pt", _load_pt(path))


def _check_pickle(path: Path, data: bytes) -> None:
    """Raise TraceError unless the pickle names only tensors and plain containers; ValueError if it is damaged."""
    for code, argument, _ in pickletools.genops(data):
        unsafe = code.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")
        if unsafe or (code.name == "GLOBAL" and not _SAFE.fullmatch(str(argument))):
            raise TraceError(
                f"'{path}' names {argument or code.name}, which is more than tensors and plain containers; "
                "such a file can execute code and is not loaded"
            )


def _load_pt(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise TraceError(f"to read '{path}', install torch: pip install \"expertstream[capture]\"") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a damaged file can make the unpickler raise anything
        raise _damaged_pt(path) from None


def _damaged_pt(path: Path) -> TraceError:
    return TraceError(f"'{path}' is not a readable .pt or .npz file; it may be cut off or damaged: copy it again")
