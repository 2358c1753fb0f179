"""Requests, budgets, iterations and reports of a serving run."""

from __future__ import annotations

import gc
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from expertstream.analysis import die_area, measure_buffers
from expertstream.engine.layout import LOAD, SEND
from expertstream.engine.timeline import Timeline
from expertstream.errors import ConfigError, TraceError
from expertstream.model import MoEModel
from expertstream.schedule import Qos, Slack
from expertstream.serving.attention import AttentionBatch
from expertstream.serving.blocks import Blocks
from expertstream.serving.iteration import PAGE_BYTES, Buffering, Iteration, Outcome, Pass
from expertstream.serving.quantiles import Quantiles
from expertstream.serving.request_files import read_requests
from expertstream.serving.requests import ClosedLoop, Lengths, Request, Stream, poisson
from expertstream.serving.routing import Replay
from expertstream.serving.series import Series
from expertstream.serving.server import Running, share_budget
from expertstream.strategy import Options, Plan, strategy_names
from expertstream.trace import RoutingTrace, parquet, synthesize
from tests.serving import serving, tiny_model, tiny_package, tiny_scenario

FIVE = Lengths("fixed", 5, 1.0, 100)


def running(number: int, prompt: int, processed: int, served: int = -1) -> Running:
    return Running(Request(number, 0, prompt, 9), processed=processed, served=served)


def test_decodes_come_first_and_prompts_take_what_is_left_in_chunks() -> None:
    ready = [running(0, 10, 4), running(1, 5, 5), running(2, 5, 6), running(3, 9, 0)]
    chosen = [(r.request.number, n) for r, n in share_budget(ready, 10)]
    assert chosen == [(1, 1), (2, 1), (0, 6), (3, 2)]


def test_decodes_beyond_the_budget_take_turns() -> None:
    ready = [running(0, 1, 1, served=5), running(1, 1, 1, served=4), running(2, 1, 1, served=3)]
    assert [r.request.number for r, _ in share_budget(ready, 2)] == [2, 1]


@pytest.mark.parametrize("kind", ["fixed", "uniform", "lognormal"])
def test_lengths_have_the_mean_that_was_asked_for(kind: str) -> None:
    lengths, rng = Lengths(kind, 50, 0.5, 10**6), np.random.default_rng(1)
    drawn = [lengths.draw(rng) for _ in range(4000)]
    assert min(drawn) >= 1
    assert abs(np.mean(drawn) - 50) < 2


def test_poisson_arrivals_have_the_rate_that_was_asked_for() -> None:
    source = Stream(poisson(100.0, FIVE, FIVE, 3), 2000)
    last = None
    while (request := source.take(10**18)) is not None:
        last = request
    assert last is not None
    assert last.number == 1999
    assert abs(last.arrival_ps / 10**12 / 20 - 1) < 0.1


def test_a_stream_gives_requests_when_they_have_arrived() -> None:
    source = Stream(lambda: iter([Request(0, 5, 1, 1), Request(1, 9, 1, 1)]), None)
    assert source.take(4) is None
    assert source.next_arrival_ps() == 5
    assert source.take(9) == Request(0, 5, 1, 1)
    assert source.take(9) == Request(1, 9, 1, 1)
    assert source.next_arrival_ps() is None


def test_unsorted_requests_are_refused() -> None:
    source = Stream(lambda: iter([Request(0, 5, 1, 1), Request(1, 4, 1, 1)]), None)
    with pytest.raises(ConfigError, match="request 1 arrives before request 0; sort the requests by arrival"):
        source.take(10)


def test_clients_wait_for_their_answers() -> None:
    source = ClosedLoop(2, FIVE, FIVE, 0, 3)
    assert [source.take(0), source.take(0)] == [Request(0, 0, 5, 5), Request(1, 0, 5, 5)]
    assert source.take(0) is None
    source.completed(77)
    assert source.next_arrival_ps() == 77
    assert source.take(80) == Request(2, 77, 5, 5)
    source.completed(90)
    assert source.take(100) is None  # three were asked for


def test_request_files_of_three_kinds_say_the_same(tmp_path: Path) -> None:
    rows = [(0, 10, 3), (1500, 20, 4), (2_000_000, 30, 5)]
    keys = ("arrival_us", "prompt_tokens", "output_tokens")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n")
    columns = {key: [row[i] for row in rows] for i, key in enumerate(keys)}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    (tmp_path / "r.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,10,3\n2023-11-16 18:15:46.6820900,20,4\n2023-11-16 18:15:48.6805900,30,5\n"
    )
    expected = [Request(i, us * 10**6, prompt, output) for i, (us, prompt, output) in enumerate(rows)]
    for name in ("r.jsonl", "r.parquet", "r.csv"):
        assert list(read_requests(tmp_path / name)()) == expected


