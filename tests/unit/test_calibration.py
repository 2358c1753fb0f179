from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from expertstream.errors import TraceError
from expertstream.trace import RoutingTrace, calibrate, held_out, statistics, synthesize
from expertstream.trace.calibration import BLOCK_TOKENS, Calibration, chosen
from expertstream.trace.held_out import LIMIT, co_activation, compare, folds, halves
from expertstream.trace.statistics import activated_fraction
from expertstream.trace.synthesis import PROFILES

SHAPE = SimpleNamespace(name="gpt-oss-20b", n_experts=32, top_k=4)


@pytest.fixture(scope="module")
def real() -> RoutingTrace:
    """Stands in for a capture: strong locality, skew and layer dependence."""
    return synthesize(SHAPE, requests=60, tokens_per_request=72, layers=(3, 7), seed=5, profile=PROFILES["gpt-oss-20b"])


@pytest.fixture(scope="module")
def fitted(real: RoutingTrace) -> Calibration:
    return calibrate(real)


def test_a_twin_has_the_requests_of_the_trace_and_other_choices(real: RoutingTrace, fitted: Calibration) -> None:
    mixed = np.random.default_rng(0).permutation(real.n_tokens)
    shuffled = replace(
        real,
        experts=real.experts[mixed],
        weights=None,
        request=real.request[mixed],
        position=real.position[mixed],
    )
    twin = fitted.like(shuffled)
    assert np.array_equal(twin.request, shuffled.request)
    assert np.array_equal(twin.position, shuffled.position)
    assert (twin.layer_index.tolist(), twin.n_experts, twin.top_k) == ([3, 7], 32, 4)
    assert twin.synthetic
    assert twin.source == "synthetic routing like synthetic routing for gpt-oss-20b, seed 5, seed 0"
    assert not np.array_equal(twin.experts, shuffled.experts)
    back = np.argsort(mixed)
    assert np.array_equal(twin.experts[back], fitted.like(real).experts)


def test_a_twin_has_the_statistics_of_the_trace(real: RoutingTrace, fitted: Calibration) -> None:
    twin = fitted.requests([72] * 120, seed=1)
    for mix, most in (("round-robin", 1024), ("single-request", 64)):
        for tokens in (n for n in (16, 64, 256, 1024) if n <= most):
            a, b = (activated_fraction(t, tokens, mix, most_windows=500) for t in (real, twin))  # type: ignore[arg-type]
            assert b == pytest.approx(a, abs=LIMIT), (mix, tokens)
    a, b = statistics(real).to_dict(), statistics(twin).to_dict()
    for name, tolerance in {
        "gini": 0.03,
        "zipf_exponent": 0.06,
        "jaccard_consecutive": 0.03,
        "jaccard_same_request": 0.03,
        "jaccard_other_request": 0.02,
        "next_layer_recall": 0.12,
    }.items():
        assert b[name] == pytest.approx(a[name], abs=tolerance), name
    assert b["next_layer_recall"] > a["popularity_recall"] + 0.1


def test_independent_uniform_routing_is_fitted_as_such() -> None:
    rng = np.random.default_rng(1)
    experts = rng.permuted(np.tile(np.arange(16, dtype=np.int16), (2000, 1)), axis=1)[:, None, :2]
    real = replace(
        synthesize(SHAPE, requests=20, tokens_per_request=100, layers=(0,)), experts=experts, weights=None, n_experts=16
    )
    layer = calibrate(real).layers[0]
    assert np.abs(layer.popularity).max() < 0.15
    assert np.diag(layer.request_root).max() ** 2 < 0.1
    assert layer.shares[0] > 0.9


