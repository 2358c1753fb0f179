from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expertstream.errors import TraceError
from expertstream.trace import RoutingTrace, synthesize

SMALL = SimpleNamespace(name="small", n_experts=8, top_k=2, moe_layers=(4, 7))


def make(**changes: Any) -> RoutingTrace:
    """Three requests of 2, 3 and 1 tokens, layers 4 and 7; token t chooses t and t + 1 at both."""
    t = np.arange(6)
    experts = np.stack([t, t + 1], axis=1)[:, None, :].repeat(2, axis=1)
    fields: dict[str, Any] = {
        "experts": experts,
        "weights": None,
        "request": np.array([0, 0, 2, 2, 2, 5]),
        "position": np.array([0, 1, 0, 1, 2, 0]),
        "phase": np.full(6, -1),
        "layer_index": np.array([4, 7]),
        "n_experts": 8,
        "model": "small",
        "source": "test",
    }
    return RoutingTrace(**(fields | changes))


def same(a: RoutingTrace, b: RoutingTrace) -> bool:
    arrays = ("experts", "weights", "request", "position", "phase", "layer_index")
    values = ("n_experts", "model", "source", "id_space", "synthetic")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays) and all(
        getattr(a, n) == getattr(b, n) for n in values
    )


def message(function: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(TraceError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def test_arrays_get_their_types() -> None:
    trace = make(weights=np.ones((6, 2, 2), np.float16))
    kinds = [a.dtype.name for a in (trace.experts, trace.weights, trace.request, trace.phase) if a is not None]
    assert kinds == ["int16", "float32", "int32", "int8"]
    assert (trace.n_tokens, trace.top_k) == (6, 2)


@pytest.mark.parametrize("weights", [None, np.linspace(0, 1, 24).reshape(6, 2, 2)])
def test_parquet_keeps_everything(tmp_path: Path, weights: Any) -> None:
    trace = make(weights=weights, source="Größe", synthetic=True, id_space="ids")
    trace.save(tmp_path / "t.parquet")
    assert same(trace, RoutingTrace.load(tmp_path / "t.parquet"))
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.num_rows == 12
    assert table["layer"].to_pylist() == [4] * 6 + [7] * 6
    assert table.slice(7, 1).to_pylist()[0].items() >= {"token": 1, "layer": 7, "request": 0, "experts": [1, 2]}.items()


def test_parquet_in_a_folder_that_looks_like_a_partition(tmp_path: Path) -> None:
    folder = tmp_path / "layer=3"
    folder.mkdir()
    make().save(folder / "t.parquet")
    assert same(make(), RoutingTrace.load(folder / "t.parquet"))


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "t.parquet"
    make().save(path)
    before = path.read_bytes()

    def half(_writer: Any, _table: Any, **_: Any) -> None:
        raise failure

    monkeypatch.setattr(pq.ParquetWriter, "write_table", half)
    with pytest.raises((TraceError, KeyboardInterrupt)):
        make().save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_a_trace_is_as_readable_as_other_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        make().save(tmp_path / "t.parquet")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "t.parquet").stat().st_mode) == 0o640


def test_a_link_keeps_pointing_at_its_trace(tmp_path: Path) -> None:
    (tmp_path / "link.parquet").symlink_to("t.parquet")
    make().save(tmp_path / "link.parquet")
    assert (tmp_path / "link.parquet").is_symlink()
    assert same(make(), RoutingTrace.load(tmp_path / "t.parquet"))


def test_a_trace_goes_through_a_pipe(tmp_path: Path) -> None:
    make().save(tmp_path / "t.parquet")
    pipe = tmp_path / "pipe.parquet"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        make().save(pipe)
        assert read.result() == (tmp_path / "t.parquet").read_bytes()
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_device(tmp_path: Path) -> None:
    full = tmp_path / "full.parquet"
    full.symlink_to("/dev/full")
    with pytest.raises(TraceError, match=r"^cannot write '.*full.parquet': No space left on device$"):
        make().save(full)