def test_azure_traces_of_both_years_are_read(tmp_path: Path) -> None:
    # the later traces name a time zone and leave out a fraction of zero; some requests generated nothing
    (tmp_path / "r.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00+00:00,10,3\n2024-05-10 00:00:00.009930+00:00,20,0\n2024-05-10 02:00:01+02:00,30,5\n"
    )
    expected = [Request(0, 0, 10, 3), Request(1, 9930 * 10**6, 20, 1), Request(2, 10**12, 30, 5)]
    assert list(read_requests(tmp_path / "r.csv")()) == expected


def test_a_file_without_requests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match=re.escape("there are no requests to serve; the request file is empty")):
        Stream(read_requests(tmp_path / "r.jsonl"), None)


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_request_files_in_other_encodings_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(ConfigError, match="is not a readable text file; requests are written in UTF-8"):
        list(read_requests(tmp_path / name)())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.txt", "", "is not a request file that can be read; allowed: .jsonl, .parquet, .csv files"),
        ("r.jsonl", "{", "request 0: not valid JSON"),
        ("r.jsonl", "[]", "request 0: an object with arrival_us, prompt_tokens, output_tokens is needed"),
        (
            "r.jsonl",
            '{"arrival_us": 0, "prompt_tokens": 0, "output_tokens": 1}',
            "request 0: arrival_us 0, prompt_tokens 0, output_tokens 1; arrivals must be whole numbers from 0, token "
            "counts from 1",
        ),
        (
            "r.csv",
            "TIMESTAMP,ContextTokens\n",
            "there is no column 'GeneratedTokens'; needed: TIMESTAMP, ContextTokens",
        ),
        ("r.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n", "request 0: TIMESTAMP is 'now'; write for"),
        ("r.parquet", "no", "is not a readable Parquet file; it may be cut off or damaged"),
    ],
)
def test_broken_request_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        list(read_requests(tmp_path / name)())


def test_a_missing_request_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("there is no request file 'gone.jsonl'")):
        read_requests(Path("gone.jsonl"))


def test_quantiles_are_exact_when_small_and_close_when_large() -> None:
    quantiles = Quantiles()
    for value in range(1, 1001):
        quantiles.add(value)
    assert quantiles.summary() == {"mean": 500.5, "p50": 500, "p99": 990, "count": 1000}
    for value in (2047, 2049, 4095, 1_000_001, 123_456_789_012_345):
        large = Quantiles()
        large.add(value)
        assert 0 <= 1 - (large.quantile(0.5) or 0) / value < 0.001
    assert Quantiles.restored(json.loads(json.dumps(quantiles.state()))).summary() == quantiles.summary()
    assert Quantiles().quantile(0.5) is None


def test_histograms_count_every_value_once() -> None:
    quantiles = Quantiles()
    for value in range(100, 200):
        quantiles.add(value)
    assert quantiles.histogram(4) == {"edges": [100, 125, 150, 175, 200], "counts": [25] * 4}
    few = Quantiles()
    few.add(7)
    few.add(9)
    assert few.histogram(40) == {"edges": [7, 8, 9, 10], "counts": [1, 0, 1]}
    assert Quantiles().histogram() == {"edges": [], "counts": []}


def test_a_series_stays_short_and_loses_nothing() -> None:
    series = Series()
    for i in range(3000):
        series.add(
            start_ps=10 * i,
            end_ps=10 * i + 9,
            batch_tokens=i % 7,
            input_tokens=2,
            output_tokens=1,
            deferrals=0,
            running=i % 50,
            kv_bytes=i,
        )
        columns = series.columns()
        assert len(columns["start_ps"]) <= 256
        assert sum(columns["iterations"]) == i + 1
    assert sum(columns["batch_tokens"]) == sum(i % 7 for i in range(3000))
    assert max(columns["running"]) == 49
    assert columns["kv_bytes"][-1] == 2999
    assert columns["start_ps"][0] == 0
    assert columns["end_ps"][-1] == 29999
    assert columns["start_ps"][1:] == [end + 1 for end in columns["end_ps"][:-1]]
    again = Series.restored(json.loads(json.dumps(series.state())))
    assert again.columns() == columns


