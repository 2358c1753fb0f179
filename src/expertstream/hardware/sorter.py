"""Bitonic sorters: largest key first (paper, section V-B). One interface, three ways to spend comparators.

The network: for k = 2, 4, ..., N and j = k/2, ..., 2, 1 (a *stage*), slots i and i + j with bit j of i clear are
compared; the larger key goes to slot i if bit k of i is clear, else to slot i + j (Batcher, 1968). n keys in the first
n slots, zeros behind them, are sorted once k = M, the power of two from n on: later stages change nothing and
are left out where the hardware can stop.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from expertstream.errors import ConfigError
from expertstream.schedule.cycles import SorterKind, stages


class Sorter(wiring.Component):
    """What the sorters have in common.

    Signals (direction, width):
        clear (in, 1): forget all keys; not while sorting.
        push (in, 1), key (in, width): append a key that is not 0; not while sorting, at most ``slots`` times.
        start (in, 1): sort what was pushed (one key at least).
        sorted (out, 1): from the end of the sort until ``clear``.
        index (in, bits of slots): a rank, 0 for the largest key.
        ranked (out, width): the key of the rank that ``index`` gave in the cycle before.

    Raises:
        ConfigError: ``slots`` is no power of two.
    """

    def __new__(cls, slots: int, width: int) -> Sorter:
        """Check ``slots``. Not in ``__init__``: Amaranth warns of circuits that were created and never used."""
        if slots < 2 or slots & (slots - 1):
            raise ConfigError(f"a bitonic sorter has {slots} slots; it must be a power of two, 2 at least")
        return super().__new__(cls, slots, width)  # type: ignore[no-any-return]

    def __init__(self, slots: int, width: int) -> None:
        self._slots, self._width = slots, width
        super().__init__(
            {
                "clear": In(1),
                "push": In(1),
                "key": In(width),
                "start": In(1),
                "sorted": Out(1),
                "index": In(range(slots)),
                "ranked": Out(width),
            }
        )

    def _count(self, m: Module) -> Signal:
        """Number of pushed keys."""
        count = Signal(range(self._slots + 1))
        with m.If(self.clear):
            m.d.sync += count.eq(0)
        with m.Elif(self.push):
            m.d.sync += count.eq(count + 1)
        return count

    def _levels(self, m: Module, count: Signal) -> Signal:
        """One-hot k / 2 of the last stages that ``count`` keys need."""
        last = Signal(self._slots.bit_length() - 1)
        m.d.comb += last[0].eq(count <= 2)
        for level in range(1, len(last)):
            m.d.comb += last[level].eq((count > (1 << level)) & (count <= (2 << level)))
        return last


class ParallelSorter(Sorter):
    """The whole network, one register rank per stage: a comparator for every compare-exchange."""

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        network = stages(self._slots)
        rank = [Signal(self._width, name=f"input_{i}") for i in range(self._slots)]
        with m.If(self.clear):
            m.d.sync += [key.eq(0) for key in rank]
        with m.Elif(self.push):
            m.d.sync += Cat(*rank).eq(Cat(self.key, *rank[:-1]))
        moves = self.start
        for number, (k, j) in enumerate(network):
            out = [Signal(self._width, name=f"stage_{number}_{i}") for i in range(self._slots)]
            with m.If(moves):
                for low in range(self._slots):
                    if low & j:
                        continue
                    a, b = rank[low], rank[low | j]
                    first, second = (low, low | j) if not low & k else (low | j, low)
                    larger = Signal(name=f"larger_{number}_{low}")
                    m.d.comb += larger.eq(a > b)
                    m.d.sync += [out[first].eq(Mux(larger, a, b)), out[second].eq(Mux(larger, b, a))]
            rank = out
            moved = Signal(name=f"moves_{number}")
            m.d.sync += moved.eq(moves & ~self.clear)
            moves = moved
        with m.If(self.clear):
            m.d.sync += self.sorted.eq(0)
        with m.Elif(moves):
            m.d.sync += self.sorted.eq(1)
        m.d.sync += self.ranked.eq(_pick(rank, self.index))
        return m


class StageSorter(Sorter):
    """One stage a cycle. Every slot compares itself with its partner: twice the comparators, half the multiplexers."""

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        levels = self._slots.bit_length() - 1
        keys = [Signal(self._width, name=f"key_{i}") for i in range(self._slots)]
        busy = Signal()
        k, j = Signal(levels, init=1), Signal(levels, init=1)  # one-hot: k / 2 and j of the stage
        last = self._levels(m, self._count(m))
        with m.If(self.clear):
            m.d.sync += [*(key.eq(0) for key in keys), self.sorted.eq(0)]
        with m.Elif(self.push):
            m.d.sync += Cat(*keys).eq(Cat(self.key, *keys[:-1]))
        with m.If(self.start):
            m.d.sync += [busy.eq(1), k.eq(1), j.eq(1)]
        with m.If(busy):
            for i, key in enumerate(keys):
                partner = 0
                for level in range(levels):
                    partner |= Mux(j[level], keys[i ^ (1 << level)], 0)
                # Slot i keeps the larger key where bits j and k of i agree.
                upper = (j & i).any() ^ (k & (i >> 1)).any()
                m.d.sync += key.eq(Mux((key > partner) ^ upper, key, partner))
            with m.If(~j[0]):
                m.d.sync += j.eq(j >> 1)
            with m.Elif((k & last).any()):
                m.d.sync += [busy.eq(0), self.sorted.eq(1)]
            with m.Else():
                m.d.sync += [k.eq(k << 1), j.eq(k << 1)]
        m.d.sync += self.ranked.eq(_pick(keys, self.index))
        return m


class SerialSorter(Sorter):
    """One comparator on two memories: partners differ in one bit of their slots, so their parities differ."""

    def elaborate(self, platform: object) -> Module:
        """The circuit."""
        m = Module()
        levels = self._slots.bit_length() - 1
        banks = [Memory(shape=self._width, depth=self._slots // 2, init=[]) for _ in range(2)]
        m.submodules.even, m.submodules.odd = banks
        write = [bank.write_port() for bank in banks]
        read = [bank.read_port() for bank in banks]
        count = self._count(m)
        last = self._levels(m, count)

        def store(slot: Any, key: Any) -> None:
            for parity in range(2):
                m.d.comb += [
                    write[parity].addr.eq(slot >> 1),
                    write[parity].data.eq(key),
                    write[parity].en.eq(slot.xor() == parity),
                ]

        slot = Signal(range(self._slots))  # of the padding
        k, j = Signal(levels), Signal(levels)
        pair, low, high = Signal(range(self._slots)), Signal(range(self._slots)), Signal(range(self._slots))
        padded = Signal(range(self._slots + 1))
        m.d.comb += padded.eq(last << 1)
        mask = j - 1
        m.d.comb += [low.eq(((pair & ~mask) << 1) | (pair & mask)), high.eq(low | j)]
        parity, to_even, to_odd, upper, stored = (
            Signal(),
            Signal(range(self._slots // 2)),
            Signal(range(self._slots // 2)),
            Signal(),
            Signal(),
        )
        a, b = Mux(parity, read[1].data, read[0].data), Mux(parity, read[0].data, read[1].data)
        exchange = (a < b) ^ upper
        m.d.sync += stored.eq(0)
        with m.If(self.clear):
            m.d.sync += self.sorted.eq(0)
        with m.FSM():
            with m.State("LOAD"):
                rank = Signal(range(self._slots))
                m.d.comb += [port.addr.eq(self.index >> 1) for port in read]
                m.d.sync += rank.eq(self.index)
                m.d.comb += self.ranked.eq(Mux(rank.xor(), read[1].data, read[0].data))
                with m.If(self.push):
                    store(count[: len(slot)], self.key)
                with m.If(self.start):
                    m.d.sync += [slot.eq(count), k.eq(1), j.eq(1), pair.eq(0)]
                    with m.If(count == padded):
                        m.next = "COMPARE"
                    with m.Else():
                        m.next = "PAD"
            with m.State("PAD"):
                store(slot, 0)
                m.d.sync += slot.eq(slot + 1)
                with m.If(slot == padded - 1):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                # Read a pair, write back the pair before it; one cycle more drains a stage.
                m.d.comb += [
                    read[0].addr.eq(Mux(low.xor(), high, low) >> 1),
                    read[1].addr.eq(Mux(low.xor(), low, high) >> 1),
                ]
                reads = pair < (padded >> 1)
                m.d.sync += [
                    stored.eq(reads),
                    parity.eq(low.xor()),
                    to_even.eq(read[0].addr),
                    to_odd.eq(read[1].addr),
                    upper.eq((low & (k << 1)).any()),
                    pair.eq(pair + 1),
                ]
                with m.If(stored):
                    first, second = Mux(exchange, b, a), Mux(exchange, a, b)
                    m.d.comb += [
                        write[0].addr.eq(to_even),
                        write[1].addr.eq(to_odd),
                        write[0].data.eq(Mux(parity, second, first)),
                        write[1].data.eq(Mux(parity, first, second)),
                        write[0].en.eq(1),
                        write[1].en.eq(1),
                    ]
                with m.If(~reads):
                    m.d.sync += pair.eq(0)
                    with m.If(~j[0]):
                        m.d.sync += j.eq(j >> 1)
                    with m.Elif((k & last).any()):
                        m.d.sync += self.sorted.eq(1)
                        m.next = "LOAD"
                    with m.Else():
                        m.d.sync += [k.eq(k << 1), j.eq(k << 1)]
        return m


def _pick(values: list[Signal], index: Signal) -> Any:
    """values[index] as a tree of two-way multiplexers."""
    level: list[Any] = list(values)
    for bit in range(len(index)):
        level = [Mux(index[bit], b, a) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


SORTERS: dict[SorterKind, type[Sorter]] = {"parallel": ParallelSorter, "stage": StageSorter, "serial": SerialSorter}
