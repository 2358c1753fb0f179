"""The example of a user's strategy obeys the physical model, as the built-in ones do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings

from expertstream.engine.layout import LOAD
from expertstream.simulate import Result
from expertstream.strategy import get_strategy
from tests.property import test_invariants as invariants
from tests.property.cases import Case, cases

EXAMPLE = get_strategy(f"{Path(__file__).resolve().parents[2]}/examples/data_parallel.py:DataParallel")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases())
def test_the_example_obeys_the_physical_model(case: Case) -> None:
    options = replace(case.options, prediction=None)  # an option of strategies that ask for it
    result = invariants._simulated(replace(case, strategy=EXAMPLE, options=options))
    assert result.strategy == "data-parallel"
    invariants._numbers_are_right(result)
    _each_die_loads_what_its_tokens_need(result)
    invariants._buffers_stay_within_their_capacity_and_end_empty(result)
    invariants._no_resource_serves_two_at_once(result)
    invariants._inputs_are_there_before_anything_starts(result)
    invariants._no_bound_is_beaten(result)


def _each_die_loads_what_its_tokens_need(result: Result) -> None:
    workload, timeline = result.workload, result.timeline
    loads = timeline.kind == LOAD
    loaded = np.bincount(result.expert[loads], weights=timeline.bytes[loads], minlength=workload.columns.size)
    needed_on = (result.plan.batches(workload).load > 0).sum(axis=(0, 2))
    np.testing.assert_array_equal(loaded, needed_on * workload.expert_bytes)
