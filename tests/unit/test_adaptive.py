"""The decisions of adaptive streaming."""

from __future__ import annotations

import numpy as np
import pytest

from expertstream.schedule import (
    all_tokens_move,
    balanced,
    hot_next,
    passes,
    place,
    token_turns,
    tokens_move,
    weights_stay,
)


@pytest.mark.parametrize(
    ("tokens", "stops", "dies", "moves"),
    [
        (24, 4, 4, True),  # 24 x 4 x 10 bytes of tokens are as many as 3 x 320 bytes of weights
        (25, 4, 4, False),
        (8, 2, 4, True),  # weights: once between the two stops, and half of them come in elsewhere
        (1, 1, 4, True),
        (1, 1, 1, False),  # weights come in where the tokens are
    ],
)
def test_what_is_cheaper_moves(tokens: int, stops: int, dies: int, moves: bool) -> None:
    assert tokens_move(tokens, stops, dies, token_bytes=10, weight_bytes=320) is moves


@pytest.mark.parametrize(
    ("tokens", "room", "turns"),
    [
        (24, 48, 1),  # half the room
        (25, 48, 2),  # 16 at a time, a third of the room
        (100, 48, 7),
        (25, 23, 0),  # fewer than 8 at a time are not worth while
        (1, 2, 1),
    ],
)
def test_tokens_come_in_as_many_turns_as_the_room_asks_for(tokens: int, room: int, turns: int) -> None:
    assert token_turns(tokens, room) == turns


def test_all_tokens_move_where_links_have_time_for_it() -> None:
    assert all_tokens_move(25, load_ps=100, compute_ps=10)
    assert all_tokens_move(25, load_ps=10, compute_ps=100)
    assert not all_tokens_move(26, load_ps=100, compute_ps=100)


def test_weights_stay_for_several_turns_or_where_computing_binds() -> None:
    assert weights_stay(2, load_ps=100, compute_ps=1)
    assert weights_stay(1, load_ps=100, compute_ps=100)
    assert not weights_stay(1, load_ps=100, compute_ps=99)


def test_loads_and_computes_are_balanced_if_they_differ_by_a_third_at_most() -> None:
    assert balanced(3, 4)
    assert balanced(4, 3)
    assert not balanced(300, 401)


@pytest.mark.parametrize(
    ("load", "compute", "expected"),
    [
        (1, 8, 5),  # plenty of room, and 5 loads take less than 3/4 of 8
        (1, 6, 4),  # as many as that affords
        (1, 4, 3),
        (1, 3, 2),  # 3 passes would be enough, but too dear
        (9, 1, 2),
        (0, 1, 2),  # nothing to load: nothing to compute
    ],
)
def test_more_passes_are_made_if_their_room_is_worth_the_loads(load: int, compute: int, expected: int) -> None:
    assert passes(2, 3, 5, load, compute) == expected


def test_a_cold_expert_is_next_when_compute_is_ahead_of_the_loads() -> None:
    assert hot_next(100, 50, compute=(1, 4), load=(1, 4))
    assert not hot_next(100, 50, compute=(2, 4), load=(1, 4))


def test_a_hot_expert_is_next_before_arrays_run_dry() -> None:
    assert hot_next(49, 50, compute=(2, 4), load=(1, 4))


def placed(compute: int, n: int, send: int = 30) -> tuple[list[int], dict[str, list[int]]]:
    """Die of n micro-slices that take 10 ps to load at die 0 of a line 0 - 1 - 2, and the clocks afterwards."""
    clocks = {name: np.zeros(size, dtype=np.int64) for name, size in (("channel", 1), ("link", 2), ("die", 3))}
    paths = [[], [0], [0, 1], [], [], [1], [], [], []]  # die 0 to each, then die 1 to each, ...
    ptr = np.cumsum([0, *(len(p) for p in paths)])
    links = np.array([link for path in paths for link in path], dtype=np.int64)
    ways = np.array([[0, 0], [1, 1], [2, 2]], dtype=np.int64)
    die = np.full(n, -1, dtype=np.int64)
    same = np.full(n, 10, dtype=np.int64)
    place(
        clocks["channel"], clocks["link"], clocks["die"], ptr, links, 0, ways, same, same * send // 10,
        same * compute // 10, die,
    )  # fmt: skip
    return die.tolist(), {name: values.tolist() for name, values in clocks.items()}


def test_micro_slices_stay_where_they_come_in_if_they_are_computed_as_fast_as_they_load() -> None:
    assert placed(compute=10, n=4) == ([0] * 4, {"channel": [40], "link": [0, 0], "die": [50, 0, 0]})


def test_micro_slices_spread_over_the_dies_if_compute_takes_longer() -> None:
    die, clocks = placed(compute=60, n=6)
    assert die == [0, 1, 0, 2, 1, 0]
    assert clocks == {"channel": [60], "link": [110, 80], "die": [190, 170, 140]}


def test_a_slow_link_is_not_used() -> None:
    assert placed(compute=20, n=4, send=1000)[0] == [0] * 4
