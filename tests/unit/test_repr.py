"""What the main objects show of themselves in a notebook: one line, no arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from expertstream.comparison import compare
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.trace import RoutingTrace, calibrate, synthesize
from expertstream.units import format_time

MODEL = MoEModel.one_layer(d_model=64, d_ffn=48, n_experts=8, top_k=2).replace(name="small", n_layers=12)
CHIP = Package.preset("test-chip-2x2")


def trace(layers: list[int]) -> RoutingTrace:
    return synthesize(MODEL, requests=2, tokens_per_request=20, layers=layers, seed=1)


def test_traces_and_routings() -> None:
    small = trace([0, 3])
    assert repr(small) == ("RoutingTrace(40 tokens x layers 0, 3 x 2 of 8 experts, small, SYNTHETIC: small, seed 1)")
    assert "x layers 0, 1, 2, ..., 9 x" in repr(trace(list(range(10))))
    captured = replace(small, synthetic=False, source="a capture")
    assert repr(captured.iteration(tokens=5, layer=3)) == "Routing(5 tokens x 2 of 8 experts, layer 3, from a capture)"


def test_a_trace_that_was_opened_is_shown_without_being_read(tmp_path: object) -> None:
    file = f"{tmp_path}/t.parquet"
    trace([0]).save(file)
    assert repr(RoutingTrace.open(file)).startswith("RoutingTrace(40 tokens x layers 0 x 2 of 8 experts, small, SYNTH")


def test_results() -> None:
    routing = trace([0]).iteration(tokens=8, layer=0)
    result = simulate(MODEL, CHIP, routing, "tp")
    assert repr(result) == (
        f"Result(tp: small on test-chip-2x2, 8 tokens, layer 0, latency {format_time(result.latency_ps)}; "
        "summary() has more)"
    )
    assert repr(result.workload) == f"LayerWorkload(small on test-chip-2x2, {routing!r})"
    assert "8 tokens, layer 0, SYNTHETIC routing (small, seed 1)" in result.summary().splitlines()[0]
    assert repr(result.plan).startswith(f"Plan({len(result.plan.slices)} pieces of experts, ")
    assert not any(isinstance(value, np.ndarray) and repr(value) in repr(result) for value in vars(result).values())


def test_what_a_result_holds() -> None:
    result = simulate(MODEL, CHIP, trace([0]).iteration(tokens=1, layer=0), "tp")
    loads, sends, computes = (int((result.timeline.kind == kind).sum()) for kind in (0, 1, 2))
    took = format_time(result.latency_ps)
    assert repr(result.timeline) == (
        f"Timeline({loads + sends + computes} activities: {loads} loads, {sends} sends, {computes} computes; "
        f"latency {took}, 4 dies)"
    )
    assert repr(result.timeline.network) == "Network(4 dies, 4 DDR channels, 8 directed links)"
    metrics = result.metrics
    assert repr(metrics) == (
        f"Metrics(latency {took}, {metrics.gap:.3f} x lower bound, utilisation {100 * metrics.utilisation:.1f} %; "
        "to_dict() has all)"
    )
    assert repr(metrics.busy) == f"BusyTimes(4 dies, 4 DDR channels, 8 directed links, in {took})"


def test_calibrations() -> None:
    fitted = calibrate(synthesize(MODEL, requests=4, tokens_per_request=20, layers=[0, 3]))
    assert repr(fitted) == f"Calibration(small, layers 0, 3, 2 of 8 experts, from {fitted.source})"
    assert repr(fitted.layers[0]) == "LayerCalibration(8 experts)"


def test_comparisons() -> None:
    found = compare(MODEL, CHIP, trace([0, 3]), tokens=[2, 4], strategies=["tp", "fse-dp"], baseline="tp")
    what = "small on test-chip-2x2, tokens 2, 4, layers 0, 3: tp, fse-dp; baseline tp"
    assert repr(found) == f"Comparison({what}; by_tokens() has the table)"
