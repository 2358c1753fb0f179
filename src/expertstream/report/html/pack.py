"""A run's columns as one compressed block of bytes for the page, with a list that says where what is.

Every column is a sequence of integers from 0 on (what can be -1 is stored plus 1). A column of width k is written as k
planes: all lowest bytes, then all second bytes, and so on; ascending columns as differences. Deflate finds the
repetitions in such planes that it misses in whole words.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis import occupancy

if TYPE_CHECKING:
    from expertstream.simulate import Result

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """Columns of a run.

    Attributes:
        columns: for each its name, length, width in bytes, and whether it holds differences.
        size: bytes before compression.
        text: the compressed (zlib) block in base64.
    """

    columns: list[dict[str, Any]]
    size: int
    text: str


def pack_run(result: Result) -> Packed:
    """Columns that the page draws from.

    Per activity, in order of start: start_ps, busy_ps, kind, resource, die, source + 1, chunk, tokens. Per chunk: bytes
    and its row in the slice table + 1. Per row of the slice table: expert, first and end column. Tokens of each
    (expert, die). Length of the path of each (die, die), and the links of all paths. For each (die, pool) the length
    of its occupancy, whose times and bytes follow one another.
    """
    timeline, plan = result.timeline, result.plan
    n_chunks = int(timeline.chunk.max(initial=-1)) + 1
    chunk_bytes = np.zeros(n_chunks, dtype=np.int64)
    chunk_tag = np.full(n_chunks, -1, dtype=np.int64)
    np.maximum.at(chunk_bytes, timeline.chunk, timeline.bytes)
    chunk_tag[timeline.chunk] = timeline.tag
    levels = [occupancy(timeline, die, pool) for die in range(timeline.network.n_dies) for pool in (0, 1)]
    return _pack(
        ("start", timeline.start_ps, True),
        ("busy", timeline.end_ps - timeline.start_ps, False),
        ("kind", timeline.kind, False),
        ("resource", timeline.resource, False),
        ("die", timeline.die, False),
        ("source", timeline.source + 1, False),
        ("chunk", timeline.chunk, False),
        ("tokens", timeline.tokens, False),
        ("chunkBytes", chunk_bytes, False),
        ("chunkSlice", chunk_tag + 1, False),
        ("sliceExpert", plan.slices[:, 0], False),
        ("sliceFirst", plan.slices[:, 1], False),
        ("sliceEnd", plan.slices[:, 2], False),
        ("expertTokens", result.workload.in_passes(1).load[0].reshape(-1), False),
        ("pathLength", np.diff(timeline.network.path_ptr), False),
        ("pathLinks", timeline.network.path_links, False),
        ("levelCount", np.array([times.size for times, _ in levels], dtype=np.int64), False),
        ("levelTime", np.concatenate([np.diff(times, prepend=0) for times, _ in levels]), False),
        ("levelBytes", np.concatenate([held for _, held in levels]), False),
    )


def _pack(*columns: tuple[str, Ints, bool]) -> Packed:
    about, parts = [], []
    for name, values, ascending in columns:
        stored = np.diff(values, prepend=0) if ascending else values
        width = max(1, (int(stored.max(initial=0)).bit_length() + 7) // 8)
        planes = stored.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
        parts.append(np.ascontiguousarray(planes.T).tobytes())
        about.append({"name": name, "length": int(values.size), "width": width, "differences": ascending})
    block = b"".join(parts)
    return Packed(about, len(block), base64.b64encode(zlib.compress(block, 9)).decode("ascii"))