def test_popularity_and_co_activation_are_recovered() -> None:
    rng = np.random.default_rng(2)
    group = rng.integers(0, 4, 4000)[:, None]  # experts 4g to 4g + 3 are chosen together
    score = np.where(np.arange(16) // 4 == group, 2.0, 0.0) + rng.standard_normal((4000, 16)) + np.arange(16) * 0.05
    experts = chosen(score, 3).astype(np.int16)[:, None]
    real = replace(
        synthesize(SHAPE, requests=40, tokens_per_request=100, layers=(0,)), experts=experts, weights=None, n_experts=16
    )
    twin = calibrate(real).like(real, seed=1)
    share = [np.bincount(t.experts.reshape(-1), minlength=16) / 12000 for t in (real, twin)]
    assert np.abs(share[0] - share[1]).max() < 0.01
    above = np.triu_indices(16, 1)
    a, b = co_activation(real, 0)[above], co_activation(twin, 0)[above]
    assert np.corrcoef(a, b)[0, 1] > 0.9


def test_gate_weights_are_like_those_captured(real: RoutingTrace, fitted: Calibration) -> None:
    twin = fitted.like(real)
    assert real.weights is not None
    assert twin.weights is not None
    assert twin.weights.sum(axis=2).mean() == pytest.approx(real.weights.sum(axis=2).mean(), abs=0.01)
    assert twin.weights.max(axis=2).mean() == pytest.approx(real.weights.max(axis=2).mean(), abs=0.03)


def test_fits_use_one_thread_as_more_wait_for_one_another(real: RoutingTrace) -> None:
    threads: list[int] = []

    def look(*_: object) -> None:
        threads.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

    with threadpool_limits(2, "blas"):
        calibrate(real.of_layers([3]), report=look)
    assert threads
    assert set(threads) == {1}


def test_same_seed_same_twin_and_longer_traces_start_alike(fitted: Calibration) -> None:
    lengths = [300] * (BLOCK_TOKENS // 300 + 2)  # more than one block
    first, again, other = (fitted.requests(lengths, seed=s) for s in (3, 3, 4))
    assert np.array_equal(first.experts, again.experts)
    assert not np.array_equal(first.experts, other.experts)
    assert np.array_equal(first.experts[:300], fitted.requests([300], seed=3).experts)
    assert np.array_equal(first.request, np.repeat(np.arange(len(lengths)), 300))


def test_the_fit_is_deterministic_and_leaves_unknown_requests_out() -> None:
    small = synthesize(
        SimpleNamespace(name="m", n_experts=8, top_k=2), requests=9, tokens_per_request=20, layers=(0, 1)
    )
    request = small.request.copy()
    request[:20] = -1
    partly = replace(small, request=request)
    changed = small.experts.copy()
    changed[:20] = [6, 7]
    first, second = calibrate(partly), calibrate(replace(partly, experts=changed))
    for a, b in zip(first.layers, second.layers, strict=True):
        assert np.array_equal(a.request_root, b.request_root)
        assert np.array_equal(a.depth, b.depth)
    assert np.array_equal(first.like(partly).request, request)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            -1,
            "0 tokens of known request; calibration needs at least 64 "
            "(a trace without request numbers says nothing of a request's locality)",
        ),
        (0, "1 known request; two are needed to fit on one and compare with the other"),
    ],
)
def test_traces_that_cannot_be_fitted(real: RoutingTrace, request_: int, expected: str) -> None:
    trace = replace(real, request=np.full(real.n_tokens, request_, np.int32))
    with pytest.raises(TraceError) as caught:
        calibrate(trace) if request_ < 0 else held_out(trace)
    assert str(caught.value) == f"{real.source}: {expected}"


def test_bad_arguments(fitted: Calibration, real: RoutingTrace) -> None:
    with pytest.raises(TraceError, match=r"^seed is -1; it must not be negative$"):
        fitted.like(real, seed=-1)
    with pytest.raises(
        TraceError, match=r"^lengths is \[3, 0\]; at least one request of at least one token is needed$"
    ):
        fitted.requests([3, 0])
    everything = synthesize(SimpleNamespace(name="m", n_experts=2, top_k=2), requests=2)
    with pytest.raises(TraceError, match=r"every token chooses all 2 experts; there is nothing to calibrate$"):
        calibrate(everything)


