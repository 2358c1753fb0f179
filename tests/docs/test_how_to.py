"""What the how-to pages show can be loaded and run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import expertstream as es
from docs.generate.blocks import ROOT


def block(page: str, kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def test_the_model(tmp_path: Path) -> None:
    file = tmp_path / "my-model.yaml"
    file.write_text(block("how-to/model.md", "yaml"))
    assert es.MoEModel.from_yaml(file).moe_layers[0] == 1


def test_the_channel_that_dies_share(tmp_path: Path) -> None:
    file = tmp_path / "my-package.yaml"
    preset = (ROOT / "src/expertstream/package/presets/test-chip-2x2.yaml").read_text()
    file.write_text(preset[: preset.index("channels:")] + block("how-to/package.md", "yaml"))
    assert es.Package.from_yaml(file).channels[0].dies == (0, 1, 2, 3)


def test_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("my-recording.npy", np.argsort(np.random.default_rng(0).random((20, 3, 64)), axis=2)[:, :, :4])
    exec(compile(block("how-to/trace-format.md", "python"), "trace-format", "exec"), {})
    trace = es.RoutingTrace.load("my-trace.parquet")
    assert trace.iteration(tokens=16, layer=2).experts.shape == (16, 4)


def test_the_constant() -> None:
    profile = (ROOT / "src/expertstream/package/technology/presets/5nm.yaml").read_text()
    shown = block("how-to/technology.md", "yaml")
    assert shown[: shown.index("source")] in profile
    assert es.Technology.preset("5nm").replace(sram_read=2.0).sram_read.high == 2.0
