from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expertstream.cli.main import run
from expertstream.errors import TraceError
from expertstream.trace import RoutingTrace, TraceWriter, capture, register_router
from expertstream.trace.capture import READERS
from tests.needs import needs_module

needs_module("torch", "capture")
needs_module("transformers", "capture")
import torch  # noqa: E402
import transformers  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "num_experts_per_tok": 2,
}
SHARED = {"moe_intermediate_size": 16, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1}
LATENT = SHARED | {"kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LINEAR = {f"linear_{name}": 4 for name in ("num_value_heads", "num_key_heads")} | {
    f"linear_{name}_head_dim": 8 for name in ("key", "value")
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 8,
        "mlp_only_layers": [0],
    },
    "qwen3_moe": {"moe_intermediate_size": 16, "num_experts": 8, "head_dim": 8, "norm_topk_prob": True},
    "qwen3_next": LINEAR
    | {
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 8,
        "head_dim": 8,
        "num_hidden_layers": 4,
    },
    "mixtral": {"num_local_experts": 8},
    "phimoe": {"num_local_experts": 8},
    "olmoe": {"num_experts": 8},
    "deepseek_v2": LATENT | {"q_lora_rank": None, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    "deepseek_v3": LATENT | {"q_lora_rank": 16, "n_group": 4, "topk_group": 2},
    "gpt_oss": {"num_local_experts": 8, "head_dim": 8, "layer_types": ["full_attention"] * 3, "rope_scaling": None},
    "granitemoe": {"num_local_experts": 8},
    "glm4_moe": SHARED | {"n_group": 2, "topk_group": 1, "head_dim": 8},
    "llama4_text": {
        "num_local_experts": 8,
        "head_dim": 8,
        "intermediate_size_mlp": 32,
        "interleave_moe_layer_step": 2,
        "num_hidden_layers": 4,
    },
}
LAYERS = {name: [1, 2] for name in ("qwen2_moe", "deepseek_v2", "deepseek_v3", "glm4_moe")}
LAYERS |= {"llama4_text": [1, 3], "qwen3_next": [0, 1, 2, 3]}


