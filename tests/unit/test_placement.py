"""Placements, and what the strategies that need them do."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from expertstream.comparison import compare, in_parts
from expertstream.engine.layout import COMPUTE, LOAD
from expertstream.errors import BufferTooSmallError, WorkloadError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.strategy import Options
from expertstream.strategy.placement import affine, balanced, contiguous, homes_by_votes, replicated, round_robin
from expertstream.trace import Routing, RoutingTrace, synthesize

MODEL = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2, n_layers=2)
CHIP = Package.preset("test-chip-2x2")


def costs(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)[:, None]


def test_fixed_placements() -> None:
    assert contiguous(5, 2).argmax(axis=1).tolist() == [0, 0, 0, 1, 1]
    assert round_robin(5, 2).argmax(axis=1).tolist() == [0, 1, 0, 1, 0]


def test_balanced_takes_the_costliest_first_to_where_the_sum_is_least() -> None:
    # 9 | 8; 7 with 8; 6 with 9; 5: both sums are 15, the first die; 4: 8 + 7
    assert balanced(costs([9, 8, 7, 6, 5, 4]), 2).argmax(axis=1).tolist() == [0, 1, 1, 0, 0, 1]


def test_balanced_weighs_the_worse_of_two_costs() -> None:
    both = np.array([[10, 0], [0, 10], [10, 0], [0, 10]], dtype=np.int64)
    holds = balanced(both, 2)
    assert (holds.T.astype(np.int64) @ both).tolist() == [[10, 10], [10, 10]]


def test_replicas_go_to_the_costliest_and_never_twice_to_a_die() -> None:
    holds = replicated(costs([100, 10, 10, 10, 10, 10, 10, 10]), 4)
    assert holds.sum(axis=1).tolist() == [4, 2, 1, 1, 1, 1, 1, 1]  # 100 over 4 dies, then one of the tens
    assert replicated(costs([5, 5]), 1).sum(axis=1).tolist() == [1, 1]


def test_affinity_keeps_followers_together_within_the_balance() -> None:
    before = contiguous(4, 2)  # 0, 1 | 2, 3
    together = np.array([[0, 0, 9, 0], [0, 0, 9, 9], [9, 0, 0, 0], [9, 9, 0, 0]], dtype=np.int64)
    assert affine(costs([6, 5, 6, 5]), together, before, 2).argmax(axis=1).tolist() == [1, 1, 0, 0]
    alike = np.full((4, 4), 9, dtype=np.int64)
    alike[:2] = 99  # all would go to die 0
    assert affine(costs([6, 6, 6, 6]), alike, before, 2).sum(axis=0).tolist() == [2, 2]


def test_tokens_go_where_their_experts_were_as_long_as_there_is_room() -> None:
    votes = np.array([[2, 0], [1, 1], [2, 0], [2, 0]], dtype=np.int64)
    assert homes_by_votes(votes, np.array([2, 2])).tolist() == [0, 1, 0, 1]


def _trace() -> RoutingTrace:
    return synthesize(MODEL, requests=4, tokens_per_request=20, layers=(0, 1))


@pytest.mark.parametrize("strategy", ["hydra", "ep-replicated"])
def test_a_strategy_that_is_fitted_says_what_it_needs(strategy: str) -> None:
    message = (
        f"{strategy} is fitted on a training part of the trace, and none is left; use fewer tokens per iteration or a "
        "longer trace. In Python: split it (training, rest = trace.split()), simulate iterations of the rest, and pass "
        "Options(training=training)"
    )
    with pytest.raises(WorkloadError, match=re.escape(message)):
        simulate(MODEL, CHIP, _trace().iteration(tokens=8, layer=0), strategy)


def test_best_is_the_fastest_placement_that_can_be_had() -> None:
    evaluation, options = in_parts(_trace(), 30)
    routing = evaluation.iteration(tokens=30, layer=1)
    each = [
        simulate(MODEL, CHIP, routing, "ep", options=replace(options, placement=name))
        for name in ("contiguous", "round-robin", "balanced")
    ]
    best = simulate(MODEL, CHIP, routing, "ep", options=options)
    assert best.latency_ps == min(result.latency_ps for result in each)
    assert best.plan.notes[1].startswith("the fastest of: ")
    alone = simulate(MODEL, CHIP, routing, "ep")
    assert alone.latency_ps == min(result.latency_ps for result in each[:2])
    with pytest.raises(WorkloadError, match="placement 'balanced' is fitted on a training part"):
        simulate(MODEL, CHIP, routing, "ep", options=Options(placement="balanced"))


def test_affinity_keeps_traffic_off_the_links() -> None:
    """Each token keeps to one of four families of experts at both layers: at layer 1 a family shares a die."""
    model = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2)
    family = np.arange(64) % 4
    experts = np.stack((2 * family, 2 * family + 1), axis=1).astype(np.int16)
    # With layer 1 numbered so that neither contiguous nor round-robin homes keep a family together.
    renamed = np.array([0, 2, 5, 7, 1, 3, 4, 6], dtype=np.int16)[experts]
    trace = RoutingTrace(
        experts=np.stack((experts, renamed), axis=1),
        weights=None,
        request=np.arange(64) // 4,
        position=np.arange(64) % 4,
        phase=np.zeros(64, dtype=np.int8),
        layer_index=np.array([0, 1]),
        n_experts=8,
        model="families",
        source="families",
        synthetic=True,
    )
    evaluation, options = in_parts(trace, 16)
    routing = evaluation.iteration(tokens=16, layer=1)
    hydra = simulate(model, CHIP, routing, "hydra", options=options)
    assert hydra.prove() <= 1e-10
    assert "tokens start where most of their experts of it are" in hydra.plan.notes[0]
    assert hydra.metrics.d2d_bytes <= simulate(model, CHIP, routing, "ep", options=options).metrics.d2d_bytes / 2
    assert np.bincount(hydra.workload.die_of_token).tolist() == [4, 4, 4, 4]


def test_a_replicated_expert_is_loaded_once_and_its_tokens_are_divided() -> None:
    n = 320
    hot = np.stack((np.zeros(n, dtype=np.int16), 1 + np.arange(n, dtype=np.int16) % 7), axis=1)
    routing = Routing(
        experts=hot,
        weights=np.full((n, 2), 0.5, dtype=np.float32),
        request=np.zeros(n, dtype=np.int32),
        layer=0,
        n_experts=8,
        source="hot",
        synthetic=True,
    )
    training = RoutingTrace(
        experts=hot[:, None],
        weights=None,
        request=routing.request,
        position=np.arange(n),
        phase=np.zeros(n, dtype=np.int8),
        layer_index=np.array([0]),
        n_experts=8,
        model="hot",
        source="hot",
        synthetic=True,
    )
    result = simulate(MODEL, CHIP, routing, "ep-replicated", options=Options(training=training))
    result.check()
    mine = result.expert == 0
    assert np.bincount(result.timeline.die[mine & (result.timeline.kind == COMPUTE)]).tolist() == [1, 1, 1, 1]
    assert result.timeline.tokens[mine & (result.timeline.kind == COMPUTE)].tolist() == [80, 80, 80, 80]
    loads = mine & (result.timeline.kind == LOAD)
    assert result.timeline.bytes[loads].sum() == 3 * 64 * 96
    assert np.unique(result.timeline.resource[loads]).tolist() == [0, 1, 2, 3]


def test_compare_judges_all_on_the_evaluation_part_and_says_what_it_checked() -> None:
    found = compare(MODEL, CHIP, _trace(), tokens=[16, 80], layers=[1])
    assert found.training_tokens == {16: 40, 80: 0}
    why = "no tokens of the trace are left to fit on"
    assert found.left_out == ((80, "ep-replicated", why), (80, "hydra", why))
    assert found.pairs == 16 * 2 + 80 * 2
    assert {row["strategy"] for row in found.rows if row["tokens"] == 16} >= {"hydra", "ep-replicated"}
    with pytest.raises(WorkloadError, match="hydra is fitted on a training part"):
        compare(MODEL, CHIP, _trace(), tokens=[80], layers=[1], strategies=["hydra"])


@pytest.mark.parametrize("strategy", ["ep-streamed", "tp-per-expert"])
@pytest.mark.parametrize("shared", [0, 1])
@pytest.mark.parametrize("preset", ["test-chip-2x2", "3x3"])
def test_the_smallest_weight_buffer_works_and_is_named(preset: str, shared: int, strategy: str) -> None:
    model = MoEModel.one_layer(
        d_model=64, d_ffn=30, n_experts=8, top_k=2, n_shared_experts=shared, shared_d_ffn=20 * shared
    )
    trace = synthesize(model, requests=4, tokens_per_request=20, layers=(0,))
    routing = trace.iteration(tokens=60, layer=0)

    def run_in(weight_buffer_bytes: int) -> None:
        small = {"die.weight_buffer_bytes": weight_buffer_bytes, "die.token_buffer_bytes": 16_000}
        simulate(model, Package.preset(preset).replace(**small), routing, strategy).check()

    with pytest.raises(BufferTooSmallError, match=strategy + r" needs at least .* \((\d+) bytes\)") as refused:
        run_in(191)
    needed = int(re.findall(r"\((\d+) bytes\)", str(refused.value))[0])
    run_in(needed)
    with pytest.raises(BufferTooSmallError):
        run_in(needed - 1)


def test_tp_per_expert_needs_one_pass_where_tp_needs_several() -> None:
    trace = synthesize(MODEL, requests=4, tokens_per_request=100, layers=(0,))
    routing = trace.iteration(tokens=400, layer=0)
    package = CHIP.replace(**{"die.token_buffer_bytes": 60_000})
    once = simulate(MODEL, package, routing, "tp-per-expert")
    again = simulate(MODEL, package, routing, "tp")
    assert once.prove() <= 1e-10
    assert once.check() == again.check() == 800
    assert once.plan.passes == 1
    assert again.plan.passes > 1
    assert once.metrics.ddr_bytes == 8 * 3 * 64 * 96
    assert once.latency_ps < again.latency_ps
    assert once.metrics.buffers.peak_bytes[:, 1].max() <= 60_000
