"""Clock cycles of the hardware scheduler, as closed forms; tests hold the RTL (``hardware/``) to them."""

from __future__ import annotations

from typing import Final, Literal

SorterKind = Literal["parallel", "stage", "serial"]
DEFAULT_SORTER: Final[SorterKind] = "stage"
CLOCK_HZ: Final = 800_000_000  # of the paper's dies (section VI-A); the I/O die's clock is not given
CYCLE_PS: Final = 10**12 // CLOCK_HZ
MATCH_CYCLES: Final = 4  # from the cycle that accepts a request to the first cycle with its decision
DECISION_CYCLES: Final = MATCH_CYCLES + 1  # and the one in which the decision is taken
COMPLETION_CYCLES: Final = 1  # accepts a completion; the last of a burst keeps the next request waiting once as long
END_CYCLES: Final = 3  # from the last completion of a layer until experts of the next can be pushed


def stages(slots: int) -> list[tuple[int, int]]:
    """(k, j) of every stage of the bitonic network with ``slots`` inputs, a power of two."""
    levels = slots.bit_length() - 1
    return [(2 << a, 1 << b) for a in range(levels) for b in reversed(range(a + 1))]


def sort_cycles(kind: SorterKind, slots: int, n: int) -> int:
    """Cycles from the sorter's ``start`` until ``sorted`` is up, for ``n`` pushed keys (1 at least)."""
    if kind == "parallel":
        return len(stages(slots))
    padded = 1 << max(1, (n - 1).bit_length())
    used = len(stages(padded))
    return used if kind == "stage" else padded - n + used * (padded // 2 + 1)


def prepare_cycles(kind: SorterKind, slots: int, n: int) -> int:
    """Cycles from the scheduler's ``start`` until the first request is accepted, with ``n`` activated experts."""
    return 1 + sort_cycles(kind, slots, n) + n + 2


def layer_cycles(n: int, experts: int, kind: SorterKind = DEFAULT_SORTER) -> int:
    """Cycles before the first request of a layer of ``experts`` experts: ``n`` are pushed, sorted and listed."""
    slots = 1 << max(1, (experts - 1).bit_length())
    return n + prepare_cycles(kind, slots, n) if n else 0


def whole_layer_cycles(experts: int, kind: SorterKind = DEFAULT_SORTER) -> int:
    """Cycles of a layer with all ``experts`` activated: to its first request, its decisions in a row, and its end."""
    return layer_cycles(experts, experts, kind) + experts * DECISION_CYCLES + END_CYCLES
