"""``expertstream trace``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from expertstream.cli import inputs
from expertstream.cli.console import facts, print_json, progress, stdout
from expertstream.errors import ConfigError, TraceError
from expertstream.report.files import check_writable
from expertstream.trace import RoutingTrace, statistics, synthesize

trace_app = typer.Typer(help="Routing traces.", no_args_is_help=True)
MAX_TOKENS = 1_000_000


@trace_app.callback()
def _group() -> None:
    """Routing traces."""


@trace_app.command("inspect")
def inspect_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet or .npz trace.")],
    json: inputs.JsonOption = False,
) -> None:
    """Check a trace and show what it holds and how its routing behaves.

    Example: expertstream trace inspect trace.parquet
    """
    trace = RoutingTrace.load(file)
    with progress("measuring"):
        measured = statistics(trace).to_dict()
    phases = {name: int((trace.phase == code).sum()) for name, code in (("prefill", 0), ("decode", 1), ("unknown", -1))}
    document = {
        "file": str(file),
        "model": trace.model,
        "source": trace.source,
        "synthetic": trace.synthetic,
        "id_space": trace.id_space,
        "n_experts": trace.n_experts,
        "top_k": trace.top_k,
        "n_tokens": trace.n_tokens,
        "layers": trace.layer_index.tolist(),
        "gate_weights": trace.weights is not None,
        "phases": phases,
        "statistics": measured,
    }
    if json:
        print_json(document)
        return
    rows = [
        ["model", trace.model],
        ["source", f"{trace.source} (SYNTHETIC)" if trace.synthetic else trace.source],
        ["expert ids", trace.id_space],
        ["experts, k", f"{trace.n_experts}, {trace.top_k}"],
        ["tokens", ", ".join(f"{count} {name}" for name, count in phases.items() if count)],
        ["requests", str(np.unique(trace.request).size) if (trace.request >= 0).all() else "unknown"],
        ["layers", f"{len(trace.layer_index)}: {', '.join(map(str, trace.layer_index.tolist()))}"],
        ["gate weights", "yes" if trace.weights is not None else "no (1 / k is taken)"],
    ]
    skip = ("tokens", "layers", "requests")
    rows += [
        [name.replace("_", " "), "-" if math.isnan(value) else f"{value:.3f}"]
        for name, value in measured.items()
        if name not in skip
    ]
    stdout().print(facts(str(file), rows))


@trace_app.command("synthesize")
def synthesize_command(
    model: inputs.ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.parquet", help="The trace to write.")],
    requests: Annotated[int, typer.Option("--requests", help="Number of requests.")] = 8,
    tokens_per_request: Annotated[int, typer.Option("--tokens-per-request", help="Tokens of each request.")] = 136,
    layers: Annotated[
        str | None, typer.Option("--layers", metavar="L,L,...|all", help="Layers. Without: the first four MoE layers.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    json: inputs.JsonOption = False,
) -> None:
    """Write a synthetic trace with the statistics of real captures.

    Example: expertstream trace synthesize qwen3-30b-a3b --requests 16 --tokens-per-request 256 --output trace.parquet
    """
    moe = inputs.load_model(model)
    if output.suffix != ".parquet":
        raise TraceError(f"'{output}' is not a name for a trace; it must end in .parquet")
    check_writable(output)
    if seed < 0:
        raise ConfigError(f"--seed is {seed}; it must not be negative")
    if requests * tokens_per_request > MAX_TOKENS:
        raise ConfigError(
            f"{requests} requests of {tokens_per_request} tokens are more than {MAX_TOKENS} tokens; ask for fewer"
        )
    chosen = (
        moe.moe_layers
        if layers == "all"
        else moe.moe_layers[:4]
        if layers is None
        else sorted(inputs.numbers(layers, "--layers", least=0))
    )
    inputs.check_layers(chosen, moe)
    with progress("synthesizing"):
        trace = synthesize(moe, requests=requests, tokens_per_request=tokens_per_request, layers=chosen, seed=seed)
        trace.save(output)
    document = {"file": str(output), "synthetic": True, "source": trace.source, "model": moe.name}
    document |= {"n_tokens": trace.n_tokens, "layers": list(chosen), "n_experts": trace.n_experts, "top_k": trace.top_k}
    if json:
        print_json(document)
    else:
        print(f"wrote {output}: SYNTHETIC, {trace.n_tokens} tokens, {len(chosen)} layers, of {moe.name}")
