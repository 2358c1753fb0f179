"""Expert Information Table (EIT): trajectory, token count and state of every expert (paper, section V-B)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from expertstream.hardware.parameters import Parameters


class ExpertTable(wiring.Component):
    """A memory of trajectories and token counts with one write and one read port, and two state bits an expert.

    The states are flip-flops, because a start and a completion may change two experts in one cycle.

    Signals (direction, width):
        clear (in, 1): a new layer; no expert is present or running.
        write (in, 1), expert (in, expert_bits), trajectory (in, dies), tokens (in, token_bits): enter an expert.
        known (out, 1): ``expert`` is present already (same cycle).
        read_expert (in, expert_bits): read an expert.
        read_trajectory (out, dies), read_tokens (out, token_bits): of the expert read in the cycle before.
        read_running (out, 1): ``read_expert`` has started and not completed (same cycle).
        start (in, 1), start_expert (in, expert_bits): an expert starts to run.
        complete (in, 1): ``read_expert`` has completed; counts only if it is running.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = p = parameters
        super().__init__(
            {
                "clear": In(1),
                "write": In(1),
                "expert": In(p.expert_bits),
                "trajectory": In(p.dies),
                "tokens": In(p.token_bits),
                "known": Out(1),
                "read_expert": In(p.expert_bits),
                "read_trajectory": Out(p.dies),
                "read_tokens": Out(p.token_bits),
                "read_running": Out(1),
                "start": In(1),
                "start_expert": In(p.expert_bits),
                "complete": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        p = self._parameters
        m.submodules.memory = memory = Memory(shape=p.dies + p.token_bits, depth=p.experts, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.addr.eq(self.expert),
            write.data.eq(Cat(self.trajectory, self.tokens)),
            write.en.eq(self.write),
            read.addr.eq(self.read_expert),
            Cat(self.read_trajectory, self.read_tokens).eq(read.data),
        ]
        present, running = Signal(p.slots), Signal(p.slots)
        m.d.comb += [
            self.known.eq(present.bit_select(self.expert, 1)),
            self.read_running.eq(running.bit_select(self.read_expert, 1)),
        ]
        with m.If(self.clear):
            m.d.sync += [present.eq(0), running.eq(0)]
        with m.Else():
            started = self.start << self.start_expert
            ended = (self.complete & self.read_running) << self.read_expert
            m.d.sync += [
                present.eq(present | (self.write << self.expert)),
                running.eq((running | started) & ~ended),
            ]
        return m
