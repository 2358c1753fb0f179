"""Every study on a tiny setting: rows, a figure, a claim with its verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expertstream.explore import make_executor
from expertstream.reproduce import Setting, all_studies, reproduce

TINY = Setting(seeds=2, layers=2, tokens=(16, 64))


@pytest.mark.parametrize("name", all_studies())
def test_a_study_runs_and_judges_its_claims(name: str, tmp_path: Path) -> None:
    study = all_studies()[name]
    assert study.title
    assert study.assumptions
    outcome = reproduce([study], tmp_path, TINY, make_executor("serial"))[0]
    assert outcome.claims
    assert len((tmp_path / f"{name}.csv").read_text().splitlines()) > 1
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    about = json.loads((tmp_path / f"{name}.json").read_text())
    assert [claim["claimed"] for claim in about["claims"]] == [claim.claimed for claim in outcome.claims]
