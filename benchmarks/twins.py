"""Real traces against their synthetic twins: activated fractions and simulated latency; prints Markdown.

Each twin is fitted on every other request of a capture and compared with the requests left out, at the first, middle
and last recorded layer. Latency is the sum over these and over up to 16, 8 and 4 iterations spread over the trace. The
last column compares the half fitted on with the half left out: what two captures of the same traffic differ by.
`python benchmarks/twins.py FOLDER [activated|latency|statistics]` (of .npz files; without a name, all three tables).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from expertstream import MoEModel, Package, Routing, RoutingTrace, simulate
from expertstream.errors import TraceError
from expertstream.trace.held_out import HeldOut, held_out, split
from expertstream.trace.routing import GOLDEN_RATIO, MIXES

STRATEGIES = ("ep", "tp", "fse-dp-paired")
ITERATIONS = {16: 16, 64: 8, 256: 4}
LIMIT = 0.05


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
    package, layers = Package.preset("test-chip-2x2"), trace.layer_index[[0, trace.layer_index.size // 2, -1]].tolist()
    found = [
        simulate(model, package, routing, strategy).latency_ps
        for layer in layers
        for routing in iterations(trace, layer, tokens, mix)
    ]
    return float(np.mean(found)) if found else float("nan")


def percent(miss: float) -> str:
    return "-" if np.isnan(miss) else f"**{100 * miss:+.1f}**" if abs(miss) > LIMIT else f"{100 * miss:+.1f}"


def activated_rows(name: str, found: HeldOut) -> list[str]:
    return [
        f"| {name} | {row.mix} | {row.tokens} | {row.uniform:.3f} | {row.fitted:.3f} | {row.held_out:.3f} "
        f"| {row.twin:.3f} | {100 * row.miss:+.1f} |"
        for row in found.activated
    ]


def latency_rows(name: str, fitted: RoutingTrace, real: RoutingTrace, twin: RoutingTrace) -> list[str]:
    model, rows = model_of(real), []
    for mix in MIXES:
        for tokens in ITERATIONS:
            truth = [latency(model, real, tokens, mix, strategy) for strategy in STRATEGIES]
            drawn = [latency(model, twin, tokens, mix, strategy) for strategy in STRATEGIES]
            other = latency(model, fitted, tokens, mix, STRATEGIES[-1])
            cells = [percent(b / a - 1) for a, b in zip(truth, drawn, strict=True)] + [percent(other / truth[-1] - 1)]
            if not np.isnan(truth[0]):
                rows.append(f"| {name} | {mix} | {tokens} | {' | '.join(cells)} |")
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
        layers = trace.layer_index
        trace = trace.of_layers(layers[[0, layers.size // 2, -1]].tolist())
        name = " ".join(path.stem.split("__")[:2])
        found, real, twin = held_out(trace)
        activated += activated_rows(name, found)
        if options.table in (None, "latency"):
            latencies += latency_rows(name, split(trace)[0], real, twin)
        shown = {n: v for n, v in found.statistics.items() if n != "next_layer_recall"}  # these are no neighbours
        cells = " | ".join(f"{b:.2f} / {c:.2f}" for _, b, c in shown.values())
        figures.append(f"| {name} | {cells} |")
        names = list(shown)
    tables = {
        "activated": ("capture | mix | tokens | uniform | fitted half | held-out half | twin | points", activated),
        "statistics": (f"capture | {' | '.join(n.replace('_', ' ') for n in names)}", figures),
        "latency": (
            f"capture | mix | tokens | {' | '.join(f'`{s}` %' for s in STRATEGIES)} | real halves %",
            latencies,
        ),
    }
    for table, (head, rows) in tables.items():
        if options.table in (None, table):
            print(f"| {head} |", "| --- " * (head.count(" | ") + 1) + "|", *rows, sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
