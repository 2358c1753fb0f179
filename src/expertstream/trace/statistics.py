"""Statistics of a trace: how skewed, how local, how predictable its routing is."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.trace.routing import RoutingTrace

Floats = NDArray[np.float64]
_PAIRS = 4000  # sampled pairs per layer for the Jaccard indices


@dataclass(frozen=True)
class TraceStatistics:
    """Means over the layers of a trace.

    Attributes:
        gini: of the experts' popularity (0: all alike). zipf_exponent: least-squares slope of log popularity over log
            rank. max_over_mean: of popularity.
        jaccard_consecutive, jaccard_same_request, jaccard_other_request: overlap of the expert sets of two tokens;
            NaN where the trace has no such pairs.
        activated_share_64_round_robin, activated_share_64_single_request: experts with a token among 64; NaN for
            traces of fewer tokens.
        next_layer_recall: share of the next layer's k experts among the k most frequent partners of this layer's
            (fitted on the first half of the tokens, measured on the second); popularity_recall: by popularity alone.
    """

    tokens: int
    layers: int
    requests: int
    gini: float
    zipf_exponent: float
    max_over_mean: float
    jaccard_consecutive: float
    jaccard_same_request: float
    jaccard_other_request: float
    activated_share_64_round_robin: float
    activated_share_64_single_request: float
    next_layer_recall: float
    popularity_recall: float

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types."""
        return asdict(self)


def statistics(trace: RoutingTrace, seed: int = 0) -> TraceStatistics:
    """Measure a trace; ``seed`` picks the sampled pairs of tokens."""
    rng = np.random.default_rng(seed)
    n, layers, _ = trace.experts.shape
    popularity = np.stack([_counts(trace, i) for i in range(layers)])
    order = np.lexsort((trace.position, trace.request))
    request = trace.request[order]
    follows = np.flatnonzero((request[1:] == request[:-1]) & (request[1:] >= 0))
    consecutive = order[follows], order[follows + 1]
    a, b = rng.integers(0, n, (2, 50 * _PAIRS))
    known = (trace.request[a] >= 0) & (trace.request[b] >= 0) & (a != b)
    same = known & (trace.request[a] == trace.request[b])
    other = known & (trace.request[a] != trace.request[b])
    recalls = [_recalls(trace, i) for i in range(layers - 1)]
    return TraceStatistics(
        tokens=n,
        layers=layers,
        requests=int(np.unique(trace.request).size),
        gini=float(np.mean([_gini(p) for p in popularity])),
        zipf_exponent=float(np.mean([_zipf(p) for p in popularity])),
        max_over_mean=float((popularity.max(axis=1) / popularity.mean(axis=1)).mean()),
        jaccard_consecutive=_jaccard(trace, *consecutive, rng),
        jaccard_same_request=_jaccard(trace, a[same], b[same], rng),
        jaccard_other_request=_jaccard(trace, a[other], b[other], rng),
        activated_share_64_round_robin=_activated(trace, "round-robin"),
        activated_share_64_single_request=_activated(trace, "single-request"),
        next_layer_recall=float(np.mean([r[0] for r in recalls])) if recalls else float("nan"),
        popularity_recall=float(np.mean([r[1] for r in recalls])) if recalls else float("nan"),
    )


def _counts(trace: RoutingTrace, layer: int) -> Floats:
    return np.bincount(trace.experts[:, layer].reshape(-1), minlength=trace.n_experts).astype(np.float64)


def _gini(counts: Floats) -> float:
    ordered = np.sort(counts)
    n = counts.size
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def _zipf(counts: Floats) -> float:
    ordered = np.sort(counts[counts > 0])[::-1]
    if ordered.size < 2:
        return float("nan")
    return float(-np.polyfit(np.log(np.arange(1, ordered.size + 1)), np.log(ordered), 1)[0])


def _jaccard(trace: RoutingTrace, a: NDArray[np.int64], b: NDArray[np.int64], rng: np.random.Generator) -> float:
    if a.size == 0:
        return float("nan")
    pick = rng.choice(a.size, min(a.size, _PAIRS), replace=False)
    x, y = trace.experts[a[pick]], trace.experts[b[pick]]
    common = (x[:, :, :, None] == y[:, :, None, :]).sum(axis=(2, 3))
    return float((common / (2 * trace.top_k - common)).mean())


def _activated(trace: RoutingTrace, mix: str) -> float:
    if trace.n_tokens < 64:
        return float("nan")
    shares = []
    for layer in trace.layer_index.tolist():
        for offset in range(0, min(trace.n_tokens - 63, 640), 64):
            counts = trace.iteration(64, layer, mix=mix, offset=offset).counts  # type: ignore[arg-type]
            shares.append((counts > 0).mean())
    return float(np.mean(shares))


def _recalls(trace: RoutingTrace, layer: int) -> tuple[float, float]:
    half, k, e = trace.n_tokens // 2, trace.top_k, trace.n_experts
    if half == 0:
        return float("nan"), float("nan")
    here, there = trace.experts[:, layer].astype(np.int64), trace.experts[:, layer + 1].astype(np.int64)
    pair = here[:half, :, None] * e + there[:half, None, :]
    together = np.bincount(pair.reshape(-1), minlength=e * e).reshape(e, e).astype(np.float64)
    popular = np.bincount(there[:half].reshape(-1), minlength=e)
    share = together / np.maximum(together.sum(axis=1, keepdims=True), 1)
    score = share[here[half:]].sum(axis=1)
    guess = np.argsort(-score, axis=1, kind="stable")[:, :k]
    always = np.argsort(-popular, kind="stable")[:k]
    hit = (guess[:, :, None] == there[half:, None, :]).any(axis=1).mean()
    return float(hit), float(np.isin(there[half:], always).mean())
