"""Compute a layer's output the way a timeline does: micro-slice by micro-slice, in its order."""

from __future__ import annotations

import numpy as np

from expertstream.engine.timeline import Timeline
from expertstream.numerics.inputs import Floats, PlanLike, WorkloadLike
from expertstream.numerics.layer import DenseLayer
from expertstream.numerics.rows import expert_computes


def replay(timeline: Timeline, plan: PlanLike, layer: DenseLayer, x: Floats, workload: WorkloadLike) -> Floats:
    """Add up the partial sums of the timeline's computes in the order in which they end.

    It does what the timeline says, right or wrong: missing computes leave the output short, repeated ones count
    twice, and a token that meets an expert that it is not routed to gets NaN, for it has no gate weight there.

    Args:
        layer: weights with at least the columns that the plan's slices name. x: activations, float64
            [tokens, d_model].

    Returns:
        float64 [tokens, d_model].

    Raises:
        ReplayError: a label is out of range (``expert_computes``).
    """
    computes = expert_computes(timeline, plan, workload)
    n_experts, n_routed = workload.columns.size, workload.model.n_experts
    weight = np.full((workload.n_tokens, n_experts), np.nan)
    experts = np.asarray(workload.routing.experts, dtype=np.int64)
    np.put_along_axis(weight, experts, np.asarray(workload.routing.weights, dtype=np.float64), axis=1)
    weight[:, n_routed:] = 1.0
    output = np.zeros(x.shape, dtype=np.float64)
    for expert, first, last, token_set in zip(
        computes.expert.tolist(),
        computes.first.tolist(),
        computes.last.tolist(),
        computes.token_set.tolist(),
        strict=True,
    ):
        ids = plan.set_ids[plan.set_ptr[token_set] : plan.set_ptr[token_set + 1]]
        partial = layer.partial_sum(x[ids], expert, first, last)
        np.add.at(output, ids, weight[ids, expert, None] * partial)
    return output
