"""What the scheduler costs: cycles and time per decision and per layer, cells and area after synthesis."""

from __future__ import annotations

from typing import Any

from expertstream.hardware.area import PAPER_MM2, area_of
from expertstream.hardware.parameters import Parameters
from expertstream.hardware.scheduler import Scheduler
from expertstream.hardware.yosys import synthesize
from expertstream.schedule.cycles import CYCLE_PS, DECISION_CYCLES, layer_cycles, whole_layer_cycles

TOP = "top"


def timing(parameters: Parameters) -> dict[str, Any]:
    """Cycles of a layer of which every expert is activated, at 800 MHz.

    Returns:
        prepare_cycles: push, sort and list the experts, before the first request. decision_cycles, decision_ns: of one
        decision, whatever the sizes. layer_cycles, layer_ns: all of the layer's decisions one after another, with its
        start and its end; decisions are spread over the layer, so only ``prepare_cycles`` and the first decision delay
        its first load. decision_ns_with_share: a decision with its share of the rest.
    """
    layer = whole_layer_cycles(parameters.experts, parameters.sorter)
    return {
        "prepare_cycles": layer_cycles(parameters.experts, parameters.experts, parameters.sorter),
        "decision_cycles": DECISION_CYCLES,
        "decision_ns": DECISION_CYCLES * CYCLE_PS / 1000,
        "layer_cycles": layer,
        "layer_ns": layer * CYCLE_PS / 1000,
        "decision_ns_with_share": layer * CYCLE_PS / 1000 / parameters.experts,
    }


def size(parameters: Parameters) -> dict[str, Any]:
    """Cells and area of the synthesised scheduler (area.py says how they are estimated).

    Returns:
        cells, nand2 (NAND2 equivalents without memories), memory_bits, mm2 (low, typical, high in 28 nm), paper_mm2,
        and modules: nand2 and memory_bits of each.

    Raises:
        ConfigError: Yosys is not installed. YosysError: it failed.
    """
    modules = synthesize(Scheduler(parameters), TOP)
    area = area_of(modules.values())
    return {
        "cells": area.cells,
        "nand2": area.nand2,
        "memory_bits": area.memory_bits,
        "mm2": list(area.mm2),
        "paper_mm2": PAPER_MM2,
        "modules": {
            path.removeprefix(f"{TOP}.").replace(TOP, "control"): {
                "nand2": area_of([module]).nand2,
                "memory_bits": module.memory_bits,
            }
            for path, module in modules.items()
        },
    }


def report(parameters: Parameters) -> dict[str, Any]:
    """Parameters, ``timing`` and ``size`` in one row. Raises what ``size`` raises."""
    p = parameters
    sizes = {"dies": p.dies, "experts": p.experts, "requests": p.requests, "token_bits": p.token_bits}
    return {**sizes, "sorter": p.sorter, **timing(p), **size(p)}
