"""What comes out on the 2x2 test chip: the tables and the sentences of README.md and docs/results.md.

Run by docs.generate.blocks: ``python -m docs.generate.results tables captured $EXPERTSTREAM_TRACES``.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from expertstream.comparison import Comparison, compare
from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.strategy.registry import BUILT_IN
from expertstream.trace import RoutingTrace, packaged_trace

Row = dict[str, Any]
PACKAGE, TOKENS, PAPER = "test-chip-2x2", (16, 64, 256, 1024), "fse-dp-paired"
CAPTURED = {
    "gpt-oss-20b": ("gpt-oss-20b__mmlu__decode.npz", "MMLU, decode"),
    "deepseek-v2-lite": ("deepseek-v2-lite-chat__puffin-prompts__prefill.npz", "chat prompts, prefill"),
    "qwen1.5-moe-a2.7b": ("qwen1.5-moe-a2.7b-chat__gsm8k__vllm-batched-5-layers.npz", "GSM8K, batched by vLLM"),
}
SYNTHETIC = ("qwen3-30b-a3b", "phi-3.5-moe", "yuan2-m32", "deepseek-moe-16b")
EVEN = 0.01  # latencies that differ by less are called even


class Case(NamedTuple):
    """A model with its routing, compared."""

    model: str
    routing: str
    found: Comparison

    @property
    def rows(self) -> dict[tuple[int, str], Row]:
        """Means over the layers by (tokens, strategy)."""
        return {(row["tokens"], row["strategy"]): row for row in self.found.by_tokens()}

    def ratio(self, tokens: int, of: str, over: str) -> float:
        """How many times faster ``of`` is than ``over``."""
        return float(self.rows[tokens, over]["latency_ps"] / self.rows[tokens, of]["latency_ps"])


@cache
def _case(model: str, routing: str, file: Path | None) -> Case:
    moe = MoEModel.preset(model)
    trace = packaged_trace(moe) if file is None else RoutingTrace.load(file)
    names = [strategy.name for strategy in BUILT_IN]
    return Case(model, routing, compare(moe, Package.preset(PACKAGE), trace, tokens=TOKENS, strategies=names))


def captured(folder: str) -> list[Case]:
    """Comparisons on captured routing; ``folder``: that of the captures. Raises TraceError if one is missing."""
    return [_case(model, what, Path(folder) / file) for model, (file, what) in CAPTURED.items()]


def synthetic() -> list[Case]:
    """Comparisons on the packaged traces."""
    return [_case(model, "synthetic", None) for model in SYNTHETIC]


def tables(cases: list[Case]) -> str:
    """A table for each model: latency / lower bound of every strategy."""
    return "\n\n".join(_table(case) for case in cases)


def _table(case: Case) -> str:
    most = TOKENS[-1]
    names = list(dict.fromkeys(strategy for _, strategy in case.rows))
    layers = sorted({row["layer"] for row in case.found.rows})
    limits = ", ".join(f"{n}: {_limit(case, n)}" for n in TOKENS)
    lines = [
        f"### {case.model}, {case.routing}",
        f"Layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}. Lower bound of a layer by tokens: {limits}.",
        "",
        f"| strategy | {' | '.join(f'{n} tokens' for n in TOKENS)} | peak SRAM | from DDR | over D2D |",
        f"| --- | {' | '.join('---:' for _ in TOKENS)} | ---: | ---: | ---: |",
    ]
    best = {n: min(case.rows[n, name]["latency_ps"] for name in names) for n in TOKENS}
    for name in names:
        row = case.rows[most, name]
        cells = [_gap(case.rows[n, name], best[n]) for n in TOKENS]
        peak, ddr, d2d = (round(row[k] / 2**20) for k in ("peak_package_bytes", "ddr_bytes", "d2d_bytes"))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {peak} MiB | {ddr} MiB | {d2d} MiB |")
    return "\n".join(lines)


def _gap(row: Row, best_ps: int) -> str:
    text = f"{row['gap']:.3f}"
    text = f"**{text}**" if row["latency_ps"] <= best_ps * (1 + EVEN / 2) else text
    return f"{text} ({row['passes']} passes)" if row["passes"] > 1 else text


def _limit(case: Case, tokens: int) -> str:
    rows = [r for r in case.found.rows if r["tokens"] == tokens and r["strategy"] == PAPER]
    bound, ddr = (sum(r[key] for r in rows) for key in ("bound_ps", "ddr_bound_ps"))
    return f"{bound / len(rows) / 1e9:.2f} ms, {'DDR' if ddr == bound else 'compute'}"


def front(cases: list[Case]) -> str:
    """The README's table: the paper's strategy against its two opponents, and who is fastest."""
    lines = [
        f"| model, routing | {' | '.join(f'{n} tokens' for n in TOKENS)} | fastest at {TOKENS[-1]} (latency / bound) |",
        f"| --- | {' | '.join('---' for _ in TOKENS)} | --- |",
    ]
    for case in cases:
        cells = [" / ".join(f"{case.ratio(n, PAPER, over):.2f}" for over in ("ep", "tp-per-expert")) for n in TOKENS]
        lines.append(f"| {case.model}, {case.routing} | {' | '.join(cells)} | {_fastest(case, TOKENS[-1])} |")
    return "\n".join(lines)


def _fastest(case: Case, tokens: int) -> str:
    row = min((row for (n, _), row in case.rows.items() if n == tokens), key=lambda row: row["latency_ps"])
    return f"`{row['strategy']}` ({row['gap']:.2f})"


def sentences(cases: list[Case]) -> str:
    """What the tables say, in words, as a list."""
    at = [(case, n) for case in cases for n in TOKENS]
    few = [(case, n) for case, n in at if n <= 64]
    many = [(case, n) for case, n in at if n == TOKENS[-1]]
    sram = [_peak(case, TOKENS[-1], "ep") / _peak(case, TOKENS[-1], PAPER) for case in cases]
    bound = [case.rows[n, PAPER]["gap"] for case, n in few]
    winners = Counter(_fastest(case, n).split(" ")[0] for case, n in many)
    lines = [
        f"**Against EP.** `{PAPER}` is {_span(at, 'ep')} times as fast as `ep` (median {_median(at, 'ep'):.2f}), which "
        "gets the best of three placements. The paper reports 1.22 to 2.00 over its baselines. At 1024 tokens `ep` "
        f"needs {min(sram):.1f} to {max(sram):.1f} times the SRAM.",
        f"**Against TP.** `tp-per-expert` is a strong opponent: of {len(at)} cases `{PAPER}` is faster in "
        f"{_count(at, 'tp-per-expert', 1)}, slower in {_count(at, 'tp-per-expert', -1)} and even (within {EVEN:.0%}) "
        f"in {_count(at, 'tp-per-expert', 0)}. At 1024 tokens it is {_span(many, 'tp-per-expert')} times as fast.",
        f"**Few tokens.** At 16 and 64 tokens `{PAPER}` is {min(bound):.3f} to {max(bound):.3f} times the lower bound. "
        "DDR limits every strategy that keeps all channels busy, so nothing is left to gain.",
        f"**Many tokens.** At 1024 tokens it is {_gaps(many, PAPER)} times the bound, `fse-dp-adaptive` "
        f"{_gaps(many, 'fse-dp-adaptive')} and `tp-per-expert` {_gaps(many, 'tp-per-expert')}. Fastest: "
        f"{', '.join(f'{name} {count}' for name, count in winners.most_common())} of {len(many)}.",
        f"**Paired load** makes `fse-dp` {_span(at, 'fse-dp')} times as fast: it helps in {_count(at, 'fse-dp', 1)} of "
        f"{len(at)} cases and costs in {_count(at, 'fse-dp', -1)}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _peak(case: Case, tokens: int, strategy: str) -> int:
    return int(case.rows[tokens, strategy]["peak_package_bytes"])


def _ratios(at: list[tuple[Case, int]], over: str) -> list[float]:
    return sorted(case.ratio(n, PAPER, over) for case, n in at)


def _span(at: list[tuple[Case, int]], over: str) -> str:
    ratios = _ratios(at, over)
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}"


def _median(at: list[tuple[Case, int]], over: str) -> float:
    return statistics.median(_ratios(at, over))


def _count(at: list[tuple[Case, int]], over: str, sign: int) -> int:
    signs = [0 if abs(ratio - 1) < EVEN else 1 if ratio > 1 else -1 for ratio in _ratios(at, over)]
    return signs.count(sign)


def _gaps(at: list[tuple[Case, int]], strategy: str) -> str:
    gaps = [case.rows[n, strategy]["gap"] for case, n in at]
    return f"{min(gaps):.2f} to {max(gaps):.2f}"


SHOW = {"tables": tables, "front": front, "sentences": sentences}


def main(arguments: Sequence[str]) -> int:
    """``tables|front|sentences``, then ``captured FOLDER`` or ``synthetic`` or ``all FOLDER``."""
    show, which, *folder = arguments
    cases = captured(folder[0]) if which in ("captured", "all") else []
    cases += synthetic() if which in ("synthetic", "all") else []
    if not cases or show not in SHOW:
        raise ConfigError(f"{' '.join(arguments)} was given; it must be {main.__doc__}")
    print(SHOW[show](cases))
    return 0
