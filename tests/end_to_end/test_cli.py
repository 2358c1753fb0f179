"""The program as a user meets it: results, exit codes, messages, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.text import Text
from typer.main import get_command

from expertstream.cli.app import app
from expertstream.cli.inputs import RunOptions
from expertstream.cli.main import run
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.strategy import strategy_names
from expertstream.trace import synthesize

PROGRAM = [sys.executable, "-m", "expertstream"]
HF_CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 96,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1000,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
PACKAGE = """\
name: mine
rows: 2
cols: 2
die:
  clock: 800 MHz
  macs_per_cycle: 2048
  weight_buffer: 14 MiB
  token_buffer: 4 MiB
  sram_bandwidth: 1638.4 GB/s
d2d:
  bandwidth: 288 GB/s
  latency: 4.02 ns
channels:
  - {dies: [0], bandwidth: 25.6 GB/s}
"""


def _commands(command: Any, name: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command of a group, groups within it included."""
    below = getattr(command, "commands", {})
    return [c for key, one in below.items() for c in _commands(one, (*name, key))] if below else [name]


COMMANDS = _commands(get_command(app))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small() -> str:
    """A small model, as a config.json."""
    Path("config.json").write_text(json.dumps(HF_CONFIG))
    return "config.json"


def npz(name: str, **changes: object) -> str:
    """A capture of the small model with some arrays changed."""
    trace = synthesize(MoEModel.from_hf_config("config.json"), requests=2, tokens_per_request=20, layers=[0, 1])
    arrays = {
        "experts": trace.experts,
        "weights": trace.weights,
        "request": trace.request,
        "position": trace.position,
        "layer_index": trace.layer_index,
        "num_experts": 8,
    }
    np.savez(name, **{**arrays, **changes})
    return name


def _files() -> list[str]:
    return sorted(file.name for file in Path().iterdir())


# --- results ---------------------------------------------------------------------------------------------------------


