"""Charts of comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expertstream.errors import ConfigError
from expertstream.report.chart import write_chart

ROWS: list[dict[str, Any]] = [
    {"tokens": tokens, "strategy": strategy, "gap": gap}
    for tokens in (16, 64)
    for strategy, gap in (("ep", 1.2), ("tp", 1.01), ("none", None))
]


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
