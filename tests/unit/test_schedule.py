"""The paper's scheduling decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertstream.errors import WorkloadError
from expertstream.schedule import Decision, SoftwareScheduler, id_order, load_die, next_expert, paired_order


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


def test_the_layer_scheduler_frees_dies_when_their_last_expert_completes() -> None:
    scheduler = SoftwareScheduler("id", dies=4, experts=4)
    scheduler.begin([1, 1, 1, 1], [0b0011, 0b0010, 0b0110, 0b1000])
    assert scheduler.decide(room=0) == Decision(0, True, 0)
    assert scheduler.idle == 0b1100
    assert scheduler.decide(room=0) == Decision(2, True, 2)
    assert scheduler.decide(room=0) == Decision(3, True, 3)
    assert scheduler.decide(room=0b0100) == Decision(1, False, 2)
    scheduler.complete(0)
    assert scheduler.idle == 0b0001
    scheduler.complete(2)
    scheduler.complete(1)
    assert scheduler.idle == 0b0111
    with pytest.raises(WorkloadError, match=r"expert 1 completed, but it is not running; running: \[3\]"):
        scheduler.complete(1)
    with pytest.raises(WorkloadError, match="every expert of the layer has started"):
        scheduler.decide(room=0)


def test_the_cycles_of_a_layer_of_128_experts() -> None:
    scheduler = SoftwareScheduler("paired", dies=4, experts=128)
    scheduler.begin([1] * 128, [1] * 128)
    assert scheduler.cycles == 128 + 1 + 28 + 128 + 2  # push, start, 28 stages, list
    scheduler.decide(room=0)
    assert scheduler.cycles == 287 + 5
    scheduler.complete(0)
    scheduler.decide(room=0)
    assert scheduler.cycles == 292 + 1 + 1 + 5  # the completion, and the cycle in which its dies become idle


def test_a_layer_begins_when_the_one_before_has_completed() -> None:
    scheduler = SoftwareScheduler("id", dies=4, experts=4)
    scheduler.begin([0, 1, 0, 0], [0, 1, 0, 0])
    with pytest.raises(WorkloadError, match=r"a layer begins, but experts \[1\] have not completed"):
        scheduler.begin([1, 1, 1, 1], [1, 1, 1, 1])


def test_the_entry_die_is_the_lowest_that_fits() -> None:
    assert load_die(0b1100, idle=0b1010, room=0) == 3
    assert load_die(0b1100, idle=0, room=0b0110) == 2
    assert load_die(0b1100, idle=0, room=0b0011) == 0
    assert load_die(0b1100, idle=0, room=0) == 2
