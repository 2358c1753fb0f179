"""Packages: presets, YAML of one's own, what is refused and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from expertstream.config import preset_path
from expertstream.errors import ConfigError
from expertstream.package import ChannelSpec, Package

CHIP = preset_path("package", "test-chip-2x2").read_text(encoding="utf-8")
CHANNEL_3 = "- {dies: [3], bandwidth: 25.6 GB/s"


def read(tmp_path: Path, text: str) -> Package:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    return Package.from_yaml(tmp_path / "p.yaml")


def test_the_test_chip_is_as_the_paper_says() -> None:
    chip = Package.preset("test-chip-2x2")
    assert (chip.name, chip.rows, chip.cols, chip.n_dies) == ("test-chip-2x2", 2, 2, 4)
    assert chip.die.clock_hz == 800_000_000
    assert chip.die.macs_per_cycle == 2048
    assert chip.macs_per_s == 4 * 2048 * 800_000_000
    assert chip.die.weight_buffer_bytes == 14 << 20
    assert chip.die.token_buffer_bytes == 4 << 20
    assert chip.die.sram_bandwidth_bytes_per_s == chip.die.macs_per_cycle * chip.die.clock_hz
    assert chip.die.control_overhead_cycles == 64
    assert chip.d2d.bandwidth_bytes_per_s == 288_000_000_000
    assert chip.d2d.latency_ps == 4020
    assert chip.d2d.header_bytes == 16
    assert chip.d2d.switching == "cut-through"
    assert [c.dies for c in chip.channels] == [(0,), (1,), (2,), (3,)]
    assert {(c.bandwidth_bytes_per_s, c.efficiency, c.latency_ps) for c in chip.channels} == {
        (25_600_000_000, 1.0, 50_000)
    }
    assert chip.ddr_bytes_per_s == 102_400_000_000


@pytest.mark.parametrize(
    ("name", "side", "dies"),
    [
        ("3x3", 3, [0, 2, 6, 8]),
        ("4x4", 4, [0, 3, 12, 15]),
        ("3x3-edge", 3, [0, 1, 2, 3, 5, 6, 7, 8]),
        ("4x4-edge", 4, [0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 14, 15]),
    ],
)
def test_the_larger_presets_differ_from_the_test_chip_in_size_and_channels_only(
    name: str, side: int, dies: list[int]
) -> None:
    package, chip = Package.preset(name), Package.preset("test-chip-2x2")
    assert (package.name, package.rows, package.cols) == (name, side, side)
    assert [c.dies for c in package.channels] == [(d,) for d in dies]
    assert (package.die, package.d2d) == (chip.die, chip.d2d)
    assert {c.model_copy(update={"dies": (0,)}) for c in package.channels} == {chip.channels[0]}


@pytest.mark.parametrize("name", Package.preset_names())
def test_every_value_of_a_preset_is_commented(name: str) -> None:
    lines = preset_path("package", name).read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if line.startswith("  ") and not line.startswith("  - ")]
    assert len(values) == 9
    assert all("# section VI-A" in line or "# assumption" in line for line in values)


def test_packages_are_frozen_hashable_and_equal_by_value() -> None:
    chip = Package.preset("test-chip-2x2")
    assert {chip: 1}[Package.preset("test-chip-2x2")] == 1
    with pytest.raises(ValidationError, match="frozen"):
        chip.rows = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rows: 2", "rows: 0", "5:1: rows: must be from 1 to 16 (given: 0)"),
        ("cols: 2", "cols: 17", "6:1: cols: must be from 1 to 16 (given: 17)"),
        ('source: "', "source: 3 #", "4:1: source: input should be a valid string (given: 3)"),
        (
            "clock: 800",
            "clokc: 800",
            "8:3: unknown key 'clokc'; did you mean 'clock'? Known keys: clock, macs_per_cycle, weight_buffer, "
            "token_buffer, sram_bandwidth, control_overhead_cycles, array, array_rows, array_cols\n"
            "{}:7:1: key 'die.clock' is missing",
        ),
        (
            CHANNEL_3,
            "- {dies: [3], bandwidth: 25.6",
            "22:17: channels.3.bandwidth: bandwidth 25.6 has no unit; write for example '25.6 GB/s'",
        ),
        (
            CHANNEL_3,
            "- {dies: [3], bandwidth: -25.6 GB/s",
            "22:17: channels.3.bandwidth: bandwidth '-25.6 GB/s' is negative; write for example '25.6 GB/s'",
        ),
        (
            CHANNEL_3,
            "- {dies: [3], bandwidth: 0 GB/s",
            "22:17: channels.3.bandwidth: must be from 0.001 GB/s to 9000 GB/s (given: 0 GB/s)",
        ),
        (
            CHANNEL_3,
            "- {dies: [4], bandwidth: 25.6 GB/s",
            "22:6: channels.3.dies: DDR channel 3 is attached to die 4, but the 2 x 2 package has dies 0 to 3",
        ),
        (CHANNEL_3, "- {dies: [3, 3], bandwidth: 25.6 GB/s", "22:6: channels.3.dies: die 3 is listed twice"),
        (CHANNEL_3, "- {dies: [], bandwidth: 25.6 GB/s", "22:6: channels.3.dies: needs at least 1 item"),
        (
            "weight_buffer: 14 MiB",
            "weight_buffer: 0 B",
            "10:3: die.weight_buffer: must be from 1 B to 1024 TiB (given: 0 B)",
        ),
        (
            "latency: 4.02 ns",
            "latency: 4.02 fs",
            "16:3: d2d.latency: '4.02 fs' is not a time; write a number and a unit, for example '4.02 ns' "
            "(units: ps, ns, ms, s, us)",
        ),
        (
            "  header: 16 B",
            "  switching: wormhole",
            "17:3: d2d.switching: input should be 'cut-through' or 'store-and-forward' (given: 'wormhole')",
        ),
        (
            "  control_overhead_cycles",
            "  array: weight-stationary\n  control_overhead_cycles",
            "13:3: die.array: array_rows x array_cols is 0 x 0; a weight-stationary array must have "
            "macs_per_cycle = 2048 cells",
        ),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert CHIP.count(old) == 1
    with pytest.raises(ConfigError) as error:
        read(tmp_path, CHIP.replace(old, new))
    path = tmp_path / "p.yaml"
    assert str(error.value) == f"{path}:{message.format(path)}"


@pytest.mark.parametrize("efficiency", ["0", "1.01", "-0.5", ".nan", ".inf"])
def test_efficiency_is_a_share(tmp_path: Path, efficiency: str) -> None:
    text = CHIP.replace(CHANNEL_3 + ", efficiency: 1.0", CHANNEL_3 + f", efficiency: {efficiency}")
    with pytest.raises(ConfigError, match=r"p\.yaml:22:39: channels\.3\.efficiency: input should be "):
        read(tmp_path, text)


def test_efficiency_must_leave_some_bandwidth(tmp_path: Path) -> None:
    text = CHIP.replace(CHANNEL_3 + ", efficiency: 1.0", CHANNEL_3 + ", efficiency: 1e-9")
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert str(error.value) == (
        f"{tmp_path / 'p.yaml'}:22:39: channels.3.efficiency: 1e-09 of 25.6 GB/s leaves less than 0.001 GB/s; "
        "efficiency is a share of the peak, such as 0.8"
    )


def test_efficiency_counts_in_the_bandwidth() -> None:
    chip = Package.preset("test-chip-2x2")
    slow = chip.replace(channels=[c.model_copy(update={"efficiency": 0.7}) for c in chip.channels])
    assert [c.effective_bytes_per_s for c in slow.channels] == [17_920_000_000] * 4
    assert slow.ddr_bytes_per_s == 71_680_000_000


def test_a_package_without_channels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"p\.yaml:18:1: channels: needs at least 1 item$"):
        read(tmp_path, CHIP.split("channels:")[0] + "channels: []\n")


def test_a_package_of_ones_own(tmp_path: Path) -> None:
    text = """\
