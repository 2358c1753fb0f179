"""What a request keeps and how fast the rest fades: fitted to how many experts its windows activate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from expertstream.trace.calibration import MEMORIES, fading
from expertstream.trace.latent import Floats, choose, corrected, root, within

Ints = NDArray[np.int64]
LAGS = (1, 2, 4, 8, 16, 32, 64, 128)
WINDOWS = (16, 64, 256)  # tokens of one request whose activated experts are matched
LEAST_PAIRS, LEAST_WINDOWS = 200, 8
_SAMPLES, _WINDOW_SCORES = 4096, 8192
_GRID = np.linspace(0, 1, 11)
_ROUNDS, _CORRECTIONS = 2, 8
_SHORT, _LONG = slice(1, 3), slice(3, None)  # of MEMORIES
_LEAST_SHARE = 1e-3
_HOLD = 0.02  # a share's way from what the distances say, 1.0 weighs as much as 2 % of the experts
_STEP, _EVALUATIONS = 0.05, 5  # of the search for the shares that activate as many experts


@dataclass(frozen=True)
class Locality:
    """What a layer's tokens show of it.

    Attributes:
        frequency: [E] of the experts. far: experts that two distant tokens of a request share.
        lags: (distance, pairs, experts shared) of tokens of a request. windows: (tokens, experts activated).
    """

    frequency: Floats
    far: float
    lags: tuple[tuple[int, int, float], ...]
    windows: tuple[tuple[int, float], ...]


def measure(hot: Floats, frequency: Floats, starts: Ints, lengths: Ints, far: Ints) -> Locality:
    """Measure it; hot [tokens, E], request after request; far [tokens] a distant token of each."""
    of = np.repeat(np.arange(starts.size), lengths)
    lags = []
    for lag in (lag for lag in LAGS if lag < len(hot)):
        at = np.flatnonzero(of[lag:] == of[:-lag])
        lags.append((lag, at.size, float((hot[at] * hot[at + lag]).sum() / max(at.size, 1))))
    windows = [(window, _union(hot, starts, lengths, window)) for window in WINDOWS]
    return Locality(
        frequency,
        float((hot[far] * hot).sum() / len(hot)),
        tuple(lags),
        tuple((window, found) for window, found in windows if found is not None),
    )


def fit_locality(
    goal: Locality, mean: Floats, shape: Floats, whole: Floats, k: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats]:
    """Fit the share of the covariance that a request keeps, and the memories of the rest.

    First by the experts that tokens at each distance share; then that share, and how much of the rest fades at once,
    soon and late, by the experts that windows activate. The latter stay near what the distances say.

    Args:
        mean, shape, whole: scores [E], covariance that a request keeps (to a factor) and covariance of all, [E, E].

    Returns:
        mean [E]; roots [E, E] of the covariances that a request keeps and that fades; shares [len(MEMORIES)].
    """
    sample = _Sample(rng, len(mean), k)
    share = _inverse([sample.overlap(mean, *_parts(share, shape, whole), 0.0) for share in _GRID], goal.far)
    shares = np.eye(len(MEMORIES))[0]
    e = len(mean)
    for _ in range(_ROUNDS):
        request, token = _parts(share, shape, whole)
        mean = sample.corrected(mean, request, token, goal.frequency)
        curve = [sample.overlap(mean, request, token, fade) for fade in _GRID]
        shares = _shares([(lag, pairs, _inverse(curve, shared)) for lag, pairs, shared in goal.lags])
        if not goal.windows:
            break

        lasting = float(shares[1:].sum())
        start = np.clip([share, shares[0], shares[_LONG].sum() / max(lasting, 1e-9)], 0.01, 0.99)

        def misses(point: Floats, mean: Floats = mean, shares: Floats = shares, start: Floats = start) -> Floats:
            drawn = sample.window_choices(mean, *_parts(float(point[0]), shape, whole), _mixed(shares, *point[1:]))
            missed = [(_activated(drawn, window) - found) / e for window, found in goal.windows]
            return np.concatenate((missed, _HOLD * (point - start)))

        found = least_squares(misses, start, bounds=(0, 1), diff_step=[_STEP] * start.size, max_nfev=_EVALUATIONS)
        share, shares = float(found.x[0]), _mixed(shares, *found.x[1:])
    request, token = _parts(share, shape, whole)
    return sample.corrected(mean, request, token, goal.frequency), request, token, shares


class _Sample:
    """Fixed random numbers for curves that must rise smoothly: pairs of tokens, and windows of one request."""

    def __init__(self, rng: np.random.Generator, e: int, k: int) -> None:
        self.own, self.first, self.second = rng.standard_normal((3, _SAMPLES, e))
        self.requests = 2 * int(np.clip(_WINDOW_SCORES // e // 2, 16, 64))
        lengths = [WINDOWS[-1]] * self.requests
        self.tokens = [fading([rng] * self.requests, lengths, e, memory).astype(np.float32) for memory in MEMORIES]
        self.k = k

    def corrected(self, mean: Floats, request: Floats, token: Floats, frequency: Floats) -> Floats:
        """Mean scores under which the experts have their frequencies."""
        noise = self.own @ request + self.first @ token
        for _ in range(_CORRECTIONS):
            mean = corrected(mean, frequency, choose(mean + noise, self.k).mean(axis=0))
        return mean

    def overlap(self, mean: Floats, request: Floats, token: Floats, fade: float) -> float:
        """Experts that two tokens of a request share whose fading parts have correlation ``fade``."""
        own, first = mean + self.own @ request, self.first @ token
        second = fade * first + np.sqrt(1 - fade**2) * (self.second @ token)
        return float((choose(own + first, self.k) & choose(own + second, self.k)).sum() / len(own))

    def window_choices(self, mean: Floats, request: Floats, token: Floats, shares: Floats) -> NDArray[np.bool_]:
        """Choices of requests of the longest window's tokens, [tokens, E]."""
        half = self.own[: self.requests // 2] @ request
        own = mean + np.concatenate((half, -half))  # in opposite pairs: their mean is exact
        score = sum(np.float32(np.sqrt(share)) * part for share, part in zip(shares, self.tokens, strict=True))
        score = score @ token.astype(np.float32) + np.repeat(own.astype(np.float32), WINDOWS[-1], axis=0)
        return np.asarray(choose(score, self.k))


def _activated(hot: Floats | NDArray[np.bool_], window: int) -> float:
    """Experts that ``window`` consecutive tokens activate on average; hot [tokens, E], window after window."""
    return float(hot.reshape(-1, window, hot.shape[1]).any(axis=1).sum(axis=1).mean())


def _union(hot: Floats, starts: Ints, lengths: Ints, window: int) -> float | None:
    """Experts that a window of one request activates on average; None where too few requests are that long.

    Windows are spread over whole requests, ends included: late tokens often activate fewer experts than early ones.
    """
    enough = lengths >= window
    first = np.concatenate(
        [np.arange(0)]
        + [
            start + np.rint(np.linspace(0, length - window, -(-length // window))).astype(int)
            for start, length in zip(starts[enough].tolist(), lengths[enough].tolist(), strict=True)
        ]
    )
    if first.size < LEAST_WINDOWS:
        return None
    return _activated(hot[(first[:, None] + np.arange(window)).reshape(-1)], window)


def _parts(share: float, shape: Floats, whole: Floats) -> tuple[Floats, Floats]:
    """Roots of the covariances that a request keeps, ``share`` times ``shape``, and that fades."""
    kept = within(share * shape, whole)
    return root(kept), root(whole - kept)


def _mixed(shares: Floats, fresh: float, long: float) -> Floats:
    """The mixture with ``fresh`` as share of the process without memory and ``long`` of the rest as that of the long.

    Within the short and the long ones the proportions stay; where there are none, all are alike.
    """
    mixed = np.maximum(shares, _LEAST_SHARE)
    mixed[0] = fresh
    mixed[_SHORT] *= (1 - fresh) * (1 - long) / mixed[_SHORT].sum()
    mixed[_LONG] *= (1 - fresh) * long / mixed[_LONG].sum()
    return np.asarray(mixed)


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
    shares[shares < _LEAST_SHARE] = 0
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _inverse(curve: list[float], goal: float) -> float:
    """Where on the grid from 0 to 1 a rising curve reaches ``goal``."""
    return float(np.interp(goal, np.maximum.accumulate(curve), _GRID))
