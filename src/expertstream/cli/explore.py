"""``expertstream sweep`` and ``expertstream search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expertstream.cli.console import announce_compilation, print_json, progress, remark, stdout, table
from expertstream.cli.inputs import JsonOption
from expertstream.explore import load_sweep, make_executor, sweep
from expertstream.explore.fields import text_of
from expertstream.explore.spec import Base
from expertstream.explore.store import RESULTS
from expertstream.units import format_time

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="What to explore (examples/).")]
FolderOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the results. [the name of the spec]")
]
ExecutorOption = Annotated[
    str, typer.Option("--executor", "-e", metavar="NAME", help="serial, processes (one per core) or dask.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="tcp://...", help="A Dask scheduler. Without: one on this machine.")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", "-j", help="Processes. [one per core]")]

ROWS = 12


def sweep_command(
    spec: SpecArgument,
    output: FolderOption = None,
    executor: ExecutorOption = "processes",
    address: AddressOption = None,
    workers: WorkersOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed points again.")] = False,
    json: JsonOption = False,
) -> None:
    """Run every point of a specification; killed, the same command goes on where it was.

    Example: expertstream sweep examples/sweep.yaml --output results
    """
    wanted = load_sweep(spec)
    where = make_executor(executor, workers=workers, address=address)
    folder = output or Path(spec.stem)
    announce_compilation()
    with progress("sweeping") as report:
        found = sweep(wanted, folder, where, progress=report, retry_failed=retry_failed)
    say_damaged(found.damaged)
    rows = found.table.to_pylist()
    document = {
        "results": str(folder / RESULTS),
        "points": len(rows),
        "ran": found.ran,
        "failed": found.failed,
        "feasible": sum(row["feasible"] for row in rows),
    }
    if json:
        print_json(document)
        return
    show(wanted, rows, [row for row in rows if row["feasible"]])
    print(
        f"{document['points']} points ({found.ran} run now), {document['feasible']} feasible, {found.failed} failed; "
        f"all columns in {document['results']}"
    )
    say_failures(rows)


def say_damaged(files: tuple[str, ...]) -> None:
    """Tell that damaged files were found and made anew."""
    if files:
        remark(f"damaged, and run again: {', '.join(files)}")


def say_failures(rows: list[dict[str, Any]]) -> None:
    """The failures' messages, the most frequent first."""
    messages = [row["message"] for row in rows if row["message"]]
    for message in sorted(set(messages), key=lambda text: (-messages.count(text), text))[:5]:
        remark(f"{messages.count(message)} failed: {message}")


def show(spec: Base, rows: list[dict[str, Any]], chosen: list[dict[str, Any]]) -> None:
    """A table of the fastest of the chosen rows."""
    title = f"{spec.model} on {spec.package}, {len(rows)} points; the {min(ROWS, len(chosen))} fastest feasible ones"
    best = sorted(chosen, key=lambda row: (row["latency_ps"], row["energy_pj"], row["point"]))[:ROWS]
    columns = [*spec.fields, "latency", "MAC use", "energy", "die area", "rated power"]
    cells = [[*(text_of(path, row[path]) for path in spec.fields), *_results(row)] for row in best]
    stdout().print(table(title, columns, cells, left=0))


def _results(row: dict[str, Any]) -> list[str]:
    return [
        format_time(row["latency_ps"]),
        f"{100 * row['utilisation']:.1f} %",
        f"{row['energy_pj'] / 1e9:.4g} mJ",
        f"{row['die_area_mm2']:.1f} mm2",
        f"{row['rated_power_w']:.1f} W",
    ]
