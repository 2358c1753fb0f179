"""``expertstream trace``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from expertstream.cli import inputs
from expertstream.cli.console import facts, print_json, progress, remark, stdout, table
from expertstream.cli.trace_capture import capture_command
from expertstream.cli.trace_import import import_command
from expertstream.cli.trace_synthesize import synthesize_command
from expertstream.report import trace_page
from expertstream.trace import RoutingTrace, npz, skew, statistics
from expertstream.trace.importers.arrays import counts_of as counts_in
from expertstream.trace.skew import Popularity, loads, popularity
from expertstream.trace.statistics import PAIRS, SAMPLE, counts_of, looked_at

PHASES = {"prefill": "prefill", "decode": "decode", "unknown": "whose phase (prefill or decode) was not recorded"}

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
    inputs.check_outputs(html, read=[file])
    if file.suffix == ".npz" and file.is_file() and "experts" not in npz.array_names(file):
        _inspect_counts(file, json)
        if html is not None:
            remark(f"{html} was not written: the file holds counts only, of which there are no pictures")
        return
    with progress("measuring") as report:
        trace = RoutingTrace.open(file)
        trace.note(*looked_at(trace), *skew.looked_at(trace), *([] if html is None else trace_page.looked_at(trace)))
        counts = counts_of(trace, report)
        measured = statistics(trace, counts=counts).to_dict()
        shape, load = popularity(counts), loads(trace)
        if html is not None:
            trace_page.write_trace_html(trace, counts, shape, load, html)
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
        "popularity": shape.to_dict(),
        "loads": [row.to_dict() for row in load],
        "sampled": {
            "iterations": skew.WINDOWS,
            "pairs_of_tokens": PAIRS,
            "tokens_of_joint_choices": min(trace.n_tokens, SAMPLE),
        },
    }
    if json:
        print_json(document)
        return
    rows = [
        ["model", trace.model],
        ["source", f"{trace.source} (SYNTHETIC)" if trace.synthetic else trace.source],
        ["expert ids", trace.id_space],
        ["experts, k", f"{trace.n_experts}, {trace.top_k}"],
        ["tokens", ", ".join(f"{count} {PHASES[name]}" for name, count in phases.items() if count)],
        ["requests", str(np.unique(trace.request).size) if (trace.request >= 0).all() else "unknown"],
        ["layers", f"{len(trace.layer_index)}: {', '.join(map(str, trace.layer_index.tolist()))}"],
        ["gate weights", "yes" if trace.weights is not None else "no (1 / k is taken)"],
    ]
    rows += _popularity_rows(shape)
    skip = ("tokens", "layers", "requests", "gini", "zipf_exponent", "max_over_mean")
    rows += [[name.replace("_", " "), _number(value)] for name, value in measured.items() if name not in skip]
    rows.append(["measured on", _measured_on(trace.n_tokens)])
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
    if lines:
        stdout().print(table("experts of an iteration, beside uniform independent routing", columns, lines))
    else:
        print(f"no loads: the trace has fewer than {skew.TOKENS[0]} tokens, the smallest iteration that is looked at")
    if html is not None:
        print(f"wrote {html}")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _measured_on(tokens: int) -> str:
    joint = "all tokens" if tokens <= SAMPLE else f"{SAMPLE} tokens drawn from all, always the same"
    return (
        f"popularity: all tokens; next layer, co-activation: {joint}; Jaccard: at most {PAIRS} pairs of tokens each; "
        f"iterations: at most {skew.WINDOWS} of each size, evenly spread"
    )


def _popularity_rows(found: Popularity) -> list[list[str]]:
    miss = 100 * found.dirichlet_miss
    return [
        ["popularity: Gini, max / mean", f"{found.gini:.3f}, {found.max_over_mean:.2f}"],
        ["Zipf exponent", f"{found.zipf_exponent:.3f} (off by {100 * found.zipf_miss:.1f} % of all choices)"],
        ["Dirichlet alpha", f"{found.dirichlet_alpha:.3f} (distributions differ by {miss:.1f} %)"],
        [
            "correlation of layers, of neighbours",
            ", ".join(_number(value) for value in (found.layer_correlation, found.adjacent_layer_correlation)),
        ],
    ]


def _inspect_counts(file: Path, json: bool) -> None:
    counts = counts_in(file)
    used = counts.counts[counts.counts.any(axis=1)]
    found = popularity(used)
    if json:
        shape = {"layers": len(used), "n_experts": used.shape[1], "tokens": counts.tokens, "top_k": counts.top_k}
        print_json({"file": str(file), "counts_only": True, **shape, "popularity": found.to_dict()})
        return
    rows = [
        ["holds", "counts only: no locality, no loads; trace import draws a SYNTHETIC trace from them"],
        ["layers, experts", f"{len(used)}, {used.shape[1]}"],
        *_popularity_rows(found),
    ]
    stdout().print(facts(str(file), rows))