def test_save_refuses_other_names(tmp_path: Path) -> None:
    assert message(make().save, "t.csv") == "'t.csv' is not a name for a trace; it must end in .parquet"
    missing = tmp_path / "none" / "t.parquet"
    assert message(make().save, missing) == (
        f"cannot write '{missing}': there is no folder '{missing.parent}'; create it first"
    )


def test_load_refuses_missing_and_foreign_files(tmp_path: Path) -> None:
    assert message(RoutingTrace.load, "no.parquet") == "there is no trace file 'no.parquet'"
    allowed = "is not a trace that can be read; allowed: .parquet, .npz files. Files of other tools"
    allowed += " become one with 'expertstream trace import'"
    assert message(RoutingTrace.load, "trace.csv") == f"'trace.csv' {allowed}"
    assert message(RoutingTrace.load, tmp_path) == f"'{tmp_path}' {allowed}"
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"a": [1]}), plain)
    assert message(RoutingTrace.load, plain) == (
        f"'{plain}' is a Parquet file but not a trace: its metadata has no format expertstream-trace-1"
    )


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_parquet(tmp_path: Path, share: float) -> None:
    path = tmp_path / "t.parquet"
    synthesize(SMALL, requests=2, tokens_per_request=50).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert message(RoutingTrace.load, path) == (
        f"'{path}' is not a readable Parquet file; it may be cut off or damaged: copy or write it again"
    )


def rewritten(path: Path, change: Any) -> Path:
    make(weights=np.ones((6, 2, 2))).save(path)
    pq.write_table(change(pq.read_table(path)), path)
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.slice(0, 0), "the trace is empty: it has no rows"),
        (lambda t: t.slice(0, 11), "is not a whole trace: one row per token and layer, numbered from 0 on, is needed"),
        (lambda t: t.slice(1), "is not a whole trace: one row per token and layer, numbered from 0 on, is needed"),
        (lambda t: t.drop_columns(["phase"]), "is not a whole trace: it has no column 'phase'"),
        (
            lambda t: t.set_column(2, "request", pa.array([None] * 12, pa.int32())),
            "is not a whole trace: column 'request' has empty cells",
        ),
        (
            lambda t: t.set_column(5, "experts", pa.array([[0, 1]] * 11 + [[0]], pa.list_(pa.int16()))),
            "the lists of column 'experts' differ in length or have empty cells",
        ),
        (
            lambda t: t.set_column(5, "experts", pa.array([0] * 12)),
            "column 'experts' holds int64, lists of numbers needed",
        ),
        (
            lambda t: t.replace_schema_metadata({b"format": b"expertstream-trace-1"}),
            "is not a whole trace: its metadata has no 'n_experts'",
        ),
        (
            lambda t: t.replace_schema_metadata({**t.schema.metadata, b"n_experts": b"many"}),
            "n_experts is 'many' in its metadata, a number needed",
        ),
        (
            lambda t: t.set_column(6, "weights", pa.array([["a", "b"]] * 12)),
            "weights holds object, float32 needed",
        ),
    ],
)
def test_parquet_that_is_not_whole(tmp_path: Path, change: Any, expected: str) -> None:
    assert expected in message(RoutingTrace.load, rewritten(tmp_path / "t.parquet", change))


def test_damaged_bytes_never_change_the_routing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    trace = synthesize(SMALL, requests=2, tokens_per_request=20)
    trace.save(path)
    data, messages = path.read_bytes(), []
    for at in range(0, len(data), 11):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :])
        try:
            again = RoutingTrace.load(path)
        except TraceError as error:
            messages.append(str(error))
        else:
            assert np.array_equal(again.experts, trace.experts)
    assert messages
    assert not any("\n" in m for m in messages)


