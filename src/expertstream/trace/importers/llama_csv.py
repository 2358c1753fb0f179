"""CSV as the expert tracers written for llama.cpp print it: a line per chosen expert.

Columns, found by their names in the first line: ``layer,expert``, with or without ``token``; others are ignored.
llama.cpp computes ``ffn_moe_topk-LAYER``, ids [k, tokens of the batch], layer by layer (src/llama-graph.cpp,
``build_moe_ffn``), so that without ``token`` a line's place says its pass and token: a pass is a run of lines for each
layer in turn, and k divides every run. In its last layer llama.cpp computes only tokens whose output is asked for.
With a ``count`` column (``layer,expert,count``) the file holds counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.trace.checks import MAX_EXPERTS
from expertstream.trace.importers.contents import Content
from expertstream.trace.importers.counts import Counts
from expertstream.trace.importers.found import MIN_CHOICES, NOTHING, SPARSEST, Found, Hints

NAME, ABOUT = "llama-csv", "llama.cpp-style CSV, a line per layer and chosen expert"
MAX_LINES = 2**26  # eight bytes each
MAX_LAYERS = 10_000


def matches(content: Content) -> bool:
    """Whether this importer reads it."""
    return content.kind == "csv" and {"layer", "expert"} <= set(content.value)


def read(content: Content, hints: Hints) -> Found | Counts:
    """The tokens of the file. Raises TraceError for other columns, or lines that make no whole tokens."""
    columns = _columns(content)
    layer, expert = columns["layer"], columns["expert"]
    if not layer.size:
        raise TraceError("it has no lines but the first")
    if layer.min() < 0 or layer.max() >= MAX_LAYERS or expert.min() < 0 or expert.max() >= MAX_EXPERTS:
        raise TraceError(
            f"layers from {layer.min()} to {layer.max()} and experts from {expert.min()} to {expert.max()}; 0 to "
            f"{MAX_LAYERS - 1} and 0 to {MAX_EXPERTS - 1} are allowed"
        )
    numbers, place = np.unique(layer, return_inverse=True)
    if "count" in columns:
        if (columns["count"] < 0).any():
            raise TraceError("a count is negative")
        counts = np.zeros((numbers.size, hints.n_experts or int(expert.max()) + 1))
        if int(expert.max()) >= counts.shape[1]:
            raise TraceError(f"it counts expert {expert.max()}; {hints.name} has {counts.shape[1]} experts")
        np.add.at(counts, (place, expert), columns["count"])
        return Counts(counts, layers=numbers.tolist(), top_k=hints.top_k)
    if "token" in columns:
        return _by_token(columns["token"], place, expert, numbers)
    return _by_place(place, expert, numbers, hints)


def _columns(content: Content) -> dict[str, NDArray[np.int32]]:
    wanted = [name for name in ("token", "layer", "expert", "count") if name in content.value]
    parts: dict[str, list[Any]] = {name: [] for name in wanted}
    lines = 0
    try:
        with pacsv.open_csv(
            content.path,
            read_options=pacsv.ReadOptions(column_names=content.value, skip_rows=1, use_threads=False),
            convert_options=pacsv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.int32())
            ),
        ) as batches:
            for batch in batches:
                lines += batch.num_rows
                if lines > MAX_LINES:
                    raise TraceError(f"it has more than {MAX_LINES} lines; import it in parts")
                for name in wanted:
                    column = batch.column(name)
                    if column.null_count:
                        raise TraceError(f"column '{name}' has empty cells")
                    parts[name].append(column.to_numpy())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TraceError(f"its lines are not whole numbers in {len(content.value)} columns ({_first(error)})") from None
    return {name: np.concatenate(found) if found else np.empty(0, np.int32) for name, found in parts.items()}


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _by_token(token: NDArray[Any], place: NDArray[Any], expert: NDArray[Any], numbers: NDArray[Any]) -> Found:
    tokens, row = np.unique(token, return_inverse=True)
    cell = row * numbers.size + place
    order = np.argsort(cell, kind="stable")
    found, first, sizes = np.unique(cell[order], return_index=True, return_counts=True)
    k = int(sizes.max())
    if tokens.size * numbers.size * k > SPARSEST * expert.size + MIN_CHOICES:
        raise TraceError(
            f"it has {tokens.size} tokens of {numbers.size} layers with up to {k} experts, but only {expert.size} "
            "lines: most are missing"
        )
    experts = np.full((tokens.size * numbers.size, k), NOTHING, dtype=np.int16)
    rank = np.arange(order.size) - np.repeat(first, sizes)
    experts[np.repeat(found, sizes), rank] = expert[order]
    unknown = np.full(tokens.size, -1)
    return Found(
        experts.reshape(tokens.size, numbers.size, k), unknown, unknown, unknown, [int(n) for n in numbers.tolist()]
    )


def _by_place(place: NDArray[Any], expert: NDArray[Any], numbers: NDArray[Any], hints: Hints) -> Found:
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    lengths = np.diff(np.append(starts, place.size))
    layers = place[starts]
    common = int(np.gcd.reduce(lengths))
    k = hints.top_k or common
    if common % k:
        raise TraceError(f"it has {common} lines in a run of one layer, which are no whole tokens of k = {k}")
    if np.diff(np.sort(expert.reshape(-1, k), axis=1), axis=1).min(initial=1) == 0:
        raise TraceError(f"taken {k} lines at a time, a token would choose an expert twice; give --model or --top-k")
    notes = [] if hints.top_k else [f"k = {k}, the largest number of lines that divides every run of one layer"]
    of_pass = np.cumsum(np.diff(layers, prepend=layers[0]) <= 0) - 1  # a layer that is not deeper starts a pass
    tokens = np.zeros(int(of_pass[-1]) + 1, dtype=np.int64)
    np.maximum.at(tokens, of_pass, lengths // k)
    first = np.cumsum(tokens) - tokens
    total = int(tokens.sum())
    if total * numbers.size * k > SPARSEST * expert.size + MIN_CHOICES:
        raise TraceError("its passes leave out most of the layers, which is no trace of a model")
    experts = np.full((total, numbers.size, k), NOTHING, dtype=np.int16)
    for at, start, length, number in zip(
        layers.tolist(), starts.tolist(), lengths.tolist(), of_pass.tolist(), strict=True
    ):
        last = int(first[number] + tokens[number])  # fewer tokens than in other layers: the last ones of the pass
        experts[last - length // k : last, at] = expert[start : start + length].reshape(-1, k)
    prompt = tokens > 1
    new = prompt & ~np.append(False, prompt[:-1])  # a prompt that follows a generated token, or starts the file
    new[0] = True
    request = np.repeat(np.cumsum(new) - 1, tokens)
    change = np.flatnonzero(np.diff(request, prepend=-1))
    position = np.arange(total) - np.repeat(change, np.diff(np.append(change, total)))
    notes.append(
        "a pass of several tokens is prefill, one of a single token decode; a prompt after decode is a new request"
    )
    return Found(
        experts,
        request,
        position,
        np.repeat(~prompt, tokens).astype(np.int64),
        [int(n) for n in numbers.tolist()],
        notes=notes,
    )
