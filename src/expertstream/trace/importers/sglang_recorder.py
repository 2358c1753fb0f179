"""Files of SGLang's expert distribution recorder (``/dump_expert_distribution_record``).

Layout, from python/sglang/srt/eplb/expert_distribution.py of github.com/sgl-project/sglang, written by ``torch.save``:

- Mode ``per_token``: ``records``, one per forward pass, with ``topk_ids_of_layer`` int32 [layers, tokens, 8] (physical
  experts; -1 where k is below 8, where a layer is dense and where a token is padding), ``positions``, ``forward_mode``
  (1 extend, 2 decode, 3 mixed), ``extend_seq_lens``; and ``last_physical_to_logical_map`` [layers, physical experts].
- Mode ``per_pass``: ``records`` with ``global_physical_count`` [layers, physical experts], and the same map.
- Modes ``stat`` and ``stat_approx``: ``logical_count`` [passes, layers, experts]. Also as JSON.

A file does not name requests. They are followed from pass to pass by position: a sequence that starts at a token's next
position continues its request.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.trace.importers.contents import Content, as_array
from expertstream.trace.importers.counts import Counts, count_matrix
from expertstream.trace.importers.found import MAX_CHOICES, NOTHING, Found, Hints, expert_ids

NAME, ABOUT = "sglang-recorder", "SGLang expert distribution recorder"
_DECODE = 2


def matches(content: Content) -> bool:
    """Whether this importer reads it."""
    return (
        content.kind in ("pt", "json")
        and isinstance(content.value, dict)
        and bool({"records", "logical_count"} & content.value.keys())
    )


def read(content: Content, hints: Hints) -> Found | Counts:
    """The tokens of mode ``per_token``, the counts of the others. Raises TraceError for another layout."""
    if "logical_count" in content.value:
        return Counts(count_matrix(as_array(content.value["logical_count"]), "logical_count"), top_k=hints.top_k)
    records = content.value["records"]
    mapping = _mapping(content.value.get("last_physical_to_logical_map"))
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise TraceError("its records are no list of forward passes, or there are none")
    if "topk_ids_of_layer" not in records[0]:
        return Counts(sum(_logical_counts(record, mapping) for record in records), top_k=hints.top_k)
    passes, requests, positions, phases = [], [], [], []
    following = _Following()
    size = 0
    for record in records:
        physical = expert_ids(as_array(record.get("topk_ids_of_layer")), 3, "topk_ids_of_layer")
        size += physical.size
        if size > MAX_CHOICES:
            raise TraceError(f"it has more than {MAX_CHOICES} choices of experts; dump it more often")
        logical = _logical(physical, mapping)
        position = _integers(record.get("positions"), "positions")
        if position.size != physical.shape[1]:
            raise TraceError(f"a pass has {physical.shape[1]} tokens and {position.size} positions")
        request, phase = following.take(position, record)
        passes.append(logical.transpose(1, 0, 2))
        requests.append(request)
        positions.append(position)
        phases.append(phase)
    if len({one.shape[1:] for one in passes}) > 1:
        raise TraceError("its passes differ in layers or k")
    notes = ["requests are followed by position"]
    if following.ambiguous:
        notes.append(f"{following.ambiguous} times several requests were at one position; their order was kept")
    return Found(
        experts=np.concatenate(passes),
        request=np.concatenate(requests),
        position=np.concatenate(positions),
        phase=np.concatenate(phases),
        n_experts=int(mapping.max()) + 1,
        notes=notes,
    )


class _Following:
    """Requests by the position of their next token."""

    def __init__(self) -> None:
        self.next: dict[int, list[int]] = defaultdict(list)
        self.requests = self.ambiguous = 0

    def take(self, position: NDArray[np.int64], record: dict[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Request and phase of the tokens of a pass."""
        lengths = record.get("extend_seq_lens")
        decode = record.get("forward_mode") == _DECODE
        if decode or lengths is None:
            sizes = np.ones(position.size, dtype=np.int64)
        else:
            sizes = _integers(lengths, "extend_seq_lens")
            if (sizes < 0).any() or int(sizes.sum()) > position.size:
                raise TraceError(f"a pass has {position.size} tokens and sequences of {int(sizes.sum())}")
            sizes = np.append(sizes, position.size - sizes.sum())  # padding
        request = np.empty(position.size, dtype=np.int64)
        after = []
        first = 0
        for size in sizes[sizes > 0].tolist():
            start = int(position[first])
            waiting = self.next.get(start) if start else None
            if waiting:
                self.ambiguous += len(waiting) > 1
                number = waiting.pop(0)
            else:
                number = self.requests
                self.requests += 1
            request[first : first + size] = number
            first += size
            after.append((int(position[first - 1]) + 1, number))
        for place, number in after:
            self.next[place].append(number)
        single = np.repeat(sizes == 1, sizes) & (position > 0)
        return request, (single | decode).astype(np.int64)


def _integers(value: Any, name: str) -> NDArray[np.int64]:
    try:
        found = np.asarray(as_array(value))
    except (ValueError, OverflowError):
        found = np.empty(0, dtype=object)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise TraceError(f"{name} of a pass is no list of whole numbers")
    if found.size and (found.min() < -1 or found.max() >= 2**31):
        raise TraceError(f"{name} of a pass has numbers out of range")
    return found.astype(np.int64)


def _mapping(value: Any) -> NDArray[np.int16]:
    mapping = expert_ids(as_array(value), 2, "last_physical_to_logical_map")
    if not mapping.size or int(mapping.min()) < 0:
        raise TraceError("last_physical_to_logical_map is empty or has negative ids")
    return mapping


def _logical(physical: NDArray[np.int16], mapping: NDArray[np.int16]) -> NDArray[np.int16]:
    layers, experts = mapping.shape
    if len(physical) != layers or int(physical.max(initial=NOTHING)) >= experts:
        raise TraceError(
            f"topk_ids_of_layer has {len(physical)} layers and ids up to {int(physical.max(initial=NOTHING))}; "
            f"last_physical_to_logical_map has {layers} layers of {experts} physical experts"
        )
    rows = np.arange(layers)[:, None, None]
    return np.where(physical == NOTHING, np.int16(NOTHING), mapping[rows, np.maximum(physical, 0)])


def _logical_counts(record: dict[str, Any], mapping: NDArray[np.int16]) -> Any:
    physical = count_matrix(as_array(record.get("global_physical_count")), "global_physical_count")
    if physical.shape != mapping.shape:
        raise TraceError(f"global_physical_count has shape {physical.shape}, its map {mapping.shape}")
    counts = np.zeros((len(mapping), int(mapping.max()) + 1))
    np.add.at(counts, (np.arange(len(mapping))[:, None], mapping), physical)
    return counts
