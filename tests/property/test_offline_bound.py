"""The offline bound: no strategy beats it, and it is no less than the simple bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, assume, given, settings

from expertstream.analysis.offline import offline_bound_ps
from expertstream.errors import BufferTooSmallError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.strategy import strategy_names
from expertstream.trace import Routing
from expertstream.workload import LayerWorkload
from tests.property.cases import Case, cases


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases())
def test_no_strategy_beats_the_offline_bound(case: Case) -> None:
    assume(not case.package.faults)
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
