"""The proof of a schedule accepts right ones and names what is wrong with wrong ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from expertstream.engine.layout import COMPUTE, LOAD
from expertstream.engine.network import Network
from expertstream.engine.run import run
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from expertstream.errors import ExpertStreamError, WorkloadError
from expertstream.numerics import (
    TOLERANCE,
    DenseLayer,
    ReplayError,
    check_coverage,
    check_loads,
    dense_output,
    prove,
    replay,
)
from expertstream.numerics.layer import silu

COLUMN_BYTES = 10  # a column loads in 10000 ps
STEP_PS = 1000


@dataclass(frozen=True)
class Task:
    """One chunk: columns of an expert, loaded at the first die, and the tokens that each die computes with it."""

    expert: int
    first: int
    last: int
    dies: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]
    loaded: bool = True


# Experts 0 to 2 are routed, 3 is shared. Tokens 0 and 1 live on die 0, tokens 2 and 3 on die 1.
EXPERTS = np.array([[0, 1], [1, 0], [0, 2], [1, 2]], dtype=np.int16)
WEIGHTS = np.array([[0.75, 0.25], [0.5, 0.5], [0.9, 0.1], [0.3, 0.7]], dtype=np.float32)
RING = (
    Task(0, 0, 3, (0, 1), ((0, 1), (2,))),
    Task(0, 3, 7, (1, 0), ((2,), (0, 1))),
    Task(1, 0, 4, (0, 1), ((0, 1), (3,))),
    Task(1, 4, 7, (1, 0), ((3,), (0, 1))),
    Task(2, 0, 7, (1,), ((2, 3),)),
    Task(3, 0, 2, (0, 1), ((0, 1), (2, 3))),
    Task(3, 2, 4, (1, 0), ((2, 3), (0, 1))),
)


def workload(experts: np.ndarray = EXPERTS, weights: np.ndarray = WEIGHTS) -> SimpleNamespace:
    return SimpleNamespace(
        routing=SimpleNamespace(experts=experts, weights=weights),
        model=SimpleNamespace(n_experts=3),
        columns=np.array([7, 7, 7, 4], dtype=np.int64),
        n_tokens=experts.shape[0],
        column_bytes=COLUMN_BYTES,
    )


def two_dies() -> Network:
    return Network(
        buffer_bytes=np.full((2, 2), 10**6, dtype=np.int64),
        channel_bandwidth=np.full(2, 10**9, dtype=np.int64),
        channel_latency_ps=np.zeros(2, dtype=np.int64),
        path_ptr=np.array([0, 0, 1, 2, 2], dtype=np.int64),
        path_links=np.array([0, 1], dtype=np.int64),
        path_bandwidth=np.full(4, 10**10, dtype=np.int64),
        path_latency_ps=np.zeros(4, dtype=np.int64),
        header_bytes=0,
        links=np.array([[0, 1], [1, 0]], dtype=np.int64),
    )


def schedule(tasks: tuple[Task, ...]) -> tuple[Timeline, SimpleNamespace]:
    """Run the tasks on two dies with a DDR channel each; returns the timeline and the plan's labels."""
    work = Work()
    group = work.new_group()
    sets: list[tuple[int, ...]] = []
    for row, task in enumerate(tasks):
        work.add_chunks(
            group=group,
            bytes=(task.last - task.first) * COLUMN_BYTES,
            die=[task.dies],
            channel=task.dies[0] if task.loaded else -1,
            tag=row,
            compute_ps=[[STEP_PS * len(t) for t in task.tokens]],
            tokens=[[len(t) for t in task.tokens]],
            stop_tag=[[len(sets) + i for i in range(len(task.tokens))]],
        )
        sets += task.tokens
    plan = SimpleNamespace(
        slices=np.array([(t.expert, t.first, t.last) for t in tasks], dtype=np.int64).reshape(-1, 3),
        set_ptr=np.concatenate(([0], np.cumsum([len(s) for s in sets]))).astype(np.int64),
        set_ids=np.array([t for s in sets for t in s], dtype=np.int64),
    )
    return run(work, two_dies()), plan


def message(tasks: tuple[Task, ...]) -> str:
    timeline, plan = schedule(tasks)
    with pytest.raises(ReplayError) as error:
        prove(workload(), plan, timeline)
    return str(error.value)


def swap(task: int, **changes: object) -> tuple[Task, ...]:
    return (*RING[:task], replace(RING[task], **changes), *RING[task + 1 :])  # type: ignore[arg-type]


