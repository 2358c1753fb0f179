"""``expertstream plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expertstream.cli.console import print_json, progress, remark
from expertstream.cli.inputs import JsonOption, names
from expertstream.explore.pictures import FORMATS, KINDS, Wishes, draw_pictures
from expertstream.explore.pictures.labels import check_column
from expertstream.explore.results import load_results


def plot_command(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder that sweep, search or recommend wrote.")],
    kind: Annotated[
        str | None, typer.Option("--kind", "-k", metavar="NAME,...", help=f"{', '.join(KINDS)}. Without: all that fit.")
    ] = None,
    x: Annotated[str | None, typer.Option("--x", metavar="FIELD", help="Heat map: the field across.")] = None,
    y: Annotated[str | None, typer.Option("--y", metavar="FIELD", help="Heat map: the field upwards.")] = None,
    value: Annotated[str, typer.Option("--value", metavar="RESULT", help="Heat map: the result.")] = Wishes.value,
    point: Annotated[
        int | None, typer.Option("--point", metavar="N", help="Tornado: the row. Without: the best feasible one.")
    ] = None,
    formats: Annotated[str, typer.Option("--format", "-f", metavar="NAME,...")] = ",".join(FORMATS),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the pictures. [RESULTS/pictures]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Draw heat maps, Pareto plots, parallel coordinates and tornado charts of results, finished or not.

    Example: expertstream plot fig16 --kind heatmap --x package.channels.bandwidth --value latency_ps
    """
    found = load_results(results, check_column(value))
    wishes = Wishes(x, y, value, point)
    with progress("drawing"):
        files, left_out = draw_pictures(
            found,
            output or results / "pictures",
            kinds=None if kind is None else names(kind),
            formats=names(formats),
            wishes=wishes,
        )
    if json:
        print_json({"files": [str(file) for file in files], "left_out": left_out})
        return
    for file in files:
        print(file)
    for reason in left_out:
        remark(reason)
