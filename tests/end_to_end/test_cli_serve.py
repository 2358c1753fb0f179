"""``serve-sim`` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expertstream.cli.main import run
from expertstream.serving.server import Server

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve.yaml"
HF_CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1000,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
SCENARIO = """\
model: config.json
synthetic: {requests: 4, tokens: 32}
requests:
  arrivals: closed-loop
  clients: 12
  prompt_tokens: {mean: 20}
  output_tokens: {mean: 6}
tokens_per_iteration: 16
iterations: 30
buffering: {slack_percent: 20, theta_min: 4}
qos: {ttft: 1 ms}
"""


@pytest.fixture(autouse=True)
def _scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps(HF_CONFIG))
    Path("run.yaml").write_text(SCENARIO)


def test_a_run_says_how_fast_requests_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve-sim", "run.yaml"]) == 0
    out, err = capsys.readouterr()
    for words in ("tokens per second", "time to first token", "deferrals", "QoS violations", "SYNTHETIC", "attention"):
        assert words in out
    assert "blocks simulated" in err


def test_an_interrupted_run_ends_with_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve-sim", "run.yaml", "--json"]) == 0
    whole = capsys.readouterr().out
    assert run(["serve-sim", "run.yaml", "--checkpoint", "c.json", "--every", "4", "--iterations", "9"]) == 0
    capsys.readouterr()
    assert run(["serve-sim", "run.yaml", "--checkpoint", "c.json", "--resume", "--no-reuse", "--json"]) == 0
    assert capsys.readouterr().out == whole
    assert json.loads(whole)["deferrals"] > 0


@pytest.mark.parametrize(
    ("stop_at", "remark"),
    [
        (3, "there is no checkpoint c.json yet: one is written every 4 iterations (--every)"),
        (5, "go on from the checkpoint c.json with --resume"),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    stop_at: int, remark: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Server.step

    def interrupted(self: Server) -> bool:
        if self.tally.iterations == stop_at:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Server, "step", interrupted)
    assert run(["serve-sim", "run.yaml", "--checkpoint", "c.json", "--every", "4"]) == 130
    assert capsys.readouterr().err.endswith(f"{remark}\nerror: interrupted; no file was left half-written\n")


KILLED = """
import os, signal, sys
from pathlib import Path
from expertstream.cli.main import run

whole, writes = Path.write_text, 0