def test_a_ring_of_two_dies_computes_the_dense_layer() -> None:
    timeline, plan = schedule(RING)
    check_coverage(timeline, plan, workload())
    check_loads(timeline, plan, workload(), times=np.ones(4, dtype=np.int64))
    errors = [prove(workload(), plan, timeline, seed=seed) for seed in range(3)]
    assert max(errors) <= TOLERANCE


def test_whole_experts_computed_without_flow_and_in_turns_are_right_too() -> None:
    tasks = (
        Task(0, 0, 7, (0,), ((0, 1, 2),)),
        Task(1, 0, 7, (1,), ((3, 0),)),
        Task(1, 0, 7, (1,), ((1,),)),
        Task(2, 0, 7, (0,), ((3, 2),)),
        Task(3, 0, 4, (1,), ((3, 1, 0, 2),)),
    )
    timeline, plan = schedule(tasks)
    assert prove(workload(), plan, timeline) <= TOLERANCE
    check_loads(timeline, plan, workload(), times=np.array([1, 2, 1, 1]))


def test_the_dense_layer_is_the_sum_of_its_definition() -> None:
    layer = DenseLayer.random(5, [7, 7, 7, 4], seed=3)
    x = np.random.default_rng(1).standard_normal((4, 5))
    out = dense_output(layer, x, workload().routing, n_routed=3)
    for t in range(4):
        expected = np.zeros(5)
        chosen = [*zip(EXPERTS[t].tolist(), WEIGHTS[t].astype(np.float64).tolist(), strict=True), (3, 1.0)]
        for e, weight in chosen:
            z = x[t] @ layer.gate[e]
            expected += weight * ((z / (1 + np.exp(-z)) * (x[t] @ layer.up[e])) @ layer.down[e])
        np.testing.assert_allclose(out[t], expected, rtol=1e-12, atol=1e-13)


def test_weights_depend_on_seed_and_expert_only() -> None:
    layer, other = DenseLayer.random(4, [3, 5], seed=7), DenseLayer.random(4, [0, 5], seed=7)
    np.testing.assert_array_equal(layer.down[1], other.down[1])
    assert layer.columns.tolist() == [3, 5]
    assert layer.d_model == 4
    assert (DenseLayer.random(4, [3], seed=8).up[0] != layer.up[0]).all()


def test_silu_survives_extreme_inputs() -> None:
    np.testing.assert_allclose(silu(np.array([-1e4, 0.0, 1e4])), [0.0, 0.0, 1e4], atol=1e-12)


@pytest.mark.parametrize(
    ("d_model", "columns", "text"),
    [
        (0, [1], "d_model is 0; it must be at least 1"),
        (4, [2, -1], "an expert has -1 columns; give each expert 0 columns or more"),
    ],
)
def test_layers_that_cannot_be(d_model: int, columns: list[int], text: str) -> None:
    with pytest.raises(WorkloadError) as error:
        DenseLayer.random(d_model, columns)
    assert str(error.value) == text


def test_replay_adds_what_the_timeline_does_right_or_wrong() -> None:
    layer = DenseLayer.random(6, workload().columns, seed=2)
    x = np.random.default_rng(5).standard_normal((4, 6))
    dense = dense_output(layer, x, workload().routing, n_routed=3)

    def replayed(tasks: tuple[Task, ...]) -> np.ndarray:
        timeline, plan = schedule(tasks)
        return replay(timeline, plan, layer, x, workload())

    np.testing.assert_allclose(replayed(RING), dense, rtol=0, atol=1e-12)
    part = WEIGHTS[2:, 1:].astype(np.float64) * layer.partial_sum(x[2:], 2, 0, 7)
    np.testing.assert_allclose(replayed(RING[:4] + RING[5:])[2:], dense[2:] - part, rtol=0, atol=1e-12)
    np.testing.assert_allclose(replayed((*RING, RING[4]))[2:], dense[2:] + part, rtol=0, atol=1e-12)
    np.testing.assert_allclose(replayed(RING)[:2], dense[:2], rtol=0, atol=1e-12)
    assert np.isnan(replayed(swap(4, tokens=((0, 3),)))[0]).all()
    assert issubclass(ReplayError, ExpertStreamError)


def test_a_missing_slice_is_named() -> None:
    assert message(RING[:1] + RING[2:]) == (
        "token 0 is never computed with columns 3-6 of expert 0; 3 of 12 (token, expert) pairs are incomplete, "
        "and every column must be computed exactly once for each"
    )


