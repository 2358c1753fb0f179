"""The mesh: links, XY paths, rings and the dies that a DDR channel serves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertstream.package import ChannelSpec, Package, Topology

CHIP = Package.preset("test-chip-2x2")
SHAPES = [(r, c) for r in range(1, 9) for c in range(1, 9)]


def mesh(rows: int, cols: int, *channels: tuple[int, ...]) -> Topology:
    dies = channels or ((0,),)
    return Topology.of(
        CHIP.replace(rows=rows, cols=cols, channels=[ChannelSpec(dies=d, bandwidth_bytes_per_s=10**9) for d in dies])
    )


def ring_hops(topology: Topology, ring: list[int]) -> int:
    return sum(int(topology.hops[a, b]) for a, b in zip(ring, [*ring[1:], *ring[:1]], strict=True))


def test_links_of_the_test_chip() -> None:
    assert Topology.of(CHIP).links.tolist() == [[0, 1], [0, 2], [1, 0], [1, 3], [2, 3], [2, 0], [3, 2], [3, 1]]
    assert Topology.of(CHIP).hops.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]]


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_links_join_exactly_the_neighbours(rows: int, cols: int) -> None:
    topology = mesh(rows, cols)
    assert topology.links.shape == (2 * (rows * (cols - 1) + cols * (rows - 1)), 2)
    assert topology.links.dtype == np.int64
    joined = {(int(a), int(b)) for a, b in topology.links}
    assert joined == {(int(a), int(b)) for a, b in np.argwhere(topology.hops == 1)}


def test_paths_go_along_the_row_first() -> None:
    topology = mesh(3, 3)
    assert topology.dies_between(0, 8) == [0, 1, 2, 5, 8]
    assert topology.dies_between(8, 0) == [8, 7, 6, 3, 0]
    assert topology.dies_between(6, 1) == [6, 7, 4, 1]
    assert topology.path(4, 4) == []


@given(st.sampled_from(SHAPES), st.data())
def test_a_path_is_a_chain_of_links_as_long_as_the_hops(shape: tuple[int, int], data: st.DataObject) -> None:
    topology = mesh(*shape)
    die = st.integers(0, topology.n_dies - 1)
    a, b = data.draw(die), data.draw(die)
    links = topology.links[topology.path(a, b)].tolist()
    assert len(links) == topology.hops[a, b]
    assert [a, *(to for _, to in links)] == [*(at for at, _ in links), b]


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 3), (2, 2), (3, 4)])
def test_network_arrays_hold_every_path(rows: int, cols: int) -> None:
    topology = mesh(rows, cols)
    arrays = topology.network_arrays()
    n = rows * cols
    assert sorted(arrays) == ["path_bandwidth", "path_latency_ps", "path_links", "path_ptr"]
    assert all(array.dtype == np.int64 for array in arrays.values())
    assert arrays["path_ptr"].shape == (n * n + 1,)
    for a, b in itertools.product(range(n), range(n)):
        start, end = arrays["path_ptr"][a * n + b : a * n + b + 2]
        assert arrays["path_links"][start:end].tolist() == topology.path(a, b)
        assert arrays["path_latency_ps"][a * n + b] == 4020 * topology.hops[a, b]
    assert arrays["path_bandwidth"].tolist() == [288_000_000_000] * (n * n)


def fewest_hops(rows: int, cols: int) -> int:
    """A closed walk over a mesh; colours of neighbours alternate, so its length is even."""
    n = rows * cols
    if n == 1:
        return 0
    if rows == 1 or cols == 1:
        return 2 * (n - 1)
    return n + n % 2


@pytest.mark.parametrize(("rows", "cols"), [*SHAPES, (16, 16), (15, 15)])
def test_the_full_ring_has_the_fewest_hops(rows: int, cols: int) -> None:
    topology = mesh(rows, cols)
    ring = topology.full_ring
    assert sorted(ring) == list(range(rows * cols))
    assert ring_hops(topology, ring) == fewest_hops(rows, cols)
    assert max(topology.hops[a, b] for a, b in zip(ring, [*ring[1:], *ring[:1]], strict=True)) <= 2


@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (2, 3), (1, 6), (2, 4), (3, 3)])
def test_fewest_hops_by_trying_every_order(rows: int, cols: int) -> None:
    topology = mesh(rows, cols)
    hops = topology.hops.tolist()
    rest = range(1, rows * cols)
    best = min(
        sum(hops[a][b] for a, b in zip((0, *order), (*order, 0), strict=True)) for order in itertools.permutations(rest)
    )
    assert best == fewest_hops(rows, cols)


def test_rings_of_some_dies() -> None:
    topology = Topology.of(CHIP)
    assert topology.ring(range(4)) == [0, 1, 3, 2]
    assert topology.ring([3, 0]) == [0, 3]
    assert topology.ring([2]) == [2]
    assert topology.ring([]) == []
    assert topology.ring([2, 2, 1]) == [1, 2]
    assert mesh(3, 3).ring(range(9)) == [0, 1, 2, 5, 8, 7, 4, 6, 3]
    assert mesh(1, 5).ring(range(5)) == [0, 2, 4, 3, 1]


@given(st.sampled_from(SHAPES), st.data())
def test_a_ring_of_some_dies_is_no_longer_than_that_of_all(shape: tuple[int, int], data: st.DataObject) -> None:
    topology = mesh(*shape)
    some = data.draw(st.sets(st.integers(0, topology.n_dies - 1), min_size=1))
    ring = topology.ring(some)
    assert sorted(ring) == sorted(some)
    assert ring_hops(topology, ring) <= ring_hops(topology, topology.full_ring)


@pytest.mark.parametrize(
    ("preset", "channels"),
    [
        ("test-chip-2x2", [0, 1, 2, 3]),
        ("3x3", [0, 0, 1, 2, 0, 1, 2, 3, 3]),
        ("4x4", [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]),
        ("3x3-edge", [0, 1, 2, 3, 1, 4, 5, 6, 7]),
        ("4x4-edge", [0, 1, 2, 3, 4, 1, 2, 5, 6, 6, 7, 7, 8, 9, 10, 11]),
    ],
)
def test_nearest_channels_of_the_presets(preset: str, channels: list[int]) -> None:
    topology = Topology.of(Package.preset(preset))
    assert topology.nearest_channel.tolist() == channels
    assert topology.nearest_channel.dtype == np.int64
    served = np.bincount(topology.nearest_channel)
    assert served.max() - served.min() <= 1


def test_channels_on_the_same_die_share_the_dies_near_it() -> None:
    assert np.bincount(mesh(2, 2, (0,), (0,)).nearest_channel).tolist() == [2, 2]
    assert np.bincount(mesh(4, 4, (0, 3, 12, 15), (0, 3, 12, 15)).nearest_channel).tolist() == [8, 8]


@given(st.sampled_from(SHAPES), st.data())
def test_no_channel_is_nearer_than_the_nearest(shape: tuple[int, int], data: st.DataObject) -> None:
    die = st.integers(0, shape[0] * shape[1] - 1)
    attached = data.draw(
        st.lists(st.lists(die, min_size=1, max_size=3, unique=True).map(tuple), min_size=1, max_size=4)
    )
    topology = mesh(*shape, *attached)
    for at, channel in enumerate(topology.nearest_channel.tolist()):
        entry = topology.entry_die(channel, at)
        assert entry in attached[channel]
        assert topology.hops[entry, at] == min(topology.hops[d, at] for dies in attached for d in dies)


def test_entry_die() -> None:
    topology = mesh(3, 3, (0, 2, 8))
    assert [topology.entry_die(0, d) for d in range(9)] == [0, 0, 2, 0, 0, 2, 0, 8, 8]


def test_equal_packages_share_one_topology() -> None:
    assert Topology.of(CHIP) is Topology.of(Package.preset("test-chip-2x2"))
    assert Topology.of(CHIP) is not Topology.of(CHIP.replace(**{"d2d.latency_ps": 1}))
