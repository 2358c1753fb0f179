"""Time that the decisions of adaptive streaming take for one expert, compiled: the rules, and ``place``.

The rules are compiled as they stand in ``schedule/adaptive.py``. For each expert: how many dies its weights visit, the
copies that it waits for, whether the hottest or the coldest is next, and whether it may begin; where links bind, or
weights stay, ``least_traffic`` or ``token_turns`` come instead of the first. Whatever is taken once for a layer is left
out. The best of five runs.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from functools import partial

import numba
import numpy as np
from numpy.typing import NDArray

from expertstream.package import Package
from expertstream.package.topology import Topology
from expertstream.schedule import adaptive, place
from expertstream.strategy.tiles import tile_sizes

Ints = NDArray[np.int64]
EXPERTS = 100_000
MICRO_SLICES = {"test-chip-2x2": 32, "3x3": 36, "4x4": 36}  # of an expert
ROOM, TOKEN_BYTES, WEIGHT_BYTES = 400, 12_288, 6_000_000

_tile_size, _least_traffic, _token_turns, _hot_next, _enough, _copies = (
    numba.njit(rule)
    for rule in (
        adaptive.tile_size, adaptive.least_traffic, adaptive.token_turns, adaptive.hot_next, adaptive.enough_in_flight,
        adaptive.copies_to_wait_for,
    )
)  # fmt: skip


@numba.njit
def _decide(tokens: Ints, sizes: Ints, rule: int) -> int:
    """Decide for experts of so many tokens each, by rule 0 ``tile_size``, 1 ``least_traffic`` or 2 ``token_turns``."""
    begun, room_bytes, left = 0, 300_000_000, tokens.sum()
    done = 0
    for n in tokens:
        if rule == 0:
            form = _tile_size(n, ROOM, sizes, adaptive.TILE_SHARE)
        elif rule == 1:
            form = _least_traffic(n, sizes[-1], TOKEN_BYTES, WEIGHT_BYTES, ROOM, sizes)
        else:
            form = _token_turns(n, ROOM)
        waits_for = _copies(sizes[-1] * n * TOKEN_BYTES, room_bytes, rule == 2)
        hot = _hot_next(left - done, n, (done, left), (begun, tokens.size))
        enough = _enough(room_bytes, n, 3 * WEIGHT_BYTES, tokens.size - begun, left - done, rule == 2)
        done += n
        if enough > waits_for + form + hot:
            begun += 1
    return begun


def _best_ns(run: Callable[[], object], experts: int) -> float:
    """Nanoseconds for an expert, the best of five runs after one to compile."""
    run()
    return min(timeit.repeat(run, number=1)) / experts * 1e9


@numba.njit
def _place_all(
    channel_free: Ints, link_free: Ints, die_free: Ints, path_ptr: Ints, path_links: Ints, ways: Ints, load_ps: Ints,
    die: Ints, experts: int,
) -> None:  # fmt: skip
    for _ in range(experts):
        place(channel_free, link_free, die_free, path_ptr, path_links, 0, ways, load_ps, load_ps // 4, load_ps, die)


def placing_ns(preset: str) -> float:
    """``place`` for the micro-slices of an expert, among the dies to which a channel on a corner is the nearest."""
    topology = Topology.of(Package.preset(preset))
    network = topology.network_arrays()
    entry = topology.package.channels[0].dies[0]
    near = np.argsort(topology.hops[entry], kind="stable")[: -(-topology.n_dies // 4)]
    ways = np.stack((near, entry * topology.n_dies + near), axis=1)
    load_ps = np.full(MICRO_SLICES[preset], 1_000_000, dtype=np.int64)
    clocks = [np.zeros(n, dtype=np.int64) for n in (4, len(topology.links), topology.n_dies)]
    die = np.zeros(load_ps.size, dtype=np.int64)
    experts = EXPERTS // 10
    return _best_ns(
        lambda: _place_all(*clocks, network["path_ptr"], network["path_links"], ways, load_ps, die, experts), experts
    )


def main() -> None:
    """A row for each package, ns for an expert."""
    tokens = np.random.default_rng(0).integers(1, 200, EXPERTS)
    print("package           tile_size  least_traffic  token_turns  place  (with all other decisions; place alone)")
    for preset in MICRO_SLICES:
        sizes = np.array(tile_sizes(Package.preset(preset)), dtype=np.int64)
        rules = [_best_ns(partial(_decide, tokens, sizes, rule), EXPERTS) for rule in range(3)]
        print(f"{preset:<17} {rules[0]:9.0f} {rules[1]:14.0f} {rules[2]:12.0f} {placing_ns(preset):6.0f}   ns")


if __name__ == "__main__":
    main()
