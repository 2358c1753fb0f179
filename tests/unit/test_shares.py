"""Who computes which tokens."""

from __future__ import annotations

import numpy as np
import pytest

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.strategy import Options
from expertstream.strategy.shares import Shares
from expertstream.trace import Routing
from expertstream.workload import Batches


def batches(load: list[list[int]]) -> Batches:
    """One pass; experts x dies; the tokens of a cell have consecutive numbers."""
    counts = np.array([load], dtype=np.int64)
    ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Batches(counts, ptr, np.arange(ptr[-1], dtype=np.int64), counts.sum(axis=1), np.zeros(0, dtype=np.int64))


@pytest.mark.parametrize(
    ("load", "most", "expected"),
    [
        ([5, 0, 0, 0], 9, [2, 1, 1, 1]),
        ([5, 0, 0, 0], 1, [2, 1, 1, 1]),
        ([9, 0, 0, 0], 1, [6, 1, 1, 1]),
        ([1, 0, 1, 0], 9, [1, 0, 1, 0]),
        ([3, 3, 2, 4], 9, [3, 3, 3, 3]),
        ([4, 0, 0, 0], 0, [4, 0, 0, 0]),
    ],
)
def test_loads_are_evened_out(load: list[int], most: int, expected: list[int]) -> None:
    shares = Shares.balanced(batches([load]), most)
    assert shares.load[0, 0].tolist() == expected
    assert sorted(shares.ids.tolist()) == list(range(sum(load)))
    change = np.array(load)
    for _, _, source, to, n in shares.moves.tolist():
        change[source] -= n
        change[to] += n
    assert change.tolist() == expected


def test_rounding_evens_out_over_the_experts() -> None:
    shares = Shares.balanced(batches([[3, 1, 1, 1], [2, 2, 1, 1], [2, 1, 1, 1], [1, 1, 1, 0]]), 9)
    assert shares.load[0].sum(axis=1).tolist() == [6, 6, 5, 3]
    assert shares.load[0].sum(axis=0).tolist() == [5, 5, 5, 5]


def test_with_both_directions_every_link_of_2x2_is_used() -> None:
    model = MoEModel.one_layer(d_model=64, d_ffn=64, n_experts=4, top_k=1)
    routing = Routing(
        experts=np.zeros((8, 1), dtype=np.int16),
        weights=np.ones((8, 1), dtype=np.float32),
        request=np.zeros(8, dtype=np.int32),
        layer=0,
        n_experts=4,
        source="by hand",
        synthetic=True,
    )
    chip = Package.preset("test-chip-2x2")
    one, two = (simulate(model, chip, routing, "fse-dp", options=Options(micro_slices=2, rings=n)) for n in (1, 2))
    assert sorted(one.metrics.to_dict()["link_bytes"]).count(0) == 4
    assert 0 not in two.metrics.to_dict()["link_bytes"]
    assert sum(one.metrics.to_dict()["link_bytes"]) == sum(two.metrics.to_dict()["link_bytes"])
