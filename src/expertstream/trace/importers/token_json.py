"""JSON that maps tokens to experts: ``{token: [experts]}``, or ``{layer: {token: [experts]}}``.

Keys end in their number ("3", "token_3", "model.layers.3"). Tokens are one request, in order of their numbers.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from expertstream.errors import TraceError
from expertstream.trace.importers.contents import Content
from expertstream.trace.importers.found import MIN_CHOICES, NOTHING, SPARSEST, Found, Hints, expert_ids
from expertstream.trace.importers.llama_csv import MAX_LAYERS

NAME, ABOUT = "token-json", "JSON {layer: {token: [experts]}}"


def matches(content: Content) -> bool:
    """Whether this importer reads it."""
    if content.kind != "json" or not isinstance(content.value, dict) or not content.value:
        return False
    first_key, first = next(iter(content.value.items()))
    inner = next(iter(first.items()), ("", None)) if isinstance(first, dict) else (first_key, first)
    return _number(first_key) is not None and _number(inner[0]) is not None and isinstance(inner[1], list)


def read(content: Content, hints: Hints) -> Found:
    """The tokens of the file. Raises TraceError for another layout."""
    document = content.value
    nested = isinstance(next(iter(document.values())), dict)
    number = _number(content.path.stem)
    layers = _by_number(document if nested else {str(0 if number is None else number): document}, "layer")
    if max(layers) >= MAX_LAYERS:
        raise TraceError(f"it has a layer {max(layers)}; at most {MAX_LAYERS - 1} is allowed")
    tables = [_by_number(layers[layer], "token") for layer in sorted(layers)]
    tokens = sorted(set().union(*tables))
    lists = [row for table in tables for row in table.values()]
    if not all(isinstance(row, list) for row in lists):
        raise TraceError("a token has something else than a list of experts")
    k = max(len(row) for row in lists)
    if len(tokens) * len(layers) * k > SPARSEST * sum(len(row) for row in lists) + MIN_CHOICES:
        raise TraceError(
            f"it has {len(tokens)} tokens of {len(layers)} layers with up to {k} experts, but names only "
            f"{sum(len(row) for row in lists)} experts: most are missing"
        )
    experts = np.full((len(tokens), len(layers), k), NOTHING, dtype=np.int16)
    place = {token: at for at, token in enumerate(tokens)}
    for at, table in enumerate(tables):
        for length in sorted({len(row) for row in table.values()} - {0}):
            rows = [(place[token], row) for token, row in table.items() if len(row) == length]
            experts[[token for token, _ in rows], at, :length] = expert_ids([row for _, row in rows], 2, "its lists")
    unknown = np.full(len(tokens), -1)
    return Found(experts, np.zeros(len(tokens), dtype=np.int64), np.arange(len(tokens)), unknown, sorted(layers))


def _number(key: str) -> int | None:
    found = re.search(r"(\d{1,9})$", key)
    return int(found[1]) if found else None


def _by_number(table: Any, what: str) -> dict[int, Any]:
    if not isinstance(table, dict) or not table:
        raise TraceError(f"a {what} is missing: {{token: [experts]}} for each layer is needed")
    numbers = [_number(key) for key in table]
    if None in numbers or len(set(numbers)) < len(numbers):
        raise TraceError(f"its {what}s are no different numbers: {', '.join(list(table)[:4])}")
    return {int(number or 0): value for number, value in zip(numbers, table.values(), strict=True)}
