"""``expertstream trace``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from expertstream.cli import inputs
from expertstream.cli.console import facts, print_json, progress, stdout
from expertstream.cli.trace_capture import capture_command
from expertstream.cli.trace_import import import_command
from expertstream.cli.trace_synthesize import synthesize_command
from expertstream.trace import RoutingTrace, statistics

trace_app = typer.Typer(help="Routing traces.", no_args_is_help=True)
trace_app.command("capture")(capture_command)
trace_app.command("import")(import_command)
trace_app.command("synthesize")(synthesize_command)


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
