"""What the how-to pages show can be loaded and run."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import expertstream as es
from docs.generate.blocks import ROOT
from expertstream.engine.work import Work
from tests.property.cases import routing_of


def block(page: str, kind: str, begin: str = "") -> str:
    found = re.search(rf"^```{kind}\n({begin}.*?)^```$", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)
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


@pytest.mark.parametrize(("package", "tokens"), [("test-chip-2x2", 5), ("test-chip-2x2", 300), ("3x3", 600)])
def test_the_strategy(package: str, tokens: int, tmp_path: Path) -> None:
    file = tmp_path / "tour.py"
    file.write_text(block("extending.md", "python", "from itertools"))
    model = es.MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2, n_shared_experts=1, shared_d_ffn=32)
    small = es.Package.preset(package).replace(**{"die.token_buffer_bytes": 2**14, "die.weight_buffer_bytes": 2**14})
    result = es.simulate(model, small, routing_of(model, tokens, 1.0, 0), strategy=f"{file}:Tour")
    assert result.prove() < 1e-10
    assert (result.plan.passes > 1) == (tokens > 5)


def test_every_argument_of_add_chunks_is_explained() -> None:
    page = (ROOT / "docs/extending.md").read_text()
    rows = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert [name for name in inspect.signature(Work.add_chunks).parameters if f"`{name}`" not in rows] == ["self"]
