"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_traces() -> Path:
    """Folder of captures of real models; EXPERTSTREAM_TRACES names it, beside the repository by default."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "traces"
    folder = Path(os.environ.get("EXPERTSTREAM_TRACES", beside))
    if not any(folder.glob("*.npz")):
        pytest.skip(f"no captures (*.npz) in {folder}; set EXPERTSTREAM_TRACES to their folder")
    return folder
