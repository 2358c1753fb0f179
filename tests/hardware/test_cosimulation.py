"""The RTL decides inside the event engine: the timeline is that of the software scheduler, bit for bit."""

from __future__ import annotations

import random

import numpy as np
import pytest

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.schedule import OrderName, SoftwareScheduler
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options
from expertstream.trace import packaged_trace
from tests.needs import needs_module

needs_module("amaranth", "rtl")

from expertstream.hardware.cosimulation import RtlScheduler  # noqa: E402

CASES = [  # passes over the tokens, too: phi-3.5-moe at 1024 tokens needs two
    ("qwen3-30b-a3b", "test-chip-2x2", 16, "fse-dp-paired"),
    ("qwen3-30b-a3b", "4x4-edge", 64, "fse-dp"),
    ("phi-3.5-moe", "test-chip-2x2", 1024, "fse-dp-paired"),
    ("deepseek-moe-16b", "3x3", 64, "fse-dp-rule5"),
]


def layer(model: str, package: str, tokens: int, strategy: str, options: Options) -> Result:
    moe = MoEModel.preset(model)
    trace = packaged_trace(moe)
    routing = trace.iteration(tokens, int(trace.layer_index[0]))
    return simulate(moe, Package.preset(package), routing, strategy, options=options)


@pytest.mark.parametrize(("model", "package", "tokens", "strategy"), CASES)
def test_the_timeline_with_the_rtl_is_that_of_the_software(
    model: str, package: str, tokens: int, strategy: str
) -> None:
    software = layer(model, package, tokens, strategy, Options())
    rtl = layer(model, package, tokens, strategy, Options(scheduler=RtlScheduler))
    for column in ("start_ps", "end_ps", "resource", "kind", "die", "source", "tag", "bytes", "tokens"):
        assert np.array_equal(getattr(software.timeline, column), getattr(rtl.timeline, column)), column
    assert rtl.plan.passes == (2 if tokens == 1024 else 1)
    free = layer(model, package, tokens, strategy, Options(decision_ps=0))
    assert free.latency_ps < software.latency_ps


def test_the_cycles_count_in_a_given_decision_time_no_more() -> None:
    fixed = [
        layer("phi-3.5-moe", "test-chip-2x2", 64, "fse-dp-paired", Options(decision_ps=80_000, **chosen))
        for chosen in ({}, {"scheduler": RtlScheduler})
    ]
    assert np.array_equal(fixed[0].timeline.end_ps, fixed[1].timeline.end_ps)


@pytest.mark.parametrize(
    ("order", "dies", "experts"),
    [("paired", 1, 1), ("id", 2, 8), ("paired", 4, 60), ("id", 16, 65), ("paired", 64, 128)],
)
def test_the_closed_forms_of_the_cycles_are_those_of_the_rtl(order: OrderName, dies: int, experts: int) -> None:
    rng = random.Random(experts)
    twins = [made(order, dies=dies, experts=experts, tokens=99) for made in (SoftwareScheduler, RtlScheduler)]
    software, rtl = twins
    for share in (0.0, 1.0, 0.5, 0.1):
        counts = [rng.randint(1, 99) if rng.random() < share else 0 for _ in range(experts)]
        masks = [rng.randrange(1, 1 << dies) for _ in range(experts)]
        for twin in twins:
            twin.begin(counts, masks)
        assert software.cycles == rtl.cycles
        while software.left or software.running:
            assert software.left == rtl.left
            if software.left and (not software.running or rng.random() < 0.5):
                room = rng.getrandbits(dies)
                assert software.decide(room) == rtl.decide(room)
            else:
                expert = rng.choice(software.running)
                for twin in twins:
                    twin.complete(expert)
            assert software.cycles == rtl.cycles
