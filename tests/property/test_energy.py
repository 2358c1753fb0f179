"""What must hold of every run's energy."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings

from expertstream.analysis import count_activity
from expertstream.errors import BufferTooSmallError
from expertstream.simulate import simulate
from tests.property.cases import Case, cases


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_activity_and_energy(case: Case) -> None:
    try:
        result = simulate(
            case.model, case.package, case.routing, case.strategy, spread=case.spread, options=case.options
        )
    except BufferTooSmallError:
        return
    activity = count_activity(result.workload, result.plan, result.timeline)
    metrics, energy = result.metrics, result.metrics.energy
    assert int(activity.macs.sum()) == result.workload.macs
    assert int(activity.ddr_bytes.sum()) == metrics.ddr_bytes
    sends = np.flatnonzero(result.timeline.kind == 1)
    pair = result.timeline.source[sends] * case.package.n_dies + result.timeline.die[sends]
    headers = int(np.diff(result.timeline.network.path_ptr)[pair].sum()) * case.package.d2d.header_bytes
    assert int(activity.d2d_bytes.sum()) == metrics.d2d_bytes + headers
    assert (np.diff(energy.total_pj) > 0).all()
    assert (energy.peak_power_w >= energy.average_power_w * (1 - 1e-6)).all()