def write_text(self, text, **more):
    global writes
    writes += "c.json" in self.name
    if writes == 3:  # in the middle of the third checkpoint
        whole(self, text[: len(text) // 2], **more)
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, text, **more)

Path.write_text = write_text
run(["serve-sim", "run.yaml", "--checkpoint", "c.json", "--every", "4"])
"""


def test_killed_in_the_middle_of_a_checkpoint_it_goes_on_from_the_one_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["serve-sim", "run.yaml", "--json"]) == 0
    whole = capsys.readouterr().out
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert json.loads(Path("c.json").read_text())["tally"]["iterations"] == 8
    assert run(["serve-sim", "run.yaml", "--checkpoint", "c.json", "--resume", "--json"]) == 0
    assert capsys.readouterr().out == whole


def test_reports_in_files(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--html", "run.html", "--perfetto", "it.json", "--perfetto-iteration", "2"]
    assert run(["serve-sim", "run.yaml", "--iterations", "3", *files]) == 0
    _, err = capsys.readouterr()
    assert "wrote run.html (open it in a browser)" in err
    assert "wrote it.json (open it at https://ui.perfetto.dev)" in err
    assert "<h2 id=" in Path("run.html").read_text()
    assert json.loads(Path("it.json").read_text())["otherData"]["iteration"] == 2
    assert run(["serve-sim", "run.yaml", "--html", "none/run.html"]) == 2
    assert "there is no folder 'none'" in capsys.readouterr().err


def test_zero_slack_is_no_buffering_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for text in (SCENARIO.replace("slack_percent: 20", "slack_percent: 0"), SCENARIO.replace("buffering:", "# ")):
        Path("run.yaml").write_text(text)
        assert run(["serve-sim", "run.yaml", "--json"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        EXAMPLE.read_text().replace("qwen3-30b-a3b ", "config.json ").replace("requests: 32, tokens: 256", "tokens: 8")
    )
    Path("example.yaml").write_text(text)
    assert run(["serve-sim", "example.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iterations"] == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("clients: 12", "client: 12"), "run.yaml:5:3: unknown key 'client'; did you mean 'clients'?"),
        (("model: config.json", "model: qwen3"), "unknown model preset 'qwen3'; did you mean 'qwen3-30b-a3b'?"),
        (("iterations: 30", "iterations: 0"), "run.yaml:9:1: iterations: input should be greater than or equal to 1"),
        (("iterations: 30\n", ""), "run.yaml:3:1: requests: the run has no end; give iterations, or requests.count"),
        (
            ("model:", "prediction: 1.5\nmodel:"),
            "run.yaml:1:1: prediction: must be an accuracy above 0 and up to 1, or trace (given: 1.5)",
        ),
        (("model:", "strategy: fse\nmodel:"), "unknown strategy 'fse'"),
        (("synthetic: {requests: 4, tokens: 32}", "trace: gone.npz"), "there is no trace file 'gone.npz'"),
        (
            ("model:", "trace: gone.npz\nmodel:"),
            "run.yaml:3:1: synthetic: 'synthetic' does not go with 'trace', which is replayed; leave one of them out",
        ),
        (
            ("clients: 12", "clients: 12\n  file: gone.csv"),
            "run.yaml:6:3: requests.file: 'file' does not go with arrivals 'closed-loop'; leave it out",
        ),
    ],
)
def test_mistakes_are_explained(change: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(SCENARIO.replace(*change))
    assert run(["serve-sim", "run.yaml"]) == 2
    assert message in capsys.readouterr().err


def test_an_older_checkpoint_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("old.json").write_text("kept")
    assert run(["serve-sim", "run.yaml", "--checkpoint", "old.json"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: the checkpoint 'old.json' is there already; go on from it with --resume, give another file, "
        "or remove it"
    )
    assert Path("old.json").read_text() == "kept"


def test_a_checkpoint_beyond_what_is_asked_for_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["serve-sim", "run.yaml", "--checkpoint", "c.json", "--iterations"]
    assert run([*command, "4"]) == 0
    capsys.readouterr()
    assert run([*command, "3", "--resume"]) == 2
    assert capsys.readouterr().err == (
        "error: the checkpoint was written after 4 iterations, but 3 are to be run; ask for at least 4, or start anew\n"
    )


def test_resume_needs_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve-sim", "run.yaml", "--resume"]) == 2
    assert "--resume needs --checkpoint FILE" in capsys.readouterr().err
    assert run(["serve-sim", "run.yaml", "--resume", "--checkpoint", "none.json"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no checkpoint 'none.json' to go on from; begin without --resume\n"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: {"format": state["format"]}, "belongs to another scenario, model, package"),
        (lambda state: {name: state[name] for name in ("format", "identity")}, "the checkpoint 'c.json' is damaged"),
        (lambda state: state | {"tally": []}, "the checkpoint 'c.json' is damaged; start anew with another"),
        (lambda state: state | {"running": [{}]}, "the checkpoint 'c.json' is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_one_message(
    damage: Callable[[dict[str, Any]], Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve-sim", "run.yaml", "--checkpoint", "c.json", "--iterations", "2"]
    assert run(command) == 0
    capsys.readouterr()
    Path("c.json").write_text(json.dumps(damage(json.loads(Path("c.json").read_text()))))
    assert run([*command, "--resume"]) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 1
    assert message in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--every", "5"], "--every is 5, but nothing is written; give --checkpoint FILE, too"),
        (
            ["--perfetto-iteration", "2"],
            "--perfetto-iteration is 2, but nothing is recorded; give --perfetto FILE, too",
        ),
        (["--checkpoint", "."], "cannot write '.': it is a folder; give the name of a file"),
        (["--html", "run.yaml"], "'run.yaml' is read, and would be written over; give the output another name"),
    ],
)
def test_options_that_do_not_go_alone(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("run.yaml").read_text()
    assert run(["serve-sim", "run.yaml", *given]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert Path("run.yaml").read_text() == before


def test_a_key_that_changes_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(SCENARIO + "strategy: tp\nrings: 2\norder: paired\n")
    assert run(["serve-sim", "run.yaml"]) == 0
    assert "run.yaml: rings changes nothing under tp\n" in capsys.readouterr().err


def test_one_file_for_two_outputs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve-sim", "run.yaml", "--html", "x", "--perfetto", "./x"]) == 2
    assert capsys.readouterr().err == "error: 'x' is given for two outputs; give each a file of its own\n"
    assert not Path("x").exists()
