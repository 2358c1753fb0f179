"""``expertstream reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expertstream.cli.console import announce_compilation, print_json, progress, remark, stdout, table
from expertstream.cli.explore import WorkersOption
from expertstream.cli.inputs import JsonOption
from expertstream.errors import ConfigError
from expertstream.explore import make_executor
from expertstream.files import make_folder
from expertstream.reproduce import Outcome, Setting, all_studies, chosen_studies, reproduce
from expertstream.reproduce.layers import preset_of
from expertstream.units import counted


def reproduce_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME ...|all|everything|list]", help="Figures, such as fig9; everything: ours, too."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of figures, tables and claims.")
    ] = Path("reproduction"),
    traces: Annotated[
        Path | None,
        typer.Option("--traces", metavar="DIR", help="Captures (.npz, .parquet) named MODEL__...; they get own rows."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Draws of the synthetic routing.")] = 10,
    full: Annotated[
        bool,
        typer.Option("--full", help="Every layer under every seed; ten times as long, fig14 and fig15 much longer."),
    ] = False,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Reproduce the paper's figures: a picture, a table and a line per claim; killed, the same command goes on.

    Example: expertstream reproduce fig9 --output reproduction
    """
    if not names or "list" in names:
        _list(json)
        return
    studies = chosen_studies(names)
    setting = Setting(seeds=seeds, full=full, traces=captures_in(traces))
    executor = make_executor("serial" if workers == 1 else "processes", workers=workers)
    announce_compilation()
    make_folder(output)
    with progress("reproducing") as report:
        outcomes = reproduce(studies, output, setting, executor, report)
    if json:
        print_json([outcome.to_dict() for outcome in outcomes])
        return
    for outcome in outcomes:
        _show(outcome)


def _list(json: bool) -> None:
    studies = all_studies()
    if json:
        print_json([{"name": s.name, "title": s.title, "section": s.section} for s in studies.values()])
        return
    stdout().print(
        table("", ["name", "what it shows", "paper"], [[s.name, s.title, s.section] for s in studies.values()], left=3)
    )


def captures_in(folder: Path | None) -> tuple[Path, ...]:
    """Captures of a folder that fit a preset. Raises ConfigError if there are none."""
    if folder is None:
        return ()
    if not folder.is_dir():
        raise ConfigError(f"--traces '{folder}' is not a folder; give one that holds captures (.npz, .parquet)")
    files = sorted(file for file in folder.iterdir() if file.suffix in (".npz", ".parquet"))
    usable = tuple(file for file in files if preset_of(file))
    if not usable:
        raise ConfigError(
            f"--traces '{folder}' holds no capture that fits a model ({counted(len(files), 'file')} looked at); name "
            "each after its model, such as gpt-oss-20b__mmlu.npz (see: expertstream model show)"
        )
    left_out = [file.name for file in files if file not in usable]
    if left_out:
        remark(f"left out, as no preset fits or they hold counts only: {', '.join(left_out)}")
    return usable


def _show(outcome: Outcome) -> None:
    study = outcome.study
    rows = [[claim.verdict, f"{claim.claimed} ({claim.section})", claim.ours, claim.why] for claim in outcome.claims]
    stdout().print(table(f"{study.name}: {study.title}", ["", "the paper", "ours", "why"], rows, left=4))
    print(
        f"{counted(outcome.points, 'point')} ({outcome.ran} run now); "
        f"{', '.join(str(file) for file in outcome.files)}\n"
    )
