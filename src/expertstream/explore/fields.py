"""The fields that a sweep or search can vary, by dotted path, such as ``package.die.weight_buffer``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from expertstream.config import NUMBER_NEEDED, truth_taken_for_numbers
from expertstream.errors import ConfigError, nearest
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Constant, Technology
from expertstream.schedule import ORDERS
from expertstream.strategy import get_strategy
from expertstream.strategy.plan import (
    FROM_TRACE,
    LAYOUTS,
    LONGEST_PS,
    PLACEMENTS,
    RINGS,
    is_prediction,
    parse_prediction,
)
from expertstream.trace.routing import MIXES
from expertstream.units import TimePs, between, format_bandwidth, format_bytes, format_frequency, format_time
from expertstream.workload import SPREADS

Value = int | float | str | bool | None
_OptionTime = Annotated[TimePs, between(0, LONGEST_PS, format_time)]
DOCUMENTS: Final = ("model", "package", "technology")  # roots that name a document and have fields of their own
# texts, figures that decide nothing, and lists
_NOT_VARIED: Final = {
    "name",
    "source",
    "summary",
    "notes",
    "published_total_params",
    "published_active_params",
    "faults",
}
_PLAIN: Final[dict[str, Any]] = {
    "strategy": str,
    "trace": str,
    "mix": str,
    "spread": str,
    "tokens": int,
    "layer": int,
    "options.micro_slices": int | None,
    "options.placement": str,
    "options.order": str,
    "options.rings": int,
    "options.redispatch": bool,
    "options.layout": str,
    "options.depth": int | None,
    "options.decision_time": _OptionTime | None,
    "options.prediction": str | None,
    "options.lead_time": _OptionTime,
}
# kinds of quantities by the end of a field's name: how they are shown, and an example
_QUANTITIES: Final = {
    "bandwidth": ("bandwidth", format_bandwidth, "25.6 GB/s"),
    "_buffer": ("size", format_bytes, "14 MiB"),
    "header": ("size", format_bytes, "16 B"),
    "latency": ("time", format_time, "4.02 ns"),
    "decision_time": ("time", format_time, "20 ns"),
    "lead_time": ("time", format_time, "10 us"),
    "clock": ("frequency", format_frequency, "800 MHz"),
}
_CHOICES: Final[dict[str, tuple[Value, ...]]] = {
    "mix": MIXES,
    "spread": SPREADS,
    "options.placement": (*PLACEMENTS, "best"),
    "options.order": tuple(ORDERS),
    "options.layout": LAYOUTS,
    "options.rings": RINGS,
}


@cache
def field_paths() -> tuple[str, ...]:
    """All paths of fields, in the names that YAML files use."""
    paths = [*DOCUMENTS, *_PLAIN]
    for root, cls in (("model", MoEModel), ("package", Package)):
        paths += [f"{root}.{path}" for path in _paths_of(cls)]
    return (*paths, *(f"technology.{path}" for path in _technology_paths()))


def parse_value(path: str, value: object) -> Value:
    """Value of a field as it is written in a file, in base units.

    Raises:
        ConfigError: the field is unknown, or cannot have the value (a unit is missing, out of range, of another type).
    """
    kind = _kind(path)
    if path == "options.prediction" and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)  # a column has one type, and "trace" is a text
    try:
        parsed = TypeAdapter(kind).validate_python(value, context={"from_file": True})
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        given = "" if repr(value) in message or "given" in message or str(value) in message else f" (given: {value!r})"
        raise ConfigError(f"{path}: {message[0].lower()}{message[1:]}{given}") from None
    if any(True for _ in truth_taken_for_numbers(value, parsed)):
        raise ConfigError(f"{path}: {NUMBER_NEEDED}")
    if path == "strategy":
        get_strategy(str(parsed))
    allowed = _CHOICES.get(path)
    if allowed and parsed not in allowed:
        texts = [str(one) for one in allowed]
        known = f"{nearest(str(parsed), texts) or ';'} allowed: {', '.join(texts)}"
        raise ConfigError(f"{path}: '{parsed}' is unknown{known}")
    if path == "options.prediction" and parsed is not None and not is_prediction(parse_prediction(str(parsed))):
        raise ConfigError(f"{path}: must be an accuracy above 0 and up to 1, or {FROM_TRACE} (given: {parsed})")
    if path in ("tokens", "options.micro_slices", "options.depth") and parsed is not None and parsed < 1:
        raise ConfigError(f"{path}: must be at least 1 (given: {parsed})")
    return parsed  # type: ignore[no-any-return]


@cache
def kind_of(path: str) -> type:
    """The plain type of the field's values: int, float, str or bool. Raises ConfigError for an unknown field."""
    kind = _kind(path)
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return str
    option = next(option for option in get_args(kind) or (kind,) if option is not type(None))
    return get_args(option)[0] if get_origin(option) is Annotated else option  # type: ignore[no-any-return]


