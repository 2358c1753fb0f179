"""What can be finished with cut-through can be finished with store-and-forward, given room for what passes."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, assume, given, settings

from expertstream.engine.forwarding import transit_bytes
from expertstream.engine.run import run
from expertstream.errors import BufferTooSmallError
from expertstream.planning import network_of
from expertstream.simulate import Result, simulate
from expertstream.strategy import get_strategy
from expertstream.workload import LayerWorkload
from tests.property.cases import Case, cases
from tests.property.test_invariants import check_invariants


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases())
def test_a_plan_for_cut_through_ends_with_room_for_what_passes_beside_its_buffers(case: Case) -> None:
    """The very same chunks, in buffers that are larger by ``transit_bytes`` and not a byte more."""
    strategy = get_strategy(case.strategy)
    options = strategy.variants(case.options)[0]
    workload = LayerWorkload.of(case.model, case.package, case.routing, spread=case.spread)
    decision_ps = options.decision_ps or 0
    try:
        plan = strategy.plan(workload, options)
        network = network_of(workload.package, plan)
        run(plan.work, network, plan.dispatcher, decision_ps=decision_ps)
    except BufferTooSmallError:
        assume(False)
        raise
    again = strategy.plan(workload, options)  # a dispatcher serves one run
    kept = transit_bytes(again.work, network)
    again = replace(again, buffer_bytes=again.buffer_bytes + kept)
    network = replace(network, buffer_bytes=again.buffer_bytes, transit_bytes=kept)
    timeline = run(again.work, network, again.dispatcher, decision_ps=decision_ps)
    if again.die_of_token is not None:
        workload, again = replace(workload, die_of_token=again.die_of_token), replace(again, die_of_token=None)
    check_invariants(Result(strategy.name, workload, again, timeline))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases())
def test_every_strategy_ends_in_small_buffers(case: Case) -> None:
    die = case.package.die.model_copy(update={"weight_buffer_bytes": 1 << 11, "token_buffer_bytes": 1 << 12})
    d2d = case.package.d2d.model_copy(update={"switching": "store-and-forward"})
    package = case.package.model_copy(update={"d2d": d2d, "die": die})
    try:
        result = simulate(case.model, package, case.routing, case.strategy, spread=case.spread, options=case.options)
    except BufferTooSmallError:
        assume(False)
        raise
    check_invariants(result)
