"""Time to write a large Perfetto timeline: ``python benchmarks/perfetto.py``.

A 4x4 package, 256 experts and 1024 tokens, with as many micro-slices as give a million events. Prints the time, the
events per second, and the memory that writing adds to the run's own.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.report.perfetto import write_perfetto
from expertstream.simulate import simulate
from expertstream.strategy import Options
from expertstream.trace import synthesize

LEAST_EVENTS = 1_000_000


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Write the timeline and print what it took."""
    model = MoEModel.one_layer(d_model=2048, d_ffn=768, n_experts=256, top_k=8)
    trace = synthesize(model, requests=8, tokens_per_request=128, layers=[0])
    routing = trace.iteration(tokens=1024, layer=0)
    result = simulate(model, Package.preset("4x4"), routing, "fse-dp-paired", options=Options(micro_slices=4))
    before = _peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        started = time.perf_counter()
        write_perfetto(result, path)
        spent = time.perf_counter() - started
        size = path.stat().st_size
        with path.open("rb") as file:
            events = sum(1 for _ in file) - 2  # one line each between the first and the last
    if events < LEAST_EVENTS:
        raise SystemExit(f"only {events} events; the benchmark needs {LEAST_EVENTS}")
    print(f"{len(result.timeline)} activities, {events} events, {size / 1e6:.0f} MB in {spent:.2f} s")
    print(f"{1e6 / events * spent:.2f} s per million events (at most 10); {_peak_mib() - before:.0f} MiB more memory")


if __name__ == "__main__":
    main()
