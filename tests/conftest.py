"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.needs import needs_module, needs_program

if TYPE_CHECKING:
    from playwright.sync_api import Browser


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background: programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_traces() -> Path:
    """Folder of captures of real models; EXPERTSTREAM_TRACES names it, beside the repository by default."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "traces"
    folder = Path(os.environ.get("EXPERTSTREAM_TRACES", beside))
    if not any(folder.glob("*.npz")):
        pytest.skip(f"no captures (*.npz) in {folder}; set EXPERTSTREAM_TRACES to their folder")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    needs_module("playwright", "dev")
    chromium = needs_program("chromium", "chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
