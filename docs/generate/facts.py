"""Single figures in sentences of the docs. ``python -m docs.generate.facts NAME``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from docs.generate.reproduction import table_of
from docs.generate.results import synthetic
from expertstream.analysis import Area, die_area
from expertstream.errors import ConfigError, nearest
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.reproduce.means import cells
from expertstream.reproduce.studies import fig9, sensitivity
from expertstream.reproduce.study import Row
from expertstream.simulate import simulate
from expertstream.strategy import Options
from expertstream.trace import synthesize

CHIP, MODEL, TECHNOLOGY = Package.preset("test-chip-2x2"), MoEModel.preset("qwen3-30b-a3b"), Technology.preset("5nm")


def _range(levels: NDArray[np.float64]) -> str:
    low, nominal, high = (f"{level:.1f}" for level in levels)
    return f"{nominal} ({low} to {high})"


def _area(share_of_link: int = 1) -> Area:
    d2d = CHIP.d2d.model_copy(update={"bandwidth_bytes_per_s": CHIP.d2d.bandwidth_bytes_per_s // share_of_link})
    return die_area(CHIP.model_copy(update={"d2d": d2d}), TECHNOLOGY, MODEL)


def _die_power() -> str:
    """Of one die with its MAC array and weight reads at full rate, control and leakage included."""
    mac = TECHNOLOGY.mac(MODEL.weight_bits, MODEL.activation_bits).levels
    read = CHIP.die.sram_bandwidth_bytes_per_s * TECHNOLOGY.sram_read.levels
    compute = (CHIP.macs_per_s // CHIP.n_dies * mac + read) * (1 + TECHNOLOGY.control.levels)
    return _range(compute / 1e12 + _area().leakage_w)


def _ddr_share() -> str:
    """Of the energy, nominal, of every strategy and model at 16 and 64 tokens on packaged traces."""
    rows = [row for case in synthetic() for row in case.found.rows if row["tokens"] <= 64]
    shares = [row["energy_by_component_pj"]["ddr"][1] / row["energy_pj"][1] for row in rows]
    return f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"


def _report_size() -> str:
    model = MoEModel.one_layer(d_model=2048, d_ffn=768, n_experts=256, top_k=8)
    routing = synthesize(model, requests=8, tokens_per_request=128, layers=[0]).iteration(tokens=1024, layer=0)
    result = simulate(model, Package.preset("4x4"), routing, options=Options(micro_slices=2))
    with TemporaryDirectory() as folder:
        result.to_html(Path(folder) / "run.html")
        size = (Path(folder) / "run.html").stat().st_size
    return f"({len(result.timeline) / 1000:.0f},000 activities) has {size / 1e6:.1f} MB"


def _sensitivity() -> dict[tuple[str, int, int, int], list[Row]]:
    """Rows of the kept table by model, tokens, D2D bandwidth in GB/s and DDR bandwidth in times the test chip's."""
    return cells(table_of(sensitivity.STUDY), "model", "tokens", "d2d_gb", "ddr_times")


def _links() -> str:
    """Busy time of the busiest link of the test chip over the bound, of every model and number of tokens."""
    found = [row for (_, _, gb, times), rows in _sensitivity().items() if (gb, times) == (288, 1) for row in rows]
    shares = [100 * row["links_over_bound"] for row in found if row["strategy"] == sensitivity.OURS]
    return f"{min(shares):.0f} to {max(shares):.0f} %"


def _tp_at_x4() -> str:
    """On how many models TP is faster at 64 tokens and DDR x4, by D2D bandwidth."""
    at = {key: sensitivity.speed(rows) < 1 - sensitivity.EVEN for key, rows in _sensitivity().items()}
    parts = []
    for gb in sensitivity.D2D_GB:
        of = [faster for (_, tokens, d2d, times), faster in at.items() if (tokens, d2d, times) == (64, gb, 4)]
        parts.append(f"{sum(of)} of {len(of)} ({gb} GB/s)")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _slower(strategy: str, gb: int, than_gb: int, tokens: Sequence[int]) -> str:
    """By how much latency grows at most from one D2D bandwidth to another."""
    latency = {
        key: row["latency_ms"] for key, rows in _sensitivity().items() for row in rows if row["strategy"] == strategy
    }
    ratios = [
        latency[model, n, gb, times] / latency[model, n, than_gb, times]
        for model, n, d2d, times in latency
        if d2d == gb and n in tokens
    ]
    return f"{100 * (max(ratios) - 1):.1f} %"


def _adaptive_loss() -> str:
    """By how much adaptive streaming is slower than the faster TP at most."""
    speeds = [sensitivity.speed(rows, sensitivity.ADAPTIVE) for rows in _sensitivity().values()]
    return f"{100 * (1 / min(speeds) - 1):.1f} %"


def _gaps_of_few(strategy: str) -> str:
    """Latency over the bound in fig9, up to 256 tokens: the least and the most."""
    gaps = [row["gap"] for row in table_of(fig9.STUDY) if row["strategy"] == strategy and row["tokens"] <= 256]
    return f"{min(gaps):.2f} to {max(gaps):.2f}"


FACTS: dict[str, Callable[[], str]] = {
    "die-area": lambda: _range(_area().total_mm2) + " mm2",
    "link-area": lambda: f"{_area().by_component_mm2['d2d'][1]:.0f}",
    "die-area-shared-links": lambda: f"{_area(CHIP.links_of_die).total_mm2[1]:.0f} mm2",
    "die-power": lambda: _die_power() + " W",
    "ddr-share": _ddr_share,
    "report-size": _report_size,
    "sensitivity-links": _links,
    "sensitivity-tp-x4": _tp_at_x4,
    "sensitivity-faster-links": lambda: _slower(sensitivity.OURS, 288, 512, [256]),
    "sensitivity-slower-links": lambda: _slower(sensitivity.OURS, 144, 288, [256]),
    "sensitivity-adaptive": _adaptive_loss,
    "sensitivity-adaptive-links": lambda: _slower(sensitivity.ADAPTIVE, 144, 512, [64, 256]),
    "few-tokens-ours": lambda: _gaps_of_few(sensitivity.OURS),
    "few-tokens-ep": lambda: _gaps_of_few("ep"),
}


def main(arguments: Sequence[str]) -> int:
    """Print the figure named."""
    name = arguments[0]
    if name not in FACTS:
        raise ConfigError(f"there is no fact '{name}'{nearest(name, FACTS)} Known: {', '.join(FACTS)}")
    print(FACTS[name]())
    return 0
