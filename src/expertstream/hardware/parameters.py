"""Sizes of the hardware scheduler, checked at construction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from expertstream.errors import ConfigError, nearest
from expertstream.schedule.cycles import DEFAULT_SORTER, SorterKind


@dataclass(frozen=True)
class Parameters:
    """Sizes of the scheduler.

    Attributes:
        dies: 2 to 64, bits of a trajectory.
        experts: 8 to 512, routed experts of a layer.
        requests: 1 to 1024, slots of the token-buffering unit.
        token_bits: 4 to 20, width of an expert's token count.
        sorter: "parallel" (the whole network laid out), "stage" (one stage, used again) or "serial" (one comparator
            that works on memory).

    Raises:
        ConfigError: a number is out of range, or the sorter is unknown.
    """

    dies: int = 4
    experts: int = 128
    requests: int = 16
    token_bits: int = 11
    sorter: SorterKind = DEFAULT_SORTER

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value, low, high in (
            ("dies", self.dies, 2, 64),
            ("experts", self.experts, 8, 512),
            ("requests", self.requests, 1, 1024),
            ("token_bits", self.token_bits, 4, 20),
        ):
            if not low <= value <= high:
                raise ConfigError(f"the scheduler's {name} is {value}; allowed: {low} to {high}")
        if self.sorter not in get_args(SorterKind):
            raise ConfigError(
                f"the scheduler's sorter is '{self.sorter}'{nearest(self.sorter, get_args(SorterKind)) or '.'} "
                f"Allowed: {', '.join(get_args(SorterKind))}"
            )

    @property
    def slots(self) -> int:
        """Experts padded to a power of two: inputs of the bitonic network."""
        return 1 << self.expert_bits

    @property
    def expert_bits(self) -> int:
        """Width of an expert's number."""
        return (self.experts - 1).bit_length()

    @property
    def die_bits(self) -> int:
        """Width of a die's number."""
        return (self.dies - 1).bit_length()

    @property
    def request_bits(self) -> int:
        """Width of a request slot's number, at least 1."""
        return max(1, (self.requests - 1).bit_length())

    @property
    def count_bits(self) -> int:
        """Width of a number from 0 to ``experts``."""
        return self.experts.bit_length()
