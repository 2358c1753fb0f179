"""``expertstream sweep``, ``search`` and ``recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from expertstream.analysis import Budget
from expertstream.cli.console import announce_compilation, print_json, progress, remark, stdout, table
from expertstream.cli.inputs import JsonOption, ModelArgument, PackageOption, TechnologyOption, TraceOption
from expertstream.errors import ConfigError
from expertstream.explore import load_search, load_sweep, make_executor, recommend, search, sweep
from expertstream.explore.fields import text_of
from expertstream.explore.recommend import SPACE
from expertstream.explore.rows import FAILED
from expertstream.explore.spec import Base
from expertstream.explore.store import RESULTS
from expertstream.explore.summary import broken_limits, count, failures, fastest
from expertstream.package.technology import DEFAULT_TECHNOLOGY
from expertstream.units import counted, format_time

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="What to explore (examples/).")]
FolderOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Folder of the results. Without: the spec's name."),
]
ExecutorOption = Annotated[
    str, typer.Option("--executor", "-e", metavar="NAME", help="serial, processes (one per core) or dask.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="tcp://...", help="A Dask scheduler. Without: one on this machine.")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", "-j", help="Processes. Without: one per core.")]

ROWS, MOST = 12, 40  # rows shown of a sweep, of a front


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
    say_without_effect(wanted)
    where = make_executor(executor, workers=workers, address=address)
    folder = output or Path(spec.stem)
    announce_compilation()
    with progress("sweeping") as report:
        found = sweep(wanted, folder, where, progress=report, retry_failed=retry_failed)
    say_damaged(found.damaged)
    points, feasible = found.table.num_rows, count(found.table, "feasible", True)
    if json:
        results = {"results": str(folder / RESULTS), "points": points, "ran": found.ran}
        print_json(results | {"failed": found.failed, "feasible": feasible})
    check_some_ran(found.table)
    if json:
        return
    show(wanted, found.table, fastest(found.table, ROWS, feasible=True), "the fastest feasible ones")
    print(
        f"{counted(points, 'point')} ({found.ran} run now), {feasible} feasible, {found.failed} failed; all columns in "
        f"{folder / RESULTS}; pictures: expertstream plot {folder}"
    )
    say_failures(found.table)


def search_command(
    spec: SpecArgument,
    output: FolderOption = None,
    executor: ExecutorOption = "processes",
    address: AddressOption = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Search for the best trade-offs between several objectives; killed, the same command goes on where it was.

    Example: expertstream search examples/search.yaml --output designs
    """
    wanted = load_search(spec)
    say_without_effect(wanted)
    where = make_executor(executor, workers=workers, address=address)
    folder = output or Path(spec.stem)
    announce_compilation()
    with progress("searching") as report:
        found = search(wanted, folder, where, progress=report)
    if json:
        print_json({"results": str(folder / RESULTS), "ran": found.ran, **found.document()})
    check_some_ran(found.table)
    if json:
        return
    best = sorted(found.front, key=lambda row: (row["latency_ps"], row["energy_pj"], row["point"]))[:MOST]
    show(wanted, found.table, best, f"the {len(found.front)} best trade-offs")
    print(
        f"{counted(wanted.trials, 'trial')}, {counted(found.table.num_rows, 'design')} ({found.ran} run now); "
        f"hypervolume {found.history[-1]:.3f}, {found.history[len(found.history) // 2]:.3f} half-way; all in {folder}; "
        f"pictures: expertstream plot {folder}"
    )
    say_failures(found.table)


