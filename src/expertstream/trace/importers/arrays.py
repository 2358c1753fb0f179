"""``.npz`` files: captures as ``RoutingTrace.load`` reads them, moe-balance's requests, counts.

- A capture: ``experts`` and ``num_experts`` (expertstream.trace.npz).
- moe-balance (sim/convert_npz_to_trace.py of github.com/johanna-rock/moe-balance): one request, ``routed_experts``
  [tokens, layers, k], ``prompt_token_ids`` and ``output_token_ids`` (their numbers part the phases). Files that keep
  the array as a Python object must be saved anew.
- Counts: ``counts`` [iterations, layers, experts], ``tokens`` [iterations], ``top_k``, ``layer_index``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.trace import npz
from expertstream.trace.importers.contents import Content
from expertstream.trace.importers.counts import Counts, count_matrix
from expertstream.trace.importers.found import Found, Hints, expert_ids, of_requests

NAME, ABOUT = "npz", ".npz: a capture, moe-balance's routed_experts, or counts"


def matches(content: Content) -> bool:
    """Whether this importer reads it."""
    return content.kind == "npz" and bool({"experts", "routed_experts", "counts"} & set(content.value))


def read(content: Content, hints: Hints) -> Found | Counts:
    """What the file holds. Raises TraceError for another layout."""
    if "experts" in content.value:
        fields = npz.read(content.path)
        return Found(
            experts=fields["experts"],
            request=fields["request"],
            position=fields["position"],
            phase=fields["phase"],
            layers=_layers(fields["layer_index"]),
            n_experts=fields["n_experts"],
            weights=fields["weights"],
        )
    if "routed_experts" in content.value:
        arrays = npz.read_arrays(content.path, ("routed_experts", "prompt_token_ids"))
        prompt = arrays.get("prompt_token_ids")
        experts = expert_ids(arrays["routed_experts"], 3, "routed_experts")
        return of_requests([(experts, None if prompt is None else prompt.size)])
    return counts_of(content.path)


def counts_of(path: Path) -> Counts:
    """The counts of a ``.npz`` file. Raises TraceError for another layout."""
    arrays = npz.read_arrays(path, ("counts", "tokens", "top_k", "layer_index", "num_experts"))
    if "counts" not in arrays:
        raise TraceError(f"'{path}' has no array 'counts'")
    counts = count_matrix(arrays["counts"], "counts")
    layers = None if "layer_index" not in arrays else _layers(arrays["layer_index"])
    if layers is not None and len(layers) != len(counts):
        raise TraceError(f"counts has {len(counts)} layers, layer_index {len(layers)}")
    tokens = arrays.get("tokens")
    return Counts(
        counts=counts,
        layers=layers,
        top_k=_one(arrays.get("top_k"), "top_k"),
        tokens=None if tokens is None or tokens.dtype.kind not in "iu" else int(tokens.sum()),
    )


def _layers(index: NDArray[Any]) -> list[int]:
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise TraceError(f"layer_index has shape {index.shape} and type {index.dtype}, a list of integers needed")
    return [int(number) for number in index.tolist()]


def _one(value: NDArray[Any] | None, name: str) -> int | None:
    if value is None:
        return None
    if value.size != 1 or value.dtype.kind not in "iu" or int(np.reshape(value, -1)[0]) < 1:
        raise TraceError(f"{name} has shape {value.shape} and type {value.dtype}, one number from 1 on needed")
    return int(np.reshape(value, -1)[0])
