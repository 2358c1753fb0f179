"""Tiles of adaptive streaming: blocks of dies that an expert's micro-slices visit, and the tokens that they meet."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from expertstream.engine.timeline import KINDS
from expertstream.explore.fields import change_package
from expertstream.model import MoEModel
from expertstream.package import Package, Topology
from expertstream.simulate import simulate
from expertstream.strategy.tiles import Tiles, tile_sizes
from expertstream.strategy.tokens import TokenTurns
from expertstream.trace import synthesize
from expertstream.workload import Batches

CHIP = Package.preset("test-chip-2x2")


def mesh(rows: int, cols: int) -> Package:
    return CHIP.model_copy(update={"rows": rows, "cols": cols, "channels": CHIP.channels[:1]})


@pytest.mark.parametrize(
    ("rows", "cols", "sizes"), [(2, 2, [1, 2, 4]), (4, 4, [1, 2, 4, 8, 16]), (3, 3, [1, 3, 9]), (1, 5, [1, 5])]
)
def test_sizes_are_those_of_equal_blocks(rows: int, cols: int, sizes: list[int]) -> None:
    assert tile_sizes(mesh(rows, cols)) == sizes


def test_tiles_are_blocks_in_the_order_of_a_ring() -> None:
    tiles = Tiles.of(Topology.of(mesh(4, 4)), np.array([4, 0, 1]))
    assert tiles.members[4].tolist() == [[0, 1, 5, 4], [2, 3, 7, 6], [9, 13, 12, 8], [10, 11, 15, 14]]
    tile, place = tiles.tile_of(0, np.array([7, 8]))
    assert tile.tolist() == [[2, 3, 7, 6], [9, 13, 12, 8]]
    assert place.tolist() == [2, 3]
    assert 0 not in tiles.members


@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (3, 3), (4, 4), (2, 3), (1, 6)])
def test_every_die_is_in_one_tile_of_each_size(rows: int, cols: int) -> None:
    package = mesh(rows, cols)
    sizes = tile_sizes(package)
    tiles = Tiles.of(Topology.of(package), np.array(sizes))
    for size in sizes:
        assert sorted(tiles.members[size].reshape(-1).tolist()) == list(range(rows * cols))


def turns_of(load: list[list[int]], size: list[int]) -> TokenTurns:
    """Of experts with so many tokens on each die of 2x2."""
    tokens = np.array([load], dtype=np.int64)
    ids = np.arange(tokens.sum())
    ptr = np.concatenate(([0], np.cumsum(tokens)))
    batches = Batches(tokens, ptr, ids, tokens.sum(axis=1), np.zeros(0, dtype=np.int64))
    return TokenTurns.of(batches, 100, Tiles.of(Topology.of(CHIP), np.array(size)))


def test_tokens_are_divided_over_the_dies_of_a_tile() -> None:
    turns = turns_of([[3, 1, 1, 3]], [2])
    assert turns.count.tolist() == [2]
    assert turns.on_die.sum(axis=1).tolist() == [4, 4]
    # Tiles are dies 0 and 1, 3 and 2: the first turn takes from dies 0 and 3, the second has what is left.
    assert turns.on_die.tolist() == [[2, 0, 0, 2], [1, 1, 1, 1]]


def test_what_does_not_divide_evenly_goes_to_the_dies_that_were_given_less() -> None:
    turns = turns_of([[3, 0, 0, 0], [0, 3, 0, 0]], [2, 2])
    assert turns.on_die.sum(axis=1).tolist() == [2, 1, 1, 2]


def test_an_expert_with_fewer_tokens_than_dies_has_fewer_turns() -> None:
    assert turns_of([[1, 0, 0, 1], [0, 0, 1, 0]], [4, 4]).on_die.sum(axis=1).tolist() == [1, 1, 1]


def test_weights_visit_the_dies_of_a_tile_and_no_others() -> None:
    model = MoEModel.one_layer(d_model=512, d_ffn=2048, n_experts=8, top_k=2)
    small = CHIP.replace(**{"die.token_buffer_bytes": 352 * 1024})
    routing = synthesize(model, requests=4, tokens_per_request=40, layers=[0]).iteration(tokens=64, layer=0)
    result = simulate(model, small, routing, "fse-dp-adaptive")
    assert "tiles of 2 dies" in result.plan.notes[0]
    timeline = result.timeline
    computed = timeline.kind == KINDS.index("compute")
    visited = {tag: set(timeline.die[computed & (timeline.tag == tag)].tolist()) for tag in set(timeline.tag[computed])}
    pairs = [dies for dies in visited.values() if len(dies) == 2]
    assert pairs
    assert all(dies in ({0, 1}, {2, 3}) for dies in pairs)
    assert result.prove() < 1e-10


def test_every_tile_computes_an_equal_part_though_channels_come_in_fours() -> None:
    """Each group has as many micro-slices for each channel, which three tiles cannot share evenly."""
    package = change_package(Package.preset("3x3"), {"channels.bandwidth": 51_200_000_000})
    model = MoEModel.preset("mixtral-8x7b")
    routing = synthesize(model, requests=16, tokens_per_request=128, layers=(2,), seed=10).iteration(256, 2)
    with (
        patch("expertstream.strategy.adaptive.GROUPS_PER_BUFFER", 16),  # groups of 8 micro-slices
        patch("expertstream.strategy.modes.ddr_binds", lambda *_: False),
    ):
        result = simulate(model, package, routing, "fse-dp-adaptive")
    assert result.plan.notes == ("weights visit tiles of 3 dies for 8",)
    compute = result.timeline.kind == KINDS.index("compute")
    computed = np.bincount(result.timeline.die[compute], minlength=9)
    assert computed.min() == computed.max()
