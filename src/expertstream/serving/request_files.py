"""Request traces in files: our own JSONL and Parquet, and the CSV of the Azure LLM inference traces.

Own form, one row per request in the order of arrival: ``arrival_us`` (microseconds since the start, whole number),
``prompt_tokens``, ``output_tokens``. Azure's (github.com/Azure/AzurePublicDataset): TIMESTAMP, ContextTokens,
GeneratedTokens; times count from the first row, and a request that generated nothing counts as one output token, which
its prompt yields anyway. Files are read as a stream.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from expertstream.errors import ConfigError
from expertstream.serving.requests import Request

MICROSECOND_PS = 10**6
OWN = ("arrival_us", "prompt_tokens", "output_tokens")
AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BATCH_ROWS = 4096
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_requests(path: Path) -> Callable[[], Iterator[Request]]:
    """How to read a request file, from its start, as often as needed.

    Raises:
        ConfigError: the file is missing or of an unknown kind; while reading: a row that is not a request.
    """
    readers: dict[str, Callable[[Path], Iterator[Request]]] = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _azure}
    if path.suffix not in readers:
        raise ConfigError(f"'{path}' is not a request file that can be read; allowed: {', '.join(readers)} files")
    if not path.is_file():
        raise ConfigError(f"there is no request file '{path}'")
    return lambda: readers[path.suffix](path)


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield lines
    except UnicodeDecodeError:
        raise ConfigError(f"'{path}' is not a readable text file; requests are written in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read the request file '{path}': {error.strerror}") from None


def _jsonl(path: Path) -> Iterator[Request]:
    with _text(path) as lines:
        for number, line in enumerate(line for line in lines if line.strip()):
            try:
                row = json.loads(line)
            except ValueError:
                raise ConfigError(f"{path}, request {number}: not valid JSON") from None
            if not isinstance(row, dict):
                raise ConfigError(f"{path}, request {number}: an object with {', '.join(OWN)} is needed")
            yield _request(path, number, [row.get(key) for key in OWN])


def _parquet(path: Path) -> Iterator[Request]:
    try:
        with pq.ParquetFile(path) as file:
            if missing := [key for key in OWN if key not in file.schema_arrow.names]:
                raise ConfigError(f"{path}: there is no column '{missing[0]}'; needed: {', '.join(OWN)}")
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=list(OWN)):
                for row in zip(*(batch.column(key).to_pylist() for key in OWN), strict=True):
                    yield _request(path, number, list(row))
                    number += 1
    except (pa.ArrowException, OSError):
        raise ConfigError(f"'{path}' is not a readable Parquet file; it may be cut off or damaged") from None


def _azure(path: Path) -> Iterator[Request]:
    with _text(path) as lines:
        rows = csv.DictReader(lines)
        if missing := [key for key in AZURE if key not in (rows.fieldnames or ())]:
            raise ConfigError(f"{path}: there is no column '{missing[0]}'; needed: {', '.join(AZURE)}")
        first = None
        for number, row in enumerate(rows):
            at = _time_us(path, number, row["TIMESTAMP"])
            first = at if first is None else first
            prompt, output = (_whole(row[key]) for key in AZURE[1:])
            yield _request(path, number, [at - first, prompt, 1 if output == 0 else output])


def _time_us(path: Path, number: int, text: str | None) -> int:
    """Whole microseconds since 1970; the traces write up to seven digits of a second, the last of which is dropped."""
    found = re.fullmatch(r"([^.+]{11,}?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?", (text or "").strip())
    try:
        if found is None:
            raise ValueError
        main, fraction, zone = found.groups()
        at = datetime.fromisoformat(main + (zone or "Z")).astimezone(UTC)
        return (at - EPOCH) // timedelta(microseconds=1) + int(((fraction or "") + "000000")[:6])
    except ValueError:
        raise ConfigError(
            f"{path}, request {number}: TIMESTAMP is '{text}'; write for example 2023-11-16 18:15:46.6805900"
        ) from None


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.strip().isascii() and text.strip().isdigit() else None


def _request(path: Path, number: int, values: list[Any]) -> Request:
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values) or values[0] < 0 or min(values[1:]) < 1:
        given = ", ".join(f"{key} {value}" for key, value in zip(OWN, values, strict=True))
        raise ConfigError(
            f"{path}, request {number}: {given}; arrivals must be whole numbers from 0, token counts from 1"
        )
    return Request(number, values[0] * MICROSECOND_PS, values[1], values[2])
