"""``expertstream compare``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from expertstream.cli import inputs
from expertstream.cli.console import announce_compilation, print_json, progress, remark, stdout, table
from expertstream.comparison import Comparison, compare
from expertstream.errors import ConfigError
from expertstream.files import write_json
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.strategy import Options, Strategy, get_strategy, strategy_names
from expertstream.trace import RoutingTrace
from expertstream.units import counted, format_bytes, format_time

Row = dict[str, Any]
DROP = ["over D2D", "from DDR", "passes", "MAC use"]  # columns that a narrow terminal goes without, in this order


@inputs.with_run_options
def compare_command(
    model: inputs.ModelArgument,
    *,
    package: inputs.PackageOption = "test-chip-2x2",
    trace: inputs.TraceOption = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", "-n", metavar="N,N,...", help="Tokens per iteration. [16,64,256,1024]")
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", metavar="L,L,...|all", help="Layers. Without: three of the trace.")
    ] = None,
    strategies: Annotated[
        str, typer.Option("--strategies", "-s", metavar="NAME,...|all", help="Strategies to compare.")
    ] = "all",
    own: Annotated[
        list[str] | None,
        typer.Option("--strategy", metavar="FILE.py:NAME", help="Compare one of your own, too (may be repeated)."),
    ] = None,
    run: inputs.RunOptions,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="NAME", help="Speed-ups refer to it. Without: ep, or the first.")
    ] = None,
    prove: inputs.ProveOption = False,
    json: inputs.JsonOption = False,
    html: inputs.HtmlOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="Write the JSON.")] = None,
) -> None:
    """Compare strategies on the same iterations.

    Example: expertstream compare qwen3-30b-a3b --package test-chip-2x2 --tokens 16,64,256
    """
    inputs.check_outputs(output, html, read=(model, package, trace, *(own or ())))
    moe = inputs.load_model(model)
    chips = run.with_buffers(inputs.load_package(package))
    given = [*inputs.names(strategies), *(own or [])]
    chosen = _strategies(given)
    of_all = [get_strategy(name) for name in strategy_names()] if "all" in given else []
    reference = _baseline(baseline, [strategy.name for strategy in chosen])
    sizes = inputs.numbers(tokens, "--tokens", least=1) if tokens is not None else list(inputs.TOKENS)
    wanted = None if layers in (None, "all") else inputs.numbers(str(layers), "--layers", least=0)
    routing = inputs.load_trace(trace, moe, max(sizes), wanted)
    if tokens is None and max(sizes) > routing.n_tokens:
        sizes = [n for n in sizes if n <= routing.n_tokens] or [routing.n_tokens]
        remark(f"the trace has {counted(routing.n_tokens, 'token')}: comparing at {', '.join(map(str, sizes))}")
    at = routing.layer_index.tolist() if layers == "all" else wanted
    for layer in at or routing.layer_index[:1].tolist():  # an early answer to what could only fail late
        routing.place_of(layer)
        routing.tokens_of(max(sizes), mix=run.as_mix)
    options = run.of_strategy()
    inputs.say_unused(run, chosen)
    announce_compilation()
    with progress("comparing") as report:
        found = compare(
            moe,
            chips,
            routing,
            tokens=sizes,
            layers=at,
            strategies=["all", *(s for s in chosen if s not in of_all)] if of_all else chosen,
            mix=run.as_mix,
            spread=run.as_spread,
            baseline=reference,
            options=options,
            proof=prove,
            progress=report,
        )
    document = as_document(found, moe, chips, routing, mix=run.mix, spread=run.spread, options=options)
    if output is not None:
        write_json(document, output)
    if html is not None:
        with progress("writing the report"):
            found.to_html(html)
    if json:
        print_json(document)
        return
    show(document)
    if output is not None:
        remark(f"wrote {output}")
    if html is not None:
        remark(f"wrote {html} (open it in a browser)")


def _strategies(given: list[str]) -> list[Strategy]:
    names = [name for one in given for name in (strategy_names() if one == "all" else [one])]
    if not names:
        raise ConfigError(f"--strategies names none; write all, or some of: {', '.join(strategy_names())}")
    return [get_strategy(name) for name in dict.fromkeys(names)]


def _baseline(name: str | None, chosen: list[str]) -> str:
    if name is not None and name not in chosen:
        get_strategy(name)
    if name is not None and name not in chosen:
        raise ConfigError(f"--baseline '{name}' is not among the strategies compared: {', '.join(chosen)}; add it")
    return name or ("ep" if "ep" in chosen else chosen[0])


def as_document(
    found: Comparison,
    model: MoEModel,
    package: Package,
    trace: RoutingTrace,
    *,
    mix: str,
    spread: str,
    options: Options,
) -> Row:
    """A comparison with its inputs, as plain JSON types. ``proof_error``: relative to the largest output."""
    return {
        "model": model.name,
        "package": package.name,
        "faults": package.faults.in_words,
        "synthetic": trace.synthetic,
        "routing_source": trace.source,
        "routing": inputs.routing_label(trace.source, trace.synthetic),
        "layers": sorted({row["layer"] for row in found.rows}),
        "mix": mix,
        "spread": spread,
        "options": {
            "micro_slices": options.micro_slices,
            "placement": options.placement,
            "rings": options.rings,
            "redispatch": options.redispatch,
            "layout": options.layout,
            "depth": options.depth,
            "prediction": options.prediction,
            "lead_ps": options.lead_ps,
            "order": options.order,
            "decision_ps": options.decision_ps,
        },
        "baseline": found.baseline,
        "proof_error": found.proof_error,
        "checked_pairs": found.pairs,
        "training_tokens": {str(n): count for n, count in found.training_tokens.items()},
        "left_out": [{"tokens": n, "strategy": name, "reason": why} for n, name, why in found.left_out],
        "by_tokens": found.by_tokens(),
        "rows": list(found.rows),
    }


def title_of(document: Row) -> str:
    """One line that says what was compared."""
    layers = ", ".join(map(str, document["layers"]))
    plural = "s" if len(document["layers"]) > 1 else ""
    return (
        f"{document['model']} on {document['package']}, layer{plural} {layers}, {document['mix']}, "
        f"{document['routing']}"
    )


def show(document: Row) -> None:
    """Print the table, the DDR layouts and the proof."""
    console = stdout()
    console.print(title_of(document), style="bold", soft_wrap=True)
    found, dropped = _table(document, console.width)
    console.print(found)
    if dropped:
        console.print(f"(a wider terminal shows also: {', '.join(dropped)})")
    if len(document["layers"]) > 1:
        console.print("means over the layers; of peak SRAM and passes the most")
    if document["faults"]:
        console.print(f"faults: {'; '.join(document['faults'])}")
    for name, key in (("DDR layout", "ddr_layout"), ("prefetch", "prefetch")):
        for text, users in _alike(document["by_tokens"], operator.itemgetter(key)).items():
            console.print(f"{name} of {', '.join(users)}: {text}")
    if document["options"]["prediction"] is not None:
        lead = format_time(document["options"]["lead_ps"])
        console.print(f"latencies count from the gate's result; weights load by prediction {lead} before it")
        for row in document["by_tokens"]:
            ahead, wasted = format_bytes(row["ahead_bytes"]), format_bytes(row["wasted_bytes"])
            console.print(
                f"  {row['strategy']} at {counted(row['tokens'], 'token')}: {ahead} needed, {wasted} wasted a layer"
            )
    for text, users in _alike(document["by_tokens"], _buffers).items():
        console.print(f"buffers per die of {', '.join(users)}: {text}")
    training = ", ".join(
        f"{count} at {counted(int(n), 'token')}" for n, count in document["training_tokens"].items() if count
    )
    if training:
        console.print(f"fitted on a training part, all judged on the rest of the trace; tokens that train: {training}")
    for at, rows in groupby(document["left_out"], key=operator.itemgetter("tokens", "reason")):
        console.print(f"left out: {', '.join(row['strategy'] for row in rows)} at {counted(at[0], 'token')}: {at[1]}")
    console.print(
        f"same work: each strategy computed the same {counted(document['checked_pairs'], '(token, expert) pair')}, "
        "every column exactly once; built-in ones loaded each weight once a pass; checked on "
        f"{counted(len(document['rows']), 'timeline')}"
    )
    if document["proof_error"] is not None:
        console.print(
            f"proven: {counted(len(document['rows']), 'timeline')} equal to the dense layer, "
            f"largest relative error {document['proof_error']:.1e} (allowed 1e-10)"
        )


def _alike(rows: list[Row], text_of: Callable[[Row], str]) -> dict[str, list[str]]:
    """Strategies by what is said of them; with the number of tokens where that decides."""
    texts: dict[str, set[str]] = {}
    for row in rows:
        texts.setdefault(row["strategy"], set()).add(text_of(row))
    found: dict[str, list[str]] = {}
    for row in rows:
        name = row["strategy"]
        user = name if len(texts[name]) == 1 else f"{name} at {counted(row['tokens'], 'token')}"
        users = found.setdefault(text_of(row), [])
        if user not in users:
            users.append(user)
    return found


def _buffers(row: Row) -> str:
    return f"{format_bytes(row['weight_buffer_bytes'])} weights, {format_bytes(row['token_buffer_bytes'])} tokens"


def _table(document: Row, width: int) -> tuple[Table, list[str]]:
    """The table, and the columns that were left out because the terminal is too narrow."""
    dropped: list[str] = []
    while True:
        out = _table_without(document, dropped)
        if len(dropped) == len(DROP) or Console(width=1000).measure(out).maximum <= width:
            return out, dropped
        dropped = DROP[: len(dropped) + 1]


def _table_without(document: Row, dropped: list[str]) -> Table:
    rows = document["by_tokens"]
    cells = {
        "tokens": [str(row["tokens"]) for row in rows],
        "strategy": [row["strategy"] for row in rows],
        "latency": [format_time(row["latency_ps"]) for row in rows],
        f"speed-up\nover {document['baseline']}": ["-" if not r["speedup"] else f"{r['speedup']:.3f}x" for r in rows],
        "latency\n/ bound": ["-" if row["gap"] is None else f"{row['gap']:.4f}" for row in rows],
        "MAC use": [f"{100 * row['utilisation']:.1f} %" for row in rows],
        "from DDR": [format_bytes(row["ddr_bytes"]) for row in rows],
        "over D2D": [format_bytes(row["d2d_bytes"]) for row in rows],
        "peak SRAM": [format_bytes(row["peak_package_bytes"]) for row in rows],
        "passes": [str(row["passes"]) for row in rows],
    }
    if document["faults"]:
        cells["latency /\nwithout faults"] = ["-" if not r["slowdown"] else f"{r['slowdown']:.3f}" for r in rows]
    cells = {name: column for name, column in cells.items() if name not in dropped}
    out = table("", list(cells), [], left=2)
    out.columns[0].justify = "right"
    best = {n: min(r["latency_ps"] for r in rows if r["tokens"] == n) for n in {r["tokens"] for r in rows}}
    for row, after, *texts in zip(rows, [*rows[1:], None], *cells.values(), strict=True):
        out.add_row(
            *texts,
            style="bold green" if row["latency_ps"] == best[row["tokens"]] else None,
            end_section=after is not None and after["tokens"] != row["tokens"],
        )
    return out
