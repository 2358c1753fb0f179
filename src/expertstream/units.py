"""Quantities with units: parsing, formatting, and the field types of configuration classes.

GB = 1e9 bytes, GiB = 2^30 bytes, Gbit = 1e9 bits; bits are converted to bytes. A bare number is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Final

from pydantic import BeforeValidator, ValidationInfo

from expertstream.errors import ConfigError

_DECIMAL: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZES: Final = {f"{p}B": Fraction(f) for p, f in (_DECIMAL | _BINARY).items()} | {
    f"{p}{b}": Fraction(f, 8) for p, f in (_DECIMAL | _BINARY).items() for b in ("b", "bit")
}
_RATES: Final = {f"{u}/s": f for u, f in _SIZES.items()} | {f"{p}bps": Fraction(f, 8) for p, f in _DECIMAL.items()}
_TIMES: Final = {"ps": Fraction(1), "ns": Fraction(10**3), "us": Fraction(10**6), "µs": Fraction(10**6)} | {
    "ms": Fraction(10**9),
    "s": Fraction(10**12),
}
_FREQUENCIES: Final = {f"{p}Hz": Fraction(f) for p, f in _DECIMAL.items()}
_NUMBER: Final = re.compile(r"^\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\s\d].*?)?\s*$")


def _parse(text: object, units: dict[str, Fraction], what: str, example: str) -> int:
    match = _NUMBER.match(text) if isinstance(text, str) else None
    if isinstance(text, (int, float)) or (match and not match[2]):
        raise ConfigError(f"{what} {str(text).strip()} has no unit; write for example '{example}'")
    if match is None or match[2] not in units:
        raise ConfigError(f"'{text}' is not a {what}; write a number and a unit, for example '{example}'")
    value = Fraction(match[1]) * units[match[2]]
    if value.denominator != 1 and not (units is _TIMES or units is _FREQUENCIES):
        raise ConfigError(f"{what} '{text}' is not a whole number of bytes{'/s' if units is _RATES else ''}")
    return round(value)


def parse_bandwidth(text: object) -> int:
    """Bytes per second of a text such as "25.6 GB/s" or "204.8 Gbps". Raises ConfigError."""
    return _parse(text, _RATES, "bandwidth", "25.6 GB/s")


def parse_bytes(text: object) -> int:
    """Bytes of a text such as "14 MiB". Raises ConfigError."""
    return _parse(text, _SIZES, "size", "14 MiB")


def parse_time_ps(text: object) -> int:
    """Picoseconds of a text such as "4.02 ns", rounded to the nearest. Raises ConfigError."""
    return _parse(text, _TIMES, "time", "4.02 ns")


def parse_frequency_hz(text: object) -> int:
    """Hertz of a text such as "800 MHz", rounded to the nearest. Raises ConfigError."""
    return _parse(text, _FREQUENCIES, "frequency", "800 MHz")


def format_bytes(n_bytes: float) -> str:
    """Bytes with a binary prefix and three significant digits, for example "14.0 MiB"."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.4g} {unit}"


def format_bandwidth(bytes_per_s: float) -> str:
    """Bytes per second in GB/s, for example "25.6 GB/s"."""
    return f"{bytes_per_s / 1e9:.6g} GB/s"


def format_time(time_ps: float) -> str:
    """Picoseconds with the largest fitting unit and four digits, for example "123.4 us"."""
    value = float(time_ps)
    for unit in ("ps", "ns", "us", "ms", "s"):
        if abs(value) < 1000 or unit == "s":
            break
        value /= 1000
    return f"{value:.4g} {unit}"


def _field(parse: Callable[[object], int]) -> BeforeValidator:
    def from_text(value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) or (info.context and info.context.get("from_file")):
            try:
                return parse(value)
            except ConfigError as error:  # pydantic collects ValueErrors, with the place of the field
                raise ValueError(str(error)) from None
        return value  # from Python, an int is in the base unit

    return BeforeValidator(from_text)


Bandwidth = Annotated[int, _field(parse_bandwidth)]
ByteSize = Annotated[int, _field(parse_bytes)]
TimePs = Annotated[int, _field(parse_time_ps)]
FrequencyHz = Annotated[int, _field(parse_frequency_hz)]
