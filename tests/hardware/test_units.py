"""Each module of the hardware scheduler on its own: contents and exact cycles."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from expertstream.errors import ConfigError
from expertstream.schedule.cycles import MATCH_CYCLES, SorterKind, sort_cycles, stages
from tests.needs import needs_module

needs_module("amaranth", "rtl")

from expertstream.hardware.buffering import VERDICT_CYCLES, TokenBuffering  # noqa: E402
from expertstream.hardware.expert_table import ExpertTable  # noqa: E402
from expertstream.hardware.idle_vector import IdleChipletVector  # noqa: E402
from expertstream.hardware.lockstep import simulator  # noqa: E402
from expertstream.hardware.matcher import Matcher  # noqa: E402
from expertstream.hardware.parameters import Parameters  # noqa: E402
from expertstream.hardware.sorter import SORTERS  # noqa: E402


def run(dut: Any, testbench: Callable[[Any], Any]) -> None:
    simulation = simulator(dut)
    simulation.add_testbench(testbench)
    simulation.run()


def test_a_network_of_128_has_28_stages() -> None:
    assert len(stages(128)) == 28
    assert stages(4) == [(2, 1), (4, 2), (4, 1)]


@pytest.mark.parametrize("kind", list(SORTERS))
@pytest.mark.parametrize("slots", [2, 8, 16])
def test_sorters_rank_keys_in_the_stated_cycles(kind: SorterKind, slots: int) -> None:
    dut = SORTERS[kind](slots, 6)
    rng = random.Random(slots)

    async def testbench(ctx: Any) -> None:
        for n in [1, 2, slots // 2 + 1, slots, *(rng.randint(1, slots) for _ in range(6))]:
            keys = [rng.randint(1, 63) for _ in range(n)]
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.push, 1)
            for key in keys:
                ctx.set(dut.key, key)
                await ctx.tick()
            ctx.set(dut.push, 0)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycles = 0
            while not ctx.get(dut.sorted):
                await ctx.tick()
                cycles += 1
            assert cycles == sort_cycles(kind, slots, n)
            ranked = []
            for rank in range(n):
                ctx.set(dut.index, rank)
                await ctx.tick()
                ranked.append(ctx.get(dut.ranked))
            assert ranked == sorted(keys, reverse=True)

    run(dut, testbench)


@pytest.mark.parametrize("slots", [0, 1, 3, 12])
def test_a_sorter_needs_a_power_of_two(slots: int) -> None:
    message = f"a bitonic sorter has {slots} slots; it must be a power of two, 2 at least"
    with pytest.raises(ConfigError, match=re.escape(message)):
        SORTERS["stage"](slots, 4)


def test_a_die_is_idle_again_when_its_last_user_has_completed() -> None:
    dut = IdleChipletVector(4, 8)

    async def testbench(ctx: Any) -> None:
        async def cycle(allocate: int, release: int) -> int:
            for flag, mask, value in (
                (dut.allocate, dut.allocate_mask, allocate),
                (dut.release, dut.release_mask, release),
            ):
                ctx.set(flag, value != 0)
                ctx.set(mask, value)
            await ctx.tick()
            return int(ctx.get(dut.idle))

        assert await cycle(0, 0) == 0b1111
        assert await cycle(0b0011, 0) == 0b1100
        assert await cycle(0b0110, 0) == 0b1000
        assert await cycle(0, 0b0011) == 0b1001
        assert await cycle(0b1000, 0b0110) == 0b0111  # both at once, other dies
        assert await cycle(0b1000, 0b1000) == 0b0111  # both at once, the same die stays busy
        assert await cycle(0, 0b1000) == 0b1111

    run(dut, testbench)


def test_the_table_gives_an_expert_one_cycle_later_and_its_state_at_once() -> None:
    dut = ExpertTable(Parameters(dies=3, experts=9, token_bits=5))

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.expert, 8)
        ctx.set(dut.trajectory, 0b101)
        ctx.set(dut.tokens, 21)
        assert ctx.get(dut.known) == 0
        ctx.set(dut.write, 1)
        await ctx.tick()
        ctx.set(dut.write, 0)
        assert ctx.get(dut.known) == 1
        ctx.set(dut.read_expert, 8)
        ctx.set(dut.start, 1)
        ctx.set(dut.start_expert, 8)
        await ctx.tick()
        ctx.set(dut.start, 0)
        assert (ctx.get(dut.read_trajectory), ctx.get(dut.read_tokens)) == (0b101, 21)
        assert ctx.get(dut.read_running) == 1
        ctx.set(dut.complete, 1)
        await ctx.tick()
        assert ctx.get(dut.read_running) == 0
        ctx.set(dut.complete, 0)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert ctx.get(dut.known) == 0

    run(dut, testbench)


def test_the_matcher_streams_the_first_that_meets_an_idle_die_else_preloads() -> None:
    dut = Matcher(Parameters(dies=4, experts=8))

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.write, 1)
        for expert, path in ((5, 0b0011), (2, 0b0110), (7, 0b1100), (1, 0b0001)):
            ctx.set(dut.expert, expert)
            ctx.set(dut.trajectory, path)
            await ctx.tick()
        ctx.set(dut.write, 0)

        async def decide(idle: int, room: int) -> tuple[int, int, int, int]:
            ctx.set(dut.idle, idle)
            ctx.set(dut.room, room)
            ctx.set(dut.request, 1)
            await ctx.tick()
            ctx.set(dut.request, 0)
            ctx.set(dut.idle, 0)
            ctx.set(dut.room, 0)
            for cycle in range(1, MATCH_CYCLES):
                assert (ctx.get(dut.valid), ctx.get(dut.ready)) == (0, 0)
                assert ctx.get(dut.allocate) == (cycle == MATCH_CYCLES - 1)
                await ctx.tick()
            assert ctx.get(dut.valid) == 1
            await ctx.tick()
            assert (ctx.get(dut.valid), ctx.get(dut.ready)) == (1, 0)  # holds until taken
            ctx.set(dut.taken, 1)
            picked = (ctx.get(dut.picked), ctx.get(dut.path), ctx.get(dut.streams), ctx.get(dut.die))
            await ctx.tick()
            ctx.set(dut.taken, 0)
            return picked

        assert await decide(0b1000, 0) == (7, 0b1100, 1, 3)
        assert await decide(0b1000, 0b1010) == (5, 0b0011, 0, 1)  # pre-load, room on the trajectory
        assert await decide(0, 0b1000) == (2, 0b0110, 0, 3)  # room elsewhere
        assert await decide(0, 0) == (1, 0b0001, 0, 0)  # no room: waits on its trajectory
        assert (ctx.get(dut.left), ctx.get(dut.ready)) == (0, 0)

    run(dut, testbench)


def test_a_verdict_comes_two_cycles_after_a_requests_last_expert() -> None:
    dut = TokenBuffering(Parameters(dies=2, experts=8, requests=4))

    async def testbench(ctx: Any) -> None:
        for signal, value in ((dut.theta_min, 3), (dut.deferrals, 1), (dut.passes, 1), (dut.saved, 1)):
            ctx.set(signal, value)
        ctx.set(dut.updates.payload, {"request": 2, "opened": 0})
        ctx.set(dut.updates.valid, 1)
        await ctx.tick()
        ctx.set(dut.updates.valid, 0)
        for tokens, last in ((5, 0), (2, 1)):  # the second expert is cold
            ctx.set(dut.activations.payload, {"request": 2, "expert": 4, "last": last})
            ctx.set(dut.activations.valid, 1)
            assert ctx.get(dut.activations.ready) == 1
            await ctx.tick()
            ctx.set(dut.read_tokens, tokens)
        ctx.set(dut.activations.valid, 0)
        for _ in range(1, VERDICT_CYCLES):
            assert ctx.get(dut.verdicts.valid) == 0
            await ctx.tick()
        assert ctx.get(dut.verdicts.valid) == 1
        verdict = ctx.get(dut.verdicts.payload)
        assert (int(verdict.request), int(verdict.deferred)) == (2, 1)

    run(dut, testbench)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 0}, "the scheduler's experts is 0; allowed: 8 to 512"),
        ({"experts": 513}, "the scheduler's experts is 513; allowed: 8 to 512"),
        ({"dies": 1}, "the scheduler's dies is 1; allowed: 2 to 64"),
        ({"dies": 65}, "the scheduler's dies is 65; allowed: 2 to 64"),
        ({"requests": 0}, "the scheduler's requests is 0; allowed: 1 to 1024"),
        ({"token_bits": 3}, "the scheduler's token_bits is 3; allowed: 4 to 20"),
        (
            {"sorter": "paralel"},
            "the scheduler's sorter is 'paralel'; did you mean 'parallel'? Allowed: parallel, stage, serial",
        ),
    ],
)
def test_bad_sizes_are_refused_at_construction(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Parameters(**change)
