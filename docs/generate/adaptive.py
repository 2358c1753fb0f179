"""How ``fse-dp-adaptive`` compares with the best of the others: the table and the sentences of docs/adaptive.md.

Run by docs.generate.blocks: ``python -m docs.generate.adaptive table $EXPERTSTREAM_TRACES``. A few minutes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from expertstream.analysis.bounds import lower_bounds
from expertstream.analysis.stalls import CAUSES, stall_ps
from expertstream.errors import ConfigError, WorkloadError
from expertstream.explore.fields import change_package
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import Result, simulate
from expertstream.strategy.plan import Options
from expertstream.strategy.registry import BUILT_IN
from expertstream.trace import Routing, RoutingTrace, synthesize

OURS, PAPER = "fse-dp-adaptive", "fse-dp-paired"
OTHERS = [s.name for s in BUILT_IN if s.name != OURS]
PACKAGES, TOKENS, DDR = ("test-chip-2x2", "3x3", "4x4"), (16, 64, 256, 1024), (1, 2, 4, 8, 16)
CHANNEL = 25_600_000_000
SYNTHETIC = ("phi-3.5-moe-paper", "yuan2-m32-paper", "deepseek-moe-16b", "qwen3-30b-a3b")
SEED = 101  # not that of tuning
CAPTURED = {
    "gpt-oss-20b": "gpt-oss-20b__mmlu__decode.npz",
    "deepseek-v2-lite": "deepseek-v2-lite-chat__puffin-prompts__prefill.npz",
    "qwen1.5-moe-a2.7b": "qwen1.5-moe-a2.7b-chat__own-prompts__prefill+decode.npz",
}


class Cell(NamedTuple):
    """One layer: latency and gap of adaptive streaming, the best of the others, peak over that of the paper's."""

    model: str
    tokens: int
    package: str
    ddr: int
    ratio: float
    gap: float
    best: str
    best_gap: float
    peak: float | None
    passes: int
    stalls: str


def _sources(folder: str) -> Iterable[tuple[str, RoutingTrace]]:
    for model in SYNTHETIC:
        yield model, synthesize(MoEModel.preset(model), requests=16, tokens_per_request=128, layers=(2,), seed=SEED)
    for model, file in CAPTURED.items():
        yield model, RoutingTrace.load(Path(folder) / file)


@cache
def _cells(folder: str) -> list[Cell]:
    found = []
    for model, trace in _sources(folder):
        layer = int(trace.layer_index[len(trace.layer_index) // 2])
        training, rest = trace.of_layers([layer]).split(least=max(TOKENS))
        for tokens in TOKENS:
            routing = rest.iteration(tokens, layer)
            found += [_cell(model, package, ddr, tokens, routing, training) for package in PACKAGES for ddr in DDR]
    return found


def _cell(model: str, package: str, ddr: int, tokens: int, routing: Routing, training: RoutingTrace) -> Cell:
    chip = change_package(Package.preset(package), {"channels.bandwidth": ddr * CHANNEL})
    results: dict[str, Result] = {}
    for name in (OURS, *OTHERS):
        try:
            results[name] = simulate(MoEModel.preset(model), chip, routing, name, options=Options(training=training))
        except WorkloadError:  # too little room for its tokens
            continue
    ours = results.pop(OURS)
    best = min(results, key=lambda name: results[name].latency_ps)
    bound = lower_bounds(ours.workload, ours.timeline).bound_ps
    idle = stall_ps(ours.timeline).sum(axis=0) / (ours.latency_ps * ours.workload.package.n_dies)
    causes = sorted(zip(idle.tolist(), CAUSES, strict=True), reverse=True)
    paper = results.get(PAPER)
    binds = paper is not None and bool((paper.timeline.space_ps > 0).any())
    peaks = [r.metrics.buffers.package_peak_both_bytes for r in (ours, paper) if r is not None]
    return Cell(
        model,
        tokens,
        package.removeprefix("test-chip-"),
        ddr,
        ours.latency_ps / results[best].latency_ps,
        ours.latency_ps / bound,
        best,
        results[best].latency_ps / bound,
        peaks[0] / peaks[1] if binds else None,
        ours.plan.passes,
        ", ".join(f"{cause} {100 * share:.0f} %" for share, cause in causes[:2] if share >= 0.005),
    )


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def table(cells: list[Cell]) -> str:
    """A row per model: cells within 1 %, worst ratio, mean and worst gap."""
    by_model: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_model[cell.model].append(cell)
    lines = [
        "| model | cells | within 1 % of the best or better | over 1 % better | worst ratio | gap, mean | gap, worst "
        "| best of the others: gap, mean |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, mine in [*by_model.items(), ("**all**", cells)]:
        lines.append(
            f"| {model} | {len(mine)} | {sum(c.ratio <= 1.01 for c in mine)} | {sum(c.ratio < 0.99 for c in mine)} | "
            f"{max(c.ratio for c in mine):.3f} | {_mean([c.gap for c in mine]):.3f} | {max(c.gap for c in mine):.3f} | "
            f"{_mean([c.best_gap for c in mine]):.3f} |"
        )
    return "\n".join(lines)


def above(cells: list[Cell]) -> str:
    """Cells with a gap above 1.05, and what the MAC arrays waited for."""
    lines = [
        "| model | tokens | dies | DDR | gap | best of the others | passes | MAC arrays idle |",
        "| --- | ---: | --- | ---: | ---: | --- | ---: | --- |",
    ]
    lines += [
        f"| {c.model} | {c.tokens} | {c.package} | x{c.ddr} | {c.gap:.3f} | `{c.best}` {c.best_gap:.3f} | "
        f"{c.passes} | {c.stalls} |"
        for c in sorted(cells, key=lambda c: -c.gap)
        if c.gap > 1.05
    ]
    return "\n".join(lines)


def sram(cells: list[Cell]) -> str:
    """Peak SRAM against the paper's strategy where its buffers run full."""
    peaks = sorted(c.peak for c in cells if c.peak is not None)
    return (
        f"Where a buffer of `{PAPER}` runs full ({len(peaks)} cells), the peak of weights and tokens in the package is "
        f"at or below its in {sum(p <= 1 for p in peaks)}, {peaks[len(peaks) // 2]:.2f} times its in the median and "
        f"{peaks[-1]:.2f} times at worst."
    )


SHOW = {"table": table, "above": above, "sram": sram}


def main(arguments: Sequence[str]) -> int:
    """``table|above|sram FOLDER``."""
    show, folder = arguments
    if show not in SHOW:
        raise ConfigError(f"{' '.join(arguments)} was given; it must be {main.__doc__}")
    print(SHOW[show](_cells(folder)))
    return 0
