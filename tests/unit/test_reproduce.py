"""The frame of reproductions: cached rows, resuming, equal bytes, bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from expertstream.cli.main import run
from expertstream.errors import ConfigError, WorkloadError
from expertstream.explore import make_executor
from expertstream.reproduce import Claim, Setting, Study, all_studies, chosen_studies, reproduce
from expertstream.reproduce import cache as cache_module
from expertstream.reproduce.cache import hash_of
from expertstream.reproduce.layers import layer_points
from expertstream.reproduce.means import interval
from expertstream.reproduce.study import Point, Row

TINY = Setting(seeds=2, layers=2, tokens=(16,))


def square(point: Point) -> Row:
    if point["x"] < 0:
        raise WorkloadError("no root")
    return {"square": point["x"] ** 2}


def _draw(rows: Sequence[Row]) -> Figure:
    figure = Figure()
    figure.subplots().plot([row["x"] for row in rows], [row["square"] for row in rows])
    return figure


def _study(*values: float) -> Study:
    return Study(
        name="squares",
        title="Squares",
        section="none",
        points=lambda setting: [{"x": x} for x in values],
        measure=square,
        table=list,
        draw=_draw,
        claims=lambda rows: [Claim("I", "they grow", f"up to {max(row['square'] for row in rows)}", "agrees")],
    )


def test_rows_are_kept_and_only_new_points_run(tmp_path: Path) -> None:
    serial = make_executor("serial")
    first = reproduce([_study(1, 2)], tmp_path, Setting(), serial)[0]
    assert (first.points, first.ran) == (2, 2)
    assert reproduce([_study(1, 2)], tmp_path, Setting(), serial)[0].ran == 0
    more = reproduce([_study(2, 3, 3)], tmp_path, Setting(), serial)[0]
    assert (more.points, more.ran) == (3, 1)
    assert (tmp_path / "squares.csv").read_text() == '"x","square"\n2,4\n3,9\n3,9\n'
    about = json.loads((tmp_path / "squares.json").read_text())
    assert about["claims"] == [
        {"section": "I", "claimed": "they grow", "ours": "up to 9", "verdict": "agrees", "why": ""}
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "cache",
        "squares.csv",
        "squares.json",
        "squares.png",
        "squares.svg",
    ]


def test_the_table_has_every_column_of_any_row_in_six_digits(tmp_path: Path) -> None:
    rows = [{"x": 1, "square": 1}, {"x": 2, "square": 4, "third": 1 / 3}]
    study = replace(_study(1, 2), table=lambda _: rows)
    reproduce([study], tmp_path, Setting(), make_executor("serial"))
    assert (tmp_path / "squares.csv").read_text() == '"x","square","third"\n1,1,\n2,4,0.333333\n'


def test_rows_of_other_sources_are_never_shown_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = make_executor("serial")
    reproduce([_study(1, 2)], tmp_path, Setting(), serial)
    monkeypatch.setattr(cache_module, "fingerprint", lambda: "changed")
    assert reproduce([_study(1, 2)], tmp_path, Setting(), serial)[0].ran == 2
    assert len(list((tmp_path / "cache/shards").glob("*.parquet"))) == 1


def test_of_a_trace_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (hash_of(square, {"x": 1, "trace": str(tmp_path / name)}) for name in "abc")
    assert a == b != c


def test_a_point_that_cannot_be_measured_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        reproduce([_study(1, 2, -1)], tmp_path, Setting(), make_executor("serial"))
    assert str(caught.value) == 'squares cannot measure the point {"x": -1}: no root'
    assert not (tmp_path / "squares.csv").exists()
    assert reproduce([_study(1, 2)], tmp_path, Setting(), make_executor("serial"))[0].ran == 0


def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    study = all_studies()["fig9"]
    reproduce([study], tmp_path / "1", TINY, make_executor("serial"))
    reproduce([study], tmp_path / "2", TINY, make_executor("processes", workers=2))
    for ending in ("png", "svg", "csv", "json"):
        one, two = ((tmp_path / folder / f"fig9.{ending}").read_bytes() for folder in "12")
        assert one == two, ending


PROGRAM = """
from expertstream.explore import make_executor
from expertstream.reproduce import Setting, all_studies, reproduce
if __name__ == "__main__":
    setting = Setting(seeds=2, layers=4, tokens=(16,))
    print(reproduce([all_studies()["fig9"]], {out!r}, setting, make_executor("processes", workers=1))[0].ran)