def test_compare_prints_a_table_that_says_synthetic(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", small, "--tokens", "4,16", "--prove"]) == 0
    out = capsys.readouterr().out
    assert "means over the layers; of peak SRAM and passes the most" in out
    assert "SYNTHETIC" in out.splitlines()[0]
    assert "speed-up" in out
    assert "over ep" in out
    assert out.count("fse-dp-paired") >= 2
    assert f"proven: {2 * 3 * len(strategy_names())} timelines equal to the dense layer" in out
    assert "same work: each strategy computed the same" in out
    assert "DDR layout of tp, tp-per-expert: " in out


def test_compare_in_a_narrow_terminal_cuts_no_number(
    small: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expertstream.cli.console.PIPE_WIDTH", 80)
    assert run(["compare", small, "--tokens", "16"]) == 0
    out = capsys.readouterr().out
    assert "(a wider terminal shows also: over D2D" in out
    assert "…" not in out


def test_compare_json_is_all_of_stdout_and_all_of_the_file(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", small, "-n", "16", "--layers", "1", "-s", "tp,fse-dp", "--json", "-o", "c.json", "--prove"]
    assert run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(Path("c.json").read_text())
    assert document["synthetic"] is True
    assert document["baseline"] == "tp"
    assert document["layers"] == [1]
    assert [row["strategy"] for row in document["rows"]] == ["tp", "fse-dp"]
    assert document["by_tokens"][0]["speedup"] == 1.0
    assert document["proof_error"] < 1e-10
    assert _files() == ["c.json", "config.json"]


def test_compare_on_a_captured_trace_is_not_called_synthetic(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    capture = npz("capture.npz")
    assert run(["compare", small, "--trace", capture, "--layers", "all", "--mix", "single-request"]) == 0
    captured = capsys.readouterr()
    assert "SYNTHETIC" not in captured.out
    assert "capture.npz" in captured.out
    assert "layers 0, 1, single-request" in captured.out
    assert "the trace has 40 tokens: comparing at 16" in captured.err


def test_compare_writes_a_report(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", small, "--tokens", "4,8", "-s", "ep,tp", "--html", "all.html"]) == 0
    assert "wrote all.html (open it in a browser)" in capsys.readouterr().err
    text = Path("all.html").read_text()
    assert text.count('<article class="run"') == 2
    assert "At 8 tokens " in text


def test_compare_leaves_out_what_cannot_run_and_says_why(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", small, "--trace", npz("capture.npz"), "--tokens", "8,40", "--html", "all.html"]
    assert run([*arguments, "--token-buffer", "6 KiB"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "left out: ep-replicated, hydra at 40 tokens: no tokens of the trace are left to fit on" in out
    assert "left out: ep, ep-streamed, ep-replicated, hydra, tp-per-expert at 8 tokens: the token buffer" in out
    assert "<li>ep at 8 tokens: the token buffer of a die is 6 KiB, but" in Path("all.html").read_text()
    assert run([*arguments, "--token-buffer", "6 KiB", "-s", "tp,ep"]) == 2
    _one_message(capsys, "ep at 8 tokens, layer 0: the token buffer of a die is 6 KiB, but")
    assert run([*arguments, "--token-buffer", "99 B"]) == 2
    _one_message(capsys, "no strategy can run; fse-dp-adaptive at 40 tokens: the token buffer of a die is 99 B")


def test_a_fitted_strategy_asked_for_by_name_says_what_to_do(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", small, "--trace", npz("capture.npz"), "--tokens", "40", "-s", "hydra,tp"]) == 2
    _one_message(capsys, "hydra is fitted on a training part of the trace, and none is left; use fewer tokens")


def test_a_strategy_of_your_own_needs_a_name_of_its_own(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["import expertstream as es", "from expertstream.strategy.tp import plan_tp"]
    Path("mine.py").write_text("\n".join([*lines, "mine = es.Strategy('ep', '', plan_tp)"]))
    assert run(["compare", small, "-n", "4", "--strategy", "mine.py:mine"]) == 2
    _one_message(capsys, "strategies to compare need names of their own; these are ep, ep-streamed,")


def test_compare_on_a_package_of_your_own(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(PACKAGE)
    assert run(["compare", small, "-p", "mine.yaml", "-n", "8", "--micro-slices", "1", "--spread", "round-robin"]) == 0
    assert "on mine" in capsys.readouterr().out


def test_simulate_reports_everything(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            [
                "simulate",
                small,
                "--tokens",
                "16",
                "--layer",
                "2",
                "--prove",
                "--perfetto",
                "run.json",
                "--html",
                "run.html",
            ]
        )
        == 0
    )
    captured = capsys.readouterr()
    for word in (
        "SYNTHETIC",
        "layer 2",
        "latency / lower bound",
        "lower bound, DDR",
        "lower bound, compute",
        "DDR layout",
        "equals the dense layer",
        "idle: ddr",
        "idle: no work",
        "weights peak",
        "DDR channel 3 (die 3)",
        "link die 3 to die 1",
        "passes over the tokens",
    ):
        assert word in captured.out
    assert "wrote run.json" in captured.err
    assert "wrote run.html (open it in a browser)" in captured.err
    assert "SYNTHETIC" in Path("run.html").read_text()
    assert json.loads(Path("run.json").read_text())["otherData"]["tokens"] == 16


def test_simulate_json(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", small, "-s", "ep", "-n", "16", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["strategy"] == "ep"
    assert document["synthetic"] is True
    assert document["latency_ps"] >= document["bound_ps"] > 0
    assert len(document["links"]) == len(document["link_ps"]) == 8


def test_run_options_are_the_same_of_both_commands_and_reach_the_run(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [field.name for field in fields(RunOptions)]
    listed = []
    for name in ("compare", "simulate"):
        options = {option.name: option for option in get_command(app).commands[name].params}  # type: ignore[attr-defined]
        listed.append([(name, options[name].opts, options[name].default, options[name].help) for name in shared])
    assert listed[0] == listed[1]
    given = ["--mix", "single-request", "--spread", "round-robin", "--micro-slices", "3", "--placement", "balanced"]
    given += ["--order", "paired", "--rings", "2", "--redispatch", "--layout", "whole", "--depth", "5"]
    given += ["--weight-buffer", "13 MiB", "--token-buffer", "3 MiB", "--predict", "0.7", "--lead-time", "3 us"]
    given += ["--decision-time", "80 ns"]
    assert sorted(set(given) & {f"--{name.replace('_', '-')}" for name in shared}) == sorted(
        f"--{name.replace('_', '-')}" for name in shared
    )
    assert run(["compare", small, "-s", "fse-dp", "-n", "16", "--json", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["mix"], found["spread"]) == ("single-request", "round-robin")
    assert found["options"] == {
        "micro_slices": 3,
        "placement": "balanced",
        "rings": 2,
        "redispatch": True,
        "layout": "whole",
        "depth": 5,
        "prediction": 0.7,
        "lead_ps": 3_000_000,
        "order": "paired",
        "decision_ps": 80_000,
    }
    assert found["rows"][0]["weight_buffer_bytes"] == [13 * 2**20] * 4
    assert found["rows"][0]["token_buffer_bytes"] == [3 * 2**20] * 4


@pytest.mark.parametrize(
    ("arguments", "remarks"),
    [
        (["simulate", "--strategy", "tp", "--rings", "2", "--depth", "3"], ["--rings changes nothing under tp"]),
        (["simulate", "--placement", "balanced"], ["--placement changes nothing under fse-dp-paired"]),
        (["compare", "-s", "ep,tp", "--layout", "whole"], ["--layout changes nothing under the strategies compared"]),
        (["compare", "-s", "ep,fse-dp", "--layout", "whole", "--placement", "contiguous"], []),
    ],
)
def test_an_option_that_changes_nothing_is_named(
    arguments: list[str], remarks: list[str], small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, small, "--tokens", "4", "--json"]) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "changes nothing" in line] == remarks


@pytest.mark.parametrize("arguments", [["simulate", "--perfetto", "x", "--html"], ["compare", "-o", "x", "--html"]])
def test_one_file_for_two_outputs_is_refused(
    arguments: list[str], small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "./x", small, "--tokens", "4"]) == 2
    assert capsys.readouterr().err == "error: 'x' is given for two outputs; give each a file of its own\n"
    assert _files() == ["config.json"]


def test_a_lead_without_a_prediction_is_refused(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", small, "--lead-time", "5 us"]) == 2
    message = "error: --lead-time is '5 us', but nothing is predicted; give --predict, too\n"
    assert capsys.readouterr().err == message


def test_tokens_of_unknown_phase_are_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text("layer,expert,token\n0,1,0\n0,2,1\n0,1,2\n")
    assert run(["trace", "import", "a.csv", "--experts", "4", "-o", "a.parquet"]) == 0
    out = capsys.readouterr().out
    assert "3 (3 of unknown phase)" in out
    assert "wrote a.parquet: 3 tokens, model unknown\n" in out


def test_a_trace_of_one_token_is_inspected(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("one.npz", experts=np.array([[[2]]], dtype=np.int16), num_experts=4)
    assert run(["trace", "inspect", "one.npz"]) == 0
    out = capsys.readouterr().out
    assert "no loads: the trace has fewer than 16 tokens" in out
    assert "nan" not in out


def test_synthesize_then_inspect(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "synthesize", small, "-o", "t.parquet", "--requests", "3", "--layers", "0,2"]) == 0
    assert "SYNTHETIC" in capsys.readouterr().out
    assert run(["trace", "inspect", "t.parquet", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["synthetic"] is True
    assert (document["n_tokens"], document["layers"], document["n_experts"]) == (3 * 136, [0, 2], 8)
    assert run(["trace", "inspect", "t.parquet"]) == 0
    assert "SYNTHETIC" in capsys.readouterr().out


def test_show_models_and_packages(capsys: pytest.CaptureFixture[str]) -> None:
    for group, names in (("model", MoEModel.preset_names()), ("package", Package.preset_names())):
        assert run([group, "show"]) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in names)
        assert run([group, "show", "--json"]) == 0
        assert [one["name"] for one in json.loads(capsys.readouterr().out)] == names
        assert run([group, "show", names[0], "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["name"] == names[0]
        assert run([group, "show", names[0]]) == 0
        assert capsys.readouterr().out.startswith(names[0])


@pytest.mark.parametrize(
    ("command", "name", "load"),
    [
        (["model", "show"], "yuan2-m32", MoEModel),
        (["package", "show"], "3x3-edge", Package),
        (["package", "technology"], "28nm", Technology),
    ],
)
def test_the_yaml_of_a_preset_is_one_to_start_from(
    command: list[str], name: str, load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, name, "--yaml"]) == 0
    mine = tmp_path / "mine.yaml"
    mine.write_text(capsys.readouterr().out)
    assert load.from_yaml(mine) == load.preset(name)
    assert run([*command, str(mine), "--yaml"]) == 0
    assert capsys.readouterr().out == mine.read_text()


def test_yaml_of_what_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["package", "show", "--yaml"]) == 2
    assert capsys.readouterr().err == "error: --yaml shows one preset or file; name it\n"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"]
    assert {"python", "numba"} <= set(document["versions"])
    assert "run and proven" in document["checks"]["self-test"]["found"]
    assert run(["doctor"]) == 0
    assert "everything works" in capsys.readouterr().out


def test_doctor_reports_what_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr("expertstream.cli.doctor.simulate", broken)
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: no kernel" in out
    assert "something is wrong" in out


@pytest.mark.parametrize("arguments", [[], ["trace"], ["rtl"]])
def test_without_a_command_there_is_help_and_nothing_else(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert "Commands" in out
    assert err == ""


def test_help_shows_the_name_of_an_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "capture", "--help"]) == 0
    assert '"expertstream[capture]"' in capsys.readouterr().out  # square brackets are markup to Rich


@pytest.mark.parametrize("program", ["expertstream", ".venv/bin/expertstream"])
def test_demo_names_a_command_that_can_be_typed(
    program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expertstream.cli.demo.TOKENS", (16,))
    monkeypatch.setattr("expertstream.cli.demo.which", lambda name: name if name == program else None)
    monkeypatch.setattr("sys.argv", [".venv/bin/expertstream", "demo"])
    assert run(["demo", "--output", "demo"]) == 0
    assert f"next: {program} compare qwen3-30b-a3b" in capsys.readouterr().err


def test_demo_writes_what_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--output", "out/demo"]) == 0
    out = capsys.readouterr().out
    assert "SYNTHETIC" in out
    written = [line.split()[1] for line in out.splitlines() if line.startswith("wrote ")]
    assert sorted(written) == sorted(str(file) for file in Path("out/demo").iterdir())
    assert {Path(name).suffix for name in written} == {".html", ".json", ".png"}
    rows = json.loads(Path("out/demo/comparison.json").read_text())["by_tokens"]
    assert {row["tokens"] for row in rows} == {16, 64, 256}
    assert "<!DOCTYPE html>" in Path("out/demo/comparison.html").read_text()
    assert Path("out/demo/comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example: expertstream {' '.join(command)}" in out
    assert "--json" in out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_not_eaten_as_markup(command: tuple[str, ...]) -> None:
    found: Any = get_command(app)
    for name in command:
        found = found.commands[name]
    for text in [found.help or "", *(str(getattr(option, "help", None) or "") for option in found.params)]:
        assert Text.from_markup(text).plain == text.replace("\\[", "[")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("expertstream ")


# --- bad input -------------------------------------------------------------------------------------------------------

BAD = {
    "unknown model": (["compare", "qwen3-30b"], "unknown model preset 'qwen3-30b'; did you mean 'qwen3-30b-a3b'?"),
    "empty model": (["compare", ""], "unknown model preset ''"),
    "missing config": (["compare", "none.json"], "none.json: no such file"),
    "unknown package": (["compare", "{model}", "-p", "test-chip"], "unknown package preset 'test-chip'; did you mean"),
    "missing package": (["compare", "{model}", "-p", "none.yaml"], "cannot read 'none.yaml': No such file"),
    "missing trace": (["compare", "{model}", "-t", "none.parquet"], "there is no trace file 'none.parquet'"),
    "other trace file": (["trace", "inspect", "config.json"], "'config.json' is not a trace that can be read"),
    "no tokens": (["compare", "{model}", "-n", "0"], "--tokens is '0'; it must be whole numbers from 1, separated by"),
    "tokens in words": (["compare", "{model}", "-n", "16,many"], "--tokens is '16,many'; it must be whole numbers"),
    "negative tokens": (["simulate", "{model}", "-n", "-1"], "tokens is -1"),
    "tokens beyond reason": (
        ["simulate", "{model}", "-n", "9999999999"],
        "synthetic routing is made for at most 65536",
    ),
    "layer": (["compare", "{model}", "--layers", "7"], "layer 7 is not an MoE layer of"),
    "strategy": (["compare", "{model}", "-s", "fsedp"], "unknown strategy 'fsedp'; did you mean 'fse-dp'?"),
    "strategy of simulate": (
        ["simulate", "{model}", "-s", "fsedp"],
        "unknown strategy 'fsedp'; did you mean 'fse-dp'?",
    ),
    "no strategies": (["compare", "{model}", "-s", ","], "--strategies names none; write all, or some of: ep,"),
    "baseline": (["compare", "{model}", "--baseline", "epp"], "unknown strategy 'epp'; did you mean 'ep'?"),
    "baseline left out": (
        ["compare", "{model}", "-s", "tp", "--baseline", "ep"],
        "--baseline 'ep' is not among the strategies compared: tp; add it",
    ),
    "mix": (["compare", "{model}", "--mix", "x"], "unknown mix 'x'; allowed: round-robin, single-request"),
    "spread": (["compare", "{model}", "--spread", "x"], "unknown token spread 'x'"),
    "micro-slices": (["compare", "{model}", "--micro-slices", "0"], "micro_slices is 0; it must be at least 1"),
    "micro-slices in words": (
        ["compare", "{model}", "--micro-slices", "x"],
        "--micro-slices is 'x'; it must be a whole number",
    ),
    "tokens with a fraction": (
        ["simulate", "{model}", "--tokens", "1.5"],
        "--tokens is '1.5'; it must be a whole number, such as --tokens 64",
    ),
    "area in words": (["recommend", "{model}", "--area", "x"], "--area is 'x'; it must be a number, such as --area 30"),
    "few trials": (["recommend", "{model}", "--trials", "2"], "--trials is '2'; it must be at least 4, such as"),
    "placement": (
        ["compare", "{model}", "--placement", "x"],
        "placement is 'x'; allowed: contiguous, round-robin, balanced, best",
    ),
    "unknown scheduler": (
        ["simulate", "{model}", "--scheduler", "rlt"],
        "--scheduler is 'rlt'; did you mean 'rtl'? allowed: software, rtl",
    ),
    "time without unit": (["compare", "{model}", "--decision-time", "5"], "time 5 has no unit; write for example"),
    "time beyond reason": (
        ["compare", "{model}", "--decision-time", "1e9 s"],
        "decision_ps is 1000000000000000000000; it must be from 0 to 1 s (1000000000000), or left out",
    ),
    "lead beyond reason": (
        ["compare", "{model}", "--predict", "0.8", "--lead-time", "2 s"],
        "lead_ps is 2000000000000; it must be from 0 to 1 s (1000000000000)",
    ),
    "no limit of power": (
        ["recommend", "{model}", "--power", "inf"],
        "the budget's power_w is inf; it must be above 0",
    ),
    "no folder": (["compare", "{model}", "-o", "no/c.json"], "cannot write 'no/c.json': there is no folder 'no'"),
    "a folder": (
        ["simulate", "{model}", "--perfetto", "."],
        "cannot write '.': it is a folder; give the name of a file",
    ),
    "no folder for a report": (
        ["compare", "{model}", "--html", "no/c.html"],
        "cannot write 'no/c.html': there is no folder 'no'",
    ),
    "a folder as a report": (
        ["simulate", "{model}", "--html", "."],
        "cannot write '.': it is a folder; give the name of a file",
    ),
    "long name": (
        ["trace", "synthesize", "{model}", "-o", f"{'x' * 300}.parquet"],
        f"cannot write '{'x' * 300}.parquet': File name too long",
    ),
    "trace name": (["trace", "synthesize", "{model}", "-o", "t.txt"], "it must end in .parquet"),
    "import nothing": (["trace", "import", "none.json"], "there is no file 'none.json'"),
    "import what is none": (["trace", "import", "config.json"], "'config.json' (json) is in no known format; known:"),
    "import to another name": (["trace", "import", "config.json", "-o", "t.npz"], "it must end in .parquet"),
    "no requests": (
        ["trace", "synthesize", "{model}", "-o", "t.parquet", "--requests", "0"],
        "--requests is 0; it must be",
    ),
    "a layer too many": (
        ["trace", "synthesize", "{model}", "-o", "t.parquet", "--layers", "0,7"],
        "layer 7 is not an MoE",
    ),
    "seed": (["trace", "synthesize", "{model}", "-o", "t.parquet", "--seed", "-1"], "--seed is -1"),
    "long trace": (["trace", "synthesize", "{model}", "-o", "t.parquet", "--requests", "9999999"], "ask for fewer"),
    "demo over a file": (["demo", "-o", "config.json"], "cannot use 'config.json' as a folder: it is a file"),
    "output below a file": (
        ["compare", "{model}", "-o", "config.json/c.json"],
        "cannot write 'config.json/c.json': 'config.json' is a file, not a folder",
    ),
    "seed of an import": (["trace", "import", "config.json", "--seed", "-1"], "--seed is -1; it must not be negative"),
    "YAML and JSON": (["package", "show", "3x3", "--yaml", "--json"], "--yaml and --json were given; choose one of"),
    "YAML and JSON of a model": (["model", "show", "{model}", "--yaml", "--json"], "choose one of them"),
    "argument left out": (["compare"], "Missing argument 'MODEL'. See: expertstream compare --help"),
    "unknown option": (["compare", "{model}", "--tokenz", "5"], "No such option: --tokenz"),
    "unknown command": (
        ["comapre"],
        "No such command 'comapre'. Did you mean 'compare'? See: expertstream --help",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_options(arguments: list[str], message: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([small if part == "{model}" else part for part in arguments]) == 2
    _one_message(capsys, message)
    assert _files() == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace", "inspect", "dir.parquet"], "'dir.parquet' is a folder"),
        (["trace", "import", "dir.parquet"], "'dir.parquet' is a folder; name the files"),
        (
            ["trace", "capture", "--model", "dir.parquet", "--text", "s.yaml", "-o", "t.parquet"],
            "the folder 'dir.parquet' holds no model: there is no config.json in it",
        ),
        (["sweep", "s.yaml", "-e", "serial", "-j", "3"], "--workers is 3, but --executor serial has one"),
    ],
)
def test_a_folder_in_place_of_a_file(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dir.parquet").mkdir()
    Path("s.yaml").write_text("model: phi-3.5-moe\nfields: {tokens: [1]}\n")
    assert run(arguments) == 2
    _one_message(capsys, message)
    assert _files() == ["dir.parquet", "s.yaml"]


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["compare", "config.json", "-o", "config.json"], "config.json"),
        (["compare", ".", "-o", "./config.json"], "config.json"),
        (["compare", "config.json", "-t", "t.npz", "--html", "t.npz"], "t.npz"),
        (["compare", "config.json", "--strategy", "own.py:Own", "-o", "own.py"], "own.py"),
        (["simulate", "config.json", "-p", "mine.yaml", "--html", "mine.yaml"], "mine.yaml"),
        (["simulate", "config.json", "-s", "own.py:Own", "--perfetto", "own.py"], "own.py"),
        (["trace", "inspect", "t.npz", "--html", "t.npz"], "t.npz"),
        (["trace", "import", "t.parquet", "-o", "t.parquet"], "t.parquet"),
        (["trace", "synthesize", "--like", "t.parquet", "-o", "t.parquet"], "t.parquet"),
        (["trace", "synthesize", "--like", "t.npz", "-o", "new.parquet", "--save-calibration", "t.npz"], "t.npz"),
        (["trace", "capture", "--model", "m", "--text", "t.parquet", "-o", "t.parquet"], "t.parquet"),
    ],
)
def test_nothing_that_is_read_is_written_over(
    arguments: list[str], output: str, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    npz("t.npz")
    for name in ("t.parquet", "own.py", "mine.yaml"):
        Path(name).write_text(PACKAGE)
    before = Path(output).read_bytes()
    assert run(arguments) == 2
    _one_message(capsys, "is read, and would be written over; give the output another name")
    assert Path(output).read_bytes() == before


TRACES = {
    "an expert out of range": ({"experts": np.full((40, 2, 2), [3, 8])}, "expert id 8 of token 0, layer 0 is out of"),
    "an expert twice": ({"experts": np.full((40, 2, 2), [3, 3])}, "token 0 chose expert 3 twice"),
    "another k": ({"experts": np.full((40, 2, 1), 3), "weights": np.ones((40, 2, 1))}, "k = 1, but"),
    "another number of experts": ({"num_experts": 9}, "has 9 experts and k = 2, but"),
    "NaN": ({"weights": np.full((40, 2, 2), np.nan)}, "gate weight nan of token 0, layer 0"),
    "no tokens": ({"experts": np.empty((0, 2, 2))}, "the trace is empty"),
}


@pytest.mark.parametrize(("changes", "message"), TRACES.values(), ids=TRACES)
def test_bad_traces(changes: dict[str, object], message: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    capture = npz("bad.npz", **changes)
    assert run(["compare", small, "--trace", capture, "-n", "4", "-o", "c.json"]) == 2
    _one_message(capsys, message)
    assert not Path("c.json").exists()


def test_truncated_traces(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "synthesize", small, "-o", "t.parquet"]) == 0
    Path("cut.parquet").write_bytes(Path("t.parquet").read_bytes()[:-500])
    Path("cut.npz").write_bytes(Path(npz("t.npz")).read_bytes()[:700])
    capsys.readouterr()
    for name in ("cut.parquet", "cut.npz"):
        assert run(["trace", "inspect", name]) == 2
        _one_message(capsys, f"'{name}' is not a readable")


def test_too_few_tokens_is_said_before_anything_runs(
    small: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expertstream.cli.compare.compare", lambda *_, **__: pytest.fail("it ran"))
    assert run(["compare", small, "-t", npz("t.npz"), "-n", "8,64"]) == 2
    _one_message(capsys, "64 tokens")


PACKAGES = {
    "no dies": ("rows: 2", "rows: 0", "mine.yaml:2:1: rows: must be from 1 to 16 (given: 0)"),
    "negative": ("288 GB/s", "-288 GB/s", "mine.yaml:11:3: d2d.bandwidth: bandwidth '-288 GB/s' is negative"),
    "no unit": ("25.6 GB/s", "25.6", "bandwidth 25.6 has no unit; write for example '25.6 GB/s'"),
    "unknown key": ("clock:", "clokc:", "mine.yaml:5:3: unknown key 'clokc'; did you mean 'clock'?"),
    "small weight buffer": ("weight_buffer: 14 MiB", "weight_buffer: 100 B", "buffer"),
    "small token buffer": ("token_buffer: 4 MiB", "token_buffer: 100 B", "the token buffer of a die is 100 B"),
    "not YAML": ("rows: 2", "rows: [2", "not valid YAML"),
}


@pytest.mark.parametrize(("old", "new", "message"), PACKAGES.values(), ids=PACKAGES)
def test_bad_packages(old: str, new: str, message: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(PACKAGE.replace(old, new, 1))
    assert run(["compare", small, "-p", "mine.yaml", "-n", "8", "-s", "fse-dp-paired", "-o", "c.json"]) == 2
    _one_message(capsys, message)
    assert not Path("c.json").exists()


def _one_message(capsys: pytest.CaptureFixture[str], message: str) -> None:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: ") == 1
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_out_of_memory(small: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("expertstream.cli.compare.compare", exhausted)
    assert run(["compare", small, "-n", "4"]) == 2
    assert "error: not enough memory for this" in capsys.readouterr().err


def test_import_says_what_it_found(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{t},{layer},{e}" for t in range(6) for layer in (0, 1) for e in (t % 7, 7)]
    Path("experts.csv").write_text("token,layer,expert\n" + "\n".join(rows))
    assert run(["trace", "import", "experts.csv"]) == 0
    out = capsys.readouterr()
    assert "llama-csv: llama.cpp-style CSV" in out.out
    assert "the largest id plus one" in out.out
    assert "nothing was written; give --output FILE.parquet to write the trace" in out.err
    assert run(["trace", "import", "experts.csv", "--model", small, "-o", "t.parquet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["n_tokens"], found["n_experts"], found["notes"]) == ("llama-csv", 6, 8, [])
    assert run(["simulate", small, "--trace", "t.parquet", "-n", "4", "--layer", "1"]) == 0
    Path("w.json").write_text("[[3, 1, 2, 2, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 3]]")
    assert run(["trace", "import", "w.json", "--top-k", "2", "--tokens", "50", "-o", "w.parquet"]) == 0
    assert "wrote w.parquet: SYNTHETIC, 50 tokens" in capsys.readouterr().out


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["compare.compare", "compare.as_document"])
def test_ctrl_c(where: str, small: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"expertstream.cli.{where}", interrupted)
    assert run(["compare", small, "-n", "4", "-o", "c.json"]) == 130
    assert capsys.readouterr().err.endswith("error: interrupted; no file was left half-written\n")
    assert _files() == ["config.json"]


def test_ctrl_c_for_real() -> None:
    command = [*PROGRAM, "compare", "qwen3-30b-a3b", "--prove", "-o", "c.json"]
    # an empty cache makes the program say when it has begun
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(Path("cache").absolute())}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "compiling the event kernel (first run only) ...\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "error: interrupted; no file was left half-written\n"
    assert out == ""
    assert not [name for name in _files() if "c.json" in name]


@pytest.mark.parametrize("module", ["numpy", "numba", "scipy.optimize", "typer", "expertstream.cli.app"])
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    Path("sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((".", os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run(
        [*PROGRAM, "sweep", "none.yaml"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.stderr == "error: interrupted; no file was left half-written; the same command goes on where it was\n"
    assert (done.returncode, done.stdout) == (130, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["--json"], []])
def test_a_full_disk_behind_the_output(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*PROGRAM, "package", "show", "3x3", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize(("arguments", "code"), [("package show", 0), ("package show none", 2)])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_outputs_that_are_closed_get_nothing(arguments: str, code: int, closed: str) -> None:
    command = f"{' '.join(PROGRAM)} {arguments} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert (done.stdout != "") == (code == 0 and closed == "2>&-")
    assert (done.stderr != "") == (code == 2 and closed == ">&-")
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough() -> None:
    command = [*PROGRAM, "model", "show", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_no_folder_for_the_cache() -> None:
    # as with a read-only installation and no home: Numba must keep the kernel in memory
    script = (
        "from unittest import mock; import numba.core.caching as c\n"
        "with mock.patch.object(c.CacheImpl, '_locator_classes', []):\n"
        "    from expertstream.cli.main import run\n"
        "    raise SystemExit(run(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no writable folder" in done.stdout
    assert "set NUMBA_CACHE_DIR" in done.stderr
    assert "everything works" in done.stdout


def test_a_twin_is_written_and_compared(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "synthesize", small, "-o", "real.parquet", "--requests", "6", "--layers", "0,2"]) == 0
    capsys.readouterr()
    assert run(["trace", "synthesize", "--like", "real.parquet", "-o", "twin.parquet", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["synthetic"]
    assert document["n_tokens"] == 6 * 136
    assert {row["mix"] for row in document["held_out"]["activated"]} == {"round-robin", "single-request"}
    assert run(["trace", "synthesize", "--like", "real.parquet", "-o", "t.parquet", "--no-check"]) == 0
    assert Path("t.parquet").read_bytes() == Path("twin.parquet").read_bytes()
    save = ["--save-calibration", "fitted.npz"]
    assert run(["trace", "synthesize", "--like", "real.parquet", "-o", "t.parquet", "--no-check", *save]) == 0
    again = ["trace", "synthesize", "--calibration", "fitted.npz", "-o", "again.parquet", "--tokens-per-request", "9"]
    assert run([*again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 2)[2])["layers"] == [0, 2]
    assert run([*again, "--layers", "1"]) == 2
    assert "layer 1 was asked for; calibrated are 0, 2" in capsys.readouterr().err
    assert run(["trace", "synthesize", small, *save]) == 2
    assert "--save-calibration was given without --like; nothing is fitted then" in capsys.readouterr().err
    assert run(["trace", "synthesize", "--like", "real.parquet", "--layers", "0"]) == 2
    assert "--layers was given with --like; a twin has the layers of its trace" in capsys.readouterr().err
    assert run(["trace", "synthesize", small, "--like", "real.parquet"]) == 2
    assert "give MODEL, --model MODEL or --like FILE" in capsys.readouterr().err