def recommend_command(
    model: ModelArgument,
    package: PackageOption = "test-chip-2x2",
    technology: TechnologyOption = DEFAULT_TECHNOLOGY,
    trace: TraceOption = None,
    tokens: Annotated[int, typer.Option("--tokens", "-n", min=1, help="Tokens per iteration.")] = 64,
    area: Annotated[float, typer.Option("--area", help="Most mm2 of a die.")] = 30.0,
    power: Annotated[float, typer.Option("--power", help="Most W of the package, everything at full rate.")] = 60.0,
    tokens_per_s: Annotated[
        float | None, typer.Option("--tokens-per-s", help="Least tokens/s of all MoE layers (attention not counted).")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=4, help="Designs to try.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Of the search. Without: recommendation-..."),
    ] = None,
    executor: ExecutorOption = "processes",
    address: AddressOption = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Search for packages within a budget and name the best, with reasons.

    Example: expertstream recommend qwen3-30b-a3b --area 30 --power 60 --tokens-per-s 500
    """
    budget = Budget(area, power)
    where = make_executor(executor, workers=workers, address=address)
    announce_compilation()
    with progress("searching") as report:
        found = recommend(
            model,
            output,
            package=package,
            technology=technology,
            trace=None if trace is None else str(trace),
            tokens=tokens,
            budget=budget,
            tokens_per_s=tokens_per_s,
            trials=trials,
            seed=seed,
            executor=where,
            progress=report,
        )
    designs = [{"best_at": list(d.best_at), "reasons": list(d.reasons), **d.row} for d in found.designs]
    if json:
        print_json({"met": found.met, "results": str(found.folder / RESULTS), "designs": designs})
        return
    if not found.met:
        print(f"none of {counted(found.search.table.num_rows, 'design')} meets every demand")
    for design in found.designs:
        row = design.row
        print(f"\n{', '.join(design.best_at)}:")
        print("  " + ", ".join(f"{path.split('.', 1)[-1]} {text_of(path, row[path])}" for path in SPACE))
        print(
            f"  {row['model_tokens_per_s']:.0f} tokens/s (MoE layers only), {format_time(row['latency_ps'])} a layer, "
            f"{row['energy_per_token_pj'] / 1e9:.3g} ({row['energy_per_token_pj_low'] / 1e9:.3g} to "
            f"{row['energy_per_token_pj_high'] / 1e9:.3g}) mJ a token and layer"
        )
        print(
            f"  die {row['die_area_mm2']:.1f} ({row['die_area_mm2_low']:.1f} to {row['die_area_mm2_high']:.1f}) mm2, "
            f"rated {row['rated_power_w']:.1f} ({row['rated_power_w_low']:.1f} to {row['rated_power_w_high']:.1f}) W"
        )
        for reason in design.reasons:
            print(f"  - {reason}")
    print(
        f"\n{found.search.table.num_rows} designs were simulated; all of them are in {found.folder / RESULTS};"
        f" pictures: expertstream plot {found.folder}"
    )


def say_without_effect(spec: Base) -> None:
    """Remark on options that are varied and change nothing."""
    for text in spec.without_effect():
        remark(text)


def say_damaged(files: tuple[str, ...]) -> None:
    """Tell that damaged files were found and made anew."""
    if files:
        remark(f"damaged, and run again: {', '.join(files)}")


def check_some_ran(table: pa.Table) -> None:
    """Raise ConfigError with the most frequent failure if no point ran."""
    if table.num_rows == count(table, "status", FAILED):
        message, times = failures(table)[0]
        raise ConfigError(f"none of {counted(table.num_rows, 'point')} could run; {times} of them: {message}")


def say_failures(table: pa.Table) -> None:
    """The failures' messages, the most frequent first."""
    for message, times in failures(table)[:5]:
        remark(f"{times} failed: {message}")


def show(spec: Base, table_of_all: pa.Table, rows: list[dict[str, Any]], what: str) -> None:
    """A table of some rows; if there are none, why nothing is feasible and the fastest of the others."""
    n = table_of_all.num_rows
    if not rows:
        broken = [f"'{text}' is broken by {k} of {n}" for text, k in broken_limits(spec, table_of_all).items() if k]
        remark(f"nothing is feasible: {', '.join(broken)}")
        rows, what = fastest(table_of_all, ROWS, feasible=False), "NONE IS FEASIBLE; the fastest"
    synthetic = "SYNTHETIC routing, " if count(table_of_all, "synthetic", True) else ""
    title = f"{spec.model} on {spec.package}, {synthetic}{counted(n, 'point')}; {what}"
    console = stdout()
    cells = {path: [text_of(path, row[path]) for row in rows] for path in spec.fields}
    found, beside = fitted(title, cells, [_results(row) for row in rows], console.width)
    console.width = max(_width(found), console.width)  # a terminal wraps what is wider; a cut number would be lost
    console.print(found, no_wrap=True, crop=False, overflow="ignore")
    for line in beside:
        print(line)


def fitted(title: str, cells: dict[str, list[str]], results: list[list[str]], width: int) -> tuple[Table, list[str]]:
    """A table of fields and results that cuts nothing, and lines for what it is too narrow for.

    Args:
        cells: a text for each row, by the path of the field. results: of each row.
    """
    headings, beside = {path: path.replace(".", ".\n") for path in cells}, []
    found = _table(title, headings, cells, results)
    if _width(found) > width:
        same = {path: texts[0] for path, texts in cells.items() if len(set(texts)) == 1}
        headings = {path: heading for path, heading in headings.items() if path not in same}
        found = _table(title, headings, cells, results)
        beside += [f"all of these have {', '.join(f'{path} {text}' for path, text in same.items())}"] if same else []
    if _width(found) > width:
        headings = {path: f"({number})" for number, path in enumerate(headings, 1)}
        found = _table(title, headings, cells, results)
        beside.append(", ".join(f"{heading} {path}" for path, heading in headings.items()))
    return found, beside


def _table(title: str, headings: dict[str, str], cells: dict[str, list[str]], results: list[list[str]]) -> Table:
    """A table of some of the fields and all results, a row each."""
    rows = [[*(cells[path][number] for path in headings), *result] for number, result in enumerate(results)]
    return table(title, [*headings.values(), "latency", "MAC use", "energy", "die area", "rated power"], rows, left=0)


def _width(of: Table) -> int:
    """Columns that a table takes without a cut."""
    return Console(width=1000).measure(of).maximum


def _results(row: dict[str, Any]) -> list[str]:
    return [
        format_time(row["latency_ps"]),
        f"{100 * row['utilisation']:.1f} %",
        f"{row['energy_pj'] / 1e9:.4g} mJ",
        f"{row['die_area_mm2']:.1f} mm2",
        f"{row['rated_power_w']:.1f} W",
    ]