def test_requests_replay_the_trace_token_by_token() -> None:
    model = tiny_model()
    trace = synthesize(model, requests=2, tokens_per_request=8, layers=[1, 2])
    replay = Replay(trace, model)
    np.testing.assert_array_equal(replay.rows(1, 2, 5), [10, 11, 12])
    np.testing.assert_array_equal(replay.rows(0, 7, 10), [7, 0, 1])  # round and round
    again = replay.rows(5, 0, 8)
    assert sorted(again.tolist()) == list(range(8, 16))
    assert len({int(replay.rows(n, 0, 1)[0]) for n in range(3, 21, 2)}) > 1  # each from another token on
    np.testing.assert_array_equal(replay.routing(np.array([3, 9]), 2).experts, trace.experts[[3, 9], 1])
    assert replay.borrowed == 0
    assert Replay(synthesize(model, requests=2, tokens_per_request=8, layers=[1]), model).borrowed == 1
    with pytest.raises(TraceError, match="layer 0 is not an MoE layer"):
        replay.routing(np.array([0]), 0)


@pytest.mark.parametrize("weight", [0.5, 0.1, 1e6])  # held by half precision; not exactly; not at all
def test_a_replay_gives_the_choices_of_its_trace_in_their_types(weight: float) -> None:
    model = tiny_model(n_experts=400)
    trace = synthesize(model, requests=2, tokens_per_request=8, layers=[1, 2])
    trace = replace(trace, weights=np.full(trace.experts.shape, weight, dtype=np.float32))
    rows = np.array([3, 9, 3])
    for at, layer in enumerate((1, 2)):
        routing = Replay(trace, model).routing(rows, layer)
        for mine, its in ((routing.experts, trace.experts), (routing.weights, trace.weights)):
            assert its is not None
            assert mine.dtype == its.dtype
            np.testing.assert_array_equal(mine, its[rows, at])


@pytest.mark.parametrize("more", [{}, {"strategy": "hydra"}, {"buffering": {"slack_percent": 50, "theta_min": 3}}])
def test_the_trace_of_a_file_is_read_layer_by_layer_and_serves_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    file, read = tmp_path / "t.parquet", []
    synthesize(tiny_model(), requests=4, tokens_per_request=16, layers=[1, 2]).save(file)
    loaded = serving(tiny_scenario(**more), routing=RoutingTrace.load(file)).run()
    scenario = tiny_scenario(**more, trace=file, synthetic=None)
    whole = parquet.read
    monkeypatch.setattr(parquet, "read", lambda path, layers, requests: read.append(layers) or whole(path, layers))
    assert serving(scenario).run() == loaded
    assert read == [[1]]


def test_an_iteration_takes_the_sum_of_its_blocks() -> None:
    model, package = tiny_model(), tiny_package()
    replay = Replay(synthesize(model, layers=[1, 2]), model)
    blocks = Blocks(model, package, "fse-dp-paired", Options(), overlap=False)
    iteration = Iteration(model, blocks, replay, None, output_head=True)
    home = np.arange(4)
    outcome = iteration.run([Pass(0, 0, np.arange(4), home, True)], [], {})
    batch = AttentionBatch(np.array([4]), np.array([0]), home)
    by_hand = (
        blocks.attention(batch, router=False).latency_ps
        + blocks.dense(home).latency_ps
        + 2 * blocks.attention(batch, router=True).latency_ps
        + sum(blocks.experts(replay.routing(np.arange(4), layer), home).latency_ps for layer in (1, 2))
        + blocks.output_head(home[-1:]).latency_ps
    )
    assert outcome.latency_ps == by_hand
    assert outcome.sampled == 1
    assert sum(sum(times) for times in iteration.account.phase_ps.values()) == by_hand
    assert iteration.account.phase_ps["dense"] == [blocks.dense(home).latency_ps, 0, 0, 0]
    assert iteration.account.phase_ps["output head"][:-1] == [0, 0, 0]  # it belongs to no layer


@pytest.mark.parametrize("strategy", strategy_names())
def test_dense_layers_run_under_every_strategy_and_load_their_weights_once(strategy: str) -> None:
    model = tiny_model()
    seen = []
    blocks = Blocks(
        model,
        tiny_package(),
        strategy,
        Options(),
        observe=lambda kind, layer, plan, timeline, workload: seen.append((kind, workload)),
    )
    timing = blocks.dense(np.arange(8) % 4)
    assert timing.ddr_bytes == 3 * 16 * 20
    assert timing.macs == 8 * 3 * 16 * 20
    assert seen[0][0] == "dense"
    assert seen[0][1].macs == timing.macs


