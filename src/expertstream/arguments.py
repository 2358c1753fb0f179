"""Arguments from Python that are of another kind than is needed: one message that says how to make the right one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from expertstream.errors import ConfigError, check_whole
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.strategy import Options
from expertstream.trace import Routing, RoutingTrace

_MADE_BY: Final[dict[type, str]] = {
    MoEModel: "MoEModel.preset('qwen3-30b-a3b') or MoEModel.from_hf_config('config.json')",
    Package: "Package.preset('test-chip-2x2') or Package.from_yaml('my-package.yaml')",
    Routing: "trace.iteration(tokens=64, layer=12)",
    RoutingTrace: "packaged_trace(model) or RoutingTrace.load('trace.parquet')",
    Options: "Options(rings=2)",
    Technology: "Technology.preset('5nm')",
}


def check_kind(name: str, value: object, kind: type) -> None:
    """Raise ConfigError unless ``value``, the argument ``name``, is of the ``kind``."""
    if not isinstance(value, kind):
        text = repr(value)
        shown = text if len(text) <= 100 else f"{text[:97]}..."
        raise ConfigError(f"{name} is {shown}; it must be of type {kind.__name__}, such as {_MADE_BY[kind]}")


def as_numbers(name: str, value: int | Sequence[int]) -> list[int]:
    """One number or several, as a list. Raises ConfigError if ``value``, the argument ``name``, is something else."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        check_whole(name, value)
        return [value]
    numbers = list(value)
    if not numbers:
        raise ConfigError(f"{name} is {value!r}; give at least one number")
    for number in numbers:
        check_whole(f"one of {name}", number)
    return numbers