NAN = np.full((6, 2, 2), 0.5)
NAN[3, 1, 0] = np.nan
TWICE = make().experts.copy()
TWICE[3, 1] = 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"experts": np.zeros((0, 2, 2), np.int16)},
            "test: the trace is empty: experts has shape (0, 2, 2), [tokens, layers, k] needed",
        ),
        (
            {"n_experts": 6},
            "test: expert id 6 of token 5, layer 4 is out of range; the model has experts 0 to 5",
        ),
        (
            {"experts": np.array(make().experts, np.int64) + 70000},
            "test: expert id 70000 of token 0, layer 4 is out of range; the model has experts 0 to 7",
        ),
        (
            {"experts": make().experts - 1},
            "test: expert id -1 of token 0, layer 4 is out of range; the model has experts 0 to 7",
        ),
        (
            {"experts": TWICE},
            "test: token 3 chose expert 6 twice at layer 7; the experts of a token must be distinct",
        ),
        (
            {"weights": NAN},
            "test: gate weight nan of token 3, layer 7; gate weights must be finite and not negative",
        ),
        (
            {"weights": -np.ones((6, 2, 2))},
            "test: gate weight -1.0 of token 0, layer 4; gate weights must be finite and not negative",
        ),
        ({"weights": np.ones((6, 2))}, "test: weights has shape (6, 2), (6, 2, 2) needed"),
        ({"request": np.zeros(5, int)}, "test: request has shape (5,), (6,) needed"),
        ({"position": np.zeros(6)}, "test: position holds float64, int32 needed"),
        ({"layer_index": np.array([4, 4])}, "test: layer_index names a layer twice: [4, 4]"),
        ({"n_experts": 0}, "test: n_experts is 0; 1 to 32768 needed"),
    ],
)
def test_bad_traces(changes: dict[str, Any], expected: str) -> None:
    assert message(make, **changes) == expected


def test_check_fits() -> None:
    make().check_fits(SMALL)
    other = SimpleNamespace(name="mixtral-8x7b", n_experts=8, top_k=3)
    assert message(make().check_fits, other) == (
        "the trace of small has 8 experts and k = 2, but mixtral-8x7b has 8 experts and k = 3; "
        "use a trace of that model"
    )
    shallow = SimpleNamespace(name="shallow", n_experts=8, top_k=2, moe_layers=(2, 3, 5))
    assert message(make(layer_index=np.array([3, 99])).check_fits, shallow) == (
        "the trace of small has layer 99, but the MoE layers of shallow are 2 to 3, 5; use a trace of that model"
    )


def test_round_robin_takes_requests_in_turn() -> None:
    routing = make().iteration(6, 7)
    assert routing.request.tolist() == [0, 2, 5, 0, 2, 2]
    assert sorted(routing.experts[:, 0].tolist()) == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(make().iteration(2, 7, offset=3).experts, routing.experts[3:5])


def test_round_robin_reads_requests_at_different_points() -> None:
    trace = synthesize(SMALL, requests=4, tokens_per_request=100)
    assert trace.position[trace.tokens_of(4)].tolist() == [0, 61, 23, 85]
    everything = trace.tokens_of(400)
    assert np.array_equal(np.sort(everything), np.arange(400))


def test_single_request_is_consecutive_and_stays_in_one_request() -> None:
    trace = make()
    assert trace.iteration(2, 4, mix="single-request").experts[:, 0].tolist() == [0, 1]
    assert trace.iteration(3, 4, mix="single-request").experts[:, 0].tolist() == [2, 3, 4]
    assert trace.iteration(1, 4, mix="single-request", request=2, offset=1).experts[:, 0].tolist() == [3]


def test_single_request_follows_positions_not_rows() -> None:
    trace = make(position=np.array([1, 0, 0, 1, 2, 0]))
    assert trace.tokens_of(2, mix="single-request").tolist() == [1, 0]


