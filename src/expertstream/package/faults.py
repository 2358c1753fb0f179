"""What is broken in a package: dead dies, dead or slow D2D links and DDR channels (docs/model.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from expertstream.config import misfit
from expertstream.units import Bandwidth, between, format_bandwidth

# within these limits the times of every published model's layer stay within int64
MIN_BANDWIDTH = 10**6  # bytes/s
MAX_BANDWIDTH = 9 * 10**12  # bytes/s, of links and channels

_FROZEN = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
_Bandwidth = Annotated[Bandwidth, between(MIN_BANDWIDTH, MAX_BANDWIDTH, format_bandwidth)]


class _Fault(BaseModel):
    model_config = _FROZEN

    dead: bool = False
    bandwidth_bytes_per_s: _Bandwidth | None = Field(alias="bandwidth", default=None)

    @model_validator(mode="after")
    def _one_of_both(self) -> _Fault:
        if self.dead == (self.bandwidth_bytes_per_s is not None):
            raise misfit("a fault needs either 'dead: true' or the 'bandwidth' that is left, such as '36 GB/s'")
        return self

    @property
    def state(self) -> str:
        """In words."""
        left = self.bandwidth_bytes_per_s
        return "dead" if left is None else f"at {format_bandwidth(left)}"


class LinkFault(_Fault):
    """A D2D link between two neighbouring dies, dead or slow; both directions, or only the one from the first die."""

    dies: tuple[int, int]
    one_way: bool = False

    @property
    def directed(self) -> list[tuple[int, int]]:
        """The directed links that it concerns."""
        a, b = self.dies
        return [(a, b)] if self.one_way else [(a, b), (b, a)]


class ChannelFault(_Fault):
    """A DDR channel, dead or slow; ``bandwidth`` is the peak that is left, before its efficiency."""

    channel: int


class Faults(BaseModel):
    """All faults of a package."""

    model_config = _FROZEN

    dead_dies: tuple[int, ...] = ()
    links: tuple[LinkFault, ...] = ()
    channels: tuple[ChannelFault, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is broken."""
        return bool(self.dead_dies or self.links or self.channels)

    @property
    def in_words(self) -> list[str]:
        """One text for each fault."""
        links = [
            f"D2D link{'' if f.one_way else 's'} die {f.dies[0]} {'to' if f.one_way else 'to and from'} die "
            f"{f.dies[1]} {f.state}"
            for f in self.links
        ]
        return [
            *(f"die {die} dead" for die in self.dead_dies),
            *links,
            *(f"DDR channel {f.channel} {f.state}" for f in self.channels),
        ]


def unreachable(dies: Iterable[int], links: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Two dies, the first of which cannot send to the second; None if each die reaches each other one."""
    all_dies = list(dies)
    pairs = list(links)
    home = all_dies[0]
    for forward in (True, False):  # all reachable from one die, and that die from all
        reached, front = {home}, [home]
        while front:
            here = front.pop()
            for a, b in pairs:
                start, end = (a, b) if forward else (b, a)
                if start == here and end not in reached:
                    reached.add(end)
                    front.append(end)
        for die in all_dies:
            if die not in reached:
                return (home, die) if forward else (die, home)
    return None
