"""vLLM's routed experts (server option ``--enable-return-routed-experts``).

Layouts, from vllm/outputs.py and vllm/entrypoints/openai/completion/protocol.py of github.com/vllm-project/vllm:

- A response (completions, chat, generate) whose ``choices[i].routed_experts`` is the base64 of ``.npy`` bytes, unsigned
  or signed integers [tokens, layers, k]. They are the prompt's tokens and the generated ones but the last, which never
  runs through the model.
- Responses that part them: ``prompt_routed_experts`` [prompt tokens, layers, k] beside the choices, and each choice's
  ``routed_experts`` for the generated tokens only. Here and there the arrays are nested lists, or
  ``{"encoding": "base64", "dtype": "int16", "shape": [...], "data": ...}``.
- A ``RequestOutput`` written as JSON: ``outputs[i].routed_experts`` in place of the choices.
- ``CompletionOutput.routed_experts`` saved with ``numpy.save``: int16 [tokens, layers, k].

The layers are all of the model's; those without experts hold zeros and are left out.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.trace import npz
from expertstream.trace.importers.contents import Content, documents
from expertstream.trace.importers.found import Found, Hints, expert_ids, of_requests

NAME, ABOUT = "vllm", "vLLM routed experts, [tokens, layers, k]"
_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "int64")


def matches(content: Content) -> bool:
    """Whether this importer reads it."""
    if content.kind == "npy":
        return bool(content.value.ndim == 3)
    if content.kind != "json":
        return False
    return isinstance(content.value, dict) and any(choice.get("routed_experts") for choice in _choices(content.value))


def read(content: Content, hints: Hints) -> Found:
    """The requests of the file: of each response each choice. Raises TraceError for another layout."""
    if content.kind == "npy":
        return of_requests([(expert_ids(content.value, 3, "the array"), None)])
    requests = []
    for response in documents(content.path):
        if not isinstance(response, dict):
            raise TraceError("one of its lines is no response of vLLM")
        usage, ids = response.get("usage"), response.get("prompt_token_ids")
        known = len(ids) if isinstance(ids, list) else usage.get("prompt_tokens") if isinstance(usage, dict) else None
        prompt = response.get("prompt_routed_experts")
        start = None if prompt is None else _decoded(prompt, "prompt_routed_experts")
        for choice in _choices(response):
            if choice.get("routed_experts") is None:
                continue
            experts = _decoded(choice["routed_experts"], "routed_experts")
            if start is None:
                requests.append((experts, known if isinstance(known, int) else None))
            elif start.shape[1:] != experts.shape[1:]:
                raise TraceError(f"its prompt has [layers, k] = {list(start.shape[1:])}, its output another")
            else:
                requests.append((np.concatenate([start, experts]), len(start)))
    return of_requests(requests)


def _choices(response: dict[str, Any]) -> list[dict[str, Any]]:
    found = response.get("choices") or response.get("outputs")
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def _decoded(value: Any, name: str) -> NDArray[np.int16]:
    if isinstance(value, str):
        return expert_ids(npz.parse_array(io.BytesIO(decoded_base64(value, name)), name), 3, name)
    if isinstance(value, dict):
        kind, shape = value.get("dtype"), value.get("shape")
        if kind not in _TYPES or not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise TraceError(f"{name} has the type {kind} and shape {shape}; integers [tokens, layers, k] are needed")
        flat = np.frombuffer(whole_items(decoded_base64(value.get("data"), name), np.dtype(kind).itemsize, name), kind)
        if int(np.prod([float(n) for n in shape])) != flat.size:
            raise TraceError(f"{name} has {flat.size} entries, its shape {shape} needs others")
        return expert_ids(flat.reshape(shape), 3, name)
    return expert_ids(value, 3, name)


def decoded_base64(value: Any, name: str) -> bytes:
    """The bytes of base64 text. Raises TraceError for anything else."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise TraceError(f"{name} is not base64") from None


def whole_items(data: bytes, size: int, name: str) -> bytes:
    """``data``, a multiple of ``size`` bytes. Raises TraceError if it is none."""
    if len(data) % size:
        raise TraceError(f"{name} has {len(data)} bytes, which are no whole integers of {size} bytes; it is cut off")
    return data
