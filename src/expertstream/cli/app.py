"""All commands in one program."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from expertstream.cli.compare import compare_command
from expertstream.cli.demo import demo_command
from expertstream.cli.doctor import doctor_command
from expertstream.cli.explore import recommend_command, search_command, sweep_command
from expertstream.cli.model import model_app
from expertstream.cli.package import package_app
from expertstream.cli.plot import plot_command
from expertstream.cli.reproduce import reproduce_command
from expertstream.cli.rtl import rtl_app
from expertstream.cli.serve import serve_command
from expertstream.cli.simulate import simulate_command
from expertstream.cli.trace import trace_app

app = typer.Typer(
    name="expertstream",
    help="Simulate and compare Mixture-of-Experts layers on multi-chiplet packages.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compare")(compare_command)
app.command("simulate")(simulate_command)
app.command("serve-sim")(serve_command)
app.command("sweep")(sweep_command)
app.command("search")(search_command)
app.command("plot")(plot_command)
app.command("recommend")(recommend_command)
app.command("reproduce")(reproduce_command)
app.add_typer(trace_app, name="trace")
app.add_typer(model_app, name="model")
app.add_typer(package_app, name="package")
app.add_typer(rtl_app, name="rtl")
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)


def _print_version(value: bool) -> None:
    if value:
        print(f"expertstream {version('expertstream')}")
        raise typer.Exit


@app.callback()
def _program(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Simulate and compare Mixture-of-Experts layers on multi-chiplet packages."""
