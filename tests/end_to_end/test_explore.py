"""Sweeps as a user meets them: the program, killed and continued, on processes and on a Dask cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from expertstream.cli.explore import fitted
from expertstream.cli.main import run
from expertstream.explore import load_search, load_sweep, make_executor, search, sweep
from tests.needs import needs_module

PROGRAM = [sys.executable, "-m", "expertstream"]
SPEC = """\
model: phi-3.5-moe
fields:
  tokens: {from: 1, to: 160, steps: 160}
where: ["tokens != 7"]
limits: ["die_area_mm2 <= 30"]
"""
POINTS = 159
SEARCH = """\
model: phi-3.5-moe
tokens: 4
fields:
  package.channels.bandwidth: {from: 8 GB/s, to: 256 GB/s, scale: log}
  package.die.macs_per_cycle: {from: 256, to: 4096}
limits: ["rated_power_w <= 60"]
objectives: {latency_ps: minimize, energy_pj: minimize}
trials: 60
population: 20
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SPEC)
    return file


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """results.parquet of the serial executor."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "small.yaml").write_text(SPEC)
    sweep(load_sweep(folder / "small.yaml"), folder / "out", make_executor("serial"))
    return (folder / "out/results.parquet").read_bytes()


def _rows(folder: Path) -> list[str]:
    """Hashes of all rows in the shards, repeated ones as often as they are there."""
    files = (folder / "shards").glob("*.parquet")
    return [key for file in files for key in pq.read_table(file)["hash"].to_pylist()]


def _stopped_half_way(
    command: list[str], folder: Path, ready: Callable[[Path], bool], rows: int
) -> tuple[subprocess.Popen[bytes], Path]:
    """A program that is stopped before it has all ``rows``, and its output; on a busy machine it may end too early."""
    for attempt in range(10):
        out = folder / f"out{attempt}"
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _wait_for(lambda process=process, out=out: process.poll() is not None or ready(out))
        process.send_signal(signal.SIGSTOP)
        if process.poll() is None and len(_rows(out)) < rows:
            return process, out
        process.kill()
        process.communicate()
    raise AssertionError("the program always ends before it can be stopped")


def _wait_for(what: object, seconds: float = 240) -> None:
    assert callable(what)
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def test_the_program_sweeps_and_says_what_it_found(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec.write_text("model: phi-3.5-moe\nfields: {tokens: [4, 8], package.die.weight_buffer: [1 KiB, 8 MiB]}\n")
    arguments = ["sweep", str(spec), "--output", str(spec.parent / "out"), "--executor", "serial"]
    assert run(arguments) == 0
    output = capsys.readouterr()
    assert "4 points (4 run now), 2 feasible, 2 failed" in output.out
    assert "2 failed: the weight buffer of a die is 1 KiB" in output.err
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "results": str(spec.parent / "out/results.parquet"),
        "points": 4,
        "ran": 0,
        "failed": 2,
        "feasible": 2,
    }


def test_an_option_that_changes_nothing_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rings.yaml"
    file.write_text("model: phi-3.5-moe\nstrategy: tp\ntokens: 1\nfields: {options.rings: [1, 2]}\n")
    assert run(["sweep", str(file), "-o", str(tmp_path / "out"), "-e", "serial"]) == 0
    assert capsys.readouterr().err.count("options.rings changes nothing under tp") == 1


def test_tables_of_many_fields_cut_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"options.rings": "[2, 4]", "options.order": "[id]", "options.redispatch": "[false]"}
    die = {"weight_buffer": "8 MiB", "token_buffer": "4 MiB", "sram_bandwidth": "1638.4 GB/s", "clock": "800 MHz"}
    fields |= {f"package.die.{name}": f"[{value}]" for name, value in die.items()}
    fields |= {f"package.{name}": "[4 ns]" for name in ("d2d.latency", "channels.latency")}
    fields |= {f"package.{name}": "[128 GB/s]" for name in ("d2d.bandwidth", "channels.bandwidth")}
    spec = tmp_path / "wide.yaml"
    spec.write_text("model: qwen3-30b-a3b\ntokens: 4\nfields:\n" + "".join(f"  {k}: {v}\n" for k, v in fields.items()))
    assert run(["sweep", str(spec), "--output", str(tmp_path / "out"), "--executor", "serial"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert "all of these have options.order id, options.redispatch False, package.die.weight_buffer 8 MiB, " in out
    assert "│    rings │" in out.replace("┃", "│")


def test_a_table_that_is_wider_than_the_terminal_cuts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expertstream.cli.console.PIPE_WIDTH", 60)
    spec = tmp_path / "wide.yaml"
    fields = "strategy: [fse-dp-naive-tokens, tp]\n  package.die.weight_buffer: [8 MiB, 4 MiB]"
    spec.write_text(f"model: qwen3-30b-a3b\ntokens: 4\nmode: zip\nfields:\n  {fields}\n")
    assert run(["sweep", str(spec), "--output", str(tmp_path / "out"), "--executor", "serial"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert "│ fse-dp-naive-tokens │ 8 MiB │" in out


def test_where_headings_do_not_fit_either_they_are_numbers_with_a_key() -> None:
    cells = {f"package.die.field_{n}": [f"{n} MiB", f"{n + 1} MiB"] for n in range(14)}
    found, beside = fitted("", cells, [["1 ms", "1 %", "1 mJ", "1 mm2", "1 W"]] * 2, 172)
    assert [column.header for column in found.columns[:14]] == [f"({n})" for n in range(1, 15)]
    assert beside == [", ".join(f"({n + 1}) package.die.field_{n}" for n in range(14))]
    assert Console(width=1000).measure(found).maximum <= 172


@pytest.mark.parametrize("command", ["sweep", "search"])
def test_without_a_feasible_point_the_limits_that_are_broken_are_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_module("optuna", "explore")
    file = tmp_path / "none.yaml"
    file.write_text(
        "model: phi-3.5-moe\nfields: {tokens: [4, 8]}\nlimits: [die_area_mm2 <= 2, latency_ps <= 100 ms]\n"
        + ("objectives: {latency_ps: minimize}\ntrials: 6\npopulation: 4\n" if command == "search" else "")
    )
    assert run([command, str(file), "-o", str(tmp_path / "out"), "-e", "serial"]) == 0
    output = capsys.readouterr()
    assert "nothing is feasible: 'die_area_mm2 <= 2' is broken by 2 of 2\n" in output.err
    assert "NONE IS FEASIBLE; the fastest" in " ".join(output.out.split())


def test_when_every_point_fails_the_reason_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "none.yaml"
    file.write_text("model: phi-3.5-moe\nlayer: 99\nfields: {tokens: [4, 8]}\n")
    assert run(["sweep", str(file), "-o", str(tmp_path / "out"), "-e", "serial"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: none of 2 points could run; 2 of them: synthetic routing for phi-3.5-moe, seed 0: ")


@pytest.mark.parametrize("wrong", ["layer: 99", "tokens: 99999", "mix: single-request\ntokens: 999"])
def test_a_routing_that_no_point_has_is_known_before_anything_runs(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none.yaml"
    file.write_text(f"model: phi-3.5-moe\n{wrong}\nfields: {{strategy: [ep, tp]}}\n")
    assert run(["sweep", str(file), "-o", str(tmp_path / "out"), "-e", "serial"]) == 2
    assert capsys.readouterr().err.startswith("error: synthetic routing for phi-3.5-moe, seed 0: ")
    assert not (tmp_path / "out").exists()


def test_where_nothing_can_be_drawn_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "none.yaml"
    file.write_text("model: phi-3.5-moe\nfields: {layer: [98, 99]}\n")
    assert run(["sweep", str(file), "-o", str(tmp_path / "out"), "-e", "serial"]) == 2
    capsys.readouterr()
    assert run(["plot", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: nothing can be drawn: no heatmap: ")
    assert not (tmp_path / "out/pictures").exists()


def test_killed_by_kill_9_it_goes_on_with_nothing_lost_and_nothing_stored_twice(spec: Path, reference: bytes) -> None:
    command = [*PROGRAM, "sweep", str(spec), "--workers", "2", "--json", "--output"]
    process, out = _stopped_half_way(command, spec.parent, lambda out: len(_rows(out)) > 0, POINTS)
    children = _workers_of(process.pid)
    process.kill()
    process.communicate()
    kept = _rows(out)
    _wait_for(lambda: not any(_alive(pid) for pid in children))  # no worker outlives the program
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["ran"] == POINTS - len(kept)
    rows = _rows(out)
    assert len(rows) == len(set(rows)) == POINTS
    assert (out / "results.parquet").read_bytes() == reference


def test_a_search_killed_by_kill_9_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    needs_module("optuna", "explore")
    spec, whole = tmp_path / "designs.yaml", tmp_path / "whole"
    spec.write_text(SEARCH)
    search(load_search(spec), whole, make_executor("serial"))
    designs = pq.read_table(whole / "results.parquet").num_rows
    command = [*PROGRAM, "search", str(spec), "--workers", "2", "--json", "--output"]
    lines = (whole / "journal.log").read_bytes().count(b"\n")

    def half(out: Path) -> bool:
        journal = out / "journal.log"
        return journal.exists() and journal.read_bytes().count(b"\n") > lines // 2

    process, out = _stopped_half_way(command, tmp_path, half, designs)
    process.kill()
    process.communicate()
    kept = len(_rows(out))
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["ran"] == designs - kept
    rows = _rows(out)
    assert len(rows) == len(set(rows))
    for name in ("results.parquet", "search.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def _workers_of(pid: int) -> list[int]:
    """Worker processes of a running sweep."""
    listed = subprocess.run(["pgrep", "-P", str(pid), "-f", "spawn_main"], capture_output=True, text=True, check=False)
    return [int(child) for child in listed.stdout.split()]


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().split()[2] != "Z"


def test_a_worker_process_that_dies_costs_no_row(spec: Path, reference: bytes) -> None:
    command = [*PROGRAM, "sweep", str(spec), "-j", "2", "--json", "-o"]
    process, out = _stopped_half_way(command, spec.parent, lambda out: len(_rows(out)) > 0, POINTS)
    os.kill(_workers_of(process.pid)[0], signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    assert (out / "results.parquet").read_bytes() == reference


def test_ctrl_c_while_workers_start_is_one_message(spec: Path) -> None:
    command = [*PROGRAM, "sweep", str(spec), "-j", "2", "-o", str(spec.parent / "out")]
    # a terminal's Ctrl-C reaches all processes of the program
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    _wait_for(lambda: process.poll() is not None or len(_workers_of(process.pid)) == 2)
    workers = _workers_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    assert err == b"error: interrupted; no file was left half-written; the same command goes on where it was\n"
    assert not any(_alive(pid) for pid in workers)


@contextmanager
def _cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and workers on loopback: its address, and the workers' processes."""
    dask = [sys.executable, "-m", "dask"]
    started: list[subprocess.Popen[bytes]] = []
    file = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        started.append(subprocess.Popen([*dask, "scheduler", *options], **quiet))  # type: ignore[call-overload]
        _wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        address = json.loads(file.read_text())["address"]
        options = [address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        options += ["--local-directory", str(folder)]
        started += [subprocess.Popen([*dask, "worker", *options], **quiet) for _ in range(workers)]  # type: ignore[call-overload]
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()  # a worker whose scheduler goes first may wait for it when it is asked to end
        for process in started:
            process.wait(30)


def test_dask_gives_the_same_bytes_though_a_worker_is_killed_half_way(spec: Path, reference: bytes) -> None:
    needs_module("distributed", "explore")
    with _cluster(spec.parent, 2) as (address, workers):
        command = [*PROGRAM, "sweep", str(spec), "--executor", "dask", "--address", address, "--json", "-o"]
        process, out = _stopped_half_way(command, spec.parent, lambda out: len(_rows(out)) > 0, POINTS)
        workers[0].kill()
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr.decode()
    assert json.loads(stdout) | {"results": ""} == {
        "results": "",
        "points": POINTS,
        "ran": POINTS,
        "failed": 0,
        "feasible": POINTS,
    }
    assert (out / "results.parquet").read_bytes() == reference


def test_a_strategy_of_a_user_travels_to_dask_workers_but_what_it_imports_does_not(tmp_path: Path) -> None:
    """The worker is in another folder, and the file's name is relative."""
    needs_module("distributed", "explore")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    (here / "only_here.py").write_text("NAME = 'tp'\n")
    text = "import dataclasses\nfrom expertstream.strategy import get_strategy\n"
    (here / "good.py").write_text(f"{text}Mine = dataclasses.replace(get_strategy('tp'), name='mine')\n")
    (here / "bad.py").write_text(
        f"{text}import only_here\nMine = dataclasses.replace(get_strategy(only_here.NAME), name='mine')\n"
    )
    with _cluster(there, 1) as (address, _):
        done = {}
        for name in ("good", "bad"):
            (here / f"{name}.yaml").write_text(
                f"model: olmoe-1b-7b\nstrategy: {name}.py:Mine\nfields: {{tokens: [4]}}\n"
            )
            command = [*PROGRAM, "sweep", f"{name}.yaml", "-o", name, "--json", "-e", "dask", "--address", address]
            environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
            done[name] = subprocess.run(
                command, cwd=here, env=environment, capture_output=True, text=True, check=False, timeout=300
            )
    assert json.loads(done["good"].stdout)["failed"] == 0, done["good"].stderr
    assert done["bad"].returncode == 2
    assert re.search(
        r"error: Dask worker tcp://127\.0\.0\.1:\d+ on \S+: \S*bad\.py:3: ModuleNotFoundError: No module named "
        r"'only_here'; install there what is installed here, and run the same command again to go on",
        " ".join(done["bad"].stderr.split()),
    )
    assert not _rows(here / "bad")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("", ["--executor", "slurm"], "--executor 'slurm' is unknown; allowed: serial, processes, dask"),
        ("", ["--address", "tcp://127.0.0.1:1"], "--address is for --executor dask, not processes"),
        ("fields: {tokns: [1]}", [], "bad.yaml:2:10: fields.tokns: there is no field 'tokns'; did you mean 'tokens'?"),
    ],
)
def test_bad_calls(
    tmp_path: Path, change: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"model: phi-3.5-moe\n{change or 'fields: {tokens: [1]}'}\n")
    assert run(["sweep", str(file), "-o", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dask_address_without_a_scheduler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_module("distributed", "explore")
    monkeypatch.setattr("expertstream.explore.executors.WAIT_S", 1)
    file = tmp_path / "one.yaml"
    file.write_text("model: phi-3.5-moe\nfields: {tokens: [1]}\n")
    for address in ("tcp://127.0.0.1:1", "nowhere"):
        assert run(["sweep", str(file), "-o", str(tmp_path / "out"), "-e", "dask", "--address", address]) == 2
        error = capsys.readouterr().err
        assert f"cannot reach a Dask scheduler at '{address}'" in error
        assert "start one with 'dask scheduler' and give its address, such as tcp://127.0.0.1:8786" in error
