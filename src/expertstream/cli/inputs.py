"""What commands take: models, packages, traces, lists of numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import typer

from expertstream.cli.console import remark
from expertstream.documents import config_text
from expertstream.documents import load_model as load_model
from expertstream.documents import load_package as load_package
from expertstream.documents import load_technology as load_technology
from expertstream.errors import ConfigError, TraceError, nearest
from expertstream.files import check_writable
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.schedule import OrderName
from expertstream.strategy import Options, Strategy
from expertstream.strategy.base import CHOICES, unused
from expertstream.strategy.plan import LEAD_PS, parse_prediction
from expertstream.trace import Mix, RoutingTrace, packaged_trace, synthesize
from expertstream.trace.routing import check_moe_layers, short_source
from expertstream.units import parse_bytes, parse_time_ps
from expertstream.workload import Spread

TOKENS = (16, 64, 256, 1024)
MAX_SYNTHETIC_TOKENS = 65536
REQUESTS = 8

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A preset (see: expertstream model show), a Hugging Face config.json or a YAML file."
    ),
]
PackageOption = Annotated[
    str, typer.Option("--package", "-p", metavar="NAME|FILE.yaml", help="A preset or a package of your own.")
]
TraceOption = Annotated[
    Path | None,
    typer.Option("--trace", "-t", metavar="FILE", help="A .parquet or .npz trace. Without one: SYNTHETIC routing."),
]
TechnologyOption = Annotated[
    str,
    typer.Option("--technology", metavar="NAME|FILE.yaml", help="Energy and area: 5nm, 28nm or yours."),
]
ProveOption = Annotated[
    bool, typer.Option("--prove", help="Replay the timeline on random weights against the dense layer.")
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a report to open in a browser, offline.")
]
YamlOption = Annotated[bool, typer.Option("--yaml", help="The YAML itself with its comments, to start from.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else.")]


@dataclass(frozen=True)
class RunOptions:
    """How a layer is run: the options that ``with_run_options`` gives to a command, in the order of its help."""

    mix: Annotated[
        str, typer.Option("--mix", help="round-robin (one token of each request in turn) or single-request.")
    ] = "round-robin"
    spread: Annotated[str, typer.Option("--spread", help="Tokens over the dies: contiguous or round-robin.")] = (
        "contiguous"
    )
    micro_slices: Annotated[
        int | None,
        typer.Option("--micro-slices", help="Micro-slices per expert and die. Without: the strategy's choice."),
    ] = None
    placement: Annotated[
        str, typer.Option("--placement", help="Experts under ep: contiguous, round-robin, balanced, or best of them.")
    ] = "best"
    order: Annotated[str, typer.Option("--order", help="Order of the experts under ep and tp: id or paired.")] = "id"
    rings: Annotated[
        int,
        typer.Option("--rings", help="Logical rings of fse-dp: 1 (one way), 2 (both ways) or 4 (also along columns)."),
    ] = 4
    redispatch: Annotated[
        bool, typer.Option("--redispatch", help="fse-dp first evens out each expert's tokens over the dies.")
    ] = False
    layout: Annotated[
        str,
        typer.Option("--layout", help="Weights under fse-dp: striped over all DDR channels, or whole experts in turn."),
    ] = "striped"
    depth: Annotated[
        int | None,
        typer.Option("--depth", help="Most routed experts loading, waiting or in use (of a home die under ep)."),
    ] = None
    weight_buffer: Annotated[
        str | None, typer.Option("--weight-buffer", metavar="SIZE", help="Of each die, in place of the package's.")
    ] = None
    token_buffer: Annotated[
        str | None, typer.Option("--token-buffer", metavar="SIZE", help="Of each die, in place of the package's.")
    ] = None
    predict: Annotated[
        str | None,
        typer.Option(
            "--predict",
            metavar="ACCURACY|trace",
            help="Load weights before the gate's result, predicted with this accuracy (0.8), or from the layer before.",
        ),
    ] = None
    lead_time: Annotated[
        str | None,
        typer.Option("--lead-time", metavar="TIME", help="How long before the gate's result, with --predict. [10 us]"),
    ] = None
    decision_time: Annotated[
        str | None,
        typer.Option(
            "--decision-time",
            metavar="TIME",
            help="Time of one scheduling decision, such as '80 ns'. Without: the cycles of the scheduler in hardware.",
        ),
    ] = None

    @property
    def as_mix(self) -> Mix:
        """Checked by RoutingTrace.iteration, which names what is allowed."""
        return cast(Mix, self.mix)

    @property
    def as_spread(self) -> Spread:
        """Checked by LayerWorkload.of, which names what is allowed."""
        return cast(Spread, self.spread)

    def with_buffers(self, package: Package) -> Package:
        """The package with other buffers in each die. Raises ConfigError or UnitError."""
        sizes = {"die.weight_buffer_bytes": self.weight_buffer, "die.token_buffer_bytes": self.token_buffer}
        given = {name: parse_bytes(text) for name, text in sizes.items() if text is not None}
        return package.replace(**given) if given else package

    def of_strategy(self) -> Options:
        """Options of the strategies. Raises ConfigError, UnitError or WorkloadError."""
        if self.lead_time is not None and self.predict is None:
            raise ConfigError(f"--lead-time is '{self.lead_time}', but nothing is predicted; give --predict, too")
        return Options(
            micro_slices=self.micro_slices,
            placement=self.placement,
            order=cast(OrderName, self.order),
            rings=self.rings,
            redispatch=self.redispatch,
            layout=self.layout,
            depth=self.depth,
            prediction=None if self.predict is None else parse_prediction(self.predict),
            lead_ps=LEAD_PS if self.lead_time is None else parse_time_ps(self.lead_time),
            decision_ps=None if self.decision_time is None else parse_time_ps(self.decision_time),
        )


def say_unused(run: RunOptions, strategies: Sequence[Strategy]) -> None:
    """Remark on options that were given and change nothing under the strategies."""
    given = [field.name for field in fields(RunOptions) if getattr(run, field.name) != field.default]
    for name in unused([name for name in CHOICES if name in given], strategies):
        under = strategies[0].name if len(strategies) == 1 else "the strategies compared"
        remark(f"--{name.replace('_', '-')} changes nothing under {under}")


def check_outputs(*files: Path | None, read: Iterable[str | Path | None] = ()) -> None:
    """Raise ConfigError if a file cannot be written, two of them are one, or one is read, too.

    Args:
        read: what may be files that the command reads; a model's may be its folder, and a strategy's is what stands
            before the last colon.
    """
    names = [str(one) for one in read if one is not None]
    sources = {Path(name).resolve() for text in names for name in (text, text.rpartition(":")[0]) if name}
    sources |= {folder / "config.json" for folder in sources}
    places: dict[Path, Path] = {}
    for file in files:
        if file is not None:
            check_writable(file)
            if file.is_file() and file.resolve() in sources:
                raise ConfigError(f"'{file}' is read, and would be written over; give the output another name")
            if places.setdefault(file.resolve(), file) is not file and not file.is_char_device():
                raise ConfigError(f"'{file}' is given for two outputs; give each a file of its own")


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: with the fields of ``RunOptions``, each an option, in place of the one ``run``."""
    hints = get_type_hints(RunOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(RunOptions)
    ]

    @wraps(command)
    def flat(**values: Any) -> None:
        run = RunOptions(**{option.name: values.pop(option.name) for option in shared})
        command(run=run, **values)

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [option for one in own for option in (shared if one.name == "run" else [one])]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flat


