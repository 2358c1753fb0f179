"""What a comparison holds equal or varies alone: DDR layout, prefetch depth, buffers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from expertstream.cli.compare import _alike
from expertstream.cli.main import run
from expertstream.engine.layout import COMPUTE, LOAD
from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options, Strategy
from expertstream.strategy.base import CHOICES
from expertstream.strategy.registry import BUILT_IN
from expertstream.trace import Routing, synthesize
from expertstream.units import counted, format_bytes
from tests.property.cases import routing_of, training_of


def layer(strategy: str, **options: object) -> Result:
    model = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=16, top_k=2)
    routing = routing_of(model, 24, 1.0, 5)
    given = Options(training=training_of(routing, 5), decision_ps=0, **options)  # type: ignore[arg-type]
    return simulate(model, Package.preset("test-chip-2x2"), routing, strategy, options=given)


@pytest.mark.parametrize("strategy", ["fse-dp-naive", "fse-dp", "fse-dp-paired", "fse-dp-rule5"])
def test_a_whole_expert_lies_in_one_channel_and_a_striped_one_in_all(strategy: str) -> None:
    for layout, channels in (("whole", 1), ("striped", 4)):
        result = layer(strategy, layout=layout)
        loads = np.flatnonzero(result.timeline.kind == LOAD)
        for expert in result.workload.activated.tolist():
            mine = loads[result.expert[loads] == expert]
            assert np.unique(result.timeline.resource[mine]).size == channels
        assert layout in result.plan.ddr_layout
        assert result.prove() <= 1e-10


@pytest.mark.parametrize("strategy", ["fse-dp-naive", "fse-dp", "fse-dp-paired", "tp"])
def test_no_more_experts_are_in_flight_than_the_depth(strategy: str) -> None:
    latency = []
    for depth in (1, 2, 16):
        result = layer(strategy, depth=depth)
        timeline, expert = result.timeline, result.expert
        mine = (timeline.kind == LOAD) | (timeline.kind == COMPUTE)
        spans = [
            (int(timeline.start_ps[mine & (expert == e)].min()), int(timeline.end_ps[mine & (expert == e)].max()))
            for e in result.workload.activated.tolist()
        ]
        most = max(sum(start < other_start < end for start, end in spans) + 1 for other_start, _ in spans)
        assert most <= depth
        assert f"at most {counted(depth, 'expert')} at once" in result.plan.prefetch
        latency.append(result.latency_ps)
    assert latency[0] > latency[2]  # without prefetch every load is waited for


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (
            "fse-dp-adaptive",
            "nothing else begins while weights and copies of tokens take as much as a few experts, or a third of the "
            "buffers (a quarter to a fifth if loads are ahead), or what moving tokens may fill if that is more",
        ),
        ("fse-dp-naive-tokens", "as far as the weight buffer has room"),
    ],
)
def test_strategies_that_start_parts_of_experts_say_that_depth_does_not_apply(strategy: str, words: str) -> None:
    without, given = layer(strategy), layer(strategy, depth=1)
    assert given.plan.prefetch == f"{words}; depth does not apply"
    assert without.plan.prefetch == words
    assert given.latency_ps == without.latency_ps


@pytest.mark.parametrize("strategy", ["fse-dp-paired", "tp"])
def test_no_more_micro_slices_are_reported_than_there_are_columns(strategy: str) -> None:
    columns = int(layer(strategy).workload.columns.max())
    finest, beyond = layer(strategy, micro_slices=-(-columns // 4)), layer(strategy, micro_slices=100_000)
    assert beyond.plan.notes[0].startswith(f"{-(-columns // 4)} micro-slices per expert and die")
    assert beyond.latency_ps == finest.latency_ps


def test_ep_without_prefetch_is_slower() -> None:
    """Whole experts, one at a time on each home die: what a comparison with an EP that cannot prefetch would claim."""
    assert layer("ep", depth=1).latency_ps > 1.1 * layer("ep").latency_ps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "stripes"}, "layout is 'stripes'; did you mean 'striped'? allowed: striped, whole"),
        ({"layout": ["striped"]}, "layout is ['striped']; allowed: striped, whole"),
        ({"order": None}, "order is None; allowed: id, paired"),
        ({"placement": 3}, "placement is 3; allowed: contiguous, round-robin, balanced, best"),
        ({"depth": 0}, "depth is 0; it must be at least 1 (or left out)"),
        ({"depth": 2.0}, "depth is 2.0; a whole number is needed"),
        ({"micro_slices": "3"}, "micro_slices is '3'; a whole number is needed"),
        ({"micro_slices": True}, "micro_slices is True; a whole number is needed"),
        ({"micro_slices": -1}, "micro_slices is -1; it must be at least 1 (or left out)"),
        ({"rings": 3}, "rings is 3; allowed: 1, 2, 4"),
        ({"rings": True}, "rings is True; a whole number is needed"),
        ({"rings": None}, "rings is None; a whole number is needed"),
        ({"decision_ps": "80 ns"}, "decision_ps is '80 ns'; a whole number is needed"),
        ({"decision_ps": math.nan}, "decision_ps is nan; a whole number is needed"),
        ({"decision_ps": -1}, "decision_ps is -1; it must be from 0 to 1 s (1000000000000), or left out"),
        ({"lead_ps": None}, "lead_ps is None; a whole number is needed"),
        ({"lead_ps": 10.5}, "lead_ps is 10.5; a whole number is needed"),
        ({"redispatch": "no"}, "redispatch is 'no'; allowed: True, False"),
        ({"scheduler": "rtl"}, "scheduler is 'rtl'; it must make a scheduler, as SoftwareScheduler does"),
        ({"training": "t.parquet"}, "training is 't.parquet'; it must be of type RoutingTrace, or left out"),
        (
            {"prediction": math.nan},
            "prediction is nan; allowed: an accuracy above 0 and up to 1, such as 0.8, or 'trace'",
        ),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Options(**options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_buffers_that_hang_on_the_tokens_name_them() -> None:
    rows = [
        {"strategy": name, "tokens": n, "weight_buffer_bytes": 1024 * (1 + (name == "ep" and n == 8))}
        for n in (4, 8)
        for name in ("tp", "ep")
    ]
    assert _alike(rows, lambda row: format_bytes(row["weight_buffer_bytes"])) == {
        "1 KiB": ["tp", "ep at 4 tokens"],
        "2 KiB": ["ep at 8 tokens"],
    }


def test_buffers_in_place_of_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["simulate", "qwen3-30b-a3b", "--tokens", "8", "--weight-buffer", "3 MiB", "--token-buffer", "1 MiB"]
    assert run([*arguments, "--layout", "whole", "--depth", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["weight_buffer_bytes"] == [3 << 20] * 4
    assert document["token_buffer_bytes"] == [1 << 20] * 4
    assert document["prefetch"].endswith("but at most 4 experts at once")
    assert document["ddr_layout"] == "each expert whole in one of 4 DDR channels, in turn"
    assert run([*arguments[:4], "--weight-buffer", "3"]) == 2
    assert "3 has no unit" in capsys.readouterr().err


OTHER = {
    "micro_slices": 9,
    "placement": "round-robin",
    "order": "paired",
    "rings": 1,
    "redispatch": True,
    "layout": "whole",
    "depth": 1,
}


@pytest.mark.parametrize("strategy", BUILT_IN, ids=[strategy.name for strategy in BUILT_IN])
def test_a_strategy_takes_the_choices_that_it_says_and_no_other(strategy: Strategy) -> None:
    assert set(OTHER) == {*CHOICES}
    model = MoEModel.one_layer(d_model=256, d_ffn=512, n_experts=16, top_k=2)
    training = synthesize(model, requests=4, tokens_per_request=100, layers=[0], seed=1)
    changing = set()
    # In the last the tokens fill their buffers, so that none may move.
    for side, room, tokens, d2d in (
        (3, 400_000, 1 << 20, 2 * 10**9), (2, 1 << 20, 1 << 20, 5 * 10**8), (2, 1 << 20, 50_000, 5 * 10**8)
    ):  # fmt: skip
        channels = [{"dies": [die], "bandwidth_bytes_per_s": 25_600_000_000} for die in (0, side**2 - 1)]
        package = Package.preset("test-chip-2x2").replace(rows=side, cols=side, channels=channels)
        package = package.replace(
            **{"die.weight_buffer_bytes": room, "die.token_buffer_bytes": tokens, "d2d.bandwidth_bytes_per_s": d2d}
        )
        routing = training.iteration(tokens=128, layer=0)

        def activities(options: Options, package: Package = package, routing: Routing = routing) -> list[bytes]:
            timeline = simulate(model, package, routing, strategy, options=options).timeline
            return [
                column.tobytes() for column in (timeline.start_ps, timeline.end_ps, timeline.die, timeline.resource)
            ]

        usual = Options(training=training, placement="contiguous")
        changing |= {
            name for name, value in OTHER.items() if activities(replace(usual, **{name: value})) != activities(usual)
        }
    assert changing == strategy.takes
