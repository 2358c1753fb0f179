"""Fit a Calibration to a trace by matching moments: simulated frequencies are brought to the measured ones.

Per layer: how often each expert is chosen, how often two are chosen together by one token, by two distant tokens
of a request, by a token at this layer and the layer before; and how fast the overlap of expert sets fades with
distance. A frequency p of a pair moves a latent correlation by (measured - simulated) / (phi(h_i) phi(h_j)), the
slope of the bivariate normal orthant probability at zero correlation, damped by the sampling error of p.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import ndtri

from expertstream.errors import TraceError
from expertstream.trace.calibration import MEMORIES, Calibration, LayerCalibration, chosen, fading
from expertstream.trace.routing import RoutingTrace, by_request

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LAGS = (1, 2, 4, 8, 16, 32)
FAR = 32  # tokens between two that share only what their request keeps
MAX_TOKENS = 65536  # whole requests up to about this many tokens are looked at
LEAST_TOKENS, LEAST_REQUESTS_TO_SPLIT, LEAST_PAIRS = 64, 8, 200
WINDOWS = (64, 256)  # tokens of one request whose activated experts are matched
LEAST_WINDOWS = 8
_SAMPLES, _ROUNDS, _PARTNERS, _REQUESTS = 8192, 8, 4, 40
_GRID = np.linspace(0, 1, 11)
_DESIGN = 3.0  # tokens of a capture are not independent: this many count as one
_KEPT_AT_MOST = 0.95  # share of the variance of any direction that a request may keep
_STRONGEST_DEPTH = 0.98


@dataclass(frozen=True)
class _Tokens:
    """Tokens sorted by request and position; ``starts`` and ``lengths`` of the requests, ``of`` request of each."""

    experts: NDArray[np.int16]
    of: Ints
    starts: Ints
    lengths: Ints


def calibrate(
    trace: RoutingTrace, *, seed: int = 0, report: Callable[[int, int, str], None] | None = None
) -> Calibration:
    """Fit a Calibration to the tokens of known request.

    Args:
        trace: a capture, with at least 64 tokens of known request.
        seed: of the simulations that the fit makes; the same seed, the same fit.
        report: told (done, total, what) after each layer.

    Raises:
        TraceError: fewer than 64 tokens of known request, or a k of all experts.
    """
    tokens = _tokens(trace)
    e, k = trace.n_experts, trace.top_k
    n = len(tokens.of)
    if n < LEAST_TOKENS:
        raise TraceError(
            f"{trace.source}: {n} tokens of known request; calibration needs at least {LEAST_TOKENS} "
            "(a trace without request numbers says nothing of a request's locality)"
        )
    if k == e:
        raise TraceError(f"{trace.source}: every token chooses all {e} experts; there is nothing to calibrate")
    rng = np.random.default_rng([seed, n, e])
    far = _far_pairs(tokens, rng)
    lagged = [(lag, np.flatnonzero(tokens.of[lag:] == tokens.of[:-lag])) for lag in LAGS if lag < n]
    layers: list[LayerCalibration] = []
    before: Floats | None = None
    for at, number in enumerate(trace.layer_index.tolist()):
        hot = _indicators(tokens.experts[:, at], e)
        layer = _fit_layer(hot, k, tokens, far, lagged, rng)
        if before is not None:
            layer = _with_depth(layer, layers[-1], hot, before, k, rng)
        layers.append(_with_gates(layer, trace, at, rng))
        before = hot
        if report is not None:
            report(at + 1, trace.layer_index.size, f"layer {number}")
    notes = (
        ()
        if len(tokens.starts) >= LEAST_REQUESTS_TO_SPLIT
        else (f"only {len(tokens.starts)} requests: what a request keeps has the covariance of all choices",)
    )
    return Calibration(
        layers=tuple(layers),
        layer_index=tuple(trace.layer_index.tolist()),
        n_experts=e,
        top_k=k,
        model=trace.model,
        source=trace.source,
        has_weights=trace.weights is not None,
        notes=notes,
    )


def _tokens(trace: RoutingTrace) -> _Tokens:
    order = by_request(trace.request, trace.position)
    order = order[trace.request[order] >= 0]
    _, starts, lengths = np.unique(trace.request[order], return_index=True, return_counts=True)
    if order.size > MAX_TOKENS:  # whole requests, evenly spread
        step = -(-order.size // MAX_TOKENS)
        keep = np.isin(np.repeat(np.arange(starts.size), lengths), np.arange(0, starts.size, step))
        order = order[keep]
        _, starts, lengths = np.unique(trace.request[order], return_index=True, return_counts=True)
    of = np.repeat(np.arange(starts.size), lengths)
    return _Tokens(trace.experts[order], of, starts.astype(np.int64), lengths.astype(np.int64))


def _far_pairs(tokens: _Tokens, rng: np.random.Generator) -> Ints:
    """For each token some of its request at least FAR (or half the request) away, int64 [_PARTNERS, tokens]."""
    length, start = tokens.lengths[tokens.of], tokens.starts[tokens.of]
    place = np.arange(len(tokens.of)) - start
    gap = np.minimum(FAR, length // 2)
    reach = np.maximum(length - 2 * gap, 1)
    return np.stack(
        [start + (place + gap + rng.integers(0, 2**40, len(place)) % reach) % length for _ in range(_PARTNERS)]
    ).astype(np.int64)


def _fit_layer(
    hot: Floats, k: int, tokens: _Tokens, far: Ints, lagged: list[tuple[int, Ints]], rng: np.random.Generator
) -> LayerCalibration:
    n, e = hot.shape
    frequency = _frequency(hot, tokens)
    slope = _slope(frequency, frequency)
    together = hot.T @ hot / n
    apart = _apart(hot, far)
    damp = _damping(together, frequency, frequency, n)
    damp_far = slope**2 / (slope**2 + np.outer(frequency, frequency) / len(tokens.starts))
    all_, kept, mean = np.eye(e), 0.1 * np.eye(e), ndtri(frequency)
    for turn in range(_ROUNDS):
        step = 0.6 if turn < _ROUNDS // 2 else 0.3
        request, token = root(kept), root(all_ - kept)
        own = rng.standard_normal((_SAMPLES, e)) @ request
        a, b = (_choose(mean + own + rng.standard_normal((_SAMPLES, e)) @ token, k) for _ in range(2))
        mean = _corrected(mean, frequency, (a.mean(axis=0) + b.mean(axis=0)) / 2)
        simulated, simulated_far = (a.T @ a + b.T @ b) / (2 * _SAMPLES), (a.T @ b + b.T @ a) / (2 * _SAMPLES)
        change = np.clip((together - simulated) / slope * damp, -0.5, 0.5) * step
        np.fill_diagonal(change, 0)
        all_ = _correlation(all_ + change)
        kept = _within(kept + np.clip((apart - simulated_far) / slope * damp_far, -0.5, 0.5) * step, all_)
    trust = _reliability(hot, far, tokens)
    shape = trust * kept / max(float(np.diag(kept).mean()), 1e-9) + (1 - trust) * all_
    sample = _Sample(rng, e, k)
    goal = float((hot[far[0]] * hot).sum() / n)
    share = _inverse([sample.overlap(mean, *_parts(share, shape, all_), 0.0) for share in _GRID], goal)
    unions = [(window, found) for window in WINDOWS if (found := _union(hot, tokens, window)) is not None]
    shares = np.eye(len(MEMORIES))[0]
    for _ in range(2):
        request, token = _parts(share, shape, all_)
        for _ in range(_ROUNDS):
            mean = _corrected(mean, frequency, sample.choices(mean, request, token).mean(axis=0))
        curve = [sample.overlap(mean, request, token, fade) for fade in _GRID]
        shares = _shares(
            [
                (lag, at.size, _inverse(curve, float((hot[at] * hot[at + lag]).sum() / max(at.size, 1))))
                for lag, at in lagged
            ]
        )
        if not unions:
            break
        fine = np.linspace(0, 1, 101)
        miss = np.zeros_like(fine)
        draws = [sample.window_choices(mean, *_parts(share, shape, all_), shares) for share in _GRID]
        for window, measured in unions:
            miss += (np.interp(fine, _GRID, [_activated(drawn, window) for drawn in draws]) - measured) ** 2
        share = float(fine[miss.argmin()])
    request, token = _parts(share, shape, all_)
    for _ in range(_ROUNDS):
        mean = _corrected(mean, frequency, sample.choices(mean, request, token).mean(axis=0))
    return LayerCalibration(mean - mean.mean(), request, token, shares, np.zeros((e, e)), np.eye(e), 1.0, 1.0)


class _Sample:
    """Fixed random numbers for curves that must rise smoothly: pairs of tokens, and windows of one request."""

    def __init__(self, rng: np.random.Generator, e: int, k: int) -> None:
        self.own, self.first, self.second = rng.standard_normal((3, _SAMPLES // 2, e))
        lengths = [WINDOWS[-1]] * _REQUESTS
        self.tokens = [fading([rng] * _REQUESTS, lengths, e, memory) for memory in MEMORIES]
        self.k = k

    def choices(self, mean: Floats, request: Floats, token: Floats) -> Floats:
        return _choose(mean + self.own @ request + self.first @ token, self.k)

    def overlap(self, mean: Floats, request: Floats, token: Floats, fade: float) -> float:
        """Experts that two tokens of a request share whose fading parts have correlation ``fade``."""
        own, first = mean + self.own @ request, self.first @ token
        second = fade * first + np.sqrt(1 - fade**2) * (self.second @ token)
        return float((_choose(own + first, self.k) * _choose(own + second, self.k)).sum() / len(own))

    def window_choices(self, mean: Floats, request: Floats, token: Floats, shares: Floats) -> Floats:
        """Choices of _REQUESTS requests of the longest window's tokens."""
        own = mean + self.own[:_REQUESTS] @ request
        mixed = sum(np.sqrt(share) * part for share, part in zip(shares, self.tokens, strict=True)) @ token
        return _choose(np.repeat(own, WINDOWS[-1], axis=0) + mixed, self.k)


