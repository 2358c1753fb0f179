"""What is left of a package with faults, as a package of its own in which the dies and channels count from 0."""

from __future__ import annotations

from functools import lru_cache

from expertstream.package.package import Package


class SurvivingPackage(Package):
    """The dies that work, and the links and channels between and at them.

    Strategies plan on it as on any other package; they need not know of faults. It is no mesh: its dies count as one
    row, and its links are listed.

    Attributes:
        dies, channel_numbers: numbers of its dies and channels in the package with the faults.
        links: (from, to, bytes/s) of each directed link that works, by this package's own die numbers.
        damaged: the package with the faults.
    """

    dies: tuple[int, ...]
    channel_numbers: tuple[int, ...]
    links: tuple[tuple[int, int, int], ...]
    damaged: Package


def surviving(package: Package) -> Package:
    """What is left of a package; the package itself where nothing is broken."""
    return _survivor(package) if package.faults else package


@lru_cache(maxsize=64)
def _survivor(package: Package) -> SurvivingPackage:
    dies = package.live_dies
    number = {die: i for i, die in enumerate(dies)}
    slow = {fault.channel: fault.bandwidth_bytes_per_s for fault in package.faults.channels}
    numbers = package.usable_channels
    channels = tuple(
        package.channels[c].model_copy(
            update={
                "dies": tuple(number[d] for d in package.channels[c].dies if d in number),
                "bandwidth_bytes_per_s": slow.get(c) or package.channels[c].bandwidth_bytes_per_s,
            }
        )
        for c in numbers
    )
    links = tuple((number[a], number[b], speed) for (a, b), speed in package.live_links.items())
    # Checked when the damaged package was made; more than 16 dies in a row would not pass as a mesh.
    return SurvivingPackage.model_construct(
        name=package.name,
        source=package.source,
        rows=1,
        cols=len(dies),
        die=package.die,
        d2d=package.d2d,
        channels=channels,
        faults=type(package.faults)(),
        dies=dies,
        channel_numbers=numbers,
        links=links,
        damaged=package,
    )
