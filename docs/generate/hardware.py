"""Tables and the picture of docs/hardware.md: ``python -m docs.generate.hardware cycles``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from docs.generate.svg import INK, MUTED, Canvas
from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.schedule.cycles import CYCLE_PS, DECISION_CYCLES, SorterKind, layer_cycles, whole_layer_cycles
from expertstream.simulate import simulate
from expertstream.strategy import Options
from expertstream.trace import packaged_trace
from expertstream.units import signed

TOKENS, STRATEGY = 16, "fse-dp-paired"
MODELS = ("qwen3-30b-a3b", "deepseek-moe-16b", "phi-3.5-moe", "yuan2-m32")
DECISIONS = (("free", 0), ("the RTL's cycles", None), ("1 us each", 1_000_000))
SIZES = [(4, 16), (4, 32), (4, 64), (4, 128), (16, 128), (64, 128)]


def cycles() -> str:
    """Cycles by sorter and number of activated experts."""
    lines = ["| experts, all activated | sorter | before the first decision | a decision | a layer |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for experts in (16, 64, 128, 512):
        for sorter in get_args(SorterKind):
            before = layer_cycles(experts, experts, sorter)
            layer = whole_layer_cycles(experts, sorter)
            lines.append(
                f"| {experts} | {sorter} | {before} = {_ns(before)} | {DECISION_CYCLES} = {_ns(DECISION_CYCLES)} | "
                f"{layer} = {_ns(layer)} |"
            )
    return "\n".join(lines)


def _ns(n: int) -> str:
    ns = n * CYCLE_PS / 1000
    return f"{ns:.2f} ns" if ns < 100 else f"{ns:,.0f} ns"


def decisions() -> str:
    """What decisions cost end to end at few tokens."""
    lines = [f"| model, {TOKENS} tokens | " + " | ".join(f"decisions {what}" for what, _ in DECISIONS) + " |"]
    lines += ["| --- | " + " | ".join("---" for _ in DECISIONS) + " |"]
    for name in MODELS:
        model, chip = MoEModel.preset(name), Package.preset("test-chip-2x2")
        trace = packaged_trace(model)
        found = []
        for _, ps in DECISIONS:
            options = Options(decision_ps=ps)
            layers = [trace.iteration(TOKENS, layer) for layer in trace.layer_index.tolist()]
            found.append(sum(simulate(model, chip, one, STRATEGY, options=options).latency_ps for one in layers))
        cells = [f"{ps / 1e9:.3f} ms ({signed(100 * (ps / found[0] - 1), 3)} %)" for ps in found]
        lines.append(f"| {name} | {found[0] / 1e9:.3f} ms | " + " | ".join(cells[1:]) + " |")
    return "\n".join(lines)


def sizes() -> str:
    """Cells and area after synthesis; minutes."""
    from expertstream.hardware.parameters import Parameters
    from expertstream.hardware.report import size

    lines = ["| dies | experts | cells | NAND2 equivalents | of which sorter | matcher | memory bits | mm2 in 28 nm |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for dies, experts in SIZES:
        row = size(Parameters(dies=dies, experts=experts))
        low, typical, high = row["mm2"]
        sorter, matcher = (row["modules"][name]["nand2"] for name in ("sorter", "matcher"))
        lines.append(
            f"| {dies} | {experts} | {row['cells']:,} | {row['nand2']:,} | {sorter:,} | {matcher:,} | "
            f"{row['memory_bits']:,} | {typical:.3f} ({low:.3f} to {high:.3f}) |"
        )
    return "\n".join(lines)


UNITS = {  # x, y, width, height, lines
    "table": (190, 24, 150, 60, ["Expert Information", "Table"]),
    "sorter": (420, 24, 150, 60, ["bitonic sorter"]),
    "vector": (190, 140, 150, 60, ["Idle Chiplet", "Vector"]),
    "matcher": (420, 140, 150, 60, ["Expert-Chiplet", "Matcher"]),
    "buffering": (190, 246, 150, 48, ["token buffering"]),
}
PORTS = {
    "experts, start": (16, 40, 110, 28),
    "completions": (16, 156, 110, 28),
    "activations, updates": (16, 256, 136, 28),
    "requests": (640, 136, 104, 28),
    "dispatch": (640, 176, 104, 28),
    "verdicts": (420, 256, 104, 28),
}
WIRES = [  # points, label, where
    ([(126, 54), (190, 54)], "", (0, 0)),
    ([(340, 54), (420, 54)], "counts", (380, 46)),
    ([(495, 84), (495, 140)], "pair order", (530, 116)),
    ([(265, 84), (265, 140)], "trajectory", (298, 116)),
    ([(126, 170), (190, 170)], "", (0, 0)),
    ([(340, 170), (420, 170)], "idle dies", (380, 162)),
    ([(640, 150), (570, 150)], "", (0, 0)),
    ([(570, 190), (640, 190)], "", (0, 0)),
    ([(152, 270), (190, 270)], "", (0, 0)),
    ([(340, 270), (420, 270)], "", (0, 0)),
]


def draw_units(file: Path) -> None:
    """The units of the scheduler and its streams."""
    canvas = Canvas(760, 310, "The scheduler: units (filled) and streams")
    for name, (x, y, width, height) in PORTS.items():
        canvas.rect(x, y, width, height, "#ffffff", stroke=MUTED)
        canvas.text(x + width / 2, y + height / 2 + 4, name, size=12, anchor="middle")
    for x, y, width, height, lines in UNITS.values():
        canvas.rect(x, y, width, height, "#f0ede4", stroke=INK)
        for i, line in enumerate(lines):
            at = y + height / 2 + 5 + 17 * (i - (len(lines) - 1) / 2)
            canvas.text(x + width / 2, at, line, bold=True, anchor="middle")
    for points, label, (x, y) in WIRES:
        canvas.line(points, arrow=True)
        if label:
            canvas.text(x, y, label, size=11, colour=MUTED, anchor="middle")
    canvas.write(file)


TABLES = {"cycles": cycles, "decisions": decisions, "sizes": sizes}


def main(arguments: Sequence[str]) -> int:
    """``cycles``, ``decisions`` or ``sizes``."""
    if list(arguments)[:1] not in [[name] for name in TABLES]:
        raise ConfigError(f"{' '.join(arguments)} was given; it must be {main.__doc__}")
    print(TABLES[arguments[0]]())
    return 0
