"""The scheduler on the I/O die: table, sorter, idle vector, matcher and token buffering in one circuit."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from expertstream.hardware.buffering import (
    TIMER_BITS,
    TokenBuffering,
    activation_layout,
    update_layout,
    verdict_layout,
)
from expertstream.hardware.expert_table import ExpertTable
from expertstream.hardware.idle_vector import IdleChipletVector
from expertstream.hardware.matcher import Matcher
from expertstream.hardware.parameters import Parameters
from expertstream.hardware.sorter import SORTERS

ERROR_PUSH, ERROR_COMPLETION = 1, 2  # bits of ``errors``


def expert_layout(parameters: Parameters) -> data.StructLayout:
    """An expert of the layer: number, tokens, trajectory."""
    p = parameters
    return data.StructLayout({"expert": p.expert_bits, "tokens": p.token_bits, "trajectory": p.dies})


def dispatch_layout(parameters: Parameters) -> data.StructLayout:
    """A decision: the expert to load, whether it streams (or is pre-loaded), the die to enter at, the trajectory."""
    p = parameters
    return data.StructLayout({"expert": p.expert_bits, "streams": 1, "die": p.die_bits, "trajectory": p.dies})


class Scheduler(wiring.Component):
    """Algorithms 1 and 2 in hardware, one layer after another.

    A layer: push its experts, raise ``start``, then send a request whenever a DDR channel has nothing queued and take
    the decision; report completions in any order. When every expert has been taken and has completed, ``done`` is up
    for a cycle and the next layer's experts may be pushed. For token buffering push the counts over all requests,
    send each request's experts and take its verdict; if some are deferred, raise ``clear`` and push what is left.

    Streams transfer in a cycle with valid and ready both 1. Completions and requests count in the order in which they
    are accepted; of two in the same cycle the request is first.

    Signals (direction, width):
        theta_min (in, token_bits), deferrals, passes, saved (in, 8 each): configuration of Algorithm 2; constant
            while activations or updates are sent. passes is at least 1.
        paired (in, 1): 1: experts are considered in paired-load order, 0: in the order of their numbers; constant while
            experts are pushed and from ``start`` until requests are accepted.
        clear (in, 1): forget the pushed experts; only while ``loading``.
        experts (in, stream of expert_layout): experts of the layer, in any order. Those with 0 tokens are ignored.
        start (in, 1): all experts have been pushed; only while ``loading`` and with no activation under way.
        loading (out, 1): experts can be pushed.
        requests (in, stream of dies bits): asks for a decision; the payload is the mask of dies with buffer room.
        dispatch (out, stream of dispatch_layout): the decision.
        completions (in, stream of expert_bits bits): an expert has completed.
        done (out, 1): one cycle, all experts have completed (or none was activated).
        idle (out, dies): the Idle Chiplet Vector.
        activations, verdicts, updates: streams of the token-buffering unit; activations while ``loading`` only.
        errors (out, 2): stays 1 until reset: bit 0, a push of an expert that is present or out of range or has tokens
            but no die (ignored); bit 1, completion of an expert that is not running (ignored).
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = p = parameters
        super().__init__(
            {
                "theta_min": In(p.token_bits),
                "deferrals": In(TIMER_BITS),
                "passes": In(TIMER_BITS),
                "saved": In(TIMER_BITS),
                "paired": In(1),
                "clear": In(1),
                "experts": In(stream.Signature(expert_layout(p))),
                "start": In(1),
                "loading": Out(1),
                "requests": In(stream.Signature(p.dies)),
                "dispatch": Out(stream.Signature(dispatch_layout(p))),
                "completions": In(stream.Signature(p.expert_bits)),
                "done": Out(1),
                "idle": Out(p.dies),
                "activations": In(stream.Signature(activation_layout(p))),
                "verdicts": Out(stream.Signature(verdict_layout(p))),
                "updates": In(stream.Signature(update_layout(p))),
                "errors": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        p = self.parameters
        m.submodules.table = table = ExpertTable(p)
        m.submodules.sorter = sorter = SORTERS[p.sorter](p.slots, p.token_bits + p.expert_bits)
        m.submodules.matcher = matcher = Matcher(p)
        m.submodules.idle_vector = vector = IdleChipletVector(p.dies, p.experts)
        m.submodules.buffering = buffering = TokenBuffering(p)

        count, left = Signal(p.count_bits), Signal(p.count_bits)  # activated experts; those that have not completed
        issued = Signal(p.count_bits)
        looked_up, listed = (
            Signal(),
            Signal(),
        )  # a rank was looked up in the cycle before, an expert the one before that
        listed_expert = Signal(p.expert_bits)
        releases = Signal()
        forget = Signal()
        pushed = self.experts.payload
        half = issued >> 1

        m.d.comb += [
            self.idle.eq(vector.idle),
            buffering.theta_min.eq(self.theta_min),
            buffering.deferrals.eq(self.deferrals),
            buffering.passes.eq(self.passes),
            buffering.saved.eq(self.saved),
            buffering.read_tokens.eq(table.read_tokens),
            table.expert.eq(pushed.expert),
            table.trajectory.eq(pushed.trajectory),
            table.tokens.eq(pushed.tokens),
            # Sorted by tokens, then by the lower number; with equal tokens for all, by number. No key is 0.
            sorter.key.eq(Cat((~pushed.expert)[: p.expert_bits], Mux(self.paired, pushed.tokens, 1))),
            sorter.index.eq(Mux(self.paired, Mux(issued[0], count - 1 - half, half), issued)),
            table.clear.eq(forget),
            sorter.clear.eq(forget),
            matcher.clear.eq(forget),
            matcher.write.eq(listed),
            matcher.expert.eq(listed_expert),
            matcher.trajectory.eq(table.read_trajectory),
            matcher.idle.eq(vector.idle),
            matcher.room.eq(self.requests.payload),
            matcher.taken.eq(self.dispatch.ready),
            self.dispatch.valid.eq(matcher.valid),
            self.dispatch.payload.expert.eq(matcher.picked),
            self.dispatch.payload.streams.eq(matcher.streams),
            self.dispatch.payload.die.eq(matcher.die),
            self.dispatch.payload.trajectory.eq(matcher.path),
            vector.allocate.eq(matcher.allocate),
            vector.allocate_mask.eq(matcher.path),
            vector.release.eq(releases),
            vector.release_mask.eq(table.read_trajectory),
            table.start.eq(matcher.valid & self.dispatch.ready),
            table.start_expert.eq(matcher.picked),
        ]
        connect(m, flipped(self.verdicts), buffering.verdicts)
        connect(m, flipped(self.updates), buffering.updates)
        m.d.comb += buffering.activations.payload.eq(self.activations.payload)
        m.d.sync += [looked_up.eq(0), listed.eq(looked_up), releases.eq(0)]

        with m.FSM():
            with m.State("LOAD"):
                m.d.comb += [
                    self.loading.eq(1),
                    self.experts.ready.eq(~self.clear & ~self.start),
                    table.read_expert.eq(buffering.read_expert),
                    buffering.activations.valid.eq(self.activations.valid),
                    self.activations.ready.eq(buffering.activations.ready),
                ]
                with m.If(self.experts.valid & self.experts.ready & (pushed.tokens != 0)):
                    with m.If(table.known | (pushed.expert >= p.experts) | (pushed.trajectory == 0)):
                        m.d.sync += self.errors[0].eq(1)
                    with m.Else():
                        m.d.comb += [table.write.eq(1), sorter.push.eq(1)]
                        m.d.sync += count.eq(count + 1)
                with m.If(self.clear):
                    m.d.comb += forget.eq(1)
                    m.d.sync += count.eq(0)
                with m.Elif(self.start):
                    m.d.sync += [issued.eq(0), left.eq(count)]
                    with m.If(count == 0):
                        m.next = "DONE"
                    with m.Else():
                        m.d.comb += sorter.start.eq(1)
                        m.next = "SORT"
            with m.State("SORT"), m.If(sorter.sorted):
                m.d.sync += [looked_up.eq(1), issued.eq(1)]
                m.next = "LIST"
            with m.State("LIST"):
                m.d.comb += table.read_expert.eq(~sorter.ranked[: p.expert_bits])
                m.d.sync += listed_expert.eq(table.read_expert)
                with m.If(issued != count):
                    m.d.sync += [looked_up.eq(1), issued.eq(issued + 1)]
                with m.Elif(listed & ~looked_up):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [
                    # A release that is under way counts before the request.
                    self.requests.ready.eq(matcher.ready & ~releases),
                    matcher.request.eq(self.requests.valid & ~releases),
                    self.completions.ready.eq(1),
                    table.read_expert.eq(self.completions.payload),
                    table.complete.eq(self.completions.valid),
                ]
                with m.If(self.completions.valid):
                    with m.If(table.read_running):
                        m.d.sync += [releases.eq(1), left.eq(left - 1)]
                    with m.Else():
                        m.d.sync += self.errors[1].eq(1)
                with m.If((left == 0) & ~releases):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.done.eq(1), forget.eq(1)]
                m.d.sync += count.eq(0)
                m.next = "LOAD"
        return m