def tiny(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.shape[:1] == (8,) and ("gate." in path or "router." in path):
                tensor.normal_()
    return model


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def expected(family: str, router: Any, hidden: Any) -> tuple[Any, Any]:
    """Ids and weights, [tokens, 2], by the families' published rules, from the router's input."""
    logits = hidden.astype(np.float64) @ router.weight.detach().numpy().astype(np.float64).T
    if family == "gpt_oss":
        logits = logits + router.bias.detach().numpy()
    if family in ("deepseek_v3", "glm4_moe"):  # sigmoid; bias and groups decide, the plain score weighs
        score = 1 / (1 + np.exp(-logits))
        choice = score + router.e_score_correction_bias.numpy()
        groups, kept = (4, 2) if family == "deepseek_v3" else (2, 1)
        strength = np.sort(choice.reshape(len(choice), groups, -1), axis=2)[:, :, -2:].sum(axis=2)
        choice = masked(choice, strength, kept)
        ids = np.argsort(-choice, axis=1)[:, :2]
        weights = np.take_along_axis(score, ids, axis=1)
        return ids, weights / weights.sum(axis=1, keepdims=True) * router.routed_scaling_factor
    probability = softmax(logits)
    if family == "deepseek_v2":
        ids = np.argsort(-masked(probability, probability.reshape(len(logits), 4, -1).max(axis=2), 2), axis=1)[:, :2]
        return ids, np.take_along_axis(probability, ids, axis=1) * router.routed_scaling_factor
    ids = np.argsort(-logits, axis=1)[:, :2]
    if family == "llama4_text":
        return ids, 1 / (1 + np.exp(-np.take_along_axis(logits, ids, axis=1)))
    if family == "phimoe":  # SparseMixer: each choice has a softmax of its own over the experts near the largest
        return ids, np.stack([sparse_mixer(row) for row in logits])
    weights = np.take_along_axis(probability, ids, axis=1)
    if family not in ("qwen2_moe", "olmoe"):  # those two do not normalise by default
        weights = weights / weights.sum(axis=1, keepdims=True)
    return ids, weights


def masked(score: Any, strength: Any, kept: int) -> Any:
    """Scores of all but the ``kept`` strongest groups of experts are taken away."""
    groups = strength.shape[1]
    best = np.argsort(-strength, axis=1)[:, :kept]
    alive = np.zeros(strength.shape, dtype=bool)
    np.put_along_axis(alive, best, True, axis=1)
    return np.where(np.repeat(alive, score.shape[1] // groups, axis=1), score, -np.inf)


def sparse_mixer(logits: Any, eps: float = 0.01) -> Any:
    weights, left = [], logits.copy()
    for _ in range(2):
        best = left.argmax()
        near = (left[best] - logits) / np.maximum(np.abs(logits), left[best]) <= 2 * eps
        weights.append(1 / np.exp(left[near & np.isfinite(left)] - left[best]).sum())
        left[best] = -np.inf
    return np.array(weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_are_the_routers_own(family: str) -> None:
    model = tiny(family)
    inputs: dict[str, list[Any]] = {}
    routers = {path: module for path, module in model.named_modules() if type(module).__name__ in READERS}
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, path=path: inputs.setdefault(path, []).append(args[0].detach().reshape(-1, 32).numpy())
        )
        for path, module in routers.items()
    ]
    ids = torch.randint(3, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), capture(model) as trace:
        model(ids)
    for handle in handles:
        handle.remove()
    assert type(trace) is RoutingTrace
    assert trace.layer_index.tolist() == LAYERS.get(family, [0, 1, 2])
    assert (trace.n_tokens, trace.n_experts, trace.top_k, trace.model) == (14, 8, 2, family)
    assert trace.weights is not None
    for at, (path, module) in enumerate(routers.items()):
        wanted, weights = expected(family, module, inputs[path][0])
        order, found = np.argsort(wanted, axis=1), np.argsort(trace.experts[:, at], axis=1)
        assert np.array_equal(np.take_along_axis(trace.experts[:, at], found, 1), np.take_along_axis(wanted, order, 1))
        got = np.take_along_axis(trace.weights[:, at], found, axis=1)
        assert np.allclose(got, np.take_along_axis(weights, order, axis=1), atol=1e-4), path
    assert sum(len(module._forward_hooks) for module in routers.values()) == 0


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_next", "llama4_text"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_give_what_single_requests_give(family: str, side: str) -> None:
    model = tiny(family)
    a, b = (torch.randint(3, 64, (1, n), generator=torch.Generator().manual_seed(n)) for n in (4, 7))
    padding = torch.zeros(1, 3, dtype=torch.long)
    padded = torch.cat([padding, a] if side == "left" else [a, padding], dim=1)
    ids = torch.cat([padded, b])
    mask = torch.ones_like(ids)
    mask[0, :3] = side == "right"
    mask[0, 4:] &= torch.tensor([1, 1, 1]) if side == "left" else torch.tensor([0, 0, 0])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), capture(model) as together:
        model(ids, attention_mask=mask, position_ids=positions)
    with torch.no_grad(), capture(model) as apart:
        model(a)
        model(b)
    assert together.request.tolist() == apart.request.tolist() == [0] * 4 + [1] * 7
    assert together.position.tolist() == apart.position.tolist() == [*range(4), *range(7)]
    assert np.array_equal(together.experts, apart.experts)
    assert together.phase.tolist() == [0] * 11


def test_generation_is_prefill_then_decode_and_ends_where_requests_end() -> None:
    model = tiny("mixtral")
    ids = torch.randint(3, 64, (2, 5), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        free = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=[])
        stop = int(free[0, 6])  # the second generated token of the first request ends it
        model.generation_config.eos_token_id = stop
        with capture(model) as trace:
            out = model.generate(ids, max_new_tokens=6, do_sample=False)
    for row in (0, 1):
        generated = out[row, 5:].tolist()
        fed = generated.index(stop) if stop in generated else len(generated) - 1
        mine = trace.request == row
        assert trace.phase[mine].tolist() == [0] * 5 + [1] * fed
        assert trace.position[mine].tolist() == list(range(5 + fed))
    with torch.no_grad(), capture(model) as whole:
        model(out[1:, :-1])
    mine = trace.request == 1
    assert np.array_equal(trace.experts[mine], whole.experts[: mine.sum()])


@pytest.mark.parametrize("given", ["argument", "list", "tensor", "settings", "none"])
def test_end_tokens_given_to_generate_are_seen(given: str) -> None:
    model = tiny("mixtral")
    ids = torch.randint(3, 64, (2, 5), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        free = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=[])
        stop = int(free[0, 6])  # the second generated token of the first request
        if given == "none":  # the model's own end token ends nothing
            model.generation_config.eos_token_id = stop
        end = {"argument": stop, "list": [stop, 1], "tensor": torch.tensor([stop]), "settings": None, "none": None}[
            given
        ]
        settings = transformers.GenerationConfig(eos_token_id=stop, max_new_tokens=6, do_sample=False)
        how = {"generation_config": settings} if given == "settings" else {"eos_token_id": end, "max_new_tokens": 6}
        with capture(model) as trace:
            out = model.generate(ids, do_sample=False, **how)
            model.generate(
                ids[:1], max_new_tokens=3, do_sample=False, eos_token_id=[]
            )  # one call says nothing of another
    assert "generate" not in vars(model)
    ends = [] if given == "none" else [stop]
    for row in (0, 1):
        generated = out[row, 5:].tolist()
        fed = next((at for at, token in enumerate(generated) if token in ends), len(generated) - 1)
        assert trace.phase[trace.request == row].tolist() == [0] * 5 + [1] * fed
    assert given == "none" or (trace.request == 0).sum() == 6
    assert (trace.request == 2).sum() == 5 + 2


def test_a_filled_cache_continues_requests_and_chunks_are_prefill() -> None:
    model = tiny("qwen3_moe")
    ids = torch.randint(3, 64, (1, 9), generator=torch.Generator().manual_seed(4))
    with torch.no_grad(), capture(model) as trace:
        cache = model(ids[:, :4], use_cache=True).past_key_values
        model(ids[:, 4:8], past_key_values=cache, use_cache=True)
        model(ids[:, 8:], past_key_values=cache, use_cache=True)
        model(ids)
    assert trace.request.tolist() == [0] * 9 + [1] * 9
    assert trace.position.tolist() == [*range(9), *range(9)]
    assert trace.phase.tolist() == [0] * 8 + [1] + [0] * 9
    assert np.array_equal(trace.experts[:9], trace.experts[9:])


class OddRouter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 4
        self.weight = torch.nn.Parameter(torch.eye(4))

    def forward(self, x: Any) -> Any:
        return (x @ self.weight).topk(2)


class OddModel(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"router": OddRouter()})])
        self.config = type("Config", (), {"model_type": "odd", "eos_token_id": None})()

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None) -> Any:
        return self.layers[0]["router"](inputs_embeds.reshape(-1, 4))  # type: ignore[index]


