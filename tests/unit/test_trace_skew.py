"""Popularity and loads: closed forms, and the figures that were published with the captures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from expertstream.cli.main import run
from expertstream.trace import RoutingTrace, synthesize
from expertstream.trace.importers.arrays import counts_of as counts_in
from expertstream.trace.skew import dirichlet_alpha, loads, popularity
from expertstream.trace.statistics import counts_of

SMALL = SimpleNamespace(name="small", n_experts=16, top_k=2)
NAMES = {  # ours: path in stats.json, tolerance (rounded there to three or four places)
    "gini": (("gini_of_popularity",), 0.0011),
    "zipf_exponent": (("zipf_exponent_ml", "mean"), 0.0011),
    "max_over_mean": (("max_over_mean_popularity", "mean"), 0.006),
    "dirichlet_alpha": (("dirichlet_concentration_ml", "pooled_over_layers"), 0.001),
    "layer_correlation": (("mean_correlation_of_popularity_between_layers",), 0.0011),
}


@pytest.mark.parametrize("alpha", [0.3, 1.0, 8.0])
def test_dirichlet_law_is_found_again(alpha: float) -> None:
    drawn = np.random.default_rng(0).dirichlet(np.full(64, alpha), 200)
    assert dirichlet_alpha(1e12 * drawn) == pytest.approx(alpha, rel=0.03)
    assert popularity(1e12 * drawn).dirichlet_miss < 0.02


def test_zipf_law_fits_itself_and_nothing_else() -> None:
    law = 1e6 * np.arange(1, 65.0) ** -0.8
    assert popularity(law[None]).zipf_miss == pytest.approx(0, abs=1e-6)
    halves = popularity(np.repeat([[1000.0, 1.0]], 32, axis=1).reshape(1, 64))
    law = np.arange(1, 65.0) ** -halves.zipf_exponent
    sorted_shares = np.repeat([1000.0, 1.0], 32) / 32_032
    above = np.maximum(sorted_shares - law / law.sum(), 0).sum()  # what would have to move
    assert halves.zipf_miss == pytest.approx(above)
    assert above > 0.1


def test_layers_alike_and_opposite() -> None:
    row = np.arange(1, 9.0)
    found = popularity(np.stack([row, row, 9 - row]))
    assert found.layer_correlation == pytest.approx(-1 / 3)
    assert found.adjacent_layer_correlation == pytest.approx(0)
    assert np.isnan(popularity(row[None]).layer_correlation)


def test_uniform_choices_are_like_the_uniform_baseline() -> None:
    rng = np.random.default_rng(0)
    made = synthesize(SMALL, requests=4, tokens_per_request=512, layers=(0, 1))
    experts = rng.permuted(np.tile(np.arange(16), (2048, 2, 1)), axis=2)[:, :, :2]
    trace = RoutingTrace(**{**vars(made), "experts": experts, "weights": None})
    found = loads(trace)
    assert [(row.mix, row.tokens) for row in found] == [("round-robin", n) for n in (16, 64, 256, 1024)] + [
        ("single-request", n) for n in (16, 64, 256)
    ]
    for row in found:
        assert row.activated == pytest.approx(row.uniform_activated, abs=0.02)
        assert row.max_over_mean == pytest.approx(row.uniform_max_over_mean, rel=0.08)
        assert row.gini == pytest.approx(row.uniform_gini, abs=0.03)
    assert found[0].uniform_activated == pytest.approx(1 - (14 / 16) ** 16)


def test_published_statistics(real_traces: Path) -> None:
    """All captures and count files; their figures and definitions are in stats.json beside them.

    There a round-robin iteration takes short runs of consecutive tokens of each request, here one token: hence 0.05.
    """
    published = json.loads((real_traces / "stats.json").read_text())
    files = sorted(real_traces.glob("*.npz"))
    assert len(files) == 10
    for path in files:
        about = published[path.name]
        trace = None if "counts" in path.name else RoutingTrace.load(path)
        found = popularity(counts_in(path).counts if trace is None else counts_of(trace)).to_dict()
        for name, (keys, tolerance) in NAMES.items():
            value = about["popularity_skew"]
            for key in keys:
                value = value[key]
            allowed = max(tolerance, 0.01 * abs(value)) if name == "dirichlet_alpha" else tolerance
            assert found[name] == pytest.approx(value, abs=allowed), (path.name, name)
        for row in [] if trace is None else loads(trace):
            at = about["per_iteration"].get(str(row.tokens), {})
            there = at.get(row.mix.replace("-", "_"))
            if there is None:
                continue
            assert row.uniform_activated == pytest.approx(
                at["uniform_independent_baseline_fraction_activated"], abs=1e-4
            )
            where = (path.name, row.mix, row.tokens)
            assert row.activated == pytest.approx(there["fraction_experts_activated"], abs=0.05), where
            assert row.gini == pytest.approx(there["gini_load_all_experts"], abs=0.05), where
            assert row.max_over_mean == pytest.approx(there["max_over_mean_load_all_experts"], rel=0.2), where


def test_inspect_shows_loads_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    synthesize(SMALL, requests=3, tokens_per_request=30).save("t.parquet")
    assert run(["trace", "inspect", "t.parquet", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["tokens"] for row in document["loads"]] == [16, 64, 16]
    assert 0 < document["popularity"]["zipf_miss"] < 1
    np.savez("c.npz", counts=np.arange(1, 25).reshape(1, 3, 8), top_k=2)
    assert run(["trace", "inspect", "c.npz"]) == 0
    assert "counts only: no locality, no loads" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert run(["trace", "inspect", "c.npz", "--html", str(page)]) == 0
    assert f"{page} was not written: the file holds counts only" in capsys.readouterr().err
    assert not page.exists()
    assert run(["trace", "inspect", "c.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["popularity"]["gini"] > 0.1
    assert run(["trace", "inspect", "t.parquet", "--html", "no/t.html"]) == 2
    assert "there is no folder 'no'" in capsys.readouterr().err
