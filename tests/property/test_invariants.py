"""The invariants of the physical model, over random packages, workloads and strategies."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, assume, given, settings

from expertstream.analysis import lower_bounds, occupancy
from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.errors import BufferTooSmallError
from expertstream.simulate import Result, simulate
from tests.property.cases import Case, cases


def _simulated(case: Case) -> Result:
    try:
        return simulate(case.model, case.package, case.routing, case.strategy, spread=case.spread, options=case.options)
    except BufferTooSmallError:
        assume(False)
        raise


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases())
def test_every_schedule_obeys_the_physical_model(case: Case) -> None:
    check_invariants(_simulated(case))


def check_invariants(result: Result) -> None:
    """What must always hold, on one run."""
    _numbers_are_right(result)
    _ddr_bytes_are_those_of_the_activated_experts(result)
    _buffers_stay_within_their_capacity_and_end_empty(result)
    _no_resource_serves_two_at_once(result)
    _inputs_are_there_before_anything_starts(result)
    _tokens_come_before_they_are_computed_and_their_sums_go_home(result)
    _tokens_and_their_sums_lie_in_the_token_buffer(result)
    _no_bound_is_beaten(result)
    _a_head_start_only_loads(result)


def _numbers_are_right(result: Result) -> None:
    assert result.prove() <= 1e-10


def _ddr_bytes_are_those_of_the_activated_experts(result: Result) -> None:
    workload, timeline = result.workload, result.timeline
    wanted = (timeline.kind == LOAD) & ~timeline.optional
    loaded = np.bincount(
        result.expert[wanted],
        weights=timeline.bytes[wanted],
        minlength=workload.columns.size,
    )
    load = result.plan.batches(workload).load.sum(axis=2)
    once_a_pass = (load > 0).sum(axis=0) * workload.expert_bytes
    np.testing.assert_array_equal(loaded, once_a_pass)
    assert result.metrics.ddr_bytes == once_a_pass.sum() + result.metrics.wasted_bytes


def _buffers_stay_within_their_capacity_and_end_empty(result: Result) -> None:
    timeline = result.timeline
    assert (timeline.hold_to_ps >= timeline.hold_from_ps).all()
    for die in range(timeline.network.n_dies):
        for pool in (0, 1):
            mine = (timeline.hold_die == die) & (timeline.hold_pool == pool)
            times = np.concatenate((timeline.hold_from_ps[mine], timeline.hold_to_ps[mine]))
            change = np.concatenate((timeline.hold_bytes[mine], -timeline.hold_bytes[mine]))
            order = np.lexsort((change, times))
            level = np.cumsum(change[order])
            assert level.size == 0 or level.max() <= timeline.network.buffer_bytes[die, pool]
            assert level.size == 0 or level[-1] == 0


def _no_resource_serves_two_at_once(result: Result) -> None:
    timeline, network = result.timeline, result.timeline.network
    for kind in (LOAD, COMPUTE):
        mine = timeline.kind == kind
        _no_overlap(timeline.resource[mine], timeline.start_ps[mine], timeline.end_ps[mine])
    sends = np.flatnonzero(timeline.kind == SEND)
    pair = timeline.source[sends] * network.n_dies + timeline.die[sends]
    hops = network.path_ptr[pair + 1] - network.path_ptr[pair]
    row = np.repeat(sends, hops)
    offset = np.arange(row.size) - np.repeat(np.cumsum(hops) - hops, hops)
    link = network.path_links[np.repeat(network.path_ptr[pair], hops) + offset]
    _no_overlap(link, timeline.start_ps[row], timeline.end_ps[row])


def _no_overlap(resource: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    order = np.lexsort((end, start, resource))
    same = resource[order][1:] == resource[order][:-1]
    assert (start[order][1:] >= end[order][:-1])[same].all()


def _inputs_are_there_before_anything_starts(result: Result) -> None:
    timeline, network = result.timeline, result.timeline.network
    here = {}
    for i in range(len(timeline)):
        chunk, die = int(timeline.chunk[i]), int(timeline.die[i])
        kind = int(timeline.kind[i])
        if kind == LOAD:
            here[chunk, die] = int(timeline.end_ps[i] + network.channel_latency_ps[timeline.resource[i]])
        elif kind == SEND:
            source = int(timeline.source[i])
            pair = source * network.n_dies + die
            assert timeline.start_ps[i] >= here.get((chunk, source), 0)
            here[chunk, die] = int(timeline.end_ps[i] + network.path_latency_ps[pair])
        else:
            assert timeline.start_ps[i] >= here.get((chunk, die), 0)


def _tokens_come_before_they_are_computed_and_their_sums_go_home(result: Result) -> None:
    """Sends do not say whose tokens they carry, so bytes are counted.

    Before a die computes its n-th token from elsewhere, n tokens' activations have come in; once it is done with all
    but n of them, n tokens' partial sums have yet to leave; and partial sums come home for all that was computed away.
    """
    timeline, plan, workload = result.timeline, result.plan, result.workload
    activation, partial_sum = workload.activation_bytes, workload.partial_sum_bytes
    computes = np.flatnonzero((timeline.kind == COMPUTE) & (timeline.tag >= 0))
    sets = [plan.set_ids[plan.set_ptr[i] : plan.set_ptr[i + 1]] for i in timeline.stop_tag[computes].tolist()]
    row = np.repeat(computes, [ids.size for ids in sets])
    token = np.concatenate([np.arange(0), *sets])
    away = timeline.die[row] != workload.die_of_token[token]
    row, token = row[away], token[away]
    sends = np.flatnonzero((timeline.kind == SEND) & (timeline.tag < 0))
    pair = timeline.source[sends] * timeline.network.n_dies + timeline.die[sends]
    arrival = timeline.end_ps[sends] + timeline.network.path_latency_ps[pair]
    for die in range(timeline.network.n_dies):
        mine = timeline.die[row] == die
        ids, at = np.unique(token[mine], return_inverse=True)
        first, last = np.full(ids.size, np.iinfo(np.int64).max), np.zeros(ids.size, dtype=np.int64)
        np.minimum.at(first, at, timeline.start_ps[row[mine]])
        np.maximum.at(last, at, timeline.end_ps[row[mine]])
        into, out = timeline.die[sends] == die, timeline.source[sends] == die
        nth = np.arange(1, ids.size + 1)
        assert (_bytes_by(np.sort(first), arrival[into], timeline.bytes[sends[into]]) >= nth * activation).all()
        left = _bytes_by(np.sort(-last), -timeline.start_ps[sends[out]], timeline.bytes[sends[out]])
        assert (left >= nth * partial_sum).all()
        home = np.unique(token[workload.die_of_token[token] == die]).size
        assert timeline.bytes[sends[into]].sum() >= home * partial_sum + ids.size * activation


def _tokens_and_their_sums_lie_in_the_token_buffer(result: Result) -> None:
    """All tokens of a die; and of those that it computes the sums, with copies of those that live elsewhere."""
    timeline, plan, workload = result.timeline, result.plan, result.workload
    own = workload.tokens_on_die * workload.activation_bytes
    for die in range(timeline.network.n_dies):
        times, level = occupancy(timeline, die, 1)
        for row in np.flatnonzero((timeline.kind == COMPUTE) & (timeline.tag >= 0) & (timeline.die == die)).tolist():
            number = timeline.stop_tag[row]
            ids = plan.set_ids[plan.set_ptr[number] : plan.set_ptr[number + 1]]
            copies = int((workload.die_of_token[ids] != die).sum()) * workload.activation_bytes
            held = level[np.searchsorted(times, timeline.start_ps[row], side="right") - 1]
            assert held >= own[die] + copies + ids.size * workload.partial_sum_bytes


def _bytes_by(when: np.ndarray, time: np.ndarray, n_bytes: np.ndarray) -> np.ndarray:
    """Bytes up to and with each time of ``when``."""
    order = np.argsort(time, kind="stable")
    total = np.concatenate(([0], np.cumsum(n_bytes[order])))
    return total[np.searchsorted(time[order], when, side="right")]


def _no_bound_is_beaten(result: Result) -> None:
    bounds = lower_bounds(result.workload, result.timeline)
    assert result.latency_ps >= bounds.bound_ps
    assert result.latency_ps >= bounds.d2d_ps


def _a_head_start_only_loads(result: Result) -> None:
    timeline, plan = result.timeline, result.plan
    ahead = timeline.start_ps < timeline.origin_ps
    assert not (timeline.kind[ahead] == COMPUTE).any()
    sent = ahead & (timeline.kind == SEND)
    assert plan.route_known or not sent.any()
    assert (result.expert[sent] >= 0).all()
    wasted = timeline.optional
    assert (timeline.kind[wasted] != COMPUTE).all()
    asked = timeline.ready_ps < timeline.origin_ps  # no load that is not needed is asked for once that is known
    assert asked[wasted & (timeline.kind == LOAD)].all()
    if plan.head_start is None:
        assert timeline.origin_ps == 0
        assert not wasted.any()


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_same_input_gives_the_same_timeline(case: Case) -> None:
    first, second = _simulated(case), _simulated(case)
    for name in ("start_ps", "end_ps", "resource", "chunk", "ready_ps", "hold_from_ps", "hold_to_ps"):
        np.testing.assert_array_equal(getattr(first.timeline, name), getattr(second.timeline, name))
