"""``expertstream trace import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from expertstream.cli.console import facts, print_json, progress, remark, stdout
from expertstream.cli.inputs import JsonOption, check_outputs, load_model
from expertstream.errors import ConfigError, TraceError
from expertstream.trace.importers import FORMATS, import_trace
from expertstream.units import counted

PHASES = {"prefill": 0, "decode": 1, "of unknown phase": -1}


def import_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of another tool; requests follow on.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.parquet", help="The trace to write. Without: none.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Whose trace it is: a preset or a config.json.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help=f"One of: {', '.join(FORMATS)}. Without: found from the file.")
    ] = None,
    experts: Annotated[int | None, typer.Option("--experts", help="Experts of a layer, in place of --model.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Experts of a token, in place of --model.")] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="Counts only: tokens of the SYNTHETIC trace drawn from them.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Counts only: of the drawing.")] = 0,
    json: JsonOption = False,
) -> None:
    """Find out what another tool's routing file is, say what it holds, and write it as a trace.

    Reads routed experts of vLLM and SGLang, SGLang's recorder, llama.cpp-style CSV, .npz, EPLB, JSON per token.

    Nothing in a file is executed.

    Example: expertstream trace import responses.jsonl --model qwen3-30b-a3b --output trace.parquet
    """
    if output is not None:
        if output.suffix != ".parquet":
            raise TraceError(f"'{output}' is not a name for a trace; it must end in .parquet")
        check_outputs(output, read=files)
    if seed < 0:
        raise ConfigError(f"--seed is {seed}; it must not be negative")
    moe = load_model(model) if model is not None else None
    with progress("reading"):
        found = import_trace(*files, model=moe, format=format, n_experts=experts, top_k=top_k, tokens=tokens, seed=seed)
    trace = found.trace
    if output is not None:
        trace.save(output)
    requests = np.unique(trace.request[trace.request >= 0]).size
    document: dict[str, Any] = {"files": [str(file) for file in files], "format": found.format}
    document |= {"about": FORMATS[found.format].ABOUT, "counts_only": found.counts_only, "synthetic": trace.synthetic}
    document |= {"model": trace.model, "n_tokens": trace.n_tokens, "requests": requests}
    document |= {"layers": trace.layer_index.tolist(), "n_experts": trace.n_experts, "top_k": trace.top_k}
    document |= {"prefill_tokens": int((trace.phase == 0).sum()), "decode_tokens": int((trace.phase == 1).sum())}
    document |= {"notes": list(found.notes), "output": None if output is None else str(output)}
    if json:
        print_json(document)
        return
    phases = {name: int((trace.phase == code).sum()) for name, code in PHASES.items()}
    rows = [
        ["format", f"{found.format}: {document['about']}"],
        ["holds", "counts only: the trace is SYNTHETIC" if found.counts_only else "the experts of each token"],
        ["model", trace.model],
        ["experts, k", f"{trace.n_experts}, {trace.top_k}"],
        ["layers", f"{len(trace.layer_index)}: {', '.join(map(str, trace.layer_index.tolist()))}"],
        ["tokens", f"{trace.n_tokens} ({', '.join(f'{count} {name}' for name, count in phases.items() if count)})"],
        ["requests", str(requests) if requests else "unknown"],
        *(["note", note] for note in found.notes),
    ]
    stdout().print(facts(str(files[0]) if len(files) == 1 else f"{len(files)} files", rows))
    if output is None:
        remark("nothing was written; give --output FILE.parquet to write the trace")
    else:
        print(
            f"wrote {output}: {'SYNTHETIC, ' if trace.synthetic else ''}{counted(trace.n_tokens, 'token')}, model "
            f"{trace.model}"
        )
