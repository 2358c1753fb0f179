"""Die area of a design, and what a budget of area and power allows (paper, section VI, Fig. 16)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
AREA_COMPONENTS: Final = ("compute", "sram", "d2d", "other")


@dataclass(frozen=True, eq=False)
class Area:
    """Area of the largest compute die in mm2; each array is float64 [3]: low, nominal, high.

    Attributes:
        by_component_mm2: "compute", the MAC array; "sram", both buffers; "d2d", the modules of its links; "other".
        memory_phy_mm2: PHYs of all DDR channels together; they sit on the I/O die and count in no compute die.
        leakage_w: of one die.
    """

    by_component_mm2: Mapping[str, Floats]
    memory_phy_mm2: Floats
    leakage_w: Floats

    @property
    def total_mm2(self) -> Floats:
        """Area of the die."""
        return np.asarray(sum(self.by_component_mm2[name] for name in AREA_COMPONENTS), dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; lists are [low, nominal, high]."""
        return {
            "die_area_mm2": self.total_mm2.tolist(),
            "die_area_by_component_mm2": {n: self.by_component_mm2[n].tolist() for n in AREA_COMPONENTS},
            "memory_phy_area_mm2": self.memory_phy_mm2.tolist(),
        }


def die_area(package: Package, technology: Technology, model: MoEModel, buffer_bytes: Ints | None = None) -> Area:
    """Area of a compute die: ceil(BW_d2d / BW_module) A_module per link + A_compute + A_buffer + other logic.

    Every link of the die with the most neighbours has modules of its own, as ``d2d.bandwidth`` is per directed link and
    a module carries its bandwidth in both directions.

    Args:
        model: its bits per weight and activation decide the MAC units (``Technology.mac_area``).
        buffer_bytes: int64 [dies, 2], weight and token buffers; None: the package's own.
    """
    die = package.die
    if buffer_bytes is None:
        sram_mib = (die.weight_buffer_bytes + die.token_buffer_bytes) / 2**20
    else:
        sram_mib = int(buffer_bytes.sum(axis=1).max()) / 2**20
    module_bytes_per_s = round(technology.link.module_bandwidth.value * 10**9)
    modules = package.links_of_die * -(-package.d2d.bandwidth_bytes_per_s // module_bytes_per_s)
    compute = die.macs_per_cycle * technology.mac_area(model.weight_bits, model.activation_bits).levels / 1e6
    sram = sram_mib * technology.sram_area.levels
    other = technology.other_area.levels
    leakage_mw = (compute + other) * technology.logic_leakage.levels + sram_mib * technology.sram_leakage.levels
    peak = sum(channel.bandwidth_bytes_per_s for channel in package.channels)
    return Area(
        by_component_mm2={
            "compute": compute,
            "sram": sram,
            "d2d": modules * technology.link.module_area.levels,
            "other": other,
        },
        memory_phy_mm2=peak / 10**9 * technology.dram.phy_area.levels,
        leakage_w=leakage_mw / 1000,
    )


@dataclass(frozen=True)
class Budget:
    """Most area of a die and most power of the package; the paper's figures (section VI, Fig. 16).

    Raises:
        ConfigError: a budget that is not above 0 and finite.
    """

    area_mm2: float = 30.0
    power_w: float = 60.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("area_mm2", "power_w"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"the budget's {name} is {getattr(self, name)}; it must be above 0 and finite")

    def holds(self, area: Area, power_w: Floats) -> list[bool]:
        """Whether a die of ``area`` and a package of ``power_w``, float64 [3], fit: at low, nominal, high figures."""
        fits = (area.total_mm2 <= self.area_mm2) & (power_w <= self.power_w)
        return [bool(value) for value in fits]

    def in_words(self, area: Area, power_w: Floats) -> str:
        """The budget, and at which figures of the constants it is kept."""
        kept = (
            "broken at all figures of the constants",
            "kept at low figures only",
            "kept at nominal figures, broken at high ones",
            "kept at all figures",
        )[sum(self.holds(area, power_w))]
        return f"{self.area_mm2:g} mm2 a die and {self.power_w:g} W rated: {kept}"
