"""``expertstream model``."""

from __future__ import annotations

from typing import Annotated

import typer

from expertstream.cli.console import print_json, stdout, table
from expertstream.cli.inputs import JsonOption, YamlOption, load_model, print_yaml
from expertstream.model import MoEModel
from expertstream.units import format_bytes

model_app = typer.Typer(help="Shapes of MoE models.", no_args_is_help=True)


@model_app.callback()
def _group() -> None:
    """Shapes of MoE models."""


@model_app.command("show")
def show_command(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A preset or a config.json. Without: all presets.")
    ] = None,
    yaml: YamlOption = False,
    json: JsonOption = False,
) -> None:
    """Show a model, or list the presets.

    Example: expertstream model show qwen3-30b-a3b
    """
    if yaml:
        print_yaml("model", model, load_model, json=json)
        return
    shown = [load_model(model)] if model is not None else [MoEModel.preset(name) for name in MoEModel.preset_names()]
    if json:
        documents = [
            one.model_dump(mode="json")
            | {
                "moe_layers": list(one.moe_layers),
                "expert_bytes": one.expert_bytes,
                "total_params": one.total_params,
                "active_params": one.active_params,
            }
            for one in shown
        ]
        print_json(documents if model is None else documents[0])
    elif model is not None:
        stdout().print(shown[0].summary(), soft_wrap=True)
    else:
        rows = [
            [
                one.name,
                str(one.n_experts),
                str(one.top_k),
                f"{one.n_shared_experts} x {one.shared_d_ffn}" if one.n_shared_experts else "-",
                str(one.d_model),
                str(one.d_ffn),
                str(len(one.moe_layers)),
                format_bytes(one.expert_bytes),
                f"{one.total_params / 1e9:.2f} B",
            ]
            for one in shown
        ]
        columns = ["model", "experts", "k", "shared", "d_model", "d_ffn", "MoE layers", "one expert", "parameters"]
        stdout().print(table("Model presets", columns, rows))
