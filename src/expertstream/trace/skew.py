"""How skewed the experts' popularity is, and how unevenly an iteration loads them, beside uniform routing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import gammaln
from scipy.stats import beta

from expertstream.trace.routing import MIXES, Mix, RoutingTrace
from expertstream.trace.statistics import gini, iterations, windows, zipf_exponent

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TOKENS = (16, 64, 256, 1024)
WINDOWS = 64
_UNIFORM_SEED = 0


@dataclass(frozen=True)
class Popularity:
    """Skew of the popularity, means over the layers.

    Attributes:
        gini, max_over_mean: of the counts. zipf_exponent: maximum likelihood of p(rank) proportional to rank^-s;
        zipf_miss: total variation distance of that law from the sorted popularity, 0 (exact) to 1.
        dirichlet_alpha: maximum likelihood of a symmetric Dirichlet law, every layer one draw, 0.5 added to each count;
        dirichlet_miss: largest distance between the distribution of the popularities and the Beta(alpha, (E - 1) alpha)
            that the law gives each (Kolmogorov-Smirnov), 0 to 1.
        layer_correlation, adjacent_layer_correlation: Pearson correlation of the popularity by expert id of two layers,
            of any two and of neighbours in the trace. NaN with one layer.
    """

    gini: float
    max_over_mean: float
    zipf_exponent: float
    zipf_miss: float
    dirichlet_alpha: float
    dirichlet_miss: float
    layer_correlation: float
    adjacent_layer_correlation: float

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Load:
    """Experts of an iteration, means over layers and iterations; ``uniform_``: of uniform, independent choices.

    Attributes:
        activated: share of the experts with a token. max_over_mean: tokens of the busiest expert / mean over all.
        gini: of the tokens of all experts, idle ones too.
    """

    mix: Mix
    tokens: int
    activated: float
    max_over_mean: float
    gini: float
    uniform_activated: float
    uniform_max_over_mean: float
    uniform_gini: float

    def to_dict(self) -> dict[str, float | str]:
        """Plain JSON types."""
        return asdict(self)


def popularity(counts: Floats) -> Popularity:
    """Skew of counts [layers, E], of which every layer has some."""
    e = counts.shape[1]
    alpha = dirichlet_alpha(counts)
    exponents = [zipf_exponent(row) for row in counts]
    smooth = np.sort(((counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)).reshape(-1))
    law = beta.cdf(smooth, alpha, (e - 1) * alpha) if e > 1 else np.ones(smooth.size)
    place = np.arange(smooth.size + 1) / smooth.size
    return Popularity(
        gini=float(np.mean([gini(row) for row in counts])),
        max_over_mean=float((counts.max(axis=1) / counts.mean(axis=1)).mean()),
        zipf_exponent=float(np.mean(exponents)),
        zipf_miss=float(np.mean([_zipf_miss(row, s) for row, s in zip(counts, exponents, strict=True)])),
        dirichlet_alpha=alpha,
        dirichlet_miss=float(max(np.abs(place[1:] - law).max(), np.abs(law - place[:-1]).max())),
        layer_correlation=_correlation(counts, None),
        adjacent_layer_correlation=_correlation(counts, 1),
    )


def loads(trace: RoutingTrace) -> list[Load]:
    """The load at 16, 64, 256 and 1024 tokens of both mixes; those for which the trace is too short are left out."""
    found = []
    for mix in MIXES:
        for tokens in TOKENS:
            measured = [
                _load(chosen, trace.n_experts) for chosen in iterations(trace, tokens, mix, most_windows=WINDOWS)
            ]
            if measured:
                rng = np.random.default_rng([_UNIFORM_SEED, tokens])
                drawn = rng.random((16, tokens, trace.n_experts)).argpartition(trace.top_k - 1, axis=2)[
                    :, :, : trace.top_k
                ]
                activated = 1 - (1 - trace.top_k / trace.n_experts) ** tokens
                _, most, uneven = _load(drawn, trace.n_experts)
                mean = [float(np.mean(column)) for column in zip(*measured, strict=True)]
                found.append(Load(mix, tokens, mean[0], mean[1], mean[2], activated, most, uneven))
    return found


def looked_at(trace: RoutingTrace) -> list[Ints]:
    """Tokens whose choices ``loads`` looks at, for ``RoutingTrace.note``."""
    return [w for mix in MIXES for tokens in TOKENS for w in windows(trace, tokens, mix, most_windows=WINDOWS)]


def dirichlet_alpha(counts: Floats) -> float:
    """Maximum-likelihood parameter of the symmetric Dirichlet law of counts [layers, E], 0.5 added to each; E > 1."""
    layers, e = counts.shape
    if e < 2:
        return float("nan")
    logs = float(np.log((counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)).sum())

    def cost(log_alpha: float) -> float:
        alpha = np.exp(log_alpha)
        return float(-(layers * (gammaln(e * alpha) - e * gammaln(alpha)) + (alpha - 1) * logs))

    return float(np.exp(minimize_scalar(cost, bounds=(-10, 15), method="bounded", options={"xatol": 1e-8}).x))


def _zipf_miss(row: Floats, s: float) -> float:
    law = np.arange(1, row.size + 1) ** -s
    return float(np.abs(np.sort(row)[::-1] / row.sum() - law / law.sum()).sum() / 2)


def _correlation(counts: Floats, distance: int | None) -> float:
    if len(counts) < 2 or (counts.std(axis=1) == 0).any():
        return float("nan")
    table = np.atleast_2d(np.corrcoef(counts))
    return float((table[np.triu_indices(len(counts), 1)] if distance is None else np.diag(table, distance)).mean())


def _load(chosen: NDArray[np.integer], e: int) -> tuple[float, float, float]:
    table = np.stack([np.bincount(rows.reshape(-1), minlength=e) for rows in chosen]).astype(np.float64)
    most = float((table.max(axis=1) / table.mean(axis=1)).mean())
    return float((table > 0).mean()), most, float(np.mean([gini(row) for row in table]))
