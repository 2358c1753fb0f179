"""Fit a Calibration to a trace by matching moments: simulated frequencies are brought to the measured ones.

Per layer: how often each expert is chosen, how often two are chosen together by one token, by two distant tokens
of a request, by a token at this layer and the layer before; and how fast the overlap of expert sets fades with
distance (locality.py). A frequency p of a pair moves a latent correlation by (measured - simulated) /
(phi(h_i) phi(h_j)), the slope of the bivariate normal orthant probability at zero correlation, damped by the sampling
error of p.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from threadpoolctl import threadpool_limits

from expertstream.errors import ConfigError, TraceError, check_whole
from expertstream.trace.calibration import Calibration, LayerCalibration, chosen
from expertstream.trace.latent import Floats, choose, corrected, correlation, inverse_root, root, slope, within
from expertstream.trace.locality import Ints, fit_locality, measure
from expertstream.trace.routing import RoutingTrace, by_request
from expertstream.units import counted

FAR = 32  # tokens between two that share only what their request keeps
MAX_TOKENS = 65536  # whole requests up to about this many tokens are looked at
LEAST_TOKENS, LEAST_REQUESTS_TO_SPLIT = 64, 8
_SAMPLES, _ROUNDS, _PARTNERS = 8192, 8, 4
_DESIGN = 3.0  # tokens of a capture are not independent: this many count as one
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
        ConfigError: an argument of another kind, or a negative seed.
    """
    if not isinstance(trace, RoutingTrace):
        raise ConfigError(f"trace is {trace!r}; a RoutingTrace is needed, such as RoutingTrace.load('trace.parquet')")
    check_whole("seed", seed, least=0)
    tokens = _tokens(trace)
    e, k = trace.n_experts, trace.top_k
    n = len(tokens.of)
    if n < LEAST_TOKENS:
        raise TraceError(
            f"{trace.source}: {counted(n, 'token')} of known request; calibration needs at least {LEAST_TOKENS} "
            "(a trace without request numbers says nothing of a request's locality)"
        )
    if k == e:
        raise TraceError(f"{trace.source}: every token chooses all {e} experts; there is nothing to calibrate")
    rng = np.random.default_rng([seed, n, e])
    far = _far_pairs(tokens, rng)
    layers: list[LayerCalibration] = []
    before: Floats | None = None
    with threadpool_limits(1, "blas"):  # threads wait for one another far longer than such small matrices take
        for at, number in enumerate(trace.layer_index.tolist()):
            hot = _indicators(tokens.experts[:, at], e)
            layer = _fit_layer(hot, k, tokens, far, rng)
            if before is not None:
                layer = _with_depth(layer, layers[-1], hot, before, k, rng)
            layers.append(_with_gates(layer, trace, at, rng))
            before = hot
            if report is not None:
                report(at + 1, trace.layer_index.size, f"layer {number}")
    notes = (
        ()
        if len(tokens.starts) >= LEAST_REQUESTS_TO_SPLIT
        else (f"only {counted(len(tokens.starts), 'request')}: what a request keeps has the covariance of all choices",)
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


def _fit_layer(hot: Floats, k: int, tokens: _Tokens, far: Ints, rng: np.random.Generator) -> LayerCalibration:
    n, e = hot.shape
    frequency = _frequency(hot, tokens)
    rise = slope(frequency, frequency)
    together = hot.T @ hot / n
    apart = _apart(hot, far)
    damp = _damping(together, frequency, frequency, n)
    damp_far = rise**2 / (rise**2 + np.outer(frequency, frequency) / len(tokens.starts))
    all_, kept, mean = np.eye(e), 0.1 * np.eye(e), ndtri(frequency)
    for turn in range(_ROUNDS):
        step = 0.6 if turn < _ROUNDS // 2 else 0.3
        request, token = root(kept), root(all_ - kept)
        own = rng.standard_normal((_SAMPLES, e)) @ request
        a, b = (choose(mean + own + rng.standard_normal((_SAMPLES, e)) @ token, k).astype(np.float64) for _ in range(2))
        mean = corrected(mean, frequency, (a.mean(axis=0) + b.mean(axis=0)) / 2)
        simulated, simulated_far = (a.T @ a + b.T @ b) / (2 * _SAMPLES), (a.T @ b + b.T @ a) / (2 * _SAMPLES)
        change = np.clip((together - simulated) / rise * damp, -0.5, 0.5) * step
        np.fill_diagonal(change, 0)
        all_ = correlation(all_ + change)
        kept = within(kept + np.clip((apart - simulated_far) / rise * damp_far, -0.5, 0.5) * step, all_)
    trust = _reliability(hot, far, tokens)
    shape = trust * kept / max(float(np.diag(kept).mean()), 1e-9) + (1 - trust) * all_
    goal = measure(hot, frequency, tokens.starts, tokens.lengths, far[0])
    mean, request, token, shares = fit_locality(goal, mean, shape, all_, k, rng)
    return LayerCalibration(mean - mean.mean(), request, token, shares, np.zeros((e, e)), np.eye(e), 1.0, 1.0)


def _with_depth(
    layer: LayerCalibration, before: LayerCalibration, hot: Floats, hot_before: Floats, k: int, rng: np.random.Generator
) -> LayerCalibration:
    n, e = hot.shape
    here, there = (hot.sum(axis=0) + 0.5) / (n + 1), (hot_before.sum(axis=0) + 0.5) / (n + 1)
    rise = slope(here, there)
    together = hot.T @ hot_before / n
    damp = _damping(together, here, there, n)
    white = inverse_root(layer.request_root @ layer.request_root + layer.token_root @ layer.token_root)
    white_before = inverse_root(before.request_root @ before.request_root + before.token_root @ before.token_root)
    depth, rest = np.zeros((e, e)), np.eye(e)
    for turn in range(_ROUNDS):
        own, token = rng.standard_normal((2, _SAMPLES, e))
        first = before.popularity + own @ before.request_root + token @ before.token_root
        own = own @ depth.T + rng.standard_normal((_SAMPLES, e)) @ rest
        token = token @ depth.T + rng.standard_normal((_SAMPLES, e)) @ rest
        second = layer.popularity + own @ layer.request_root + token @ layer.token_root
        simulated = choose(second, k).T.astype(np.float64) @ choose(first, k) / _SAMPLES
        change = np.clip((together - simulated) / rise * damp, -0.5, 0.5) * (0.6 if turn < _ROUNDS // 2 else 0.3)
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
