"""What every trace must hold: shapes that agree, expert ids in range and distinct, gate weights that are weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError

MAX_EXPERTS = 2**15  # ids are int16
CHECKED = 65536  # tokens
TYPES: dict[str, type[np.generic]] = {
    "experts": np.int16,
    "weights": np.float32,
    "request": np.int32,
    "position": np.int32,
    "phase": np.int8,
    "layer_index": np.int32,
}


def check_shapes(source: str, arrays: Mapping[str, Any]) -> None:
    """Raise TraceError, which begins with ``source``, unless the arrays have shapes and kinds of a trace.

    Args:
        arrays: by the names of TYPES; experts [tokens, layers, k] is one of them. None: not there.
    """
    for name, array in arrays.items():
        if array is not None and not hasattr(array, "dtype"):
            raise TraceError(f"{source}: {name} is a {type(array).__name__}; a NumPy array is needed")
    shape = arrays["experts"].shape
    if len(shape) != 3 or 0 in shape:
        empty = "the trace is empty: " if 0 in shape else ""
        raise TraceError(f"{source}: {empty}experts has shape {shape}, [tokens, layers, k] needed")
    n, layers, k = shape
    needed = {"request": (n,), "position": (n,), "phase": (n,), "layer_index": (layers,), "weights": (n, layers, k)}
    there = {name: array for name, array in arrays.items() if array is not None}
    for name, array in there.items():
        if array.shape != needed.get(name, shape):
            raise TraceError(f"{source}: {name} has shape {array.shape}, {needed[name]} needed")
    for name, array in there.items():
        kind = TYPES[name]
        if array.dtype.kind not in ("f" if np.issubdtype(kind, np.floating) else "iu"):
            raise TraceError(f"{source}: {name} holds {array.dtype}, {np.dtype(kind)} needed")


def to_type(source: str, name: str, values: Any, *, copy: bool = True) -> NDArray[Any]:
    """One of the arrays of TYPES in its type. Raises TraceError for values that the type cannot hold."""
    given, kind = np.asarray(values), TYPES[name]
    if given.dtype == kind and not copy:
        return given
    if given.dtype.kind not in "iuf":
        raise TraceError(f"{source}: {name} holds {given.dtype}, {np.dtype(kind)} needed")
    with np.errstate(invalid="ignore"):  # NaN as an integer; it differs from what was given
        taken = given.astype(kind)
    if name != "weights" and (wrong := given[taken != given]).size:
        raise TraceError(f"{source}: {name} holds {wrong[0]}, which is no {np.dtype(kind)}")
    return taken


def check_layers(source: str, layer_index: NDArray[Any], n_experts: int) -> None:
    """Raise TraceError for a layer that is named twice, or a number of experts that ids cannot have."""
    if np.unique(layer_index).size < layer_index.size:
        raise TraceError(f"{source}: layer_index names a layer twice: {layer_index.tolist()}")
    if not 1 <= n_experts <= MAX_EXPERTS:
        raise TraceError(f"{source}: n_experts is {n_experts}; 1 to {MAX_EXPERTS} needed")


def check_experts(
    source: str, experts: NDArray[Any], layer_index: NDArray[Any], n_experts: int, start: int = 0
) -> None:
    """Raise TraceError for an id out of range, or an expert twice in a token.

    Args:
        experts: integers [tokens, layers, k]. start: number of the first of these tokens.
    """
    for first in range(0, len(experts), CHECKED):  # a block at a time: a large trace may just fit into memory
        block = experts[first : first + CHECKED]
        wrong = np.argwhere((block < 0) | (block >= n_experts))
        if wrong.size:
            t, layer, _ = wrong[0]
            raise TraceError(
                f"{source}: expert id {int(block[tuple(wrong[0])])} of token {start + first + t}, layer "
                f"{int(layer_index[layer])} is out of range; the model has experts 0 to {n_experts - 1}"
            )
        ordered = np.sort(block, axis=2)
        twice = np.argwhere(ordered[:, :, 1:] == ordered[:, :, :-1])
        if twice.size:
            t, layer, i = twice[0]
            raise TraceError(
                f"{source}: token {start + first + t} chose expert {int(ordered[t, layer, i])} twice at layer "
                f"{int(layer_index[layer])}; the experts of a token must be distinct"
            )


def check_tokens(
    source: str, request: NDArray[Any], position: NDArray[Any], phase: NDArray[Any], start: int = 0
) -> None:
    """Raise TraceError for a request or position below -1 (unknown), or a phase that is none; integers [tokens]."""
    for name, values in (("request", request), ("position", position), ("phase", phase)):
        most, allowed = (1, "0 prefill, 1 decode") if name == "phase" else (2**31, "0 or more")
        wrong = np.flatnonzero((values < -1) | (values > most))
        if wrong.size:
            given = f"{name} of token {start + wrong[0]} is {values[wrong[0]]}"
            raise TraceError(f"{source}: {given}; {allowed}, -1 unknown are allowed")


def check_weights(source: str, weights: NDArray[Any], layer_index: NDArray[Any], start: int = 0) -> None:
    """Raise TraceError for a gate weight, of floats [tokens, layers, k], that is not finite or below 0."""
    for first in range(0, len(weights), CHECKED):
        block = weights[first : first + CHECKED]
        bad = np.argwhere(~(np.isfinite(block) & (block >= 0)))
        if bad.size:
            t, layer, _ = bad[0]
            raise TraceError(
                f"{source}: gate weight {float(block[tuple(bad[0])])} of token {start + first + t}, layer "
                f"{int(layer_index[layer])}; gate weights must be finite and not negative"
            )
