"""The paper's scheduling decisions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from expertstream.schedule import id_order, next_expert, paired_order


def test_paired_load_alternates_between_the_hottest_and_the_coldest() -> None:
    assert paired_order([5, 0, 9, 1, 7, 2]) == [2, 3, 4, 5, 0]


def test_equal_counts_are_ranked_by_id() -> None:
    assert paired_order([3, 3, 3, 3]) == [0, 3, 1, 2]


def test_id_order_leaves_out_experts_without_tokens() -> None:
    assert id_order([0, 2, 0, 1]) == [1, 3]


def test_an_expert_that_meets_an_idle_die_streams_first() -> None:
    assert next_expert([3, 1, 2], [0, 0b0100, 0b1111, 0b0011], idle=0b0100) == (1, True)


def test_without_an_idle_die_the_first_expert_is_preloaded() -> None:
    assert next_expert([2, 0], [0b01, 0b01, 0b11], idle=0) == (2, False)
    assert next_expert([0, 2], [0b01, 0b01, 0b01], idle=0b10) == (0, False)


@given(st.lists(st.integers(0, 50), max_size=80))
def test_both_orders_hold_every_activated_expert_once(counts: list[int]) -> None:
    active = [e for e, n in enumerate(counts) if n]
    assert sorted(paired_order(counts)) == id_order(counts) == active
