"""Importers: each fixture is in the layout that the tool publishes, and must come back as the trace it was made of."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from expertstream.errors import TraceError
from expertstream.trace import RoutingTrace, import_trace, synthesize
from expertstream.trace.importers.found import expert_ids, of_requests
from tests.needs import needs_module

DENSE, LAYERS, E, K = 1, 3, 8, 2  # the model: layer 0 is dense, 1 to 3 have experts
MODEL = SimpleNamespace(name="small", n_experts=E, top_k=K, n_layers=DENSE + LAYERS, moe_layers=(1, 2, 3))
PROMPT, OUTPUT, REQUESTS = 5, 4, 3  # routed tokens of each request


@pytest.fixture(scope="module")
def trace() -> RoutingTrace:
    """Three requests of five prompt and four generated tokens."""
    made = synthesize(MODEL, requests=REQUESTS, tokens_per_request=PROMPT + OUTPUT, layers=(1, 2, 3))
    phase = (made.position >= PROMPT).astype(np.int8)
    return replace(made, weights=None, phase=phase, synthetic=False)


def request(trace: RoutingTrace, number: int, *, dense: int = 0) -> Any:
    """Choices of one request with the dense layer in front, int16 [tokens, layers, k]."""
    mine = trace.experts[trace.request == number]
    return np.concatenate([np.full((len(mine), DENSE, K), dense, np.int16), mine], axis=1)


def npy64(array: Any) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


def same(found: RoutingTrace, trace: RoutingTrace, *, phase: bool = True, requests: bool = True) -> None:
    assert found.layer_index.tolist() == trace.layer_index.tolist()
    assert np.array_equal(found.experts, trace.experts)
    assert (found.n_experts, found.top_k, found.model, found.synthetic) == (E, K, "small", False)
    if requests:
        assert np.array_equal(found.request, trace.request)
        assert np.array_equal(found.position, trace.position)
    if phase:
        assert np.array_equal(found.phase, trace.phase)


def message(*paths: Any, **kwargs: Any) -> str:
    with pytest.raises(TraceError) as caught:
        import_trace(*paths, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- vLLM ------------------------------------------------------------------------------------------------------------


def vllm_response(trace: RoutingTrace, number: int, kind: str = "uint8") -> dict[str, Any]:
    """As vllm/entrypoints/openai/completion/protocol.py: one .npy for the prompt and the output but its last token."""
    array = request(trace, number).astype(kind)
    return {
        "id": f"cmpl-{number}",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "text": "t", "finish_reason": "length", "routed_experts": npy64(array)}],
        "usage": {"prompt_tokens": PROMPT, "total_tokens": PROMPT + OUTPUT + 1, "completion_tokens": OUTPUT + 1},
    }


def vllm_parted(trace: RoutingTrace, number: int, encode: Callable[[Any], Any]) -> dict[str, Any]:
    array = request(trace, number)
    response = vllm_response(trace, number)
    response["choices"][0]["routed_experts"] = encode(array[PROMPT:])
    return response | {"prompt_routed_experts": encode(array[:PROMPT])}


def as_buffer(array: Any) -> dict[str, Any]:
    data = base64.b64encode(array.astype(np.int16).tobytes()).decode()
    return {"encoding": "base64", "dtype": "int16", "shape": list(array.shape), "data": data}


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32"])
def test_vllm_responses(trace: RoutingTrace, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text("\n".join(json.dumps(vllm_response(trace, r, kind)) for r in range(REQUESTS)) + "\n")
    found = import_trace(path, model=MODEL)
    assert (found.format, found.counts_only) == ("vllm", False)
    assert found.notes == ("layers without experts are left out: 0",)
    same(found.trace, trace)
    assert found.trace.source == "responses.jsonl, vllm"


@pytest.mark.parametrize("encode", [npy64, as_buffer, lambda array: array.tolist()], ids=["npy", "buffer", "lists"])
def test_vllm_prompt_and_output_apart(trace: RoutingTrace, tmp_path: Path, encode: Callable[[Any], Any]) -> None:
    for number in range(REQUESTS):
        (tmp_path / f"{number}.json").write_text(json.dumps(vllm_parted(trace, number, encode), indent=1))
    found = import_trace(*(tmp_path / f"{number}.json" for number in range(REQUESTS)), model=MODEL)
    assert found.format == "vllm"
    same(found.trace, trace)
    assert found.trace.source == "0.json and 2 more, vllm"


def test_vllm_request_outputs_without_a_model(trace: RoutingTrace, tmp_path: Path) -> None:
    output = {"index": 0, "token_ids": [1] * (OUTPUT + 1), "routed_experts": request(trace, 0).tolist()}
    path = tmp_path / "o.json"
    path.write_text(json.dumps({"request_id": "0", "prompt_token_ids": [7] * PROMPT, "outputs": [output]}))
    found = import_trace(path)
    assert found.trace.layer_index.tolist() == [1, 2, 3]
    assert found.trace.phase.tolist() == [0] * PROMPT + [1] * OUTPUT
    largest = int(trace.experts[trace.request == 0].max()) + 1
    assert found.trace.n_experts == largest
    assert found.notes[-1] == (
        f"the file does not say how many experts a layer has: {largest} are taken, the largest id plus one "
        "(say it with --model or --experts)"
    )


def test_vllm_array(trace: RoutingTrace, tmp_path: Path) -> None:
    for number in range(REQUESTS):
        np.save(tmp_path / f"{number}.npy", request(trace, number))
    same(import_trace(*sorted(tmp_path.iterdir()), model=MODEL).trace, trace, phase=False)


# --- SGLang ----------------------------------------------------------------------------------------------------------


def sglang_response(trace: RoutingTrace, number: int, where: str) -> dict[str, Any]:
    text = base64.b64encode(request(trace, number).astype(np.int32).tobytes()).decode()
    counts = {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT + 1}
    if where == "generate":
        return {"text": "t", "meta_info": {"id": "x", **counts, "routed_experts": text}}
    choice = {"index": 0, "message": {"role": "assistant", "content": "t"}, where: {"routed_experts": text}}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": counts}


@pytest.mark.parametrize("where", ["generate", "meta_info", "sglext"])
def test_sglang_responses(trace: RoutingTrace, tmp_path: Path, where: str) -> None:
    path = tmp_path / "r.json"
    responses = [sglang_response(trace, number, where) for number in range(REQUESTS)]
    path.write_text(json.dumps(responses) if where == "generate" else "\n".join(map(json.dumps, responses)))
    found = import_trace(path, model=MODEL)
    assert found.format == "sglang"
    same(found.trace, trace)


def test_sglang_needs_k(trace: RoutingTrace, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(sglang_response(trace, 0, "generate")))
    assert message(path) == (f"'{path}', read as sglang: SGLang's routed experts do not say k; give --model or --top-k")
    found = import_trace(path, top_k=K, n_experts=E).trace
    assert np.array_equal(found.experts, trace.experts[trace.request == 0])
    assert "routed_experts has 72 entries, which are not [9, 4, 3]; give the right" in message(
        path, model=SimpleNamespace(**vars(MODEL) | {"top_k": 3})
    )


# --- SGLang's recorder -----------------------------------------------------------------------------------------------

MAPPING = np.stack([np.random.default_rng(layer).permutation(np.r_[np.arange(E), 3, 5]) for layer in range(4)])


def physical(logical: Any, rng: Any) -> Any:
    """A physical expert of each logical one, [layers, tokens, k]."""
    out = np.empty_like(logical)
    for layer, rows in enumerate(logical):
        for at, expert in np.ndenumerate(rows):
            out[layer][at] = rng.choice(np.flatnonzero(MAPPING[layer] == expert))
    return out


def recorder_pass(trace: RoutingTrace, which: Any, mode: int, lengths: list[int] | None, padding: int = 0) -> Any:
    import torch

    logical = np.concatenate([np.zeros((len(which), DENSE, K), np.int16), trace.experts[which]], axis=1)
    ids = np.full((DENSE + LAYERS, len(which) + padding, 8), -1, dtype=np.int32)
    ids[DENSE:, : len(which), :K] = physical(logical.transpose(1, 0, 2), np.random.default_rng(0))[DENSE:]
    positions = [*trace.position[which].tolist(), *[0] * padding]
    return {
        "forward_pass_id": 1,
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": [1] * len(positions),
        "positions": positions,
        "extend_seq_lens": lengths,
        "forward_mode": mode,
        "topk_ids_of_layer": torch.from_numpy(ids),
        "misc_objects": [],
        "global_physical_count": torch.zeros(DENSE + LAYERS, E + 2, dtype=torch.int32),
    }


def recorded(trace: RoutingTrace, path: Path) -> Any:
    """Two prompts, then the third in two chunks beside decode, then decode of all with padding."""
    import torch

    def at(*pairs: tuple[int, int]) -> Any:
        return np.array([int(np.flatnonzero((trace.request == r) & (trace.position == p))[0]) for r, p in pairs])

    steps = [
        (at(*((r, p) for r in (0, 1) for p in range(PROMPT))), 1, [PROMPT, PROMPT], 0),
        (at((0, 5), (1, 5)), 2, None, 2),
        (at((2, 0), (2, 1), (2, 2), (0, 6), (1, 6)), 3, [3, 1, 1], 0),
        (at((2, 3), (2, 4), (0, 7), (1, 7)), 3, [2, 1, 1], 0),
        (at((0, 8), (1, 8), (2, 5)), 2, None, 1),
        (at((2, 6)), 2, None, 0),
        (at((2, 7)), 2, None, 0),
        (at((2, 8)), 2, None, 0),
    ]
    records = [recorder_pass(trace, *step) for step in steps]
    torch.save({"records": records, "last_physical_to_logical_map": torch.from_numpy(MAPPING)}, path)
    return np.concatenate([step[0] for step in steps])


def test_sglang_recorder_per_token(trace: RoutingTrace, tmp_path: Path) -> None:
    needs_module("torch", "capture")
    order = recorded(trace, tmp_path / "expert_distribution_recorder_1.0_0.pt")
    found = import_trace(tmp_path / "expert_distribution_recorder_1.0_0.pt", model=MODEL)
    assert found.format == "sglang-recorder"
    assert found.notes == (
        "requests are followed by position",
        "4 times several requests were at one position; their order was kept",
        "layers without experts are left out: 0",
        "3 tokens without recorded experts are left out",
    )
    assert np.array_equal(found.trace.experts, trace.experts[order])
    assert np.array_equal(found.trace.position, trace.position[order])
    assert np.array_equal(found.trace.phase, trace.phase[order])
    assert found.trace.n_experts == E
    names = {int(a): int(b) for a, b in zip(found.trace.request, trace.request[order], strict=True)}
    assert np.array_equal([names[int(r)] for r in found.trace.request], trace.request[order])
    assert len(names) == REQUESTS


def test_sglang_recorder_counts(tmp_path: Path) -> None:
    needs_module("torch", "capture")
    import torch

    physical_count = np.random.default_rng(0).integers(1, 50, (4, E + 2))
    logical = np.zeros((4, E))
    for layer, expert in np.ndindex(4, E + 2):
        logical[layer, MAPPING[layer, expert]] += physical_count[layer, expert]
    record = {"forward_pass_id": 0, "rank": 0, "global_physical_count": torch.from_numpy(physical_count)}
    torch.save({"records": [record] * 2, "last_physical_to_logical_map": torch.from_numpy(MAPPING)}, tmp_path / "p.pt")
    counts = torch.from_numpy(np.stack([logical, logical]))
    torch.save({"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": None}, tmp_path / "s.pt")
    (tmp_path / "s.json").write_text(json.dumps({"logical_count": counts.tolist()}))
    traces = []
    for name in ("p.pt", "s.pt", "s.json"):
        found = import_trace(tmp_path / name, top_k=K, tokens=512)
        assert (found.format, found.counts_only) == ("sglang-recorder", True)
        traces.append(found.trace)
    assert all(np.array_equal(one.experts, traces[0].experts) for one in traces)


# --- CSV, JSON, .npz -------------------------------------------------------------------------------------------------


def csv_lines(trace: RoutingTrace) -> list[str]:
    """As llama.cpp computes it: each prompt in one pass, then a pass per token; the last layer of a prompt's pass holds
    its last token only."""
    lines = ["layer,expert"]
    for number in range(REQUESTS):
        mine = trace.experts[trace.request == number]
        for tokens in (np.arange(PROMPT), *np.arange(PROMPT, PROMPT + OUTPUT)[:, None]):
            for layer in range(LAYERS):
                shown = tokens[-1:] if layer == LAYERS - 1 else tokens
                lines += [f"{layer + 1},{expert}" for expert in mine[shown, layer].reshape(-1)]
    return lines


def test_llama_csv_by_place(trace: RoutingTrace, tmp_path: Path) -> None:
    path = tmp_path / "experts.csv"
    path.write_text("\n".join(csv_lines(trace)) + "\n")
    found = import_trace(path, n_experts=E)
    assert found.format == "llama-csv"
    assert found.notes == (
        "k = 2, the largest number of lines that divides every run of one layer",
        "a pass of several tokens is prefill, one of a single token decode; a prompt after decode is a new request",
        "layers that lack tokens are left out: 3",
    )
    assert np.array_equal(found.trace.experts, trace.experts[:, :2])
    assert np.array_equal(found.trace.request, trace.request)
    assert np.array_equal(found.trace.position, trace.position)
    assert np.array_equal(found.trace.phase, trace.phase)
    path.write_text("\n".join(csv_lines(trace)[: 1 + PROMPT * K * 2]))
    assert "a token would choose an expert twice; give --model or --top-k" in message(path)


def test_llama_csv_by_token(trace: RoutingTrace, tmp_path: Path) -> None:
    path = tmp_path / "experts.csv"
    rows = [
        f"{9 * t},{layer + 1},{expert},0.5"
        for t, row in enumerate(trace.experts)
        for layer, ids in enumerate(row)
        for expert in ids
    ]
    path.write_text("token,layer,expert,weight\n" + "\n".join(rows))
    same(import_trace(path, model=MODEL).trace, trace, phase=False, requests=False)


def test_csv_of_counts(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("layer,expert,count\n" + "\n".join(f"{i},{e},{1 + e}" for i in (4, 6) for e in range(4)))
    found = import_trace(path, top_k=2, tokens=100)
    assert found.counts_only
    assert found.trace.layer_index.tolist() == [4, 6]


@pytest.mark.parametrize("key", ["{}", "layer_{}", "model.layers.{}"])
def test_token_json(trace: RoutingTrace, tmp_path: Path, key: str) -> None:
    layers = {
        key.format(number): {str(t): row[at].tolist() for t, row in enumerate(trace.experts)}
        for at, number in enumerate((1, 2, 3))
    }
    path = tmp_path / "t.json"
    path.write_text(json.dumps(layers))
    found = import_trace(path, model=MODEL)
    assert found.format == "token-json"
    same(found.trace, trace, phase=False, requests=False)
    one = tmp_path / "Layer_2.json"
    one.write_text(json.dumps(layers[key.format(2)]))
    single = import_trace(one, model=MODEL).trace
    assert single.layer_index.tolist() == [2]
    assert np.array_equal(single.experts[:, 0], trace.experts[:, 1])


def test_npz_capture(trace: RoutingTrace, tmp_path: Path) -> None:
    path = tmp_path / "small__x.npz"
    fields = {name: getattr(trace, name) for name in ("experts", "request", "position", "phase", "layer_index")}
    np.savez_compressed(path, num_experts=E, **fields)
    found = import_trace(path)
    assert found.format == "npz"
    assert np.array_equal(found.trace.experts, trace.experts)
    assert np.array_equal(found.trace.request, trace.request)


def test_moe_balance(trace: RoutingTrace, tmp_path: Path) -> None:
    for number in range(REQUESTS):
        np.savez_compressed(
            tmp_path / f"problem_id_{number}.npz",
            routed_experts=request(trace, number).astype(np.int32),
            prompt_token_ids=np.arange(PROMPT),
            output_token_ids=np.arange(OUTPUT + 1),
            request_id=number,
        )
    same(import_trace(*sorted(tmp_path.iterdir()), model=MODEL).trace, trace)


def test_an_array_that_is_a_python_object_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "object.npz"
    np.savez(path, routed_experts=np.array({"a": 1}, dtype=object))
    assert message(path) == (
        f"'{path}', read as npz: array 'routed_experts' holds Python objects, which are never loaded; save it as an "
        "array of numbers"
    )


# --- counts ----------------------------------------------------------------------------------------------------------


def test_eplb_matrices_become_popularity(tmp_path: Path) -> None:
    """The matrix of the example in EPLB's README, as JSON, NumPy and PyTorch files."""
    needs_module("torch", "capture")
    import torch

    weight = np.array(
        [
            [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
            [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
        ]
    )
    (tmp_path / "w.json").write_text(json.dumps(weight.tolist()))
    np.save(tmp_path / "w.npy", weight)
    torch.save(torch.from_numpy(weight), tmp_path / "w.pt")
    for name in ("w.json", "w.npy", "w.pt"):
        found = import_trace(tmp_path / name, top_k=3, tokens=20_000, seed=1)
        assert (found.format, found.counts_only, found.trace.synthetic) == ("eplb", True, True)
        assert found.trace.source.startswith(f"synthetic routing from the popularity in {name}, eplb, seed 1")
        assert (found.trace.request == -1).all()
        for layer in (0, 1):
            drawn = np.bincount(found.trace.experts[:, layer].reshape(-1), minlength=12) / 60_000
            assert drawn == pytest.approx(weight[layer] / weight[layer].sum(), abs=0.005)
    assert found.notes[-1] == ("tokens are drawn independently: popularity is that of the counts, locality is none")
    assert "counts do not say how many experts a token chooses; give --model or --top-k" in message(tmp_path / "w.npy")


def test_shares_above_one_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text("[[1000, 1, 1, 1, 1], [0, 0, 5, 5, 0]]")
    found = import_trace(path, top_k=2, tokens=1000)
    counts = [np.bincount(found.trace.experts[:, layer].reshape(-1), minlength=5) for layer in (0, 1)]
    assert counts[0][0] == 1000
    assert counts[0][1:].sum() == 1000
    assert counts[1].tolist() == [0, 0, 1000, 1000, 0]
    assert found.notes[0] == "layer 0: 1 experts have more than a whole share of the tokens"


def test_real_counts_are_drawn_with_their_popularity(real_traces: Path) -> None:
    for path in sorted(real_traces.glob("*counts*.npz")):
        with np.load(path) as file:
            counts = file["counts"].sum(axis=0, dtype=np.float64)
        found = import_trace(path, tokens=4096)
        assert found.counts_only
        assert found.trace.layer_index.size == len(counts)
        for layer in (0, -1):
            drawn = np.bincount(found.trace.experts[:, layer].reshape(-1), minlength=counts.shape[1])
            assert drawn / drawn.sum() == pytest.approx(counts[layer] / counts[layer].sum(), abs=0.012)


# --- what cannot be imported -----------------------------------------------------------------------------------------


def test_unknown_files(tmp_path: Path, trace: RoutingTrace) -> None:
    assert message(tmp_path / "none") == f"there is no file '{tmp_path / 'none'}'"
    path = tmp_path / "x"
    path.write_text("")
    assert message(path) == f"'{path}' is empty; write it again"
    path.write_text("hello world\n")
    assert message(path) == (
        f"'{path}' is of no known kind: neither Parquet, .npz, .npy, .pt (zip), JSON nor CSV with a header line"
    )
    path.write_text('{"a": 1}')
    assert message(path).startswith(f"'{path}' (json) is in no known format; known: npz: .npz: a capture,")
    path.write_text('{"a": ')
    assert message(path) == f"'{path}' is not readable JSON; it may be cut off or damaged: copy or write it again"
    trace.save(tmp_path / "t.parquet")
    assert "is Parquet; a trace of ours needs no import" in message(tmp_path / "t.parquet")
    assert message(path, format="vlm") == (
        "unknown format 'vlm'; did you mean 'vllm'?; allowed: npz, vllm, sglang, sglang-recorder, llama-csv, eplb, "
        "token-json"
    )


def test_a_model_that_does_not_fit(trace: RoutingTrace, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", request(trace, 0))
    other = SimpleNamespace(name="other", n_experts=16, top_k=3, n_layers=4, moe_layers=(0, 1, 2, 3))
    assert message(tmp_path / "a.npy", model=other) == (
        "'a.npy', read as vllm: its tokens choose 2 experts, but other has k = 3"
    )
    other.top_k, other.n_layers, other.moe_layers = 2, 9, tuple(range(9))
    assert "it has 4 layers, but other has 9 MoE layers of 9" in message(tmp_path / "a.npy", model=other)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_file_that_would_execute_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_module("torch", "capture")
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"records": [Evil()]}, "evil.pt")
    assert "which is more than tensors and plain containers" in message("evil.pt")
    torch.save({"logical_count": bytearray(10)}, "bytes.pt")  # weights_only alone would call bytearray(anything)
    assert "such a file can execute code and is not loaded" in message("bytes.pt")
    assert not Path("executed").exists()


def test_a_large_array_is_not_copied_on_the_way() -> None:
    array = np.zeros((5, 3, 2), dtype=np.int16)
    found = of_requests([(expert_ids(array, 3, "the array"), None)])
    assert np.shares_memory(found.experts, array)
