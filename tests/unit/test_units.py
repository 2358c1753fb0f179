"""Quantities with units: exact values, whole messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from expertstream.errors import ConfigError
from expertstream.units import (
    Bandwidth,
    ByteSize,
    FrequencyHz,
    TimePs,
    counted,
    format_bandwidth,
    format_bytes,
    format_frequency,
    format_time,
    parse_bandwidth,
    parse_bytes,
    parse_frequency_hz,
    parse_time_ps,
    signed,
)

TIME_UNITS = "ps, ns, ms, s, us"
FREQUENCY_UNITS = "Hz, kHz, MHz, GHz, THz"


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("25.6 GB/s", 25_600_000_000),
        ("25.6GB/s", 25_600_000_000),
        ("  288 GB/s ", 288_000_000_000),
        ("1 GiB/s", 2**30),
        ("1638.4 GB/s", 1_638_400_000_000),
        ("204.8 Gbps", 25_600_000_000),
        ("204.8 Gbit/s", 25_600_000_000),
        ("204.8 Gb/s", 25_600_000_000),
        ("8 Kibit/s", 1024),
        ("1e3 kB/s", 10**6),
        ("0.1 TB/s", 10**11),
        (".5 MB/s", 500_000),
        ("+3. B/s", 3),
    ],
)
def test_bandwidth(text: str, bytes_per_s: int) -> None:
    assert parse_bandwidth(text) == bytes_per_s


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("14 MiB", 14 << 20),
        ("14 MB", 14_000_000),
        ("1.5 KiB", 1536),
        ("16 B", 16),
        ("8 bit", 1),
        ("8 Kib", 1024),
        ("1 Mbit", 125_000),
        ("1 Mibit", 131_072),
        ("0 B", 0),
        ("2 TiB", 2 << 40),
    ],
)
def test_bytes_and_bits_are_kept_apart(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    ("text", "time_ps"),
    [
        ("4.02 ns", 4020),
        ("50 ns", 50_000),
        ("1 us", 10**6),
        ("1 \u00b5s", 10**6),
        ("1 \u03bcs", 10**6),
        ("2 ms", 2 * 10**9),
        ("1 s", 10**12),
        ("0.4 ps", 0),
        ("0.6 ps", 1),
    ],
)
def test_time_is_rounded_to_picoseconds(text: str, time_ps: int) -> None:
    assert parse_time_ps(text) == time_ps


def test_frequency() -> None:
    assert parse_frequency_hz("800 MHz") == 800_000_000
    assert parse_frequency_hz("1.2 GHz") == 1_200_000_000
    assert parse_frequency_hz("33.3333333 Hz") == 33


@pytest.mark.parametrize("value", [25.6, "25.6", " 25.6 "])
def test_a_bare_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError) as error:
        parse_bandwidth(value)
    assert str(error.value) == "bandwidth 25.6 has no unit; write for example '25.6 GB/s'"


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_bytes, "14", "size 14 has no unit; write for example '14 MiB'"),
        (parse_time_ps, "4.02", "time 4.02 has no unit; write for example '4.02 ns'"),
        (parse_frequency_hz, 800, "frequency 800 has no unit; write for example '800 MHz'"),
        (parse_bandwidth, "-1 GB/s", "bandwidth '-1 GB/s' is negative; write for example '25.6 GB/s'"),
        (parse_bytes, "0.3 B", "size '0.3 B' is not a whole number of bytes; round it"),
        (parse_bandwidth, "1 bit/s", "bandwidth '1 bit/s' is not a whole number of bytes/s; round it"),
        (
            parse_frequency_hz,
            "fast",
            f"'fast' is not a frequency; write a number and a unit, for example '800 MHz' (units: {FREQUENCY_UNITS})",
        ),
        (
            parse_frequency_hz,
            True,
            f"True is not a frequency; write a number and a unit, for example '800 MHz' (units: {FREQUENCY_UNITS})",
        ),
        (
            parse_time_ps,
            None,
            f"nothing is not a time; write a number and a unit, for example '4.02 ns' (units: {TIME_UNITS})",
        ),
        (
            parse_time_ps,
            "4 NS",
            f"'4 NS' is not a time; write a number and a unit, for example '4.02 ns' (units: {TIME_UNITS})",
        ),
    ],
)
def test_messages(parse: Any, text: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "text", ["14 KB", "14 mib", "1 2 MiB", "nan MB", "inf B", "", "MiB", "1e999999999 B", "9" * 5000]
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size; write a number and a unit, for example '14 MiB'"):
        parse_bytes(text)


def test_a_bandwidth_is_not_a_size() -> None:
    with pytest.raises(ConfigError, match=r"^'14 MiB/s' is not a size;"):
        parse_bytes("14 MiB/s")
    with pytest.raises(ConfigError, match=r"^'14 MiB' is not a bandwidth;"):
        parse_bandwidth("14 MiB")


def test_formats() -> None:
    assert format_bytes(14 << 20) == "14 MiB"
    assert format_bytes(1000) == "1000 B"
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(3 << 40) == "3 TiB"
    assert format_bandwidth(25_600_000_000) == "25.6 GB/s"
    assert format_bandwidth(1_638_400_000_000) == "1638.4 GB/s"
    assert format_frequency(800_000_000) == "800 MHz"
    assert format_time(4020) == "4.02 ns"
    assert format_time(123_400_000) == "123.4 us"
    assert format_time(0) == "0 ps"
    assert format_time(25 * 10**11) == "2.5 s"


def test_things_are_counted_in_words() -> None:
    assert [counted(n, "die") for n in (0, 1, 2)] == ["0 dies", "1 die", "2 dies"]
    assert [counted(n, "pass") for n in (0, 1, 2)] == ["0 passes", "1 pass", "2 passes"]
    assert [counted(n, "activity") for n in (0, 1, 2)] == ["0 activities", "1 activity", "2 activities"]
    assert counted(2, "array") == "2 arrays"


def test_differences_have_a_sign_unless_they_round_to_zero() -> None:
    assert [signed(value) for value in (1.25, -0.06, 0.04, -0.04, 0.0, -0.0)] == ["+1.2", "-0.1", *["0.0"] * 4]
    assert [signed(value, 0) for value in (-0.4, 2.0)] == ["0", "+2"]
    assert signed(0.0004, 3) == "0.000"


@given(st.integers(0, 10**15))
def test_a_written_quantity_is_read_back(value: int) -> None:
    assert parse_bytes(f"{value} B") == value
    assert parse_bandwidth(f"{value} B/s") == value
    assert parse_time_ps(f"{value} ps") == value
    assert parse_frequency_hz(f"{value} Hz") == value
    assert parse_bytes(f"{8 * value} bit") == value


class Quantities(BaseModel):
    bandwidth: Bandwidth = 0
    size: ByteSize = 0
    time: TimePs = 0
    frequency: FrequencyHz = 0


def test_fields_take_text_and_base_units() -> None:
    read = Quantities.model_validate(
        {"bandwidth": "1 GB/s", "size": "1 KiB", "time": "1 ns", "frequency": "1 kHz"}, context={"from_file": True}
    )
    assert read == Quantities(bandwidth=10**9, size=1024, time=1000, frequency=1000)


def test_a_bare_number_is_refused_only_from_a_file() -> None:
    assert Quantities(size=4096).size == 4096
    with pytest.raises(ValidationError, match="size 4096 has no unit; write for example '14 MiB'"):
        Quantities.model_validate({"size": 4096}, context={"from_file": True})
