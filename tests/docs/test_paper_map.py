"""The map of the paper names what exists, every room, and every part of the paper."""

from __future__ import annotations

import re

import pytest

from docs.generate.blocks import ROOT
from expertstream.reproduce.registry import all_studies

SOURCE = ROOT / "src" / "expertstream"
TEXT = (ROOT / "docs" / "paper-map.md").read_text().split("## Sections I and II")[1]
NAMED = sorted(set(re.findall(r"`([\w/.-]+(?:\.py|\.yaml|/))`", TEXT)))


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_exists(name: str) -> None:
    place = ROOT if name.startswith("tests/") else SOURCE
    assert (place / name).exists()


def test_every_room_is_named() -> None:
    rooms = {folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").is_file()}
    assert rooms - {name.split("/")[0] for name in NAMED} == set()


def test_every_part_is_there() -> None:
    figures = [study.name.replace("fig", "Fig. ") for study in all_studies().values() if study.name.startswith("fig")]
    assert len(figures) >= 10
    parts = ["Section III", "Section IV", "Section V", "Section VI", "Algorithm 1", "Algorithm 2", "Table I", "rule 5"]
    assert [part for part in [*parts, *figures] if not re.search(rf"{part}\b", TEXT)] == []
