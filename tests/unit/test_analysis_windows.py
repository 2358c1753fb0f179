"""Busy times in windows."""

from __future__ import annotations

import numpy as np
import pytest

from expertstream.analysis import busy_in_windows, count_activity, links_of_sends, macs_in_windows, measure_busy_times
from expertstream.engine.run import run
from expertstream.engine.work import Work
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.strategy import Options, strategy_names
from expertstream.trace import synthesize
from tests.unit.test_analysis_busy_times import line
from tests.unit.test_engine import KB


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("n", [1, 7, 500])
def test_windows_sum_to_the_whole(strategy: str, n: int) -> None:
    model = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2)
    trace = synthesize(model, requests=2, tokens_per_request=12, layers=[0], seed=3)
    routing, options = trace.iteration(tokens=20, layer=0), Options(training=trace)
    result = simulate(model, Package.preset("3x3"), routing, strategy, options=options)
    timeline = result.timeline
    windows, busy = busy_in_windows(timeline, n), measure_busy_times(timeline)
    assert windows.edges_ps[0] == 0
    assert windows.edges_ps[-1] == timeline.latency_ps
    length = np.diff(windows.edges_ps)
    assert length.size == n
    assert length.max() - length.min() <= 1
    for parts, whole in (
        (windows.compute_ps, busy.compute_ps),
        (windows.channel_ps, busy.channel_ps),
        (windows.link_ps, busy.link_ps),
    ):
        assert (parts >= 0).all()
        assert (parts <= length).all()
        assert parts.sum(axis=1).tolist() == whole.tolist()
    macs = macs_in_windows(timeline, count_activity(result.workload, result.plan, timeline).macs, n)
    assert (macs >= 0).all()
    assert macs.sum() == pytest.approx(result.workload.macs)
    assert (macs <= (length + 1) * result.workload.package.die.macs_per_cycle * 0.0008).all()  # 0.8 cycles a ns


def test_an_activity_is_cut_at_the_edges() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0, compute_ps=[[1_000_000]])
    timeline = run(work, line(2))  # 1 us of load, then 1 us of compute
    windows = busy_in_windows(timeline, 4)
    assert windows.edges_ps.tolist() == [0, 500_000, 1_000_000, 1_500_000, 2_000_000]
    assert windows.channel_ps.tolist() == [[500_000, 500_000, 0, 0]]
    assert windows.compute_ps.tolist() == [[0, 0, 500_000, 500_000], [0] * 4]
    assert macs_in_windows(timeline, np.array([0, 600]), 4).tolist() == [[0, 0, 300, 300], [0] * 4]


def test_a_send_occupies_every_link_of_its_path_in_order() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0, 2, 1]], compute_ps=1)
    rows, links = links_of_sends(run(work, line(3)))
    assert links.tolist() == [0, 2, 3]  # links 2i lead right, 2i + 1 back
    assert rows[0] == rows[1] < rows[2]


def test_a_run_shorter_than_its_windows() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], compute_ps=3)
    assert busy_in_windows(run(work, line(2)), 500).compute_ps[0].tolist() == [1, 1, 1]
    empty = busy_in_windows(run(Work(), line(2)), 500)
    assert empty.edges_ps.tolist() == [0, 0]
    assert empty.compute_ps.tolist() == [[0], [0]]