def test_counts_and_missing_weights() -> None:
    routing = make().iteration(6, 4)
    assert routing.counts.tolist() == [1, 2, 2, 2, 2, 2, 1, 0]
    assert routing.counts.dtype == np.int64
    assert routing.weights.tolist() == [[0.5, 0.5]] * 6
    assert (routing.layer, routing.n_experts, routing.source, routing.synthetic) == (4, 8, "test", False)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"tokens": 1, "layer": 5}, "test: layer 5 is not in the trace; it has 4, 7"),
        (
            {"tokens": 7, "layer": 4},
            "test: 7 tokens asked for, but the trace has 6; use fewer tokens per iteration or a longer trace",
        ),
        (
            {"tokens": 2, "layer": 4, "offset": 5},
            "test: 2 tokens after the first 5 asked for, but the trace has 6; "
            "use fewer tokens per iteration or a longer trace",
        ),
        (
            {"tokens": 4, "layer": 4, "mix": "single-request"},
            "test: 4 tokens asked for, but the longest request, 2, has 3; "
            "use fewer tokens per iteration or a longer trace",
        ),
        (
            {"tokens": 2, "layer": 4, "mix": "single-request", "request": 5},
            "test: 2 tokens asked for, but request 5 has 1; use fewer tokens per iteration or a longer trace",
        ),
        (
            {"tokens": 2, "layer": 4, "mix": "single-request", "request": 1},
            "test: there is no request 1; it has 0, 2, 5",
        ),
        (
            {"tokens": 2, "layer": 4, "request": 2},
            "request 2 was given with mix 'round-robin'; it needs mix 'single-request'",
        ),
        (
            {"tokens": 2, "layer": 4, "mix": "roundrobin"},
            "unknown mix 'roundrobin'; did you mean 'round-robin'?; allowed: round-robin, single-request",
        ),
        ({"tokens": 0, "layer": 4}, "tokens is 0; it must be at least 1"),
    ],
)
def test_iterations_that_cannot_be(kwargs: dict[str, Any], expected: str) -> None:
    assert message(make().iteration, **kwargs) == expected


def test_unknown_requests() -> None:
    trace = make(request=np.full(6, -1))
    assert trace.iteration(6, 4).experts[:, 0].tolist() == [0, 2, 5, 1, 3, 4]
    assert message(trace.iteration, 1, 4, mix="single-request") == (
        "test: its tokens' requests are not known; use mix 'round-robin'"
    )


def test_layers_are_listed_in_short() -> None:
    deep = SimpleNamespace(name="deep", n_experts=8, top_k=2, moe_layers=range(10))
    trace = synthesize(deep, requests=1, tokens_per_request=2, layers=(1, 2, 3, 9))
    assert re.search(r"it has 1 to 3, 9$", message(trace.iteration, 1, 0))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("request", 10**12, "request holds 1000000000000, which is no int32"),
        ("position", 2**31, "position holds 2147483648, which is no int32"),
        ("layer_index", 2**40, "layer_index holds 1099511627776, which is no int32"),
        ("phase", 256, "phase holds 256, which is no int8"),
        ("phase", 2, "phase of token 1 is 2; 0 prefill, 1 decode, -1 unknown are allowed"),
        ("position", -2, "position of token 1 is -2; 0 or more, -1 unknown are allowed"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_and_not_wrapped(name: str, value: int, message: str) -> None:
    fields = {
        "experts": np.tile(np.arange(2), (3, 2, 1)),
        "weights": None,
        "request": np.zeros(3, dtype=np.int64),
        "position": np.arange(3),
        "phase": np.zeros(3, dtype=np.int64),
        "layer_index": np.arange(2),
    }
    fields[name] = fields[name].copy()
    fields[name][1] = value
    with pytest.raises(TraceError, match=f"^by hand: {message}$"):
        RoutingTrace(**fields, n_experts=4, model="m", source="by hand")


def test_numbers_of_a_parquet_file_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """As another writer's int64 column may hold; they would be wrapped on the way."""
    path = tmp_path / "t.parquet"
    synthesize(SMALL, requests=1, tokens_per_request=4, layers=[4]).save(path)
    table = pq.read_table(path)
    at = table.schema.get_field_index("request")
    pq.write_table(table.set_column(at, "request", pa.array([2**32, 0, 0, 0])), path)
    with pytest.raises(TraceError, match=r"t.parquet': column 'request' holds 4294967296, which is no int32$"):
        RoutingTrace.load(path)
