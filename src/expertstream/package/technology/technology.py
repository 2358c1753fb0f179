"""Technology profiles: constants of energy and area, read from YAML."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from expertstream.config import check_config, load_config, misfit, preset_names, preset_path
from expertstream.errors import ConfigError, nearest

LEVELS: Final = ("low", "nominal", "high")
DEFAULT_TECHNOLOGY: Final = "5nm"
ROOM: Final = "package/technology"

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class Constant(BaseModel):
    """One physical constant.

    Attributes:
        low, value, high: the range in which the truth is believed to lie, and the figure to use.
        node: technology node for which it is given. source: publication, or "assumption" with its reason.
        confidence: "high" (stated by the source for this node), "medium" (derived from a source), "low" (assumption).
    """

    model_config = _FROZEN

    value: float = Field(ge=0, le=1e9)
    low: float = Field(ge=0, le=1e9)
    high: float = Field(ge=0, le=1e9)
    unit: str
    node: str = Field(min_length=1)
    source: str = Field(min_length=1)
    confidence: Literal["high", "medium", "low"]

    @model_validator(mode="after")
    def _ordered(self) -> Constant:
        if not self.low <= self.value <= self.high:
            raise misfit(
                f"low {self.low:g}, value {self.value:g}, high {self.high:g} must be in ascending order", "value"
            )
        return self

    @property
    def levels(self) -> NDArray[np.float64]:
        """Low, nominal and high value, float64 [3] (``LEVELS``)."""
        return np.array([self.low, self.value, self.high])


class D2DKind(BaseModel):
    """A die-to-die interface: energy per bit and hop; area and bandwidth per direction of one module."""

    model_config = _FROZEN

    energy: Constant
    module_area: Constant
    module_bandwidth: Constant


class MemoryKind(BaseModel):
    """A kind of DRAM: energy per bit loaded, device and interface; PHY area (on the I/O die) per GB/s."""

    model_config = _FROZEN

    energy: Constant
    phy_area: Constant


UNITS: Final = {
    "mac_int8": "pJ/MAC",
    "mac_fp16": "pJ/MAC",
    "sram_read": "pJ/B",
    "sram_write": "pJ/B",
    "control": "share",
    "logic_leakage": "mW/mm2",
    "sram_leakage": "mW/MiB",
    "mac_int8_area": "um2/MAC",
    "mac_fp16_area": "um2/MAC",
    "sram_area": "mm2/MiB",
    "other_area": "mm2",
    "d2d.energy": "pJ/bit",
    "d2d.module_area": "mm2",
    "d2d.module_bandwidth": "GB/s",
    "memory.energy": "pJ/bit",
    "memory.phy_area": "mm2/(GB/s)",
}


class Technology(BaseModel):
    """A technology profile.

    Attributes:
        name: what results call it. summary: one line.
        mac_int8_area, mac_fp16_area: of a MAC unit. sram_area: per size.
        mac_int8: a MAC of two values of at most 8 bits; mac_fp16: of any wider values.
        sram_read, sram_write: of the weight and token buffers. control: energy of clock, control and wires, as a share
            of that of MACs and SRAM. logic_leakage: per area of MACs and other logic; sram_leakage: per size.
        other_area: of a die's logic besides MACs, SRAM and D2D modules.
        d2d, memory: the kinds that are known; d2d_kind, memory_kind: the ones that the package has.
    """

    model_config = _FROZEN

    name: str = Field(min_length=1)
    summary: str
    mac_int8: Constant
    mac_fp16: Constant
    sram_read: Constant
    sram_write: Constant
    control: Constant
    logic_leakage: Constant
    sram_leakage: Constant
    mac_int8_area: Constant
    mac_fp16_area: Constant
    sram_area: Constant
    other_area: Constant
    d2d: dict[str, D2DKind]
    memory: dict[str, MemoryKind]
    d2d_kind: str
    memory_kind: str

    @model_validator(mode="after")
    def _check(self) -> Technology:
        for path, constant in self.constants():
            needed = UNITS[unit_key(path)]
            if constant.unit != needed:
                raise misfit(f"unit is '{constant.unit}'; it must be '{needed}'", *path.split("."), "unit")
        for field, kinds in (("d2d_kind", self.d2d), ("memory_kind", self.memory)):
            name = getattr(self, field)
            if name not in kinds:
                raise misfit(f"'{name}' is none of: {', '.join(kinds)}{nearest(name, kinds)}", field)
        for name, kind in self.d2d.items():
            if kind.module_bandwidth.low <= 0:
                raise misfit("a module's bandwidth must be above 0", "d2d", name, "module_bandwidth")
        return self

    @classmethod
    def preset(cls, name: str) -> Technology:
        """Return the packaged profile ``name``. Raises ConfigError for an unknown name."""
        return _preset(name)

    @classmethod
    def preset_names(cls) -> list[str]:
        """Names of the packaged profiles."""
        return preset_names(ROOM)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Technology:
        """Read a profile of your own. Raises ConfigError with file, line and column."""
        return load_config(path, cls)

    def constants(self) -> Iterator[tuple[str, Constant]]:
        """Every constant with its dotted name, such as "sram_read" or "d2d.ucie-s.energy", in a fixed order."""
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, Constant):
                yield field, value
            elif isinstance(value, dict):
                for kind, group in value.items():
                    for part in type(group).model_fields:
                        yield f"{field}.{kind}.{part}", getattr(group, part)

    def replace(self, **changes: Any) -> Technology:
        """A copy with another ``name``, ``d2d_kind`` or ``memory_kind``, or with other values of constants.

        A number given for a constant, as in ``replace(**{"sram_read": 2.0})``, becomes its value, low and high.

        Raises:
            ConfigError: an unknown name or a value that is not allowed.
        """
        data, constants = self.model_dump(), dict(self.constants())
        known = ["name", "d2d_kind", "memory_kind", *constants]
        for path, value in changes.items():
            if path not in known:
                raise ConfigError(
                    f"a technology has no '{path}'{nearest(path, known) or '.'} Known: {', '.join(known)}"
                )
            if path in constants:
                _at(data, path).update(value=value, low=value, high=value)
            else:
                data[path] = value
        return check_config(data, type(self), f"technology {self.name}")

    @property
    def link(self) -> D2DKind:
        """The kind of D2D interface in use."""
        return self.d2d[self.d2d_kind]

    @property
    def dram(self) -> MemoryKind:
        """The kind of DRAM in use."""
        return self.memory[self.memory_kind]

    def mac(self, weight_bits: int, activation_bits: int) -> Constant:
        """Energy of one MAC: that of int8 where both operands have at most 8 bits, else that of fp16."""
        return self.mac_int8 if max(weight_bits, activation_bits) <= 8 else self.mac_fp16

    def mac_area(self, weight_bits: int, activation_bits: int) -> Constant:
        """Area of one MAC unit, chosen as by ``mac``."""
        return self.mac_int8_area if max(weight_bits, activation_bits) <= 8 else self.mac_fp16_area


def unit_key(path: str) -> str:
    """The key of ``UNITS`` for a constant's dotted name."""
    first, *rest = path.split(".")
    return f"{first}.{rest[-1]}" if rest else first


def _at(data: dict[str, Any], path: str) -> dict[str, Any]:
    for part in path.split("."):
        data = data[part]
    return data


@cache
def _preset(name: str) -> Technology:
    return load_config(preset_path(ROOM, name), Technology)
