from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from expertstream.errors import TraceError
from expertstream.trace import RoutingTrace, calibrate, load_calibration, save_calibration, synthesize
from expertstream.trace.calibrated import FOLDER, SOURCES, packaged_calibration
from expertstream.trace.calibration import Calibration
from expertstream.trace.statistics import activated_fraction, statistics

# E, k; layers, requests and tokens drawn; then figures of the published capture at these layers: activated fraction of
# 16 and 64 tokens of many requests and of one, and the Gini of popularity.
PUBLISHED: dict[str, tuple[int, int, tuple[int, ...], int, int, tuple[float, float, float, float], float]] = {
    "gpt-oss-20b": (32, 4, tuple(range(24)), 124, 72, (0.709, 0.913, 0.513, 0.693), 0.44),
    "deepseek-v2-lite": (64, 6, (1, 9, 18, 26), 120, 80, (0.772, 0.994, 0.645, 0.914), 0.15),
    "qwen1.5-moe-a2.7b": (60, 4, (0, 7, 15, 23), 24, 128, (0.637, 0.965, 0.588, 0.943), 0.18),
}


def shape(name: str, n_experts: int, top_k: int) -> Any:
    return SimpleNamespace(name=name, n_experts=n_experts, top_k=top_k)


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    made = synthesize(shape("small", 12, 3), requests=10, tokens_per_request=40, layers=(2, 3, 4))
    return replace(calibrate(made), notes=("a note",))


@pytest.fixture
def written(fitted: Calibration, tmp_path: Path) -> Path:
    save_calibration(fitted, tmp_path / "a.npz")
    return tmp_path / "a.npz"


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_that_captures_exist_for_are_drawn_with_their_activated_fractions(name: str) -> None:
    e, k, layers, requests, tokens, fractions, gini = PUBLISHED[name]
    trace = synthesize(shape(name, e, k), requests=requests, tokens_per_request=tokens, layers=layers, seed=1)
    assert trace.synthetic
    assert trace.weights is not None
    assert trace.source.startswith(f"synthetic routing for {name}, calibrated on ")
    assert trace.source.endswith("), seed 1")
    loads = [(mix, n) for mix in ("round-robin", "single-request") for n in (16, 64)]
    for (mix, n), published in zip(loads, fractions, strict=True):
        drawn = activated_fraction(trace, n, mix, most_windows=256)  # type: ignore[arg-type]
        assert drawn == pytest.approx(published, abs=0.03), (mix, n)
    assert statistics(trace).gini == pytest.approx(gini, abs=0.03)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.model))
def test_packaged_calibrations_have_the_popularity_of_their_captures(real_traces: Path, source: Any) -> None:
    e, k, *_ = PUBLISHED[source.model]
    calibration = packaged_calibration(shape(source.model, e, k))
    assert calibration is not None
    assert (FOLDER / f"{source.model}.npz").stat().st_size < 300_000
    assert calibration.source == source.text
    assert calibration.notes[-1] == f"licence of the capture: {source.licence}"
    real = RoutingTrace.load(real_traces / source.file)
    assert calibration.layer_index == tuple(real.layer_index.tolist())
    layer = calibration.layer_index[12]
    drawn = synthesize(shape(source.model, e, k), requests=200, tokens_per_request=50, layers=(layer,))
    counts = [np.bincount(t.of_layers([layer]).experts.reshape(-1), minlength=e) for t in (real, drawn)]
    assert np.corrcoef(counts)[0, 1] > 0.85  # of six prompts, popularity is drawn to the mean: 0.88


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("gpt-oss-20b", "562d6b918c921129"),
        ("deepseek-v2-lite", "d864f95c1bd0699d"),
        ("qwen1.5-moe-a2.7b", "e9cf4d159c02401d"),
    ],
)
def test_the_same_choices_are_drawn_on_every_machine(name: str, digest: str) -> None:
    """Changes with the files in FOLDER, never with processor or threads."""
    e, k, *_ = PUBLISHED[name]
    trace = synthesize(shape(name, e, k), requests=4, tokens_per_request=50, layers=(1, 2, 20))
    assert hashlib.sha256(trace.experts.astype("<i2").tobytes()).hexdigest().startswith(digest)


def test_other_names_shapes_and_layers_keep_their_profiles() -> None:
    assert packaged_calibration(shape("qwen3-30b-a3b", 128, 8)) is None
    assert packaged_calibration(shape("gpt-oss-20b", 16, 2)) is None
    beyond = synthesize(shape("gpt-oss-20b", 32, 4), requests=1, tokens_per_request=4, layers=(23, 24))
    assert beyond.source == "synthetic routing for gpt-oss-20b, seed 0"


def test_layers_may_come_in_any_order() -> None:
    model = shape("gpt-oss-20b", 32, 4)
    up, down = (synthesize(model, requests=2, tokens_per_request=9, layers=layers) for layers in ((3, 5), (5, 3)))
    assert down.layer_index.tolist() == [5, 3]
    assert np.array_equal(up.experts, down.experts[:, ::-1])
    with pytest.raises(TraceError, match=r"layer_index names a layer twice: \[1, 1\]$"):
        synthesize(model, layers=(1, 1))


