"""``expertstream trace synthesize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from expertstream.cli import inputs
from expertstream.cli.console import print_json, progress, remark, stdout, table
from expertstream.errors import ConfigError, TraceError
from expertstream.trace import RoutingTrace, calibrate, held_out, load_calibration, save_calibration, synthesize
from expertstream.trace.calibration_file import check_name
from expertstream.trace.held_out import LIMIT, HeldOut
from expertstream.trace.synthesis import draw
from expertstream.units import counted, signed

MAX_TOKENS = 1_000_000
MOST_FITTED = 2**17  # tokens; a fit looks at half as many, the comparison at all
REQUESTS, TOKENS_PER_REQUEST = 8, 136


def synthesize_command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A preset (see: expertstream model show) or a Hugging Face config.json."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.parquet", help="The trace to write.")] = Path(
        "trace.parquet"
    ),
    named: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="The same as the argument.")] = None,
    like: Annotated[
        Path | None, typer.Option("--like", metavar="FILE", help="A captured trace: write a twin of it, fitted to it.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration", metavar="FILE", help="A calibration that --save-calibration wrote: draw from it."
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save-calibration", metavar="FILE.npz", help="With --like: also write what was fitted."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="With --like: fit on each half of the requests, judge on the other."),
    ] = True,
    requests: Annotated[
        int | None,
        typer.Option("--requests", help=f"Number of requests. Without: {REQUESTS}; with --like, the trace's."),
    ] = None,
    tokens_per_request: Annotated[
        int | None,
        typer.Option(
            "--tokens-per-request", help=f"Tokens of each. Without: {TOKENS_PER_REQUEST}; with --like, the trace's."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="L,L,...|all",
            help="Layers. Without: the first four MoE layers; with --calibration: all of its.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    json: inputs.JsonOption = False,
) -> None:
    """Write a synthetic trace: by a model's packaged calibration or profile, or the twin of a captured trace.

    Example: expertstream trace synthesize qwen3-30b-a3b --requests 16 --tokens-per-request 256 --output trace.parquet

    Twin: expertstream trace synthesize --like capture.parquet --output twin.parquet --save-calibration fitted.npz

    Later: expertstream trace synthesize --calibration fitted.npz --requests 64 --tokens-per-request 512
    """
    given = [str(source) for source in (model, named, like, calibration) if source]
    if len(given) != 1:
        raise ConfigError(
            f"{', '.join(given) or 'nothing'} was given to synthesize from; give MODEL, --model MODEL or --like FILE, "
            "or --calibration FILE"
        )
    if save is not None:
        if like is None:
            raise ConfigError("--save-calibration was given without --like; nothing is fitted then")
        check_name(save)
    if output.suffix != ".parquet":
        raise TraceError(f"'{output}' is not a name for a trace; it must end in .parquet")
    inputs.check_outputs(output, save, read=(like, calibration))
    if seed < 0:
        raise ConfigError(f"--seed is {seed}; it must not be negative")
    for option, number in (("--requests", requests), ("--tokens-per-request", tokens_per_request)):
        if number is not None and number < 1:
            raise ConfigError(f"{option} is {number}; it must be at least 1")
    n_requests = REQUESTS if requests is None else requests
    length = TOKENS_PER_REQUEST if tokens_per_request is None else tokens_per_request
    if n_requests * length > MAX_TOKENS:
        raise ConfigError(
            f"{counted(n_requests, 'request')} of {counted(length, 'token')} are more than {MAX_TOKENS} tokens; ask "
            "for fewer"
        )
    found: HeldOut | None = None
    if like is not None:
        if layers is not None:
            raise ConfigError("--layers was given with --like; a twin has the layers of its trace")
        if (requests is None) != (tokens_per_request is None):
            raise ConfigError("with --like, give both --requests and --tokens-per-request, or neither")
        real = _real(like)
        if check:
            with progress("fitting halves of the requests") as report:
                found = held_out(real, seed=seed, report=report)
        with progress("fitting") as report:
            fitted = calibrate(real, seed=seed, report=report)
        if save is not None:
            save_calibration(fitted, save)
        trace = fitted.like(real, seed=seed) if requests is None else fitted.requests([length] * n_requests, seed=seed)
    elif calibration is not None:
        fitted = load_calibration(calibration)
        chosen = None if layers in (None, "all") else inputs.numbers(str(layers), "--layers", least=0)
        trace = draw(fitted, fitted.model, [length] * n_requests, chosen and sorted(chosen), seed)
    else:
        trace = _of_model(given[0], layers, n_requests, length, seed)
    trace.save(output)
    document = {"file": str(output), "synthetic": True, "source": trace.source, "model": trace.model}
    document |= {"n_tokens": trace.n_tokens, "layers": trace.layer_index.tolist()}
    document |= {"n_experts": trace.n_experts, "top_k": trace.top_k}
    if like is not None:
        document["held_out"] = found and found.to_dict()
    if json:
        print_json(document)
        return
    if found is not None:
        _show(found)
    print(
        f"wrote {output}: SYNTHETIC, {counted(trace.n_tokens, 'token')}, {counted(trace.layer_index.size, 'layer')}, "
        f"of {trace.model}"
    )


def _of_model(name: str, layers: str | None, requests: int, length: int, seed: int) -> RoutingTrace:
    moe = inputs.load_model(name)
    chosen = (
        moe.moe_layers
        if layers == "all"
        else moe.moe_layers[:4]
        if layers is None
        else sorted(inputs.numbers(layers, "--layers", least=0))
    )
    with progress("synthesizing"):
        return synthesize(moe, requests=requests, tokens_per_request=length, layers=chosen, seed=seed)


def _real(path: Path) -> RoutingTrace:
    """The trace to be fitted; of one of very many tokens whole requests, evenly spread over it."""
    whole = RoutingTrace.open(path)
    requests = np.unique(whole.request[whole.request >= 0])
    step = -(-whole.n_tokens // MOST_FITTED)
    if step == 1 or requests.size < 2 * step:
        return RoutingTrace.load(path)
    with progress("reading"):
        part = RoutingTrace.load(path, requests=requests[::step].tolist())
    remark(
        f"'{path}' has {whole.n_tokens} tokens: one of {step} of its {requests.size} requests is fitted, "
        f"{part.n_tokens} tokens in all; without --requests the twin is of these"
    )
    return part


def _show(found: HeldOut) -> None:
    rows = [
        [
            row.mix,
            str(row.tokens),
            *(f"{value:.3f}" for value in (row.uniform, row.held_out, row.twin)),
            *(f"{signed(100 * miss)}{'' if abs(miss) <= LIMIT else ' !'}" for miss in (row.miss, row.worst)),
            f"{100 * row.apart:.1f}",
        ]
        for row in found.activated
    ]
    columns = ["mix", "tokens", "uniform", "held-out halves", "twins", "mean miss", "worst half", "halves apart"]
    stdout().print(table("activated fraction of the experts; misses in points", columns, rows))
    rows = [
        [name.replace("_", " "), *(f"{value:.3f}" for value in values)] for name, values in found.statistics.items()
    ]
    stdout().print(table("other statistics", ["", "fitted halves", "held-out halves", "twins"], rows))
