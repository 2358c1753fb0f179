"""The timeline of an iteration: all blocks on one absolute time, and the run goes on as without it."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from expertstream.errors import ConfigError
from expertstream.report import perfetto_blocks
from tests.serving import serving, tiny_package, tiny_scenario

BUFFERED = {"slack_percent": 50, "theta_min": 4, "kept_share": 0.0}
PS = Fraction(1, 10**6)


def recorded(path: Path, number: int = 4, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The document of a run and the recorded trace."""
    package = more.pop("package", None)
    document = serving(tiny_scenario(**more), package=package).run(perfetto=path, recorded=number)
    return document, json.loads(path.read_text(), parse_float=Fraction)


def spans(trace: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Events with a duration by "process, thread"."""
    process = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    thread = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    found = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            found[f"{process[event['pid']]}, {thread[event['pid'], event['tid']]}"].append(event)
    return found


@pytest.mark.parametrize("strategy", ["fse-dp-paired", "ep", "tp"])
def test_blocks_follow_one_another_and_hold_their_activities(strategy: str, tmp_path: Path) -> None:
    document, trace = recorded(tmp_path / "it.json", strategy=strategy, buffering=BUFFERED)
    tracks = spans(trace)
    blocks = tracks["iteration, blocks"]
    series = document["series"]
    assert blocks[0]["ts"] == series["start_ps"][3] * PS
    assert blocks[-1]["ts"] + blocks[-1]["dur"] == series["end_ps"][3] * PS
    assert all(a["ts"] + a["dur"] == b["ts"] for a, b in itertools.pairwise(blocks))
    names = [block["name"] for block in blocks if "spill" not in block["name"]]
    assert names == [
        "layer 0 attention",
        "layer 0 dense",
        "layer 1 attention",
        "layer 1 experts",
        "layer 2 attention",
        "layer 2 experts",
        "output head",
    ]
    ends = blocks[-1]["ts"] + blocks[-1]["dur"]
    for name, events in tracks.items():
        ordered = sorted(events, key=lambda e: (e["ts"], e["dur"]))
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in itertools.pairwise(ordered)), name
        assert ordered[0]["ts"] >= blocks[0]["ts"]
        assert ordered[-1]["ts"] + ordered[-1]["dur"] <= ends
    computed = {e["name"].split(" columns")[0] for e in tracks["die 0, MAC array"]}
    assert any(name.startswith("head projections") for name in computed)
    assert any(name.startswith("expert ") for name in computed)
    flows = defaultdict(str)
    for event in trace["traceEvents"]:
        if event["ph"] in "stf":
            flows[event["id"]] += event["ph"]
    assert all(re.fullmatch("st*f", steps) for steps in flows.values())


def test_weights_that_were_loaded_ahead_appear_where_they_were_loaded(tmp_path: Path) -> None:
    _, trace = recorded(tmp_path / "it.json", strategy="ep")
    early = [e for events in spans(trace).values() for e in events if e["name"].startswith("weights ahead for")]
    assert early
    blocks = {block["name"]: block for block in spans(trace)["iteration, blocks"]}
    for event in early:
        assert event["ts"] + event["dur"] <= blocks[event["name"].removeprefix("weights ahead for ")]["ts"]
        assert event["args"]["bytes"] > 0


def test_a_recorded_run_says_the_same_and_writes_the_same_bytes(tmp_path: Path) -> None:
    first, _ = recorded(tmp_path / "a.json", buffering=BUFFERED)
    second, _ = recorded(tmp_path / "b.json", buffering=BUFFERED)
    assert first == second == serving(tiny_scenario(buffering=BUFFERED)).run()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_large_iterations_show_the_rest_as_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = recorded(tmp_path / "whole.json")
    monkeypatch.setattr(perfetto_blocks, "MAX_ACTIVITIES", 150)
    _, part = recorded(tmp_path / "part.json")
    assert 0 < len(part["traceEvents"]) < len(whole["traceEvents"])
    blocks = spans(part)["iteration, blocks"]
    assert len(blocks) == len(spans(whole)["iteration, blocks"])
    assert any(block["name"].endswith("(activities left out)") for block in blocks)


def test_dies_and_channels_of_a_damaged_package_keep_their_numbers(tmp_path: Path) -> None:
    _, trace = recorded(tmp_path / "it.json", package=tiny_package().replace(faults={"dead_dies": [1]}))
    assert trace["otherData"]["dies"] == "those that work: 0, 2, 3"
    tracks = spans(trace)
    own = {name for name in tracks if name.startswith("die ") and "link" not in name}
    assert own == {f"die {die}, {what}" for die in (0, 2, 3) for what in ("MAC array", f"DDR channel {die}")}
    links = {name for name in tracks if "link" in name}
    assert links == {"die 0, link to die 2", "die 2, link to die 0", "die 2, link to die 3", "die 3, link to die 2"}
    sent = {event["name"][-1] for name in links for event in tracks[name] if " to die " in event["name"]}
    assert sent == {"0", "2", "3"}
    loads = {
        event["name"][-1] for name in own if "DDR" in name for event in tracks[name] if " to die " in event["name"]
    }
    assert loads == {"0", "2", "3"}
    counters = {event["name"] for event in trace["traceEvents"] if event["ph"] == "C" and "link" in event["name"]}
    assert counters == {f"link to die {die}, % busy" for die in (0, 2, 3)}


def test_iterations_that_are_not_run_cannot_be_recorded(tmp_path: Path) -> None:
    message = "iteration 9 is to be recorded, but iterations 1 to 5 are to be run; choose one of those"
    with pytest.raises(ConfigError, match=re.escape(message)):
        recorded(tmp_path / "it.json", 9, iterations=5)
    with pytest.raises(ConfigError, match=r"iteration 900 was not run and .* not written; iterations 1 to \d+ were"):
        recorded(tmp_path / "it.json", 900)
    assert list(tmp_path.iterdir()) == []