@pytest.mark.parametrize("strategy", strategy_names())
def test_every_request_is_served_whole_under_every_strategy(strategy: str) -> None:
    run = serving(tiny_scenario(strategy=strategy))
    report = run.run()
    source = Stream(poisson(5000, *_lengths(), 0), 12)
    requests = [source.take(10**18) for _ in range(12)]
    assert report["requests"] == {"admitted": 12, "completed": 12}
    assert report["input_tokens"] == sum(r.prompt for r in requests if r)
    assert report["output_tokens"] == sum(r.output for r in requests if r)
    assert report["ttft_ps"]["count"] == 12
    assert sum(report["phase_ps"].values()) == report["busy_ps"] <= report["time_ps"]
    rate = run.parts.package.macs_per_s
    for phase, time in report["phase_ps"].items():
        assert report["phase_utilisation"][phase] * time * rate == pytest.approx(report["phase_macs"][phase] * 1e12)
        assert 0 <= report["phase_overhead"][phase] <= 1 - report["phase_utilisation"][phase] + 1e-12
    assert report["utilisation"] * report["busy_ps"] * rate == pytest.approx(report["macs"] * 1e12)
    assert run.server.tally.kv_bytes == run.server.tally.reserved_kv_bytes == 0


def _lengths() -> tuple[Lengths, Lengths]:
    return Lengths("uniform", 6, 1.0, 32768), Lengths("uniform", 4, 1.0, 32768)


def test_options_of_the_strategy_reach_it() -> None:
    keys = {"order": "paired", "rings": 2, "redispatch": True, "decision_time": "80 ns", "micro_slices": 3}
    options = serving(tiny_scenario(**keys)).blocks.options
    assert (options.order, options.rings, options.redispatch) == ("paired", 2, True)
    assert (options.decision_ps, options.micro_slices) == (80_000, 3)
    quick, slow = (serving(tiny_scenario(decision_time=t)).run()["busy_ps"] for t in ("0 ns", "1 us"))
    assert slow > quick


def test_attention_heads_and_what_goes_to_ddr_cost_no_decision() -> None:
    home = np.arange(4) % tiny_package().n_dies
    batch = AttentionBatch(new=np.ones(4, dtype=np.int64), context=np.full(4, 5), home=home)

    def times(decision_ps: int) -> list[int]:
        blocks = Blocks(tiny_model(), tiny_package(), "fse-dp", Options(decision_ps=decision_ps))
        found = (blocks.attention(batch, router=True), blocks.output_head(home), blocks.spill(4096))
        return [block.latency_ps for block in found]

    assert times(0) == times(1_000_000)


def test_reuse_changes_no_result() -> None:
    scenario = tiny_scenario(buffering={"slack_percent": 30, "theta_min": 3})
    with_reuse, without = serving(scenario), serving(scenario, reuse=False)
    assert with_reuse.run() == without.run()
    assert with_reuse.blocks.reused > 0
    assert without.blocks.reused == 0


def test_experts_of_some_layers_estimate_the_others_and_change_no_decision() -> None:
    scenario = tiny_scenario(
        requests={"arrivals": "closed-loop", "clients": 12, "count": 24, "output_tokens": {"mean": 9}},
        buffering={"slack_percent": 30, "theta_min": 3},
    )
    model = tiny_model(n_layers=7)
    whole, some = (serving(scenario, model=model, experts_every=every) for every in (1, 3))
    exact, estimate = whole.run(), some.run()
    for key in ("requests", "iterations", "deferrals", "input_tokens", "output_tokens"):
        assert exact[key] == estimate[key]
    assert exact["deferrals"] > 0
    assert some.blocks.simulated < 0.7 * whole.blocks.simulated
    assert abs(estimate["busy_ps"] / exact["busy_ps"] - 1) < 0.1


def test_a_larger_budget_serves_the_same_requests_in_fewer_iterations() -> None:
    small = serving(tiny_scenario(tokens_per_iteration=4)).run()
    large = serving(tiny_scenario(tokens_per_iteration=64)).run()
    assert large["iterations"] < small["iterations"]
    assert large["output_tokens"] == small["output_tokens"]
    assert large["ttft_ps"]["mean"] < small["ttft_ps"]["mean"]


