"""``expertstream serve-sim``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expertstream.cli import inputs
from expertstream.cli.console import announce_compilation, facts, print_json, progress, remark, stdout, table
from expertstream.config import load_config
from expertstream.errors import ConfigError
from expertstream.files import check_writable
from expertstream.report.html import write_serving_html
from expertstream.serving.scenario import Scenario
from expertstream.serving.serve import Parts, Serving
from expertstream.strategy import get_strategy
from expertstream.strategy.base import CHOICES, unused
from expertstream.units import counted, format_bytes, format_time

EVERY = 50  # iterations between checkpoints


def serve_command(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml", help="What to serve; see examples/serve.yaml.")],
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", min=1, help="Stop after so many iterations, whatever the scenario says."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Write the state to this file as the run goes on."),
    ] = None,
    every: Annotated[int | None, typer.Option("--every", min=1, help="Iterations between checkpoints. [50]")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint; the result is that of an unbroken run.")
    ] = False,
    html: inputs.HtmlOption = None,
    perfetto: Annotated[
        Path | None,
        typer.Option("--perfetto", metavar="FILE", help="Write the timeline of one iteration for ui.perfetto.dev."),
    ] = None,
    recorded: Annotated[
        int | None, typer.Option("--perfetto-iteration", min=1, help="Number of that iteration, from 1 on. [1]")
    ] = None,
    no_reuse: Annotated[
        bool, typer.Option("--no-reuse", help="Simulate every block, also those that equal an earlier one.")
    ] = False,
    json: inputs.JsonOption = False,
) -> None:
    """Serve many requests with a whole model: attention, experts, token buffering, iteration after iteration.

    Example: expertstream serve-sim examples/serve.yaml --html serving.html --checkpoint run.json
    """
    if resume and checkpoint is None:
        raise ConfigError("--resume needs --checkpoint FILE, the file to continue from")
    if every is not None and checkpoint is None:
        raise ConfigError(f"--every is {every}, but nothing is written; give --checkpoint FILE, too")
    if recorded is not None and perfetto is None:
        raise ConfigError(f"--perfetto-iteration is {recorded}, but nothing is recorded; give --perfetto FILE, too")
    every, recorded = every or EVERY, recorded or 1
    if checkpoint is not None:
        check_writable(checkpoint)
        if checkpoint.exists() and not resume:
            raise ConfigError(
                f"the checkpoint '{checkpoint}' is there already; go on from it with --resume, give another file, or "
                "remove it"
            )
        if resume and not checkpoint.exists():
            raise ConfigError(f"there is no checkpoint '{checkpoint}' to go on from; begin without --resume")
    loaded = load_config(scenario, Scenario)
    named = (loaded.model, loaded.package, loaded.technology, loaded.strategy, loaded.trace, loaded.requests.file)
    inputs.check_outputs(checkpoint, html, perfetto, read=(scenario, *named))
    if iterations is not None:
        loaded = loaded.model_copy(update={"iterations": iterations})
    parts = Parts(
        loaded,
        inputs.load_model(loaded.model),
        inputs.load_package(loaded.package),
        inputs.load_technology(loaded.technology),
    )
    chosen = get_strategy(loaded.strategy)
    for key in unused([name for name in CHOICES if name in loaded.model_fields_set], [chosen]):
        remark(f"{scenario}: {key} changes nothing under {chosen.name}")
    announce_compilation()
    with progress("serving") as report:
        serving = Serving(parts, reuse=not no_reuse)
        if resume and checkpoint is not None:
            serving.resume(checkpoint)
        try:
            document = serving.run(
                checkpoint=checkpoint, every=every, perfetto=perfetto, recorded=recorded, progress=report
            )
        except KeyboardInterrupt:
            if checkpoint is not None:
                remark(_of_checkpoint(checkpoint, every))
            raise
    if html is not None:
        write_serving_html(document, html)
    if json:
        print_json(document)
        return
    _show(document)
    if html is not None:
        remark(f"wrote {html} (open it in a browser)")
    if perfetto is not None:
        remark(f"wrote {perfetto} (open it at https://ui.perfetto.dev)")
    blocks = serving.blocks
    remark(f"{counted(blocks.simulated, 'block')} simulated, {blocks.reused} equal ones reused")


def _of_checkpoint(file: Path, every: int) -> str:
    if file.exists():
        return f"go on from the checkpoint {file} with --resume"
    return f"there is no checkpoint {file} yet: one is written every {counted(every, 'iteration')} (--every)"


def _show(values: dict[str, Any]) -> None:
    console = stdout()
    label = inputs.routing_label(values["routing_source"], values["synthetic"])
    console.print(facts(f"{values['strategy']}: {values['model']} on {values['package']}, {label}", _overview(values)))
    rows = [
        [name, *(_time(values[key][measure]) for measure in ("mean", "p50", "p99")), str(values[key]["count"])]
        for name, key in (
            ("iteration", "iteration_ps"),
            ("time to first token", "ttft_ps"),
            ("time per output token", "tpot_ps"),
        )
    ]
    console.print(table("Times", ["", "mean", "p50", "p99", "count"], rows))
    phases = [
        [
            phase,
            format_time(time),
            *(
                f"{100 * values[key][phase]:.1f} %"
                for key in ("phase_share", "phase_ddr_utilisation", "phase_utilisation", "phase_overhead")
            ),
        ]
        for phase, time in values["phase_ps"].items()
    ]
    console.print(
        table("Where the time goes", ["phase", "time", "share", "DDR busy", "MAC utilisation", "overhead"], phases)
    )
    slowest = sorted(enumerate(values["layer_ps"]), key=lambda pair: (-pair[1], pair[0]))[:5]
    total = max(values["busy_ps"], 1)
    layers = [[str(layer), format_time(time), f"{100 * time / total:.1f} %"] for layer, time in slowest]
    console.print(table("Slowest layers", ["layer", "time", "share"], layers, left=0))


def _overview(values: dict[str, Any]) -> list[list[str]]:
    low, nominal, high = (level / 1e9 for level in values["energy_per_token_pj"])
    requests = values["requests"]
    rows = [
        ["iterations", str(values["iterations"])],
        ["simulated time", format_time(values["time_ps"])],
        ["requests completed", f"{requests['completed']} of {requests['admitted']} admitted"],
        ["tokens in, out", f"{values['input_tokens']}, {values['output_tokens']}"],
        ["tokens per second", f"{values['tokens_per_s']:.1f} (output {values['output_tokens_per_s']:.1f})"],
        ["DDR channels busy", f"{100 * values['ddr_utilisation']:.2f} %"],
        ["MAC utilisation", f"{100 * values['utilisation']:.2f} %, overhead {100 * values['overhead']:.2f} %"],
        ["DDR traffic", format_bytes(values["ddr_bytes"])],
        ["peak SRAM of the package", format_bytes(values["peak_package_bytes"])],
        ["peak key-value cache", format_bytes(values["peak_kv_bytes"])],
        ["deferrals", f"{values['deferrals']}, {format_bytes(values['spilled_bytes'])} to and from DDR"],
        ["QoS violations", str(values["qos_violations"])],
        ["energy per token", f"{nominal:.3g} mJ ({low:.3g} to {high:.3g})"],
    ]
    if values["borrowed_layers"]:
        rows.append(["note", f"{values['borrowed_layers']} layers borrow the routing of others, the trace lacks them"])
    return rows


def _time(value: float | None) -> str:
    return "-" if value is None else format_time(value)
