"""Exact, hand-computed cases of the event engine."""

from __future__ import annotations

import numpy as np
import pytest

from expertstream.engine import compile as compiling
from expertstream.engine import kernel
from expertstream.engine.layout import ADMITTED, COMPUTE, LOAD, SEND, STARTED, TOKENS, WAITING
from expertstream.engine.network import Network
from expertstream.engine.run import Admission, View, run
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError, SimulationStuckError

KB = 1000


def full_network(
    dies: int,
    *,
    buffer: int = 10**9,
    tokens: int = 10**9,
    channel: int = 10**9,
    link: int = 10**10,
    latency: int = 0,
    load_latency: int = 0,
    header: int = 0,
    channels: int | None = None,
) -> Network:
    """Every pair of dies has a link of its own; channel c belongs to die c."""
    pairs = [(a, b) for a in range(dies) for b in range(dies)]
    links = [p for p in pairs if p[0] != p[1]]
    sizes = [int(a != b) for a, b in pairs]
    n_channels = dies if channels is None else channels
    return Network(
        buffer_bytes=np.tile(np.array([buffer, tokens], dtype=np.int64), (dies, 1)),
        channel_bandwidth=np.full(n_channels, channel, dtype=np.int64),
        channel_latency_ps=np.full(n_channels, load_latency, dtype=np.int64),
        path_ptr=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        path_links=np.arange(len(links), dtype=np.int64),
        path_bandwidth=np.full(dies * dies, link, dtype=np.int64),
        path_latency_ps=np.array([latency * s for s in sizes], dtype=np.int64),
        header_bytes=header,
        links=np.array(links, dtype=np.int64).reshape(-1, 2),
    )


def rows(timeline: Timeline, kind: int) -> list[tuple[int, int]]:
    pick = timeline.kind == kind
    return list(zip(timeline.start_ps[pick].tolist(), timeline.end_ps[pick].tolist(), strict=True))


def test_one_chunk_is_loaded_then_computed() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0, compute_ps=500)
    timeline = run(work, full_network(1, load_latency=70))
    assert rows(timeline, LOAD) == [(0, 1_000_000)]
    assert rows(timeline, COMPUTE) == [(1_000_070, 1_000_570)]
    assert timeline.latency_ps == 1_000_570
    assert timeline.hold_from_ps.tolist() == [0]
    assert timeline.hold_to_ps.tolist() == [1_000_570]


def test_transfer_times_are_rounded_up_and_exact_for_large_chunks() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=[1, 10**9], die=[[0], [0]], channel=0)
    timeline = run(work, full_network(1, channel=7_000_000, buffer=2 * 10**9))
    assert rows(timeline, LOAD) == [(0, 142_858), (142_858, 142_858 + 142_857_142_857_143)]


def test_flow_sends_when_the_compute_starts_and_phase_wise_when_it_ends() -> None:
    for flow, arrival in ((True, 1_100_000), (False, 1_400_000)):
        work = Work()
        work.add_chunks(group=work.new_group(), bytes=KB, die=[[0, 1]], channel=0, compute_ps=300_000, flow=flow)
        timeline = run(work, full_network(2))
        assert rows(timeline, COMPUTE)[1] == (arrival, arrival + 300_000)


def test_the_header_and_the_latency_of_a_link_count() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0, 1]], channel=0, compute_ps=[[0, 5]])
    timeline = run(work, full_network(2, header=100, latency=7))
    assert rows(timeline, SEND) == [(1_000_000, 1_110_000)]
    assert rows(timeline, COMPUTE) == [(1_110_007, 1_110_012)]


def test_a_ring_of_four_visits_every_die_once_and_gives_all_space_back() -> None:
    work = Work()
    group = work.new_group()
    ring = [[(c + i) % 4 for i in range(4)] for c in range(4)]
    work.add_chunks(group=group, bytes=KB, die=ring, channel=[0, 1, 2, 3], compute_ps=200_000)
    timeline = run(work, full_network(4))
    # Every micro-slice arrives as the previous compute runs: four computes a die, back to back.
    assert timeline.latency_ps == 1_000_000 + 4 * 200_000
    assert np.bincount(timeline.die[timeline.kind == COMPUTE]).tolist() == [4, 4, 4, 4]
    assert (timeline.hold_to_ps >= timeline.hold_from_ps).all()


