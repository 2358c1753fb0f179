"""Weights that load before the gate has answered, by prediction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from expertstream.engine.layout import COMPUTE, LOAD
from expertstream.errors import ConfigError, WorkloadError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options, get_strategy, strategy_names
from expertstream.strategy.fse_dp import plan_paired
from expertstream.trace import Routing, packaged_trace, synthesize
from expertstream.trace.prediction import NextLayer, guess_from_trace, guess_with_accuracy, recall
from tests.property.cases import routing_of, training_of
from tests.unit.test_closed_forms import NS, package, routing

FOUR = [[0], [1], [2], [3]]


def run(strategy: str, chosen: list[list[int]], n_experts: int, **options: object) -> Result:
    """Experts of 8 columns on one die: each 192 ns to load at 1 GB/s, and 8 ns a token to compute."""
    model = MoEModel.one_layer(d_model=8, d_ffn=8, n_experts=n_experts, top_k=len(chosen[0]), n_layers=2)
    training = synthesize(model, requests=2, tokens_per_request=8, layers=(0, 1))
    given = Options(micro_slices=1, training=training, decision_ps=0, **options)  # type: ignore[arg-type]
    return simulate(
        model, package(1, 1, ddr=10**9), replace(routing(chosen, n_experts), layer=1), strategy, options=given
    )


@pytest.mark.parametrize("strategy", ["fse-dp", "fse-dp-paired", "tp", "fse-dp-naive"])
@pytest.mark.parametrize("lead_ns", [50, 192, 400])
def test_a_right_prediction_hides_the_lead_time(strategy: str, lead_ns: int) -> None:
    plain = run(strategy, FOUR, 4)
    ahead = run(strategy, FOUR, 4, prediction=1.0, lead_ps=lead_ns * NS)
    assert plain.latency_ps == (4 * 192 + 8) * NS
    assert ahead.latency_ps == plain.latency_ps - lead_ns * NS
    assert ahead.metrics.bounds.ddr_ps == (4 * 192 - lead_ns) * NS
    assert ahead.metrics.wasted_bytes == 0
    assert ahead.metrics.ahead_bytes == -(-lead_ns // 192) * 192
    assert ahead.check() == 4


@pytest.mark.parametrize("strategy", strategy_names())
def test_with_time_and_room_nothing_is_left_to_load(strategy: str) -> None:
    result = run(strategy, FOUR, 4, prediction=1.0, lead_ps=10_000 * NS)
    loads = result.timeline.kind == LOAD
    if strategy in ("ep", "ep-replicated", "hydra"):  # they have room for two whole experts
        assert result.metrics.ahead_bytes == 2 * 192
        assert result.latency_ps == (8 + 2 * 192 + 8) * NS  # the third is loaded when the first has been computed
    else:
        assert (result.timeline.end_ps[loads] <= result.timeline.origin_ps).all()
        assert result.latency_ps == 4 * 8 * NS
        assert result.metrics.utilisation == 1.0
    assert result.metrics.bounds.bound_ps <= result.latency_ps


@pytest.mark.parametrize("strategy", strategy_names())
def test_weights_load_ahead_where_dies_store_and_forward(strategy: str) -> None:
    model = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2)
    routed = routing_of(model, 48, 1.0, 3)
    chip = Package.preset("3x3").replace(**{"d2d.switching": "store-and-forward"})
    given = Options(training=training_of(routed, 3))
    plain = simulate(model, chip, routed, strategy, options=given)
    for accuracy in (1.0, 0.5):
        options = replace(given, prediction=accuracy, lead_ps=10**6)
        ahead = simulate(model, chip, routed, strategy, options=options)
        assert ahead.metrics.ahead_bytes > 0
        assert ahead.metrics.wasted_bytes == 0 or accuracy < 1
        assert ahead.prove() <= 1e-10
        assert ahead.latency_ps < plain.latency_ps or accuracy < 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_parts_of_an_expert_that_wait_for_their_turn_leave_room_for_others(seed: int) -> None:
    """Blocks of a shared expert fill a small buffer ahead; routed ones hold the token areas that their turns need."""
    model = MoEModel.one_layer(d_model=24, d_ffn=39, n_experts=10, top_k=2, n_shared_experts=1, shared_d_ffn=29)
    chip = Package.preset("test-chip-2x2").replace(
        rows=1,
        cols=3,
        channels=[
            {"dies": (1,), "bandwidth": "100 MB/s", "latency": "0 ns"},
            {"dies": (0,), "bandwidth": "1000 GB/s", "latency": "0 ns"},
        ],
        **{"d2d.latency_ps": 0, "die.weight_buffer_bytes": 379, "die.token_buffer_bytes": 11261},
    )
    options = Options(micro_slices=1, prediction=0.9, lead_ps=10**7)
    result = simulate(model, chip, routing_of(model, 36, 1.0, seed), "tp-per-expert", options=options)
    assert result.metrics.ahead_bytes > 0
    assert result.prove() <= 1e-10


def test_a_wrong_prediction_costs_bandwidth_until_the_gate_corrects_it() -> None:
    # One token, expert 0 of 64; the prediction of 0.001 names another one, of which one load has begun at 100 ns.
    plain = run("fse-dp", [[0]], 64)
    wrong = run("fse-dp", [[0]], 64, prediction=0.001, lead_ps=100 * NS)
    assert plain.latency_ps == (192 + 8) * NS
    assert wrong.metrics.wasted_bytes == 192
    assert wrong.metrics.ahead_bytes == 0
    assert wrong.latency_ps == (192 - 100 + 192 + 8) * NS
    assert wrong.plan.head_start is not None
    assert (wrong.plan.head_start.recall, wrong.plan.head_start.wrong) == (0.0, 1)
    assert wrong.check() == 1
    assert wrong.prove() <= 1e-10


def test_what_is_dropped_gives_its_space_back_with_the_gates_result() -> None:
    result = run("fse-dp", [[0]], 64, prediction=0.001, lead_ps=1000 * NS)
    timeline = result.timeline
    assert result.metrics.wasted_bytes == 192
    first = int(np.argmin(timeline.hold_from_ps))
    assert timeline.hold_to_ps[timeline.hold_bytes == 192].min() == 1000 * NS
    assert timeline.hold_from_ps[first] == 0
    assert result.latency_ps == (192 + 8) * NS


def test_the_latency_counts_from_the_gates_result() -> None:
    result = run("fse-dp-paired", FOUR, 4, prediction=1.0, lead_ps=300 * NS)
    timeline = result.timeline
    assert timeline.origin_ps == 300 * NS
    assert timeline.end_of_all_ps == timeline.end_ps.max() == 300 * NS + result.latency_ps
    assert timeline.start_ps[timeline.kind == COMPUTE].min() >= 300 * NS
    stalls = result.metrics.stall_ps.sum(axis=1) + result.metrics.busy.compute_ps
    assert stalls.tolist() == [result.latency_ps]
    assert result.metrics.busy.channel_ps.tolist() == [(4 * 192 - 300) * NS]
    assert "head start   300 ns before the gate's result: 384 B that were needed, 0 B wasted" in result.summary()


@pytest.mark.parametrize("strategy", strategy_names())
def test_better_predictions_waste_less_and_all_do_the_same_work(strategy: str) -> None:
    model, chip = MoEModel.preset("qwen3-30b-a3b"), Package.preset("test-chip-2x2")
    training, rest = packaged_trace(model).split(least=16)
    layer = int(rest.layer_index[1])
    wasted = []
    for accuracy in (0.05, 0.5, 1.0):
        options = Options(training=training, prediction=accuracy, lead_ps=400_000_000, placement="round-robin")
        result = simulate(model, chip, rest.iteration(16, layer), strategy, options=options)
        assert result.check() == 16 * 8
        assert result.latency_ps >= result.metrics.bounds.bound_ps
        wasted.append(result.metrics.wasted_bytes)
    assert wasted[2] == 0
    assert wasted[0] > 0
    assert wasted[0] >= wasted[1]


def test_without_lead_time_a_prediction_changes_nothing() -> None:
    plain, none = run("fse-dp-paired", FOUR, 4), run("fse-dp-paired", FOUR, 4, prediction=0.5, lead_ps=0)
    assert plain.timeline.start_ps.tolist() == none.timeline.start_ps.tolist()
    assert none.plan.head_start is None


@pytest.mark.parametrize("prediction", [0, 1.5, "routes", True])
def test_options_are_checked(prediction: object) -> None:
    with pytest.raises(ConfigError, match="allowed: an accuracy above 0 and up to 1, such as"):
        Options(prediction=prediction)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lead_ps is -1; it must be from 0 to 1 s"):
        Options(lead_ps=-1)


def test_a_prediction_from_the_trace_needs_a_training_part() -> None:
    model = MoEModel.one_layer(d_model=8, d_ffn=8, n_experts=4, top_k=1)
    with pytest.raises(WorkloadError, match="prediction 'trace' is fitted on a training part of the trace, and none"):
        simulate(model, package(1, 1, ddr=10**9), routing(FOUR, 4), "tp", options=Options(prediction="trace"))


def test_a_strategy_without_the_option_says_so() -> None:
    model = MoEModel.one_layer(d_model=8, d_ffn=8, n_experts=4, top_k=1)
    own = replace(get_strategy("fse-dp-paired"), name="mine", plan=plan_paired)
    with pytest.raises(ConfigError, match="strategy 'mine' has no option prediction; wrap its plan with"):
        simulate(model, package(1, 1, ddr=10**9), routing(FOUR, 4), own, options=Options(prediction=0.5))


def _random(tokens: int, n_experts: int, k: int) -> Routing:
    rng = np.random.default_rng(0)
    chosen = np.argsort(rng.random((tokens, n_experts)), axis=1)[:, :k]
    return replace(routing(chosen.tolist(), n_experts), layer=1)


def test_guesses_have_the_accuracy_asked_for_and_name_distinct_experts() -> None:
    one = _random(500, 32, 4)
    for accuracy in (0.1, 0.5, 0.9):
        guess = guess_with_accuracy(one, accuracy)
        assert abs(recall(one.experts, guess) - accuracy) < 0.03
        assert all(len(set(row)) == 4 for row in guess.tolist())
    assert (guess_with_accuracy(one, 1.0) == one.experts).all()
    better = guess_with_accuracy(one, 0.9) == one.experts
    assert (better | (guess_with_accuracy(one, 0.5) != one.experts)).all()  # a better predictor keeps all hits


def test_a_layer_that_follows_from_the_one_before_is_predicted() -> None:
    before = _random(200, 16, 2).experts
    after = ((before + 3) % 16).astype(np.int16)
    guess = NextLayer.fitted(before[:100], after[:100], 16).guess(before[100:], 2)
    assert recall(after[100:], guess) > 0.9


def test_a_guess_from_the_trace_follows_the_layer_before() -> None:
    model = MoEModel.one_layer(d_model=8, d_ffn=8, n_experts=16, top_k=2, n_layers=2)
    chosen = _random(200, 16, 2).experts
    both = np.stack((chosen, (chosen + 3) % 16), axis=1).astype(np.int16)
    training = replace(synthesize(model, requests=4, tokens_per_request=50, layers=(0, 1)), experts=both)
    routed = replace(_random(200, 16, 2), experts=both[100:, 1], before=both[100:, 0])
    assert recall(routed.experts, guess_from_trace(routed, training)) > 0.9


def test_where_the_layer_before_is_not_known_popular_experts_are_guessed() -> None:
    model = MoEModel.one_layer(d_model=8, d_ffn=8, n_experts=8, top_k=2, n_layers=2)
    training = synthesize(model, requests=2, tokens_per_request=64, layers=(1,), seed=1)
    counts = np.bincount(training.experts.reshape(-1), minlength=8)
    popular = np.argsort(-counts, kind="stable")[:2].tolist()
    assert guess_from_trace(_random(3, 8, 2), training).tolist() == [popular] * 3


def test_weights_of_a_later_pass_do_not_take_the_room_of_the_first() -> None:
    """Two passes and room for one expert: what is predicted for all tokens is needed in the second."""
    model = MoEModel.one_layer(d_model=24, d_ffn=1, n_experts=7, top_k=1, n_layers=2)
    chip = package(1, 2, ddr=10**9)
    die = chip.die.model_copy(update={"weight_buffer_bytes": 128, "token_buffer_bytes": 512})
    routed = replace(routing([[3], [4], [6], [0]], 7), layer=1)
    training = synthesize(model, requests=1, tokens_per_request=2, layers=(0, 1))
    training = replace(training, experts=np.zeros((2, 2, 1), dtype=np.int16))
    options = Options(training=training, prediction="trace", lead_ps=1)
    result = simulate(model, chip.model_copy(update={"die": die}), routed, "tp", options=options)
    assert result.plan.passes == 2
    assert result.prove() <= 1e-10


def test_steps_of_an_expert_stay_together_when_predicted_ones_start_first() -> None:
    """Tokens that are re-dispatched keep their room until the last step: two experts at a time, not two first steps."""
    model = MoEModel.one_layer(d_model=8, d_ffn=11, n_experts=6, top_k=2)
    chip = package(2, 2, ddr=10**9)
    die = chip.die.model_copy(update={"weight_buffer_bytes": 100, "token_buffer_bytes": 400})
    chip = chip.model_copy(update={"die": die, "channels": chip.channels[:2]})
    routed = routing_of(model, 3, 1.0, 90)
    for prediction in (0.7, "trace"):
        options = Options(redispatch=True, prediction=prediction, lead_ps=10**6, training=training_of(routed, 90))
        result = simulate(model, chip, routed, "fse-dp-naive-tokens", options=options)
        assert result.prove() <= 1e-10
