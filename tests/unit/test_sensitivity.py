"""What each constant does to a run's energy, area and power."""

from __future__ import annotations

import pytest

from expertstream.analysis.sensitivity import OUTPUTS, sensitivity
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.simulate import simulate
from expertstream.trace import packaged_trace


def test_each_constant_moves_what_it_is_a_factor_of() -> None:
    model, technology = MoEModel.preset("olmoe-1b-7b"), Technology.preset("5nm")
    run = simulate(model, Package.preset("test-chip-2x2"), packaged_trace(model).iteration(8, 1))
    nominal, swings = sensitivity(run.workload, run.plan, run.timeline, technology)
    assert nominal["energy_pj"] == run.metrics.energy.total_pj[1]
    assert nominal["die_area_mm2"] == run.metrics.area.total_mm2[1]
    assert nominal["rated_power_w"] == run.metrics.rated_power_w[1]
    by_name = {name: {swing.constant: swing for swing in swings[name]} for name in OUTPUTS}
    memory = technology.dram.energy
    ddr = by_name["energy_pj"]["memory.ddr3.energy"]
    assert ddr.high - ddr.low == pytest.approx(8 * run.metrics.ddr_bytes * (memory.high - memory.low))
    assert ddr.confidence == memory.confidence
    module = technology.link.module_area
    area = by_name["die_area_mm2"]["d2d.ucie-s.module_area"]
    assert area.high - area.low == pytest.approx(2 * 3 * (module.high - module.low))  # 2 links of 3 modules
    assert "memory.hbm.energy" not in by_name["energy_pj"]  # not in use
    assert "sram_read" not in by_name["die_area_mm2"]
    for name in OUTPUTS:
        widths = [abs(swing.high - swing.low) for swing in swings[name]]
        assert widths == sorted(widths, reverse=True)
        assert widths[0] > 0
