"""Which dies hold which expert: fixed rules, and placements fitted on a training part of a trace.

A placement is bool [routed experts, dies], true where a die holds an expert; every expert has at least one die.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from expertstream.trace import RoutingTrace
from expertstream.trace.prediction import chosen_together, popularity_of

Ints = NDArray[np.int64]
Placement = NDArray[np.bool_]
CostOf = Callable[[Ints], Ints]

EXPERTS_PER_REPLICA = 8  # ep-replicated: one replica more for so many experts, at least one a die
AFFINITY_SLACK = 1.1  # hydra: a die takes at most this multiple of the mean load for affinity's sake


def contiguous(n_experts: int, n_dies: int) -> Placement:
    """Expert e on die e * dies // experts."""
    return _of(np.arange(n_experts) * n_dies // n_experts, n_dies)


def round_robin(n_experts: int, n_dies: int) -> Placement:
    """Expert e on die e mod dies."""
    return _of(np.arange(n_experts) % n_dies, n_dies)


def balanced(costs: Ints, n_dies: int) -> Placement:
    """Greedy longest-processing-time placement: each expert, costliest first, where the largest sum is then least.

    Args:
        costs: int64 [experts, kinds], for example time to fetch and time to compute; a die's cost is the larger sum.
    """
    return _packed(costs, np.ones(costs.shape[0], dtype=np.int64), n_dies)


def replicated(costs: Ints, n_dies: int) -> Placement:
    """Hot experts on several dies, as in the Expert Parallelism Load Balancer of DeepSeek-V3 (EPLB).

    Replicas go one by one to the expert with the largest cost per replica (one more for every
    ``EXPERTS_PER_REPLICA`` experts, at least one a die); then all replicas are packed as in ``balanced``, no two of an
    expert on a die. Replicas share tokens and fetches evenly.

    Args:
        costs: int64 [experts, kinds], as in ``balanced``.
    """
    cost = costs.max(axis=1, initial=0)
    copies = np.ones(cost.size, dtype=np.int64)
    for _ in range(max(n_dies, cost.size // EXPERTS_PER_REPLICA)):
        per_replica = np.where(copies < n_dies, cost // copies, -1)
        hottest = int(per_replica.argmax())
        if per_replica[hottest] <= 0:
            break
        copies[hottest] += 1
    return _packed(costs, copies, n_dies)


def _packed(costs: Ints, copies: Ints, n_dies: int) -> Placement:
    holds = np.zeros((copies.size, n_dies), dtype=np.bool_)
    sums = np.zeros((n_dies, costs.shape[1]), dtype=np.int64)
    share = costs // copies[:, None]
    for e in np.argsort(-share.max(axis=1, initial=0), kind="stable").tolist():
        for _ in range(int(copies[e])):
            after = sums + share[e]
            die = int(np.lexsort((holds.sum(axis=0), after.sum(axis=1), after.max(axis=1), holds[e]))[0])
            holds[e, die] = True
            sums[die] = after[die]
    return holds


def affine(costs: Ints, together: Ints, before: Placement, n_dies: int) -> Placement:
    """Place a layer's experts near those of the layer before that send them tokens, balanced.

    The experts go, costliest first, each to the die from whose experts of the layer before most of its tokens come,
    among the dies whose sums of each cost stay below ``AFFINITY_SLACK`` times the mean; where there is none, to the die
    whose largest sum is then least.

    Args:
        costs: int64 [experts, kinds], as in ``balanced``.
        together: int64 [experts before, experts], tokens that went to both.
        before: the placement of the layer before.
    """
    home = np.zeros(costs.shape[0], dtype=np.int64)
    sums = np.zeros((n_dies, costs.shape[1]), dtype=np.int64)
    limit = AFFINITY_SLACK * costs.sum(axis=0) / n_dies
    from_die = together.T @ before.astype(np.int64)  # [experts, dies]
    for e in np.argsort(-costs.max(axis=1, initial=0), kind="stable").tolist():
        after = sums + costs[e]
        over = (after > limit).any(axis=1)
        wish = np.zeros(n_dies, dtype=np.int64) if over.all() else -from_die[e]
        die = int(np.lexsort((after.sum(axis=1), after.max(axis=1), wish, over))[0])
        home[e] = die
        sums[die] = after[die]
    return _of(home, n_dies)


@lru_cache(maxsize=256)
def hydra_placement(training: RoutingTrace, layer: int, n_dies: int, cost: CostOf) -> Placement:
    """Placement by popularity and layer-to-layer affinity; not to be written to.

    The first of the consecutive recorded layers up to ``layer`` is balanced; each later one follows by affinity.

    Args:
        cost: gives the costs of a popularity, int64 [experts] -> [experts, kinds].
    """
    costs = cost(popularity_of(training, layer))
    if layer - 1 not in training.layer_index:
        return balanced(costs, n_dies)
    return affine(costs, _together(training, layer), hydra_placement(training, layer - 1, n_dies, cost), n_dies)


def homes_by_votes(votes: Ints, capacity: Ints) -> Ints:
    """A die for each token: the one with most votes that has room left; surest tokens first.

    Args:
        votes: int64 [tokens, dies]. capacity: int64 [dies], tokens that each die takes; at least as many in all.

    Returns:
        Die of each token, int64 [tokens].
    """
    room = capacity.tolist()
    home = np.zeros(votes.shape[0], dtype=np.int64)
    wishes = np.argsort(-votes, axis=1, kind="stable").tolist()
    for token in np.argsort(-votes.max(axis=1, initial=0), kind="stable").tolist():
        home[token] = die = next(d for d in wishes[token] if room[d] > 0)
        room[die] -= 1
    return home


def _together(training: RoutingTrace, layer: int) -> Ints:
    known, key = training.worked_out, ("together", layer)
    if key not in known:
        here = training.experts[:, training.place_of(layer)]
        before = training.experts[:, training.place_of(layer - 1)]
        known[key] = chosen_together(before, here, training.n_experts)
    return np.asarray(known[key])


def _of(home: Ints, n_dies: int) -> Placement:
    return np.asarray(home[:, None] == np.arange(n_dies), dtype=np.bool_)
