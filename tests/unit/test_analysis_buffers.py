"""Buffer occupancy from hand-made stays."""

from __future__ import annotations

import numpy as np
import pytest

from expertstream.analysis import measure_buffers, occupancy
from expertstream.engine.layout import TOKENS
from expertstream.engine.run import run
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from tests.unit.test_engine import KB, full_network


def two_dies() -> Timeline:
    """A chunk of 1 kB goes from die 0 (0 to 1.1 us) to die 1 (1 to 1.5 us); tokens stay on die 1 till it is done."""
    work = Work()
    group = work.new_group()
    done = work.new_gates(1)
    work.add_chunks(
        group=group, bytes=KB, die=[[0, 1]], channel=0, compute_ps=[[0, 400_000]], done=[[-1, int(done[0])]]
    )
    work.add_chunks(group=group, bytes=300, die=[[1]], pool=TOKENS, hold=done)
    return run(work, full_network(2))


def steps(timeline: Timeline, die: int, pool: int) -> list[tuple[int, int]]:
    times, held = occupancy(timeline, die, pool)
    return list(zip(times.tolist(), held.tolist(), strict=True))


def test_occupancy_is_a_step_function() -> None:
    timeline = two_dies()
    assert steps(timeline, 0, 0) == [(0, KB), (1_100_000, 0)]
    assert steps(timeline, 1, 0) == [(0, 0), (1_000_000, KB), (1_500_000, 0)]
    assert steps(timeline, 1, 1) == [(0, 300), (1_500_000, 0)]
    assert steps(timeline, 0, 1) == [(0, 0)]


def test_peaks_and_means_per_die_and_for_the_package() -> None:
    buffers = measure_buffers(two_dies())
    assert buffers.peak_bytes.tolist() == [[KB, 0], [KB, 300]]
    # Both dies hold the chunk while it travels.
    assert buffers.package_peak_bytes.tolist() == [2 * KB, 300]
    assert buffers.package_peak_both_bytes == 2 * KB + 300
    np.testing.assert_allclose(buffers.mean_bytes, [[KB * 11 / 15, 0], [KB * 5 / 15, 300]], rtol=1e-15)


def test_means_are_those_of_the_latency_without_the_head_start() -> None:
    work = Work(origin_ps=1_200_000)
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], channel=0, compute_ps=500_000)
    work.add_chunks(group=0, bytes=300, die=[[0]], pool=TOKENS, compute_ps=100_000)
    timeline = run(work, full_network(1))
    # The weights are there from 0 to 1.5 us, the tokens until 0.1 us; the latency is from 1.2 us on.
    assert timeline.latency_ps == 300_000
    assert measure_buffers(timeline).mean_bytes.tolist() == [[KB, 0]]


def test_weights_and_tokens_that_peak_at_different_times_do_not_add_up() -> None:
    work = Work()
    group = work.new_group()
    computed = work.new_gates(1)
    work.add_chunks(group=group, bytes=KB, die=[[0]], channel=0, compute_ps=5, done=computed)
    work.add_chunks(group=group, bytes=700, die=[[0]], pool=TOKENS, gate=computed, compute_ps=10)
    buffers = measure_buffers(run(work, full_network(1)))
    assert buffers.package_peak_bytes.tolist() == [KB, 700]
    assert buffers.package_peak_both_bytes == KB


def test_space_given_back_at_an_instant_is_free_for_what_is_taken_then() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]] * 2, channel=0, compute_ps=400_000)
    timeline = run(work, full_network(1, buffer=KB))
    assert measure_buffers(timeline).peak_bytes.tolist() == [[KB, 0]]
    assert steps(timeline, 0, 0) == [(0, KB), (1_400_000, KB), (2_800_000, 0)]


def test_stays_of_no_length_do_not_count() -> None:
    work = Work()
    work.add_chunks(group=work.new_group(), bytes=KB, die=[[0]], pool=TOKENS)
    timeline = run(work, full_network(1))
    assert timeline.hold_bytes.tolist() == [KB]
    assert timeline.latency_ps == 0
    buffers = measure_buffers(timeline)
    assert buffers.peak_bytes.tolist() == [[0, 0]]
    assert buffers.package_peak_both_bytes == 0
    assert buffers.mean_bytes.tolist() == [[0.0, 0.0]]
    assert steps(timeline, 0, 1) == [(0, 0)]


def test_no_work_holds_nothing() -> None:
    buffers = measure_buffers(run(Work(), full_network(2)))
    assert buffers.peak_bytes.tolist() == [[0, 0], [0, 0]]
    assert buffers.package_peak_bytes.tolist() == [0, 0]


def test_a_buffer_that_is_not_there_is_an_error() -> None:
    timeline = run(Work(), full_network(2))
    with pytest.raises(IndexError) as error:
        occupancy(timeline, 2, 0)
    assert str(error.value) == "die is 2; it must be from 0 to 1"
    with pytest.raises(IndexError) as error:
        occupancy(timeline, 0, 2)
    assert str(error.value) == "pool is 2; it must be 0 (weights) or 1 (tokens)"