"""


def test_killed_by_kill_9_it_goes_on(tmp_path: Path) -> None:
    program, out = tmp_path / "program.py", tmp_path / "out"
    program.write_text(PROGRAM.format(out=str(out)))
    command = [sys.executable, str(program)]
    process = subprocess.Popen(command)
    until = time.monotonic() + 60
    while not list((out / "cache/shards").glob("*.parquet")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "fig9.csv").exists()
    points = len(all_studies()["fig9"].points(Setting(seeds=2, layers=4, tokens=(16,))))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < int(again.stdout) < points
    assert (out / "fig9.csv").exists()


def test_intervals_are_those_of_students_t() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)  # t(0.975, 2) from tables
    assert interval([5.0]) == (5, 0)


def test_studies_have_the_names_of_their_modules_and_figures_come_in_order() -> None:
    names = list(all_studies())
    figures = [int(name.removeprefix("fig")) for name in names if name.startswith("fig")]
    assert figures == sorted(figures)
    assert names[: len(figures)] == [f"fig{number}" for number in figures]
    for name, study in all_studies().items():
        assert sys.modules[f"expertstream.reproduce.studies.{name}"].STUDY is study  # type: ignore[attr-defined]
    assert chosen_studies(["fig9", "all", "fig9"])[0].name == "fig9"
    assert [study.name for study in chosen_studies(["all"])] == names[: len(figures)]
    assert [study.name for study in chosen_studies(["everything"])] == names


def test_a_claim_that_is_not_met_says_why() -> None:
    with pytest.raises(ConfigError, match="the claim 'x' is called 'differs' but does not say why"):
        Claim("I", "x", "y", "differs")
    with pytest.raises(ConfigError, match="the verdict 'nearly' is unknown; allowed: agrees, differs, not comparable"):
        Claim("I", "x", "y", "nearly")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fig99"], "there is no study 'fig99'; did you mean 'fig9'? Available: "),
        (["fig9", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["fig9", "--workers", "0"], "--workers is 0; it must be at least 1"),
        (["fig9", "--traces", "nowhere"], "--traces 'nowhere' is not a folder; give one that holds captures (.npz,"),
        (["fig9", "--traces", "."], "--traces '.' holds no capture that fits a model (0 files looked at); name"),
        (["fig9", "--output", "file/out"], "cannot use 'file/out' as a folder: Not a directory; give another one"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert run(["reproduce", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_list_names_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "list", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(all_studies())
    assert run(["reproduce"]) == 0
    assert "Latency of one MoE layer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "points", "of_each_layer"),
    [
        (Setting(), 48, 1),  # ten seeds share 48 layers
        (Setting(full=True), 480, 10),
        (Setting(seeds=60), 60, 1),  # more seeds than layers: some layers twice
        (Setting(seeds=1), 48, 1),
    ],
)
def test_every_layer_is_covered(setting: Setting, points: int, of_each_layer: int) -> None:
    found = layer_points(setting, tokens=[16], sources={"qwen3-30b-a3b": None})
    assert len(found) == points
    assert {point["seed"] for point in found} == set(range(setting.seeds))
    counts = Counter(point["layer"] for point in found)
    assert set(counts) == set(range(48))
    assert min(counts.values()) == of_each_layer
    assert all(point["drawn"][0] <= point["layer"] <= point["drawn"][1] for point in found)


def test_captures_are_cut_in_windows_and_layers_shared_out(real_traces: Path) -> None:
    file = next(real_traces.glob("qwen1.5*gsm8k*.npz"))
    points = all_studies()["fig9"].points(replace(TINY, layers=None, traces=(file,), tokens=(64, 1024)))
    captured = [p for p in points if p.get("trace") and p["strategy"] == "ep"]
    assert {p["model"] for p in captured} == {"qwen1.5-moe-a2.7b"}
    at_64 = {(p["seed"], p["layer"]) for p in captured if p["tokens"] == 64}
    assert {layer for _, layer in at_64} == {0, 8, 12, 18, 23}
    assert len(at_64) == 5
    assert {seed for seed, _ in at_64} == {0, 1}