def print_yaml(room: str, text: str | None, load: Callable[[str], object], *, json: bool) -> None:
    """Print the YAML of a preset or a file once ``load`` has checked it. Raises ConfigError, also for ``json``, too."""
    if json:
        raise ConfigError("--yaml and --json were given; choose one of them")
    if text is None:
        raise ConfigError("--yaml shows one preset or file; name it")
    load(text)
    print(config_text(room, text), end="")


def load_trace(path: Path | None, model: MoEModel, tokens: int, layers: Sequence[int] | None = None) -> RoutingTrace:
    """The trace of a file, or synthetic routing of the model that has ``tokens`` tokens and ``layers``.

    Layers of a Parquet file are read when they are needed.

    Raises:
        TraceError: the file is missing or damaged, does not fit the model, or too many tokens are asked for.
    """
    if path is not None:
        trace = RoutingTrace.open(path)
        trace.check_fits(model)
        return trace
    trace = packaged_trace(model)
    wanted = set(layers) if layers else set()
    if wanted <= set(trace.layer_index.tolist()) <= set(model.moe_layers) and tokens <= trace.n_tokens:
        return trace
    check_moe_layers(sorted(wanted), model.name, model.moe_layers)
    if tokens > MAX_SYNTHETIC_TOKENS:
        raise TraceError(
            f"{tokens} tokens were asked for; synthetic routing is made for at most {MAX_SYNTHETIC_TOKENS}, "
            "give a longer trace with --trace"
        )
    per_request = max(-(-tokens // REQUESTS), 136)
    chosen = sorted(wanted) if wanted else model.moe_layers[:2]
    return synthesize(model, requests=REQUESTS, tokens_per_request=per_request, layers=chosen)


def routing_label(source: str, synthetic: bool) -> str:
    """Where the routing comes from; synthetic routing says so in capitals."""
    return f"SYNTHETIC routing ({short_source(source)})" if synthetic else f"routing: {source}"


def numbers(text: str, option: str, *, least: int) -> list[int]:
    """Whole numbers separated by commas, each once. Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 9 and int(part) >= least for part in parts):
        raise ConfigError(
            f"{option} is '{text}'; it must be whole numbers from {least}, separated by commas, such as "
            f"{least},{least + 8}"
        )
    return list(dict.fromkeys(int(part) for part in parts))


def names(text: str) -> list[str]:
    """Names separated by commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def one_of(option: str, text: str, allowed: Sequence[str]) -> str:
    """The text, if it is allowed. Raises ConfigError."""
    if text not in allowed:
        raise ConfigError(f"{option} is '{text}'{nearest(text, allowed) or ';'} allowed: {', '.join(allowed)}")
    return text
