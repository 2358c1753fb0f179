"""What importers find in a file, and how it becomes a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.trace.checks import MAX_EXPERTS
from expertstream.trace.routing import RoutingTrace

MAX_CHOICES = 2**29  # (token, layer, expert) of one import: 1 GiB as int16
SPARSEST, MIN_CHOICES = 4, 10_000  # a table may have so many times the entries that a file names, or at least so many
NOTHING = -1  # stands for an expert where a token has none


@dataclass(frozen=True)
class Hints:
    """What the user says of the model; None: nothing.

    Attributes:
        n_experts, top_k: experts of a layer, and of a token. n_layers: all layers; moe_layers: those with experts.
    """

    name: str | None = None
    n_experts: int | None = None
    top_k: int | None = None
    n_layers: int | None = None
    moe_layers: tuple[int, ...] | None = None


@dataclass
class Found:
    """The choices of each token.

    Attributes:
        experts: integers [tokens, layers, k], NOTHING where a token has no choice; weights: floats of that shape.
        request, position, phase: integers [tokens], as in RoutingTrace.
        layers: numbers of the layers, None where the file counts them only.
        notes: what had to be assumed, for people.
    """

    experts: NDArray[Any]
    request: NDArray[Any]
    position: NDArray[Any]
    phase: NDArray[Any]
    layers: list[int] | None = None
    n_experts: int | None = None
    weights: NDArray[Any] | None = None
    notes: list[str] = field(default_factory=list)


def of_requests(requests: Sequence[tuple[NDArray[Any], int | None]]) -> Found:
    """Requests one after another, each [tokens, layers, k] and its number of prompt tokens, None where not known.

    Raises:
        TraceError: no requests, or requests of different layers or k.
    """
    requests = [(experts, prompt) for experts, prompt in requests if len(experts)]
    if not requests:
        raise TraceError("it holds no request with routed experts; was the server told to return them?")
    shapes = sorted({experts.shape[1:] for experts, _ in requests})
    if len(shapes) > 1:
        raise TraceError(f"its requests differ in [layers, k]: {', '.join(str(list(shape)) for shape in shapes)}")
    lengths = [len(experts) for experts, _ in requests]
    if sum(lengths) * int(np.prod(shapes[0])) > MAX_CHOICES:
        raise TraceError(f"it has more than {MAX_CHOICES} choices of experts; import it in parts")
    phases = [
        np.full(n, -1) if prompt is None else (np.arange(n) >= prompt).astype(np.int64)
        for n, (_, prompt) in zip(lengths, requests, strict=True)
    ]
    return Found(
        experts=requests[0][0] if len(requests) == 1 else np.concatenate([experts for experts, _ in requests]),
        request=np.repeat(np.arange(len(requests)), lengths),
        position=np.concatenate([np.arange(n) for n in lengths]),
        phase=np.concatenate(phases),
    )


def expert_ids(value: Any, dimensions: int, what: str) -> NDArray[np.int16]:
    """An array, or lists, of expert ids as int16.

    Raises:
        TraceError: it is ragged, has other dimensions, or something else than ids from NOTHING on.
    """
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise TraceError(f"{what} is no array: its lists differ in length") from None
    if array.ndim != dimensions or (array.size and array.dtype.kind not in "iu"):
        raise TraceError(
            f"{what} has shape {list(array.shape)} and type {array.dtype}; "
            f"{dimensions} dimensions of whole numbers are needed"
        )
    if array.size > MAX_CHOICES:
        raise TraceError(f"{what} has {array.size} entries; at most {MAX_CHOICES} are read: import it in parts")
    if array.size and not NOTHING <= int(array.min()) <= int(array.max()) < MAX_EXPERTS:
        raise TraceError(f"{what} holds ids from {array.min()} to {array.max()}; 0 to {MAX_EXPERTS - 1} are allowed")
    return array.astype(np.int16, copy=False)  # a large trace may just fit into memory


def as_trace(found: Found, hints: Hints, source: str) -> tuple[RoutingTrace, list[str]]:
    """The trace of what was found, and notes: what was left out or assumed.

    Layers that are dense, columns of k that are padding and tokens that were not recorded are left out.

    Raises:
        TraceError: it does not fit the hints, or nothing is left.
    """
    notes = list(found.notes)
    experts, keep_layers = found.experts, np.arange(found.experts.shape[1])
    used = (experts != NOTHING).any(axis=(0, 1))
    k = int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0
    if not k:
        raise TraceError("no token chose an expert")
    if hints.top_k is not None and k != hints.top_k:
        raise TraceError(f"its tokens choose {k} experts, but {hints.name or 'the model'} has k = {hints.top_k}")
    experts = experts[:, :, :k]
    missing = _missing(experts)
    numbers = _layer_numbers(found, hints)
    recorded: NDArray[np.bool_] = np.asarray(~missing.all(axis=0))
    if hints.moe_layers is not None:
        recorded &= np.isin(numbers, hints.moe_layers)
    if not recorded.all():
        notes.append(f"layers without experts are left out: {_list(numbers[~recorded])}")
    keep_layers, missing = keep_layers[recorded], missing[:, recorded]
    tokens: NDArray[np.bool_] = np.asarray(~missing.all(axis=1))  # False: rows that were never written
    short = missing[tokens]
    if short.any():  # keep the more choices: whole tokens of all layers, or whole layers of all tokens
        layers_kept, tokens_kept = np.asarray(~short.any(axis=0)), np.asarray(~short.any(axis=1))
        if layers_kept.sum() * len(short) > tokens_kept.sum() * short.shape[1]:
            notes.append(f"layers that lack tokens are left out: {_list(numbers[keep_layers[~layers_kept]])}")
            keep_layers = keep_layers[layers_kept]
        else:
            tokens[np.flatnonzero(tokens)[~tokens_kept]] = False
    if not tokens.any() or not keep_layers.size:
        raise TraceError("no token has its experts recorded at every layer")
    if not tokens.all():
        notes.append(f"{int((~tokens).sum())} tokens without recorded experts are left out")
    if not (tokens.all() and keep_layers.size == experts.shape[1]):
        experts = experts[np.ix_(tokens, keep_layers)]
    n_experts = hints.n_experts or found.n_experts
    if n_experts is None:
        n_experts = int(experts.max()) + 1
        notes.append(
            f"the file does not say how many experts a layer has: {n_experts} are taken, the largest id plus one "
            "(say it with --model or --experts)"
        )
    weights = found.weights
    trace = RoutingTrace(
        experts=experts,
        weights=None if weights is None else weights[:, :, :k][np.ix_(tokens, keep_layers)],
        request=found.request[tokens],
        position=found.position[tokens],
        phase=found.phase[tokens],
        layer_index=numbers[keep_layers].astype(np.int32),
        n_experts=n_experts,
        model=hints.name or "unknown",
        source=source,
    )
    return trace, notes


def _missing(experts: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a token has no whole choice, [tokens, layers]: an id is NOTHING, or all k are alike (never written)."""
    missing = (experts == NOTHING).any(axis=2)
    if experts.shape[2] > 1:
        missing |= (experts == experts[:, :, :1]).all(axis=2)
    return np.asarray(missing)


def _layer_numbers(found: Found, hints: Hints) -> NDArray[np.int64]:
    layers = found.experts.shape[1]
    if found.layers is not None:
        return np.array(found.layers, dtype=np.int64)
    if hints.moe_layers is None or layers == hints.n_layers:
        return np.arange(layers)
    if layers == len(hints.moe_layers):
        return np.array(hints.moe_layers, dtype=np.int64)
    raise TraceError(
        f"it has {layers} layers, but {hints.name} has {len(hints.moe_layers)} MoE layers of {hints.n_layers}"
    )


def _list(numbers: NDArray[np.int64]) -> str:
    return ", ".join(map(str, numbers.tolist()))
