"""Counts: how often each expert of each layer was chosen. A popularity, and no more.

Counts say nothing of which experts a token chooses together, of requests, or of what follows a layer. A trace drawn
from them has the right popularity and independent tokens: it is labelled SYNTHETIC, its tokens belong to no request,
and what a single request activates cannot be learnt from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.trace.checks import MAX_EXPERTS
from expertstream.trace.importers.found import MAX_CHOICES, Hints
from expertstream.trace.routing import RoutingTrace

BLOCK = 4096  # tokens drawn at once
TOKENS = 8192


@dataclass
class Counts:
    """Counts [layers, experts], float64; ``tokens`` and ``top_k`` where known, ``layers`` their numbers."""

    counts: NDArray[np.float64]
    layers: list[int] | None = None
    top_k: int | None = None
    tokens: int | None = None
    notes: list[str] = field(default_factory=list)


def count_matrix(value: Any, what: str) -> NDArray[np.float64]:
    """Counts [layers, experts] of an array or lists of two dimensions, or of three, of which the first is summed.

    Raises:
        TraceError: another shape, something else than finite numbers from 0 on, or a layer without any.
    """
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise TraceError(f"{what} is no matrix: its rows differ in length") from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "iuf" or 0 in array.shape:
        raise TraceError(
            f"{what} has shape {list(array.shape)} and type {array.dtype}; numbers [layers, experts] are needed"
        )
    if array.size > MAX_CHOICES or array.shape[-1] > MAX_EXPERTS:
        raise TraceError(f"{what} has shape {list(array.shape)}, which is too large")
    if array.ndim == 3:
        array = array.sum(axis=0, dtype=np.float64)
    counts = array.astype(np.float64)
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise TraceError(f"{what} has a number that is negative or not finite; counts are needed")
    if not counts.any():
        raise TraceError(f"{what} is zero everywhere")
    return counts


def draw(counts: Counts, hints: Hints, source: str, tokens: int | None, seed: int) -> tuple[RoutingTrace, list[str]]:
    """Draw a SYNTHETIC trace: every token independently, each expert with the share of tokens that the counts give it.

    The k distinct experts of a token are drawn by systematic sampling in random order (W. G. Madow, 1949), which meets
    the shares exactly. An expert with a share above one, which no routing can give, is chosen by every token.

    Raises:
        TraceError: k is not known, or not below the number of experts that are ever chosen.
    """
    k = hints.top_k or counts.top_k
    if k is None:
        raise TraceError("counts do not say how many experts a token chooses; give --model or --top-k")
    notes = list(counts.notes)
    used: NDArray[np.bool_] = np.asarray(counts.counts.any(axis=1))
    numbers = np.array(counts.layers if counts.layers is not None else range(len(used)), dtype=np.int64)
    if counts.layers is None and hints.moe_layers is not None and len(hints.moe_layers) == len(used):
        numbers = np.array(hints.moe_layers, dtype=np.int64)
    if not used.all():
        notes.append(f"layers without counts are left out: {', '.join(map(str, numbers[~used].tolist()))}")
    n = tokens or TOKENS
    table = counts.counts[used]
    if n * len(table) * k > MAX_CHOICES:
        raise TraceError(f"{n} tokens of {len(table)} layers and k = {k} are more than {MAX_CHOICES} choices")
    rng = np.random.default_rng([seed, n, k])
    experts = np.empty((n, len(table), k), dtype=np.int16)
    for at, row in enumerate(table):
        shares, cut = _shares(row, k, int(numbers[used][at]))
        if cut:
            notes.append(f"layer {int(numbers[used][at])}: {cut} experts have more than a whole share of the tokens")
        for first in range(0, n, BLOCK):
            experts[first : first + BLOCK, at] = _systematic(shares, k, min(BLOCK, n - first), rng)
    unknown = np.full(n, -1)
    trace = RoutingTrace(
        experts=experts,
        weights=None,
        request=unknown,
        position=unknown,
        phase=unknown,
        layer_index=numbers[used].astype(np.int32),
        n_experts=hints.n_experts or table.shape[1],
        model=hints.name or "unknown",
        source=f"synthetic routing from the popularity in {source}, seed {seed}",
        synthetic=True,
    )
    notes.append("tokens are drawn independently: popularity is that of the counts, locality is none")
    return trace, notes


def _shares(counts: NDArray[np.float64], k: int, layer: int) -> tuple[NDArray[np.float64], int]:
    """Probability of each expert to be among a token's k, sum k; and how many had to be cut to one."""
    if int((counts > 0).sum()) < k:
        raise TraceError(f"layer {layer} has {int((counts > 0).sum())} experts with counts, fewer than k = {k}")
    shares = k * (counts / counts.max()) / (counts / counts.max()).sum()
    full = np.zeros(counts.size, dtype=bool)
    while (over := (shares > 1 + 1e-12) & ~full).any():
        full |= over
        rest = np.where(full, 0.0, counts / counts.max())
        shares = np.where(full, 1.0, (k - full.sum()) * rest / max(rest.sum(), 1e-300))
    return np.minimum(shares, 1.0), int(full.sum())


def _systematic(shares: NDArray[np.float64], k: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Experts [n, k], distinct in each row: those where the running sum of the shares passes u, u + 1, and so on."""
    order = rng.permuted(np.tile(np.arange(shares.size), (n, 1)), axis=1)
    total = np.cumsum(shares[order], axis=1)
    total *= k / total[:, -1:]
    steps = np.floor(total - rng.random((n, 1)) + 1.0).astype(np.int64)  # how many thresholds have been passed
    passed = np.diff(steps, axis=1, prepend=0) > 0
    passed[passed.sum(axis=1) != k] = False
    bad = np.flatnonzero(~passed.any(axis=1))
    for row in bad:  # a threshold met by rounding: take the largest shares first
        passed[row, np.argsort(-shares[order[row]], kind="stable")[:k]] = True
    return order[passed].reshape(n, k)
