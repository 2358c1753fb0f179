"""The Perfetto export: exact times, whole tracks, the rules of the trace-event format, the same bytes for the same run.

The rules are those of the "Trace Event Format" document of Chrome's tracing (sections on duration, flow, counter and
metadata events).
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import ChannelSpec, Package
from expertstream.report.perfetto import write_perfetto
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options, strategy_names
from expertstream.trace import synthesize

PS = Fraction(1, 10**6)  # in microseconds
REQUIRED = {
    "X": {"pid", "tid", "ts", "dur", "name", "cat", "args"},
    "s": {"pid", "tid", "ts", "id", "name", "cat"},
    "t": {"pid", "tid", "ts", "id", "name", "cat"},
    "f": {"pid", "tid", "ts", "id", "name", "cat", "bp"},
    "C": {"pid", "ts", "name", "args"},
    "M": {"pid", "name", "args"},
}
Event = dict[str, Any]
Track = tuple[int, int]


def shared_channel() -> Package:
    """Two channels, one of which serves all dies through the I/O die."""
    chip = Package.preset("test-chip-2x2")
    some = ChannelSpec(dies=(3,), bandwidth_bytes_per_s=10**10)
    every = ChannelSpec(dies=(0, 1, 2, 3), bandwidth_bytes_per_s=10**10)
    return chip.model_copy(update={"channels": (some, every)})


PACKAGES = {"test-chip-2x2": Package.preset("test-chip-2x2"), "3x3": Package.preset("3x3"), "I/O": shared_channel()}


def result_of(strategy: str, package: str = "test-chip-2x2") -> Result:
    model = MoEModel.one_layer(d_model=128, d_ffn=192, n_experts=8, top_k=2, n_shared_experts=1, shared_d_ffn=96)
    trace = synthesize(model, requests=2, tokens_per_request=12, layers=[0], seed=3)
    options = Options(training=trace)
    return simulate(model, PACKAGES[package], trace.iteration(tokens=20, layer=0), strategy, options=options)


def document_of(result: Result, path: Path) -> dict[str, Any]:
    write_perfetto(result, path)
    return json.loads(path.read_text(), parse_float=Fraction)


def tracks_of(events: list[Event]) -> dict[tuple[str, str], Track]:
    """Process and thread number of each (process name, thread name)."""
    process = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    return {
        (process[e["pid"]], e["args"]["name"]): (e["pid"], e["tid"])
        for e in events
        if e["ph"] == "M" and e["name"] == "thread_name"
    }


def spans_of(events: list[Event]) -> dict[Track, list[tuple[Fraction, Fraction, str]]]:
    spans = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            spans[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    return spans


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("package", list(PACKAGES))
def test_every_picosecond_of_every_resource_is_there(strategy: str, package: str, tmp_path: Path) -> None:
    result = result_of(strategy, package)
    events = document_of(result, tmp_path / "run.json")["traceEvents"]
    spans, tracks, use = spans_of(events), tracks_of(events), result.metrics.busy
    expected = {(f"die {die}", "MAC array"): value for die, value in enumerate(use.compute_ps)}
    for number, (channel, value) in enumerate(zip(result.workload.package.channels, use.channel_ps, strict=True)):
        process = f"die {channel.dies[0]}" if len(channel.dies) == 1 else "I/O die"
        expected[process, f"DDR channel {number}"] = value
    for (source, to), value in zip(result.timeline.network.links.tolist(), use.link_ps, strict=True):
        expected[f"die {source}", f"link to die {to}"] = value
    assert set(tracks) == set(expected)
    for name, value in expected.items():
        assert sum(end - start for start, end, _ in spans[tracks[name]]) == int(value) * PS, name


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("package", list(PACKAGES))
def test_the_rules_of_the_format(strategy: str, package: str, tmp_path: Path) -> None:
    events = document_of(result_of(strategy, package), tmp_path / "run.json")["traceEvents"]
    named = {(e["pid"], e.get("tid")) for e in events if e["ph"] == "M"}
    for event in events:
        assert event["ph"] in REQUIRED
        assert set(event) - {"ph", "tid"} == REQUIRED[event["ph"]] - {"tid"}
        assert event["pid"] > 0
        assert (event["pid"], event.get("tid")) in named or event["ph"] == "C"
        if event["ph"] != "M":
            assert event["ts"] >= 0
            assert event.get("dur", 0) >= 0
    for spans in spans_of(events).values():
        ordered = sorted(spans)
        assert ordered == spans  # in order within a thread
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))  # one at a time: nested nowhere
    times = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            times[event["pid"], event["name"]].append(event["ts"])
            assert all(value >= 0 for value in event["args"].values())
    assert all(a < b for counter in times.values() for a, b in itertools.pairwise(counter))


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("package", list(PACKAGES))
def test_flows_start_step_and_finish_inside_slices_of_their_expert(strategy: str, package: str, tmp_path: Path) -> None:
    result = result_of(strategy, package)
    events = document_of(result, tmp_path / "run.json")["traceEvents"]
    slices = {(track, start): name for track, spans in spans_of(events).items() for start, _, name in spans}
    flows = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            flows[event["id"]].append(event)
            assert slices[(event["pid"], event["tid"]), event["ts"]].startswith(f"{event['name']} columns")
            assert event.get("bp") == ("e" if event["ph"] == "f" else None)
    for steps in flows.values():
        assert "".join(step["ph"] for step in steps) == "s" + "t" * (len(steps) - 2) + "f"
        assert len({(step["name"], step["cat"]) for step in steps}) == 1
        assert all(a["ts"] <= b["ts"] for a, b in itertools.pairwise(steps))
    timeline = result.timeline
    moved, times = np.unique(timeline.chunk[timeline.tag >= 0], return_counts=True)
    assert sorted(flows) == moved[times > 1].tolist()


def test_a_flow_follows_a_micro_slice_round_its_trajectory(tmp_path: Path) -> None:
    result = result_of("fse-dp")
    events = document_of(result, tmp_path / "run.json")["traceEvents"]
    place = {track: name for name, track in tracks_of(events).items()}
    flow = [e for e in events if e["ph"] in "stf" and e["id"] == int(result.timeline.chunk[0])]
    visited = [place[e["pid"], e["tid"]] for e in flow]
    assert visited[0][1].startswith("DDR channel")
    assert visited[1] == (visited[0][0], "MAC array")
    assert visited[-1][1] == "MAC array"
    for (_, thread), (process, _) in itertools.pairwise(visited[1:]):
        assert thread in ("MAC array", f"link to {process}")
    timeline = result.timeline
    mine = (timeline.chunk == timeline.chunk[0]) & (timeline.kind == 2)
    computed_on = [process for process, thread in visited if thread == "MAC array"]
    assert computed_on == [f"die {die}" for die in timeline.die[mine].tolist()]


def test_counters_reach_the_peaks_and_end_at_zero(tmp_path: Path) -> None:
    result = result_of("fse-dp-paired")
    levels = defaultdict(list)
    for event in document_of(result, tmp_path / "run.json")["traceEvents"]:
        if event["ph"] == "C":
            levels[event["pid"], event["name"]] += event["args"].values()
    for die, (weights, tokens) in enumerate(result.metrics.buffers.peak_bytes.tolist()):
        assert max(levels[die + 1, "weight buffer"]) == weights
        assert max(levels[die + 1, "token buffer"]) == tokens
        assert levels[die + 1, "weight buffer"][-1] == levels[die + 1, "token buffer"][-1] == 0


def test_counters_of_links_average_to_their_use(tmp_path: Path) -> None:
    result = result_of("tp")
    shares = defaultdict(list)
    for event in document_of(result, tmp_path / "run.json")["traceEvents"]:
        if event["ph"] == "C" and event["name"].endswith("% busy"):
            shares[f"die {event['pid'] - 1} to {event['name']}"].append(event["args"]["busy"])
    assert len(shares) == result.timeline.network.n_links
    for (source, to), use in zip(result.timeline.network.links, result.metrics.busy.link_share, strict=True):
        (levels,) = (v for k, v in shares.items() if k == f"die {source} to link to die {to}, % busy")
        assert len(levels) == 501
        assert max(levels) <= 100
        assert levels[-1] == 0
        assert float(sum(levels)) / 500 == pytest.approx(100 * use, abs=0.1)  # each rounded down to 0.1


def test_names_say_what_is_computed(tmp_path: Path) -> None:
    result = result_of("fse-dp")
    events = document_of(result, tmp_path / "run.json")["traceEvents"]
    names = {event["name"] for event in events if event.get("cat") == "compute"}
    timeline = result.timeline
    row = int(np.flatnonzero(timeline.kind == 2)[0])
    expert, first, end = result.plan.slices[timeline.tag[row]].tolist()
    count = int(timeline.tokens[row])
    who = f"expert {expert}" if expert < 8 else f"shared expert {expert - 8}"
    assert f"{who} columns {first}-{end}, {count} token{'s' if count > 1 else ''}" in names
    assert any(name.startswith("shared expert 0 columns") for name in names)


def test_the_run_is_described(tmp_path: Path) -> None:
    about = document_of(result_of("tp"), tmp_path / "run.json")["otherData"]
    assert about["strategy"] == "tp"
    assert about["routing"].startswith("SYNTHETIC")


def test_same_run_same_bytes(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_perfetto(result_of("ep"), tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        write_perfetto(result_of("ep"), tmp_path / "none" / "run.json")


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")
    written = []

    def interrupted(*_: object) -> None:
        written.extend(file.name for file in tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("expertstream.report.perfetto.occupancy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_perfetto(result_of("ep"), path)
    assert len(written) == 2  # it was being written beside the old one
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "old"
