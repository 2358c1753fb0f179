"""Adaptive streaming where buffers are as small as can work at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from expertstream.engine.run import View
from expertstream.errors import BufferTooSmallError
from expertstream.simulate import Result, simulate
from expertstream.strategy.adaptive import AdaptiveDispatcher
from tests.property.cases import Case, cases
from tests.property.test_invariants import check_invariants

SIZES = ("weight_buffer_bytes", "token_buffer_bytes")
ENOUGH = 1 << 22


def _with(case: Case, **sizes: int) -> Case:
    return replace(case, package=case.package.replace(die=case.package.die.model_copy(update=sizes)))


def _run(case: Case) -> Result | None:
    try:
        return simulate(case.model, case.package, case.routing, case.strategy, spread=case.spread, options=case.options)
    except BufferTooSmallError:
        return None


def _smallest(case: Case, size: str) -> Case | None:
    """The same with a buffer that works, but would not with a byte less; None if none does."""
    low, high = 0, ENOUGH
    if _run(_with(case, **{size: high})) is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _run(_with(case, **{size: middle})) is None:
            low = middle
        else:
            high = middle
    return _with(case, **{size: high})


def _large_tile(tokens: int, room: int, sizes: list[int], share: int) -> int:
    return next((size for size in (*sizes[-2::-1], sizes[-1]) if 2 * tokens <= size * room), 0)


def _decide(case: Case) -> Callable[[AdaptiveDispatcher, View], Iterable[int]]:
    """As it is; and what the engine says of free space is the sum over all buffers."""
    decide = AdaptiveDispatcher.decide

    def checked(self: AdaptiveDispatcher, view: View) -> Iterable[int]:
        if case.package.d2d.switching == "cut-through":
            assert view.all_free_bytes == int(view.free_bytes.sum())
        return decide(self, view)

    return checked


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases(), st.permutations(SIZES))
def test_the_smallest_buffers_that_work_are_no_deadlock(case: Case, order: list[str]) -> None:
    found: Case | None = _with(replace(case, strategy="fse-dp-adaptive"), **dict.fromkeys(SIZES, ENOUGH))
    for size in order:
        assert found is not None
        found = _smallest(found, size)
        assume(found is not None)
    assert found is not None
    result = _run(found)
    assert result is not None
    check_invariants(result)


@pytest.mark.parametrize(
    "forced", ["", "stay", "stay and circulate", "circulate", "tiles", "tiles and circulate", "tiles in order"]
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases(), st.booleans())
def test_every_adaptive_schedule_obeys_the_physical_model(forced: str, case: Case, alone: bool) -> None:
    """``alone``: nothing begins before what is in flight is over."""
    with ExitStack() as stack:
        if forced:
            stack.enter_context(patch("expertstream.strategy.modes.by_expert", lambda *_: True))
        if "stay" in forced:
            stack.enter_context(patch("expertstream.strategy.modes.weights_stay", lambda *_: True))
            stack.enter_context(patch("expertstream.schedule.adaptive.SMALLEST_TURN", 1))
        if "tiles" in forced:  # of any size that fits, from the largest but one
            stack.enter_context(patch("expertstream.strategy.modes.weights_stay", lambda *_: False))
            stack.enter_context(patch("expertstream.strategy.modes.tile_size", _large_tile))
        if "in order" in forced:
            stack.enter_context(patch("expertstream.strategy.adaptive.fifo", lambda *_: True))
        if "circulate" in forced:
            stack.enter_context(patch("expertstream.strategy.modes.links_are_free", lambda *_: False))
            stack.enter_context(patch("expertstream.strategy.adaptive.links_are_free", lambda *_: True))
        if alone:
            stack.enter_context(patch("expertstream.strategy.adaptive.enough_in_flight", lambda *_: 0))
        stack.enter_context(patch.object(AdaptiveDispatcher, "decide", _decide(case)))
        result = _run(replace(case, strategy="fse-dp-adaptive"))
    assume(result is not None)
    assert result is not None
    check_invariants(result)