def test_the_most_recent_of_the_received_is_computed_before_the_local() -> None:
    work = Work()
    group = work.new_group()
    local = work.add_chunks(group=group, bytes=KB, die=[[1]] * 3, channel=1, compute_ps=2_500_000, rank=1)
    received = work.add_chunks(
        group=group, bytes=KB, die=[[0, 1]] * 2, channel=0, compute_ps=[[0, 10]], rank=[[0, 0]], lifo=1
    )
    timeline = run(work, full_network(2))
    order = timeline.chunk[(timeline.kind == COMPUTE) & (timeline.die == 1)].tolist()
    assert order == [local[0], received[1], received[0], local[1], local[2]]


def test_a_load_waits_for_room() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]] * 2, channel=0, compute_ps=400_000)
    timeline = run(work, full_network(1, buffer=KB))
    assert rows(timeline, LOAD) == [(0, 1_000_000), (1_400_000, 2_400_000)]
    assert timeline.space_ps[timeline.kind == LOAD].tolist() == [0, 400_000]


def test_a_send_waits_for_room_at_the_receiver() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=KB + 1, die=[[1]], compute_ps=5_000_000)
    work.add_chunks(group=group, bytes=KB, die=[[0, 1]], channel=0, compute_ps=[[0, 1]])
    timeline = run(work, full_network(2, buffer=2 * KB))
    assert rows(timeline, SEND) == [(5_000_000, 5_100_000)]
    assert timeline.space_ps[timeline.kind == SEND].tolist() == [4_000_000]


def test_a_transfer_time_is_rounded_up() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=1, die=[[0, 1]], compute_ps=[[0, 5]])
    timeline = run(work, full_network(2, link=7_000_000, header=9))
    assert rows(timeline, SEND) == [(0, 1_428_572)]  # 10 bytes


def test_tokens_that_found_no_room_and_then_a_busy_link_go_once_it_is_idle() -> None:
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=2 * KB, die=[[1]], pool=TOKENS, compute_ps=5_000_000)
    stay = [[0, 9_000_000]] * 2
    work.add_chunks(group=group, bytes=KB, die=[[0, 1]] * 2, pool=TOKENS, space=[[0, KB]] * 2, compute_ps=stay)
    timeline = run(work, full_network(2, tokens=2 * KB))
    assert rows(timeline, SEND) == [(5_000_000, 5_100_000), (5_100_000, 5_200_000)]


def test_what_waits_for_its_place_is_not_overtaken() -> None:
    work = Work()
    group = work.new_group()
    first, later = work.new_gates([1, 1]).tolist()
    work.add_chunks(group=group, bytes=2 * KB, die=[[0]], pool=TOKENS, compute_ps=5_000, done=first)
    work.add_chunks(group=group, bytes=2 * KB, die=[[0]], pool=TOKENS, arrive=later)
    work.add_chunks(group=group, bytes=KB, die=[[0]], pool=TOKENS, hold=later)
    timeline = run(work, full_network(1, tokens=3 * KB))
    assert timeline.hold_from_ps.tolist() == [0, 5_000, 5_000]


def test_gates_delay_injection_compute_and_release() -> None:
    work = Work()
    group = work.new_group()
    loaded, computed = work.new_gates([1, 2])
    work.add_chunks(group=group, bytes=KB, die=[[0]], channel=0, compute_ps=100, arrive=loaded, done=computed)
    work.add_chunks(group=group, bytes=5, die=[[0]], pool=TOKENS, gate=loaded, compute_ps=200, done=computed)
    work.add_chunks(group=group, bytes=7, die=[[0]], pool=TOKENS, hold=computed)
    timeline = run(work, full_network(1))
    assert rows(timeline, COMPUTE) == [(1_000_000, 1_000_100), (1_000_100, 1_000_300)]
    assert dict(zip(timeline.hold_bytes.tolist(), timeline.hold_to_ps.tolist(), strict=True)) == {
        KB: 1_000_100,
        5: 1_000_300,
        7: 1_000_300,
    }


