"""Statistics of a trace: how skewed, how local, how predictable its routing is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.trace.prediction import NextLayer, recall
from expertstream.trace.routing import Mix, RoutingTrace, by_request

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_PAIRS = 4000  # sampled pairs of tokens for each Jaccard index
_WINDOWS = 16  # sampled iterations for each share of activated experts
BATCH = 64


@dataclass(frozen=True)
class TraceStatistics:
    """Means over the layers of a trace; NaN where the trace has too few tokens, layers or known requests.

    Attributes:
        gini: of the experts' popularity (0: all alike). zipf_exponent: maximum likelihood of
            p(rank) proportional to rank^-s. max_over_mean: of popularity.
        jaccard_consecutive, jaccard_same_request, jaccard_other_request: overlap of the expert sets of two tokens.
        activated_share_64_round_robin, activated_share_64_single_request: experts with a token among 64.
        next_layer_recall: share of the next layer's k experts among the k that went most often with this layer's
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
    popularity = np.stack([_counts(trace, layer) for layer in range(layers)])
    order = np.lexsort((np.arange(n), trace.position, trace.request))
    request = trace.request[order]
    follows = np.flatnonzero((request[1:] == request[:-1]) & (request[1:] >= 0))
    a, b = rng.integers(0, n, (2, 50 * _PAIRS))
    known = (trace.request[a] >= 0) & (trace.request[b] >= 0) & (a != b)
    same = known & (trace.request[a] == trace.request[b])
    other = known & (trace.request[a] != trace.request[b])
    recalls = [_recalls(trace, layer) for layer in range(layers - 1)] or [(float("nan"), float("nan"))]
    return TraceStatistics(
        tokens=n,
        layers=layers,
        requests=int(np.unique(trace.request[trace.request >= 0]).size),
        gini=float(np.mean([gini(p) for p in popularity])),
        zipf_exponent=float(np.mean([zipf_exponent(p) for p in popularity])),
        max_over_mean=float((popularity.max(axis=1) / popularity.mean(axis=1)).mean()),
        jaccard_consecutive=_jaccard(trace, order[follows], order[follows + 1], rng),
        jaccard_same_request=_jaccard(trace, a[same], b[same], rng),
        jaccard_other_request=_jaccard(trace, a[other], b[other], rng),
        activated_share_64_round_robin=activated_fraction(trace, BATCH, "round-robin"),
        activated_share_64_single_request=activated_fraction(trace, BATCH, "single-request"),
        next_layer_recall=float(np.mean([recall for recall, _ in recalls])),
        popularity_recall=float(np.mean([recall for _, recall in recalls])),
    )


def gini(counts: Floats) -> float:
    """Gini coefficient of counts [experts]: 0 when all are alike, near 1 when one has everything."""
    ordered = np.sort(counts)
    n = counts.size
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def zipf_exponent(counts: Floats) -> float:
    """Maximum-likelihood s of p(rank) proportional to rank^-s on the sorted counts [experts], from 0 to 20."""
    log_rank = np.log(np.arange(1, counts.size + 1))
    seen = float(np.sort(counts)[::-1] @ log_rank / counts.sum())
    low, high = 0.0, 20.0
    for _ in range(50):  # the expected log rank falls as s grows
        s = (low + high) / 2
        law = np.exp(-s * log_rank)
        low, high = (s, high) if law @ log_rank / law.sum() > seen else (low, s)
    return low


def _counts(trace: RoutingTrace, layer: int) -> Floats:
    return np.bincount(trace.experts[:, layer].reshape(-1), minlength=trace.n_experts).astype(np.float64)


def _jaccard(trace: RoutingTrace, a: Ints, b: Ints, rng: np.random.Generator) -> float:
    if a.size == 0:
        return float("nan")
    pick = rng.choice(a.size, min(a.size, _PAIRS), replace=False)
    x, y = trace.experts[a[pick]], trace.experts[b[pick]]
    common = (x[:, :, :, None] == y[:, :, None, :]).sum(axis=(2, 3))
    return float((common / (2 * trace.top_k - common)).mean())


def activated_fraction(trace: RoutingTrace, tokens: int, mix: Mix, *, most_windows: int = _WINDOWS) -> float:
    """Share of the experts that a forward pass of ``tokens`` tokens activates, mean over layers and windows.

    Args:
        mix: as of RoutingTrace.iteration; the windows follow one another without overlap.
        most_windows: at most so many, evenly spread.

    Returns:
        NaN where the trace (or, for single-request, every request of known number) is shorter.
    """
    shares = [
        float((np.stack([np.bincount(rows.reshape(-1), minlength=trace.n_experts) for rows in chosen]) > 0).mean())
        for chosen in iterations(trace, tokens, mix, most_windows=most_windows)
    ]
    return float(np.mean(shares)) if shares else float("nan")


def iterations(trace: RoutingTrace, tokens: int, mix: Mix, *, most_windows: int) -> Iterator[NDArray[np.int16]]:
    """Choices int16 [layers, tokens, k] of forward passes that follow one another, evenly spread, none if too short."""
    if mix == "round-robin":
        order = trace.tokens_of(trace.n_tokens, mix=mix)
        starts = np.arange(0, trace.n_tokens - tokens + 1, tokens)
    else:
        order = by_request(trace.request, trace.position)
        order = order[trace.request[order] >= 0]
        _, first, length = np.unique(trace.request[order], return_index=True, return_counts=True)
        runs = [np.arange(f, f + n - tokens + 1, tokens) for f, n in zip(first.tolist(), length.tolist(), strict=True)]
        starts = np.concatenate([np.arange(0), *runs])
    if not starts.size:
        return
    spread = np.unique(np.linspace(0, starts.size - 1, min(starts.size, most_windows)).astype(int))
    for start in starts[spread]:
        yield trace.experts[order[start : start + tokens]].transpose(1, 0, 2)


def _recalls(trace: RoutingTrace, layer: int) -> tuple[float, float]:
    half, k, e = trace.n_tokens // 2, trace.top_k, trace.n_experts
    if half == 0:
        return float("nan"), float("nan")
    here, there = trace.experts[:, layer].astype(np.int64), trace.experts[:, layer + 1].astype(np.int64)
    guess = NextLayer.fitted(here[:half], there[:half], e).guess(here[half:], k)
    popular = np.bincount(there[:half].reshape(-1), minlength=e)
    always = np.argsort(-popular, kind="stable")[:k]
    return recall(there[half:], guess), float(np.isin(there[half:], always).mean())
