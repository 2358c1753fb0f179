"""Verdicts in words: each sentence follows from the measures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from expertstream.analysis import CAUSES, Bounds
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.report.verdict import comparison_verdict, percent, run_verdict
from expertstream.simulate import Result, simulate
from expertstream.trace import synthesize

MS = 10**9


def run(
    *,
    latency: int = 100 * MS,
    ddr: int = 93 * MS,
    compute: int = 40 * MS,
    channels: float = 0.95,
    macs: tuple[float, ...] = (0.5, 0.5),
    links: tuple[float, ...] = (0.1, 0.1),
    stalls: dict[str, tuple[float, float]] | None = None,
    loaded: int = 1000,
    passes: int = 1,
) -> Result:
    """A run of two dies with the given measures; shares are of the latency."""
    shares = np.array([(stalls or {}).get(cause, (0.0, 0.0)) for cause in CAUSES]).T
    use = SimpleNamespace(
        channel_share=np.array([channels]),
        compute_share=np.array(macs),
        link_share=np.array(links),
        compute_ps=np.array(macs) * latency,
    )
    buffers = SimpleNamespace(peak_bytes=np.array([[512, 0], [1024, 0]]), package_peak_both_bytes=1536)
    metrics = SimpleNamespace(
        latency_ps=latency,
        bounds=Bounds(ddr, compute, 0),
        busy=use,
        buffers=buffers,
        given_bytes=np.array([[2048, 1], [2048, 1]]),
        stall_ps=(shares * latency).astype(np.int64),
        ddr_bytes=loaded,
        passes=passes,
    )
    package = SimpleNamespace(faults=SimpleNamespace(dead_dies=()))
    workload = SimpleNamespace(package=package, expert_bytes=np.array([600, 400, 77]), activated=np.array([0, 1]))
    network = SimpleNamespace(links=np.array([[0, 1], [1, 0]]))
    fake = SimpleNamespace(metrics=metrics, workload=workload, timeline=SimpleNamespace(network=network))
    return cast(Result, fake)


def test_the_example_of_the_report() -> None:
    sentences = run_verdict(run(stalls={"ddr": (0.41, 0.39), "space": (0.0, 0.12)}))
    assert sentences == [
        "DDR-bound: 93 % of the bound (latency 100 ms, lower bound 93 ms).",
        "MAC arrays wait for DDR 40 % of the time, mean over the dies.",
        "Die 1 waits for buffer space 12 % of the time.",
        "Buffers hold at most 1.5 KiB in the package at a time; the fullest weight buffer is that of die 1, "
        "50 % of 2 KiB.",
    ]


@pytest.mark.parametrize(
    ("measures", "sentence"),
    [
        ({"compute": 99 * MS}, "Compute-bound: 99.0 % of the bound (latency 100 ms, lower bound 99 ms)."),
        (
            {"ddr": 50 * MS},
            "DDR-bound, above the bound: channels are busy 95 % of the time; 50 % of the bound "
            "(latency 100 ms, lower bound 50 ms).",
        ),
        (
            {"ddr": 50 * MS, "channels": 0.5, "macs": (0.95, 0.85)},
            "Compute-bound: MAC arrays are busy 90 % of the time; 50 % of the bound "
            "(latency 100 ms, lower bound 50 ms).",
        ),
        (
            {"ddr": 50 * MS, "channels": 0.5, "links": (0.2, 0.9)},
            "D2D-bound: the link from die 1 to die 0 is busy 90 % of the time; 50 % of the bound "
            "(latency 100 ms, lower bound 50 ms).",
        ),
        (
            {"ddr": 50 * MS, "channels": 0.5, "macs": (0.6, 0.4), "links": (0.3, 0.2)},
            "No resource is saturated: DDR channels are busy 50 % of the time, MAC arrays 50 %, the busiest link 30 %; "
            "50 % of the bound (latency 100 ms, lower bound 50 ms).",
        ),
        (
            {"ddr": 50 * MS, "channels": 0.5, "links": ()},
            "No resource is saturated: DDR channels are busy 50 % of the time, MAC arrays 50 %; 50 % of the bound "
            "(latency 100 ms, lower bound 50 ms).",
        ),
    ],
)
def test_the_limit(measures: dict[str, Any], sentence: str) -> None:
    assert run_verdict(run(**measures))[0] == sentence


def test_what_is_too_small_is_not_said() -> None:
    assert len(run_verdict(run(stalls={"ddr": (0.04, 0.04), "space": (0.0, 0.04)}))) == 2


def test_weights_loaded_again_and_uneven_dies() -> None:
    sentences = run_verdict(run(loaded=2500, passes=3, macs=(0.3, 0.7)))
    assert (
        "Weights are loaded 2.5 times: the layer takes 3 passes, because the token buffers cannot hold all tokens."
        in sentences
    )
    assert "The load is uneven: die 1 computes 1.40 times as long as the mean." in sentences
    assert "Weights are loaded 1.1 times: the tokens of an expert come in several turns." in run_verdict(
        run(loaded=1100)
    )


def test_a_real_run_and_one_without_work() -> None:
    model = MoEModel.one_layer(d_model=128, d_ffn=192, n_experts=8, top_k=2)
    trace = synthesize(model, requests=2, tokens_per_request=12, layers=[0], seed=3)
    routing = trace.iteration(tokens=20, layer=0)
    result = simulate(model, Package.preset("test-chip-2x2"), routing)
    share = result.metrics.bounds.bound_ps / result.latency_ps
    assert f"{percent(share)} of the bound" in run_verdict(result)[0]
    assert run_verdict(run(ddr=0, compute=0)) == ["No token activates an expert: there is nothing to compute."]


def test_only_the_whole_is_100_percent() -> None:
    assert [percent(share) for share in (0, 0.126, 0.99, 0.99999, 1)] == ["0 %", "13 %", "99.0 %", "99.9 %", "100 %"]


def test_the_winners_of_a_comparison() -> None:
    rows = [
        {"tokens": 1, "strategy": "ep", "latency_ps": 3 * MS, "speedup": 1.0, "gap": 1.5},
        {"tokens": 1, "strategy": "tp", "latency_ps": 2 * MS, "speedup": 1.5, "gap": 1.0},
        {"tokens": 1, "strategy": "fse-dp", "latency_ps": 2 * MS + MS // 100, "speedup": 1.49, "gap": 1.005},
        {"tokens": 64, "strategy": "ep", "latency_ps": 3 * MS, "speedup": 1.0, "gap": None},
    ]
    assert comparison_verdict(rows, "ep") == [
        "At 1 token tp is the fastest: 2 ms, 1.50x as fast as ep, 1.00 x the lower bound; within 1 %: fse-dp.",
        "At 64 tokens ep is the fastest: 3 ms.",
    ]
