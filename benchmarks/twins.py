"""Real traces against their synthetic twins: activated fractions and simulated latency; prints Markdown.

Held out: of each half of the requests a twin is fitted to the other half. Whole: the twin fitted to all requests
against all. Activated fractions are of all recorded layers; latency is of six that are evenly spread (or all), the mean
over up to 48, 24 and 8 iterations spread over the trace, of as many requests where each is of one request.
`python benchmarks/twins.py FOLDER [activated|latency|statistics]` (of .npz files; without a name, all three tables).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expertstream import MoEModel, Package, Routing, RoutingTrace, simulate
from expertstream.errors import TraceError
from expertstream.trace import calibrate
from expertstream.trace.held_out import NAMES, Fold, HeldOut, compare, folds
from expertstream.trace.routing import GOLDEN_RATIO, MIXES
from expertstream.units import signed

STRATEGIES = ("ep", "tp", "fse-dp-paired")
ITERATIONS = {16: 48, 64: 24, 256: 8}
LIMIT, POINTS = 0.05, 3.0
LAYERS = 6


def model_of(trace: RoutingTrace) -> MoEModel:
    """The preset of the trace's shape; where there is none (FLAME-MoE-290M), its published shape."""
    for name in MoEModel.preset_names():
        model = MoEModel.preset(name)
        if trace.model.startswith(name) and (model.n_experts, model.top_k) == (trace.n_experts, trace.top_k):
            return model
    like = MoEModel.preset("deepseek-v2-lite")  # 64 experts, k = 6 as FLAME-MoE-290M
    if (like.n_experts, like.top_k) != (trace.n_experts, trace.top_k):
        raise SystemExit(f"no preset has the shape of {trace.model}")
    return like


def iterations(trace: RoutingTrace, layer: int, tokens: int, mix: str) -> Iterator[Routing]:
    most = ITERATIONS[tokens]
    if mix == "round-robin":
        step = max(tokens, (trace.n_tokens - tokens) // most)
        for offset in range(0, trace.n_tokens - tokens + 1, step)[:most]:
            yield trace.iteration(tokens, layer, offset=offset)
        return
    known, lengths = np.unique(trace.request[trace.request >= 0], return_counts=True)
    long = np.flatnonzero(lengths >= tokens)
    for turn in range(most if long.size else 0):  # requests in turn, at different points of their progress
        at = long[turn * long.size // most] if long.size > most else long[turn % long.size]
        offset = int(turn * GOLDEN_RATIO % 1 * (lengths[at] - tokens + 1))
        yield trace.iteration(tokens, layer, mix="single-request", request=int(known[at]), offset=offset)


def latency(model: MoEModel, trace: RoutingTrace, tokens: int, mix: str, strategy: str) -> float:
    """Mean over layers and iterations, ps; NaN if the trace has none."""
    package = Package.preset("test-chip-2x2")
    found = [
        simulate(model, package, routing, strategy).latency_ps
        for layer in trace.layer_index.tolist()
        for routing in iterations(trace, layer, tokens, mix)
    ]
    return float(np.mean(found)) if found else float("nan")


def bold(miss: float, limit: float) -> str:
    """With its sign, bold beyond the limit."""
    return "-" if np.isnan(miss) else f"**{signed(miss)}**" if abs(miss) > limit else signed(miss)


def activated_rows(name: str, found: HeldOut) -> list[str]:
    return [
        f"| {name} | {row.mix} | {row.tokens} | {row.uniform:.3f} | {row.held_out:.3f} | {row.twin:.3f} "
        f"| {bold(100 * row.miss, POINTS)} | {bold(100 * row.worst, POINTS)} | {100 * row.apart:.1f} |"
        for row in found.activated
    ]


def latency_rows(name: str, whole: tuple[RoutingTrace, RoutingTrace], parts: list[Fold]) -> list[str]:
    model, rows = model_of(whole[0]), []
    for mix in MIXES:
        for tokens in ITERATIONS:

            def misses(
                pairs: list[tuple[RoutingTrace, RoutingTrace]], mix: str = mix, tokens: int = tokens
            ) -> NDArray[np.float64]:
                """In per cent, [pairs, strategies]."""
                found = [[[latency(model, t, tokens, mix, s) for s in STRATEGIES] for t in pair] for pair in pairs]
                real, other = np.array(found).transpose(1, 0, 2)
                return np.asarray(100 * (other / real - 1))

            own = misses([whole])[0]
            if np.isnan(own).any():
                continue
            left = misses([(part.held_out, part.twin) for part in parts])
            apart = np.abs(misses([(part.held_out, part.fitted) for part in parts])).max()
            worst = left.reshape(-1)[np.abs(left).argmax()]
            cells = [bold(miss, 100 * LIMIT) for miss in (*own, *left.mean(axis=0), worst)]
            rows.append(f"| {name} | {mix} | {tokens} | {' | '.join(cells)} | {apart:.1f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", nargs="?", choices=["activated", "latency", "statistics"])
    parser.add_argument("--captures", default="", help="only files whose names have one of these parts, such as a,b")
    options = parser.parse_args()
    activated, latencies, figures = [], [], []
    for path in sorted(options.folder.glob("*.npz")):
        if not any(part in path.name for part in options.captures.split(",")):
            continue
        try:
            trace = RoutingTrace.load(path)
        except TraceError:
            continue  # counts only
        name = " ".join(path.stem.split("__")[:2])
        parts = folds(trace)
        found = compare(parts)
        activated += activated_rows(name, found)
        if options.table in (None, "latency"):
            spread = np.unique(np.linspace(0, trace.layer_index.size - 1, LAYERS).astype(int))
            some = trace.layer_index[spread].tolist()
            whole = (trace.of_layers(some), calibrate(trace).like(trace).of_layers(some))
            two = [Fold(*(t.of_layers(some) for t in (p.fitted, p.held_out, p.twin))) for p in parts]
            latencies += latency_rows(name, whole, two)
        cells = " | ".join(f"{b:.2f} / {c:.2f}" for _, b, c in found.statistics.values())
        figures.append(f"| {name} | {cells} |")
    strategies = " | ".join(f"`{s}` %" for s in STRATEGIES)
    tables = {
        "activated": (
            "capture | mix | tokens | uniform | held out | twins | mean miss | worst | halves apart",
            activated,
        ),
        "statistics": (f"capture | {' | '.join(n.replace('_', ' ') for n in NAMES)}", figures),
        "latency": (
            f"capture | mix | tokens | {strategies} | held out: {strategies} | worst | halves apart",
            latencies,
        ),
    }
    for table, (head, rows) in tables.items():
        if options.table in (None, table):
            print(f"| {head} |", "| --- " * (head.count(" | ") + 1) + "|", *rows, sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
