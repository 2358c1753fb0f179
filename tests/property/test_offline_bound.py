"""The offline bound: no strategy beats it, and it is no less than the simple bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from expertstream.analysis.offline import offline_bound_ps
from expertstream.errors import BufferTooSmallError
from expertstream.model import MoEModel
from expertstream.package import ChannelFault, Faults, LinkFault, Package
from expertstream.simulate import simulate
from expertstream.strategy import strategy_names
from expertstream.trace import Routing
from expertstream.workload import LayerWorkload
from tests.property.cases import Case, cases, damaged_packages, routing_of


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases())
def test_no_strategy_beats_the_offline_bound(case: Case) -> None:
    ran = 0
    for name in strategy_names():
        try:
            # the bound knows of no head start
            options = replace(case.options, prediction=None)
            result = simulate(case.model, case.package, case.routing, name, spread=case.spread, options=options)
        except BufferTooSmallError:
            continue
        bound = offline_bound_ps(result.workload)
        assert result.metrics.bounds.bound_ps <= bound <= result.latency_ps, name
        ran += 1
    assume(ran > 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases(), damaged_packages())
def test_no_strategy_beats_the_offline_bound_of_what_faults_leave(case: Case, damaged: Package) -> None:
    """In the numbers of the damaged package, as results have it, and in those of what is left."""
    assume(damaged.faults)
    roomy = damaged.replace(**{"die.weight_buffer_bytes": 2**20, "die.token_buffer_bytes": 2**16})
    options = replace(case.options, prediction=None)
    planned = LayerWorkload.of(case.model, roomy, case.routing, spread=case.spread)
    for name in strategy_names():
        result = simulate(case.model, roomy, case.routing, name, spread=case.spread, options=options)
        bound = offline_bound_ps(result.workload)
        assert result.metrics.bounds.bound_ps <= bound <= result.latency_ps, name
        if np.array_equal(result.workload.on_what_is_left().die_of_token, planned.die_of_token):
            assert bound == offline_bound_ps(planned)


FAULTS: dict[str, tuple[Faults, dict[str, object]]] = {  # and the whole package that they leave
    "dead die": (Faults(dead_dies=(1,)), {"cols": 1, "channels": (0,)}),
    "dead channel": (Faults(channels=(ChannelFault(channel=1, dead=True),)), {"channels": (0,)}),
    "slow links": (
        Faults(links=(LinkFault(dies=(0, 1), bandwidth_bytes_per_s=10**7),)),
        {"d2d.bandwidth_bytes_per_s": 10**7},
    ),
    "slow channels": (
        Faults(channels=tuple(ChannelFault(channel=c, bandwidth_bytes_per_s=10**8) for c in (0, 1))),
        {"speeds": (10**8, 10**8)},
    ),
    "one slow channel": (
        Faults(channels=(ChannelFault(channel=1, bandwidth_bytes_per_s=10**8),)),
        {"speeds": (None, 10**8)},
    ),
}


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("macs_per_cycle", [1, 2048])
def test_the_bound_of_a_damaged_package_is_that_of_a_whole_one_of_the_same_parts(
    what: str, macs_per_cycle: int
) -> None:
    faults, whole = FAULTS[what]
    model = MoEModel.one_layer(d_model=64, d_ffn=64, n_experts=8, top_k=2)
    chip = Package.preset("test-chip-2x2")
    chip = chip.replace(rows=1, cols=2, channels=chip.channels[:2], **{"die.macs_per_cycle": macs_per_cycle})
    channels = [chip.channels[c] for c in whole.get("channels", (0, 1))]
    for at, speed in enumerate(whole.get("speeds", ())):
        channels[at] = channels[at].model_copy(update={"bandwidth_bytes_per_s": speed} if speed else {})
    changes = {name: value for name, value in whole.items() if name not in ("channels", "speeds")}
    left = chip.replace(**{**changes, "channels": tuple(channels)})
    routing = routing_of(model, 20, 1.0, 0)
    bounds = [
        offline_bound_ps(simulate(model, package, routing, "fse-dp").workload)
        for package in (chip.replace(faults=faults), left)
    ]
    assert bounds[0] == bounds[1]


def one_channel(link: int) -> LayerWorkload:
    """Two dies of which one has the only channel; one expert for 32 tokens, 16 on each die."""
    model = MoEModel.one_layer(d_model=64, d_ffn=64, n_experts=1, top_k=1)
    chip = Package.preset("test-chip-2x2")
    die = chip.die.model_copy(update={"macs_per_cycle": 1})
    d2d = chip.d2d.model_copy(update={"bandwidth_bytes_per_s": link})
    chip = chip.replace(rows=1, cols=2, channels=chip.channels[:1], die=die, d2d=d2d)
    routing = Routing(
        experts=np.zeros((32, 1), dtype=np.int16), weights=np.ones((32, 1), dtype=np.float32),
        request=np.zeros(32, dtype=np.int32), layer=0, n_experts=1, source="by hand", synthetic=True,
    )  # fmt: skip
    return LayerWorkload.of(model, chip, routing)


def test_fast_links_let_both_dies_compute() -> None:
    workload = one_channel(10**12)
    compute = workload.macs * 10**12 // workload.package.macs_per_s
    assert 0 <= offline_bound_ps(workload) - compute < 0.001 * compute


def test_slow_links_leave_much_of_the_work_where_the_weights_come_in() -> None:
    """Die 1 does a share x = 1 / 11 rather than 1 / 2, so that die 0 and its link, at 10 MB/s, are busy equally long.

    For it a share x of 12,288 bytes of weights crosses, and a partial sum of 256 bytes of each of 16 - 32 x tokens.
    """
    workload = one_channel(10**7)
    compute = workload.macs * 10**12 // workload.package.macs_per_s
    assert abs(offline_bound_ps(workload) - compute * 20 / 11) < 0.001 * compute
