"""Speed of the engine as ratios measured in one run: ``python benchmarks/speed.py``.

1. Events per second against a bare Numba heap that handles as many events, twice: with as many events waiting as the
   engine has activities in flight, and with all of them waiting from the start.
2. One Qwen3-30B-A3B layer, 256 tokens, 8 micro-slices per expert and die, on 2x2: time from routing to timeline, and
   peak memory.
3. Time per event as the work grows: up to 8x8 dies, 256 experts, 4096 tokens.
"""

from __future__ import annotations

import resource
import time

import numpy as np

import heap
from expertstream.engine import kernel
from expertstream.engine.layout import DECIDE, K_DECIDE, K_POPPED
from expertstream.engine.run import Admission, View
from expertstream.engine.state import build
from expertstream.model import MoEModel
from expertstream.package import ChannelSpec, Package
from expertstream.planning import network_of
from expertstream.simulate import simulate
from expertstream.strategy import Options, get_strategy
from expertstream.trace import Routing, synthesize
from expertstream.workload import LayerWorkload

STRATEGY = "fse-dp-paired"


def kernel_seconds(model: MoEModel, package: Package, routing: Routing, options: Options) -> tuple[float, int]:
    """Time inside the kernel for a layer (decisions excluded), and its events; best of five."""
    best = float("inf")
    for _ in range(5):
        workload = LayerWorkload.of(model, package, routing)
        plan = get_strategy(STRATEGY).plan(workload, options)
        state = build(plan.work, network_of(package, plan))
        view = View(state, package.n_dies)
        vector, spent = state.vector, 0.0
        vector[K_DECIDE] = 1
        while True:
            started = time.perf_counter()
            answer = kernel.advance(vector)
            spent += time.perf_counter() - started
            if answer != DECIDE:
                break
            vector[K_DECIDE] = 0
            for decided in plan.dispatcher.decide(view):
                group = decided.group if isinstance(decided, Admission) else decided
                kernel.admit(vector, group, view.now_ps)
                vector[K_DECIDE] = 1
        best = min(best, spent)
    return best, int(vector[K_POPPED])


def simulate_seconds(model: MoEModel, package: Package, routing: Routing, options: Options) -> tuple[float, int]:
    """Time from routing to timeline, and its events; best of five."""
    best, events = float("inf"), 0
    for _ in range(5):
        started = time.perf_counter()
        events = simulate(model, package, routing, STRATEGY, options=options).timeline.n_events
        best = min(best, time.perf_counter() - started)
    return best, events


def main() -> None:
    """Print everything."""
    model, chip, eight = MoEModel.preset("qwen3-30b-a3b"), Package.preset("test-chip-2x2"), Options(micro_slices=8)
    trace = synthesize(model, requests=32, tokens_per_request=128, layers=(0,))
    routing = trace.iteration(256, 0)
    simulate(model, chip, routing, STRATEGY, options=eight)  # compile
    inside, events = kernel_seconds(model, chip, routing, eight)
    print(f"engine: {events} events, {inside / events * 1e9:.0f} ns each")
    for waiting in (32, events):
        bare = heap.seconds(events, waiting)
        print(f"  bare heap, {waiting} waiting: {bare / events * 1e9:.0f} ns each; engine at {bare / inside:.2f} of it")
    whole, _ = simulate_seconds(model, chip, routing, eight)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"Qwen3-30B-A3B layer, 256 tokens, 8 micro-slices: {whole * 1e3:.1f} ms; peak memory {peak:.0f} MiB")
    print("growth: dies, experts, tokens, events, ms, ns per event")
    for side, experts, tokens in ((2, 64, 256), (2, 128, 1024), (4, 128, 1024), (4, 256, 4096), (8, 256, 4096)):
        big = MoEModel.one_layer(d_model=2048, d_ffn=768, n_experts=experts, top_k=8)
        package = chip.model_copy(
            update={
                "rows": side,
                "cols": side,
                "channels": tuple(
                    ChannelSpec(dies=(d,), bandwidth_bytes_per_s=25_600_000_000) for d in range(side * side)
                ),
                "die": chip.die.model_copy(update={"token_buffer_bytes": 64 << 20}),
            }
        )
        many = synthesize(big, requests=32, tokens_per_request=128, layers=(0,)).iteration(tokens, 0)
        spent, events = simulate_seconds(big, package, many, Options(micro_slices=2))
        print(f"  {side * side:3d} {experts:4d} {tokens:5d} {events:9d} {spent * 1e3:9.1f} {spent / events * 1e9:6.0f}")


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
