"""Statistics of a trace: how skewed, how local, how predictable its routing is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from expertstream.trace.prediction import NextLayer, recall, tokens_of_experts
from expertstream.trace.routing import MIXES, Mix, RoutingTrace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PAIRS = 4000  # sampled pairs of tokens for each Jaccard index
_WINDOWS = 16  # sampled iterations for each share of activated experts
BATCH = 64
SAMPLE = 65536  # tokens; where a trace has more, joint choices are counted over so many
_SAMPLE_SEED = 0


@dataclass(frozen=True)
class TraceStatistics:
    """Means over the layers of a trace; NaN where the trace has too few tokens, layers or known requests.

    Attributes:
        gini: of the experts' popularity (0: all alike). zipf_exponent: maximum likelihood of
            p(rank) proportional to rank^-s. max_over_mean: of popularity.
        jaccard_consecutive, jaccard_same_request, jaccard_other_request: overlap of the expert sets of two tokens.
        activated_share_64_round_robin, activated_share_64_single_request: experts with a token among 64.
        next_layer_recall: share of the next layer's k experts among the k that went most often with this layer's
            (fitted on the first half of ``sample``, measured on the second); popularity_recall: by popularity alone.
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


def statistics(trace: RoutingTrace, seed: int = 0, *, counts: Floats | None = None) -> TraceStatistics:
    """Measure a trace; ``seed`` picks the sampled pairs of tokens. ``counts``: ``counts_of(trace)``, if it is known."""
    layers = trace.layer_index.size
    popularity = counts_of(trace) if counts is None else counts
    consecutive, same, other = (_jaccard(trace, a, b) for a, b in _pairs(trace, seed))
    few = sample(trace)
    recalls = [_recalls(few, layer) for layer in range(layers - 1)] or [(float("nan"), float("nan"))]
    return TraceStatistics(
        tokens=trace.n_tokens,
        layers=layers,
        requests=int(np.unique(trace.request[trace.request >= 0]).size),
        gini=float(np.mean([gini(p) for p in popularity])),
        zipf_exponent=float(np.mean([zipf_exponent(p) for p in popularity])),
        max_over_mean=float((popularity.max(axis=1) / popularity.mean(axis=1)).mean()),
        jaccard_consecutive=consecutive,
        jaccard_same_request=same,
        jaccard_other_request=other,
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


def counts_of(trace: RoutingTrace, report: Callable[[int, int, str], None] | None = None) -> Floats:
    """Tokens of each expert at each layer, float64 [layers, E]; ``report``: told (done, total, what) at each layer."""
    found = []
    for at, number in enumerate(trace.layer_index.tolist()):
        if report is not None:
            report(at, trace.layer_index.size, f"layer {number}")
        if trace.weights is not None:
            trace.weights[:, at]  # of a trace in a file: reads, and so checks them
        found.append(tokens_of_experts(trace.experts[:, at], trace.n_experts))
    return np.stack(found).astype(np.float64)


def sample(trace: RoutingTrace) -> RoutingTrace:
    """SAMPLE tokens of a trace, always the same, in its order, without gate weights; all of one that has no more."""
    if trace.n_tokens <= SAMPLE and isinstance(trace.experts, np.ndarray):
        return trace
    pick = _sampled(trace)
    per_token = {name: getattr(trace, name)[pick] for name in ("experts", "request", "position", "phase")}
    return replace(trace, weights=None, **per_token)


def looked_at(trace: RoutingTrace, seed: int = 0) -> list[Ints]:
    """Tokens whose choices ``statistics`` looks at one by one, for ``RoutingTrace.note``."""
    shares = [window for mix in MIXES for window in windows(trace, BATCH, mix, most_windows=_WINDOWS)]
    return [_sampled(trace), *shares, *(tokens for pair in _pairs(trace, seed) for tokens in pair)]


def _sampled(trace: RoutingTrace) -> Ints:
    n, rng = trace.n_tokens, np.random.default_rng(_SAMPLE_SEED)
    return np.arange(n) if n <= SAMPLE else np.sort(rng.choice(n, SAMPLE, replace=False))


def _pairs(trace: RoutingTrace, seed: int) -> list[tuple[Ints, Ints]]:
    """Sampled pairs of tokens: consecutive ones of a request, others of one request, of two requests."""
    rng = np.random.default_rng(seed)
    order, request = trace.request_order, trace.request
    a, b = rng.integers(0, trace.n_tokens, (2, 50 * PAIRS))
    known = (request[a] >= 0) & (request[b] >= 0) & (a != b)
    same, other = known & (request[a] == request[b]), known & (request[a] != request[b])
    ordered = request[order]
    follows = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0))
    some = [_picked(rng, follows)]
    some += [_picked(rng, np.flatnonzero(which)) for which in (same, other)]
    return [(order[some[0]], order[some[0] + 1]), *((a[which], b[which]) for which in some[1:])]


def _picked(rng: np.random.Generator, pairs: Ints) -> Ints:
    return pairs[rng.choice(pairs.size, min(pairs.size, PAIRS), replace=False)] if pairs.size else pairs


def _jaccard(trace: RoutingTrace, a: Ints, b: Ints) -> float:
    if a.size == 0:
        return float("nan")
    x, y = trace.experts[a], trace.experts[b]
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
    spread = windows(trace, tokens, mix, most_windows=most_windows)
    chosen = trace.experts[np.concatenate([np.arange(0), *spread])]
    for first in range(0, len(chosen), tokens):
        yield chosen[first : first + tokens].transpose(1, 0, 2)


def windows(trace: RoutingTrace, tokens: int, mix: Mix, *, most_windows: int) -> list[Ints]:
    """Tokens of forward passes that follow one another, evenly spread, each int64 [tokens]; none if too short."""
    order: NDArray[np.integer]
    if mix == "round-robin":
        order = trace.tokens_of(trace.n_tokens, mix=mix)
        starts = np.arange(0, trace.n_tokens - tokens + 1, tokens)
    else:
        order = trace.request_order
        order = order[trace.request[order] >= 0]
        _, first, length = np.unique(trace.request[order], return_index=True, return_counts=True)
        runs = [np.arange(f, f + n - tokens + 1, tokens) for f, n in zip(first.tolist(), length.tolist(), strict=True)]
        starts = np.concatenate([np.arange(0), *runs])
    if not starts.size:
        return []
    spread = np.unique(np.linspace(0, starts.size - 1, min(starts.size, most_windows)).astype(int))
    return [order[start : start + tokens].astype(np.int64) for start in starts[spread].tolist()]  # copies: few of many


def _recalls(trace: RoutingTrace, layer: int) -> tuple[float, float]:
    half, k, e = trace.n_tokens // 2, trace.top_k, trace.n_experts
    if half == 0:
        return float("nan"), float("nan")
    here, there = trace.experts[:, layer].astype(np.int64), trace.experts[:, layer + 1].astype(np.int64)
    guess = NextLayer.fitted(here[:half], there[:half], e).guess(here[half:], k)
    popular = np.bincount(there[:half].reshape(-1), minlength=e)
    always = np.argsort(-popular, kind="stable")[:k]
    return recall(there[half:], guess), float(np.isin(there[half:], always).mean())
