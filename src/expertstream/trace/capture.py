"""Capture the routing of a Hugging Face model while it runs; needs the extra ``capture`` (torch, transformers).

Hooks on the router modules take the expert ids that the router chose and their gate weights, never a top-k of our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np

from expertstream.errors import TraceError
from expertstream.trace.checks import to_type
from expertstream.trace.routing import RoutingTrace
from expertstream.units import counted

Choice = tuple[Any, Any]  # expert ids and gate weights, tensors [tokens, k]
Reader = Callable[[Any, Any], Choice]  # of a router module and what it returned


def _last_two(_: Any, output: Any) -> Choice:
    """Routers that return (logits, weights, ids)."""
    if not isinstance(output, tuple) or len(output) != 3:
        raise TraceError("it did not return (logits, weights, ids); transformers 5 or later is needed")
    return output[2], output[1]


def _scattered(router: Any, output: Any) -> Choice:
    """Llama 4 returns scores [tokens, experts] that are zero but for the chosen experts."""
    weights, ids = output[0].topk(router.top_k, dim=-1)
    return ids, weights


READERS: dict[str, Reader] = {
    "Qwen2MoeTopKRouter": _last_two,
    "Qwen3MoeTopKRouter": _last_two,
    "Qwen3NextTopKRouter": _last_two,
    "MixtralTopKRouter": _last_two,
    "PhimoeTopKRouter": _last_two,
    "OlmoeTopKRouter": _last_two,
    "DeepseekV2TopkRouter": _last_two,
    "DeepseekV3TopkRouter": _last_two,
    "GptOssTopKRouter": _last_two,
    "GraniteMoeTopKRouter": _last_two,
    "Glm4MoeTopkRouter": _last_two,
    "Llama4Router": _scattered,
}
_LAYER = re.compile(r"^(?P<decoder>.*?)\.?(?:layers|h|blocks)\.(?P<layer>\d+)\.")


def register_router(class_name: str, reader: Reader) -> None:
    """Teach capture a router class.

    Args:
        class_name: name of the module's class, for example "MyTopKRouter".
        reader: given the module and what its forward returned, gives the chosen expert ids (integers) and their gate
            weights, tensors [tokens, k] with the tokens of a batch one sequence after another.
    """
    READERS[class_name] = reader


@dataclass
class _Recorder:
    """State of one capture; a row is a sequence of the running batch."""

    layers: list[int]
    choices: dict[int, Choice] = field(default_factory=dict)  # of the running forward pass
    keep: Any = None  # bool [batch, length] of the running pass: no padding
    calls: list[list[Choice]] = field(default_factory=list)
    request: list[Any] = field(default_factory=list)
    position: list[Any] = field(default_factory=list)
    phase: list[Any] = field(default_factory=list)
    rows: Any = None  # request of each row, int64 [batch]
    next_position: Any = None  # int64 [batch]
    finished: Any = None  # bool [batch]: generate() feeds padding to sequences that have ended
    n_requests: int = 0

    def start(self, ids: Any, shape: tuple[int, int], mask: Any, past: int, ends: frozenset[int]) -> None:
        batch, length = shape
        decode = past > 0 and length == 1
        if past == 0 or self.rows is None or len(self.rows) != batch:
            self.rows = self.n_requests + np.arange(batch)
            self.n_requests += batch
            self.next_position = np.zeros(batch, dtype=np.int64)
        if not decode:
            self.finished = np.zeros(batch, dtype=bool)
        keep = np.ones(shape, dtype=bool) if mask is None else np.asarray(mask[:, -length:].cpu()) != 0
        if decode and ids is not None and ends:
            self.finished |= np.isin(ids.cpu().numpy()[:, 0], list(ends))
            keep &= ~self.finished[:, None]
        position = self.next_position[:, None] + np.cumsum(keep, axis=1) - 1
        self.next_position = self.next_position + keep.sum(axis=1)
        self.keep = keep
        self.request.append(np.repeat(self.rows, length)[keep.reshape(-1)])
        self.position.append(position[keep])
        self.phase.append(np.full(int(keep.sum()), int(decode)))
        self.choices = {}

    def take(self, layer: int, name: str, choice: Choice) -> None:
        if self.keep is None:
            raise TraceError(f"router '{name}' ran outside a forward pass of its decoder; call the whole model")
        ids, weights = (tensor.detach().reshape(-1, tensor.shape[-1]) for tensor in choice)
        if len(ids) != self.keep.size or ids.shape != weights.shape:
            raise TraceError(
                f"router '{name}' chose for {counted(len(ids), 'token')}, but the forward pass has {self.keep.size}; "
                "capture needs routers that see every token of the batch once"
            )
        self.choices[layer] = (ids, weights)

    def end(self) -> None:
        missing = [layer for layer in self.layers if layer not in self.choices]
        if missing:
            raise TraceError(f"the router of layer {missing[0]} did not run in a forward pass")
        keep = None if self.keep.all() else self.keep.reshape(-1)
        call = [self.choices[layer] for layer in self.layers]
        if keep is not None:
            at = np.flatnonzero(keep).tolist()
            call = [(ids[at], weights[at]) for ids, weights in call]
        self.calls.append([(_copied(ids.int(), ids), weights.clone()) for ids, weights in call])  # ids come as int64
        self.keep, self.choices = None, {}

    def arrays(self, source: str) -> dict[str, Any]:
        """Fields of a RoutingTrace; the recorder lets go of its choices. Raises TraceError, which says ``source``."""
        last, k = sum(part.size for part in self.request), self.calls[0][0][0].shape[1]
        experts = np.empty((last, len(self.layers), k), dtype=np.int16)
        weights = np.empty(experts.shape, dtype=np.float32)
        while self.calls:
            call, part = self.calls.pop(), slice(last - self.request[len(self.calls)].size, last)
            for at, choice in enumerate(call):
                experts[part, at] = to_type(source, "experts", choice[0].cpu().numpy(), copy=False)
                weights[part, at] = choice[1].float().cpu().numpy()
            last = part.start
        return {
            "experts": experts,
            "weights": weights,
            "request": np.concatenate(self.request),
            "position": np.concatenate(self.position),
            "phase": np.concatenate(self.phase),
        }


def _copied(converted: Any, tensor: Any) -> Any:
    return tensor.clone() if converted is tensor else converted


class _NotFilled(RoutingTrace):
    """The trace before the block of ``capture`` has ended."""

    def __repr__(self) -> str:
        return "RoutingTrace(filled when the 'with capture(...)' block ends)"

    def __getattr__(self, name: str) -> Any:
        if name in RoutingTrace.__dataclass_fields__:
            raise TraceError(f"the trace has no {name} yet: it is filled when the 'with capture(...)' block ends")
        raise AttributeError(f"a RoutingTrace has no '{name}'")


@contextmanager
def capture(model: Any, *, name: str | None = None) -> Iterator[RoutingTrace]:
    """Record the routing of everything that ``model`` computes inside the block.

    Every forward pass without a filled cache starts new requests, one per sequence of the batch; passes with one
    continue them. A pass of one token after a filled cache is decode, all others are prefill. Padding (by a 2-D
    attention mask) and what ``generate`` feeds to sequences that have ended are dropped. A sequence ends with an
    end token: one that ``model.generate`` was given, else one of ``model.generation_config``. Other ends (stop strings,
    criteria of your own) and beam search, which moves sequences within a batch, are not told apart.

    Args:
        model: a transformers model of a known family, in any device and type.
        name: the trace's model name; without: the model's own.

    Yields:
        The trace; it is filled when the block ends.

    Raises:
        TraceError: no router, a router-like module of unknown class, or nothing was computed.
    """
    if not hasattr(model, "named_modules"):
        raise TraceError(f"model is {model!r}; a transformers model is needed, such as from_pretrained gives")
    routers = find_routers(model)
    paths = {_LAYER.match(path)["decoder"] for path in routers}  # type: ignore[index]
    if len(paths) > 1:
        raise TraceError(f"the model has routers in several decoders: {', '.join(sorted(paths))}; capture one of them")
    decoder = model.get_submodule(next(iter(paths)))
    numbers = {path: int(_LAYER.match(path)["layer"]) for path in routers}  # type: ignore[index]
    if len(set(numbers.values())) < len(numbers):
        raise TraceError(f"the model has two routers in one layer: {', '.join(routers)}")
    recorder = _Recorder(sorted(numbers.values()))
    given: list[frozenset[int]] = []  # end tokens of the calls of generate that are running

    def before(_: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        shape = tuple((ids if ids is not None else kwargs["inputs_embeds"]).shape[:2])
        mask = kwargs.get("attention_mask")
        if mask is not None and getattr(mask, "ndim", 0) != 2:
            raise TraceError("capture needs an attention mask [batch, tokens] to tell padding from tokens")
        past = next((kwargs[key] for key in ("past_key_values", "cache") if kwargs.get(key) is not None), None)
        seen = int(past.get_seq_length()) if past is not None else 0
        if not seen and mask is not None:
            seen = int(mask.shape[1]) - int(shape[1])
        recorder.start(ids, (int(shape[0]), int(shape[1])), mask, seen, given[-1] if given else _end_tokens(model))

    def after(*_: Any) -> None:
        recorder.end()

    def hook(path: str, reader: Reader) -> Callable[[Any, Any, Any], None]:
        def take(module: Any, _: Any, output: Any) -> None:
            try:
                choice = reader(module, output)
            except TraceError as error:
                raise TraceError(f"router '{path}' ({type(module).__name__}): {error}") from None
            recorder.take(numbers[path], path, choice)

        return take

    handles = [decoder.register_forward_pre_hook(before, with_kwargs=True), decoder.register_forward_hook(after)]
    handles += [
        module.register_forward_hook(hook(path, READERS[type(module).__name__])) for path, module in routers.items()
    ]
    trace = _NotFilled.__new__(_NotFilled)
    try:
        with _ends_of_generate(model, given):
            yield trace
    finally:
        for handle in handles:
            handle.remove()
    if not recorder.calls:
        raise TraceError("the model computed nothing while its routing was captured; call it inside the block")
    label = name or str(getattr(model.config, "name_or_path", "") or model.config.model_type)
    source = f"captured from {label}"
    full = RoutingTrace(
        **recorder.arrays(source),
        layer_index=np.array(recorder.layers),
        n_experts=_n_experts(routers),
        model=label.rstrip("/").split("/")[-1],
        source=source,
    )
    trace.__dict__.update(full.__dict__)
    object.__setattr__(trace, "__class__", RoutingTrace)


def find_routers(model: Any) -> dict[str, Any]:
    """Router modules by path. Raises TraceError if there is none, or one that is not known."""
    modules = dict(model.named_modules())
    found = {}
    for path, module in modules.items():
        kind = type(module).__name__
        if kind in READERS:
            if _LAYER.match(path) is None:
                raise TraceError(f"router '{path}' ({kind}) is in no numbered layer")
            found[path] = module
        elif _looks_like_a_router(path, kind, modules):
            raise TraceError(
                f"'{path}' looks like a router, but its class {kind} is not known; teach it with "
                f"expertstream.register_router('{kind}', reader), reader(module, output) -> (ids, weights); "
                f"known: {', '.join(READERS)}"
            )
    if not found:
        raise TraceError(f"{type(model).__name__} has no router: it is not a Mixture-of-Experts model")
    return found


def _looks_like_a_router(path: str, kind: str, modules: dict[str, Any]) -> bool:
    parent, _, last = path.rpartition(".")
    if re.search(r"router|topkgat", kind, re.IGNORECASE):
        return True
    return last in ("gate", "router", "gating") and f"{parent}.experts" in modules


def _n_experts(routers: dict[str, Any]) -> int:
    numbers = {int(getattr(module, "num_experts", 0) or module.weight.shape[0]) for module in routers.values()}
    if len(numbers) > 1:
        raise TraceError(f"the layers have different numbers of experts: {sorted(numbers)}; a trace has one")
    return numbers.pop()


@contextmanager
def _ends_of_generate(model: Any, given: list[frozenset[int]]) -> Iterator[None]:
    """While a call of ``model.generate`` runs, its end tokens are the last item of ``given``."""
    generate, own = getattr(model, "generate", None), vars(model).get("generate")
    if generate is None:
        yield
        return

    @wraps(generate)
    def watched(*args: Any, **kwargs: Any) -> Any:
        settings = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
        end = getattr(settings, "eos_token_id", None)
        if "eos_token_id" in kwargs:
            given.append(_as_ids(kwargs["eos_token_id"]))
        else:
            given.append(_end_tokens(model) if end is None else _as_ids(end))
        try:
            return generate(*args, **kwargs)
        finally:
            given.pop()

    model.generate = watched
    try:
        yield
    finally:
        if own is None:
            del model.generate
        else:
            model.generate = own


def _end_tokens(model: Any) -> frozenset[int]:
    settings = getattr(model, "generation_config", None) or model.config
    return _as_ids(getattr(settings, "eos_token_id", None))


def _as_ids(end: Any) -> frozenset[int]:
    """End tokens as ``generate`` takes them: None, an id, or several in a list or a tensor."""
    ids = end.tolist() if hasattr(end, "tolist") else end
    return frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)
