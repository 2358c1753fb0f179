"""Tools that some tests need: without them a test skips with a reason; in CI, where all are installed, it fails."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest


def needs_module(name: str, extra: str) -> None:
    """Skip (in CI: fail) unless the Python module ``name`` can be imported."""
    if find_spec(name) is None:
        _absent(f'{name} is not installed; pip install "expertstream[{extra}]"')


def needs_program(name: str, package: str) -> str:
    """Path of a program; skip (in CI: fail) where it is absent."""
    found = shutil.which(name)
    if found is None:
        _absent(f"the program {name} is absent; install the package {package}")
    return str(found)


def _absent(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (required in CI)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
