from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from expertstream.errors import ConfigError, TraceError
from expertstream.model import MoEModel
from expertstream.trace import Profile, RoutingTrace, packaged_trace, statistics, synthesize
from expertstream.trace.packaged import FOLDER, SHAPES, write
from expertstream.trace.synthesis import PROFILES


def model(name: str, n_experts: int, top_k: int) -> Any:
    return SimpleNamespace(name=name, n_experts=n_experts, top_k=top_k)


# E, k, then figures of real captures: Gini of popularity, Zipf exponent, Jaccard of consecutive tokens, of one request,
# of different requests, recall of the next layer; None where captures do not give it.
CAPTURED = {
    "qwen3-30b-a3b": (128, 8, 0.63, 0.76, 0.29, None, None, None),
    "gpt-oss-20b": (32, 4, 0.45, 0.70, 0.33, 0.22, 0.145, 0.585),
    "deepseek-v2-lite": (64, 6, 0.175, 0.26, 0.18, 0.09, 0.06, 0.48),
    "qwen1.5-moe-a2.7b": (60, 4, 0.184, 0.30, 0.11, 0.05, 0.04, 0.40),
    "olmoe-1b-7b": (64, 8, 0.25, 0.39, None, None, None, None),
    "phi-3.5-moe": (16, 2, 0.35, 0.63, None, None, None, None),
    "mixtral-8x7b": (8, 2, 0.065, 0.155, None, None, None, None),
}
TOLERANCE = {
    "gini": 0.03,
    "zipf_exponent": 0.06,  # as far as two captures of gpt-oss-20b are apart
    "jaccard_consecutive": 0.025,
    "jaccard_same_request": 0.025,
    "jaccard_other_request": 0.03,
    "next_layer_recall": 0.07,
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CAPTURED)
def test_statistics_are_those_of_real_captures(name: str, seed: int) -> None:
    e, k, *figures = CAPTURED[name]
    layers = tuple(range(6))
    shape = model(name, int(e or 0), int(k or 0))
    trace = synthesize(shape, requests=48, layers=layers, seed=seed, profile=PROFILES[name])
    measured = statistics(trace).to_dict()
    for (key, tolerance), figure in zip(TOLERANCE.items(), figures, strict=True):
        if figure is not None:
            assert measured[key] == pytest.approx(figure, abs=tolerance), key


def test_one_request_activates_fewer_experts_than_many() -> None:
    trace = synthesize(model("gpt-oss-20b", 32, 4), requests=64, layers=range(6), profile=PROFILES["gpt-oss-20b"])
    s = statistics(trace)  # captures: 0.91 and 0.69; independent uniform choices: 1.00
    assert s.activated_share_64_round_robin == pytest.approx(0.91, abs=0.06)
    assert s.activated_share_64_single_request == pytest.approx(0.69, abs=0.08)


def test_qwen3_decode_of_one_request_activates_as_many_as_reported() -> None:
    trace = synthesize(model("qwen3-30b-a3b", 128, 8), requests=16, layers=range(6))
    for tokens, reported in ((8, 29.0), (32, 52.8), (128, 75.2)):
        distinct = [
            np.unique(trace.experts[trace.tokens_of(tokens, mix="single-request", request=r), layer]).size
            for r in range(16)
            for layer in range(6)
        ]
        assert np.mean(distinct) == pytest.approx(reported, rel=0.15), tokens


def test_popularity_differs_between_layers() -> None:
    trace = synthesize(model("qwen3-30b-a3b", 128, 8), requests=32, layers=range(12))
    counts = [np.bincount(trace.experts[:, layer].reshape(-1), minlength=128) for layer in range(12)]
    correlation = np.corrcoef(counts)[np.triu_indices(12, 1)]
    assert abs(correlation.mean()) < 0.05