def test_the_smallest_workable_buffer_works_and_one_byte_less_is_refused() -> None:
    def ring_work() -> Work:
        work = Work()
        group = work.new_group()
        ring = [[(c + i) % 4 for i in range(4)] for c in range(4)]
        work.add_chunks(
            group=group, bytes=KB, die=np.repeat(ring, 16, axis=0), channel=np.repeat(range(4), 16), compute_ps=200_000
        )
        return work

    timeline = run(ring_work(), full_network(4, buffer=4 * KB))
    assert np.bincount(timeline.die[timeline.kind == COMPUTE]).tolist() == [64] * 4
    with pytest.raises(BufferTooSmallError) as error:
        run(ring_work(), full_network(4, buffer=4 * KB - 1))
    assert str(error.value) == (
        "the weight buffer of die 0 is 3999 bytes, but a chunk of 1000 bytes with 3 further stops needs 4000 bytes; "
        "give it at least that, or use smaller chunks (more micro-slices)"
    )


def test_what_is_held_leaves_room_for_what_goes_on() -> None:
    def work_of(spare: int) -> Work:
        """Three chunks that wait at die 1 for a fourth, which must come through the same buffer."""
        work = Work()
        gate = work.new_gates(1)
        held = {"group": work.new_group(), "bytes": KB, "spare": spare, "compute_ps": 1}
        work.add_chunks(die=[[1]] * 3, channel=1, stop_gate=gate, **held)
        slow = [[5_000_000, 1]]
        work.add_chunks(group=0, bytes=KB, die=[[0, 1]], channel=0, flow=False, compute_ps=slow, done=[[-1, gate[0]]])
        return work

    timeline = run(work_of(KB), full_network(2, buffer=3 * KB))
    assert rows(timeline, LOAD) == [(0, 1_000_000), (0, 1_000_000), (1_000_000, 2_000_000), (6_100_002, 7_100_002)]
    with pytest.raises(SimulationStuckError):
        run(work_of(0), full_network(2, buffer=3 * KB))
    with pytest.raises(BufferTooSmallError, match="needs 3500 bytes"):
        run(work_of(2500), full_network(2, buffer=3 * KB))


def test_work_that_cannot_go_on_is_explained() -> None:
    work = Work()
    gate = work.new_gates(3)
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0, compute_ps=1, stop_gate=gate)
    with pytest.raises(SimulationStuckError) as error:
        run(work, full_network(1))
    assert str(error.value) == (
        "no event is left, with 1 chunk unfinished at 1000000 ps:\n"
        "  chunk 0 of group 0: at die 0 it waits for gate 0, which lacks 3 signals"
    )


def test_a_dispatcher_decides_when_a_group_completes_or_a_channel_runs_dry_and_its_time_counts() -> None:
    class OneByOne:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def decide(self, view: View) -> list[int]:
            self.seen.append(view.now_ps)
            waiting = np.flatnonzero(view.group_state == WAITING)
            running = np.isin(view.group_state, (ADMITTED, STARTED)).any()
            return [] if running or waiting.size == 0 else [int(waiting[0])]

    work = Work()
    for _ in range(2):
        work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0, compute_ps=100)
    dispatcher = OneByOne()
    timeline = run(work, full_network(1), dispatcher, decision_ps=1000)
    assert rows(timeline, LOAD) == [(1000, 1_001_000), (1_002_100, 2_002_100)]
    assert 1_001_100 in dispatcher.seen


