"""Passes over the tokens: in their order, or by the experts that they need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from expertstream.engine.layout import LOAD
from expertstream.errors import WorkloadError
from expertstream.model import MoEModel
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options
from expertstream.trace import synthesize
from expertstream.workload import SPREADS, LayerWorkload
from tests.unit.test_closed_forms import package, routing

# Expert 0 has six tokens, 1 has four, 2 and 3 have one each. Tokens 0 to 2 live on die 0, 3 to 5 on die 1.
EXPERTS = [[0, 3], [0, 1], [1, 0], [2, 0], [0, 1], [1, 0]]


def workload() -> LayerWorkload:
    model = MoEModel.one_layer(d_model=8, d_ffn=4, n_experts=4, top_k=2)
    return LayerWorkload.of(model, package(1, 2, ddr=10**9), routing(EXPERTS, 4))


@pytest.mark.parametrize("n", range(1, 10))
def test_tokens_are_spread_evenly(n: int) -> None:
    model = MoEModel.one_layer(d_model=8, d_ffn=4, n_experts=1, top_k=1)
    homes = {
        spread: LayerWorkload.of(model, package(2, 2, ddr=10**9), routing([[0]] * n, 1), spread=spread).die_of_token
        for spread in SPREADS
    }
    for home in homes.values():
        on_die = np.bincount(home, minlength=4)
        assert on_die.max() - on_die.min() <= 1
    assert (np.diff(homes["contiguous"]) >= 0).all()
    assert homes["round-robin"].tolist() == [token % 4 for token in range(n)]


def test_tokens_of_hot_experts_come_in_the_first_passes() -> None:
    layer = workload()
    in_order, by_expert = layer.in_passes(3), layer.in_passes_by_expert(3)
    assert in_order.part.tolist() == [0, 1, 2, 0, 1, 2]
    assert by_expert.part.tolist() == [2, 0, 1, 2, 0, 1]
    assert (in_order.load > 0).any(axis=2).tolist() == [[1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert (by_expert.load > 0).any(axis=2).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 1]]
    np.testing.assert_array_equal(in_order.tokens, by_expert.tokens)
    np.testing.assert_array_equal(in_order.load.sum(axis=0), by_expert.load.sum(axis=0))


def test_one_pass_has_all_tokens_in_their_order() -> None:
    layer = workload()
    assert layer.in_passes_by_expert(1) is layer.in_passes(1)


def test_tokens_without_routed_experts_go_in_their_order() -> None:
    model = MoEModel.one_layer(d_model=8, d_ffn=4, n_experts=4, top_k=2, n_shared_experts=1, shared_d_ffn=4)
    model = model.model_copy(update={"n_experts": 0, "top_k": 0})  # a dense layer
    nothing = np.empty((6, 0))
    routed = replace(
        routing(EXPERTS, 4), experts=nothing.astype(np.int16), weights=nothing.astype(np.float32), n_experts=0
    )
    layer = LayerWorkload.of(model, package(1, 2, ddr=10**9), routed)
    assert layer.in_passes_by_expert(3).part.tolist() == [0, 1, 2, 0, 1, 2]


def run(strategy: str, options: Options | None = None) -> Result:
    """A layer of 128 tokens whose accumulators need two passes."""
    model = MoEModel.one_layer(d_model=64, d_ffn=64, n_experts=16, top_k=2)
    routed = synthesize(model, requests=4, tokens_per_request=40, layers=[0]).iteration(tokens=128, layer=0)
    chip = package(2, 2, ddr=10**9)
    die = chip.die.model_copy(update={"weight_buffer_bytes": 1 << 20, "token_buffer_bytes": 1 << 13})
    result = simulate(model, chip.model_copy(update={"die": die}), routed, strategy, options=options or Options())
    assert result.plan.passes > 1
    assert result.check() == 256
    assert result.prove() <= 1e-10
    return result


def test_adaptive_streaming_loads_cold_experts_in_the_last_pass_only() -> None:
    loaded = {}
    for strategy in ("fse-dp", "fse-dp-adaptive"):
        result = run(strategy)
        loaded[strategy] = int(result.timeline.bytes[result.timeline.kind == LOAD].sum()) / result.plan.passes
    assert loaded["fse-dp-adaptive"] < 0.9 * loaded["fse-dp"]


def test_what_the_first_pass_does_not_need_is_not_predicted() -> None:
    result = run("fse-dp-adaptive", Options(prediction=1.0, lead_ps=1000))
    needed = result.plan.batches(result.workload).load[0].sum(axis=1) > 0
    head_start = result.plan.head_start
    assert head_start is not None
    assert (head_start.experts, head_start.wrong) == (int(needed.sum()), 0)
    assert head_start.experts < result.workload.activated.size


@pytest.mark.parametrize("part", [[0, 1], [0, 0, 0, 0, 0, -1]])
def test_a_pass_is_given_for_each_token(part: list[int]) -> None:
    with pytest.raises(WorkloadError, match=rf"passes of {len(part)} tokens were given for 6 tokens; each must be 0"):
        workload().batches(np.array(part))