def test_reuse_fades_with_distance_and_stays_above_other_requests() -> None:
    trace = synthesize(model("deepseek-v2-lite", 64, 6), requests=48, layers=range(4))
    experts = trace.experts.reshape(48, 160, 4, 6)

    def overlap(lag: int) -> float:
        common = (experts[:, lag:, :, :, None] == experts[:, :-lag, :, None, :]).sum(axis=(3, 4))
        return float((common / (12 - common)).mean())

    captured = {1: 0.177, 2: 0.133, 4: 0.113, 16: 0.100}
    for lag, figure in captured.items():
        assert overlap(lag) == pytest.approx(figure, abs=0.02), lag


def test_same_seed_same_trace_other_seed_other_trace() -> None:
    shape = model("qwen3-30b-a3b", 128, 8)
    first, again, other = (synthesize(shape, requests=2, tokens_per_request=9, seed=s) for s in (3, 3, 4))
    assert np.array_equal(first.experts, again.experts)
    assert first.weights is not None
    assert np.array_equal(first.weights, again.weights)  # type: ignore[arg-type]
    assert not np.array_equal(first.experts, other.experts)


def test_labels() -> None:
    trace = synthesize(model("new-model", 8, 2), requests=2, tokens_per_request=3, layers=(4, 9), seed=7)
    assert trace.synthetic
    assert (trace.model, trace.source) == ("new-model", "synthetic routing for new-model, seed 7")
    assert trace.request.tolist() == [0, 0, 0, 1, 1, 1]
    assert trace.position.tolist() == [0, 1, 2, 0, 1, 2]
    assert trace.layer_index.tolist() == [4, 9]
    assert trace.weights is not None
    assert np.allclose(trace.weights.sum(axis=2), 1, atol=2e-3)
    assert (np.diff(trace.weights, axis=2) <= 0).all()
    assert trace.iteration(3, 9).synthetic


def test_layers_default_to_the_models_first_moe_layers() -> None:
    shape = SimpleNamespace(name="m", n_experts=8, top_k=2, moe_layers=(3, 4, 5, 6, 7))
    assert synthesize(shape, requests=1, tokens_per_request=1).layer_index.tolist() == [3, 4, 5, 6]


def test_paper_variants_use_the_published_models_profile() -> None:
    a, b = (synthesize(model(n, 16, 2), requests=2) for n in ("phi-3.5-moe", "phi-3.5-moe-paper"))
    assert np.array_equal(a.experts, b.experts)


@pytest.mark.parametrize(("e", "k"), [(1, 1), (2, 2), (64, 8), (256, 8)])
def test_any_shape(e: int, k: int) -> None:
    trace = synthesize(model("any", e, k), requests=1, tokens_per_request=1, layers=(0,))
    assert trace.experts.shape == (1, 1, k)


def test_1024_tokens_of_48_layers_of_128_experts_are_quick() -> None:
    start = time.process_time()
    synthesize(model("qwen3-30b-a3b", 128, 8), requests=8, tokens_per_request=128, layers=range(48))
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        (
            {"requests": 0},
            "requests is 0, tokens_per_request 160, layers [0, 1, 2, 3], seed 0; "
            "at least one request, token and layer and a seed of 0 or more are needed",
        ),
        (
            {"layers": (), "seed": -1},
            "requests is 8, tokens_per_request 160, layers [], seed -1; "
            "at least one request, token and layer and a seed of 0 or more are needed",
        ),
        ({"layers": (1, 1)}, "synthetic routing for m, seed 0: layer_index names a layer twice: [1, 1]"),  # no own ones
    ],
)
def test_bad_requests(kwargs: dict[str, Any], expected: str) -> None:
    with pytest.raises(TraceError) as caught:
        synthesize(model("m", 8, 2), **kwargs)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"layers": [99]}, "layer 99 is not an MoE layer of m; those are 3 to 7"),
        ({"layers": [3, -1]}, "layer -1 is not an MoE layer of m; those are 3 to 7"),
        ({"layers": 2}, "layer 2 is not an MoE layer of m; those are 3 to 7"),
        ({"layers": [4, 5, 4]}, "layer 4 is given twice; give each layer once"),
        ({"layers": ["4"]}, "a layer is '4'; a whole number is needed"),
        ({"layers": [4.0]}, "a layer is 4.0; a whole number is needed"),
        ({"layers": [True]}, "a layer is True; a whole number is needed"),
        ({"requests": "3"}, "requests is '3'; a whole number is needed"),
        ({"tokens_per_request": float("nan")}, "tokens_per_request is nan; a whole number is needed"),
        ({"seed": 0.5}, "seed is 0.5; a whole number is needed"),
    ],
)
def test_layers_that_the_model_lacks_and_numbers_that_are_none(kwargs: dict[str, Any], expected: str) -> None:
    shape = SimpleNamespace(name="m", n_experts=8, top_k=2, moe_layers=(3, 4, 5, 6, 7))
    with pytest.raises(ConfigError) as caught:
        synthesize(shape, **kwargs)
    assert str(caught.value) == expected