def test_a_single_missing_column_in_the_middle_is_named() -> None:
    assert message(swap(6, first=3)) == (
        "token 0 is never computed with column 2 of expert 3; 4 of 12 (token, expert) pairs are incomplete, "
        "and every column must be computed exactly once for each"
    )


def test_a_missing_expert_is_named() -> None:
    assert message(RING[:4] + RING[5:]).startswith("token 2 is never computed with columns 0-6 of expert 2; 2 of 12 ")


def test_a_token_left_out_is_named() -> None:
    assert message(swap(5, tokens=((0, 1), (2,)))).startswith(
        "token 3 is never computed with columns 0-1 of expert 3; 1 of 12 "
    )


def test_a_slice_twice_is_named_with_both_places() -> None:
    text = message((*RING, RING[4]))
    assert text == (
        "token 2 is computed 2 times with columns 0-6 of expert 2: on die 1 at 140000 ps and on die 1 at 230000 ps; "
        "every column must be computed exactly once"
    )


def test_slices_that_overlap_are_named_by_the_overlap() -> None:
    assert message(swap(1, first=2)).startswith("token 0 is computed 2 times with column 2 of expert 0: on die 0 at ")


def test_the_same_token_set_twice_is_found_before_sets_are_expanded() -> None:
    timeline, plan = schedule((*RING, replace(RING[4], first=5)))
    stop_tag = timeline.stop_tag.copy()
    stop_tag[stop_tag == stop_tag.max()] = 8
    with pytest.raises(ReplayError, match="token 2 is computed 2 times with columns 5-6 of expert 2: on die 1 at "):
        check_coverage(replace(timeline, stop_tag=stop_tag), plan, workload())


def test_a_token_twice_in_a_set_is_found() -> None:
    assert message(swap(4, tokens=((2, 3, 3),))).startswith(
        "token 3 is computed 2 times with columns 0-6 of expert 2: "
    )


def test_a_wrong_token_set_is_named() -> None:
    assert message(swap(4, tokens=((1, 3),))) == (
        "token 1 is computed with columns 0-6 of expert 2 on die 1 at 140000 ps, but it is not routed to that expert; "
        "token set 8 of the plan is wrong"
    )


def test_labels_out_of_range_are_named() -> None:
    timeline, plan = schedule(RING)
    first = int(np.flatnonzero(timeline.kind == COMPUTE)[0])

    def with_label(name: str, value: int) -> str:
        column = getattr(timeline, name).copy()
        column[first] = value
        with pytest.raises(ReplayError) as error:
            check_coverage(replace(timeline, **{name: column}), plan, workload())
        return str(error.value)

    assert with_label("tag", 7) == (
        "the compute on die 0 at 30000 ps has tag 7, but the plan has 7 slices; "
        "label a chunk with its row of plan.slices, or with -1 if it has no weights"
    )
    assert with_label("stop_tag", -1) == (
        "the compute on die 0 at 30000 ps has stop tag -1, but the plan has 13 token sets; "
        "label every stop that computes with the number of its token set"
    )
    assert with_label("tokens", 1) == (
        "the compute of columns 0-2 of expert 0 on die 0 at 30000 ps takes the time of 1 tokens, "
        "but its token set 0 has 2; make them agree"
    )
    # A compute without weights, such as an addition, is nothing to replay: here its columns are then missing.
    assert with_label("tag", -1).startswith("token 0 is never computed with columns 0-2 of expert 0; 2 of 12 ")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            (4, 0, 7),
            "slice 4 of the plan is of expert 4, but the layer has 4 experts, shared ones included; "
            "experts count from 0",
        ),
        (
            (3, 0, 7),
            "slice 4 of the plan covers columns [0, 7) of expert 3, which has 4 columns; "
            "a slice needs 0 <= first < last <= columns",
        ),
    ],
)
def test_slices_out_of_range_are_named(row: tuple[int, int, int], text: str) -> None:
    timeline, plan = schedule(RING)
    plan.slices[4] = row
    with pytest.raises(ReplayError) as error:
        check_coverage(timeline, plan, workload())
    assert str(error.value) == text


def test_a_token_out_of_range_is_named() -> None:
    assert message(swap(4, tokens=((2, 4),))) == (
        "the plan's token sets name token 4, but the iteration has 4 tokens; token numbers count from 0"
    )


def test_weights_that_never_come_from_ddr_are_named() -> None:
    assert message(swap(1, loaded=False)) == (
        "DDR loads of columns 3-6 of expert 0: 0, allowed: 1 to 2; the timeline computes 2 times with these columns"
    )


