"""What a package is made of (2-model.md section 2)."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from expertstream.config import check_config, load_config, misfit, preset_names, preset_path
from expertstream.errors import ConfigError, nearest
from expertstream.units import (
    Bandwidth,
    ByteSize,
    FrequencyHz,
    TimePs,
    between,
    format_bandwidth,
    format_bytes,
    format_frequency,
    format_time,
)

# within these limits the times of every published model's layer stay within int64
MIN_BANDWIDTH = 10**6  # bytes/s
MAX_BANDWIDTH = 9 * 10**12  # bytes/s, of links and channels

_Side = Annotated[int, between(1, 16, str)]
_Macs = Annotated[int, between(1, 2**40, str)]
_Cycles = Annotated[int, between(0, 10**6, str)]
_ArraySide = Annotated[int, between(0, 2**20, str)]
_Clock = Annotated[FrequencyHz, between(10**6, 10**12, format_frequency)]
_Buffer = Annotated[ByteSize, between(1, 2**50, format_bytes)]
_SramBandwidth = Annotated[Bandwidth, between(MIN_BANDWIDTH, 10**18, format_bandwidth)]
_Bandwidth = Annotated[Bandwidth, between(MIN_BANDWIDTH, MAX_BANDWIDTH, format_bandwidth)]
_Latency = Annotated[TimePs, between(0, 10**12, format_time)]
_Header = Annotated[ByteSize, between(0, 2**20, format_bytes)]

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

    clock_hz: _Clock = Field(alias="clock")
    macs_per_cycle: _Macs
    weight_buffer_bytes: _Buffer = Field(alias="weight_buffer")
    token_buffer_bytes: _Buffer = Field(alias="token_buffer")
    sram_bandwidth_bytes_per_s: _SramBandwidth = Field(alias="sram_bandwidth")
    control_overhead_cycles: _Cycles = 64
    array: Literal["mac-array", "weight-stationary"] = "mac-array"
    array_rows: _ArraySide = 0
    array_cols: _ArraySide = 0

    @model_validator(mode="after")
    def _array_fits(self) -> DieSpec:
        if self.array == "weight-stationary" and self.array_rows * self.array_cols != self.macs_per_cycle:
            raise misfit(
                f"array_rows x array_cols is {self.array_rows} x {self.array_cols}; a weight-stationary array must "
                f"have macs_per_cycle = {self.macs_per_cycle} cells",
                "array",
            )
        return self


class D2DSpec(BaseModel):
    """Links between neighbouring dies: ``bandwidth_bytes_per_s`` is per directed link."""

    model_config = _FROZEN

    bandwidth_bytes_per_s: _Bandwidth = Field(alias="bandwidth")
    latency_ps: _Latency = Field(alias="latency")
    header_bytes: _Header = Field(alias="header", default=16)
    switching: Literal["cut-through", "store-and-forward"] = "cut-through"


class ChannelSpec(BaseModel):
    """A DDR channel attached to one die, or through the I/O die to several; ``efficiency`` is the share of the peak."""

    model_config = _FROZEN

    dies: tuple[int, ...] = Field(min_length=1)
    bandwidth_bytes_per_s: _Bandwidth = Field(alias="bandwidth")
    efficiency: float = Field(default=1.0, gt=0, le=1)
    latency_ps: _Latency = Field(alias="latency", default=50_000)

    @model_validator(mode="after")
    def _something_is_left(self) -> ChannelSpec:
        if self.effective_bytes_per_s < MIN_BANDWIDTH:
            raise misfit(
                f"{self.efficiency:g} of {format_bandwidth(self.bandwidth_bytes_per_s)} leaves less than "
                f"{format_bandwidth(MIN_BANDWIDTH)}; efficiency is a share of the peak, such as 0.8",
                "efficiency",
            )
        return self

    @property
    def effective_bytes_per_s(self) -> int:
        """Bandwidth times efficiency, to the nearest byte per second."""
        return round(self.bandwidth_bytes_per_s * self.efficiency)


class Package(BaseModel):
    """``rows`` x ``cols`` compute dies on a 2D mesh; die number = row * cols + column."""

    model_config = _FROZEN

    name: str
    source: str = ""
    rows: _Side
    cols: _Side
    die: DieSpec
    d2d: D2DSpec
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _channels_fit(self) -> Package:
        for number, channel in enumerate(self.channels):
            wrong = [d for d in channel.dies if not 0 <= d < self.n_dies]
            if wrong:
                raise misfit(
                    f"DDR channel {number} is attached to die {wrong[0]}, but the {self.rows} x {self.cols} package "
                    f"has dies 0 to {self.n_dies - 1}",
                    "channels",
                    number,
                    "dies",
                )
        return self

    @property
    def n_dies(self) -> int:
        """Number of compute dies."""
        return self.rows * self.cols

    @property
    def n_links(self) -> int:
        """Number of directed links between neighbouring dies."""
        return 2 * (self.rows * (self.cols - 1) + self.cols * (self.rows - 1))

    @property
    def links_of_die(self) -> int:
        """Links of the die with the most neighbours, each counted once for both directions."""
        return min(self.rows - 1, 2) + min(self.cols - 1, 2)

    @property
    def macs_per_s(self) -> int:
        """MAC rate of the whole package."""
        return self.n_dies * self.die.macs_per_cycle * self.die.clock_hz

    @property
    def ddr_bytes_per_s(self) -> int:
        """Bandwidth of all DDR channels together, efficiency included."""
        return sum(c.effective_bytes_per_s for c in self.channels)

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
                raise ConfigError(f"a package has no '{path}'{nearest(path, known) or '.'} Known: {', '.join(known)}")
            target[last] = value
        return check_config(data, type(self), f"package {self.name}")

    def summary(self) -> str:
        """The package in a few lines."""
        die, d2d = self.die, self.d2d
        lines = [
            f"{self.name}: {self.rows} x {self.cols} dies" + (f" ({self.source})" if self.source else ""),
            f"  die: {die.macs_per_cycle} MACs x {format_frequency(die.clock_hz)} ({die.array}), "
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
