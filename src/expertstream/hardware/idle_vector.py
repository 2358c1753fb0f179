"""Idle Chiplet Vector: which dies no running expert uses (paper, section V-B)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class IdleChipletVector(wiring.Component):
    """One idle bit a die. Trajectories of running experts may overlap, so a counter per die finds the last user.

    A cycle may allocate and release at once: idle' = (idle AND NOT allocated) OR released by its last user.

    Signals (direction, width):
        allocate (in, 1), allocate_mask (in, dies): an expert starts on these dies.
        release (in, 1), release_mask (in, dies): an expert that started on these dies has completed.
        idle (out, dies): registered; a change shows in the next cycle.

    Args:
        dies: number of dies. users: the most experts that run at once.
    """

    def __init__(self, dies: int, users: int) -> None:
        self._dies, self._users = dies, users
        super().__init__(
            {
                "allocate": In(1),
                "allocate_mask": In(dies),
                "release": In(1),
                "release_mask": In(dies),
                "idle": Out(dies, init=(1 << dies) - 1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        taken, freed = Signal(self._dies), Signal(self._dies)
        for d in range(self._dies):
            users = Signal(range(self._users + 1), name=f"users_{d}")
            more = self.allocate & self.allocate_mask[d]
            less = self.release & self.release_mask[d]
            m.d.sync += users.eq(users + more - less)
            m.d.comb += [taken[d].eq(more), freed[d].eq(less & (users == 1))]
        # An expert that starts in the cycle in which the last user of a die completes keeps the die busy.
        m.d.sync += self.idle.eq((self.idle | freed) & ~taken)
        return m


def lowest_bit(value: Any, width: int) -> Any:
    """The lowest set bit of ``value`` alone, ``width`` bits; 0 for 0."""
    return (value & (~value + 1))[:width]


def bit_number(one_hot: Any, bits: int) -> Any:
    """Number of the only set bit, ``bits`` bits."""
    return selected(one_hot, range(len(one_hot)))[:bits]


def selected(one_hot: Any, values: Iterable[Any]) -> Any:
    """The value at the only set bit, 0 if none is: a tree of ORs, so that its depth grows with the logarithm."""
    terms = [Mux(one_hot[i], value, 0) for i, value in enumerate(values)]
    while len(terms) > 1:
        pairs = [a | b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[len(pairs) * 2 :]
    return terms[0]