@pytest.fixture
def registered() -> Iterator[None]:
    yield
    READERS.pop("OddRouter", None)


@pytest.mark.usefixtures("registered")
def test_unknown_routers_are_named_and_can_be_registered() -> None:
    model = OddModel()
    with pytest.raises(TraceError) as caught, capture(model):
        pass
    assert str(caught.value).startswith(
        "'layers.0.router' looks like a router, but its class OddRouter is not known; teach it with "
        "expertstream.register_router('OddRouter', reader), reader(module, output) -> (ids, weights); known: Qwen2Moe"
    )
    register_router("OddRouter", lambda _, output: (output[1], output[0]))
    with capture(model) as trace:
        model(inputs_embeds=torch.tensor([[[1.0, 5, 3, 0], [9, 8, 7, 6]]]))
    assert trace.experts.tolist() == [[[1, 2]], [[0, 1]]]


def test_models_without_routers_and_blocks_without_work() -> None:
    with (
        pytest.raises(TraceError, match=r"^Linear has no router: it is not a Mixture-of-Experts model$"),
        capture(torch.nn.Linear(2, 2)),
    ):
        pass
    with (
        pytest.raises(TraceError, match=r"^the model computed nothing while its routing was captured; call it inside"),
        capture(tiny("mixtral")),
    ):
        pass


def test_the_trace_is_not_there_before_the_block_ends() -> None:
    message = "no experts yet: it is filled when the 'with capture"
    with pytest.raises(TraceError, match=message), capture(tiny("mixtral")) as trace:
        assert trace.experts is None


