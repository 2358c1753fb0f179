"""Technology profiles on the command line."""

from __future__ import annotations

import json

import pytest

from expertstream.cli.main import run


def test_energy_follows_the_technology(capsys: pytest.CaptureFixture[str]) -> None:
    energy = []
    for technology in ("5nm", "28nm"):
        assert run(["simulate", "phi-3.5-moe", "--tokens", "8", "--technology", technology, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["technology"] == technology
        energy.append(document["energy_by_component_pj"]["sram"][1])
    assert energy[1] == pytest.approx(energy[0] * 7.5 / 1.5)  # the two profiles' pJ per byte


def test_a_technology_is_shown_with_sources_and_an_unknown_one_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["package", "technology", "28nm"]) == 0
    out = capsys.readouterr().out
    assert "d2d.ucie-a.energy" in out
    assert "Simba" in out
    assert run(["package", "technology", "7nm"]) == 2
    assert "unknown technology preset '7nm'; did you mean '5nm'? Available: 28nm, 5nm" in capsys.readouterr().err
