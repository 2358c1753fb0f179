"""The Perfetto export: exact times, whole tracks, the same bytes for the same run."""

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
from expertstream.package import Package
from expertstream.report.perfetto import write_perfetto
from expertstream.simulate import Result, simulate
from expertstream.strategy import strategy_names
from expertstream.trace import synthesize

PS = Fraction(1, 10**6)  # in microseconds


def result_of(strategy: str, package: str = "test-chip-2x2") -> Result:
    model = MoEModel.one_layer(d_model=128, d_ffn=192, n_experts=8, top_k=2, n_shared_experts=1, shared_d_ffn=96)
    trace = synthesize(model, requests=2, tokens_per_request=12, layers=[0], seed=3)
    return simulate(model, Package.preset(package), trace.iteration(tokens=20, layer=0), strategy)


def events_of(result: Result, path: Path) -> dict[str, Any]:
    write_perfetto(result, path)
    return json.loads(path.read_text(), parse_float=Fraction)


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("package", ["test-chip-2x2", "3x3"])
def test_every_picosecond_of_every_resource_is_there(strategy: str, package: str, tmp_path: Path) -> None:
    result = result_of(strategy, package)
    events = events_of(result, tmp_path / "run.json")["traceEvents"]
    busy: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    spans = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            track = event["pid"], event["tid"]
            busy[track] += event["dur"]
            spans[track].append((event["ts"], event["ts"] + event["dur"]))
    use, n_dies = result.metrics.use, result.workload.package.n_dies
    for pid_tid, expected in [
        *(((die, 0), value) for die, value in enumerate(use.compute_ps)),
        *(((n_dies, channel), value) for channel, value in enumerate(use.channel_ps)),
        *(((n_dies + 1, link), value) for link, value in enumerate(use.link_ps)),
    ]:
        assert busy[pid_tid] == int(expected) * PS
    for track in spans.values():
        ordered = sorted(track)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))  # nothing overlaps


def test_counters_reach_the_peaks_and_end_at_zero(tmp_path: Path) -> None:
    result = result_of("fse-dp-paired")
    levels = defaultdict(list)
    for event in events_of(result, tmp_path / "run.json")["traceEvents"]:
        if event["ph"] == "C":
            levels[event["pid"], event["name"]].append(event["args"]["bytes"])
    for die, (weights, tokens) in enumerate(result.metrics.buffers.peak_bytes.tolist()):
        assert max(levels[die, "weight buffer"]) == weights
        assert max(levels[die, "token buffer"]) == tokens
        assert levels[die, "weight buffer"][-1] == levels[die, "token buffer"][-1] == 0


def test_names_say_what_is_computed(tmp_path: Path) -> None:
    result = result_of("fse-dp")
    events = events_of(result, tmp_path / "run.json")["traceEvents"]
    names = {event["name"] for event in events if event.get("cat") == "compute"}
    timeline = result.timeline
    row = int(np.flatnonzero(timeline.kind == 2)[0])
    expert, first, end = result.plan.slices[timeline.tag[row]].tolist()
    count = int(timeline.tokens[row])
    who = f"expert {expert}" if expert < 8 else f"shared expert {expert - 8}"
    assert f"{who} columns {first}-{end}, {count} token{'s' if count > 1 else ''}" in names
    assert any(name.startswith("shared expert 0 columns") for name in names)


def test_tracks_are_named_and_the_run_is_described(tmp_path: Path) -> None:
    document = events_of(result_of("tp"), tmp_path / "run.json")
    labels = [
        event["args"]["name"] for event in document["traceEvents"] if event["ph"] == "M" and "name" in event["args"]
    ]
    assert labels[:4] == ["die 0", "MAC array", "die 1", "MAC array"]
    assert {"DDR", "channel 3", "D2D links", "die 0 to die 1", "die 3 to die 2"} <= set(labels)
    about = document["otherData"]
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

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expertstream.report.perfetto.occupancy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_perfetto(result_of("ep"), path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "old"
