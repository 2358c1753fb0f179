"""The invariants on packages with faults, for every strategy; what is dead does nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from expertstream.engine.layout import SEND
from expertstream.package import Package
from expertstream.simulate import Result
from expertstream.strategy import strategy_names
from tests.property import test_invariants as invariants
from tests.property.cases import Case, cases, damaged_packages


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases(), damaged_packages(), st.sampled_from(strategy_names()))
def test_every_schedule_obeys_the_physical_model_round_faults(case: Case, damaged: Package, strategy: str) -> None:
    assume(damaged.faults)
    roomy = damaged.replace(**{"die.weight_buffer_bytes": 2**20, "die.token_buffer_bytes": 2**16})
    result = invariants._simulated(replace(case, package=roomy, strategy=strategy))
    invariants._numbers_are_right(result)
    invariants._ddr_bytes_are_those_of_the_activated_experts(result)
    invariants._buffers_stay_within_their_capacity_and_end_empty(result)
    invariants._no_resource_serves_two_at_once(result)
    invariants._inputs_are_there_before_anything_starts(result)
    invariants._no_bound_is_beaten(result)
    _what_is_dead_does_nothing(result)


def _what_is_dead_does_nothing(result: Result) -> None:
    package, timeline = result.workload.package, result.timeline
    use = result.metrics.busy
    assert set(timeline.die.tolist()) <= set(package.live_dies)
    assert set(result.workload.die_of_token.tolist()) <= set(package.live_dies)
    assert set(np.flatnonzero(use.channel_ps).tolist()) <= set(package.usable_channels)
    links = timeline.network.links.tolist()
    assert {tuple(links[i]) for i in np.flatnonzero(use.link_ps).tolist()} <= set(package.live_links)
    spread = np.bincount(result.workload.die_of_token, minlength=package.n_dies)[list(package.live_dies)]
    assert spread.max() - spread.min() <= 1
    sends = timeline.kind == SEND
    assert (timeline.source[sends] != timeline.die[sends]).all()
