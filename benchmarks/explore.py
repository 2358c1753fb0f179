"""What a sweep costs beside a bare loop over its points, in processor time of one run.

Usage: python benchmarks/explore.py [points]

Points: a Qwen3-30B-A3B layer at 64 tokens on the 2x2 test chip, DDR bandwidth and weight buffer varied. "bare" is a
loop over ``simulate(...).metrics``, in one process and in as many as there are workers, measured before and after.
Executors are run at two sizes: the difference is the cost of a point, the rest that of starting (imports, compiled code
from the cache). Times are of the processor, user and system, all processes together, so that other load on the machine
matters little.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from expertstream.explore import SweepSpec, make_executor, sweep
from expertstream.explore.jobs import Inputs, jobs_of, points_of
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.trace import packaged_trace

MODEL, PACKAGE = "qwen3-30b-a3b", "test-chip-2x2"
WORKERS = 2


def spec_of(points: int) -> SweepSpec:
    fields = {
        "package.channels.bandwidth": {"from": "16 GB/s", "to": "256 GB/s"},
        "package.die.weight_buffer": {"from": "2 MiB", "to": "16 MiB"},
    }
    fixed = {"model": MODEL, "package": PACKAGE, "tokens": 64, "mode": "latin-hypercube"}
    return SweepSpec.model_validate({**fixed, "fields": fields, "points": points})


def bare(points: int) -> float:
    """Milliseconds a point of a plain loop."""
    spec = spec_of(points)
    model, package = MoEModel.preset(MODEL), Package.preset(PACKAGE)
    trace = packaged_trace(model)
    routing = trace.iteration(64, int(trace.layer_index[trace.layer_index.size // 2]))
    values = [job.values for job in jobs_of(Inputs(spec), points_of(spec))]
    channels = [channel.model_dump() for channel in package.channels]
    simulate(model, package, routing)
    began = time.process_time()
    for bandwidth, buffer in values:
        changed = [channel | {"bandwidth_bytes_per_s": bandwidth} for channel in channels]
        chips = package.replace(**{"channels": changed, "die.weight_buffer_bytes": buffer})
        assert simulate(model, chips, routing).metrics
    return 1000 * (time.process_time() - began) / points


def together(points: int) -> float:
    """Milliseconds a point of as many loops as there are workers, side by side: they share caches and memory."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        return sum(pool.map(bare, [points // WORKERS] * WORKERS, chunksize=1)) / WORKERS


def swept(kind: str, points: int) -> tuple[float, float]:
    """Milliseconds of this process and of its workers for a sweep."""
    executor = make_executor(kind, workers=None if kind == "serial" else WORKERS)
    began = _used(resource.RUSAGE_SELF), _used(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        sweep(spec_of(points), Path(folder) / "out", executor)
    for child in multiprocessing.active_children():
        child.join()
    return _used(resource.RUSAGE_SELF) - began[0], _used(resource.RUSAGE_CHILDREN) - began[1]


def _used(who: int) -> float:
    usage = resource.getrusage(who)
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    points = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    few = max(points // 4, 50)
    before = bare(points), together(points)
    found = {}
    for kind in ("serial", "processes", "dask"):
        own_few, workers_few = swept(kind, few)
        own, workers = swept(kind, points)
        own, workers = (own - own_few) / (points - few), (workers - workers_few) / (points - few)
        found[kind] = own, own + workers, own_few + workers_few - few * (own + workers)
    alone, beside = (before[0] + bare(points)) / 2, (before[1] + together(points)) / 2
    print(f"bare loop   {alone:.2f} ms a point; {beside:.2f} where {WORKERS} run beside each other")
    for kind, (own, each, start) in found.items():
        rate = 100 * (alone if kind == "serial" else beside) / each
        print(
            f"{kind:<11} {each:.2f} ms a point, {rate:.0f} % of the bare loop's rate; {start / 1000:.1f} s to start; "
            f"{each / 3.6:.2f} core hours a million points"
            + ("" if kind == "serial" else f"; {100 * own / each:.1f} % to hand out, collect and store")
        )


if __name__ == "__main__":
    main()
