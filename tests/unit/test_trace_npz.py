from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expertstream.errors import TraceError
from expertstream.trace import RoutingTrace

EXPERTS = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 0]]], np.int16)
UNREADABLE = "is not a readable .npz file; it may be cut off or damaged: copy or write it again"


def written(folder: Path, **arrays: Any) -> Path:
    path = folder / "model__text__prefill.npz"
    np.savez_compressed(path, **{"experts": EXPERTS, "num_experts": np.int32(4), **arrays})
    return path


def message(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        RoutingTrace.load(path)
    return str(caught.value)


def test_only_what_is_needed(tmp_path: Path) -> None:
    trace = RoutingTrace.load(written(tmp_path))
    assert np.array_equal(trace.experts, EXPERTS)
    assert trace.weights is None
    assert trace.request.tolist() == trace.position.tolist() == trace.phase.tolist() == [-1, -1]
    assert (trace.layer_index.tolist(), trace.n_experts, trace.top_k) == ([0, 1], 4, 2)
    assert (trace.model, trace.source, trace.synthetic) == ("model", "model__text__prefill.npz", False)


def test_everything(tmp_path: Path) -> None:
    weights = np.full((2, 2, 2), 0.5, np.float16)
    more = {"weights": weights, "request": [3, 4], "position": [0, 9], "phase": [0, 1], "layer_index": [5, 7]}
    trace = RoutingTrace.load(written(tmp_path, **more, request_label=np.array(["a", "b"])))
    assert trace.weights is not None
    assert trace.weights.dtype == np.float32
    assert np.array_equal(trace.weights, weights)
    for name in ("request", "position", "phase", "layer_index"):
        assert getattr(trace, name).tolist() == more[name]


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"experts": np.zeros((2, 2), np.int16)}, "experts has shape (2, 2), [tokens, layers, k] needed"),
        (
            {"experts": np.zeros((0, 2, 2), np.int16)},
            "the trace is empty: experts has shape (0, 2, 2), [tokens, layers, k] needed",
        ),
        ({"experts": EXPERTS.astype(float)}, "experts holds float64, int16 needed"),
        ({"num_experts": np.int32(3)}, "expert id 3 of token 0, layer 1 is out of range; the model has experts 0 to 2"),
        ({"num_experts": np.arange(2)}, "num_experts has shape (2,) and type int64, one integer needed"),
        ({"weights": np.full((2, 2, 2), np.nan, np.float16)}, "gate weight nan of token 0, layer 0; gate weights must"),
        ({"request": np.zeros(3, int)}, "request has shape (3,), (2,) needed"),
        ({"experts": np.array([None])}, "array 'experts' holds Python objects, which are never loaded; save it as"),
    ],
)
def test_bad_captures(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    assert expected in message(written(tmp_path, **arrays))


def test_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m__counts.npz"
    np.savez(path, counts=np.ones((1, 2, 4)), num_experts=4)
    assert message(path) == (
        f"'{path}' holds expert counts only; a schedule needs the experts of each token: use a per-token capture"
    )


def test_other_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, b=1, a=2)
    assert message(path) == f"'{path}' is not a trace: it has no 'experts' (found: a, b)"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert message(path) == f"'{path}' {UNREADABLE}"


def test_one_array_under_the_wrong_name(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    with path.open("wb") as file:
        np.save(file, EXPERTS)
    assert message(path) == f"'{path}' {UNREADABLE}"


def test_any_damaged_byte_is_a_trace_error_or_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    data, messages = path.read_bytes(), []
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :])
        try:
            RoutingTrace.load(path)
        except TraceError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in m for m in messages)


SHAPES = {  # tokens, requests, layers, E, k, weights?
    "deepseek-v2-lite-chat__puffin-prompts__prefill": (59986, 515, 26, 64, 6, False),
    "flame-moe-290m__pretraining-text__prefill": (2048, 8, 8, 64, 6, True),
    "gpt-oss-20b__gpqa__decode": (32829, 79, 24, 32, 4, True),
    "gpt-oss-20b__mmlu__decode": (41977, 124, 24, 32, 4, True),
    "qwen1.5-moe-a2.7b-chat__gsm8k__vllm-batched-5-layers": (4357, 25, 5, 60, 4, True),
    "qwen1.5-moe-a2.7b-chat__own-prompts__prefill+decode": (1096, 6, 24, 60, 4, True),
}


@pytest.mark.parametrize("name", SHAPES)
def test_real_captures(real_traces: Path, tmp_path: Path, name: str) -> None:
    trace = RoutingTrace.load(real_traces / f"{name}.npz")
    requests = np.unique(trace.request[trace.request >= 0]).size
    shape = (trace.n_tokens, requests, trace.layer_index.size, trace.n_experts, trace.top_k)
    assert (*shape, trace.weights is not None) == SHAPES[name]
    assert trace.iteration(1024, int(trace.layer_index[-1])).counts.sum() == 1024 * trace.top_k
    if trace.n_tokens < 5000:
        trace.save(tmp_path / "t.parquet")
        again = RoutingTrace.load(tmp_path / "t.parquet")
        assert np.array_equal(again.experts, trace.experts)
        assert again.weights is not None
        assert np.array_equal(again.weights, trace.weights)  # type: ignore[arg-type]


def test_real_count_files_are_refused(real_traces: Path) -> None:
    files = sorted(real_traces.glob("*counts*.npz"))
    assert len(files) == 4
    for path in files:
        assert "holds expert counts only" in message(path)
