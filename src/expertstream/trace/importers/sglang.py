"""SGLang's routed experts (server option ``--enable-return-routed-experts``, request field ``return_routed_experts``).

Layout, from the documentation of the feature (github.com/sgl-project/sglang, pull requests 12162 and 17434; the same in
sgl-project/sglang-jax, docs/features/return_routed_experts.md): ``meta_info.routed_experts`` of a response of
``/generate``, or of ``choices[i]`` of the OpenAI endpoints (newer servers: of its ``sglext``), is the base64 of int32
[tokens, layers, k] without a header. The tokens are the prompt's and the generated ones but the last; their numbers are
in ``meta_info`` or ``usage``. The layers are all of the model's.

As the text does not say k, the model (or ``--top-k``) must be given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.trace.importers.contents import Content, documents
from expertstream.trace.importers.found import Found, Hints, expert_ids, of_requests
from expertstream.trace.importers.vllm import decoded_base64, whole_items

NAME, ABOUT = "sglang", "SGLang routed experts, base64 of int32 [tokens, layers, k]"


def matches(content: Content) -> bool:
    """Whether this importer reads it."""
    if content.kind != "json":
        return False
    first = content.value[0] if isinstance(content.value, list) and content.value else content.value
    return isinstance(first, dict) and bool(_parts(first))


def read(content: Content, hints: Hints) -> Found:
    """The requests of the file. Raises TraceError for another layout, or without k."""
    if hints.top_k is None:
        raise TraceError("SGLang's routed experts do not say k; give --model or --top-k")
    requests = []
    for document in documents(content.path):
        for response in document if isinstance(document, list) else [document]:
            for text, prompt, generated in _parts(response) if isinstance(response, dict) else []:
                requests.append((_decoded(text, prompt, generated, hints), prompt))
    return of_requests(requests)


def _parts(response: dict[str, Any]) -> list[tuple[str, int | None, int | None]]:
    """Of each choice: the text, and the numbers of prompt and generated tokens, None where not given."""
    choices = response.get("choices")
    found = []
    for part in choices if isinstance(choices, list) else [response]:
        for info in (part.get("meta_info"), part.get("sglext"), part) if isinstance(part, dict) else ():
            if not isinstance(info, dict):
                continue
            text = info.get("routed_experts")
            if isinstance(text, str) and not text.startswith("k05VTVBZ"):  # base64 of NumPy's magic: vLLM
                usage: Any = info if "prompt_tokens" in info else response.get("usage")
                numbers = [usage.get(name) if isinstance(usage, dict) else None for name in _COUNTS]
                prompt, generated = (n if isinstance(n, int) and n >= 0 else None for n in numbers)
                found.append((text, prompt, generated))
                break
    return found


_COUNTS = ("prompt_tokens", "completion_tokens")


def _decoded(text: str, prompt: int | None, generated: int | None, hints: Hints) -> NDArray[np.int16]:
    data = whole_items(decoded_base64(text, "routed_experts"), 4, "routed_experts")
    flat, k = np.frombuffer(data, "<i4"), hints.top_k or 1
    tokens = None if prompt is None or generated is None else prompt + max(generated - 1, 0)
    layers = 0
    if hints.n_layers is not None:
        for number in (hints.n_layers, len(hints.moe_layers or ())):
            rows, rest = divmod(flat.size, max(number * k, 1))
            if not layers and number and not rest and tokens in (None, rows, rows - 1):
                layers = number
    elif tokens and flat.size % (tokens * k) == 0:
        layers = flat.size // (tokens * k)
    if not layers:
        raise TraceError(
            f"routed_experts has {flat.size} entries, which are not [{tokens or 'tokens'}, "
            f"{hints.n_layers or 'layers'}, {k}]; give the right --model or --top-k"
        )
    return expert_ids(flat.reshape(-1, layers, k), 3, "routed_experts")
