"""Expert-Chiplet Matcher: Algorithm 1's scan over the pairs, all positions at once (paper, sections V-A and V-B)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from expertstream.hardware.idle_vector import bit_number, lowest_bit, selected
from expertstream.hardware.parameters import Parameters


class Matcher(wiring.Component):
    """Holds the experts in pair order and picks one for each request.

    A request looks at all positions in one cycle (which of the remaining trajectories meet the idle dies), takes the
    first of them in the next, reads its expert in the third and chooses the die in the fourth. Every decision takes
    ``MATCH_CYCLES`` (schedule/cycles.py), however many experts are left.

    Signals (direction, width):
        clear (in, 1): forget all experts.
        write (in, 1), expert (in, expert_bits), trajectory (in, dies): append an expert in pair order.
        left (out, 1): some expert has not been picked.
        request (in, 1): pick an expert; counts only while ``ready``.
        ready (out, 1): no pick is under way or waits to be taken, and some expert is left.
        idle (in, dies), room (in, dies): idle dies and dies with buffer room, at the request.
        allocate (out, 1): one cycle, the one before ``valid`` first rises: the picked expert takes its dies.
        valid (out, 1), taken (in, 1): a pick is on the outputs; they hold still until it is taken.
        picked (out, expert_bits), path (out, dies): expert and its trajectory; valid from ``allocate`` on.
        streams (out, 1): the trajectory meets ``idle``; else a pre-load.
        die (out, die_bits): an idle die of the trajectory; in a pre-load one of it with room, else any with room, else
            one of it; always the lowest number.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = p = parameters
        super().__init__(
            {
                "clear": In(1),
                "write": In(1),
                "expert": In(p.expert_bits),
                "trajectory": In(p.dies),
                "left": Out(1),
                "request": In(1),
                "ready": Out(1),
                "idle": In(p.dies),
                "room": In(p.dies),
                "allocate": Out(1),
                "valid": Out(1),
                "taken": In(1),
                "picked": Out(p.expert_bits),
                "path": Out(p.dies),
                "streams": Out(1),
                "die": Out(p.die_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        p = self._parameters
        experts = [Signal(p.expert_bits, name=f"expert_{i}") for i in range(p.experts)]
        paths = [Signal(p.dies, name=f"path_{i}") for i in range(p.experts)]
        end = Signal(p.experts, init=1)  # one-hot: the position that is written next
        remaining, hits, pick = Signal(p.experts), Signal(p.experts), Signal(p.experts)
        for i in range(p.experts):
            with m.If(self.write & end[i]):
                m.d.sync += [experts[i].eq(self.expert), paths[i].eq(self.trajectory)]

        scan, read, choose = Signal(), Signal(), Signal()
        idle, room = Signal(p.dies), Signal(p.dies)
        m.d.comb += [
            self.left.eq(remaining.any()),
            self.ready.eq(self.left & ~(scan | read | choose | self.valid)),
            self.allocate.eq(choose),
        ]
        m.d.sync += [scan.eq(self.request & self.ready), read.eq(scan), choose.eq(read)]
        with m.If(self.request & self.ready):
            m.d.sync += [
                hits.eq(remaining & Cat(*((path & self.idle).any() for path in paths))),
                idle.eq(self.idle),
                room.eq(self.room),
            ]
        with m.If(scan):
            m.d.sync += [
                self.streams.eq(hits.any()),
                pick.eq(lowest_bit(Mux(hits.any(), hits, remaining), p.experts)),
            ]
        with m.If(read):
            m.d.sync += [self.picked.eq(selected(pick, experts)), self.path.eq(selected(pick, paths))]
        with m.If(choose):
            choice = Signal(p.dies)
            with m.If(self.streams):
                m.d.comb += choice.eq(self.path & idle)
            with m.Elif((self.path & room).any()):
                m.d.comb += choice.eq(self.path & room)
            with m.Elif(room.any()):
                m.d.comb += choice.eq(room)
            with m.Else():
                m.d.comb += choice.eq(self.path)
            m.d.sync += [self.die.eq(bit_number(lowest_bit(choice, p.dies), p.die_bits)), self.valid.eq(1)]
        with m.Elif(self.taken):
            m.d.sync += self.valid.eq(0)

        with m.If(self.clear):
            m.d.sync += [
                remaining.eq(0),
                end.eq(1),
                *(flag.eq(0) for flag in (scan, read, choose, self.valid)),
            ]
        with m.Elif(self.write):
            m.d.sync += [remaining.eq(remaining | end), end.eq(end << 1)]
        with m.Elif(read):
            m.d.sync += remaining.eq(remaining & ~pick)
        return m
