"""What a package is made of (2-model.md section 2)."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from expertstream.config import load_config, preset_names, preset_path
from expertstream.errors import ConfigError, nearest
from expertstream.units import Bandwidth, ByteSize, FrequencyHz, TimePs, format_bandwidth, format_bytes, format_time

MAX_BANDWIDTH = 9_000_000_000_000  # bytes/s; beyond it the exact transfer time leaves int64

_FROZEN = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class DieSpec(BaseModel):
    """A compute die.

    Attributes:
        macs_per_cycle: multiply-accumulates per cycle; with ``clock_hz`` the MAC rate.
        sram_bandwidth_bytes_per_s: at which weights are read from the buffer into the array.
        control_overhead_cycles: cycles to dispatch one micro-slice.
        array: "mac-array" (rate only) or "weight-stationary" (fill and drain of a systolic array count).
        array_rows, array_cols: of the weight-stationary array; their product must be ``macs_per_cycle``.
    """

    model_config = _FROZEN

    clock_hz: FrequencyHz = Field(alias="clock", gt=0)
    macs_per_cycle: int = Field(gt=0)
    weight_buffer_bytes: ByteSize = Field(alias="weight_buffer", gt=0)
    token_buffer_bytes: ByteSize = Field(alias="token_buffer", gt=0)
    sram_bandwidth_bytes_per_s: Bandwidth = Field(alias="sram_bandwidth", gt=0)
    control_overhead_cycles: int = Field(default=64, ge=0)
    array: Literal["mac-array", "weight-stationary"] = "mac-array"
    array_rows: int = Field(default=0, ge=0)
    array_cols: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _array_fits(self) -> DieSpec:
        if self.array == "weight-stationary" and self.array_rows * self.array_cols != self.macs_per_cycle:
            raise ValueError(
                f"array_rows x array_cols is {self.array_rows} x {self.array_cols}; a weight-stationary array must "
                f"have macs_per_cycle = {self.macs_per_cycle} cells"
            )
        return self


class D2DSpec(BaseModel):
    """Links between neighbouring dies: ``bandwidth_bytes_per_s`` is per directed link."""

    model_config = _FROZEN

    bandwidth_bytes_per_s: Bandwidth = Field(alias="bandwidth", gt=0, le=MAX_BANDWIDTH)
    latency_ps: TimePs = Field(alias="latency", ge=0)
    header_bytes: ByteSize = Field(alias="header", default=16, ge=0)
    switching: Literal["cut-through", "store-and-forward"] = "cut-through"


class ChannelSpec(BaseModel):
    """A DDR channel attached to one die, or through the I/O die to several; ``efficiency`` is the share of the peak."""

    model_config = _FROZEN

    dies: tuple[int, ...] = Field(min_length=1)
    bandwidth_bytes_per_s: Bandwidth = Field(alias="bandwidth", gt=0, le=MAX_BANDWIDTH)
    efficiency: float = Field(default=1.0, gt=0, le=1)
    latency_ps: TimePs = Field(alias="latency", default=50_000, ge=0)


class Package(BaseModel):
    """``rows`` x ``cols`` compute dies on a 2D mesh; die number = row * cols + column."""

    model_config = _FROZEN

    name: str
    source: str = ""
    rows: int = Field(ge=1, le=16)
    cols: int = Field(ge=1, le=16)
    die: DieSpec
    d2d: D2DSpec
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _channels_fit(self) -> Package:
        for number, channel in enumerate(self.channels):
            wrong = [d for d in channel.dies if not 0 <= d < self.n_dies]
            if wrong:
                raise ValueError(
                    f"DDR channel {number} is attached to die {wrong[0]}, but the {self.rows} x {self.cols} package "
                    f"has dies 0 to {self.n_dies - 1}"
                )
        return self

    @property
    def n_dies(self) -> int:
        """Number of compute dies."""
        return self.rows * self.cols

    @property
    def macs_per_s(self) -> int:
        """MAC rate of the whole package."""
        return self.n_dies * self.die.macs_per_cycle * self.die.clock_hz

    @property
    def ddr_bytes_per_s(self) -> int:
        """Bandwidth of all DDR channels together, efficiency included."""
        return sum(max(1, int(c.bandwidth_bytes_per_s * c.efficiency)) for c in self.channels)

    @classmethod
    def preset(cls, name: str) -> Package:
        """Return the packaged package ``name``. Raises ConfigError for an unknown name."""
        return load_config(preset_path("package", name), cls)

    @classmethod
    def preset_names(cls) -> list[str]:
        """Names of the packaged packages."""
        return preset_names("package")

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Package:
        """Read a package of your own. Raises ConfigError with file, line and column."""
        return load_config(path, cls)

    def replace(self, **changes: Any) -> Package:
        """A copy with some values changed; nested ones as ``replace(**{"die.weight_buffer_bytes": 8 << 20})``.

        Raises:
            ConfigError: an unknown name or a value out of range.
        """
        data = self.model_dump()
        for path, value in changes.items():
            *parents, last = path.split(".")
            target: Any = data
            for part in parents:
                target = target.get(part) if isinstance(target, dict) else None
            if not isinstance(target, dict) or last not in target:
                known = [*data, *(f"die.{k}" for k in data["die"]), *(f"d2d.{k}" for k in data["d2d"])]
                raise ConfigError(f"a package has no '{path}'{nearest(path, known)} Known: {', '.join(known)}")
            target[last] = value
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"package {self.name}: {where}: {first['msg']} (given: {first['input']!r})") from None

    def summary(self) -> str:
        """The package in a few lines."""
        die, d2d = self.die, self.d2d
        lines = [
            f"{self.name}: {self.rows} x {self.cols} dies ({self.source})" if self.source else self.name,
            f"  die: {die.macs_per_cycle} MACs x {die.clock_hz / 1e6:g} MHz ({die.array}), "
            f"{format_bytes(die.weight_buffer_bytes)} weights + {format_bytes(die.token_buffer_bytes)} tokens, "
            f"SRAM {format_bandwidth(die.sram_bandwidth_bytes_per_s)}, "
            f"{die.control_overhead_cycles} cycles per micro-slice",
            f"  D2D: {format_bandwidth(d2d.bandwidth_bytes_per_s)} per directed link, {format_time(d2d.latency_ps)}, "
            f"{d2d.header_bytes} B header, {d2d.switching}",
        ]
        for number, c in enumerate(self.channels):
            dies = ", ".join(map(str, c.dies))
            lines.append(
                f"  DDR channel {number}: die {dies}, {format_bandwidth(c.bandwidth_bytes_per_s)} x {c.efficiency:g}, "
                f"{format_time(c.latency_ps)}"
            )
        return "\n".join(lines)
