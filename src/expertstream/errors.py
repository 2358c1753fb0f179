"""Errors that a user can act on. Every message says what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral


class ExpertStreamError(Exception):
    """Base of all errors that are the input's fault; the command line prints the message and exits with 2."""

    exit_code = 2


class ConfigError(ExpertStreamError):
    """A model, package or option is wrong or unknown."""


class TraceError(ExpertStreamError):
    """A routing trace is missing, damaged, or does not fit the model."""


class TooFewTokensError(TraceError):
    """A trace, or the requests of it that may be used, has fewer tokens than were asked for."""


class WorkloadError(ExpertStreamError):
    """A layer's work cannot be built or cannot run on the package as asked."""


class BufferTooSmallError(WorkloadError):
    """A buffer is below the smallest workable size."""


class SimulationStuckError(ExpertStreamError):
    """No event is left but work is: says which chunks wait for what."""


class WorkerError(ExpertStreamError):
    """Workers gave too few or too many rows; those that came are safe."""


def nearest(name: object, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the allowed name nearest to ``name``, or an empty string."""
    match = difflib.get_close_matches(str(name).lower(), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def check_whole(name: str, value: object, least: int | None = None) -> None:
    """Raise ConfigError unless ``value``, the argument ``name``, is a whole number (true and false are none).

    Args:
        least: the least that is allowed.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; a whole number is needed")
    if least is not None and value < least:
        raise ConfigError(f"{name} is {value}; it must be at least {least}")
