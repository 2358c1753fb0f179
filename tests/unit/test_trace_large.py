"""Traces that do not fit into memory: written in blocks, read in slices, within a bound of memory that is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from expertstream.errors import TraceError
from expertstream.trace import RoutingTrace, TraceWriter, parquet, synthesize

SMALL = SimpleNamespace(name="small", n_experts=8, top_k=2)
LARGE = """
import resource, sys
from pathlib import Path
import numpy as np
from expertstream.trace import RoutingTrace, TraceWriter

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
path, n, layers, k = Path(sys.argv[1]), 250_000, 20, 8
start = peak()
with TraceWriter(path, layer_index=range(layers), n_experts=64, model="m", source="s") as file:
    for first in range(0, n, 10_000):
        rng = np.random.default_rng(first)
        experts = (rng.integers(0, 64, (10_000, layers, 1)) + np.arange(k)) % 64
        number = np.arange(first, first + 10_000)
        file.append(experts.astype(np.int16), number // 500, number % 500, np.ones(10_000))
written = peak()
one = RoutingTrace.load(path, layers=[7])
few = RoutingTrace.load(path, requests=[3, 499])
sliced = peak()
assert one.experts.shape == (n, 1, k) and few.experts.shape == (1000, layers, k)
rng = np.random.default_rng(240_000)
assert np.array_equal(few.experts[500:], ((rng.integers(0, 64, (10_000, layers, 1)) + np.arange(k)) % 64)[9_500:])
print(written - start, sliced - start, n * layers * k * 2 / 2**20)
"""


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BLOCK", 7)


@pytest.fixture
def trace() -> RoutingTrace:
    return synthesize(SMALL, requests=5, tokens_per_request=10, layers=(2, 3, 9))


def equal(a: RoutingTrace, b: RoutingTrace) -> bool:
    names = ("experts", "weights", "request", "position", "phase", "layer_index")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.mark.usefixtures("blocks")
def test_slices(trace: RoutingTrace, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    trace.save(path)
    assert pq.ParquetFile(path).num_row_groups == 8 * 3
    assert equal(RoutingTrace.load(path), trace)
    assert equal(RoutingTrace.load(path, layers=[9, 2]), trace.of_layers([2, 9]))
    assert equal(RoutingTrace.load(path, requests=[4, 1]), trace.of_requests(np.array([1, 4], np.int32)))
    part = RoutingTrace.load(path, layers=[3], requests=[2])
    assert equal(part, trace.of_layers([3]).of_requests(np.array([2], np.int32)))


@pytest.mark.usefixtures("blocks")
def test_only_what_is_asked_for_is_read(trace: RoutingTrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    trace.save(path)
    whole, read = pq.ParquetFile.read_row_group, []

    def counted(file: Any, number: int, columns: list[str], **options: Any) -> Any:
        read.extend((number, column) for column in columns if column == "experts")
        return whole(file, number, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    RoutingTrace.load(path, layers=[3], requests=[2])  # tokens 20 to 29: blocks 2 to 4
    assert [number for number, _ in read] == [7, 10, 13]


@pytest.mark.usefixtures("blocks")
def test_pieces_of_any_size_make_the_same_file(trace: RoutingTrace, tmp_path: Path) -> None:
    trace.save(tmp_path / "whole.parquet")
    about = {"n_experts": 8, "model": trace.model, "source": trace.source, "id_space": trace.id_space}
    for step in (1, 6, 20):
        path = tmp_path / f"{step}.parquet"
        with TraceWriter(path, layer_index=(2, 3, 9), weights=True, synthetic=True, **about) as file:
            for first in range(0, 50, step):
                part = slice(first, first + step)
                per_token = (trace.request[part], trace.position[part], trace.phase[part])
                assert trace.weights is not None
                file.append(trace.experts[part], *per_token, trace.weights[part])
        assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize("failure", [ZeroDivisionError(), KeyboardInterrupt(), FileNotFoundError(2, "gone", "input")])
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    """And says what failed, also where the system said so of another file."""
    with (
        pytest.raises(type(failure)) as caught,
        TraceWriter(tmp_path / "t.parquet", layer_index=[0], n_experts=8, model="m", source="s"),
    ):
        raise failure
    assert caught.value is failure
    assert not list(tmp_path.iterdir())


def tokens_of(n: int = 3, layers: int = 2, k: int = 2, first: int = 0) -> tuple[Any, ...]:
    """Arguments of ``append``."""
    experts = np.broadcast_to(np.arange(first, first + k), (n, layers, k))
    return experts, np.zeros(n, np.int32), np.arange(n), np.ones(n, np.int8)


WRONG = {
    "layers": (tokens_of(layers=3), "experts has 3 layers, layer_index 2"),
    "k": (tokens_of(k=3), "k is 3, but 2 for the tokens before"),
    "shape": ((np.zeros((3, 2), int), *tokens_of()[1:]), r"experts has shape \(3, 2\), \[tokens, layers, k\] needed"),
    "lengths": (
        (tokens_of()[0], np.arange(9), *tokens_of()[2:]),
        "the arrays are of different numbers of tokens: experts 3, request 9, position 3, phase 3",
    ),
    "ids": (
        tokens_of(first=7),
        "expert id 8 of token 8, layer 4 is out of range; the model has experts 0 to 7",
    ),
    "fractions": ((tokens_of()[0] + 0.5, *tokens_of()[1:]), "experts holds 0.5, which is no int16"),
    "too large": (
        (*tokens_of()[:2], np.full(3, 2**40), tokens_of()[3]),
        "position holds 1099511627776, which is no int32",
    ),
    "not a number": ((*tokens_of()[:3], np.full(3, np.nan)), "phase holds nan, which is no int8"),
    "no numbers": ((*tokens_of()[:3], np.full(3, "a")), "phase holds <U1, int8 needed"),
    "weights": (
        (*tokens_of(), np.ones((3, 2, 2))),
        "tokens with gate weights, but the file was begun without them; give weights=True when it is begun",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("what", WRONG)
def test_tokens_that_cannot_be_appended_spoil_the_file(tmp_path: Path, what: str) -> None:
    """Also where the caller goes on: a file without them would pass for the whole."""
    path = tmp_path / "t.parquet"
    arguments, message = WRONG[what]
    lost = f"^'{path}' is not written, as tokens could not be appended: {message}$"

    def write() -> None:
        with TraceWriter(path, layer_index=[4, 5], n_experts=8, model="m", source="s") as file:
            file.append(*tokens_of(8))
            with pytest.raises(TraceError, match=f"^'{path}': {message}$"):
                file.append(*arguments)
            with pytest.raises(TraceError, match=lost):
                file.append(*tokens_of())

    with pytest.raises(TraceError, match=lost):
        write()
    assert not list(tmp_path.iterdir())


def test_an_interrupted_append_spoils_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def write() -> None:
        monkeypatch.setattr(pq.ParquetWriter, "write_table", interrupted)
        with TraceWriter(tmp_path / "t.parquet", layer_index=[4, 5], n_experts=8, model="m", source="s") as file:
            with pytest.raises(KeyboardInterrupt):
                file.append(*tokens_of(parquet.BLOCK))
            monkeypatch.undo()

    with pytest.raises(TraceError, match=r"is not written, as tokens could not be appended: KeyboardInterrupt$"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_writer_without_tokens_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    about: dict[str, Any] = {"n_experts": 8, "model": "m", "source": "s"}
    with (
        pytest.raises(TraceError, match=f"^'{path}' is not written: no tokens were appended$"),
        TraceWriter(path, layer_index=[0], **about) as file,
    ):
        file.append(*tokens_of(0, layers=1))
    with pytest.raises(TraceError, match=f"^'{path}' is closed; append tokens within one 'with' block$"):
        file.append(*tokens_of(layers=1))
    with pytest.raises(TraceError, match=f"^'{path}': layer_index names a layer twice: \\[0, 0\\]$"):
        TraceWriter(path, layer_index=[0, 0], **about)
    assert not list(tmp_path.iterdir())


def test_appended_arrays_may_be_used_again(tmp_path: Path) -> None:
    """As a loop that fills the same arrays does."""
    path = tmp_path / "t.parquet"
    experts, request, position, phase = (np.array(array) for array in tokens_of())
    with TraceWriter(path, layer_index=[4, 5], n_experts=8, model="m", source="s") as file:
        for number in range(3):
            request[:] = number
            file.append(experts, request, position, phase)
    assert RoutingTrace.load(path).request.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_other_orders_of_rows_are_read(trace: RoutingTrace, tmp_path: Path) -> None:
    """By token, then layer, in one row group and without our metadata of the layout, as another writer may have it."""
    trace.save(tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet").sort_by([("token", "ascending"), ("layer", "ascending")])
    metadata = {k: v for k, v in table.schema.metadata.items() if k not in (b"layers", b"block")}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "o.parquet")
    assert equal(RoutingTrace.load(tmp_path / "o.parquet"), trace)
    assert equal(RoutingTrace.load(tmp_path / "o.parquet", layers=[3]), trace.of_layers([3]))


@pytest.mark.parametrize("name", ["t.parquet", "t.npz"])
def test_slices_that_are_not_there(trace: RoutingTrace, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    trace.save(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", experts=trace.experts, layer_index=trace.layer_index, num_experts=8)
    with pytest.raises(TraceError, match=r"layer 4 is not in the trace; it has 2(, 3| to 3), 9$"):
        RoutingTrace.load(path, layers=[2, 4])
    with pytest.raises(TraceError):
        RoutingTrace.load(path, requests=[77])


def test_memory_is_bounded(tmp_path: Path) -> None:
    """5e6 token-layer rows, 76 MiB of ids: writing and slicing take less than the whole would."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path / "t.parquet")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written, sliced, whole = map(float, done.stdout.split())
    assert whole == pytest.approx(76.3, abs=0.1)
    assert written < 150  # a block of 65,536 tokens waiting, joined and as Arrow columns; the same for any length
    assert sliced < 220
