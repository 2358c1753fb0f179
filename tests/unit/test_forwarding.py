"""Store-and-forward: stops at the dies on the way, their time and their room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from expertstream.engine.forwarding import transit_bytes
from expertstream.engine.layout import SEND, TOKENS
from expertstream.engine.network import Network
from expertstream.engine.run import run
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError
from expertstream.model import MoEModel
from expertstream.package import Package, Topology
from expertstream.serving.blocks import Blocks
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options, strategy_names
from tests.property.cases import routing_of, training_of

KB = 1000


def line(dies: int, *, buffer: int = 10 * KB, transit: int | None = 5 * KB, latency_ps: int = 0) -> Network:
    """Dies in a row with 10 GB/s links, so that a kilobyte takes 100 ns a hop; die 0 has a channel."""
    package = Package.preset("test-chip-2x2").replace(
        rows=1, cols=dies, channels=({"dies": (0,), "bandwidth": "10 GB/s", "latency": "0 ns"},)
    )
    d2d = package.d2d.model_copy(update={"bandwidth_bytes_per_s": 10**10, "latency_ps": latency_ps, "header_bytes": 0})
    topology = Topology.of(package.model_copy(update={"d2d": d2d}))
    return Network(
        buffer_bytes=np.full((dies, 2), buffer, dtype=np.int64),
        channel_bandwidth=np.array([10**10], dtype=np.int64),
        channel_latency_ps=np.zeros(1, dtype=np.int64),
        header_bytes=0,
        links=topology.links,
        transit_bytes=None if transit is None else np.full(2, transit, dtype=np.int64),
        **topology.network_arrays(),
    )


def sends(timeline: Timeline) -> list[tuple[int, int, int, int]]:
    """(from die, to die, start, end) of each send, ns."""
    mine = timeline.kind == SEND
    columns = (timeline.source, timeline.die, timeline.start_ps // KB, timeline.end_ps // KB)
    return list(zip(*(c[mine].tolist() for c in columns), strict=True))


def test_a_chunk_pays_every_link_on_its_way_one_after_the_other() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0, 3]], channel=0)
    through = run(work, line(4, transit=None, latency_ps=7 * KB))
    stored = run(work, line(4, latency_ps=7 * KB))
    assert sends(through) == [(0, 3, 100, 200)]
    assert through.latency_ps == 221 * KB  # three latencies, one transfer
    assert sends(stored) == [(0, 1, 100, 200), (1, 2, 207, 307), (2, 3, 314, 414)]
    assert stored.latency_ps == 421 * KB


def test_dies_on_the_way_spend_buffer_and_the_last_one_from_the_start_of_the_way() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0, 2]], channel=0)
    stays = run(work, line(3))
    held = {
        int(die): (int(start) // KB, int(end) // KB)
        for die, start, end in zip(stays.hold_die, stays.hold_from_ps, stays.hold_to_ps, strict=True)
    }
    assert held == {0: (0, 200), 1: (100, 300), 2: (100, 300)}
    assert set(run(work, line(3, transit=None)).hold_die.tolist()) == {0, 2}


def test_a_link_that_is_free_already_takes_the_next_transfer() -> None:
    """Cut-through holds the first link until the last one is done; store-and-forward lets the second chunk follow."""
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0, 2], [0, 2]], pool=TOKENS, space=0)
    assert sends(run(work, line(3, transit=None))) == [(0, 2, 0, 100), (0, 2, 100, 200)]
    assert sends(run(work, line(3))) == [(0, 1, 0, 100), (1, 2, 100, 200), (0, 1, 100, 200), (1, 2, 200, 300)]


def test_what_stays_in_a_buffer_leaves_room_for_what_passes() -> None:
    """Die 1 has room for two chunks. One of its own stays until the chunk that passes has arrived at die 2."""
    work = Work()
    arrived = int(work.new_gates([1])[0])
    group = work.new_group()
    keep = {"group": group, "bytes": KB, "die": [[1]], "pool": TOKENS, "hold": arrived}
    work.add_chunks(**keep)
    work.add_chunks(**keep)
    work.add_chunks(group=group, bytes=KB, die=[[0, 2]], pool=TOKENS, space=0, arrive=[[-1, arrived]])
    network = line(3, buffer=2 * KB, transit=KB)
    assert transit_bytes(work, network).tolist() == [0, KB]
    assert sends(run(work, network)) == [(0, 1, 0, 100), (1, 2, 100, 200)]


def test_room_for_what_passes_is_the_most_stops_on_a_way_times_the_largest_chunk_that_makes_any() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=KB, die=[[0, 3]], channel=0)
    work.add_chunks(group=group, bytes=2 * KB, die=[[1, 3, 1, 3]], channel=0)
    work.add_chunks(group=group, bytes=5 * KB, die=[[0, 1]], channel=0)
    work.add_chunks(group=group, bytes=6 * KB, die=[[0]], channel=0)
    assert transit_bytes(work, line(4)).tolist() == [2 * 2 * KB, 0]


def test_less_than_that_is_refused() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0, 3]], channel=0)
    with pytest.raises(BufferTooSmallError) as caught:
        run(work, line(4, transit=KB))
    assert str(caught.value) == (
        "store-and-forward keeps [1000, 1000] bytes of each weight and token buffer for what passes, but [2000, 0] are "
        "needed; keep at least that"
    )


def test_chunks_that_wait_where_they_end_stop_nothing_that_passes() -> None:
    """Three chunks want to wait on die 1, which has room for two, until another one has come to die 2 by way of it."""
    work = Work()
    group = work.new_group()
    arrived = int(work.new_gates([1])[0])
    work.add_chunks(group=group, bytes=KB, die=[[0, 1]] * 3, channel=0, stop_gate=[[-1, arrived]])
    work.add_chunks(group=group, bytes=KB, die=[[0, 2]], channel=0, arrive=[[-1, arrived]])
    network = line(3, buffer=3 * KB, transit=KB)
    network.buffer_bytes[0] = 10 * KB
    assert sends(run(work, network)) == [
        (0, 1, 100, 200),
        (0, 1, 200, 300),
        (0, 1, 400, 500),
        (1, 2, 500, 600),
        (0, 1, 600, 700),
    ]


def test_a_send_waits_for_room_where_it_goes_and_for_room_on_the_way() -> None:
    """Die 2 is full until 150 ns; from 100 to 300 ns a chunk takes, on its way from there, what die 1 keeps."""
    work = Work()
    group, back = work.new_group(), int(work.new_gates([1])[0])
    work.add_chunks(group=group, bytes=KB, die=[[2]], pool=TOKENS, compute_ps=150 * KB)
    work.add_chunks(group=group, bytes=KB, die=[[1]], pool=TOKENS, space=0, compute_ps=100 * KB, done=back)
    work.add_chunks(group=group, bytes=KB, die=[[0, 2]], pool=TOKENS, space=[[0, KB]])
    work.add_chunks(group=group, bytes=KB, die=[[2, 0]], pool=TOKENS, space=0, gate=back)
    timeline = run(work, line(3, buffer=2 * KB, transit=KB))
    assert sends(timeline) == [(2, 1, 100, 200), (1, 0, 200, 300), (0, 1, 300, 400), (1, 2, 400, 500)]
    assert timeline.space_ps[(timeline.kind == SEND) & (timeline.source == 0)].tolist() == [300 * KB]


def _simulated(package: Package, strategy: str) -> Result:
    model = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2)
    routing = routing_of(model, 48, 1.0, 3)
    return simulate(model, package, routing, strategy, options=Options(training=training_of(routing, 3)))


@pytest.mark.parametrize("strategy", strategy_names())
def test_strategies_keep_to_the_buffers_that_the_package_has(strategy: str) -> None:
    package = Package.preset("3x3").replace(**{"d2d.switching": "store-and-forward"})
    result = _simulated(package, strategy)
    assert result.prove() <= 1e-10
    if strategy in ("ep", "ep-replicated", "hydra"):
        return  # they bring their own weight buffers
    limits = [package.die.weight_buffer_bytes, package.die.token_buffer_bytes]
    assert (result.plan.buffer_bytes <= limits).all()


@pytest.mark.parametrize(
    ("strategy", "weights", "tokens", "message"),
    [
        (
            "ep",
            64_000,
            8000,
            "the token buffer of a die is 5.562 KiB, but 48 tokens on 9 dies need at least 7 KiB even in the smallest "
            "passes; use fewer tokens per iteration or a larger token buffer (store-and-forward keeps 1.125 KiB of "
            "each weight buffer and 2.25 KiB of each token buffer for what passes through a die)",
        ),
        (
            "fse-dp-paired",
            2000,
            8000,
            "the weight buffer of a die is 1.391 KiB, but even micro-slices of one column need 1.875 KiB to circulate "
            "over 9 dies; enlarge it (store-and-forward keeps 576 B of each weight buffer and 0 B of each token buffer "
            "for what passes through a die)",
        ),
    ],
)
def test_buffers_too_small_for_what_passes_are_named(strategy: str, weights: int, tokens: int, message: str) -> None:
    package = Package.preset("3x3").replace(
        **{
            "d2d.switching": "store-and-forward",
            "die.token_buffer_bytes": tokens,
            "die.weight_buffer_bytes": weights,
        }
    )
    with pytest.raises(BufferTooSmallError) as caught:
        _simulated(package, strategy)
    assert str(caught.value) == message


def test_weights_that_wait_for_tokens_where_they_end_stop_nothing_on_its_way() -> None:
    """A layer of which no more would ever move if what passes could fill the room of what ends at a die."""
    model = MoEModel.one_layer(d_model=64, d_ffn=10, n_experts=4, top_k=2)
    chip = Package.preset("3x3").replace(
        rows=2,
        cols=3,
        channels=[
            {"dies": (3,), "bandwidth": "100 MB/s", "latency": "0 ns"},
            {"dies": (5,), "bandwidth": "25.6 GB/s", "latency": "0 ns"},
        ],
        **{
            "d2d.switching": "store-and-forward",
            "d2d.latency_ps": 0,
            "d2d.header_bytes": 0,
            "die.macs_per_cycle": 1,
            "die.control_overhead_cycles": 0,
            "die.weight_buffer_bytes": 1024,
            "die.token_buffer_bytes": 8192,
        },
    )
    chosen = [3, 2, 2, 3, 3, 0, 1, 3, 2, 3, 0, 1, 1, 0, 3, 1, 0, 3, 3, 0, 1, 3, 2, 0, 0, 3, 1, 3, 3, 2, 2, 1, 2, 0]
    routed = routing_of(model, 17, 0.0, 1)
    routed = replace(routed, experts=np.array(chosen, dtype=np.int16).reshape(17, 2))
    alone = simulate(model, chip, routed, "tp-per-expert")
    assert alone.prove() <= 1e-10
    served = Blocks(model, chip, "tp-per-expert", Options()).experts(routed, alone.workload.die_of_token)
    assert served.latency_ps == alone.latency_ps
