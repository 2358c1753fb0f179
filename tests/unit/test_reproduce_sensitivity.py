"""The sensitivity study on hand-made rows: who is faster, what binds, from which bandwidth; and waits that add up."""

from __future__ import annotations

import pytest

from expertstream.reproduce import Setting
from expertstream.reproduce.layers import simulated, waits_of
from expertstream.reproduce.studies.sensitivity import DDR, claims, d2d_bound, points, speed
from expertstream.reproduce.study import Row


def _place(times: int, ours_ms: float, links: float) -> list[Row]:
    at = {"model": "m", "tokens": 64, "d2d_gb": 144, "ddr_times": times}
    latency = {"tp": 3.0, "tp-per-expert": 2.0, "fse-dp-paired": ours_ms, "fse-dp-adaptive": 1.6}
    return [
        at | {"strategy": name, "latency_ms": ms, "links_over_bound": links, "wait_others_percent": 10.0 * times}
        for name, ms in latency.items()
    ]


def test_fse_dp_is_measured_against_the_faster_tp() -> None:
    assert speed(_place(1, 4.0, 0.5)) == 0.5
    assert speed(_place(1, 4.0, 0.5), "fse-dp-adaptive") == 1.25


def test_a_run_is_d2d_bound_once_links_need_longer_than_the_bound() -> None:
    assert not d2d_bound(_place(1, 2.0, 1.0))
    assert d2d_bound(_place(1, 2.0, 1.01))


def test_claims_name_the_first_bandwidth_that_binds_and_that_loses() -> None:
    rows = [row for times in DDR for row in _place(times, 2.0 if times < 4 else 2.5, 0.3 * times)]
    (claim,) = claims(rows)
    assert claim.ours == (
        "D2D-bound from x4 (1); TP more than 1% faster than fse-dp-paired from x4 (1), than fse-dp-adaptive never (1) "
        "(of 1 models). Where TP is faster, MAC arrays of fse-dp-paired wait for transfers and other dies for 40 to "
        "160 % of the time"
    )


def test_waits_and_busy_time_are_all_of_the_time() -> None:
    result = simulated(points(Setting(tokens=(16,), layers=1))[0])
    busy = float(result.metrics.busy.compute_share.mean())
    assert sum(waits_of(result).values()) + busy == pytest.approx(1)
