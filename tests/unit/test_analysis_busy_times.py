"""Busy times and bytes of resources."""

from __future__ import annotations

import numpy as np

from expertstream.analysis import measure_busy_times
from expertstream.engine.network import Network
from expertstream.engine.run import run
from expertstream.engine.work import Work
from tests.unit.test_engine import KB, full_network


def line(dies: int, *, link: int = 10**10, latency: int = 0, header: int = 0) -> Network:
    """Dies in a row; links 2i from die i to i + 1, 2i + 1 back; one channel of 1 GB/s, at die 0."""
    paths = [
        [2 * i for i in range(a, b)] if a < b else [2 * i + 1 for i in range(a - 1, b - 1, -1)]
        for a in range(dies)
        for b in range(dies)
    ]
    sizes = [len(p) for p in paths]
    return Network(
        buffer_bytes=np.full((dies, 2), 10**9, dtype=np.int64),
        channel_bandwidth=np.array([10**9], dtype=np.int64),
        channel_latency_ps=np.zeros(1, dtype=np.int64),
        path_ptr=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        path_links=np.array([link for path in paths for link in path], dtype=np.int64),
        path_bandwidth=np.full(dies * dies, link, dtype=np.int64),
        path_latency_ps=np.array(sizes, dtype=np.int64) * latency,
        header_bytes=header,
        links=np.array([pair for i in range(dies - 1) for pair in ((i, i + 1), (i + 1, i))], dtype=np.int64),
    )


def test_busy_time_and_bytes_of_every_resource() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=KB, die=[[0, 1]], channel=0, compute_ps=[[100_000, 200_000]])
    work.add_chunks(group=group, bytes=KB, die=[[1]], channel=1, compute_ps=50_000)
    busy = measure_busy_times(run(work, full_network(2, load_latency=70, latency=30)))
    # Load 1 us, latency 70 ps, send 100 ns, latency 30 ps, compute 200 ns.
    assert busy.latency_ps == 1_000_000 + 70 + 100_000 + 30 + 200_000
    assert busy.compute_ps.tolist() == [100_000, 250_000]
    assert busy.channel_ps.tolist() == [1_000_000, 1_000_000]
    assert busy.channel_bytes.tolist() == [KB, KB]
    assert busy.link_ps.tolist() == [100_000, 0]
    assert busy.link_bytes.tolist() == [KB, 0]
    assert busy.compute_share.tolist() == [100_000 / 1_300_100, 250_000 / 1_300_100]
    assert busy.channel_share.tolist() == [1_000_000 / 1_300_100] * 2
    assert busy.link_share.tolist() == [100_000 / 1_300_100, 0.0]


def test_a_transfer_counts_at_every_link_of_its_path() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=[KB, 2 * KB], die=[[0, 2], [0, 1]], channel=0, compute_ps=[[0, 5], [0, 5]])
    work.add_chunks(group=group, bytes=500, die=[[2, 1]], compute_ps=[[0, 5]])
    busy = measure_busy_times(run(work, line(3, header=100)))
    # Links 0->1, 1->0, 1->2, 2->1; the header takes time and is no payload.
    assert busy.link_bytes.tolist() == [3 * KB, 0, KB, 500]
    assert busy.link_ps.tolist() == [110_000 + 210_000, 0, 110_000, 60_000]


def test_no_work_uses_nothing() -> None:
    busy = measure_busy_times(run(Work(), full_network(1)))
    assert busy.compute_ps.tolist() == [0]
    assert busy.compute_share.tolist() == [0.0]
    assert busy.link_ps.tolist() == []
    assert busy.link_share.tolist() == []
