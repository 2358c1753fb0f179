"""Tiles: blocks of neighbouring dies that an expert's micro-slices visit, each of which has a part of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.package import Package, Topology

Ints = NDArray[np.int64]


def tile_sizes(package: Package) -> list[int]:
    """Numbers of dies into tiles of which the package can be cut, ascending."""
    return sorted({r * c for r in _divisors(package.rows) for c in _divisors(package.cols)})


@dataclass(frozen=True, eq=False)
class Tiles:
    """For each expert the tiles of equal size that the dies are cut into.

    A micro-slice visits the dies of one tile. The expert's tokens are cut into as many parts as a tile has dies, and
    part k is gathered at die k of every tile. With tiles of one die weights do not circulate and every token goes to
    all dies; with one tile of all dies weights visit all of them, as in FSE-DP, and few tokens move.

    Attributes:
        size: int64 [experts], dies of a tile.
        members: for each size the dies, int64 [tiles, size], in the cyclic order in which they are visited.
        place: for each size the tile of each die, and its place there, int64 [dies] each.
    """

    size: Ints
    members: dict[int, Ints]
    place: dict[int, tuple[Ints, Ints]]

    @classmethod
    def of(cls, topology: Topology, size: Ints) -> Tiles:
        """Tiles of these sizes (``tile_sizes``; 0: none), int64 [experts]."""
        members = {n: _members(topology, n) for n in np.unique(size[size > 0]).tolist()}
        return cls(size, members, {n: np.divmod(np.argsort(dies, axis=None), n) for n, dies in members.items()})

    def tile_of(self, expert: int, die: Ints) -> tuple[Ints, Ints]:
        """The tiles of these dies, int64 [n, dies of a tile], and the place of each die in its tile, int64 [n]."""
        size = int(self.size[expert])
        tile, place = self.place[size]
        return self.members[size][tile[die]], place[die]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _members(topology: Topology, size: int) -> Ints:
    """The dies of each tile: as square as can be, each in the order of the full ring."""
    rows, cols = topology.package.rows, topology.package.cols
    shapes = [(r, size // r) for r in _divisors(rows) if size % r == 0 and cols % (size // r) == 0]
    height, width = min(shapes, key=lambda shape: (abs(shape[0] - shape[1]), shape))
    row, col = np.divmod(np.arange(rows * cols), cols)
    tile = row // height * (cols // width) + col // width
    return np.array([topology.ring(np.flatnonzero(tile == t).tolist()) for t in range(tile.max() + 1)], dtype=np.int64)
