"""Files appear whole or not at all; charts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from expertstream.errors import ConfigError
from expertstream.report.chart import write_chart
from expertstream.report.files import check_writable, replacing, to_json, write_json

ROWS: list[dict[str, Any]] = [
    {"tokens": tokens, "strategy": strategy, "gap": gap}
    for tokens in (16, 64)
    for strategy, gap in (("ep", 1.2), ("tp", 1.01), ("none", None))
]


def test_json_has_no_nan() -> None:
    assert json.loads(to_json({"a": [float("nan"), float("inf"), 1.5], "b": (1, None)})) == {
        "a": [None, None, 1.5],
        "b": [1, None],
    }


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    write_json([1], path)
    assert path.read_text() == "[\n  1\n]\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    write_json([1], tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "a.json").read_text()) == [1]


def test_a_device_is_not_replaced() -> None:
    write_json([1], os.devnull)
    assert Path(os.devnull).is_char_device()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it is a folder; give the name of a file$"):
        check_writable(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no folder '.*none'; create it first$"):
        check_writable(tmp_path / "none" / "a.json")


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_charts(name: str, start: bytes, tmp_path: Path) -> None:
    write_chart(ROWS, tmp_path / name, title="SYNTHETIC " * 20)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(start)
    write_chart(ROWS, tmp_path / name, title="SYNTHETIC " * 20)
    assert (tmp_path / name).read_bytes() == first


def test_bad_charts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it must end in one of: \.png, \.svg, \.pdf$"):
        write_chart(ROWS, tmp_path / "a.gif", title="")
    with pytest.raises(ConfigError, match="nothing to draw"):
        write_chart([], tmp_path / "a.png", title="")
