"""Bounds, and all measures of a run together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from expertstream.analysis import Bounds, lower_bounds, measure
from expertstream.engine.layout import COMPUTE, TOKENS
from expertstream.engine.run import AllAtOnce, run
from expertstream.engine.work import Work
from expertstream.model import MoEModel
from expertstream.package import ChannelSpec, D2DSpec, DieSpec, Package
from expertstream.simulate import simulate
from expertstream.strategy import Plan
from expertstream.trace import Routing, synthesize
from expertstream.workload import LayerWorkload
from tests.unit.test_engine import KB, full_network


def workload(experts: list[list[int]]) -> LayerWorkload:
    """Two dies of 1000 MACs at 1 GHz, experts of 3 x 10 x 20 = 600 bytes of which 3 are routed and one is shared."""
    model = MoEModel.one_layer(d_model=10, d_ffn=20, n_experts=3, top_k=1, n_shared_experts=1, shared_d_ffn=5)
    package = Package(
        name="two",
        rows=1,
        cols=2,
        die=DieSpec(
            clock_hz=10**9,
            macs_per_cycle=1000,
            weight_buffer_bytes=10**6,
            token_buffer_bytes=10**6,
            sram_bandwidth_bytes_per_s=10**12,
        ),
        d2d=D2DSpec(bandwidth_bytes_per_s=10**10, latency_ps=0),
        channels=(ChannelSpec(dies=(0,), bandwidth_bytes_per_s=10**9),),
    )
    ids = np.array(experts, dtype=np.int16).reshape(-1, 1)
    routing = Routing(
        experts=ids,
        weights=np.ones(ids.shape, dtype=np.float32),
        request=np.zeros(ids.shape[0], dtype=np.int32),
        layer=0,
        n_experts=3,
        source="hand",
        synthetic=True,
    )
    return LayerWorkload.of(model, package, routing)


def hand_made() -> Work:
    """A chunk that visits both dies, and tokens that stay till it is done."""
    work = Work()
    group = work.new_group()
    done = work.new_gates(2)
    work.add_chunks(
        group=group, bytes=KB, die=[[0, 1]], channel=0, compute_ps=[[300_000, 200_000]], done=done, tokens=[[3, 2]]
    )
    work.add_chunks(group=group, bytes=300, die=[[1]], pool=TOKENS, hold=done)
    return work


def test_bounds_count_each_activated_expert_once_and_every_mac() -> None:
    timeline = run(hand_made(), full_network(2, channel=3 * 10**9, header=100))
    bounds = lower_bounds(workload([[0], [2], [2]]), timeline)
    # Experts 0 and 2 and the shared one (150 bytes); two channels of 3 GB/s.
    assert bounds.ddr_ps == 1350 * 1000 // 6
    # 600 MACs of 3 tokens and 150 of 3 tokens at 2 x 1000 MACs a ns: 1.125 ns.
    assert bounds.compute_ps == 1125
    assert bounds.d2d_ps == 110_000
    assert bounds.bound_ps == 225_000
    assert bounds.gap(450_000) == 2.0


def test_bounds_are_rounded_up() -> None:
    timeline = run(Work(), full_network(2, channel=7 * 10**8))
    bounds = lower_bounds(workload([[1]]), timeline)
    assert bounds == Bounds(ddr_ps=535_715, compute_ps=375, d2d_ps=0)  # 750 bytes / 1.4 GB/s = 535,714.3 ps
    timeline = run(Work(), full_network(1, channel=10**12))
    assert lower_bounds(workload([[1]]), timeline).bound_ps == 750


def test_a_head_start_takes_no_more_off_the_ddr_bound_than_the_weight_buffers_hold() -> None:
    for origin_ps, buffer, ahead in ((200, 10**9, 200), (10**9, 150, 300)):
        timeline = run(Work(origin_ps=origin_ps), full_network(2, channel=5 * 10**11, buffer=buffer))
        assert lower_bounds(workload([[1]]), timeline).ddr_ps == 750 - ahead  # 1 byte a ps


def test_no_work_has_no_gap() -> None:
    bounds = lower_bounds(workload([]), run(Work(), full_network(2)))
    assert bounds == Bounds(ddr_ps=0, compute_ps=0, d2d_ps=0)
    assert bounds.gap(0) is None


def test_all_measures_of_a_run() -> None:
    layer = workload([[0], [0], [0]])
    work = hand_made()
    plan = Plan(
        work=work,
        dispatcher=AllAtOnce(1),
        slices=np.empty((0, 3), dtype=np.int64),
        set_ptr=np.zeros(1, dtype=np.int64),
        set_ids=np.empty(0, dtype=np.int64),
        buffer_bytes=np.array([[5000, 600]] * 2, dtype=np.int64),
        passes=1,
        ddr_layout="by hand",
    )
    metrics = measure(layer, plan, run(work, full_network(2)))
    # Load until 1 us, compute until 1.3 us; sent when the compute starts, until 1.1 us, compute until 1.3 us.
    assert metrics.utilisation == 1125 / 1_300_000
    assert json.loads(json.dumps(metrics.to_dict())) == {
        "latency_ps": 1_300_000,
        "bound_ps": 375_000,
        "ddr_bound_ps": 375_000,
        "compute_bound_ps": 1125,
        "d2d_bound_ps": 100_000,
        "gap": 1_300_000 / 375_000,
        "utilisation": 1125 / 1_300_000,
        "overhead": 500_000 / 2_600_000,  # the computes say nothing of experts
        "ddr_bytes": KB,
        "lead_ps": 0,
        "ahead_bytes": 0,
        "wasted_bytes": 0,
        "d2d_bytes": KB,
        "peak_package_bytes": 2 * KB + 300,
        "peak_package_weight_bytes": 2 * KB,
        "peak_package_token_bytes": 300,
        "mean_package_weight_bytes": KB * 1.0 + KB * 3 / 13,
        "mean_package_token_bytes": 300.0,
        "peak_weight_bytes": [KB, KB],
        "peak_token_bytes": [0, 300],
        "mean_weight_bytes": [KB * 1.0, KB * 3 / 13],
        "mean_token_bytes": [0.0, 300.0],
        "weight_buffer_bytes": [5000, 5000],
        "token_buffer_bytes": [600, 600],
        "compute_ps": [300_000, 200_000],
        "overhead_ps": [300_000, 200_000],
        "channel_ps": [1_000_000, 0],
        "channel_bytes": [KB, 0],
        "link_ps": [100_000, 0],
        "link_bytes": [KB, 0],
        "stall_ps": {
            "ddr": [1_000_000, 1_000_000],
            "d2d": [0, 100_000],
            "space": [0, 0],
            "other die": [0, 0],
            "no work": [0, 0],
        },
        "passes": 1,
        "computes": 2,
        "n_events": metrics.n_events,
        "technology": "5nm",
        **metrics.energy.to_dict(),  # test_analysis_energy.py
        **metrics.area.to_dict(),
        "rated_power_w": metrics.rated_power_w.tolist(),
    }


@pytest.mark.parametrize("strategy", ["ep", "tp", "fse-dp-paired"])
@pytest.mark.parametrize("cycles", [0, 64, 6400])
def test_utilisation_is_macs_done_and_control_is_overhead(strategy: str, cycles: int) -> None:
    model = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2)
    chip = Package.preset("test-chip-2x2").replace(**{"die.control_overhead_cycles": cycles})
    result = simulate(model, chip, synthesize(model, requests=4, tokens_per_request=16).iteration(32, 0), strategy)
    metrics, latency = result.metrics, result.latency_ps
    macs_ps = metrics.busy.compute_ps - metrics.overhead_ps
    assert metrics.utilisation == pytest.approx(macs_ps.sum() / (4 * latency), abs=8 / latency)
    assert metrics.utilisation == pytest.approx(result.workload.macs * 1e12 / (chip.macs_per_s * latency))
    control_ps = np.bincount(result.timeline.die[result.timeline.kind == COMPUTE], minlength=4) * cycles * 1250
    assert (metrics.overhead_ps >= control_ps).all()
    assert (metrics.times_ps.sum(axis=1) == latency).all()
