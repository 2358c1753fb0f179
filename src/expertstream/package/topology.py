"""The 2D mesh: links, XY paths, rings, and which die a DDR channel serves."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from expertstream.package.package import Package
from expertstream.package.surviving import SurvivingPackage

Ints = NDArray[np.int64]


class Topology:
    """Directed links between mesh neighbours and XY paths (first along the row, then along the column)."""

    def __init__(self, package: Package) -> None:
        self.package = package
        rows, cols = package.rows, package.cols
        self.n_dies = rows * cols
        pairs = []
        for die in range(self.n_dies):
            row, col = divmod(die, cols)
            for r, c in ((row, col + 1), (row, col - 1), (row + 1, col), (row - 1, col)):
                if 0 <= r < rows and 0 <= c < cols:
                    pairs.append((die, r * cols + c))
        self.links: Ints = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self._number = {pair: i for i, pair in enumerate(pairs)}
        at_row, at_col = np.divmod(np.arange(self.n_dies, dtype=np.int64), cols)
        self.hops: Ints = np.abs(at_row[:, None] - at_row) + np.abs(at_col[:, None] - at_col)

    @staticmethod
    def of(package: Package) -> Topology:
        """The topology of a package; equal packages share one."""
        return _topology_of(package)

    def dies_between(self, a: int, b: int) -> list[int]:
        """Dies of the XY path, both ends included."""
        cols = self.package.cols
        row, col = divmod(a, cols)
        to_row, to_col = divmod(b, cols)
        dies = [a]
        while col != to_col:
            col += 1 if to_col > col else -1
            dies.append(row * cols + col)
        while row != to_row:
            row += 1 if to_row > row else -1
            dies.append(row * cols + col)
        return dies

    def path(self, a: int, b: int) -> list[int]:
        """Links of the XY path from die ``a`` to die ``b``, in order."""
        dies = self.dies_between(a, b)
        return [self._number[pair] for pair in itertools.pairwise(dies)]

    def network_arrays(self) -> dict[str, Ints]:
        """path_ptr, path_links, path_bandwidth and path_latency_ps of the engine's Network, int64.

        The latency of a path is its hops times the latency of a link. Not to be written to.
        """
        return dict(self._arrays)

    @cached_property
    def _arrays(self) -> dict[str, Ints]:
        n = self.n_dies
        paths = [self.path(a, b) for a in range(n) for b in range(n)]
        d2d = self.package.d2d
        return {
            "path_ptr": np.concatenate(([0], np.cumsum([len(p) for p in paths]))).astype(np.int64),
            "path_links": np.array([link for p in paths for link in p], dtype=np.int64),
            "path_bandwidth": np.full(n * n, d2d.bandwidth_bytes_per_s, dtype=np.int64),
            "path_latency_ps": self.hops.reshape(-1) * d2d.latency_ps,
        }

    @cached_property
    def full_ring(self) -> list[int]:
        """All dies in a cyclic order with as few hops as the mesh allows.

        With an even number of rows or columns every step is one hop (a snake that returns along the first column).
        An odd mesh has no such cycle, as neighbours differ in colour; one step takes two hops. On a single row
        (column) the dies go out over every second one and back over the rest.
        """
        return _full_ring(self.package.rows, self.package.cols)

    @cached_property
    def rings(self) -> list[list[int]]:
        """Cyclic orders of all dies: ``full_ring``, the same backwards, and both again with rows and columns swapped.

        Where the mesh has no other ring than the first (a single row, 2x2), the last two are left out.
        """
        across = _full_ring(self.package.cols, self.package.rows)
        swapped = [r * self.package.cols + c for c, r in (divmod(d, self.package.rows) for d in across)]
        found: list[list[int]] = []
        for ring in (self.full_ring, self.full_ring[::-1], swapped, swapped[::-1]):
            turned = ring[ring.index(0) :] + ring[: ring.index(0)]
            if turned not in found:
                found.append(turned)
        return found

    def ring(self, dies: Iterable[int]) -> list[int]:
        """The given dies in the order of the full ring."""
        wanted = set(dies)
        return [d for d in self.full_ring if d in wanted]

    @cached_property
    def nearest_channel(self) -> Ints:
        """DDR channel of each die: the nearest by hops; of equally near ones the one that serves the fewest dies."""
        dies = range(self.n_dies)
        distance = np.array([self.hops[list(c.dies)].min(axis=0) for c in self.package.channels])
        served = np.zeros(len(self.package.channels), dtype=np.int64)
        chosen = np.zeros(self.n_dies, dtype=np.int64)
        near = (distance == distance.min(axis=0)).sum(axis=0)
        for die in sorted(dies, key=lambda d: (near[d], d)):  # dies with no choice first
            best = min(range(len(served)), key=lambda c: (distance[c, die], served[c], c))
            chosen[die] = best
            served[best] += 1
        return chosen

    def entry_die(self, channel: int, die: int) -> int:
        """The die attached to ``channel`` that is nearest to ``die``."""
        return min(self.package.channels[channel].dies, key=lambda d: (int(self.hops[d, die]), d))


def _full_ring(rows: int, cols: int) -> list[int]:
    if rows == 1 or cols == 1:
        line = list(range(rows * cols))
        return line[::2] + line[1::2][::-1]  # every step at most two hops
    if rows % 2 and cols % 2 == 0:
        return [c * cols + r for r, c in (divmod(d, rows) for d in _snake(cols, rows))]
    return _snake(rows, cols)


def _snake(rows: int, cols: int) -> list[int]:
    """Row by row without the first column, and back up the first column; at least two rows and columns.

    With an odd number of rows (then of columns too) the last two rows are taken column by column from the right.
    """
    order = [0]
    for row in range(rows - 2 * (rows % 2)):
        line = range(1, cols) if row % 2 == 0 else range(cols - 1, 0, -1)
        order += [row * cols + c for c in line]
    if rows % 2:
        for col in range(cols - 1, 0, -1):
            pair = [(rows - 2) * cols + col, (rows - 1) * cols + col]
            order += pair if col % 2 == 0 else pair[::-1]
    return order + [row * cols for row in range(rows - 1, 0, -1)]


class SurvivingTopology(Topology):
    """Links and paths that avoid what is dead.

    A path is a shortest one by hops; of these one whose slowest link is fastest, then the first by mesh direction
    (along the row before along the column, as XY). Any paths are safe in this engine: a send takes all links of its
    path at one instant or none, and no buffer on the way, so that no send holds what another one waits for.
    """

    def __init__(self, package: SurvivingPackage) -> None:
        self.package = package
        self.n_dies = package.n_dies
        pairs = [(a, b) for a, b, _ in package.links]
        self.links = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self._number = {pair: i for i, pair in enumerate(pairs)}
        self._speed = [speed for _, _, speed in package.links]
        self._after: list[list[int]] = [[] for _ in range(self.n_dies)]
        for a, b in pairs:  # in the order of mesh directions
            self._after[a].append(b)
        self._next = np.full((self.n_dies, self.n_dies), -1, dtype=np.int64)  # of a die, on the way to another
        self._width = np.zeros((self.n_dies, self.n_dies), dtype=np.int64)  # slowest link of the way, bytes/s
        self.hops = np.full((self.n_dies, self.n_dies), -1, dtype=np.int64)
        before: list[list[int]] = [[] for _ in range(self.n_dies)]
        for a, b in pairs:
            before[b].append(a)
        for die in range(self.n_dies):
            self._find_ways_to(die, before)

    def _find_ways_to(self, to: int, before: list[list[int]]) -> None:
        self.hops[to, to], front = 0, [to]
        while front:
            reached = [a for a in sorted({a for b in front for a in before[b]}) if self.hops[a, to] < 0]
            for a in reached:
                self.hops[a, to] = self.hops[front[0], to] + 1
            for a in reached:
                for b in self._after[a]:
                    if self.hops[b, to] != self.hops[a, to] - 1:
                        continue
                    link = self._speed[self._number[a, b]]
                    width = link if b == to else min(link, int(self._width[b, to]))
                    if width > self._width[a, to]:
                        self._width[a, to], self._next[a, to] = width, b
            front = reached

    def dies_between(self, a: int, b: int) -> list[int]:
        """Dies of the path, both ends included."""
        dies = [a]
        while dies[-1] != b:
            dies.append(int(self._next[dies[-1], b]))
        return dies

    @cached_property
    def _arrays(self) -> dict[str, Ints]:
        width = np.where(np.eye(self.n_dies, dtype=bool), self.package.d2d.bandwidth_bytes_per_s, self._width)
        return {**super()._arrays, "path_bandwidth": width.reshape(-1)}

    @cached_property
    def full_ring(self) -> list[int]:
        """The mesh's ring without the dead dies, made shorter by turning parts of it round while that saves hops."""
        return self.rings[0]

    @cached_property
    def rings(self) -> list[list[int]]:
        """Such a ring for each of the mesh's, and backwards."""
        assert isinstance(self.package, SurvivingPackage)
        number = {die: i for i, die in enumerate(self.package.dies)}
        found: list[list[int]] = []
        for order in Topology.of(self.package.damaged.healthy).rings[::2]:
            ring = _shortened([number[d] for d in order if d in number], self.hops + self.hops.T)
            for turned in (ring, ring[:1] + ring[:0:-1]):
                if turned not in found:
                    found.append(turned)
        return found


def _shortened(ring: list[int], distance: Ints) -> list[int]:
    """2-opt: turn round the part of a ring that saves the most hops, as long as one does."""
    order = np.array(ring, dtype=np.int64)
    while order.size > 3:
        after = np.roll(order, -1)
        step = distance[order, after]
        change = distance[np.ix_(order, order)] + distance[np.ix_(after, after)] - step[:, None] - step
        change[np.tril_indices(order.size)] = 0
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] >= 0:
            break
        order[i + 1 : j + 1] = order[i + 1 : j + 1][::-1].copy()
    return [int(d) for d in order]


@lru_cache(maxsize=64)
def _topology_of(package: Package) -> Topology:
    return SurvivingTopology(package) if isinstance(package, SurvivingPackage) else Topology(package)