def test_windows_of_a_request_activate_as_many_experts_though_neighbours_share_more() -> None:
    """A fifth of the tokens are one frequent word, which always goes to the same experts; all others go anywhere."""
    rng = np.random.default_rng(4)
    experts = rng.permuted(np.tile(np.arange(32, dtype=np.int16), (60 * 72, 1)), axis=1)[:, None, :4]
    experts[rng.random(60 * 72) < 0.2] = np.arange(4)
    real = replace(synthesize(SHAPE, requests=60, tokens_per_request=72, layers=(0,)), experts=experts, weights=None)
    twin = calibrate(real).requests([72] * 240)
    for tokens in (16, 64):
        a, b = (activated_fraction(t, tokens, "single-request", most_windows=500) for t in (real, twin))
        assert b == pytest.approx(a, abs=0.008), tokens


def test_halves_hold_whole_requests_of_alike_lengths(real: RoutingTrace) -> None:
    lengths = np.random.default_rng(0).integers(1, 72, 60)
    position = np.tile(np.arange(72), 60)
    short = np.repeat(lengths, 72) > position
    uneven = replace(
        real,
        experts=real.experts[short],
        weights=None,
        request=real.request[short],
        position=real.position[short],
        phase=real.phase[short],
    )
    first, second = halves(uneven)
    requests = [np.unique(half.request).tolist() for half in (first, second)]
    assert sorted(requests[0] + requests[1]) == list(range(60))
    assert len(requests[0]) == len(requests[1]) == 30
    ordered = [np.sort(lengths[of]) for of in requests]
    assert np.abs(ordered[0] - ordered[1]).max() <= np.diff(np.sort(lengths)).max() * 2
    again, other = halves(uneven), halves(uneven, seed=1)
    assert np.array_equal(first.experts, again[0].experts)
    assert np.unique(other[0].request).tolist() != requests[0]


def test_held_out_judges_each_half_by_a_twin_fitted_to_the_other(real: RoutingTrace) -> None:
    plain = replace(real, weights=None)
    told: list[tuple[int, int, str]] = []
    parts = folds(plain, report=lambda *what: told.append(what))
    assert told == [(1, 4, "layer 3"), (2, 4, "layer 7"), (3, 4, "layer 3"), (4, 4, "layer 7")]
    for part, half in zip(parts, reversed(halves(plain)), strict=True):
        assert np.array_equal(part.held_out.experts, half.experts)
        assert np.array_equal(part.twin.experts, calibrate(part.fitted).like(half).experts)
    found = compare(parts)
    assert found == held_out(plain)
    assert {(row.mix, row.tokens) for row in found.activated} == {
        *(("round-robin", n) for n in (16, 64, 256, 1024)),
        *(("single-request", n) for n in (16, 64)),
    }
    for row in found.activated:
        measured = [
            [
                activated_fraction(t, row.tokens, row.mix, most_windows=256)
                for t in (part.fitted, part.held_out, part.twin)
            ]
            for part in parts
        ]
        assert row.misses == tuple(twin - left for _, left, twin in measured)
        assert row.miss == pytest.approx(sum(row.misses) / 2)
        assert abs(row.worst) == max(abs(miss) for miss in row.misses)
        assert row.apart == max(abs(fitted - left) for fitted, left, _ in measured)
        assert abs(row.miss) <= abs(row.worst)
    assert found.worst == max(abs(row.worst) for row in found.activated)
    assert found.miss == max(abs(row.miss) for row in found.activated)
    assert found.activated[0].uniform == pytest.approx(1 - (28 / 32) ** 16)
    assert found.to_dict()["statistics"]["co_activation"]["held_out"] == 1.0


@pytest.mark.parametrize(
    "name", ["flame-moe-290m__pretraining-text__prefill", "qwen1.5-moe-a2.7b-chat__gsm8k__vllm-batched-5-layers"]
)
def test_twins_of_captures_are_within_three_points(real_traces: Path, name: str) -> None:
    """The two smallest captures; benchmarks/twins.py does all of them (docs/traces.md)."""
    found = held_out(RoutingTrace.load(real_traces / f"{name}.npz"))
    assert found.worst <= LIMIT
    assert found.statistics["co_activation"][2] > 0.6
