"""``expertstream trace``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from expertstream.cli import inputs
from expertstream.cli.console import facts, print_json, progress, stdout, table
from expertstream.cli.trace_capture import capture_command
from expertstream.cli.trace_import import import_command
from expertstream.cli.trace_synthesize import synthesize_command
from expertstream.report.files import check_writable
from expertstream.report.trace_page import write_trace_html
from expertstream.trace import RoutingTrace, npz, statistics
from expertstream.trace.importers.arrays import counts_of as counts_in
from expertstream.trace.skew import Popularity, counts_of, loads, popularity

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
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write pictures to open in a browser, offline.")
    ] = None,
    json: inputs.JsonOption = False,
) -> None:
    """Check a trace and show what it holds and how its routing behaves, beside uniform routing.

    Of a file that holds counts only, the popularity is shown.

    Example: expertstream trace inspect trace.parquet --html trace.html
    """
    if html is not None:
        check_writable(html)
    if file.suffix == ".npz" and file.is_file() and "experts" not in npz.array_names(file):
        _inspect_counts(file, json)
        return
    trace = RoutingTrace.load(file)
    with progress("measuring"):
        measured = statistics(trace).to_dict()
        skew, load = popularity(counts_of(trace)), loads(trace)
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
        "popularity": skew.to_dict(),
        "loads": [row.to_dict() for row in load],
    }
    if html is not None:
        write_trace_html(trace, skew, load, html)
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
    rows += _popularity_rows(skew)
    skip = ("tokens", "layers", "requests", "gini", "zipf_exponent", "max_over_mean")
    rows += [
        [name.replace("_", " "), "-" if math.isnan(value) else f"{value:.3f}"]
        for name, value in measured.items()
        if name not in skip
    ]
    stdout().print(facts(str(file), rows))
    columns = ["mix", "tokens", "activated", "uniform", "max / mean load", "uniform", "Gini of load", "uniform"]
    lines = [
        [row.mix, str(row.tokens)]
        + [
            f"{value:.3f}"
            for name in ("activated", "max_over_mean", "gini")
            for value in (getattr(row, name), getattr(row, f"uniform_{name}"))
        ]
        for row in load
    ]
    stdout().print(table("experts of an iteration, beside uniform independent routing", columns, lines))
    if html is not None:
        print(f"wrote {html}")


def _popularity_rows(skew: Popularity) -> list[list[str]]:
    return [
        ["popularity: Gini, max / mean", f"{skew.gini:.3f}, {skew.max_over_mean:.2f}"],
        ["Zipf exponent", f"{skew.zipf_exponent:.3f} (off by {100 * skew.zipf_miss:.1f} % of all choices)"],
        ["Dirichlet alpha", f"{skew.dirichlet_alpha:.3f} (distributions differ by {100 * skew.dirichlet_miss:.1f} %)"],
        [
            "correlation of layers, of neighbours",
            f"{skew.layer_correlation:.3f}, {skew.adjacent_layer_correlation:.3f}",
        ],
    ]


def _inspect_counts(file: Path, json: bool) -> None:
    counts = counts_in(file)
    used = counts.counts[counts.counts.any(axis=1)]
    skew = popularity(used)
    if json:
        shape = {"layers": len(used), "n_experts": used.shape[1], "tokens": counts.tokens, "top_k": counts.top_k}
        print_json({"file": str(file), "counts_only": True, **shape, "popularity": skew.to_dict()})
        return
    rows = [
        ["holds", "counts only: no locality, no loads; trace import draws a SYNTHETIC trace from them"],
        ["layers, experts", f"{len(used)}, {used.shape[1]}"],
        *_popularity_rows(skew),
    ]
    stdout().print(facts(str(file), rows))
