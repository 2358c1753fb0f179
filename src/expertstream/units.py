"""Quantities with units: parsing, formatting, and the field types of configuration classes.

GB = 1e9 bytes, GiB = 2^30 bytes, Gbit = 1e9 bits; bits are converted to bytes. A bare number is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from expertstream.errors import ConfigError

_DECIMAL: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZES: Final = {f"{p}B": Fraction(f) for p, f in (_DECIMAL | _BINARY).items()} | {
    f"{p}{b}": Fraction(f, 8) for p, f in (_DECIMAL | _BINARY).items() for b in ("b", "bit")
}
_RATES: Final = {f"{u}/s": f for u, f in _SIZES.items()} | {f"{p}bps": Fraction(f, 8) for p, f in _DECIMAL.items()}
_TIMES: Final = {
    "ps": Fraction(1),
    "ns": Fraction(10**3),
    "ms": Fraction(10**9),
    "s": Fraction(10**12),
} | dict.fromkeys(
    ("us", "\u00b5s", "\u03bcs"),
    Fraction(10**6),  # the micro sign and the Greek letter look the same
)
_FREQUENCIES: Final = {f"{p}Hz": Fraction(f) for p, f in _DECIMAL.items()}
# digits are limited: the exact value of "1e999999999 B" would take for ever
_NUMBER: Final = re.compile(r"\s*([+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,2})?)\s*([^\s\d].*?)?\s*")


def _parse(text: object, units: dict[str, Fraction], what: str, example: str) -> int:
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if (isinstance(text, (int, float)) and not isinstance(text, bool)) or (match and not match[2]):
        raise ConfigError(f"{what} {str(text).strip()} has no unit; write for example '{example}'")
    if match is None or match[2] not in units:
        given = "nothing" if text is None else repr(text)
        units_known = ", ".join(unit for unit in units if unit.isascii())
        raise ConfigError(
            f"{given} is not a {what}; write a number and a unit, for example '{example}' (units: {units_known})"
        )
    value = Fraction(match[1]) * units[match[2]]
    if value < 0:
        raise ConfigError(f"{what} '{text}' is negative; write for example '{example}'")
    if value.denominator != 1 and not (units is _TIMES or units is _FREQUENCIES):
        raise ConfigError(f"{what} '{text}' is not a whole number of bytes{'/s' if units is _RATES else ''}; round it")
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
    """Bytes with a binary prefix and up to four digits, for example "14 MiB"."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
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


def format_frequency(frequency_hz: float) -> str:
    """Hertz in MHz, for example "800 MHz"."""
    return f"{frequency_hz / 1e6:.6g} MHz"


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, for example "+1.5", "-0.2"; what rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def counted(number: int, noun: str) -> str:
    """A number of things, for example "1 pass", "2 passes", "3 activities"."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def between(low: int, high: int, show: Callable[[float], str]) -> AfterValidator:
    """Field constraint low <= value <= high; ``show`` writes the values in the message."""

    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"must be from {show(low)} to {show(high)} (given: {show(value)})")
        return value

    return AfterValidator(check)


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
