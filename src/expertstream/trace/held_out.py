"""How close a synthetic twin is: fitted on every other request of a trace, compared with the requests left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from expertstream.errors import TraceError
from expertstream.trace.fitting import calibrate
from expertstream.trace.routing import MIXES, Mix, RoutingTrace
from expertstream.trace.statistics import activated_fraction, statistics

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


@dataclass(frozen=True)
class Activated:
    """Activated fraction at one load: of the requests fitted on, those left out, their twin, uniform choice."""

    mix: Mix
    tokens: int
    fitted: float
    held_out: float
    twin: float
    uniform: float

    @property
    def miss(self) -> float:
        """Twin less held out."""
        return self.twin - self.held_out


@dataclass(frozen=True)
class HeldOut:
    """The comparison; ``statistics`` maps each of NAMES to (fitted, held out, twin).

    ``co_activation``: correlation, over pairs of experts, of their co-activation with that of the held-out requests.
    """

    activated: tuple[Activated, ...]
    statistics: dict[str, tuple[float, float, float]]

    @property
    def worst(self) -> float:
        """Largest difference of an activated fraction."""
        return max(abs(row.miss) for row in self.activated)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        rows = [asdict(row) | {"miss": row.miss, "within": abs(row.miss) <= LIMIT} for row in self.activated]
        figures = {
            name: dict(zip(("fitted", "held_out", "twin"), values, strict=True))
            for name, values in self.statistics.items()
        }
        return {"limit": LIMIT, "worst": self.worst, "activated": rows, "statistics": figures}


def split(trace: RoutingTrace) -> tuple[RoutingTrace, RoutingTrace]:
    """Requests of even and of odd rank. Raises TraceError if fewer than two requests are known."""
    requests = np.unique(trace.request[trace.request >= 0])
    if requests.size < 2:
        raise TraceError(
            f"{trace.source}: {requests.size} known requests; two are needed to fit on one and compare with the other"
        )
    return trace.of_requests(requests[0::2]), trace.of_requests(requests[1::2])


def held_out(
    trace: RoutingTrace, *, seed: int = 0, report: Callable[[int, int, str], None] | None = None
) -> tuple[HeldOut, RoutingTrace, RoutingTrace]:
    """Fit on one half of the requests, draw a twin of the other half; return the comparison, that half and its twin.

    Args:
        trace: a capture. seed: of the fit and the twin. report: told (done, total, what) after each layer.

    Raises:
        TraceError: fewer than two known requests, or too few tokens to fit.
    """
    fitted, left = split(trace)
    twin = calibrate(fitted, seed=seed, report=report).like(left, seed=seed)
    rows = []
    for mix in MIXES:
        for tokens in TOKENS:
            a, b, c = (activated_fraction(t, tokens, mix, most_windows=WINDOWS) for t in (fitted, left, twin))
            if not math.isnan(b):
                rows.append(Activated(mix, tokens, a, b, c, 1 - (1 - trace.top_k / trace.n_experts) ** tokens))
    measured = [statistics(t).to_dict() for t in (fitted, left, twin)]
    figures = {name: (m[0][name], m[1][name], m[2][name]) for name in NAMES[:-1] for m in [measured]}
    figures["co_activation"] = (_similarity(left, fitted), 1.0, _similarity(left, twin))
    return HeldOut(tuple(rows), figures), left, twin


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