def test_one_layer_may_stand_for_a_list_of_one() -> None:
    shape = SimpleNamespace(name="m", n_experts=8, top_k=2, moe_layers=(3, 4))
    assert synthesize(shape, requests=1, tokens_per_request=1, layers=4).layer_index.tolist() == [4]


def test_a_model_without_a_packaged_trace_gets_one_of_its_own_layers() -> None:
    shape = SimpleNamespace(name="m", n_experts=8, top_k=2, moe_layers=(0,))
    assert packaged_trace(shape).layer_index.tolist() == [0]


def test_k_larger_than_the_experts() -> None:
    with pytest.raises(TraceError, match=r"^m has 2 experts and k = 3; k from 1 to the experts is needed$"):
        synthesize(model("m", 2, 3))


def test_bad_profiles() -> None:
    good = PROFILES["gpt-oss-20b"].__dict__
    with pytest.raises(TraceError, match=r"^the profile's memory is 1.5; it must be from 0 to 1$"):
        Profile(**{**good, "memory": 1.5})
    with pytest.raises(TraceError, match=r"^the profile's skew is nan; it must be from 0 to 100$"):
        Profile(**{**good, "skew": float("nan")})
    with pytest.raises(TraceError, match=r"request 0.6 and local 0.5 add up to more than 1; lower one of them$"):
        Profile(**{**good, "request": 0.6, "local": 0.5})


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: str(s.name))
def test_packaged_traces(shape: Any) -> None:
    path = FOLDER / f"{shape.name}.parquet"
    trace = packaged_trace(shape.name)
    assert path.stat().st_size < 250_000
    trace.check_fits(MoEModel.preset(shape.name))
    assert trace.synthetic
    assert trace.source == f"synthetic routing for {shape.name}, seed 0"
    assert all(trace.iteration(1024, layer).counts.sum() == 1024 * shape.top_k for layer in (1, 2, 3, 4))
    assert np.array_equal(
        packaged_trace(model(f"{shape.name}-paper", shape.n_experts, shape.top_k)).experts, trace.experts
    )


def test_packaged_traces_are_written_alike_every_time(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    for shape in SHAPES:
        name = f"{shape.name}.parquet"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        fresh, packaged = RoutingTrace.load(tmp_path / "a" / name), RoutingTrace.load(FOLDER / name)
        assert np.array_equal(fresh.experts, packaged.experts)  # bytes may differ with another Parquet library
        assert fresh.weights is not None
        assert packaged.weights is not None
        assert np.allclose(fresh.weights, packaged.weights, atol=1e-3)


def test_packaged_trace_of_other_models() -> None:
    made = packaged_trace(model("qwen3-30b-a3b", 16, 4))
    assert (made.n_experts, made.top_k, made.n_tokens) == (16, 4, 1280)
    with pytest.raises(TraceError) as caught:
        packaged_trace("phi-3.5")
    assert str(caught.value) == (
        "there is no packaged trace of 'phi-3.5'; did you mean 'phi-3.5-moe'?; packaged: phi-3.5-moe, yuan2-m32, "
        "deepseek-moe-16b, qwen3-30b-a3b; synthesize a trace for any other model"
    )
