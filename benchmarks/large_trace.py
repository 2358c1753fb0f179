"""Writes a trace of 1e8 token-layer rows, reads slices of it, has commands read it; prints time, size and peak memory.

`python benchmarks/large_trace.py FOLDER [ROWS]`; the file is deleted at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from expertstream import RoutingTrace, TraceWriter

LAYERS, EXPERTS, K, PER_REQUEST, STEP = 24, 128, 8, 512, 16384

COMMANDS = {  # the model has as many experts as the trace
    "trace inspect --html": ["trace", "inspect", "{file}", "--html", "{file}.html"],
    "simulate, one layer": ["simulate", "qwen3-30b-a3b", "--trace", "{file}"],
    "compare, three layers, all strategies": ["compare", "qwen3-30b-a3b", "--trace", "{file}"],
}


def run(what: str, arguments: list[str]) -> None:
    """Run a command of the program and print what it took."""
    with subprocess.Popen([sys.executable, "-m", "expertstream", *arguments], stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{what} failed")
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(f"{what}: {cpu:.1f} s of CPU time, peak memory {peak:.0f} MiB", flush=True)


def report(what: str, start: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.process_time() - start:.1f} s of CPU time, peak memory so far {peak:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=float, nargs="?", default=1e8)
    options = parser.parse_args()
    path, tokens = options.folder / "large-trace.parquet", int(options.rows) // LAYERS
    rng = np.random.default_rng(0)
    report("start", time.process_time())
    start = time.process_time()
    with TraceWriter(path, layer_index=range(LAYERS), n_experts=EXPERTS, model="m", source="random") as file:
        for first in range(0, tokens, STEP):
            number = np.arange(first, min(first + STEP, tokens))
            chosen = rng.integers(0, EXPERTS, (number.size, LAYERS, 1)) + 3 * np.arange(K) ** 2
            file.append((chosen % EXPERTS).astype(np.int16), number // PER_REQUEST, number % PER_REQUEST, number * 0)
    report(f"wrote {tokens * LAYERS} rows, {path.stat().st_size / 2**20:.0f} MiB", start)
    start = time.process_time()
    trace = RoutingTrace.load(path, layers=[7])
    report(f"one layer of {trace.n_tokens} tokens", start)
    start = time.process_time()
    trace.iteration(256, 7)
    report("an iteration of 256 tokens of it", start)
    del trace
    start = time.process_time()
    trace = RoutingTrace.load(path, requests=[5, tokens // PER_REQUEST // 2])
    report(f"two requests, {trace.experts.shape[1]} layers", start)
    del trace
    for what, arguments in COMMANDS.items():
        run(what, [argument.format(file=path) for argument in arguments])
    path.with_name(f"{path.name}.html").unlink()
    path.unlink()


if __name__ == "__main__":
    main()
