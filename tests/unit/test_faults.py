"""Packages with dead or slow parts: configuration, ways round, results in the user's numbers, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expertstream.cli.main import run
from expertstream.comparison import compare, in_parts
from expertstream.engine.layout import SEND
from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package, SurvivingPackage, Topology, surviving
from expertstream.simulate import latency_without_faults, simulate
from expertstream.strategy import Options, strategy_names
from expertstream.trace import synthesize
from tests.property.cases import routing_of, training_of

MODEL = MoEModel.one_layer(d_model=64, d_ffn=48, n_experts=8, top_k=2, n_shared_experts=1, shared_d_ffn=24)
ROUTING = routing_of(MODEL, 24, 1.0, 0)
OPTIONS = Options(training=training_of(ROUTING, 0))
PACKAGE = """\
name: mine
rows: 3
cols: 3
die:
  clock: 800 MHz
  macs_per_cycle: 64
  weight_buffer: 1 MiB
  token_buffer: 1 MiB
  sram_bandwidth: 1638.4 GB/s
d2d:
  bandwidth: 288 GB/s
  latency: 4.02 ns
channels:
  - {dies: [0], bandwidth: 25.6 GB/s}
  - {dies: [8], bandwidth: 25.6 GB/s, efficiency: 0.5}
faults:
"""


def _package(faults: dict[str, Any], rows: int = 3, cols: int = 3, channels: tuple[int, ...] = (0, 8)) -> Package:
    one = Package.preset("test-chip-2x2").channels[0].model_dump()
    whole = Package.preset("test-chip-2x2").replace(
        rows=rows, cols=cols, channels=[one | {"dies": (d,)} for d in channels]
    )
    return whole.replace(faults=faults)


def _load(tmp_path: Path, faults: str) -> Package:
    file = tmp_path / "mine.yaml"
    file.write_text(PACKAGE + "".join(f"  {line}\n" for line in faults.splitlines()))
    return Package.from_yaml(file)


def test_a_package_without_faults_survives_as_it_is() -> None:
    package = Package.preset("3x3")
    assert surviving(package) is package
    assert latency_without_faults(MODEL, package, ROUTING) is None


def test_faults_are_read_from_yaml_and_taken_off_the_rates(tmp_path: Path) -> None:
    package = _load(
        tmp_path,
        "dead_dies: [4]\n"
        "links:\n"
        "  - {dies: [0, 1], dead: true}\n"
        "  - {dies: [2, 5], bandwidth: 36 GB/s, one_way: true}\n"
        "channels:\n"
        "  - {channel: 1, bandwidth: 12.8 GB/s}",
    )
    assert package.macs_per_s == 8 * 64 * 800_000_000
    assert package.ddr_bytes_per_s == 25_600_000_000 + 6_400_000_000
    assert package.faults.in_words == [
        "die 4 dead",
        "D2D links die 0 to and from die 1 dead",
        "D2D link die 2 to die 5 at 36 GB/s",
        "DDR channel 1 at 12.8 GB/s",
    ]
    assert package.summary().splitlines()[-1] == "  fault: DDR channel 1 at 12.8 GB/s"
    left = surviving(package)
    assert isinstance(left, SurvivingPackage)
    assert left.dies == (0, 1, 2, 3, 5, 6, 7, 8)
    assert left.channels[1].dies == (7,)


MESSAGES = {
    "dead_dies: [9]": "17:15: faults.dead_dies.0: die 9; the package has dies 0 to 8",
    "dead_dies: [0, 1, 2, 3, 4, 5, 6, 7, 8]": "17:3: faults.dead_dies: every die is dead; nothing is left to run on",
    "dead_die: [1]": "17:3: unknown key 'dead_die'; did you mean 'dead_dies'? Known keys: dead_dies, links, channels",
    "links:\n  - {dies: [0, 4], dead: true}": "18:7: faults.links.0: no D2D link joins dies 0 and 4; only neighbours "
    "are",
    "links:\n  - {dies: [0, 1]}": "18:7: faults.links.0: a fault needs either 'dead: true' or the 'bandwidth' that is "
    "left, such as '36 GB/s'",
    "links:\n  - {dies: [0, 1], bandwidth: 36}": "18:22: faults.links.0.bandwidth: bandwidth 36 has no unit; write for "
    "example '25.6 GB/s'",
    "links:\n  - {dies: [0, 1], bandwidth: 300 GB/s}": "18:22: faults.links.0.bandwidth: 300 GB/s is no less than the "
    "288 GB/s without the fault",
    "links:\n  - {dies: [0, 1], dead: true}\n  - {dies: [1, 0], dead: true, one_way: true}": "19:7: faults.links.1: "
    "the link of dies 1 and 0 is named twice",
    "dead_dies: [1, 4]\nlinks:\n  - {dies: [3, 6], dead: true}": "16:1: faults: they cut the package in two: die 0 "
    "cannot send to die 2; leave a way, or list the dies that are cut off under dead_dies",
    "links:\n  - {dies: [0, 1], dead: true, one_way: true}\n  - {dies: [0, 3], dead: true, one_way: true}": "16:1: "
    "faults: they cut the package in two: die 0 cannot send to die 1; leave a way, or list the dies that are cut off "
    "under dead_dies",
    "channels:\n  - {channel: 2, dead: true}": "18:7: faults.channels.0: DDR channel 2; there are 0 to 1",
    "channels:\n  - {channel: 1, dead: true}\n  - {channel: 1, dead: true}": "19:7: faults.channels.1: DDR channel 1 "
    "is named twice",
    "dead_dies: [8]\nchannels:\n  - {channel: 0, dead: true}": "16:1: faults: no DDR channel is left: each is dead or "
    "attached to dead dies only; weights could not be loaded",
}


@pytest.mark.parametrize("faults", MESSAGES)
def test_what_cannot_work_is_one_message_with_its_place(tmp_path: Path, faults: str) -> None:
    with pytest.raises(ConfigError) as error:
        _load(tmp_path, faults)
    assert str(error.value) == f"{tmp_path / 'mine.yaml'}:{MESSAGES[faults]}"


def test_ways_lead_round_what_is_dead_and_take_the_faster_of_equals() -> None:
    #  0 - 1 - 2
    #  |   x   |      die 4 dead, link 7-8 slow from 7 to 8
    #  3   4   5
    #  |       |
    #  6 - 7 - 8
    slow = {"dies": [7, 8], "bandwidth_bytes_per_s": 10**9, "one_way": True}
    topology = Topology.of(surviving(_package({"dead_dies": [4], "links": [slow]})))
    number = {0: 0, 1: 1, 2: 2, 3: 3, 5: 4, 6: 5, 7: 6, 8: 7}
    physical = {new: old for old, new in number.items()}

    def way(a: int, b: int) -> list[int]:
        return [physical[d] for d in topology.dies_between(number[a], number[b])]

    assert way(3, 5) == [3, 0, 1, 2, 5]  # both ways have four hops; the lower one is slow
    assert way(5, 3) == [5, 8, 7, 6, 3]  # of two equally fast ones the first by direction: below before above
    assert way(7, 8) == [7, 8]  # one slow hop is still fewest hops
    arrays = topology.network_arrays()
    pair = number[7] * 8 + number[5]
    assert arrays["path_bandwidth"][pair] == 10**9
    assert arrays["path_latency_ps"][pair] == 2 * 4020
    ring = [physical[d] for d in topology.full_ring]
    assert sorted(ring) == [0, 1, 2, 3, 5, 6, 7, 8]
    steps = [topology.hops[number[a], number[b]] for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    assert steps == [1] * 8  # round the dead die


def test_healthy_ways_are_the_same_by_both_rules() -> None:
    package = _package({"channels": [{"channel": 0, "bandwidth_bytes_per_s": 10**9}]})
    left, whole = Topology.of(surviving(package)), Topology.of(package.healthy)
    for name, values in whole.network_arrays().items():
        np.testing.assert_array_equal(left.network_arrays()[name], values)
    assert left.full_ring == whole.full_ring


@pytest.mark.parametrize("strategy", strategy_names())
def test_a_dead_die_leaves_the_same_package_as_one_that_never_had_it(strategy: str) -> None:
    damaged, small = _package({"dead_dies": [2]}, 1, 3, (0, 2)), _package({}, 1, 2, (0,))
    result, expected = (simulate(MODEL, p, ROUTING, strategy, options=OPTIONS) for p in (damaged, small))
    assert result.latency_ps == expected.latency_ps
    assert result.metrics.utilisation == expected.metrics.utilisation
    assert result.metrics.gap == expected.metrics.gap
    assert result.prove() <= 1e-10


@pytest.mark.parametrize("strategy", strategy_names())
def test_results_have_the_numbers_of_the_whole_package(strategy: str) -> None:
    faults = {"dead_dies": [4], "links": [{"dies": [7, 8], "dead": True}]}
    package = _package(faults, channels=(0, 4, 8))
    result = simulate(MODEL, package, ROUTING, strategy, options=OPTIONS)
    timeline, metrics = result.timeline, result.metrics
    assert result.prove() <= 1e-10
    assert 4 not in timeline.die
    assert 4 not in result.workload.die_of_token
    assert result.workload.tokens_on_die.sum() == 24
    assert metrics.busy.channel_bytes[1] == 0  # attached to dead die 4
    assert metrics.busy.channel_bytes[[0, 2]].min() > 0
    links = timeline.network.links.tolist()
    assert len(links) == 24
    used = {(a, b) for (a, b), moved in zip(links, metrics.busy.link_bytes.tolist(), strict=True) if moved}
    assert not used & {(7, 8), (8, 7)}
    assert all(4 not in link for link in used)
    sends = timeline.kind == SEND
    np.testing.assert_array_equal(np.array(links)[timeline.resource[sends], 0], timeline.source[sends])
    assert metrics.given_bytes[4].tolist() == [0, 0]
    stalled = np.delete(metrics.stall_ps, 4, axis=0).sum() / (8 * result.latency_ps)
    assert metrics.utilisation + metrics.overhead + stalled == pytest.approx(1, abs=1e-4)
    assert result.plan.notes[-2:] == ("fault: die 4 dead", "fault: D2D links die 7 to and from die 8 dead")


def test_a_slow_channel_stretches_its_loads_exactly() -> None:
    one = MoEModel.one_layer(d_model=64, d_ffn=48, n_experts=1, top_k=1)
    routing = routing_of(one, 1, 0.0, 0)
    package = _package({"channels": [{"channel": 0, "bandwidth_bytes_per_s": 10**9}]}, 1, 1, (0,))
    result = simulate(one, package, routing, "fse-dp")
    assert result.metrics.busy.channel_ps.tolist() == [3 * 64 * 48 * 1000]  # 1 GB/s: 1000 ps a byte


def test_comparisons_and_the_program_report_the_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = _package({"channels": [{"channel": 0, "dead": True}]})
    trace = synthesize(MODEL, requests=2, tokens_per_request=20, layers=[0])
    evaluation, options = in_parts(trace, 8)
    for row in compare(MODEL, package, trace, tokens=[8]).rows:
        routing = evaluation.iteration(8, 0)
        healthy = simulate(MODEL, package.healthy, routing, row["strategy"], options=options).latency_ps
        assert row["healthy_latency_ps"] == healthy
        assert row["slowdown"] == row["latency_ps"] / healthy
    healthy_rows = compare(MODEL, package.healthy, trace, tokens=[8], strategies="ep").by_tokens()
    assert [row["slowdown"] for row in healthy_rows] == [None]
    file = tmp_path / "mine.yaml"
    file.write_text(PACKAGE + "  dead_dies: [4]\n")
    small = ["qwen3-30b-a3b", "--package", str(file), "-n", "4", "-s", "tp"]
    assert run(["compare", *small, "--layers", "1"]) == 0
    out = capsys.readouterr().out
    assert "without faults" in out
    assert "faults: die 4 dead" in out
    assert run(["simulate", *small, "--layer", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["faults"] == ["die 4 dead"]
    assert document["slowdown"] == document["latency_ps"] / document["healthy_latency_ps"]
    assert run(["simulate", *small, "--layer", "1"]) == 0
    out = capsys.readouterr().out
    assert "latency / without the faults" in out
    assert "4 (dead)" in out
