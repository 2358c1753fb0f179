"""Energy, power and area in cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from expertstream.analysis import Budget, count_activity, die_area, rated_power_w
from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options
from expertstream.trace import Routing

MODEL = MoEModel.one_layer(d_model=64, d_ffn=32, n_experts=1, top_k=1)
FIGURES = {
    "mac_fp16": 2.0,
    "sram_read": 3.0,
    "sram_write": 5.0,
    "control": 0.5,
    "logic_leakage": 7.0,
    "sram_leakage": 11.0,
    "mac_fp16_area": 100.0,
    "sram_area": 0.5,
    "other_area": 2.0,
    "d2d.ucie-s.energy": 0.25,
    "d2d.ucie-s.module_area": 1.5,
    "d2d.ucie-s.module_bandwidth": 100.0,
    "memory.ddr3.energy": 13.0,
}


def routing(tokens: int) -> Routing:
    return Routing(
        experts=np.zeros((tokens, 1), dtype=np.int16),
        weights=np.ones((tokens, 1), dtype=np.float32),
        request=np.zeros(tokens, dtype=np.int32),
        layer=0,
        n_experts=1,
        source="by hand",
        synthetic=True,
    )


def one_die() -> Package:
    chip = Package.preset("test-chip-2x2")
    return chip.replace(rows=1, cols=1, channels=[chip.channels[0].model_dump()])


def fixed() -> Technology:
    return Technology.preset("5nm").replace(**FIGURES)


def run(package: Package, tokens: int, strategy: str = "fse-dp", technology: Technology | None = None) -> Result:
    return simulate(MODEL, package, routing(tokens), strategy, technology=technology or fixed())


def test_one_die_one_expert_two_tokens() -> None:
    result = run(one_die(), 2)
    slices = int((result.timeline.kind == 2).sum())
    weights = 3 * 64 * 32
    macs = weights * 2
    # each micro-slice reads the tokens' 64 activations of 2 bytes, and reads and writes 64 sums of 4 bytes
    read = weights + slices * 2 * (64 * 2 + 64 * 4) + 32 * 2 * 2
    write = weights + slices * 2 * 64 * 4 + 32 * 2 * 2
    energy = {name: value.tolist() for name, value in result.metrics.energy.by_component_pj.items()}
    assert energy["mac"] == [macs * 2.0] * 3
    assert energy["sram"] == [read * 3.0 + write * 5.0] * 3
    assert energy["control"] == [0.5 * (macs * 2.0 + read * 3.0 + write * 5.0)] * 3
    assert energy["d2d"] == [0.0] * 3
    assert energy["ddr"] == [weights * 8 * 13.0] * 3
    leakage_mw = (2048 * 100 / 1e6 + 2.0) * 7.0 + 18 * 11.0
    assert energy["leakage"] == pytest.approx([leakage_mw / 1000 * result.latency_ps] * 3)
    assert result.metrics.energy.per_token_pj == pytest.approx(result.metrics.energy.total_pj / 2)


@pytest.mark.parametrize("latency_ps", [50_000, 0])
def test_the_peak_is_that_of_one_activity_where_nothing_overlaps(latency_ps: int) -> None:
    """One whole slice: DDR loads, then the array computes, at once or later; the dearer of the two is the peak."""
    chip = one_die().replace(channels=[one_die().channels[0].model_dump() | {"latency_ps": latency_ps}])
    result = simulate(MODEL, chip, routing(1), "fse-dp", options=Options(micro_slices=1), technology=fixed())
    timeline, weights = result.timeline, 3 * 64 * 32
    load_ps, compute_ps = (timeline.end_ps - timeline.start_ps).tolist()
    load_w = (weights * 8 * 13.0 + weights * 5.0 * 1.5) / load_ps
    array_pj = weights * 2.0 + (weights + 64 * 2 + 32 * 2 + 64 * 4) * 3.0 + (32 * 2 + 64 * 4) * 5.0
    leakage_w = result.metrics.area.leakage_w[1]
    expected = max(load_w, 1.5 * array_pj / compute_ps) + leakage_w
    assert result.metrics.energy.peak_power_w == pytest.approx([expected] * 3, rel=1e-9)
    assert result.metrics.energy.average_power_w[1] == pytest.approx(
        result.metrics.energy.total_pj[1] / result.latency_ps
    )


@pytest.mark.parametrize(("lead_ps", "share"), [(120_000, 0.5), (10**7, 1.0)])
def test_what_a_head_start_loads_is_energy_but_no_power_of_the_latency(lead_ps: int, share: float) -> None:
    """The only slice takes 240 ns to load: half of it, or all, before the latency counts."""
    options = Options(micro_slices=1, prediction=1.0, lead_ps=lead_ps)
    result = simulate(MODEL, one_die(), routing(1), "fse-dp", options=options, technology=fixed())
    energy, weights = result.metrics.energy, 3 * 64 * 32
    ahead_pj = share * weights * (8 * 13.0 + 5.0 * 1.5)
    assert energy.ahead_pj == pytest.approx([ahead_pj] * 3)
    assert energy.average_power_w == pytest.approx((energy.total_pj - ahead_pj) / result.latency_ps)
    assert (energy.average_power_w < energy.peak_power_w).all()


def test_a_transfer_pays_for_every_hop_and_for_its_header() -> None:
    result = run(Package.preset("3x3"), 9, "ep")
    timeline = result.timeline
    activity = count_activity(result.workload, result.plan, timeline)
    hops = result.workload.topology.hops
    sends = np.flatnonzero(timeline.kind == 1)
    by_hand = sum((int(timeline.bytes[row]) + 16) * int(hops[timeline.source[row], timeline.die[row]]) for row in sends)
    assert any(hops[timeline.source[row], timeline.die[row]] > 1 for row in sends)
    assert int(activity.d2d_bytes.sum()) == by_hand
    assert result.metrics.energy.by_component_pj["d2d"].tolist() == [by_hand * 8 * 0.25] * 3


def test_dead_dies_do_not_leak() -> None:
    result = run(Package.preset("test-chip-2x2").replace(faults={"dead_dies": [3]}), 8)
    leakage_w = result.metrics.area.leakage_w
    assert result.metrics.energy.by_component_pj["leakage"] == pytest.approx(3 * leakage_w * result.latency_ps)


def test_area_counts_modules_per_link_and_the_sram_that_the_strategy_was_given() -> None:
    package = Package.preset("test-chip-2x2")
    area = die_area(package, fixed(), MODEL)
    assert area.by_component_mm2["d2d"].tolist() == [2 * 3 * 1.5] * 3  # 2 neighbours, 288 GB/s in modules of 100
    assert area.by_component_mm2["sram"].tolist() == [18 * 0.5] * 3
    assert area.by_component_mm2["compute"] == pytest.approx([0.2048] * 3)
    assert area.total_mm2 == pytest.approx([9 + 9 + 0.2048 + 2] * 3)
    given = np.array([[20 << 20, 4 << 20]] * 4)
    assert die_area(package, fixed(), MODEL, given).by_component_mm2["sram"].tolist() == [12.0] * 3
    assert die_area(Package.preset("3x3"), fixed(), MODEL).by_component_mm2["d2d"].tolist() == [4 * 3 * 1.5] * 3
    assert die_area(one_die(), fixed(), MODEL).by_component_mm2["d2d"].tolist() == [0.0] * 3


def test_a_module_is_used_to_its_last_byte() -> None:
    package = Package.preset("test-chip-2x2").replace(**{"d2d.bandwidth_bytes_per_s": 200 * 10**9})
    assert die_area(package, fixed(), MODEL).by_component_mm2["d2d"][1] == 2 * 2 * 1.5
    wider = package.replace(**{"d2d.bandwidth_bytes_per_s": 200 * 10**9 + 1})
    assert die_area(wider, fixed(), MODEL).by_component_mm2["d2d"][1] == 2 * 3 * 1.5


def test_rated_power_is_every_part_at_its_full_rate() -> None:
    package = Package.preset("test-chip-2x2")
    area = die_area(package, fixed(), MODEL)
    compute = 4 * (2048 * 0.8e9 * 2.0 + 1638.4e9 * 3.0) * 1.5
    expected = (compute + 8 * 288e9 * 8 * 0.25 + 4 * 25.6e9 * 8 * 13.0) / 1e12 + 4 * area.leakage_w[1]
    assert rated_power_w(package, fixed(), MODEL, area) == pytest.approx([expected] * 3)


def test_rated_power_counts_what_works() -> None:
    faults = {
        "dead_dies": [3],
        "links": [{"dies": [0, 1], "bandwidth_bytes_per_s": 100 * 10**9}],
        "channels": [{"channel": 0, "bandwidth_bytes_per_s": 5 * 10**9}],
    }
    package = Package.preset("test-chip-2x2").replace(faults=faults)
    area = die_area(package, fixed(), MODEL)
    compute = 3 * (2048 * 0.8e9 * 2.0 + 1638.4e9 * 3.0) * 1.5
    expected = compute + 2 * (100e9 + 288e9) * 8 * 0.25 + (5e9 + 2 * 25.6e9) * 8 * 13.0
    assert rated_power_w(package, fixed(), MODEL, area) == pytest.approx([expected / 1e12 + 3 * area.leakage_w[1]] * 3)


def test_a_budget_is_checked_at_each_level() -> None:
    area = die_area(Package.preset("test-chip-2x2"), Technology.preset("5nm"), MODEL)
    assert Budget().holds(area, np.array([40.0, 50.0, 70.0])) == [True, True, False]
    assert Budget().in_words(area, np.array([40.0, 50.0, 70.0])) == (
        "30 mm2 a die and 60 W rated: kept at nominal figures, broken at high ones"
    )
    assert Budget(power_w=1.5).in_words(area, np.full(3, 2)) == (
        "30 mm2 a die and 1.5 W rated: broken at all figures of the constants"
    )
    assert Budget(area_mm2=15).holds(area, np.zeros(3)) == [True, False, False]
    with pytest.raises(ConfigError, match="the budget's power_w is 0; it must be above 0"):
        Budget(power_w=0)


def test_ranges_are_ordered_and_the_document_has_no_zero_component() -> None:
    values = run(Package.preset("test-chip-2x2"), 64, "fse-dp-paired", Technology.preset("5nm")).metrics.to_dict()
    for name in (
        "energy_pj",
        "energy_per_token_pj",
        "average_power_w",
        "peak_power_w",
        "die_area_mm2",
        "rated_power_w",
    ):
        low, nominal, high = values[name]
        assert 0 < low < nominal < high, name
    assert all(min(levels) > 0 for levels in values["energy_by_component_pj"].values())
    assert sum(levels[1] for levels in values["energy_by_component_pj"].values()) == pytest.approx(
        values["energy_pj"][1]
    )