def text_of(path: str, value: Value) -> str:
    """A value in base units as a text for readers, for example "14 MiB"."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        quantity = _quantity_of(path)
        return quantity[1](value) if quantity else f"{value:.6g}"
    return "-" if value is None else str(value)


def unit_of(path: str) -> tuple[str, str] | None:
    """What a field's quantity is ("size", "bandwidth", "time", "frequency") and an example; None: a plain number."""
    quantity = _quantity_of(path)
    return (quantity[0], quantity[2]) if quantity else None


def _quantity_of(path: str) -> tuple[str, Callable[[float], str], str] | None:
    if path.startswith("technology."):  # its constants are plain numbers in units of their own
        return None
    return next((quantity for ending, quantity in _QUANTITIES.items() if path.endswith(ending)), None)


def change_package(package: Package, changes: dict[str, Value]) -> Package:
    """A copy with fields changed; keys are paths without the root, values in base units. Raises ConfigError."""
    if not changes:
        return package
    flat = {}
    channels = [channel.model_dump() for channel in package.channels]
    for path, value in changes.items():
        first, *rest = path.split(".")
        if first == "channels":
            for channel in channels:
                channel[_field(_class_at(Package, ["channels"]), rest[0])] = value
        else:
            flat[_field_path(Package, path)] = value
    return package.replace(**flat, channels=channels)


def change_model(model: MoEModel, changes: dict[str, Value]) -> MoEModel:
    """A copy with fields changed; keys are paths without the root. Raises ConfigError."""
    return model.replace(**changes) if changes else model


def change_technology(technology: Technology, changes: dict[str, Value]) -> Technology:
    """A copy with fields changed; keys are paths without the root. Raises ConfigError."""
    return technology.replace(**changes) if changes else technology


def value_of(document: BaseModel, path: str) -> Value:
    """Value of a field of a model, package or technology (of a constant: its value; of channels: the first one's)."""
    here: Any = document
    for part in path.split("."):
        if isinstance(here, tuple):
            here = here[0]
        here = here[part] if isinstance(here, dict) else getattr(here, _field(type(here), part))
    return here.value if isinstance(here, Constant) else here


def _kind(path: str) -> Any:
    root, *rest = path.split(".")
    if path in _PLAIN:
        return _PLAIN[path]
    if path in DOCUMENTS:
        return str
    if root == "technology" and ".".join(rest) in _technology_paths():
        return str if rest[0].endswith("_kind") else Annotated[float, Field(ge=0, le=1e9)]
    if root in ("model", "package") and path in field_paths():
        cls = _class_at(MoEModel if root == "model" else Package, rest[:-1])
        info = cls.model_fields[_field(cls, rest[-1])]
        return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    known = field_paths()
    raise ConfigError(f"there is no field '{path}'{nearest(path, known) or '.'} Fields: {_short_list(path, known)}")


def _short_list(path: str, known: tuple[str, ...]) -> str:
    root = path.split(".")[0]
    near = [name for name in known if name.split(".")[0] == root]
    return ", ".join(
        near or [name for name in known if "." not in name] + ["package.die....", "model....", "options...."]
    )


def _paths_of(cls: type[BaseModel]) -> Iterator[str]:
    for name, info in cls.model_fields.items():
        inner = _inner_class(info.annotation)
        if name in _NOT_VARIED:
            continue
        if inner is None and not _is_sequence(info.annotation):
            yield info.alias or name
        elif inner is not None:
            yield from (f"{info.alias or name}.{path}" for path in _paths_of(inner))


def _technology_paths() -> list[str]:
    profile = Technology.preset("5nm")
    return ["d2d_kind", "memory_kind", *(path for path, _ in profile.constants())]


def _inner_class(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _is_sequence(annotation: Any) -> bool:
    return "tuple" in str(annotation)


def _class_at(cls: type[BaseModel], parts: list[str]) -> type[BaseModel]:
    for part in parts:
        inner = _inner_class(cls.model_fields[_field(cls, part)].annotation)
        assert inner is not None
        cls = inner
    return cls


def _field(cls: type[BaseModel], name: str) -> str:
    """Name of a field from its name or alias."""
    return next((n for n, info in cls.model_fields.items() if name in (n, info.alias)), name)


def _field_path(cls: type[BaseModel], path: str) -> str:
    parts = path.split(".")
    return ".".join(_field(_class_at(cls, parts[:i]), part) for i, part in enumerate(parts))
