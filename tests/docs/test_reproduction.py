"""docs/figures has the tables that ``expertstream reproduce`` gives now: a sample of each is run again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from docs.generate.reproduction import studies, table_of
from expertstream.reproduce import Setting, Study
from expertstream.reproduce.run import measured
from expertstream.reproduce.study import Point, Row

SAME = ("model", "tokens", "package", "changes", "options")
# To run everything takes minutes, and a slightly different schedule changes nothing that the page says: half a per cent
# may pass. Intervals move more, and single activities (fig13) by as much as the layer's latency.
TOLERANCE, OF_INTERVALS, SINGLE = 5e-3, 0.1, ("start_us", "end_us")


def _sample(points: Sequence[Point]) -> list[Point]:
    """The points that are like the first but for its strategy, layer and seed."""
    return [point for point in points if all(point.get(name) == points[0].get(name) for name in SAME)]


def _same(name: str, a: object, b: object) -> bool:
    if name in SINGLE or not (isinstance(a, float) or isinstance(b, float)):
        return name in SINGLE or a == b
    tolerance = OF_INTERVALS if name.endswith("_half_interval") else TOLERANCE
    return a is not None and b is not None and a == pytest.approx(b, rel=tolerance, abs=tolerance)


def _is_kept(row: Row, kept: Sequence[Row]) -> bool:
    return any(all(_same(name, value, other.get(name)) for name, value in row.items()) for other in kept)


@pytest.mark.parametrize("study", studies(), ids=[study.name for study in studies()])
def test_a_sample_of_a_kept_table_is_what_runs_give_now(study: Study) -> None:
    rows = study.table(measured(study, _sample(study.points(Setting()))))
    kept = table_of(study)
    assert rows
    assert [row for row in rows if not _is_kept(row, kept)] == [], (
        "make numbers runs all studies again; say in CHANGELOG.md why numbers moved"
    )


def test_the_figures_of_the_paper_are_kept() -> None:
    wanted = {f"fig{number}" for number in (2, 9, 11, 12, 13, 14, 15, 16, 17, 18)}
    assert wanted <= {study.name for study in studies()}
