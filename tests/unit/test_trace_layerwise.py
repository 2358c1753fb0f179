"""A trace that was opened gives what one that was loaded gives, and reads no more of its file than it needs."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expertstream.cli.main import run
from expertstream.comparison import compare
from expertstream.errors import TraceError
from expertstream.files import to_json
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.report import trace_page
from expertstream.strategy import Options
from expertstream.trace import RoutingTrace, parquet, skew, statistics, synthesize
from expertstream.trace.statistics import counts_of, looked_at, sample

SMALL = SimpleNamespace(name="small", n_experts=8, top_k=2)
LAYERS = (2, 3, 9, 10)
measured = importlib.import_module("expertstream.trace.statistics")  # its name is also a function's


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """10 requests of 30 tokens, in blocks of 64."""
    monkeypatch.setattr(parquet, "BLOCK", 64)
    synthesize(SMALL, requests=10, tokens_per_request=30, layers=LAYERS).save(tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Row groups of each layer whose experts were read."""
    whole, found = pq.ParquetFile.read_row_group, Counter[int]()

    def counted(file: Any, number: int, columns: list[str], **options: Any) -> Any:
        if "experts" in columns:
            found[LAYERS[number % len(LAYERS)]] += 1
        return whole(file, number, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    return found


def test_every_view_is_the_same(path: Path) -> None:
    loaded, opened = RoutingTrace.load(path), RoutingTrace.open(path)
    for a, b in zip(loaded.split(), opened.split(), strict=True):
        for one, other in ((a, b), (a.of_layers([3, 10]), b.of_layers([3, 10]))):
            some = one.request[::40]
            pairs = [(one, other), (one.of_requests(some), other.of_requests(some))]
            for x, y in pairs:
                assert np.array_equal(x.experts, np.asarray(y.experts))
                assert x.weights is not None
                assert y.weights is not None
                assert np.array_equal(x.weights, np.asarray(y.weights))
                assert np.array_equal(x.experts[np.array([5, 2, 2])], y.experts[np.array([5, 2, 2])])
                mine, its = x.iteration(8, 10), y.iteration(8, 10)
                assert np.array_equal(mine.experts, its.experts)
                assert np.array_equal(mine.weights, its.weights)
                assert (mine.before is None) == (its.before is None)
                assert mine.before is None or np.array_equal(mine.before, its.before)


def test_an_iteration_reads_its_layer_and_the_one_before(path: Path, reads: Counter[int]) -> None:
    trace = RoutingTrace.open(path)
    reads.clear()
    trace.iteration(16, 10)
    trace.split()[1].iteration(64, 10)
    assert reads == {9: 5, 10: 5}


@pytest.mark.parametrize("limit", [65536, 100])
def test_statistics_are_the_same(path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Where all tokens are looked at and where joint choices are sampled; noted or not."""
    monkeypatch.setattr(measured, "SAMPLE", limit)
    loaded = RoutingTrace.load(path)
    assert sample(loaded).n_tokens == min(limit, 300)
    for noted in (True, False):
        opened = RoutingTrace.open(path)
        if noted:
            opened.note(*looked_at(opened), *skew.looked_at(opened))
        assert np.array_equal(counts_of(opened), counts_of(loaded))
        np.testing.assert_equal(statistics(opened).to_dict(), statistics(loaded).to_dict())
        assert skew.loads(opened) == skew.loads(loaded)


def test_a_sample_is_close_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = synthesize(SMALL, requests=40, tokens_per_request=500, layers=(0, 1))
    whole = statistics(trace)
    monkeypatch.setattr(measured, "SAMPLE", 10000)
    some = statistics(trace)
    assert some.next_layer_recall == pytest.approx(whole.next_layer_recall, abs=0.03)
    assert some.next_layer_recall != whole.next_layer_recall
    assert (some.gini, some.jaccard_same_request) == (whole.gini, whole.jaccard_same_request)


def test_inspect_reads_each_layer_once(
    path: Path, reads: Counter[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measured, "SAMPLE", 100)
    monkeypatch.setattr("expertstream.cli.trace.SAMPLE", 100)  # in case the command is imported already
    assert run(["trace", "inspect", str(path), "--json", "--html", str(path.with_suffix(".html"))]) == 0
    assert reads == dict.fromkeys(LAYERS, 5)  # 300 tokens are five blocks
    document = json.loads(capsys.readouterr().out)
    assert document["sampled"] == {"iterations": 64, "pairs_of_tokens": 4000, "tokens_of_joint_choices": 100}
    trace = RoutingTrace.load(path)
    assert document["statistics"] == pytest.approx(json.loads(to_json(statistics(trace).to_dict())))
    trace_page.write_trace_html(
        trace, counts_of(trace), skew.popularity(counts_of(trace)), skew.loads(trace), path.with_name("loaded.html")
    )
    page = path.with_suffix(".html").read_text()
    assert "Of 100 tokens drawn from all." in page
    assert page == path.with_name("loaded.html").read_text()


def test_inspect_says_what_it_measured_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("expertstream.cli.trace.SAMPLE", 100)
    assert run(["trace", "inspect", str(path)]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "popularity: all tokens; next layer, co-activation: 100 tokens drawn from all, always the same" in told
    np.savez(path.with_name("u.npz"), experts=RoutingTrace.load(path).experts, num_experts=8)
    assert run(["trace", "inspect", str(path.with_name("u.npz"))]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "300 whose phase (prefill or decode) was not recorded" in told
    assert "not recorded" in told


def test_a_layer_is_checked_when_it_is_read(path: Path) -> None:
    table = pq.read_table(path)
    experts = table["experts"].to_pylist()
    wrong = table["layer"].to_pylist().index(9)
    experts[wrong] = [3, 3]
    at = table.column_names.index("experts")
    field = table.schema.field("experts")
    pq.write_table(table.set_column(at, field, pa.array(experts, field.type)), path, row_group_size=1000)
    trace = RoutingTrace.open(path)
    trace.iteration(4, 2)
    with pytest.raises(TraceError, match="chose expert 3 twice at layer 9"):
        trace.iteration(4, 9)
    with pytest.raises(TraceError, match="layer 4 is not in the trace; it has 2 to 3, 9 to 10"):
        trace.iteration(4, 4)


CONFIG = {"model_type": "mixtral", "hidden_size": 128, "intermediate_size": 96, "num_local_experts": 8}
CONFIG |= {"num_experts_per_tok": 2, "num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIG |= {"head_dim": 32, "vocab_size": 1000}


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("strategies", "predict", "read"),
    [
        ("fse-dp-paired,tp", [], {9: 5, 10: 5}),
        ("ep,fse-dp-paired", ["--predict", "trace"], {9: 5, 10: 5}),
        ("hydra", [], {9: 5, 10: 5}),  # of consecutive layers, 9 and 10
    ],
)
def test_compare_and_simulate_read_the_layers_that_they_need(
    path: Path, model: str, reads: Counter[int], strategies: str, predict: list[str], read: dict[int, int]
) -> None:
    """The first layer is read when the file is opened, the others once in all, however many iterations follow."""
    common = [model, "--trace", str(path), *predict]
    assert run(["compare", *common, "--layers", "10", "-n", "4,16,64", "-s", strategies, "-o", f"{path}.json"]) == 0
    assert reads == {2: 5, **read}
    reads.clear()
    assert run(["simulate", *common, "--layer", "10", "-n", "16", "-s", strategies.split(",")[0]]) == 0
    assert reads == {2: 5, **read}
    told = json.loads(Path(f"{path}.json").read_text())["rows"]
    loaded = RoutingTrace.load(path)
    options = Options(prediction=predict[1]) if predict else None
    found = compare(
        MoEModel.from_hf_config(model),
        Package.preset("test-chip-2x2"),
        loaded,
        tokens=[4, 16, 64],
        layers=[10],
        strategies=strategies.split(","),
        baseline=strategies.split(",")[0],
        options=options,
    )
    assert [row["latency_ps"] for row in told] == [row["latency_ps"] for row in found.rows]
    assert [row["d2d_bytes"] for row in told] == [row["d2d_bytes"] for row in found.rows]


def test_a_layer_that_is_not_there(path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["compare", model, "--layers", "2,4"], ["simulate", model, "--layer", "4"]):
        assert run([*command, "--trace", str(path), "-n", "8"]) == 2
        assert "layer 4 is not in the trace; it has 2 to 3, 9 to 10" in capsys.readouterr().err


def test_a_twin_of_a_large_trace_is_of_some_of_its_requests(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("expertstream.cli.trace_synthesize.MOST_FITTED", 150)
    twin = path.with_name("twin.parquet")
    assert run(["trace", "synthesize", "--like", str(path), "-o", str(twin), "--no-check"]) == 0
    assert "has 300 tokens: one of 2 of its 10 requests is fitted, 150 tokens in all" in capsys.readouterr().err
    assert np.unique(RoutingTrace.load(twin).request).tolist() == [0, 2, 4, 6, 8]
