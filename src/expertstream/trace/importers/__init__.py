"""Traces and counts from other tools' files; one module per format, with the published layout in its docstring.

A format is a module with NAME, ABOUT, ``matches(content)`` and ``read(content, hints)``; the first that matches reads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from expertstream.errors import TraceError, check_whole, nearest
from expertstream.trace.importers import arrays, eplb, llama_csv, sglang, sglang_recorder, token_json, vllm
from expertstream.trace.importers.contents import Content, open_content
from expertstream.trace.importers.counts import Counts, draw
from expertstream.trace.importers.found import Found, Hints, as_trace
from expertstream.trace.routing import HasExperts, RoutingTrace

FORMATS: dict[str, ModuleType] = {
    module.NAME: module for module in (arrays, vllm, sglang, sglang_recorder, llama_csv, eplb, token_json)
}


@dataclass(frozen=True)
class Imported:
    """What an import found.

    Attributes:
        trace: the routing; where it was drawn it is called synthetic.
        format: a name of FORMATS. counts_only: the files hold counts, and the trace is drawn from them (synthetic).
        notes: what was left out or assumed, for people.
    """

    trace: RoutingTrace
    format: str
    counts_only: bool
    notes: tuple[str, ...]


def import_trace(
    *paths: str | os.PathLike[str],
    model: HasExperts | None = None,
    format: str | None = None,
    n_experts: int | None = None,
    top_k: int | None = None,
    tokens: int | None = None,
    seed: int = 0,
) -> Imported:
    """Read files of another tool as one trace; the requests of further files follow those of the first.

    Nothing in a file is executed, and nothing large is made before its size is checked.

    Args:
        paths: files of one format.
        model: whose trace it is: gives the numbers of the layers, of experts and k.
        format: a name of FORMATS; without: found from the first file.
        n_experts, top_k: in place of a model.
        tokens, seed: of the trace that is drawn where the files hold counts only.

    Raises:
        TraceError: a missing or damaged file, an unknown format, or content that does not fit the model.
        ConfigError: a number that is none, or too small.
    """
    if not paths:
        raise TraceError("no file was given to import")
    if format is not None and format not in FORMATS:
        raise TraceError(f"unknown format '{format}'{nearest(format, FORMATS)}; allowed: {', '.join(FORMATS)}")
    for name, value in (("n_experts", n_experts), ("top_k", top_k), ("tokens", tokens)):
        if value is not None:
            check_whole(name, value, least=1)
    check_whole("seed", seed, least=0)
    hints = _hints(model, n_experts, top_k)
    files = [Path(path) for path in paths]
    found: list[Found | Counts] = []
    for file in files:
        content = open_content(file)
        format = format or _format_of(content)
        if not FORMATS[format].matches(content):
            raise TraceError(f"'{file}' is not in format {format} ({FORMATS[format].ABOUT}); leave out the format")
        try:
            found.append(FORMATS[format].read(content, hints))
        except TraceError as error:
            reason = str(error).removeprefix(f"'{file}': ").removeprefix(f"'{file}' ")
            raise TraceError(f"'{file}', read as {format}: {reason}") from None
    source = files[0].name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    label = f"{source}, {format}"
    try:
        return _joined(found, hints, label, tokens, seed, str(format))
    except TraceError as error:
        raise TraceError(f"'{source}', read as {format}: {str(error).removeprefix(f'{label}: ')}") from None


def _format_of(content: Content) -> str:
    for name, module in FORMATS.items():
        if module.matches(content):
            return name
    if content.kind == "parquet":
        raise TraceError(f"'{content.path}' is Parquet; a trace of ours needs no import: use it as it is")
    known = "; ".join(f"{name}: {module.ABOUT}" for name, module in FORMATS.items())
    raise TraceError(f"'{content.path}' ({content.kind}) is in no known format; known: {known}")


def _hints(model: HasExperts | None, n_experts: int | None, top_k: int | None) -> Hints:
    if model is None:
        return Hints(n_experts=n_experts, top_k=top_k)
    for name, given in (("n_experts", n_experts), ("top_k", top_k)):
        if given not in (None, getattr(model, name)):
            raise TraceError(f"{name} is {given}, but {model.name} has {getattr(model, name)}; give one of them")
    layers = getattr(model, "moe_layers", None)
    return Hints(model.name, model.n_experts, model.top_k, getattr(model, "n_layers", None), layers and tuple(layers))


def _joined(
    found: Sequence[Found | Counts], hints: Hints, source: str, tokens: int | None, seed: int, format: str
) -> Imported:
    counts = [one for one in found if isinstance(one, Counts)]
    traces = [one for one in found if isinstance(one, Found)]
    if counts and traces:
        raise TraceError("some of the files hold tokens and some counts; import them apart")
    if counts:
        if len({one.counts.shape for one in counts}) > 1:
            raise TraceError("the files differ in layers or experts")
        total = replace(counts[0], counts=np.sum([one.counts for one in counts], axis=0))
        if hints.n_experts is not None and total.counts.shape[1] != hints.n_experts:
            raise TraceError(f"it counts {total.counts.shape[1]} experts, but {hints.n_experts} are expected")
        trace, notes = draw(total, hints, source, tokens, seed)
        return Imported(trace, format, True, tuple(notes))
    if tokens is not None:
        raise TraceError("tokens was given, but the file holds a trace: it is taken whole")
    trace, notes = as_trace(_concatenated(traces), hints, source)
    return Imported(trace, format, False, tuple(notes))


def _concatenated(parts: Sequence[Found]) -> Found:
    if len(parts) == 1:
        return parts[0]
    if len({(one.experts.shape[1:], tuple(one.layers or ()), one.weights is None) for one in parts}) > 1:
        raise TraceError("the files differ in layers, in k, or in whether they have gate weights")
    requests = []
    first = 0
    for one in parts:
        request = np.asarray(one.request).astype(np.int64)
        requests.append(np.where(request < 0, -1, request + first))
        first += int(request.max(initial=-1)) + 1
    known = [one.n_experts for one in parts if one.n_experts is not None]
    return Found(
        experts=np.concatenate([one.experts for one in parts]),
        request=np.concatenate(requests),
        position=np.concatenate([one.position for one in parts]),
        phase=np.concatenate([one.phase for one in parts]),
        layers=parts[0].layers,
        n_experts=max(known) if known else None,
        weights=None if parts[0].weights is None else np.concatenate([one.weights for one in parts]),
        notes=list(dict.fromkeys(note for one in parts for note in one.notes)),
    )
