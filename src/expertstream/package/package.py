"""What a package is made of (docs/model.md)."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from expertstream.config import check_config, load_config, misfit, preset_names, preset_path
from expertstream.errors import ConfigError, nearest
from expertstream.package.faults import MAX_BANDWIDTH, MIN_BANDWIDTH, Faults, unreachable
from expertstream.units import (
    Bandwidth,
    ByteSize,
    FrequencyHz,
    TimePs,
    between,
    counted,
    format_bandwidth,
    format_bytes,
    format_frequency,
    format_time,
)

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

    @field_validator("dies")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        twice = [die for die in value if value.count(die) > 1]
        if twice:
            raise ValueError(f"die {twice[0]} is listed twice")
        return value

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
    """``rows`` x ``cols`` compute dies on a 2D mesh; die number = row * cols + column; frozen.

    Attributes:
        name: what results call it. source: where the figures are from.
        die: MAC rate, buffers in bytes, SRAM bandwidth in bytes per second, the same for all dies.
        d2d: the links between neighbours, per direction: bytes per second, latency in ps.
        channels: DDR channels, at least one, each attached to one die or several.
        faults: dies, links and channels that are dead or slow; none by default.
    """

    model_config = _FROZEN

    name: str
    source: str = ""
    rows: _Side
    cols: _Side
    die: DieSpec
    d2d: D2DSpec
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)
    faults: Faults = Faults()

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

    @model_validator(mode="after")
    def _faults_fit(self) -> Package:
        if self.faults:
            self._check_dead_dies()
            self._check_links()
            self._check_channels()
        return self

    def _check_dead_dies(self) -> None:
        for at, die in enumerate(self.faults.dead_dies):
            if not 0 <= die < self.n_dies:
                raise misfit(f"die {die}; the package has dies 0 to {self.n_dies - 1}", "faults", "dead_dies", at)
        if not self.live_dies:
            raise misfit("every die is dead; nothing is left to run on", "faults", "dead_dies")

    def _check_links(self) -> None:
        named: set[tuple[int, int]] = set()
        for at, fault in enumerate(self.faults.links):
            a, b = fault.dies
            if not (set(fault.dies) <= set(range(self.n_dies)) and b in self.neighbours(a)):
                raise misfit(f"no D2D link joins dies {a} and {b}; only neighbours are", "faults", "links", at)
            if named & set(fault.directed):
                raise misfit(f"the link of dies {a} and {b} is named twice", "faults", "links", at)
            named |= set(fault.directed)
            _check_slower(fault.bandwidth_bytes_per_s, self.d2d.bandwidth_bytes_per_s, "links", at)
        cut_off = unreachable(self.live_dies, self.live_links)
        if cut_off:
            raise misfit(
                f"they cut the package in two: die {cut_off[0]} cannot send to die {cut_off[1]}; leave a way, or list "
                "the dies that are cut off under dead_dies",
                "faults",
            )

    def _check_channels(self) -> None:
        numbers = [fault.channel for fault in self.faults.channels]
        for at, fault in enumerate(self.faults.channels):
            if not 0 <= fault.channel < len(self.channels):
                last = len(self.channels) - 1
                raise misfit(f"DDR channel {fault.channel}; there are 0 to {last}", "faults", "channels", at)
            if fault.channel in numbers[:at]:
                raise misfit(f"DDR channel {fault.channel} is named twice", "faults", "channels", at)
            healthy = self.channels[fault.channel].bandwidth_bytes_per_s
            _check_slower(fault.bandwidth_bytes_per_s, healthy, "channels", at)
        if not self.usable_channels:
            raise misfit(
                "no DDR channel is left: each is dead or attached to dead dies only; weights could not be loaded",
                "faults",
            )

    def neighbours(self, die: int) -> list[int]:
        """Dies next to ``die`` on the mesh: right, left, below, above."""
        row, col = divmod(die, self.cols)
        around = ((row, col + 1), (row, col - 1), (row + 1, col), (row - 1, col))
        return [r * self.cols + c for r, c in around if 0 <= r < self.rows and 0 <= c < self.cols]

    @property
    def live_dies(self) -> tuple[int, ...]:
        """Dies that work, ascending."""
        return tuple(d for d in range(self.n_dies) if d not in self.faults.dead_dies)

    @property
    def live_links(self) -> dict[tuple[int, int], int]:
        """Bandwidth of each directed link that works and joins dies that work, bytes/s."""
        live = self.live_dies
        speed = {(a, b): self.d2d.bandwidth_bytes_per_s for a in live for b in self.neighbours(a) if b in live}
        for fault in self.faults.links:
            for link in fault.directed:
                if fault.dead:
                    speed.pop(link, None)
                elif link in speed and fault.bandwidth_bytes_per_s is not None:
                    speed[link] = fault.bandwidth_bytes_per_s
        return speed

    @property
    def usable_channels(self) -> tuple[int, ...]:
        """DDR channels that work and are attached to a die that works, ascending."""
        dead = {fault.channel for fault in self.faults.channels if fault.dead}
        live = set(self.live_dies)
        return tuple(c for c, spec in enumerate(self.channels) if c not in dead and live & set(spec.dies))

    def channel_bytes_per_s(self, channel: int) -> int:
        """Bandwidth that a DDR channel has left, efficiency included; 0 if it cannot be used."""
        if channel not in self.usable_channels:
            return 0
        slow = {f.channel: f.bandwidth_bytes_per_s for f in self.faults.channels}.get(channel)
        spec = self.channels[channel]
        return spec.effective_bytes_per_s if slow is None else round(slow * spec.efficiency)

    @property
    def healthy(self) -> Package:
        """The same package without faults."""
        return self.model_copy(update={"faults": Faults()})

    @property
    def n_dies(self) -> int:
        """Number of compute dies."""
        return self.rows * self.cols

    @property
    def links_of_die(self) -> int:
        """Links of the die with the most neighbours, each counted once for both directions."""
        return min(self.rows - 1, 2) + min(self.cols - 1, 2)

    @property
    def macs_per_s(self) -> int:
        """MAC rate of all dies that work."""
        return len(self.live_dies) * self.die.macs_per_cycle * self.die.clock_hz

    @property
    def ddr_bytes_per_s(self) -> int:
        """Bandwidth of all DDR channels together, efficiency included, less what faults take."""
        return sum(self.channel_bytes_per_s(c) for c in range(len(self.channels)))

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
            f"{counted(die.control_overhead_cycles, 'cycle')} per micro-slice",
            f"  D2D: {format_bandwidth(d2d.bandwidth_bytes_per_s)} per directed link, {format_time(d2d.latency_ps)}, "
            f"{d2d.header_bytes} B header, {d2d.switching}",
        ]
        for number, c in enumerate(self.channels):
            dies = ", ".join(map(str, c.dies))
            lines.append(
                f"  DDR channel {number}: die {dies}, {format_bandwidth(c.bandwidth_bytes_per_s)} x {c.efficiency:g}, "
                f"{format_time(c.latency_ps)}"
            )
        lines += [f"  fault: {fault}" for fault in self.faults.in_words]
        return "\n".join(lines)


def _check_slower(left: int | None, healthy: int, what: str, at: int) -> None:
    if left is not None and left >= healthy:
        raise misfit(
            f"{format_bandwidth(left)} is no less than the {format_bandwidth(healthy)} without the fault",
            "faults",
            what,
            at,
            "bandwidth",
        )
