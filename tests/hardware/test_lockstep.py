"""The RTL takes the software's decisions: at least 10,000 random ones, and real layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.schedule import SoftwareScheduler
from expertstream.trace import packaged_trace
from expertstream.workload import LayerWorkload
from tests.needs import needs_module

needs_module("amaranth", "rtl")

from expertstream.hardware import lockstep  # noqa: E402
from expertstream.hardware.lockstep import Layer, LockStepError, run_layers, run_random  # noqa: E402
from expertstream.hardware.parameters import Parameters  # noqa: E402

RANDOM = [  # decisions, seed
    (Parameters(dies=4, experts=128, requests=16), 4000, 11),
    (Parameters(dies=4, experts=32, requests=8), 2000, 12),
    (Parameters(dies=9, experts=64, requests=4, sorter="serial"), 2000, 13),
    (Parameters(dies=16, experts=16, requests=5, sorter="parallel"), 1000, 14),
    (Parameters(dies=3, experts=11, requests=3, token_bits=6), 500, 15),
    (Parameters(dies=64, experts=8, requests=1, token_bits=4), 500, 16),
    (Parameters(dies=8, experts=512, requests=2, token_bits=8), 100, 17),
]


def test_the_random_runs_take_ten_thousand_decisions() -> None:
    assert sum(decisions for _, decisions, _ in RANDOM) >= 10_000


@pytest.mark.parametrize(("parameters", "decisions", "seed"), RANDOM)
def test_random_layers_in_lock_step(parameters: Parameters, decisions: int, seed: int) -> None:
    print(f"seed {seed}: {parameters}")
    tally = run_random(parameters, decisions, seed)
    print(tally)
    assert tally.decisions >= decisions
    assert 0 < tally.preloads < tally.decisions
    assert tally.verdicts > 0


@pytest.mark.parametrize(("model", "package", "tokens"), [("qwen3-30b-a3b", "4x4", 64), ("phi-3.5-moe", "3x3", 16)])
def test_layers_of_models_in_lock_step(model: str, package: str, tokens: int) -> None:
    moe, chips = MoEModel.preset(model), Package.preset(package)
    trace = packaged_trace(moe)
    layers = []
    for layer in trace.layer_index.tolist()[:2]:
        workload = LayerWorkload.of(moe, chips, trace.iteration(tokens, layer))
        load = workload.in_passes(1).load[0][: moe.n_experts]
        masks = (load > 0) @ (1 << np.arange(chips.n_dies, dtype=object))
        layers.append(Layer(load.sum(axis=1).tolist(), masks.tolist()))
    parameters = Parameters(dies=chips.n_dies, experts=moe.n_experts, requests=1)
    tally = run_layers(parameters, layers, seed=5)
    assert tally.decisions == sum(sum(n > 0 for n in layer.counts) for layer in layers) > 0


def test_an_empty_layer_is_done_at_once() -> None:
    layers = [Layer([0] * 8, [0] * 8), Layer([0] * 7 + [1], [0] * 7 + [3]), Layer([0] * 8, [0] * 8)]
    tally = run_layers(Parameters(dies=2, experts=8), layers, seed=1)
    assert (tally.layers, tally.decisions) == (3, 1)


def test_a_different_decision_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(order: str, *, dies: int, experts: int) -> SoftwareScheduler:
        return SoftwareScheduler("id" if order == "paired" else "paired", dies=dies, experts=experts)

    monkeypatch.setattr(lockstep, "SoftwareScheduler", other)
    with pytest.raises(LockStepError, match=r"the RTL decided Decision\(.*seed 3\)"):
        run_random(Parameters(dies=4, experts=16), 50, seed=3)


def test_misuse_raises_the_error_bits() -> None:
    from expertstream.hardware.scheduler import ERROR_COMPLETION, ERROR_PUSH, Scheduler

    dut = Scheduler(Parameters(dies=4, experts=9))

    async def testbench(ctx: Any) -> None:
        async def push(expert: int, tokens: int, trajectory: int) -> int:
            ctx.set(dut.experts.payload, {"expert": expert, "tokens": tokens, "trajectory": trajectory})
            ctx.set(dut.experts.valid, 1)
            await ctx.tick()
            ctx.set(dut.experts.valid, 0)
            return int(ctx.get(dut.errors))

        assert await push(3, 0, 0) == 0  # not activated
        assert await push(8, 2, 1) == 0
        assert await push(8, 2, 1) == ERROR_PUSH
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        while not ctx.get(dut.completions.ready):
            await ctx.tick()
        ctx.set(dut.completions.payload, 8)
        ctx.set(dut.completions.valid, 1)
        await ctx.tick()
        assert ctx.get(dut.errors) == ERROR_PUSH | ERROR_COMPLETION

    simulation = lockstep.simulator(dut)
    simulation.add_testbench(testbench)
    simulation.run()
