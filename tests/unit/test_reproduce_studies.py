"""Every study on a tiny setting: rows, a figure, a claim with its verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import csv

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


def test_an_estimate_of_whole_iterations_is_called_one(tmp_path: Path) -> None:
    study, few = all_studies()["fig14"], Setting(seeds=1, layers=2, tokens=(16,))
    outcome = reproduce([study], tmp_path, few, make_executor("serial"))[0]
    estimate = " (estimate: 3 iterations, experts of every 48th MoE layer)"
    assert all(claim.ours.endswith(estimate) for claim in outcome.claims)
    about = json.loads((tmp_path / "fig14.json").read_text())
    assert (about["seeds"], about["layers_per_seed"]) == (1, "of whole iterations every 48th MoE layer")
    rows = csv.read_csv(tmp_path / "fig14.csv").to_pylist()
    assert all(0 < row["decode_percent"] < 100 for row in rows)
    whole = study.claims([row | {"every": 1} for row in rows])
    assert [claim.ours + estimate for claim in whole] == [claim.ours for claim in outcome.claims]
