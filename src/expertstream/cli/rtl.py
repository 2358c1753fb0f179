"""``expertstream rtl``, and what other commands need of the scheduler in hardware. Needs the extra ``rtl``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from expertstream.errors import ConfigError


def rtl_schedulers() -> Any:
    """A ``hardware.cosimulation.RtlSchedulers``. Raises ConfigError without Amaranth."""
    return _hardware("cosimulation").RtlSchedulers()


def _hardware(module: str) -> Any:
    """A module of ``expertstream.hardware``; imported late, as the extra is optional and slow to load.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        return import_module(f"expertstream.hardware.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(("amaranth", "yowasp")):
            raise
        raise ConfigError('the scheduler in hardware needs Amaranth; pip install "expertstream[rtl]"') from None
