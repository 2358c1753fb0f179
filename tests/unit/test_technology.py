"""Technology profiles: what they must say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from expertstream.errors import ConfigError
from expertstream.package.technology import Technology
from expertstream.package.technology.technology import UNITS, unit_key

PRESET = Path(__file__).parents[2] / "src/expertstream/package/technology/presets/5nm.yaml"


@pytest.mark.parametrize("name", Technology.preset_names())
def test_every_constant_has_a_unit_a_node_a_source_and_a_range(name: str) -> None:
    constants = dict(Technology.preset(name).constants())
    assert {unit_key(path) for path in constants} == set(UNITS)
    for path, constant in constants.items():
        assert constant.low <= constant.value <= constant.high, path
        assert constant.value > 0, path
        assert constant.unit == UNITS[unit_key(path)]
        assert constant.node
        assert constant.source
        if constant.source.startswith("assumption"):
            assert constant.confidence == "low", path
        if constant.confidence == "low":  # a guess without a range would look like a fact
            assert constant.low < constant.high or path.endswith("module_bandwidth")


def test_the_presets_know_the_interfaces_and_memories_of_the_field() -> None:
    for name in ("5nm", "28nm"):
        technology = Technology.preset(name)
        assert set(technology.d2d) == {"ucie-s", "ucie-a"}
        assert set(technology.memory) == {"ddr3", "ddr4", "lpddr5", "hbm"}
    assert Technology.preset("5nm").d2d["ucie-s"].energy.value == 0.52  # paper, section VI
    assert Technology.preset("5nm").d2d["ucie-a"].energy.value == 0.29


def test_int8_and_fp16_macs_are_told_apart_by_the_wider_operand() -> None:
    technology = Technology.preset("5nm")
    assert technology.mac(8, 8) is technology.mac_int8
    assert technology.mac(4, 8) is technology.mac_int8
    assert technology.mac(8, 16) is technology.mac_fp16
    assert technology.mac_area(8, 16) is technology.mac_fp16_area


def test_replace_fixes_a_constant_and_changes_the_kinds() -> None:
    technology = Technology.preset("5nm").replace(**{"d2d.ucie-a.energy": 1.0}, d2d_kind="ucie-a", memory_kind="hbm")
    assert technology.link.energy.levels.tolist() == [1.0, 1.0, 1.0]
    assert technology.dram is technology.memory["hbm"]
    assert Technology.preset("5nm").link.energy.value == 0.52  # the preset itself stays


def _edited(tmp_path: Path, old: str, new: str) -> Path:
    text = PRESET.read_text()
    assert old in text
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(old, new, 1))
    return file


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    file = _edited(tmp_path, "name: 5nm", "name: mine")
    assert Technology.from_yaml(file).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("low: 0.05, value: 0.075", "low: 0.5, value: 0.075", "must be in ascending order"),
        ("unit: pJ/MAC", "unit: fJ/MAC", "mac_int8.unit: unit is 'fJ/MAC'; it must be 'pJ/MAC'"),
        ("d2d_kind: ucie-s", "d2d_kind: ucie-x", "d2d_kind: 'ucie-x' is none of: ucie-s, ucie-a; did you mean"),
        (", unit: pJ/MAC", "", "key 'mac_int8.unit' is missing"),
        ("sram_read:", "sram_raed:", "unknown key 'sram_raed'; did you mean 'sram_read'?"),
        ("confidence: medium", "confidence: sure", "mac_int8.confidence: input should be 'high', 'medium' or 'low'"),
    ],
)
def test_bad_profiles_are_refused_with_their_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = _edited(tmp_path, old, new)
    with pytest.raises(ConfigError) as caught:
        Technology.from_yaml(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{file}:")


def test_an_unknown_preset_and_an_unknown_constant() -> None:
    with pytest.raises(ConfigError, match="unknown technology preset '5mn'; did you mean '5nm'"):
        Technology.preset("5mn")
    with pytest.raises(ConfigError, match="a technology has no 'sram_rad'; did you mean 'sram_read'"):
        Technology.preset("5nm").replace(sram_rad=1.0)
