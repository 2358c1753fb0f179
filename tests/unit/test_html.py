"""The HTML report as a file: whole or not at all, the same bytes, complete data, legible colours."""

from __future__ import annotations

import base64
import json
import re
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from expertstream.analysis import occupancy
from expertstream.comparison import Comparison, compare
from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.report.html import page
from expertstream.report.html.charts import histogram
from expertstream.simulate import Result, simulate
from expertstream.trace import synthesize
from expertstream.units import format_time

MODEL = MoEModel.one_layer(d_model=128, d_ffn=192, n_experts=8, top_k=2, n_shared_experts=1, shared_d_ffn=96)
TRACE = synthesize(MODEL, requests=2, tokens_per_request=12, layers=[0], seed=3)
CHIP = Package.preset("test-chip-2x2")


def result_of(strategy: str = "fse-dp-paired") -> Result:
    return simulate(MODEL, CHIP, TRACE.iteration(tokens=20, layer=0), strategy)


def test_axes_of_a_histogram_of_one_value_do_not_repeat_themselves() -> None:
    text = histogram("time", [168_400_000_000, 168_400_000_001], [1], format_time)
    assert re.findall(r"<text[^>]*>([^<]*)</text>", text) == ["0", "1", "168.4 ms"]


def columns_of(file: Path, number: int = 0) -> dict[str, np.ndarray]:
    """What the page's scripts unpack."""
    text = file.read_text()

    def script(name: str) -> str:
        found = re.search(rf'<script type="[^"]*" id="{name}-{number}">(.*?)</script>', text, re.S)
        assert found
        return found[1]

    about = json.loads(script("about"))
    block = np.frombuffer(zlib.decompress(base64.b64decode(script("data"))), dtype=np.uint8)
    assert block.size == about["size"]
    out, at = {}, 0
    for column in about["columns"]:
        n, width = column["length"], column["width"]
        planes = block[at : at + n * width].reshape(width, n).astype(np.int64)
        values = (planes << (8 * np.arange(width))[:, None]).sum(axis=0)
        out[column["name"]] = np.cumsum(values) if column["differences"] else values
        at += n * width
    assert at == block.size
    return out


@pytest.mark.parametrize("strategy", ["ep", "tp", "fse-dp-paired"])
def test_the_packed_columns_are_the_timeline(strategy: str, tmp_path: Path) -> None:
    result = result_of(strategy)
    result.to_html(tmp_path / "run.html")
    columns, timeline = columns_of(tmp_path / "run.html"), result.timeline
    for name, expected in (
        ("start", timeline.start_ps),
        ("busy", timeline.end_ps - timeline.start_ps),
        ("kind", timeline.kind),
        ("resource", timeline.resource),
        ("die", timeline.die),
        ("source", timeline.source + 1),
        ("chunk", timeline.chunk),
        ("tokens", timeline.tokens),
    ):
        assert columns[name].tolist() == expected.tolist(), name
    moved = timeline.kind != 2
    assert columns["chunkBytes"][columns["chunk"]][moved].tolist() == timeline.bytes[moved].tolist()
    tag = columns["chunkSlice"][columns["chunk"]] - 1
    expert = np.where(tag >= 0, columns["sliceExpert"][tag], -1)
    assert expert.tolist() == result.expert.tolist()
    ends = np.cumsum(columns["levelCount"])
    for number, (end, n) in enumerate(zip(ends, columns["levelCount"], strict=True)):
        times, held = occupancy(timeline, number // 2, number % 2)
        assert np.cumsum(columns["levelTime"][end - n : end]).tolist() == times.tolist()
        assert columns["levelBytes"][end - n : end].tolist() == held.tolist()


def test_same_run_same_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        result_of().to_html(tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_nothing_is_referred_to(tmp_path: Path) -> None:
    result_of().to_html(tmp_path / "run.html")
    text = (tmp_path / "run.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"^(import|export) ", text, re.M)


def test_a_comparison_without_a_way_to_run_again_is_a_table(tmp_path: Path) -> None:
    found = compare(MODEL, CHIP, TRACE, tokens=[4, 8], strategies=["ep", "tp"])
    Comparison(found.baseline, found.rows).to_html(tmp_path / "table.html")
    text = (tmp_path / "table.html").read_text()
    assert text.count("<tr class=") == 4
    assert "<article" not in text
    found.to_html(tmp_path / "whole.html")
    assert (tmp_path / "whole.html").read_text().count("<article") == 2


def test_what_would_be_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare(MODEL, CHIP, TRACE, tokens=[20], strategies=["ep", "tp"])
    assert found.rerun
    monkeypatch.setattr(page, "MAX_ACTIVITIES", len(found.rerun(found.rows[0]).timeline) + 1)
    found.to_html(tmp_path / "one.html")
    text = (tmp_path / "one.html").read_text()
    assert text.count("<article") == 1
    assert "Not in detail, because the page would become too large: tp." in text


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is nothing to report: the comparison has no rows"):
        Comparison("ep", ()).to_html(tmp_path / "none.html")
    assert list(tmp_path.iterdir()) == []


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        result_of().to_html(tmp_path / "none" / "run.html")


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.html"
    path.write_text("old")

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "_script", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result_of().to_html(path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.html"]
    assert path.read_text() == "old"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_from_their_ground() -> None:
    css = files("expertstream.report.html").joinpath("page.css").read_text()
    themes = [dict(re.findall(r"--(\w+(?:-\w+)?): (#\w{6});", block)) for block in re.findall(r"\{[^{}]*\}", css)]
    themes = [theme for theme in themes if "surface" in theme]
    assert len(themes) == 3  # light, dark by preference, dark by choice
    assert themes[1] == themes[2]
    for theme in themes:
        for ground in ("surface", "panel"):
            assert contrast(theme["text"], theme[ground]) >= 7
            assert contrast(theme["muted"], theme[ground]) >= 4.5
            for ink in ("compute", "load", "send", "receive", "accent", "space", "other", "focus"):
                assert contrast(theme[ink], theme[ground]) >= 3, ink
        assert contrast(theme["surface"], theme["compute"]) >= 4.5  # text on buttons
