"""``expertstream package``."""

from __future__ import annotations

from typing import Annotated

import typer

from expertstream.cli.console import print_json, stdout, table
from expertstream.cli.inputs import JsonOption, YamlOption, load_package, load_technology, print_yaml
from expertstream.package import Package
from expertstream.package.technology import DEFAULT_TECHNOLOGY
from expertstream.units import format_bandwidth, format_bytes

package_app = typer.Typer(help="Multi-chiplet packages.", no_args_is_help=True)


@package_app.callback()
def _group() -> None:
    """Multi-chiplet packages."""


@package_app.command("show")
def show_command(
    package: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE.yaml]", help="A preset or a file. Without: all presets.")
    ] = None,
    yaml: YamlOption = False,
    json: JsonOption = False,
) -> None:
    """Show a package, or list the presets.

    Example: expertstream package show test-chip-2x2 --yaml > my-package.yaml
    """
    if yaml:
        print_yaml("package", package, load_package, json=json)
        return
    shown = [load_package(package)] if package is not None else [Package.preset(n) for n in Package.preset_names()]
    if json:
        documents = [
            one.model_dump(mode="json")
            | {"n_dies": one.n_dies, "macs_per_s": one.macs_per_s, "ddr_bytes_per_s": one.ddr_bytes_per_s}
            for one in shown
        ]
        print_json(documents if package is None else documents[0])
    elif package is not None:
        stdout().print(shown[0].summary(), soft_wrap=True)
    else:
        rows = [
            [
                one.name,
                f"{one.rows} x {one.cols}",
                f"{one.macs_per_s / 1e12:.2f} TMAC/s",
                f"{format_bytes(one.die.weight_buffer_bytes)} + {format_bytes(one.die.token_buffer_bytes)}",
                f"{len(one.channels)}: {format_bandwidth(one.ddr_bytes_per_s)}",
                format_bandwidth(one.d2d.bandwidth_bytes_per_s),
            ]
            for one in shown
        ]
        columns = ["package", "dies", "compute", "weights + tokens per die", "DDR channels", "per directed link"]
        stdout().print(table("Package presets", columns, rows))


@package_app.command("technology")
def technology_command(
    technology: Annotated[
        str, typer.Argument(metavar="[NAME|FILE.yaml]", help="A profile: 5nm, 28nm or a file.")
    ] = DEFAULT_TECHNOLOGY,
    yaml: YamlOption = False,
    json: JsonOption = False,
) -> None:
    """Show the constants of energy and area with their ranges and sources.

    Example: expertstream package technology 5nm --yaml > my-process.yaml
    """
    if yaml:
        print_yaml("package/technology", technology, load_technology, json=json)
        return
    profile = load_technology(technology)
    if json:
        print_json(profile.model_dump(mode="json"))
        return
    rows = [
        [name, f"{c.low:g}", f"{c.value:g}", f"{c.high:g}", c.unit, c.node, c.confidence, c.source]
        for name, c in profile.constants()
    ]
    columns = ["constant", "low", "value", "high", "unit", "node", "confidence", "source"]
    out = table(f"{profile.name}: {profile.summary}", columns, rows)
    for column in out.columns[4:]:
        column.justify = "left"
    stdout().print(out)
    print(f"D2D interface: {profile.d2d_kind}; memory: {profile.memory_kind}")
