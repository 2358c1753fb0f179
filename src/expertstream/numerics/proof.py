"""Prove that a timeline computes the layer."""

from __future__ import annotations

from typing import Final

import numpy as np

from expertstream.engine.timeline import Timeline
from expertstream.errors import check_whole
from expertstream.numerics.coverage import check_coverage
from expertstream.numerics.inputs import PlanLike, WorkloadLike, routed_pairs
from expertstream.numerics.layer import DenseLayer, dense_output
from expertstream.numerics.loads import check_loads
from expertstream.numerics.replay import replay
from expertstream.numerics.rows import ReplayError

TOLERANCE: Final = 1e-10  # relative, in float64
D_MODEL: Final = 16  # which tokens meet which columns does not depend on the width, so a narrow layer proves the same


def prove(workload: WorkloadLike, plan: PlanLike, timeline: Timeline, seed: int = 0) -> float:
    """Check coverage and loads, then replay the timeline on random weights against the dense layer.

    The layer has the workload's own experts, columns, routing and gate weights, and d_model = 16.

    Args:
        seed: of weights and activations.

    Returns:
        The largest absolute error relative to the largest absolute dense output; 0.0 without tokens.

    Raises:
        ReplayError: something is computed or loaded wrongly, or the error exceeds 1e-10.
        ConfigError: ``seed`` is no whole number, or negative.
    """
    check_whole("seed", seed, least=0)
    check_coverage(timeline, plan, workload)
    check_loads(timeline, plan, workload)
    if workload.n_tokens == 0:
        return 0.0
    active = routed_pairs(workload).any(axis=1)
    layer = DenseLayer.random(D_MODEL, np.where(active, workload.columns, 0), seed)
    x = np.random.default_rng(seed).standard_normal((workload.n_tokens, D_MODEL))
    expected = dense_output(layer, x, workload.routing, workload.model.n_experts)
    difference = np.abs(replay(timeline, plan, layer, x, workload) - expected).max()
    error = float(difference / max(np.abs(expected).max(), np.finfo(np.float64).tiny))
    if not error <= TOLERANCE:  # also true of NaN
        raise ReplayError(
            f"the replayed output differs from the dense layer's by {error:.3g} of its largest value, allowed is "
            f"{TOLERANCE:g}; every column is computed once, so a gate weight or a partial sum is wrong"
        )
    return error
