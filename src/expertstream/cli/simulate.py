"""``expertstream simulate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from expertstream.analysis import CAUSES, Budget
from expertstream.cli import inputs
from expertstream.cli.console import announce_compilation, facts, print_json, progress, remark, stdout, table
from expertstream.cli.rtl import rtl_schedulers
from expertstream.comparison import in_parts
from expertstream.errors import ConfigError
from expertstream.package.technology import DEFAULT_TECHNOLOGY
from expertstream.report.perfetto import write_perfetto
from expertstream.simulate import Result, latency_without_faults, simulate
from expertstream.strategy import DEFAULT, get_strategy
from expertstream.units import counted, format_bytes, format_time


@inputs.with_run_options
def simulate_command(
    model: inputs.ModelArgument,
    *,
    package: inputs.PackageOption = "test-chip-2x2",
    trace: inputs.TraceOption = None,
    strategy: Annotated[
        str, typer.Option("--strategy", "-s", metavar="NAME|FILE.py:NAME", help="How the layer is run.")
    ] = DEFAULT,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="Tokens of the iteration.")] = 64,
    layer: Annotated[
        int | None, typer.Option("--layer", help="The model's layer number. Without: the middle one of the trace.")
    ] = None,
    run: inputs.RunOptions,
    scheduler: Annotated[
        str, typer.Option("--scheduler", help="Who decides under Algorithm 1: software, or rtl (its simulated RTL).")
    ] = "software",
    technology: inputs.TechnologyOption = DEFAULT_TECHNOLOGY,
    prove: inputs.ProveOption = False,
    perfetto: Annotated[
        Path | None, typer.Option("--perfetto", metavar="FILE", help="Write the timeline for ui.perfetto.dev.")
    ] = None,
    html: inputs.HtmlOption = None,
    json: inputs.JsonOption = False,
) -> None:
    """Run one layer under one strategy and report all of it.

    Example: expertstream simulate qwen3-30b-a3b --strategy fse-dp-paired --tokens 256 --prove --html run.html
    """
    inputs.check_outputs(perfetto, html, read=(model, package, trace, technology, strategy))
    chosen = get_strategy(strategy)
    rtl = rtl_schedulers() if inputs.one_of("--scheduler", scheduler, ("software", "rtl")) == "rtl" else None
    moe = inputs.load_model(model)
    chips = run.with_buffers(inputs.load_package(package))
    constants = inputs.load_technology(technology)
    captured = inputs.load_trace(trace, moe, tokens, None if layer is None else [layer])
    at = int(captured.layer_index[captured.layer_index.size // 2]) if layer is None else layer
    captured.place_of(at)  # names what is wrong with the whole trace
    captured.tokens_of(tokens, mix=run.as_mix)
    options = run.of_strategy()
    inputs.say_unused(run, [chosen])
    evaluation, options = in_parts(captured, tokens, options, mix=run.as_mix)
    routing = evaluation.iteration(tokens, at, mix=run.as_mix)
    announce_compilation()
    run_options = options if rtl is None else replace(options, scheduler=rtl)
    with progress("simulating"):
        result = simulate(moe, chips, routing, chosen, spread=run.as_spread, options=run_options, technology=constants)
    if rtl is not None and not rtl.made:
        raise ConfigError(
            f"the strategy '{chosen.name}' takes no decisions by Algorithm 1: --scheduler rtl has nothing to decide; "
            "choose fse-dp, fse-dp-paired or fse-dp-rule5"
        )
    error = None
    if prove:
        with progress("proving"):
            error = result.prove()
    with progress("simulating without faults"):
        healthy = latency_without_faults(moe, chips, routing, chosen, spread=run.as_spread, options=options)
    document = result.to_dict() | {
        "healthy_latency_ps": healthy,
        "slowdown": result.latency_ps / healthy if healthy else None,
        "links": result.timeline.network.links.tolist(),
        "proof_error": error,
        "scheduler": scheduler,
        "rtl_cycles": None if rtl is None else rtl.cycles,
        "perfetto": None if perfetto is None else str(perfetto),
        "html": None if html is None else str(html),
    }
    if perfetto is not None:
        with progress("writing the timeline"):
            write_perfetto(result, perfetto)
    if html is not None:
        with progress("writing the report"):
            result.to_html(html)
    if json:
        print_json(document)
        return
    _show(result, document)
    if perfetto is not None:
        remark(f"wrote {perfetto} (open it at https://ui.perfetto.dev)")
    if html is not None:
        remark(f"wrote {html} (open it in a browser)")


def _show(result: Result, values: dict[str, Any]) -> None:
    console = stdout()
    label = inputs.routing_label(values["routing_source"], values["synthetic"])
    title = (
        f"{values['strategy']}: {values['model']} on {values['package']}, {counted(values['tokens'], 'token')}, "
        f"layer {values['layer']}, {label}"
    )
    budget = Budget().in_words(result.metrics.area, result.metrics.rated_power_w)
    console.print(facts(title, _overview(values, budget)))
    console.print(_stalls(result))
    console.print(_buffers(result))
    console.print(_resources(result))


def _overview(values: dict[str, Any], budget: str) -> list[list[str]]:
    gap = values["gap"]
    rows = [
        ["latency", format_time(values["latency_ps"])],
        *_loss(values),
        ["latency / lower bound", "-" if gap is None else f"{gap:.4f}"],
        ["lower bound, DDR", format_time(values["ddr_bound_ps"])],
        ["lower bound, compute", format_time(values["compute_bound_ps"])],
        ["busiest D2D link (this strategy)", format_time(values["d2d_bound_ps"])],
        ["MAC utilisation", f"{100 * values['utilisation']:.2f} %, overhead {100 * values['overhead']:.2f} %"],
        ["loaded from DDR", format_bytes(values["ddr_bytes"])],
        *_head_start(values),
        ["sent over D2D (bytes x hops)", format_bytes(values["d2d_bytes"])],
        ["peak SRAM of the package", format_bytes(values["peak_package_bytes"])],
        ["energy, low - nominal - high", _levels(values["energy_pj"], 1e9, "mJ")],
        *(
            [f"energy, {name}", _levels(values["energy_by_component_pj"][name], 1e9, "mJ")]
            for name in values["energy_by_component_pj"]
        ),
        ["energy per token", _levels(values["energy_per_token_pj"], 1e9, "mJ")],
        ["average power", _levels(values["average_power_w"], 1, "W")],
        ["peak power", _levels(values["peak_power_w"], 1, "W")],
        ["rated power (all at full rate)", _levels(values["rated_power_w"], 1, "W")],
        ["area of a die", _levels(values["die_area_mm2"], 1, "mm2")],
        ["the paper's budget", budget],
        ["constants of energy and area", values["technology"]],
        ["passes over the tokens", str(values["passes"])],
        ["micro-slice computes", str(values["computes"])],
        ["events", str(values["n_events"])],
        ["DDR layout", values["ddr_layout"]],
        ["prefetch", values["prefetch"]],
        *(["note", note] for note in values["notes"]),
    ]
    if values["rtl_cycles"] is not None:
        rows.append(["scheduler", f"RTL, simulated for {values['rtl_cycles']} cycles"])
    if values["proof_error"] is not None:
        rows.append(["proof", f"equals the dense layer; error {values['proof_error']:.1e} (allowed 1e-10)"])
    return rows


def _head_start(values: dict[str, Any]) -> list[list[str]]:
    if not values["lead_ps"]:
        return []
    return [
        ["head start before the gate's result", format_time(values["lead_ps"])],
        ["loaded in it and needed", format_bytes(values["ahead_bytes"])],
        ["loaded in vain (wrong predictions)", format_bytes(values["wasted_bytes"])],
    ]


def _loss(values: dict[str, Any]) -> list[list[str]]:
    if not values["faults"]:
        return []
    healthy = values["healthy_latency_ps"]
    if healthy is None:
        return [["latency without the faults", "the layer cannot run there: its buffers are too small"]]
    return [
        ["latency without the faults", format_time(healthy)],
        ["latency / without the faults", f"{values['slowdown']:.4f}"],
    ]


def _stalls(result: Result) -> Table:
    metrics = result.metrics
    latency = max(metrics.latency_ps, 1)
    rows = [
        [_name(result, die), *(_percent(time / latency) for time in times)]
        for die, times in enumerate(metrics.times_ps.tolist())
    ]
    columns = ["die", "MACs", "overhead", *(f"idle: {cause}" for cause in CAUSES)]
    return table("MAC arrays, shares of the latency", columns, rows, left=0)


def _name(result: Result, die: int) -> str:
    return f"{die} (dead)" if die in result.workload.package.faults.dead_dies else str(die)


def _buffers(result: Result) -> Table:
    buffers, given = result.metrics.buffers, result.metrics.given_bytes
    measures = (buffers.peak_bytes, buffers.mean_bytes, given)
    rows = [
        [_name(result, die), *(format_bytes(float(measure[die, pool])) for pool in (0, 1) for measure in measures)]
        for die in range(len(given))
    ]
    whole = (buffers.package_peak_bytes, buffers.package_mean_bytes, given.sum(axis=0))
    rows.append(["package", *(format_bytes(float(measure[pool])) for pool in (0, 1) for measure in whole)])
    columns = ["die", *(f"{pool} {measure}" for pool in ("weights", "tokens") for measure in ("peak", "mean", "size"))]
    return table("Buffers", columns, rows, left=0)


def _resources(result: Result) -> Table:
    busy = result.metrics.busy
    channels = result.workload.package.channels
    rows = [
        [f"DDR channel {number} (die {', '.join(map(str, channel.dies))})", _percent(share), format_bytes(moved)]
        for number, (channel, share, moved) in enumerate(
            zip(channels, busy.channel_share.tolist(), busy.channel_bytes.tolist(), strict=True)
        )
    ]
    links = result.timeline.network.links.tolist()
    rows += [
        [f"link die {a} to die {b}", _percent(share), format_bytes(moved)]
        for (a, b), share, moved in zip(links, busy.link_share.tolist(), busy.link_bytes.tolist(), strict=True)
    ]
    return table("Channels and links", ["resource", "busy", "moved"], rows)


def _levels(values: list[float], scale: float, unit: str) -> str:
    return f"{' - '.join(f'{value / scale:.3g}' for value in values)} {unit}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