def _activated(hot: Floats, window: int) -> float:
    """Experts that ``window`` consecutive tokens activate on average; hot [tokens, E], window after window."""
    return float(hot.reshape(-1, window, hot.shape[1]).any(axis=1).sum(axis=1).mean())


def _parts(share: float, shape: Floats, whole: Floats) -> tuple[Floats, Floats]:
    """Roots of the covariances that a request keeps, ``share`` times ``shape``, and that fades."""
    kept = _within(share * shape, whole)
    return root(kept), root(whole - kept)


def _union(hot: Floats, tokens: _Tokens, window: int) -> float | None:
    """Experts that a window of one request activates on average; None where too few requests are that long."""
    starts = [
        np.arange(start, start + length - window + 1, window)
        for start, length in zip(tokens.starts.tolist(), tokens.lengths.tolist(), strict=True)
    ]
    first = np.concatenate(starts)
    if first.size < LEAST_WINDOWS:
        return None
    return _activated(hot[(first[:, None] + np.arange(window)).reshape(-1)], window)


def _shares(fades: list[tuple[int, int, float]]) -> Floats:
    """Mixture of AR(1) processes whose correlation at each lag is nearest to the one found; weights sum to 1."""
    memory = np.array(MEMORIES)
    rows, goal = [1e3 * np.ones(memory.size)], [1e3]
    for lag, pairs, fade in fades:
        if pairs >= LEAST_PAIRS:
            weight = np.sqrt(min(pairs, 5000) / 5000)
            rows.append(weight * memory**lag)
            goal.append(weight * fade)
    shares, _ = nnls(np.array(rows), np.array(goal))
    shares[shares < 1e-3] = 0
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _with_depth(
    layer: LayerCalibration, before: LayerCalibration, hot: Floats, hot_before: Floats, k: int, rng: np.random.Generator
) -> LayerCalibration:
    n, e = hot.shape
    here, there = (hot.sum(axis=0) + 0.5) / (n + 1), (hot_before.sum(axis=0) + 0.5) / (n + 1)
    slope = _slope(here, there)
    measured = hot.T @ hot_before / n
    damp = _damping(measured, here, there, n)
    white = _inverse_root(layer.request_root @ layer.request_root + layer.token_root @ layer.token_root)
    white_before = _inverse_root(before.request_root @ before.request_root + before.token_root @ before.token_root)
    depth, rest = np.zeros((e, e)), np.eye(e)
    for turn in range(_ROUNDS):
        own, token = rng.standard_normal((2, _SAMPLES, e))
        first = before.popularity + own @ before.request_root + token @ before.token_root
        own = own @ depth.T + rng.standard_normal((_SAMPLES, e)) @ rest
        token = token @ depth.T + rng.standard_normal((_SAMPLES, e)) @ rest
        second = layer.popularity + own @ layer.request_root + token @ layer.token_root
        simulated = _choose(second, k).T @ _choose(first, k) / _SAMPLES
        change = np.clip((measured - simulated) / slope * damp, -0.5, 0.5) * (0.6 if turn < _ROUNDS // 2 else 0.3)
        u, size, v = np.linalg.svd(depth + white @ change @ white_before)
        depth = (u * np.minimum(size, _STRONGEST_DEPTH)) @ v
        rest = root(np.eye(e) - depth @ depth.T)
    return replace(layer, depth=depth, rest=rest)


def _with_gates(layer: LayerCalibration, trace: RoutingTrace, at: int, rng: np.random.Generator) -> LayerCalibration:
    """Scale and sum of the gate weights: the mean share of the largest one and the mean sum are those captured."""
    if trace.weights is None:
        return layer
    weights = trace.weights[:: max(1, trace.n_tokens // _SAMPLES), at].astype(np.float64)
    total = weights.sum(axis=1)
    goal = float((weights.max(axis=1)[total > 0] / total[total > 0]).mean()) if (total > 0).any() else 1.0
    e, k = layer.popularity.size, trace.top_k
    own, token = rng.standard_normal((2, _SAMPLES // 2, e))
    score = layer.popularity + own @ layer.request_root + token @ layer.token_root
    best = np.take_along_axis(score, chosen(score, k), axis=1)
    low, high = 0.0, 50.0
    for _ in range(30):
        middle = (low + high) / 2
        share = 1 / np.exp(middle * (best - best[:, :1])).sum(axis=1)
        low, high = (middle, high) if share.mean() < goal else (low, middle)
    return replace(layer, gate_scale=round(low, 6), gate_sum=float(total.mean()))


def _apart(hot: Floats, far: Ints) -> Floats:
    """How often i and j are chosen by two distant tokens of a request, [E, E] symmetric."""
    found = np.asarray(sum(hot.T @ hot[partner] for partner in far) / (len(far) * len(hot)))
    return np.asarray((found + found.T) / 2)


def _reliability(hot: Floats, far: Ints, tokens: _Tokens) -> float:
    """How far the covariance that requests keep can be trusted, 0 to 1: Spearman-Brown of two halves of them."""
    if len(tokens.starts) < LEAST_REQUESTS_TO_SPLIT:
        return 0.0
    halves = []
    for half in (0, 1):
        some = tokens.of % 2 == half
        mean = hot[some].mean(axis=0)
        found = sum(hot[some].T @ hot[partner[some]] for partner in far) / (len(far) * some.sum())
        halves.append((found - np.outer(mean, mean))[np.triu_indices(hot.shape[1])])
    r = float(np.corrcoef(halves)[0, 1])
    return max(0.0, 2 * r / (1 + r)) if np.isfinite(r) and r > 0 else 0.0


def _frequency(hot: Floats, tokens: _Tokens) -> Floats:
    """How often each expert is chosen, [E]; drawn to the mean by the share of its variance that is sampling error.

    The error is that of a ratio over clusters, the clusters being the requests (W. G. Cochran, Sampling Techniques).
    """
    counts = np.add.reduceat(hot, tokens.starts)
    mean = hot.mean(axis=0)
    residual = counts - tokens.lengths[:, None] * mean
    clusters = len(tokens.starts)
    error = (residual**2).sum(axis=0) / len(hot) ** 2 * clusters / max(clusters - 1, 1)
    spread = max(float(mean.var() - error.mean()), 1e-12)
    drawn = mean.mean() + np.sqrt(spread / (spread + error)) * (mean - mean.mean())
    return np.asarray((drawn * len(hot) + mean.mean()) / (len(hot) + 1))


def _damping(measured: Floats, p: Floats, q: Floats, n: int) -> Floats:
    """Share of each pair's excess over independence that is not sampling error, [E, E]."""
    independent = np.outer(p, q)
    excess = (measured - independent) ** 2
    return np.asarray(excess / (excess + independent * _DESIGN / n))


def _indicators(experts: NDArray[np.int16], e: int) -> Floats:
    hot = np.zeros((len(experts), e))
    np.put_along_axis(hot, experts.astype(np.int64), 1.0, axis=1)
    return hot


def _choose(score: Floats, k: int) -> Floats:
    """1.0 for the k largest of each row of score [tokens, E], else 0.0; faster than naming them."""
    e = score.shape[1]
    return (score >= np.partition(score, e - k, axis=1)[:, e - k : e - k + 1]).astype(np.float64)


def _corrected(mean: Floats, measured: Floats, simulated: Floats) -> Floats:
    least = 0.5 / _SAMPLES
    step = ndtri(np.clip(measured, least, 1 - least)) - ndtri(np.clip(simulated, least, 1 - least))
    return np.asarray(mean + 0.8 * step)


def _slope(p: Floats, q: Floats) -> Floats:
    density = [np.exp(-(ndtri(np.clip(x, 2e-3, 1 - 2e-3)) ** 2) / 2) / np.sqrt(2 * np.pi) for x in (p, q)]
    return np.outer(*density)


def _inverse(curve: list[float], goal: float) -> float:
    """Where on the grid from 0 to 1 a rising curve reaches ``goal``."""
    return float(np.interp(goal, np.maximum.accumulate(curve), _GRID))


def root(matrix: Floats) -> Floats:
    """Symmetric square root of the nearest positive semidefinite matrix, [E, E]."""
    value, vector = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vector * np.sqrt(np.maximum(value, 0))) @ vector.T)


def _inverse_root(matrix: Floats) -> Floats:
    value, vector = np.linalg.eigh(matrix)
    return np.asarray((vector / np.sqrt(np.maximum(value, 0.02))) @ vector.T)


def _correlation(matrix: Floats) -> Floats:
    """The nearest matrix with eigenvalues from 0.02, scaled to a unit diagonal."""
    value, vector = np.linalg.eigh((matrix + matrix.T) / 2)
    positive = (vector * np.maximum(value, 0.02)) @ vector.T
    scale = np.sqrt(np.diag(positive))
    return np.asarray(positive / np.outer(scale, scale))


def _within(part: Floats, whole: Floats) -> Floats:
    """The matrix nearest to ``part`` that keeps at most _KEPT_AT_MOST of ``whole`` in every direction."""
    outer, inner = root(whole), _inverse_root(whole)
    value, vector = np.linalg.eigh(inner @ ((part + part.T) / 2) @ inner)
    return np.asarray(outer @ ((vector * np.clip(value, 0, _KEPT_AT_MOST)) @ vector.T) @ outer)
