"""Rules 1 and 2 of the paper (section IV-C) on timelines: what was received last comes first, then what lies there."""

from __future__ import annotations

import numpy as np
import pytest

from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from tests.property.cases import routing_of


@pytest.mark.parametrize("strategy", ["fse-dp", "fse-dp-paired"])
def test_the_latest_received_is_computed_first_and_the_local_when_none_is_there(strategy: str) -> None:
    model = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2)
    package = Package.preset("test-chip-2x2").replace(**{"die.macs_per_cycle": 256})
    timeline = simulate(model, package, routing_of(model, 60, 1.0, seed=3), strategy).timeline
    network = timeline.network
    here: dict[tuple[int, int], tuple[int, bool]] = {}  # arrival of a chunk at a die; whether from another die
    for row in np.flatnonzero(timeline.kind != COMPUTE).tolist():
        die, end = int(timeline.die[row]), int(timeline.end_ps[row])
        if timeline.kind[row] == LOAD:
            latency = network.channel_latency_ps[timeline.resource[row]]
        else:
            latency = network.path_latency_ps[timeline.source[row] * network.n_dies + die]
        here[int(timeline.chunk[row]), die] = end + int(latency), timeline.kind[row] == SEND
    choices = 0
    for die in range(network.n_dies):
        rows = np.flatnonzero((timeline.kind == COMPUTE) & (timeline.die == die))
        came, received = (np.array(a) for a in zip(*(here[int(timeline.chunk[r]), die] for r in rows), strict=True))
        for at, row in enumerate(rows.tolist()):
            now = int(timeline.start_ps[row])
            waiting = received[at:] & (came[at:] < now)
            if waiting.any() and came[at] < now:
                assert received[at]
                assert came[at] == came[at:][waiting].max()
                choices += int(waiting.sum() > 1 or not received[at:][came[at:] < now].all())
    assert choices > 10