def test_a_saved_calibration_is_rounded_once_and_then_stays(fitted: Calibration, written: Path) -> None:
    loaded = load_calibration(written)
    for name in ("layer_index", "n_experts", "top_k", "model", "source", "has_weights", "notes"):
        assert getattr(loaded, name) == getattr(fitted, name)
    for a, b in zip(fitted.layers, loaded.layers, strict=True):
        for name in ("popularity", "request_root", "token_root", "depth"):
            assert np.abs(getattr(a, name) - getattr(b, name)).max() <= 0.0005
        assert np.abs(a.shares - b.shares).max() < 0.005
        assert b.gate_scale == pytest.approx(a.gate_scale, abs=1e-4)
        assert np.allclose(b.rest @ b.rest + b.depth @ b.depth.T, np.eye(12))
    again = written.with_name("b.npz")
    save_calibration(loaded, again)
    assert again.read_bytes() == written.read_bytes()
    assert np.array_equal(load_calibration(again).requests([50]).experts, loaded.requests([50]).experts)
    assert [file.name for file in sorted(written.parent.iterdir())] == ["a.npz", "b.npz"]


def test_left_out_layers_are_chained(fitted: Calibration) -> None:
    two = fitted.of_layers([4, 2])
    assert two.layer_index == (2, 4)
    assert not two.layers[0].depth.any()
    assert np.allclose(two.layers[1].depth, fitted.layers[2].depth @ fitted.layers[1].depth)
    assert np.allclose(
        two.layers[1].rest @ two.layers[1].rest, np.eye(12) - two.layers[1].depth @ two.layers[1].depth.T
    )
    alone = fitted.of_layers([3]).layers[0]
    assert np.allclose(alone.rest, np.eye(12))
    with pytest.raises(TraceError, match=r"layer 5 was asked for; calibrated are 2, 3, 4$"):
        fitted.of_layers([5])
    with pytest.raises(TraceError, match=r"layer none was asked for; calibrated are 2, 3, 4$"):
        fitted.of_layers([])


def changed(path: Path, **arrays: Any) -> Path:
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files} | arrays
    other = path.with_name("changed.npz")
    np.savez(other, **{name: array for name, array in kept.items() if array is not None})
    return other


def about(path: Path, **values: Any) -> Any:
    with np.load(path) as file:
        text = json.loads(file["about"].tobytes())
    return np.frombuffer(json.dumps(text | values).encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: {"depth": None}, "it has no 'depth'; trace synthesize --like FILE --save-calibration writes one"),
        (
            lambda p: {"shares": np.zeros((2, 6), np.int16)},
            "shares is int16 (2, 6), int16 (3, 6) needed for 3 layers of 12 experts",
        ),
        (
            lambda p: {"popularity": np.zeros((3, 12))},
            "popularity is float64 (3, 12), int16 (3, 12) needed for 3 layers of 12 experts",
        ),
        (
            lambda p: {"depth": np.full((3, 12, 12), 500, np.int16)},
            "layer 2 follows the layer before by a factor of 1 or more, or its shares do not add up to 1; "
            "write the calibration again",
        ),
        (lambda p: {"shares": np.full((3, 6), 100, np.int16)}, "its shares do not add up to 1; write the calibration"),
        (lambda p: {"about": np.zeros(3, np.uint8)}, "is no calibration: about: JSON: Invalid JSON"),
        (lambda p: {"about": about(p, kind="x")}, "about: kind: Extra inputs are not permitted"),
        (lambda p: {"about": about(p, layer_index=[2, 2, 3])}, "layer_index is [2, 2, 3]; layers must rise"),
        (
            lambda p: {"about": about(p, top_k=12)},
            "k is 12 of 12 experts, with 3 and 3 gate figures for 3 layers; k must be below the experts, "
            "with one of each a layer",
        ),
    ],
)
def test_files_that_are_no_calibrations(written: Path, change: Any, expected: str) -> None:
    path = changed(written, **change(written))
    with pytest.raises(TraceError) as caught:
        load_calibration(path)
    assert str(caught.value).startswith(f"'{path}'")
    assert expected in str(caught.value)


def test_names_and_places(fitted: Calibration, written: Path) -> None:
    with pytest.raises(TraceError, match=r"^'c.txt' is not a name for a calibration; it must end in .npz$"):
        save_calibration(fitted, Path("c.txt"))
    with pytest.raises(TraceError, match=r"^there is no calibration 'gone.npz'$"):
        load_calibration(Path("gone.npz"))
    with pytest.raises(TraceError, match=r"^cannot write '.*nowhere/c.npz': there is no folder '.*nowhere'"):
        save_calibration(fitted, written.parent / "nowhere" / "c.npz")
    damaged = written.with_name("damaged.npz")
    damaged.write_bytes(written.read_bytes()[:200])
    with pytest.raises(TraceError, match=r"is not a readable .npz file; it may be cut off or damaged"):
        load_calibration(damaged)
