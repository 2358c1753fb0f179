"""How close a synthetic twin is: fitted on half of a trace's requests, judged on the other half, and vice versa.

Two halves differ by chance. Both are judged, so that this cancels in a row's mean miss, which shows where the fit is
biased; each half's own miss stands beside it, and so does what the halves themselves differ by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expertstream.errors import TraceError
from expertstream.trace.fitting import calibrate
from expertstream.trace.routing import MIXES, Mix, RoutingTrace
from expertstream.trace.statistics import activated_fraction, statistics
from expertstream.units import counted

TOKENS = (16, 64, 256, 1024)
LIMIT = 0.03  # allowed difference of the activated fraction
WINDOWS = 256
NAMES = (
    "gini",
    "zipf_exponent",
    "max_over_mean",
    "jaccard_consecutive",
    "jaccard_same_request",
    "jaccard_other_request",
    "next_layer_recall",
    "co_activation",
)


@dataclass(frozen=True, eq=False)
class Fold:
    """The requests fitted on, those left out, and the twin of the latter that was drawn from the former."""

    fitted: RoutingTrace
    held_out: RoutingTrace
    twin: RoutingTrace


@dataclass(frozen=True)
class Activated:
    """Activated fraction at one load: means over the folds, and of each fold what the twin misses the held-out half by.

    ``uniform`` is that of uniform independent choice; ``apart`` the most that the halves of a fold differ by.
    """

    mix: Mix
    tokens: int
    held_out: float
    twin: float
    uniform: float
    misses: tuple[float, ...]
    apart: float

    @property
    def miss(self) -> float:
        """Twin less held out."""
        return self.twin - self.held_out

    @property
    def worst(self) -> float:
        """The largest miss of a fold, with its sign."""
        return max(self.misses, key=abs)


@dataclass(frozen=True)
class HeldOut:
    """The comparison; ``statistics`` maps each of NAMES to (fitted, held out, twin), means over the folds.

    ``co_activation``: correlation, over pairs of experts, of their co-activation with that of the held-out requests.
    """

    activated: tuple[Activated, ...]
    statistics: dict[str, tuple[float, float, float]]

    @property
    def miss(self) -> float:
        """Largest difference of an activated fraction, as the mean of the folds."""
        return max(abs(row.miss) for row in self.activated)

    @property
    def worst(self) -> float:
        """Largest difference of an activated fraction in any fold."""
        return max(abs(row.worst) for row in self.activated)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        rows = [
            {
                "mix": row.mix,
                "tokens": row.tokens,
                "uniform": row.uniform,
                "held_out": row.held_out,
                "twin": row.twin,
                "miss": row.miss,
                "misses": list(row.misses),
                "halves_apart": row.apart,
                "within": abs(row.miss) <= LIMIT,
                "all_within": abs(row.worst) <= LIMIT,
            }
            for row in self.activated
        ]
        figures = {
            name: dict(zip(("fitted", "held_out", "twin"), values, strict=True))
            for name, values in self.statistics.items()
        }
        return {"limit": LIMIT, "miss": self.miss, "worst": self.worst, "activated": rows, "statistics": figures}


def halves(trace: RoutingTrace, seed: int = 0) -> tuple[RoutingTrace, RoutingTrace]:
    """Two halves of whole requests: of any two that are next to each other in length, a seeded coin sends one to each.

    Requests of one length are often of one kind, and halves with as many of each differ less. The choices of experts
    have no say.

    Raises:
        TraceError: fewer than two requests are known.
    """
    requests, lengths = np.unique(trace.request[trace.request >= 0], return_counts=True)
    if requests.size < 2:
        raise TraceError(
            f"{trace.source}: {counted(requests.size, 'known request')}; two are needed to fit on one and compare "
            "with the other"
        )
    by_length = requests[np.argsort(lengths, kind="stable")]
    coin = np.random.default_rng(seed).integers(0, 2, (requests.size + 1) // 2)
    first = np.zeros(requests.size, dtype=bool)
    first[np.minimum(2 * np.arange(coin.size) + coin, requests.size - 1)] = True
    return trace.of_requests(by_length[first]), trace.of_requests(by_length[~first])


def folds(
    trace: RoutingTrace, *, seed: int = 0, report: Callable[[int, int, str], None] | None = None
) -> tuple[Fold, Fold]:
    """Fit on each half of the requests and draw a twin of the other.

    Args:
        seed: of the split, the fits and the twins. report: told (done, total, what) after each layer of a fit.

    Raises:
        TraceError: fewer than two known requests, or too few tokens to fit.
    """
    both = halves(trace, seed)
    layers = trace.layer_index.size

    def fold(at: int) -> Fold:
        def told(done: int, _: int, what: str) -> None:
            if report is not None:
                report(at * layers + done, 2 * layers, what)

        fitted, left = both[at], both[1 - at]
        return Fold(fitted, left, calibrate(fitted, seed=seed, report=told).like(left, seed=seed))

    return fold(0), fold(1)


def held_out(trace: RoutingTrace, *, seed: int = 0, report: Callable[[int, int, str], None] | None = None) -> HeldOut:
    """The comparison of two halves of the requests with twins, each fitted on the other half.

    Args:
        trace: a capture. seed: of the split, the fits and the twins. report: told (done, total, what).

    Raises:
        TraceError: as of ``folds``.
    """
    return compare(folds(trace, seed=seed, report=report))


def compare(parts: Sequence[Fold]) -> HeldOut:
    """The comparison of each fold's held-out requests with their twin."""
    rows = []
    for mix in MIXES:
        for tokens in TOKENS:
            found = np.array(
                [
                    [
                        activated_fraction(trace, tokens, mix, most_windows=WINDOWS)
                        for trace in (part.fitted, part.held_out, part.twin)
                    ]
                    for part in parts
                ]
            )
            found = found[~np.isnan(found).any(axis=1)]
            if len(found):
                fitted, left, twin = found.T
                trace = parts[0].held_out
                rows.append(
                    Activated(
                        mix,
                        tokens,
                        held_out=float(left.mean()),
                        twin=float(twin.mean()),
                        uniform=1 - (1 - trace.top_k / trace.n_experts) ** tokens,
                        misses=tuple((twin - left).tolist()),
                        apart=float(np.abs(fitted - left).max()),
                    )
                )
    measured = [[_figures(part.held_out, trace) for trace in (part.fitted, part.held_out, part.twin)] for part in parts]
    means = {
        name: tuple(math.fsum(one[i][name] for one in measured) / len(measured) for i in range(3)) for name in NAMES
    }
    return HeldOut(tuple(rows), {name: (a, b, c) for name, (a, b, c) in means.items()})


def _figures(left: RoutingTrace, trace: RoutingTrace) -> dict[str, float]:
    return statistics(trace).to_dict() | {"co_activation": 1.0 if trace is left else _similarity(left, trace)}


def co_activation(trace: RoutingTrace, layer: int) -> Any:
    """Correlation of the choices of two experts at the layer at place ``layer``, float64 [E, E]."""
    hot = np.zeros((trace.n_tokens, trace.n_experts))
    np.put_along_axis(hot, trace.experts[:, layer].astype(np.int64), 1.0, axis=1)
    hot -= hot.mean(axis=0)
    covariance = hot.T @ hot / trace.n_tokens
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    return covariance / np.outer(deviation, deviation)


def _similarity(a: RoutingTrace, b: RoutingTrace) -> float:
    above = np.triu_indices(a.n_experts, 1)
    layers = range(a.layer_index.size)
    if above[0].size < 2:
        return float("nan")
    return float(np.mean([np.corrcoef(co_activation(a, i)[above], co_activation(b, i)[above])[0, 1] for i in layers]))