name: mine
rows: 1
cols: 2
die: {clock: 1 GHz, macs_per_cycle: 16, weight_buffer: 1 MB, token_buffer: 64 KiB, sram_bandwidth: 128 Gbps}
d2d: {bandwidth: 8 Gbit/s, latency: 0 ps}
channels:
  - {dies: [0, 1], bandwidth: 10 GB/s, efficiency: 0.5}
"""
    mine = read(tmp_path, text)
    assert mine.die.sram_bandwidth_bytes_per_s == 16 * 10**9
    assert mine.d2d.bandwidth_bytes_per_s == 10**9
    assert mine.d2d.header_bytes == 16
    assert mine.channels == (ChannelSpec(dies=(0, 1), bandwidth_bytes_per_s=10**10, efficiency=0.5, latency_ps=50_000),)
    assert mine.ddr_bytes_per_s == 5 * 10**9


def test_a_one_die_package_is_allowed() -> None:
    chip = Package.preset("test-chip-2x2")
    assert chip.replace(rows=1, cols=1, channels=chip.channels[:1]).n_dies == 1


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError) as error:
        Package.preset("test-chip-2x3")
    assert str(error.value) == (
        "unknown package preset 'test-chip-2x3'; did you mean 'test-chip-2x2'? "
        "Available: 3x3, 3x3-edge, 4x4, 4x4-edge, test-chip-2x2"
    )


def test_replace() -> None:
    chip = Package.preset("test-chip-2x2")
    other = chip.replace(**{"die.weight_buffer_bytes": 8 << 20, "d2d.latency_ps": "1 ns", "name": "other"})
    assert other.die.weight_buffer_bytes == 8 << 20
    assert other.d2d.latency_ps == 1000
    assert other.name == "other"
    assert chip.die.weight_buffer_bytes == 14 << 20
    assert chip.replace() == chip


KNOWN = (
    "Known: name, source, rows, cols, die, d2d, channels, faults, die.clock_hz, die.macs_per_cycle, "
    "die.weight_buffer_bytes, die.token_buffer_bytes, die.sram_bandwidth_bytes_per_s, die.control_overhead_cycles, "
    "die.array, die.array_rows, die.array_cols, d2d.bandwidth_bytes_per_s, d2d.latency_ps, d2d.header_bytes, "
    "d2d.switching"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"die.weight_bufer_bytes": 1},
            f"a package has no 'die.weight_bufer_bytes'; did you mean 'die.weight_buffer_bytes'? {KNOWN}",
        ),
        ({"zzzz": 1}, f"a package has no 'zzzz'. {KNOWN}"),
        ({"die.array.x": 1}, f"a package has no 'die.array.x'; did you mean 'die.array'? {KNOWN}"),
        (
            {"die.weight_buffer_bytes": -1},
            "package test-chip-2x2: die.weight_buffer_bytes: must be from 1 B to 1024 TiB (given: -1 B)",
        ),
        (
            {"d2d.latency_ps": "4"},
            "package test-chip-2x2: d2d.latency_ps: time 4 has no unit; write for example '4.02 ns'",
        ),
        (
            {"rows": 1},
            "package test-chip-2x2: channels.2.dies: DDR channel 2 is attached to die 2, but the 1 x 2 package has "
            "dies 0 to 1",
        ),
    ],
)
def test_mistakes_in_replace(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Package.preset("test-chip-2x2").replace(**changes)
    assert str(error.value) == message


def test_summary() -> None:
    assert Package.preset("test-chip-2x2").summary() == (
        "test-chip-2x2: 2 x 2 dies (Expert Streaming test chip, section VI-A)\n"
        "  die: 2048 MACs x 800 MHz (mac-array), 14 MiB weights + 4 MiB tokens, SRAM 1638.4 GB/s, "
        "64 cycles per micro-slice\n"
        "  D2D: 288 GB/s per directed link, 4.02 ns, 16 B header, cut-through\n"
        "  DDR channel 0: die 0, 25.6 GB/s x 1, 50 ns\n"
        "  DDR channel 1: die 1, 25.6 GB/s x 1, 50 ns\n"
        "  DDR channel 2: die 2, 25.6 GB/s x 1, 50 ns\n"
        "  DDR channel 3: die 3, 25.6 GB/s x 1, 50 ns"
    )


def test_summary_without_a_source_still_gives_the_size() -> None:
    chip = Package.preset("test-chip-2x2").replace(source="")
    assert chip.summary().splitlines()[0] == "test-chip-2x2: 2 x 2 dies"
