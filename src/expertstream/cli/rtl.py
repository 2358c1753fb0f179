"""``expertstream rtl``, and what other commands need of the scheduler in hardware. Needs the extra ``rtl``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from expertstream.cli.console import print_json, progress, stdout, table
from expertstream.cli.inputs import JsonOption
from expertstream.errors import ConfigError
from expertstream.files import make_folder, replacing
from expertstream.schedule.cycles import DEFAULT_SORTER

GROWTH_EXPERTS, GROWTH_DIES = (16, 32, 64, 128), (4, 16, 64)
DiesOption = Annotated[int, typer.Option("--dies", help="2 to 64.")]
ExpertsOption = Annotated[int, typer.Option("--experts", help="Routed experts of a layer, 8 to 512.")]
RequestsOption = Annotated[int, typer.Option("--requests", help="Slots of the token-buffering unit, 1 to 1024.")]
TokenBitsOption = Annotated[int, typer.Option("--token-bits", help="Width of a token count, 4 to 20.")]
SorterOption = Annotated[
    str, typer.Option("--sorter", help="parallel (whole network), stage (one stage) or serial (one comparator).")
]

rtl_app = typer.Typer(help="The scheduler in hardware.", no_args_is_help=True)


@rtl_app.callback()
def _group() -> None:
    """The scheduler in hardware: Algorithms 1 and 2 in Amaranth."""


@rtl_app.command("report")
def report_command(
    dies: DiesOption = 4,
    experts: ExpertsOption = 128,
    requests: RequestsOption = 16,
    token_bits: TokenBitsOption = 11,
    sorter: SorterOption = DEFAULT_SORTER,
    growth: Annotated[
        bool, typer.Option("--growth", help="Also smaller numbers of experts and larger numbers of dies.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Cycles per decision and per layer, cells after synthesis, and area beside the paper's.

    Example: expertstream rtl report --experts 64 --growth
    """
    given = _parameters(dies, experts, requests, token_bits, sorter)
    sizes = [given]
    if growth:
        sizes += [_parameters(dies, e, requests, token_bits, sorter) for e in GROWTH_EXPERTS if e != experts]
        sizes += [_parameters(d, experts, requests, token_bits, sorter) for d in GROWTH_DIES if d != dies]
        sizes.sort(key=lambda p: (p.dies, p.experts))
    rows = []
    module = hardware("report")
    with progress("synthesis") as say:
        for done, parameters in enumerate(sizes):
            say(done, len(sizes), f"{parameters.experts} experts, {parameters.dies} dies")
            rows.append(module.report(parameters))
    if json:
        print_json(rows if growth else rows[0])
        return
    stdout().print(_table(rows, given.sorter))
    chosen = rows[sizes.index(given)]
    parts = ", ".join(f"{name} {part['nand2']}" for name, part in sorted(chosen["modules"].items()))
    print(f"NAND2 equivalents by module, {given.experts} experts, {given.dies} dies: {parts}; and memory")
    print(
        "area: low - typical - high in 28 nm from cells (ratios of NanGate's 45 nm library, 0.39 - 0.50 - 0.67 um2 a "
        "NAND2) and memory bits, wiring at the high end; our estimate\n"
        f"paper (section V-B): {chosen['paper_mm2']} mm2 in UMC 28 nm, sizes not given; below 1 us per decision"
    )


@rtl_app.command("export")
def export_command(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to.")] = Path("rtl"),
    dies: DiesOption = 4,
    experts: ExpertsOption = 128,
    requests: RequestsOption = 16,
    token_bits: TokenBitsOption = 11,
    sorter: SorterOption = DEFAULT_SORTER,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Random layers in the bench.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bench.")] = 0,
    json: JsonOption = False,
) -> None:
    """Write the scheduler as Verilog, with a bench that checks its decisions against the software's.

    Example: expertstream rtl export --experts 32 -o rtl
    """
    parameters = _parameters(dies, experts, requests, token_bits, sorter)
    module = hardware("export")
    make_folder(output)
    design, bench = output / f"{module.TOP}.v", output / f"{module.TOP}_tb.v"
    with progress("Verilog") as say:
        say(0, 1, f"{experts} experts, {dies} dies")
        texts = {design: module.verilog(parameters), bench: module.bench(parameters, layers, seed)}
    for file, text in texts.items():
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if json:
        print_json({"files": [str(file) for file in texts], "top": module.TOP})
        return
    print(f"wrote {design}\nwrote {bench}")
    print(f"check: iverilog -g2012 -o bench {design} {bench} && vvp bench")


def rtl_schedulers() -> Any:
    """A ``hardware.cosimulation.RtlSchedulers``. Raises ConfigError without Amaranth."""
    return hardware("cosimulation").RtlSchedulers()


def hardware(module: str) -> Any:
    """A module of ``expertstream.hardware``; imported late, as the extra is optional and slow to load.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        return import_module(f"expertstream.hardware.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(("amaranth", "yowasp")):
            raise
        raise ConfigError('the scheduler in hardware needs Amaranth; pip install "expertstream[rtl]"') from None


def _parameters(dies: int, experts: int, requests: int, token_bits: int, sorter: str) -> Any:
    return hardware("parameters").Parameters(
        dies=dies, experts=experts, requests=requests, token_bits=token_bits, sorter=sorter
    )


def _table(rows: list[dict[str, Any]], sorter: str) -> Any:
    lines = [
        [
            str(row["experts"]),
            str(row["dies"]),
            f"{row['decision_cycles']} = {row['decision_ns']:.2f} ns",
            f"{row['prepare_cycles']} = {row['prepare_cycles'] * row['decision_ns'] / row['decision_cycles']:.0f} ns",
            f"{row['layer_cycles']} = {row['layer_ns']:.0f} ns",
            str(row["cells"]),
            str(row["nand2"]),
            str(row["memory_bits"]),
            " - ".join(f"{mm2:.3f}" for mm2 in row["mm2"]),
        ]
        for row in rows
    ]
    columns = ["experts", "dies", "decision", "before the first", "layer", "cells", "NAND2", "memory bits", "mm2"]
    return table(f"Scheduler at 800 MHz, sorter '{sorter}'; times in cycles = ns", columns, lines, left=0)
