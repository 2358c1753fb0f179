"""Layers whose latency can be worked out by hand.

d_model = 8, so a column is 24 bytes and, per token, 24 MACs: one cycle of 1 ns on a die of 24 MACs at 1 GHz.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from expertstream.engine.layout import COMPUTE, SEND
from expertstream.model import MoEModel
from expertstream.package import ChannelSpec, D2DSpec, DieSpec, Package
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options, strategy_names
from expertstream.trace import Routing, synthesize

NS = 1000
FAST = 9_000_000_000_000


def package(rows: int, cols: int, *, ddr: int, d2d: int = FAST, latency_ps: int = 0) -> Package:
    die = DieSpec(
        clock_hz=1_000_000_000,
        macs_per_cycle=24,
        weight_buffer_bytes=1 << 20,
        token_buffer_bytes=1 << 20,
        sram_bandwidth_bytes_per_s=FAST,
        control_overhead_cycles=0,
    )
    return Package(
        name="closed form",
        rows=rows,
        cols=cols,
        die=die,
        d2d=D2DSpec(bandwidth_bytes_per_s=d2d, latency_ps=latency_ps, header_bytes=0),
        channels=tuple(ChannelSpec(dies=(d,), bandwidth_bytes_per_s=ddr, latency_ps=0) for d in range(rows * cols)),
    )


def routing(chosen: list[list[int]], n_experts: int) -> Routing:
    experts = np.array(chosen, dtype=np.int16)
    return Routing(
        experts=experts,
        weights=np.full(experts.shape, 1 / experts.shape[1], dtype=np.float32),
        request=np.zeros(len(chosen), dtype=np.int32),
        layer=0,
        n_experts=n_experts,
        source="by hand",
        synthetic=True,
    )


def one_expert(
    columns: int, tokens: int, chip: Package, strategy: str, micro_slices: int = 1, decision_ps: int | None = 0
) -> Result:
    model = MoEModel.one_layer(d_model=8, d_ffn=columns, n_experts=1, top_k=1)
    options = Options(
        micro_slices=micro_slices,
        decision_ps=decision_ps,
        training=synthesize(model, requests=1, tokens_per_request=4, layers=(0,)),
    )
    return simulate(model, chip, routing([[0]] * tokens, 1), strategy, options=options)


@pytest.mark.parametrize("strategy", ["fse-dp", "fse-dp-paired", "tp", "ep-streamed"])
def test_one_die_bound_by_ddr_computes_the_last_micro_slice_after_the_last_load(strategy: str) -> None:
    # 4 micro-slices of 2 columns: 48 bytes at 1 GB/s = 48 ns to load; 3 tokens x 2 columns = 6 ns to compute
    result = one_expert(8, 3, package(1, 1, ddr=10**9), strategy, micro_slices=4)
    assert result.latency_ps == (4 * 48 + 6) * NS


def test_loads_take_longer_at_less_than_the_peak_bandwidth() -> None:
    chip = package(1, 1, ddr=10**9)
    half = chip.model_copy(update={"channels": (chip.channels[0].model_copy(update={"efficiency": 0.5}),)})
    result = one_expert(8, 3, half, "fse-dp", micro_slices=4)
    assert result.latency_ps == (2 * 4 * 48 + 6) * NS
    assert result.metrics.bounds.ddr_ps == 2 * 4 * 48 * NS


@pytest.mark.parametrize("strategy", ["fse-dp", "fse-dp-paired", "tp", "ep-streamed"])
def test_one_die_bound_by_compute_waits_for_the_first_load_only(strategy: str) -> None:
    # 100 tokens x 2 columns = 200 ns to compute each
    result = one_expert(8, 100, package(1, 1, ddr=10**9), strategy, micro_slices=4)
    assert result.latency_ps == (48 + 4 * 200) * NS


@pytest.mark.parametrize("strategy", ["fse-dp", "fse-dp-paired", "tp", "ep-streamed"])
def test_the_first_load_waits_for_the_scheduler_where_algorithm_1_decides(strategy: str) -> None:
    # push 1 expert, start, 1 stage of the sorter, list 1 + 2, decide 5: 11 cycles of 1.25 ns
    result = one_expert(8, 3, package(1, 1, ddr=10**9), strategy, micro_slices=4, decision_ps=None)
    scheduled = 13_750 if strategy.startswith("fse-dp") else 0
    assert result.latency_ps == (4 * 48 + 6) * NS + scheduled


@pytest.mark.parametrize("strategy", ["fse-dp", "fse-dp-paired", "fse-dp-adaptive", "tp", "tp-per-expert", "ep"])
def test_a_given_decision_time_is_that_of_the_expert_and_tokens_that_stay_cost_none(strategy: str) -> None:
    free, slow = (one_expert(8, 3, package(1, 1, ddr=10**9), strategy, 4, decision_ps=ps) for ps in (0, 1000 * NS))
    assert slow.latency_ps == free.latency_ps + 1000 * NS


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("layout", ["striped", "whole"])
def test_one_die_and_one_of_all_else_are_said_in_the_singular(strategy: str, layout: str) -> None:
    model = MoEModel.one_layer(d_model=8, d_ffn=8, n_experts=1, top_k=1)
    training = synthesize(model, requests=1, tokens_per_request=4, layers=(0,))
    depth = None if strategy == "fse-dp-naive-tokens" else 1
    options = Options(micro_slices=1, depth=depth, rings=1, layout=layout, training=training, prediction=1.0)
    result = simulate(model, package(1, 1, ddr=10**9), routing([[0]], 1), strategy, options=options)
    plan = result.plan
    said = "; ".join((plan.ddr_layout, plan.prefetch, *plan.notes, repr(plan), repr(result), result.summary()))
    assert not re.search(r"\b1 (?!is |pass)[a-z-]+s\b|\(s\)", said), said


def test_whole_experts_wait_for_all_of_their_weights() -> None:
    result = one_expert(8, 100, package(1, 1, ddr=10**9), "ep")
    assert result.latency_ps == (8 * 24 + 800) * NS


@pytest.mark.parametrize("strategy", ["fse-dp", "fse-dp-paired"])
def test_flow_fusion_hides_every_load_but_the_first(strategy: str) -> None:
    """The paper's example (section IV-B): four dies, two experts, a load takes as long as four computes.

    Each die has 4 tokens of either expert and loads 6 micro-slices of one column of each: 16 ns per load, 4 ns per
    compute. Every micro-slice visits four dies, so that a die computes four times per load and never waits again.
    """
    model = MoEModel.one_layer(d_model=8, d_ffn=24, n_experts=2, top_k=1)
    chosen = [[t % 2] for t in range(32)]
    chip = package(2, 2, ddr=1_500_000_000)
    result = simulate(model, chip, routing(chosen, 2), strategy, options=Options(micro_slices=6, decision_ps=0))
    assert result.latency_ps == (16 + 2 * 6 * 16) * NS
    assert np.bincount(result.timeline.die[result.timeline.kind == COMPUTE]).tolist() == [48] * 4


@pytest.mark.parametrize("strategy", ["fse-dp", "fse-dp-paired", "fse-dp-naive", "tp"])
def test_infinite_ddr_leaves_the_compute_bound(strategy: str) -> None:
    """Even loads on four dies: within the time of a few transfers of the bound."""
    result = one_expert(16, 64, package(2, 2, ddr=FAST), strategy)
    bound = result.metrics.bounds
    assert bound.compute_ps == 16 * 16 * NS
    assert bound.compute_ps <= result.latency_ps <= bound.compute_ps + 1 * NS


@pytest.mark.parametrize("strategy", strategy_names())
def test_one_token_is_computed_on_its_own_die_or_sent_there_and_back(strategy: str) -> None:
    result = one_expert(16, 1, package(2, 2, ddr=10**9), strategy)
    assert result.prove() <= 1e-10
    assert result.timeline.tokens.max() == 1
    assert result.latency_ps >= result.metrics.bounds.bound_ps


@pytest.mark.parametrize("strategy", strategy_names())
def test_a_link_latency_is_paid_and_a_free_link_is_not(strategy: str) -> None:
    near = one_expert(16, 8, package(2, 2, ddr=FAST), strategy).latency_ps
    far = one_expert(16, 8, package(2, 2, ddr=FAST, latency_ps=10**6), strategy).latency_ps
    assert far >= near + 10**6
    assert one_expert(16, 8, package(1, 1, ddr=FAST), strategy).latency_ps == (
        one_expert(16, 8, package(1, 1, ddr=FAST, latency_ps=10**6), strategy).latency_ps
    )


def test_tokens_that_circulate_take_their_partial_sums_along() -> None:
    # 1 ns to load a column, 1 ns to compute; then 16 bytes of activations, twice both (48), and 32 of partial sums
    chip = package(2, 2, ddr=24 * 10**9, d2d=10**9)
    result = one_expert(4, 4, chip, "fse-dp-naive-tokens")
    assert result.latency_ps == (1 + 1 + 16 + 1 + 48 + 1 + 48 + 1 + 32) * NS


def test_redispatched_tokens_are_computed_elsewhere_and_come_back() -> None:
    # Tokens 0 and 1 live on die 0, and only they meet expert 0: one moves to die 1.
    model = MoEModel.one_layer(d_model=8, d_ffn=1, n_experts=2, top_k=1)
    chip = package(1, 2, ddr=24 * 10**9, d2d=10**9)
    chosen = routing([[0], [0], [1], [1]], 2)
    stay = simulate(model, chip, chosen, "fse-dp", options=Options(micro_slices=1))
    move = simulate(model, chip, chosen, "fse-dp", options=Options(micro_slices=1, redispatch=True))
    assert np.bincount(stay.timeline.tokens[stay.timeline.kind == COMPUTE]).tolist() == [0, 0, 2]
    assert np.bincount(move.timeline.tokens[move.timeline.kind == COMPUTE]).tolist() == [0, 4]
    sent = move.timeline.bytes[(move.timeline.kind == SEND) & (move.timeline.tag < 0)]
    assert sorted(sent.tolist()) == [16, 16, 32, 32]
    assert move.prove() <= 1e-10