def test_requests_wait_for_key_value_memory() -> None:
    row = 2 * 2 * 4 * 2 * 3  # keys and values of 2 heads of 4 values of 2 bytes in 3 layers
    tight = serving(tiny_scenario(kv_capacity_bytes=20 * row))
    assert tight.run()["requests"]["completed"] == 12
    assert tight.server.tally.peak_kv_bytes <= 20 * row
    with pytest.raises(ConfigError, match=re.escape("for keys and values, kv_capacity is 240 B; give more or limit")):
        serving(tiny_scenario(kv_capacity_bytes=5 * row // 2)).run()


FEW = {"arrivals": "closed-loop", "clients": 2, "count": 2, "prompt_tokens": {"mean": 5}, "output_tokens": {"mean": 3}}


def test_a_request_needs_memory_for_all_of_its_tokens_but_the_last(tmp_path: Path) -> None:
    need = 7 * 2 * 2 * 4 * 2 * 3
    rows = ({"arrival_us": 0, "prompt_tokens": n, "output_tokens": 3} for n in (5, 1))
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    long_first = {"arrivals": "file", "file": str(tmp_path / "r.jsonl")}
    assert serving(tiny_scenario(requests=long_first, max_requests=1)).run()["peak_kv_bytes"] == need
    report = serving(tiny_scenario(requests=FEW, kv_capacity_bytes=2 * need, tokens_per_iteration=16)).run()
    assert report["peak_kv_bytes"] == 2 * need  # both are there when the last iteration ends
    one_by_one = serving(tiny_scenario(requests=FEW, kv_capacity_bytes=2 * need - 1)).run()
    assert one_by_one["peak_kv_bytes"] == need
    with pytest.raises(ConfigError, match="request 0 needs "):
        serving(tiny_scenario(requests=FEW, kv_capacity_bytes=need - 1)).run()


@pytest.mark.parametrize(("refill", "fresh"), [(False, 3), (True, 8)])
def test_tokens_that_wait_take_their_part_of_the_budget(
    refill: bool, fresh: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving(tiny_scenario(requests=FEW, buffering={"slack_percent": 10, "refill": refill})).server
    server._waiting = (Pass(9, 0, np.arange(5), np.zeros(5, dtype=np.int64), False),)
    seen = []

    def nothing(new: list[Pass], waiting: tuple[Pass, ...], qos: dict[int, Qos]) -> Outcome:
        seen.append(sum(p.rows.size for p in new))
        return Outcome(finished=(), waiting=waiting, latency_ps=1, sampled=0)

    monkeypatch.setattr(server._iteration, "run", nothing)
    assert server.step()
    assert seen == [fresh]
    assert server.tally.series.columns()["batch_tokens"] == [fresh + 5]


def test_the_series_counts_requests_that_complete_in_an_iteration() -> None:
    report = serving(tiny_scenario(requests=FEW, tokens_per_iteration=16)).run()
    assert report["series"]["running"] == [2, 2, 2]
    assert report["series"]["batch_tokens"] == [10, 2, 2]
    assert report["series"]["kv_bytes"][-1] == 0


def test_times_to_the_first_token_and_between_tokens() -> None:
    run = serving(tiny_scenario(requests=FEW | {"clients": 1, "count": 1, "output_tokens": {"mean": 4}}))
    ends = []
    while run.server.step():
        ends.append(run.server.tally.now_ps)
    assert len(ends) == 4
    assert run.report()["ttft_ps"]["mean"] == ends[0]
    assert run.report()["tpot_ps"]["mean"] == (ends[3] - ends[0]) // 3


def test_the_report_adds_up_what_the_blocks_did() -> None:
    seen: list[tuple[Plan, Timeline]] = []
    slow = FEW | {"arrivals": "poisson", "rate_per_s": 100, "clients": None, "prompt_tokens": {"mean": 12}}
    run = serving(
        tiny_scenario(requests=slow, strategy="ep", overlap=False),
        reuse=False,
        package=tiny_package(1664),
        observe=lambda kind, layer, plan, timeline, workload: seen.append((plan, timeline)),
    )
    report, technology = run.run(), run.parts.technology
    loaded = wired = 0
    for _, timeline in seen:
        network, sends = timeline.network, np.flatnonzero(timeline.kind == SEND)
        hops = np.diff(network.path_ptr)[timeline.source[sends] * network.n_dies + timeline.die[sends]]
        loaded += int(timeline.bytes[timeline.kind == LOAD].sum())
        wired += int(((timeline.bytes[sends] + network.header_bytes) * hops).sum())
    energy = report["energy_by_component_pj"]
    leakage_w = die_area(run.parts.package, technology, run.parts.model).leakage_w
    assert report["ddr_bytes"] == loaded
    assert energy["ddr"] == pytest.approx((8 * loaded * technology.dram.energy.levels).tolist())
    assert energy["d2d"] == pytest.approx((8 * wired * technology.link.energy.levels).tolist())
    assert energy["leakage"] == pytest.approx((4 * report["time_ps"] * leakage_w).tolist())
    assert report["busy_ps"] == sum(timeline.latency_ps for _, timeline in seen) < report["time_ps"]
    assert report["ddr_utilisation"] == pytest.approx(loaded * 1e12 / (4e9 * report["busy_ps"]))
    assert report["tokens_per_s"] == pytest.approx((2 * 12 + 2 * 3) * 1e12 / report["time_ps"])
    assert report["output_tokens_per_s"] == pytest.approx(2 * 3 * 1e12 / report["time_ps"])
    assert report["max_passes"] == max(plan.passes for plan, _ in seen) == 2
    assert report["peak_package_bytes"] == max(measure_buffers(t).package_peak_both_bytes for _, t in seen)


def test_targets_that_are_missed_are_counted() -> None:
    assert serving(tiny_scenario(qos={"ttft": 1})).run()["qos_violations"] == 12
    assert serving(tiny_scenario(requests=FEW, qos={"ttft": 1, "tpot": 1})).run()["qos_violations"] == 2
    assert serving(tiny_scenario(requests=FEW, qos={"tpot": 1})).run()["qos_violations"] == 2
    assert serving(tiny_scenario(qos={"ttft": 10**12, "tpot": 10**12})).run()["qos_violations"] == 0


def test_a_damaged_package_serves_all_requests_on_what_works() -> None:
    hurt = tiny_package().replace(faults={"dead_dies": [3]})
    values = {"slack_percent": 50, "theta_min": 4}
    report = serving(tiny_scenario(buffering=values), package=hurt).run()
    healthy = serving(tiny_scenario(buffering=values)).run()
    assert report["faults"] == ["die 3 dead"]
    assert report["requests"]["completed"] == 12
    assert report["deferrals"] > 0
    assert report["busy_ps"] > healthy["busy_ps"]


def test_an_idle_server_waits_for_the_next_request() -> None:
    slow = tiny_scenario(requests={"arrivals": "poisson", "rate_per_s": 1, "count": 3})
    report = serving(slow).run()
    assert report["busy_ps"] < report["time_ps"] / 10


def test_energy_counts_what_the_blocks_did() -> None:
    report = serving(tiny_scenario()).run()
    low, nominal, high = report["energy_pj"]
    assert 0 < low < nominal < high
    assert sum(report["energy_by_component_pj"][name][1] for name in report["energy_by_component_pj"]) == pytest.approx(
        nominal
    )


def test_ten_thousand_requests_hold_no_more_than_a_thousand() -> None:
    scenario = tiny_scenario(
        requests={
            "arrivals": "poisson",
            "rate_per_s": 50000,
            "count": 10_000,
            "prompt_tokens": {"mean": 4},
            "output_tokens": {"mean": 1},
        },
        tokens_per_iteration=512,
        max_requests=128,
    )
    run = serving(scenario, model=tiny_model(n_layers=1, first_dense_layers=0, dense_d_ffn=0))
    held = {}
    while run.server.step():
        at = 1000 if run.server.tally.completed < 9000 else 9000
        if run.server.tally.completed >= at and at not in held:
            gc.collect()
            held[at] = len(gc.get_objects()), len(json.dumps(run.server.state()))
    assert run.server.tally.completed == 10_000
    assert held[9000][0] < held[1000][0] + 2000  # requests are gone; timings of blocks are kept, up to a limit
    assert held[9000][1] < 2**16  # a few numbers per running request and per bucket of the quantiles


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"requests": {"arrivals": "poisson", "count": 1}}, "arrivals 'poisson' needs the key 'rate_per_s'"),
        (
            {"requests": {"arrivals": "closed-loop", "clients": 1, "prompt_tokens": {"mean": 9, "most": 8}}},
            "a mean of 9 tokens is above the most tokens, 8 (default: 32768); raise 'most' or lower 'mean'",
        ),
        (
            {"requests": {"arrivals": "poisson", "rate_per_s": 1, "clients": 2, "count": 1}},
            "'clients' does not go with arrivals 'poisson'; leave it out",
        ),
        (
            {"requests": {"arrivals": "poisson", "rate_per_s": 1e-300, "count": 1}},
            "Input should be greater than or equal to 0.000001",
        ),
        (
            {"requests": {"arrivals": "closed-loop", "clients": 2}},
            "the run has no end; give iterations, or requests.count",
        ),
    ],
)
def test_scenarios_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        tiny_scenario(**values)