def test_a_dispatcher_can_be_asked_as_soon_as_so_many_bytes_are_free() -> None:
    class Thrifty:
        """Starts the second group when three of four kilobytes are free."""

        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []

        def decide(self, view: View) -> list[int]:
            self.seen.append((view.now_ps, view.all_free_bytes))
            if view.group_state[0] == WAITING:
                return [0]
            if view.group_state[1] != WAITING:
                return []
            if view.all_free_bytes >= 3 * KB:
                return [1]
            view.ask_at(3 * KB)
            return []

    work = Work()
    first, second = work.new_group(), work.new_group()
    work.add_chunks(group=first, bytes=KB, die=[[0], [1]], channel=[0, 1], compute_ps=[[2_000_000], [4_000_000]])
    work.add_chunks(group=second, bytes=KB, die=[[0]], channel=0, compute_ps=100)
    dispatcher = Thrifty()
    timeline = run(work, full_network(2, buffer=2 * KB, tokens=0), dispatcher)
    # Two chunks are computed from 1 us on; one has been at 3 us, before the group is complete at 5 us.
    assert rows(timeline, LOAD) == [(0, 1_000_000), (0, 1_000_000), (3_000_000, 4_000_000)]
    assert (3_000_000, 3 * KB) in dispatcher.seen
    assert dispatcher.seen[-1] == (5_000_000, 4 * KB)


def test_a_dispatcher_may_say_how_long_each_decision_took() -> None:
    class Both:
        def __init__(self) -> None:
            self.left: list[Admission | int] = [Admission(0, 500), 1]

        def decide(self, view: View) -> list[Admission | int]:
            left, self.left = self.left, []
            return left

    work = Work()
    for _ in range(2):
        work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0, compute_ps=100)
    timeline = run(work, full_network(1), Both(), decision_ps=1000)
    assert rows(timeline, LOAD) == [(500, 1_000_500), (1_000_500, 2_000_500)]
    assert rows(timeline, COMPUTE)[0][0] == 1_000_500


def test_decisions_follow_one_another() -> None:
    work = Work()
    for die in range(3):
        work.add_chunks(group=work.new_group(), bytes=KB, die=[[die]], channel=die)
    timeline = run(work, full_network(3), decision_ps=1000)
    assert rows(timeline, LOAD) == [(1000 * n, 1_000_000 + 1000 * n) for n in (1, 2, 3)]


def test_a_group_whose_start_is_no_decision_takes_no_time() -> None:
    work = Work()
    for die, decided in enumerate((False, True)):
        work.add_chunks(group=work.new_group(decided=decided), bytes=KB, die=[[die]], channel=die)
    timeline = run(work.with_fields({}, {}), full_network(2), decision_ps=1000)
    assert rows(timeline, LOAD) == [(1000 * n, 1_000_000 + 1000 * n) for n in (0, 1)]


def test_no_work_takes_no_time() -> None:
    assert run(Work(), full_network(2)).latency_ps == 0


def test_of_alternatives_the_one_with_the_roomier_target_is_loaded() -> None:
    work = Work()
    placed, group = work.new_group(), work.new_group()
    held = work.new_gates(2)[0]
    work.add_chunks(group=placed, bytes=5 * KB, die=[[1]], hold=held)
    pairs = [
        work.add_chunks(group=group, bytes=KB, die=[order], channel=0, compute_ps=10, done=held)[0]
        for order in ([0, 1], [0, 2], [0, 1], [0, 2])
    ]
    work.set_gate(int(held), 4)
    chunks = np.array(pairs, dtype=np.int64).reshape(2, 2)
    work.add_alternatives(chunks, np.array([[1, 2], [1, 1]], dtype=np.int64))
    timeline = run(work, full_network(3, buffer=20 * KB))
    load = timeline.kind == LOAD
    assert timeline.chunk[load].tolist() == [pairs[1], pairs[2]]  # die 2 is empty; of equals, the first
    assert set(timeline.chunk.tolist()) == {pairs[1], pairs[2]}
    assert timeline.hold_die.size == 5  # nothing of the other two was ever in a buffer
    assert (timeline.hold_to_ps > timeline.hold_from_ps).all()


def test_a_changed_engine_file_makes_the_compiled_cache_stale() -> None:
    assert kernel.advance._cache._cache_file._source_stamp == compiling._STAMP  # type: ignore[attr-defined]
