"""Token-buffering unit: Algorithm 2 with a timer and a counter for every request slot (paper, section V-A)."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from expertstream.hardware.parameters import Parameters

TIMER_BITS = 8
COUNTER_BITS = 9  # up to twice the threshold
VERDICT_CYCLES = 2  # from the cycle that accepts a request's last expert to the first cycle with its verdict


def activation_layout(parameters: Parameters) -> data.StructLayout:
    """An expert that a request activates: request, expert, whether it is the request's last."""
    return data.StructLayout({"request": parameters.request_bits, "expert": parameters.expert_bits, "last": 1})


def verdict_layout(parameters: Parameters) -> data.StructLayout:
    """Whether a request waits at this layer."""
    return data.StructLayout({"request": parameters.request_bits, "deferred": 1})


def update_layout(parameters: Parameters) -> data.StructLayout:
    """A request has finished a forward pass, or (``opened``) takes the slot with T = C = 0."""
    return data.StructLayout({"request": parameters.request_bits, "opened": 1})


class TokenBuffering(wiring.Component):
    """Judges requests one after another. All of a request's experts come in one run; one expert a cycle.

    Signals (direction, width):
        theta_min (in, token_bits): an expert with fewer tokens is cold.
        deferrals (in, 8), passes (in, 8): the slack, ``Slack.deferrals`` in ``Slack.passes``; passes is at least 1.
        saved (in, 8): the largest T(r).
        activations (in, stream of activation_layout): experts of a request.
        verdicts (out, stream of verdict_layout): one a request; holds still until taken.
        updates (in, stream of update_layout): waits for a cycle while a verdict on the same request is taken.
        read_expert (out, expert_bits), read_tokens (in, token_bits): read port of the expert table, one cycle.

    An update counts before the verdict if it is accepted no later than the request's last expert.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = p = parameters
        super().__init__(
            {
                "theta_min": In(p.token_bits),
                "deferrals": In(TIMER_BITS),
                "passes": In(TIMER_BITS),
                "saved": In(TIMER_BITS),
                "activations": In(stream.Signature(activation_layout(p))),
                "verdicts": Out(stream.Signature(verdict_layout(p))),
                "updates": In(stream.Signature(update_layout(p))),
                "read_expert": Out(p.expert_bits),
                "read_tokens": In(p.token_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        p = self._parameters
        timers = Array(Signal(TIMER_BITS, name=f"timer_{r}") for r in range(p.requests))
        counters = Array(Signal(COUNTER_BITS, name=f"counter_{r}") for r in range(p.requests))

        looks, last, cold = Signal(), Signal(), Signal()
        request = Signal(p.request_bits)
        free = Signal()
        m.d.comb += [
            free.eq(~self.verdicts.valid | self.verdicts.ready),
            # A last expert enters only when its verdict will find the output free.
            self.activations.ready.eq(~(looks & last) & (free | ~self.activations.payload.last)),
            self.read_expert.eq(self.activations.payload.expert),
        ]
        with m.If(self.verdicts.ready):
            m.d.sync += self.verdicts.valid.eq(0)
        m.d.sync += looks.eq(self.activations.valid & self.activations.ready)
        with m.If(self.activations.valid & self.activations.ready):
            m.d.sync += [last.eq(self.activations.payload.last), request.eq(self.activations.payload.request)]

        found = cold | (self.read_tokens < self.theta_min)
        timer, counter = timers[request], counters[request]
        due = counter >= self.passes
        grown = Signal(TIMER_BITS)
        m.d.comb += grown.eq(Mux(due & (timer < self.saved), timer + 1, timer))
        deferred = found & (grown != 0)
        with m.If(looks):
            m.d.sync += cold.eq(found & ~last)
            with m.If(last):
                m.d.sync += [
                    timer.eq(grown - deferred),
                    counter.eq(Mux(due, counter - self.passes, counter)),
                    self.verdicts.valid.eq(1),
                    self.verdicts.payload.request.eq(request),
                    self.verdicts.payload.deferred.eq(deferred),
                ]

        slot = self.updates.payload.request
        summed, limit = Signal(COUNTER_BITS + 1), Signal(COUNTER_BITS)
        judged = looks & last & (request == slot)
        m.d.comb += [
            self.updates.ready.eq(~judged),
            summed.eq(counters[slot] + self.deferrals),
            limit.eq(Cat(0, self.passes)),
        ]
        with m.If(self.updates.valid & self.updates.ready):
            with m.If(self.updates.payload.opened):
                m.d.sync += [timers[slot].eq(0), counters[slot].eq(0)]
            with m.Else():
                m.d.sync += counters[slot].eq(Mux(summed > limit, limit, summed))
        return m
