"""Algorithm 2: deferrals of requests with cold experts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertstream.errors import ConfigError
from expertstream.schedule import Qos, Slack, defer, pass_done, token_counts

TENTH = Slack(1, 10)


def test_a_request_with_a_cold_expert_and_time_left_is_deferred() -> None:
    deferred, after = defer([[0, 1], [0, 0]], [3, 1], [Qos(1), Qos(1)], TENTH, theta_min=2)
    assert deferred == [True, False]
    assert after == [Qos(0), Qos(1)]


def test_a_request_without_time_left_is_never_deferred() -> None:
    assert defer([[1]], [0, 1], [Qos(0, 9)], TENTH, theta_min=100) == ([False], [Qos(0, 9)])


def test_exactly_theta_min_tokens_are_not_cold() -> None:
    assert defer([[0]], [2], [Qos(1)], TENTH, theta_min=2)[0] == [False]
    assert defer([[0]], [2], [Qos(1)], TENTH, theta_min=3)[0] == [True]


def test_the_threshold_gives_one_deferral_which_may_be_used_at_once() -> None:
    assert defer([[0]], [9], [Qos(0, 10)], TENTH, theta_min=2) == ([False], [Qos(1, 0)])
    assert defer([[0]], [1], [Qos(0, 10)], TENTH, theta_min=2) == ([True], [Qos(0, 0)])


def test_requests_that_share_a_cold_expert_are_deferred_together() -> None:
    activated = [[5], [5], [0, 5]]
    counts = token_counts(activated, 6)
    assert counts == [1, 0, 0, 0, 0, 3]
    assert defer(activated, counts, [Qos(1)] * 3, TENTH, theta_min=4)[0] == [True] * 3


def test_a_request_without_tokens_here_is_not_deferred() -> None:
    assert defer([[]], [0], [Qos(3)], TENTH, theta_min=9) == ([False], [Qos(3)])


def test_counters_stop_at_two_allowances() -> None:
    qos = Qos()
    for _ in range(50):
        qos = pass_done(qos, Slack(3, 10))
    assert qos == Qos(0, 20)


def test_timers_stop_at_what_may_be_saved() -> None:
    assert defer([[0]], [9], [Qos(2, 10)], Slack(1, 10, saved=2), theta_min=1)[1] == [Qos(2, 0)]


@pytest.mark.parametrize(
    ("slack", "expected"), [(Slack(1, 10), 10), (Slack(1, 5), 20), (Slack(3, 10), 30), (Slack(0, 1), 0)]
)
def test_slack_is_the_share_of_forward_passes_with_a_deferral(slack: Slack, expected: int) -> None:
    qos, deferrals = Qos(), 0
    for _ in range(100):
        qos = pass_done(qos, slack)
        for _ in range(4):  # layers of a pass
            (waits,), (qos,) = defer([[0]], [1], [qos], slack, theta_min=2)
            deferrals += waits
    assert deferrals == expected


@given(st.data())
def test_the_order_of_requests_does_not_matter(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    activated = data.draw(st.lists(st.lists(st.integers(0, 7)), min_size=n, max_size=n))
    qos = data.draw(st.lists(st.builds(Qos, st.integers(0, 3), st.integers(0, 20)), min_size=n, max_size=n))
    theta = data.draw(st.integers(0, 5))
    order = data.draw(st.permutations(range(n)))
    counts = token_counts(activated, 8)
    deferred, after = defer(activated, counts, qos, TENTH, theta)
    moved = defer([activated[i] for i in order], counts, [qos[i] for i in order], TENTH, theta)
    assert moved == ([deferred[i] for i in order], [after[i] for i in order])
    assert all(state.timer >= 0 for state in after)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((2, 1), "slack is 2 deferrals in 1 forward passes; it must be from 0 in 1 to 1 in 1"),
        ((0, 0), "slack is 0 deferrals in 0 forward passes; it must be from 0 in 1 to 1 in 1"),
        ((1, 10, 0), "slack saves up 0 deferrals; it must be at least 1"),
    ],
)
def test_impossible_slack_is_refused(numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Slack(*numbers)