def test_an_arrival_beyond_the_clock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"arrival_us": 9999999999999999, "prompt_tokens": 5, "output_tokens": 4}\n')
    scenario = tiny_scenario(requests={"arrivals": "file", "file": str(tmp_path / "r.jsonl")})
    message = "the next request arrives after 1e+10 s, but a run ends at the latest after 4e+06 s (46 days)"
    with pytest.raises(ConfigError, match=re.escape(message)):
        serving(scenario).run()


def test_queries_of_the_state_survive_a_checkpoint(tmp_path: Path) -> None:
    scenario = tiny_scenario(buffering={"slack_percent": 30, "theta_min": 3})
    whole = serving(scenario).run()
    for stop in (1, 3, 7):
        first = serving(scenario)
        for _ in range(stop):
            first.server.step()
        first.save(tmp_path / "state.json")
        second = serving(scenario)
        second.resume(tmp_path / "state.json")
        assert json.dumps(second.run()) == json.dumps(whole)


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    serving(tiny_scenario()).save(path)
    other = serving(tiny_scenario(tokens_per_iteration=9))
    with pytest.raises(ConfigError, match="belongs to another scenario, model, package, trace or strategy"):
        other.resume(path)
    own, mine = tmp_path / "mine.py", tiny_scenario(strategy=f"{tmp_path}/mine.py:Mine")
    for strategy in ("tp", "ep"):
        own.write_text(f"from expertstream.strategy import get_strategy\nMine = get_strategy('{strategy}')\n")
        if strategy == "tp":
            serving(mine).save(path)
    with pytest.raises(ConfigError, match="belongs to another scenario, model, package, trace or strategy"):
        serving(mine).resume(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="is not a checkpoint of this version"):
        other.resume(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is not a checkpoint: it is not valid JSON"):
        other.resume(path)
    with pytest.raises(ConfigError, match="cannot read the checkpoint"):
        other.resume(tmp_path / "gone.json")


def test_one_request_one_layer_infinite_links_takes_the_closed_form() -> None:
    # 1 token, DDR of 1 byte/us per die: all weights and the cache row at 4 bytes/us, computes are next to nothing
    model = MoEModel.one_layer(
        d_model=16,
        d_ffn=16,
        n_experts=1,
        top_k=1,
        vocab_size=64,
        attention={"n_heads": 4, "n_kv_heads": 4, "head_dim": 4},
    )
    package = (
        tiny_package()
        .replace(**{"d2d.bandwidth_bytes_per_s": 9 * 10**12, "d2d.latency_ps": 0, "die.macs_per_cycle": 2**20})
        .model_copy(
            update={
                "channels": tuple(
                    c.model_copy(update={"bandwidth_bytes_per_s": 10**6, "latency_ps": 0})
                    for c in tiny_package().channels
                )
            }
        )
    )
    replay = Replay(synthesize(model, requests=1, tokens_per_request=4, layers=[0]), model)
    iteration = Iteration(model, Blocks(model, package, "tp", Options()), replay, None, output_head=True)
    outcome = iteration.run([Pass(0, 0, np.arange(1), np.array([0]), True)], [], {0: Qos()})
    n_bytes = 4 * 16 * 16 + 2 * 16 * 2 + 16 * 1 + 3 * 16 * 16 + 64 * 16
    # the router's single column of 16 bytes has one channel to itself, which the other three wait for
    assert abs(outcome.latency_ps - (n_bytes - 16 + 4 * 16) * 10**6 // 4) <= 0.002 * outcome.latency_ps


def deferring(kept_share: float, token_buffer_bytes: int = 64 << 10) -> tuple[Iteration, Replay]:
    """An iteration in which every request with an expert below 100 tokens waits while it has time left."""
    model, package = tiny_model(), tiny_package(token_buffer_bytes)
    replay = Replay(synthesize(model, requests=4, tokens_per_request=16, layers=[1, 2]), model)
    blocks = Blocks(model, package, "fse-dp-paired", Options())
    buffering = Buffering(Slack(1, 10), theta_min=100, kept_share=kept_share)
    return Iteration(model, blocks, replay, buffering, output_head=False), replay


def test_a_deferred_pass_comes_back_at_its_layer_and_costs_token_buffer() -> None:
    iteration, replay = deferring(kept_share=0.9)
    qos = {0: Qos(timer=1), 1: Qos()}
    passes = [Pass(n, 0, replay.rows(n, 0, 3), np.array([0, 0, n]), True) for n in (0, 1)]
    first = iteration.run(passes, [], qos)
    assert [p.request for p in first.finished] == [1]
    assert [(p.request, p.layer, p.spilled) for p in first.waiting] == [(0, 1, False)]
    np.testing.assert_array_equal(first.waiting[0].home, [0, 0, 0])
    assert qos == {0: Qos(0, 0), 1: Qos(0, 1)}
    assert iteration._reserved(first.waiting) == PAGE_BYTES  # 3 tokens of 16 values of 2 bytes and 2 choices of 6
    second = iteration.run([], first.waiting, qos)
    assert [p.request for p in second.finished] == [0]
    assert second.waiting == ()
    assert qos[0] == Qos(0, 1)
    assert iteration.account.deferrals == 1
    assert iteration.account.spilled_bytes == 0


def test_no_more_is_set_aside_than_may_be_kept() -> None:
    """A page would be all of this token buffer."""
    iteration, replay = deferring(kept_share=0.25, token_buffer_bytes=8 << 10)
    passes = [Pass(n, 0, replay.rows(n, 0, 3), np.zeros(3, dtype=np.int64), True) for n in (0, 1)]
    outcome = iteration.run(passes, [], {0: Qos(timer=1), 1: Qos()})
    assert [p.spilled for p in outcome.waiting] == [False]
    assert iteration._reserved(outcome.waiting) == 2 << 10 < PAGE_BYTES


def test_what_deferred_passes_keep_counts_in_the_peak() -> None:
    (iteration, replay), (alone, _) = deferring(kept_share=0.9), deferring(kept_share=0.9)
    fresh = Pass(1, 0, replay.rows(1, 0, 6), np.array([0, 1, 1, 2, 3, 3]), True)
    alone.run([fresh], [], {1: Qos()})
    qos = {0: Qos(timer=9), 1: Qos()}
    waiting = iteration.run([Pass(0, 0, replay.rows(0, 0, 3), np.zeros(3, dtype=np.int64), True)], [], qos).waiting
    assert [p.request for p in iteration.run([fresh], waiting, qos).waiting] == [0]  # deferred once more
    kept = 3 * (16 * 2 + 2 * 6)
    assert iteration.account.sums["peak_bytes"] == alone.account.sums["peak_bytes"] + kept


def test_what_does_not_fit_the_token_buffer_goes_to_ddr_and_back() -> None:
    iteration, replay = deferring(kept_share=0.0)
    first = iteration.run([Pass(0, 0, replay.rows(0, 0, 3), np.zeros(3, dtype=np.int64), True)], [], {0: Qos(timer=1)})
    assert [p.spilled for p in first.waiting] == [True]
    assert iteration._reserved(first.waiting) == 0
    kept = 3 * (16 * 2 + 2 * 6)
    assert iteration.account.spilled_bytes == kept
    iteration.run([], first.waiting, {0: Qos()})
    assert iteration.account.spilled_bytes == 2 * kept
    # each way a quarter of 132 bytes at 1 GB/s and 1 ns of latency
    assert sum(iteration.account.phase_ps["spill"]) == 2 * (33 + 1) * 1000
    out, back = (iteration._blocks.spill(kept, back=way) for way in (False, True))
    assert (out.sram_read_bytes, out.sram_write_bytes) == (back.sram_write_bytes, back.sram_read_bytes) == (kept, 0)


def test_zero_slack_is_no_buffering() -> None:
    none = serving(tiny_scenario()).run()
    assert serving(tiny_scenario(buffering={"slack_percent": 0, "theta_min": 9})).run() == none


def test_slack_defers_and_refilling_takes_other_tokens_instead() -> None:
    values = {"slack_percent": 50, "theta_min": 4}
    kept = serving(tiny_scenario(buffering=values)).run()
    refilled = serving(tiny_scenario(buffering={**values, "refill": True})).run()
    assert kept["deferrals"] > 0
    assert refilled["deferrals"] > 0
    assert refilled["iterations"] <= kept["iterations"]
    assert kept["output_tokens"] == refilled["output_tokens"]
