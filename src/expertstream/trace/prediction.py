"""Guessing a layer's experts before its gate has answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from expertstream.trace.routing import Routing, RoutingTrace

Ints = NDArray[np.int64]
SEED = 7
GUESSED, COUNTED = 4096, 65536  # tokens at a time


@dataclass(frozen=True, eq=False)
class NextLayer:
    """Guesses a token's experts from those of the layer before.

    Attributes:
        share: float64 [experts, experts], of the choices made together with expert i of the layer before, the share of
            expert j; rows of experts that were never seen hold the popularity of the experts j.
    """

    share: NDArray[np.float64]

    @classmethod
    def fitted(cls, before: NDArray[Any], experts: NDArray[Any], n_experts: int) -> NextLayer:
        """Count, over tokens, which experts went together; ``before``, ``experts``: integers [tokens, k]."""
        pairs = chosen_together(before, experts, n_experts)
        seen = pairs.sum(axis=1, keepdims=True)
        popularity = np.bincount(experts.reshape(-1), minlength=n_experts) / max(experts.size, 1)
        return cls(np.where(seen > 0, pairs / np.maximum(seen, 1), popularity))

    def guess(self, before: NDArray[Any], k: int) -> Ints:
        """The k likeliest experts of each token, int64 [tokens, k]; of equals the first."""
        found = np.empty((len(before), k), dtype=np.int64)
        for part in _parts(len(before), GUESSED):
            score = self.share[before[part].astype(np.int64)].sum(axis=1)
            found[part] = np.argsort(-score, axis=1, kind="stable")[:, :k]
        return found


def chosen_together(before: NDArray[Any], experts: NDArray[Any], n_experts: int) -> Ints:
    """Tokens that chose expert i at one layer and expert j at the next, int64 [experts, experts].

    Args:
        before, experts: integers [tokens, k].
    """
    found = np.zeros(n_experts**2, dtype=np.int64)
    for part in _parts(len(before), COUNTED):
        pair = before[part].astype(np.int64)[:, :, None] * n_experts + experts[part].astype(np.int64)[:, None, :]
        found += np.bincount(pair.reshape(-1), minlength=n_experts**2)
    return found.reshape(n_experts, -1)


def _parts(tokens: int, size: int) -> Iterator[slice]:
    """Tokens a part at a time: what is worked out of each takes much more memory than the token."""
    return (slice(first, first + size) for first in range(0, tokens, size))


def tokens_of_experts(experts: NDArray[Any], n_experts: int) -> Ints:
    """Tokens of each expert, int64 [n_experts]; ``experts``: integers [tokens, k]."""
    found = np.zeros(n_experts, dtype=np.int64)
    for part in _parts(len(experts), COUNTED):
        found += np.bincount(experts[part].reshape(-1), minlength=n_experts)
    return found


def popularity_of(training: RoutingTrace, layer: int) -> Ints:
    """Tokens of each expert at a layer of the training part, int64 [experts]; zeros where it is not recorded.

    Worked out once.
    """
    known, key = training.worked_out, ("popularity", layer)
    if key not in known:
        at = np.flatnonzero(training.layer_index == layer)
        none = np.zeros(training.n_experts, dtype=np.int64)
        known[key] = tokens_of_experts(training.experts[:, at[0]], training.n_experts) if at.size else none
    found: Ints = known[key]
    found.setflags(write=False)
    return found


def guess_from_trace(routing: Routing, training: RoutingTrace) -> NDArray[np.int16]:
    """A guess of the routing's experts by ``NextLayer``, fitted on other tokens; int16 [tokens, k].

    Where the layer before is not recorded, the layer's most popular experts are guessed for every token.
    """
    n, k = routing.experts.shape
    at = np.flatnonzero(training.layer_index == routing.layer)
    before = np.flatnonzero(training.layer_index == routing.layer - 1)
    if at.size and before.size and routing.before is not None:
        known, key = training.worked_out, ("next layer", routing.layer)
        if key not in known:
            known[key] = NextLayer.fitted(
                training.experts[:, int(before[0])], training.experts[:, int(at[0])], routing.n_experts
            )
        return np.asarray(known[key].guess(routing.before, k), dtype=np.int16)
    popular = np.argsort(-popularity_of(training, routing.layer), kind="stable")[:k]
    return np.tile(popular, (n, 1)).astype(np.int16)


def guess_with_accuracy(routing: Routing, accuracy: float) -> NDArray[np.int16]:
    """A guess of the routing's experts that names each of a token's choices with a chance of ``accuracy``.

    A miss names an expert that the token did not choose, all being equally likely. The same layer and number of tokens
    draws the same numbers, so that a higher accuracy keeps all hits of a lower one. Where fewer than k experts are left
    to guess wrongly, the last choices are always named.
    """
    n, k = routing.experts.shape
    rng = np.random.default_rng((SEED, routing.layer + 1))
    hit = rng.random((n, k)) < accuracy
    key = rng.random((n, routing.n_experts))
    np.put_along_axis(key, routing.experts.astype(np.int64), 2.0, axis=1)  # last: the token's own
    wrong = np.argsort(key, axis=1, kind="stable")[:, :k].astype(np.int16)
    hit[:, max(routing.n_experts - k, 0) :] = True
    return np.where(hit, routing.experts, wrong)


def recall(experts: NDArray[Any], guess: NDArray[Any]) -> float:
    """Share of the choices that a guess names; integers [tokens, k] each. 1 where there are none."""
    if experts.size == 0:
        return 1.0
    return float((experts[:, :, None] == guess[:, None, :]).any(axis=2).mean())
