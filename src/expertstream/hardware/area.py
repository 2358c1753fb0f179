"""From synthesised cells to NAND2 equivalents and square millimetres in 28 nm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from expertstream.errors import ExpertStreamError
from expertstream.hardware.yosys import Cells

PAPER_MM2 = 0.43  # section V-B: UMC 28 nm, synthesised
# Area of a cell over that of a NAND2, drive strength 1: NanGate 45 nm Open Cell Library (NAND2 0.798 um2, INV 0.532,
# AND2/OR2 1.064, XOR2 1.596, MUX2 1.862, DFF 4.522). The ratios move little from node to node.
NAND2_RATIO = {"NOT": 0.67, "NAND": 1.0, "NOR": 1.0, "AND": 1.33, "OR": 1.33, "ANDNOT": 1.33, "ORNOT": 1.33}
NAND2_RATIO |= {"XOR": 2.0, "XNOR": 2.0, "MUX": 2.33}
FLIP_FLOP, SYNC_RESET, ENABLE = 5.67, 1.33, 2.33  # a reset costs an AND2, an enable a MUX2
# NAND2 in 28 nm, um2 (low, typical, high): from a short (7 track) to a tall (12 track) cell row. Our estimate;
# confidence medium: foundry libraries are not public.
NAND2_UM2 = (0.39, 0.50, 0.67)
# Memory bit with its share of the periphery, um2. The bare 6T cell has 0.127 (TSMC's high-density cell) to 0.16 um2
# (measured by Chipworks on a 28 nm GPU, 2012); arrays this small are mostly periphery. Our estimate; confidence low.
MEMORY_BIT_UM2 = (0.3, 0.6, 1.2)
PLACEMENT = (1.0, 0.8, 0.6)  # share of the area that cells fill: 1.0 is what synthesis alone reports


@dataclass(frozen=True)
class Area:
    """Size of a circuit.

    Attributes:
        cells: gates and flip-flops. nand2: their area in NAND2 gates. memory_bits: bits of memories, not in ``nand2``.
        mm2: low, typical and high estimate in 28 nm.
    """

    cells: int
    nand2: int
    memory_bits: int
    mm2: tuple[float, float, float]


def area_of(modules: Iterable[Cells]) -> Area:
    """Sum of modules.

    Raises:
        ExpertStreamError: a cell has no known area.
    """
    cells, nand2, bits = 0, 0.0, 0
    for module in modules:
        bits += module.memory_bits
        for kind, count in module.counts.items():
            cells += count
            nand2 += count * _ratio(kind)
    estimates = zip(NAND2_UM2, MEMORY_BIT_UM2, PLACEMENT, strict=True)
    low, typical, high = ((nand2 * gate + bits * bit) / share / 1e6 for gate, bit, share in estimates)
    return Area(cells, round(nand2), bits, (low, typical, high))


def _ratio(kind: str) -> float:
    name = kind.strip("$_").split("_")[0]
    if name in NAND2_RATIO:
        return NAND2_RATIO[name]
    if name in ("DFF", "DFFE", "SDFF", "SDFFE", "SDFFCE"):
        return FLIP_FLOP + SYNC_RESET * name.startswith("S") + ENABLE * name.endswith("E")
    raise ExpertStreamError(f"Yosys left a cell '{kind}', whose area is not known")