def test_loads_beyond_the_use_and_beyond_once_a_pass_are_named() -> None:
    idle = Task(2, 2, 4, (0,), ((),))
    assert message((*RING, idle)) == (
        "DDR loads of columns 2-3 of expert 2: 2, allowed: 1; the timeline computes 1 times with these columns"
    )
    timeline, plan = schedule(RING)
    with pytest.raises(ReplayError) as error:
        check_loads(timeline, plan, workload(), times=np.array([1, 2, 1, 1]))
    assert str(error.value) == (
        "DDR loads of columns 0-6 of expert 1: 1, allowed: 2; the timeline computes 2 times with these columns"
    )


def test_loads_of_an_expert_without_tokens_are_named() -> None:
    experts = np.where(EXPERTS == 2, [[1, 1], [1, 1], [1, 1], [0, 0]], EXPERTS).astype(np.int16)
    load = workload(experts)
    idle = replace(RING[4], tokens=((),))
    others = (
        Task(0, 0, 7, (0,), ((0, 1, 2, 3),)),
        Task(1, 0, 7, (0,), ((0, 1, 2, 3),)),
        Task(3, 0, 4, (1,), ((0, 1, 2, 3),)),
    )
    timeline, plan = schedule(others)
    assert prove(load, plan, timeline) <= TOLERANCE
    timeline, plan = schedule((*others, idle))
    with pytest.raises(ReplayError, match=r"^DDR loads of columns 0-6 of expert 2: 1, allowed: 0; "):
        prove(load, plan, timeline)


def test_a_load_of_other_bytes_is_named() -> None:
    timeline, plan = schedule(RING)
    moved = np.where((timeline.kind == LOAD) & (timeline.tag == 4), 71, timeline.bytes)
    with pytest.raises(ReplayError) as error:
        check_loads(replace(timeline, bytes=moved), plan, workload())
    assert str(error.value) == (
        "the load of columns 0-6 of expert 2 on die 1 at 70000 ps moves 71 bytes, but these columns have 70 bytes"
    )


def test_a_compute_before_its_weights_are_loaded_is_named() -> None:
    timeline, plan = schedule(RING)
    early = np.where((timeline.kind == COMPUTE) & (timeline.tag == 4), 5, timeline.start_ps)
    with pytest.raises(ReplayError) as error:
        check_loads(replace(timeline, start_ps=early), plan, workload())
    assert str(error.value).startswith("the first compute with column 0 of expert 2 starts at 5 ps, but its first load")


def test_a_numeric_error_that_coverage_cannot_see_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline, plan = schedule(RING)
    monkeypatch.setattr("expertstream.numerics.proof.replay", lambda t, p, layer, x, w: x * np.nan)
    with pytest.raises(ReplayError) as error:
        prove(workload(), plan, timeline)
    assert str(error.value) == (
        "the replayed output differs from the dense layer's by nan of its largest value, allowed is 1e-10; "
        "every column is computed once, so a gate weight or a partial sum is wrong"
    )


def test_no_tokens_need_no_proof() -> None:
    timeline, plan = schedule(())
    nobody = workload(EXPERTS[:0], WEIGHTS[:0])
    assert prove(nobody, plan, timeline) == 0.0


def test_a_large_layer_is_checked_without_looping_over_columns() -> None:
    rng = np.random.default_rng(0)
    experts = np.argsort(rng.random((512, 128)), axis=1)[:, :8].astype(np.int16)
    load = SimpleNamespace(
        routing=SimpleNamespace(experts=experts, weights=np.full((512, 8), 0.125, dtype=np.float32)),
        model=SimpleNamespace(n_experts=128),
        columns=np.full(128, 768, dtype=np.int64),
        n_tokens=512,
        column_bytes=1,
    )
    sets = [np.flatnonzero((experts == e).any(axis=1)) for e in range(128)]
    expert, part = np.divmod(np.arange(128 * 16), 16)
    plan = SimpleNamespace(
        slices=np.stack((expert, part * 48, part * 48 + 48), axis=1),
        set_ptr=np.concatenate(([0], np.cumsum([s.size for s in sets]))),
        set_ids=np.concatenate(sets),
    )
    work = Work()
    tokens = np.diff(plan.set_ptr)[expert][:, None]
    work.add_chunks(
        group=work.new_group(),
        bytes=48,
        die=(expert % 2)[:, None],
        channel=expert % 2,
        tag=np.arange(expert.size),
        compute_ps=100,
        tokens=tokens,
        stop_tag=expert[:, None],
    )
    timeline = run(work, two_dies())
    assert prove(load, plan, timeline) <= TOLERANCE
