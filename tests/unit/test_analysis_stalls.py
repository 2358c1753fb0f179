"""Causes of idle time, each in a case small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from expertstream.analysis import CAUSES, measure_busy_times, stall_ps
from expertstream.engine.layout import COMPUTE, LOAD, SEND, TOKENS
from expertstream.engine.run import View, run
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.strategy import Options, strategy_names
from tests.property.cases import routing_of, training_of
from tests.unit.test_analysis_busy_times import line
from tests.unit.test_engine import KB, full_network

US = 1_000_000


def causes(timeline: Timeline) -> list[dict[str, int]]:
    """Causes that are not 0, for each die; all idle time must have one."""
    stalls = stall_ps(timeline)
    assert stalls.dtype == np.int64
    assert (stalls >= 0).all()
    busy = measure_busy_times(timeline).compute_ps
    np.testing.assert_array_equal(stalls.sum(axis=1) + busy, timeline.latency_ps)
    return [{c: int(t) for c, t in zip(CAUSES, row, strict=True) if t} for row in stalls]


def test_a_wait_for_the_load_is_ddr_with_the_latency_of_the_channel() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]] * 2, channel=0, compute_ps=[[300_000], [100_000]])
    timeline = run(work, full_network(2, load_latency=70))
    # Computes at 1.00007 and 2.00007 us.
    assert causes(timeline) == [{"ddr": 1_000_070 + 700_000}, {"no work": 2_100_070}]


def test_a_load_that_found_no_room_is_space_also_for_the_loads_behind_it() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=KB, die=[[0]] * 2, channel=0, compute_ps=400_000)
    work.add_chunks(group=group, bytes=KB, die=[[1]], channel=0, compute_ps=5)
    timeline = run(work, full_network(2, buffer=KB))
    # Die 0: load, compute until 1.4 us, load until 2.4 us. The load for die 1 queues behind, until 3.4 us.
    assert causes(timeline) == [
        {"ddr": 2 * US, "no work": 3_400_005 - 2_800_000},
        {"ddr": 3 * US, "space": 400_000},
    ]


def test_the_die_that_waits_for_its_own_room_is_stalled_by_space_and_by_ddr() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=KB, die=[[0]], channel=0, compute_ps=100_000)
    gate = work.new_gates(1)
    work.add_chunks(group=group, bytes=KB, die=[[0]], channel=0, hold=gate)
    work.add_chunks(group=group, bytes=KB, die=[[0]], channel=0, compute_ps=100_000)
    work.add_chunks(group=group, bytes=5 * KB, die=[[1]], channel=1, compute_ps=1, done=gate)
    timeline = run(work, full_network(2, buffer=5 * KB))
    # With room for five nothing waits: loads until 1, 2 and 3 us.
    assert causes(timeline)[0] == {"ddr": 1 * US + 1_900_000, "no work": 5_000_001 - 3_100_000}
    tight = full_network(2, buffer=5 * KB)
    tight.buffer_bytes[0, 0] = KB
    # The second chunk is held until 5.000001 us; the third loads after it.
    timeline = run(work, tight)
    third = timeline.start_ps[(timeline.kind == LOAD) & (timeline.chunk == 2)]
    assert third.tolist() == [5_000_001]
    # Gap from 1.1 us: the second chunk loads until 2.1 us, no room until 5.000001 us, then the third loads.
    assert causes(timeline)[0] == {"ddr": US + US + US, "space": 2_900_001}


def test_a_load_that_was_not_asked_for_waits_for_other_dies() -> None:
    class Later:
        """Group 1 starts when group 0 has completed."""

        def __init__(self) -> None:
            self.left = [0, 1]

        def decide(self, view: View) -> Iterable[int]:
            done = 2 - len(self.left)
            return [self.left.pop(0)] if self.left and (view.group_state[:done] == 3).all() else []

    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0, compute_ps=300_000)
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[1]], channel=1, compute_ps=5)
    timeline = run(work, full_network(2), Later())
    assert causes(timeline) == [{"ddr": US, "no work": US + 5}, {"other die": 1_300_000, "ddr": US}]


def test_loads_of_other_groups_are_no_loads_of_ones_own() -> None:
    work = Work()
    computed = work.new_gates(1)
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0, compute_ps=300_000, done=computed)
    work.add_chunks(group=work.new_group(), bytes=0, die=[[1]], pool=TOKENS, compute_ps=5, stop_gate=computed)
    assert causes(run(work, full_network(2)))[1] == {"other die": US + 300_000}


def test_a_chunk_that_is_computed_elsewhere_then_sent() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0, 1]], channel=0, compute_ps=[[400_000, 5]], flow=False)
    timeline = run(work, full_network(2, latency=30))
    assert causes(timeline) == [
        {"ddr": US, "no work": 100_035},
        {"ddr": US, "other die": 400_000, "d2d": 100_030},
    ]


def test_a_send_that_waits_for_room_at_the_receiver_is_space_there() -> None:
    work = Work()
    group = work.new_group()
    gate = work.new_gates(1)
    work.add_chunks(group=group, bytes=KB + 1, die=[[1]], hold=gate)
    work.add_chunks(group=group, bytes=KB, die=[[0, 1]], channel=0, compute_ps=[[0, 5]])
    work.add_chunks(group=group, bytes=4 * KB, die=[[2]], channel=2, compute_ps=1, done=gate)
    network = full_network(3, buffer=2 * KB)
    network.buffer_bytes[2, 0] = 4 * KB
    timeline = run(work, network)
    assert timeline.start_ps[timeline.kind == SEND].tolist() == [4_000_001]
    assert causes(timeline)[1] == {"ddr": US, "space": 3_000_001, "d2d": 100_000}


def test_a_busy_link_is_d2d() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=[KB, KB], die=[[0, 2], [0, 1]], compute_ps=[[0, 5], [0, 5]])
    timeline = run(work, line(3))
    # The first transfer occupies both links for 100 ns; the second waits for the first link.
    assert causes(timeline) == [{"no work": 200_005}, {"d2d": 200_000}, {"d2d": 100_000, "no work": 100_000}]


def test_a_whole_expert_at_a_gate_waits_for_the_last_load_of_its_group() -> None:
    work = Work()
    group = work.new_group()
    loaded = work.new_gates(2)
    work.add_chunks(group=group, bytes=KB, die=[[0]] * 2, channel=0, arrive=loaded)
    work.add_chunks(group=group, bytes=0, die=[[0]], pool=TOKENS, compute_ps=7, stop_gate=loaded)
    other = work.new_group()
    work.add_chunks(group=other, bytes=KB, die=[[0]], channel=0)
    timeline = run(work, full_network(1, load_latency=70))
    assert timeline.start_ps[timeline.kind == COMPUTE].tolist() == [2_000_070]
    assert causes(timeline) == [{"ddr": 2_000_070, "no work": 3_000_070 - 2_000_077}]


@pytest.mark.parametrize("tokens_late", [True, False])
def test_a_gate_is_d2d_if_a_transfer_opened_it_and_another_die_if_a_compute_did(tokens_late: bool) -> None:
    work = Work()
    gate = work.new_gates(2)
    weights, tokens = work.new_group(), work.new_group()
    work.add_chunks(group=weights, bytes=KB, die=[[0]], channel=0, compute_ps=5, stop_gate=gate)
    work.add_chunks(
        group=tokens,
        bytes=15 * KB if tokens_late else KB,
        die=[[1, 0]],
        pool=TOKENS,
        space=0,
        arrive=[[-1, int(gate[0])]],
    )
    work.add_chunks(group=tokens, bytes=1, die=[[1]], compute_ps=1_200_000, done=gate)
    timeline = run(work, full_network(2))
    expected = {"ddr": US, "d2d": 500_000} if tokens_late else {"ddr": US, "other die": 200_000}
    assert causes(timeline)[0] == expected


def test_without_loads_or_transfers_a_gate_is_another_die() -> None:
    work = Work()
    group = work.new_group()
    gate = work.new_gates(1)
    work.add_chunks(group=group, bytes=1, die=[[1]], compute_ps=900, done=gate)
    work.add_chunks(group=group, bytes=1, die=[[0]], compute_ps=50, stop_gate=gate)
    assert causes(run(work, full_network(2))) == [{"other die": 900}, {"no work": 50}]


def test_no_work() -> None:
    assert causes(run(Work(), full_network(2))) == [{}, {}]
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0)
    assert causes(run(work, full_network(2))) == [{"no work": US}, {"no work": US}]


def slowly(timeline: Timeline) -> np.ndarray:
    """The same rule, one gap and one load at a time."""
    network, t = timeline.network, timeline
    out = np.zeros((network.n_dies, len(CAUSES)), dtype=np.int64)
    loads = [i for i in range(len(t)) if t.kind[i] == LOAD]
    sends = [i for i in range(len(t)) if t.kind[i] == SEND]

    def came(i: int) -> int:
        if t.kind[i] == LOAD:
            return int(t.end_ps[i] + network.channel_latency_ps[t.resource[i]])
        return int(t.end_ps[i] + network.path_latency_ps[t.source[i] * network.n_dies + t.die[i]])

    for die in range(network.n_dies):
        at = 0
        for i in np.flatnonzero((t.kind == COMPUTE) & (t.die == die)).tolist():
            begin, until = at, int(t.start_ps[i])
            at = int(t.end_ps[i])
            if until == begin:
                continue
            own = [j for j in loads if t.chunk[j] == t.chunk[i]]
            own = own or sorted((j for j in loads if t.group[j] == t.group[i] and came(j) <= until), key=came)[-1:]
            if own and came(own[0]) > begin:
                load, free, explained = own[0], 0, 0
                for j in loads:
                    if t.resource[j] == t.resource[load] and j <= load:
                        unasked = max(0, t.ready_ps[j] - max(free, begin))
                        blocked = max(0, t.start_ps[j] - max(t.ready_ps[j], begin))
                        out[die, 3] += unasked
                        out[die, 2] += blocked
                        explained += unasked + blocked
                        free = t.end_ps[j]
                out[die, 0] += came(load) - begin - explained
                begin = came(load)
            for j in sends:
                if t.chunk[j] == t.chunk[i] and t.die[j] == die and came(j) > begin:
                    waited = min(max(0, t.ready_ps[j] - begin), until - begin)
                    room = max(0, min(t.space_ps[j], t.start_ps[j] - begin))
                    out[die, 3] += waited
                    out[die, 2] += room
                    out[die, 1] += came(j) - begin - waited - room
                    begin = came(j)
            opened = any(came(j) == until and t.die[j] == die for j in sends)
            out[die, 1 if opened else 3] += until - begin
        out[die, 4] = timeline.latency_ps - at
    return out


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("preset", ["test-chip-2x2", "3x3"])
@pytest.mark.parametrize("room", [12_000, 400_000])
def test_every_strategy_agrees_with_the_rule_taken_step_by_step(strategy: str, preset: str, room: int) -> None:
    model = MoEModel.one_layer(d_model=64, d_ffn=70, n_experts=12, top_k=3, n_shared_experts=1, shared_d_ffn=40)
    package = Package.preset(preset).replace(
        **{"die.weight_buffer_bytes": room, "die.token_buffer_bytes": 20_000, "die.macs_per_cycle": 256}
    )
    routing = routing_of(model, 60, 1.0, seed=3)
    options = Options(training=training_of(routing, seed=3))
    timeline = simulate(model, package, routing, strategy, options=options).timeline
    causes(timeline)
    np.testing.assert_array_equal(stall_ps(timeline), slowly(timeline))
