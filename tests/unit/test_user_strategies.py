"""Strategies of users: how they are given, and what is said when they are wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import expertstream as es
from expertstream.cli.main import run
from expertstream.errors import ConfigError, WorkloadError
from expertstream.strategy import get_strategy, registry
from tests.property.cases import routing_of

MODEL = es.MoEModel.one_layer(d_model=8, d_ffn=16, n_experts=4, top_k=2)
PACKAGE = es.Package.preset("test-chip-2x2")
ROUTING = routing_of(MODEL, 6, 1.0, 0)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "data_parallel.py"
WANTED = (
    "it must be an expertstream.Strategy, or a class whose objects have a name, a summary and a plan(workload, options)"
)
HEAD = "import dataclasses\nimport expertstream as es\nfrom expertstream.strategy import get_strategy\n"
BASE = "base = get_strategy('fse-dp').plan(workload, es.Options(micro_slices=2))"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _simulate(strategy: str | es.Strategy) -> es.Result:
    return es.simulate(MODEL, PACKAGE, ROUTING, strategy)


def _plan(*lines: str) -> str:
    """A file with a class whose plan has these lines (line 7 and on)."""
    body = "".join(f"        {line}\n" for line in lines)
    return f"{HEAD}class Mine:\n    name, summary = 'mine', 'text'\n    def plan(self, workload, options):\n{body}"


def test_the_example_runs_and_is_right() -> None:
    result = _simulate(f"{EXAMPLE}:DataParallel")
    assert result.strategy == "data-parallel"
    assert result.prove() <= 1e-10


def test_an_object_is_as_good_as_a_name() -> None:
    built_in = get_strategy("fse-dp")
    mine = es.Strategy("mine", "the same", built_in.plan)
    assert _simulate(mine).latency_ps == _simulate("fse-dp").latency_ps
    trace = es.synthesize(MODEL, requests=2, tokens_per_request=20, layers=[0])
    found = es.compare(MODEL, PACKAGE, trace, tokens=[4], strategies=["fse-dp", mine], baseline=mine)
    assert [(row["strategy"], row["speedup"]) for row in found.rows] == [("fse-dp", 1.0), ("mine", 1.0)]


def test_two_strategies_of_one_name_cannot_be_compared() -> None:
    trace = es.synthesize(MODEL, requests=2, tokens_per_request=20, layers=[0])
    mine = es.Strategy("ep", "not the real one", get_strategy("fse-dp").plan)
    with pytest.raises(ConfigError, match="strategies to compare need names of their own; these are ep, ep"):
        es.compare(MODEL, PACKAGE, trace, tokens=[4], strategies=["ep", mine])


def test_compare_takes_a_file_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "qwen3-30b-a3b", "-n", "4", "--layers", "1", "-s", "fse-dp", "--prove"]
    own = f"{EXAMPLE}:DataParallel"
    assert run([*arguments, "--strategy", own, "--baseline", "data-parallel"]) == 0
    out = capsys.readouterr().out
    assert "over data-parallel" in out
    assert "proven: 2 timelines" in out
    assert run([*arguments[:-2], f"fse-dp,{own}"]) == 0
    assert "data-parallel" in capsys.readouterr().out
    assert run(["simulate", "qwen3-30b-a3b", "-n", "4", "--strategy", own, "--prove"]) == 0


FILES = {
    "no such name": ("A = 1\nclass Mine:\n    plan = print\n", "mine.py:Mein"),
    "no name": ("class Mine:\n    plan = print\n", "mine.py"),
    "empty": ("", "mine.py:Mine"),
    "not a strategy": ("Mine = 7\n", "mine.py:Mine"),
    "a function": ("def Mine(workload, options):\n    pass\n", "mine.py:Mine"),
    "no summary": ("class Mine:\n    name = 'mine'\n    plan = print\n", "mine.py:Mine"),
    "syntax": ("class Mine\n    pass\n", "mine.py:Mine"),
    "fails when imported": ("import math\n\nmath.sqrt(-1)\n", "mine.py:Mine"),
    "exits": ("import sys\nsys.exit('bye')\n", "mine.py:Mine"),
    "fails when made": ("class Mine:\n    plan = print\n    def __init__(self):\n        self.x\n", "mine.py:Mine"),
    "bad name": (f"{HEAD}Mine = es.Strategy('a,b', '', print)\n", "mine.py:Mine"),
    "no plan": (f"{HEAD}Mine = es.Strategy('a', '', 3)\n", "mine.py:Mine"),
    "plan fails": (_plan("x = 0", "return 1 // x"), "mine.py:Mine"),
    "plan returns nothing": (_plan("pass"), "mine.py:Mine"),
    "dispatcher fails": (
        _plan(BASE, "return dataclasses.replace(base, dispatcher=self)")
        + "    def decide(self, view):\n        return view.groups\n",
        "mine.py:Mine",
    ),
    "wrong shape": (_plan(BASE, "return dataclasses.replace(base, buffer_bytes=base.buffer_bytes[0])"), "mine.py:Mine"),
    "wrong tag": (_plan(BASE, "return dataclasses.replace(base, slices=base.slices[:3])"), "mine.py:Mine"),
    "no such die": (_plan(BASE, "base.work.add_chunks(group=0, bytes=1, die=[[4]])", "return base"), "mine.py:Mine"),
    "a channel's other end": (
        _plan(BASE, "base.work.add_chunks(group=0, bytes=1, die=[[1]], channel=0)", "return base"),
        "mine.py:Mine",
    ),
    "no such gate": (
        _plan(BASE, "base.work.add_chunks(group=0, bytes=1, die=[[1]], gate=999)", "return base"),
        "mine.py:Mine",
    ),
    "no such group": (
        _plan(BASE, "return dataclasses.replace(base, dispatcher=self)")
        + "    def decide(self, view):\n        return [99]\n",
        "mine.py:Mine",
    ),
}
MESSAGES = {
    "no such name": "'mine.py' defines no 'Mein'; did you mean 'Mine'? Strategies in it: Mine; write mine.py:Name",
    "no name": "'mine.py' needs a name. Strategies in it: Mine; write mine.py:Name",
    "empty": "'mine.py' defines no 'Mine'. Strategies in it: none; write mine.py:Name",
    "not a strategy": f"'Mine' of mine.py is of type int; {WANTED}",
    "a function": f"'Mine' of mine.py is of type function; {WANTED}",
    "no summary": f"'Mine' of mine.py has no summary (a text); {WANTED}",
    "syntax": "mine.py:1: not valid Python: expected ':'",
    "fails when imported": "mine.py:3: ValueError: math domain error",
    "exits": "mine.py:2: SystemExit: bye",
    "fails when made": "mine.py:4, in __init__: AttributeError: 'Mine' object has no attribute 'x'",
    "bad name": "mine.py:4: a strategy's name is 'a,b'; it must be a text without commas, such as 'mine'",
    "no plan": "mine.py:4: the plan of strategy 'a' is 3; it must be a function plan(workload, options)",
    "plan fails": "mine.py:8, in plan: ZeroDivisionError: integer division or modulo by zero",
    "plan returns nothing": "the plan of strategy 'mine' is of type NoneType; plan(workload, options) must return an "
    "expertstream.Plan",
    "dispatcher fails": "mine.py:10, in decide: AttributeError: 'View' object has no attribute 'groups'",
    "wrong shape": "the plan of strategy 'mine' has buffer_bytes int64 [2]; int64 [4, 2] needed",
    "wrong tag": "the plan of strategy 'mine' has chunks with tags -1 to 31, but 3 slices; a tag is a row of slices, "
    "or -1 for a chunk without weights",
    "no such die": "die of a stop of chunk 40 is 4; it must be from 0 to 3",
    "a channel's other end": "chunk 40 begins at die 1, but its DDR channel, 0, loads into 0; let it begin there",
    "no such gate": "gate of chunk 40 is 999; it must be from -1 to 0",
    "no such group": "the dispatcher admits group 99; the groups are 0 to 4",
}


@pytest.mark.parametrize("fault", FILES)
def test_a_wrong_file_is_one_clear_message(fault: str) -> None:
    text, reference = FILES[fault]
    Path("mine.py").write_text(text)
    with pytest.raises((ConfigError, WorkloadError)) as caught:
        _simulate(reference)
    assert str(caught.value).replace(str(Path.cwd()) + "/", "") == MESSAGES[fault]


def test_a_missing_file_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "qwen3-30b-a3b", "--strategy", "gone.py:Mine"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no strategy file 'gone.py'; write --strategy path/to/file.py:Name\n"
    )


def test_a_fault_of_a_built_in_strategy_is_not_blamed_on_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["expertstream.simulate"], "plan_on", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        _simulate("fse-dp")


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution with an entry point for mine.py:Mine, installed in a folder."""
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[expertstream.strategies]\nmine = plug_in_of_a_test:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._strategies.cache_clear()
    yield tmp_path / "plug_in_of_a_test.py"
    registry._strategies.cache_clear()


def test_an_entry_point_adds_a_strategy(plug_in: Path) -> None:
    plug_in.write_text(_plan(BASE, "return base"))
    assert es.strategy_names()[-1] == "mine"
    assert _simulate("mine").prove() <= 1e-10


def test_an_entry_point_that_fails_is_named(plug_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "plug_in_of_a_test", raising=False)
    plug_in.write_text("import no_such_module\n")
    with pytest.raises(ConfigError) as caught:
        es.strategy_names()
    assert str(caught.value) == (
        "entry point 'mine' of group expertstream.strategies (plug_in_of_a_test:Mine) cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'; repair or uninstall that plug-in"
    )