def test_an_error_in_the_block_is_the_users_own() -> None:
    model = tiny("mixtral")
    with pytest.raises(ZeroDivisionError), capture(model):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    folder = tmp_path_factory.mktemp("model")
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"w{i}" for i in range(60))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    tiny("olmoe").save_pretrained(folder)
    return folder


def test_command(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, output = tmp_path / "lines.txt", tmp_path / "trace.parquet"
    lines.write_text("w1 w2 w3\n\nw4 w5 w6 w7 w8 w9\nw1\n")
    command = ["trace", "capture", "--model", str(saved), "--dataset-file", str(lines), "--max-tokens", "5"]
    assert run([*command, "--generate", "2", "--batch-size", "2", "-o", str(output)]) == 0
    assert "requests, 3 MoE layers of 8 experts, k = 2" in capsys.readouterr().out
    trace = RoutingTrace.load(output)
    assert [int(((trace.request == r) & (trace.phase == 0)).sum()) for r in range(3)] == [3, 5, 1]
    assert (np.bincount(trace.request[trace.phase == 1]) <= 2).all()
    assert run(["trace", "capture", "--model", str(saved), "--text", str(lines), "-o", str(output)]) == 0
    assert RoutingTrace.load(output).n_tokens == 10
    capsys.readouterr()
    assert run([*command, "--text", str(lines), "-o", str(output)]) == 2
    assert "give one of --text FILE and --dataset-file FILE" in capsys.readouterr().err
    assert run(["trace", "capture", "--model", str(tmp_path / "no"), "--text", str(lines), "-o", str(output)]) == 2
    assert "cannot load the model" in capsys.readouterr().err


def test_the_command_writes_batch_by_batch(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, output = tmp_path / "lines.txt", tmp_path / "trace.parquet"
    lines.write_text("w1 w2 w3\nw4 w5 w6 w7 w8 w9\nw1\nw2 w4\nw5\n")
    command = ["trace", "capture", "--model", str(saved), "--dataset-file", str(lines), "--batch-size", "2"]
    written: list[list[int]] = []
    append = TraceWriter.append

    def counted(self: TraceWriter, experts: Any, request: Any, *more: Any) -> None:
        written.append(sorted(set(request.tolist())))
        if len(written) > 3:
            raise TraceError("full")
        append(self, experts, request, *more)

    monkeypatch.setattr(TraceWriter, "append", counted)
    assert run([*command, "-o", str(output)]) == 0
    assert written == [[0, 1], [2, 3], [4]]
    trace = RoutingTrace.load(output)
    assert np.bincount(trace.request).tolist() == [3, 6, 1, 2, 1]
    assert trace.position.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 0, 1, 0]
    assert run([*command, "-o", str(tmp_path / "lost.parquet")]) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lines.txt", "trace.parquet"]


@pytest.mark.usefixtures("registered")
def test_ids_that_no_trace_can_hold_are_named() -> None:
    register_router("OddRouter", lambda _, output: (output[1] + 70000, output[0]))
    message = r"^captured from odd: experts holds 7000[0-3], which is no int16$"
    model = OddModel()
    with pytest.raises(TraceError, match=message), capture(model):
        model(inputs_embeds=torch.eye(4)[None])


class _Calls(TorchFunctionMode):
    """Counts the calls of torch functions."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[getattr(function, "__name__", str(function))] += 1
        return function(*args, **(kwargs or {}))


def test_overhead_is_a_few_calls_a_layer_that_compute_nothing() -> None:
    """Seconds are measured by benchmarks/capture_overhead.py."""
    model = tiny("qwen3_moe", num_hidden_layers=2)

    def added(tokens: int) -> Counter[str]:
        ids = torch.randint(3, 64, (4, tokens), generator=torch.Generator().manual_seed(0))
        calls = []
        for block in (contextlib.nullcontext(), capture(model)):
            with torch.no_grad(), block, _Calls() as mode:
                model(ids)
            calls.append(mode.counts)
        return calls[1] - calls[0]

    few = added(16)
    assert few == added(256)
    assert few.total() <= 2 * 15
    assert not set(few) & {"linear", "matmul", "bmm", "topk", "sort", "softmax", "cpu", "to", "item", "tolist"}
