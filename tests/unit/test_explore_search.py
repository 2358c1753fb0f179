"""Searches and recommendations: fronts, hypervolume, resuming, and that designs that break a limit are not named."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from expertstream.analysis import Budget
from expertstream.errors import ConfigError
from expertstream.explore import SearchSpec, journal, recommend, search
from expertstream.explore.executors import Serial
from expertstream.explore.pareto import front, hypervolume
from expertstream.explore.recommend import GOALS, SAME, _changes
from expertstream.explore.search import Search
from tests.needs import needs_module

FIELDS = {
    "package.channels.bandwidth": ["12.8 GB/s", "25.6 GB/s", "51.2 GB/s"],
    "package.die.weight_buffer": ["1 KiB", "2 MiB", "4 MiB", "8 MiB"],
    "strategy": ["tp", "fse-dp"],
}


@pytest.fixture(autouse=True)
def _optuna() -> None:
    needs_module("optuna", "explore")


def spec(**changes: object) -> SearchSpec:
    values = {
        "model": "phi-3.5-moe",
        "tokens": 8,
        "fields": FIELDS,
        "limits": ["rated_power_w <= 50"],
        "where": ["strategy != 'tp' or package.die.weight_buffer > 2 MiB"],
        "objectives": {"latency_ps": "minimize", "die_area_mm2": "minimize"},
        "trials": 30,
        "population": 6,
    }
    return SearchSpec.model_validate({**values, **changes})


def test_front_and_hypervolume_by_hand() -> None:
    values = np.array([[1.0, 4.0], [2.0, 2.0], [2.0, 3.0], [4.0, 1.0], [2.0, 2.0], [5.0, 5.0]])
    assert front(values).tolist() == [0, 1, 3]
    # up to (6, 6): 5 x 2 for the first, 4 x 2 more for the second, 2 x 1 more for the third
    assert hypervolume(values, np.array([6.0, 6.0])) == 5 * 2 + 4 * 2 + 2 * 1
    assert hypervolume(values, np.array([1.0, 1.0])) == 0
    assert hypervolume(np.array([[3.0]]), np.array([5.0])) == 2


def test_hypervolume_of_three_objectives_is_a_count_of_unit_cubes() -> None:
    rng = np.random.default_rng(3)
    points = rng.integers(0, 6, (12, 3))
    cubes = sum(
        any(all(p <= c for p, c in zip(point, cube, strict=True)) for point in points.tolist())
        for cube in itertools.product(range(6), repeat=3)
    )
    assert hypervolume(points.astype(np.float64), np.full(3, 6.0)) == cubes


def test_the_front_is_that_of_all_feasible_designs(tmp_path: Path) -> None:
    found = search(spec(), tmp_path / "out", Serial())
    rows = [row for row in found.table.to_pylist() if row["feasible"]]
    assert 0 < len(rows) < found.table.num_rows  # some break the limit or fail
    assert all(row["rated_power_w"] <= 50 for row in found.front)
    assert not any(row["strategy"] == "tp" and row["package.die.weight_buffer"] <= 2 << 20 for row in rows)
    for row in rows:
        better = [
            other
            for other in rows
            if other["latency_ps"] <= row["latency_ps"] and other["die_area_mm2"] < row["die_area_mm2"]
        ]
        if row["hash"] in {one["hash"] for one in found.front}:
            assert not better
    assert list(found.history) == sorted(found.history)
    assert len(found.history) == 30
    assert 0 < found.history[-1] <= 1


def _same(one: Search, other: Search) -> bool:
    return one.table.equals(other.table) and one.history == other.history and one.front == other.front


def test_the_seed_decides_and_a_stopped_search_goes_on_the_same_way(tmp_path: Path) -> None:
    whole = search(spec(), tmp_path / "whole", Serial())
    assert _same(whole, search(spec(), tmp_path / "twice", Serial()))
    assert not whole.table.equals(search(spec(seed=1), tmp_path / "other", Serial()).table)
    stopped = 0
    for stop_at in (1, 3):

        def stop(done: int, total: int, what: str, stop_at: int = stop_at) -> None:
            if done >= 6 * stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(spec(), tmp_path / "parts", Serial(), progress=stop)
        stopped += 1
    again = search(spec(), tmp_path / "parts", Serial())
    assert stopped == 2
    assert _same(whole, again)
    assert again.ran < whole.ran


def test_killed_between_asking_and_telling_the_same_designs_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(spec(), tmp_path / "whole", Serial())
    with monkeypatch.context() as patch:

        def killed(*_: object, **__: object) -> int:
            raise KeyboardInterrupt

        patch.setattr(sys.modules["expertstream.explore.search"], "run_jobs", killed)
        with pytest.raises(KeyboardInterrupt):
            search(spec(), tmp_path / "out", Serial())
    shutil.rmtree(tmp_path / "out/shards")
    assert _same(whole, search(spec(), tmp_path / "out", Serial()))


def test_a_full_disk_is_one_message_and_the_search_goes_on_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(spec(), tmp_path / "whole", Serial())
    append, calls = journal._append, []

    def full(file: Path, text: bytes) -> None:
        calls.append(text)
        if len(calls) == 60:
            append(file, text[:12])  # as far as the disk had room
            raise OSError(28, "No space left on device")
        append(file, text)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_append", full)
        with pytest.raises(ConfigError) as caught:
            search(spec(), tmp_path / "out", Serial())
    assert str(caught.value) == (
        f"cannot write '{tmp_path / 'out/journal.log'}': No space left on device; all finished rows are safe, run the "
        "same command again to go on"
    )
    assert _same(whole, search(spec(), tmp_path / "out", Serial()))


def _zeros(lines: list[bytes]) -> list[bytes]:
    return [*lines[:20], b"\x00" * 20 + b"\n", *lines[20:]]


def _no_object(lines: list[bytes]) -> list[bytes]:
    return [b"[1]\n", *lines]


def _another_number(lines: list[bytes]) -> list[bytes]:
    """The result of a trial, or a value that it tried, in one digit."""
    at = next(i for i, line in enumerate(lines) if b'"values":[' in line)
    return [*lines[:at], lines[at].replace(b'"values":[', b'"values":[1'), *lines[at + 1 :]]


DAMAGES = {
    "zeros": _zeros,
    "no object": _no_object,
    "another number": _another_number,
    "a line lost": lambda lines: [*lines[:30], *lines[31:]],
    "a line twice": lambda lines: [*lines[:30], lines[29], *lines[30:]],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_set_aside_and_no_design_is_simulated_twice(tmp_path: Path, damage: str) -> None:
    whole = search(spec(), tmp_path / "out", Serial())
    journal = tmp_path / "out/journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(DAMAGES[damage](lines)))
    (tmp_path / "out/journal.log.lock").symlink_to(journal)  # left by a process that was killed
    again = search(spec(), tmp_path / "out", Serial())
    assert _same(whole, again)
    assert again.ran == 0
    assert (tmp_path / "out/journal.damaged").exists()


def test_no_feasible_design(tmp_path: Path) -> None:
    found = search(spec(limits=["die_area_mm2 <= 1"], trials=8), tmp_path / "out", Serial())
    assert found.front == ()
    assert found.history == (0.0,) * 8


def test_recommended_designs_meet_every_demand_and_no_neighbour_is_better(tmp_path: Path) -> None:
    found = recommend(
        "phi-3.5-moe", tmp_path / "out", tokens=8, budget=Budget(30, 60), tokens_per_s=100, trials=24, executor=Serial()
    )
    assert found.met
    assert {goal for design in found.designs for goal in design.best_at} == set(GOALS)
    for design in found.designs:
        assert design.row["die_area_mm2"] <= 30
        assert design.row["rated_power_w"] <= 60
        assert design.row["model_tokens_per_s"] >= 100
        assert design.reasons[0].startswith("limited by ")
        assert any(" instead of " in reason for reason in design.reasons)
        if "fastest" in design.best_at:
            assert not [row for row in found.search.front if row["latency_ps"] < design.row["latency_ps"] / SAME]
        if "best balance" in design.best_at:
            least = min(r["latency_ps"] * r["energy_pj"] * r["die_area_mm2"] for r in found.search.front)
            assert design.row["latency_ps"] * design.row["energy_pj"] * design.row["die_area_mm2"] <= least


def test_demands_that_no_design_meets_name_what_is_missed(tmp_path: Path) -> None:
    found = recommend("phi-3.5-moe", tmp_path / "out", tokens=8, budget=Budget(3, 60), trials=8, executor=Serial())
    assert not found.met
    reasons = found.designs[0].reasons
    assert any(reason.startswith("misses the area: ") for reason in reasons)
    assert any(reason.startswith("no design keeps to the budget: the least area is ") for reason in reasons)
    options = {"tokens": 8, "budget": Budget(30, 60), "trials": 8, "executor": Serial()}
    found = recommend("phi-3.5-moe", tmp_path / "fast", tokens_per_s=1e6, **options)
    reasons = found.designs[0].reasons
    assert not found.met
    assert any(reason.startswith("misses the speed: ") for reason in reasons)
    assert any(reason.startswith("the fastest design within the budget does ") for reason in reasons)
    for wrong in (-1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=f"tokens/s is {wrong}; it must be above 0 and finite"):
            recommend("phi-3.5-moe", tmp_path / "other", tokens_per_s=wrong)


def test_each_demand_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"tokens": 8, "trials": 4, "executor": Serial()}
    folders = {recommend("phi-3.5-moe", budget=Budget(area, 60), **options).folder for area in (0.1, 0.2, 0.1)}
    assert len(folders) == 2
    assert all(folder.is_dir() for folder in folders)


def test_a_search_without_a_design_that_meets_the_conditions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the conditions of 'where' leave none of 8 points"):
        search(spec(where=["package.die.weight_buffer < 1 KiB"], trials=8), tmp_path / "out", Serial())


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r'Optuna is not installed; pip install "expertstream\[explore\]"'):
        search(spec(), tmp_path / "out", Serial())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ((-0.03, 0.004, 0.12), "-3 % latency, +12 % area; same energy"),
        ((0.2, -0.5, 0.006), "+20 % latency, -50 % energy, +1 % area"),
        ((-0.001, 0.0, 0.12), "+12 % area; same latency, energy"),
        ((0.001, -0.001, 0.0), "same latency, energy, area"),
    ],
)
def test_what_rounds_to_no_change_is_called_the_same(changes: tuple[float, float, float], text: str) -> None:
    names = ("latency_ps", "energy_pj", "die_area_mm2")
    row = dict.fromkeys(names, 1000.0)
    assert _changes({name: 1000 * (1 + by) for name, by in zip(names, changes, strict=True)}, row) == text


MORE = "some designs ask for more tokens than there are ({tokens}), so nothing was run. "


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({"fields": {**FIELDS, "tokens": [8, 99999, 88888]}}, "99999"),
        ({"fields": {**FIELDS, "tokens": {"from": 8, "to": 99999}}}, "99999"),
        ({"fields": {**FIELDS, "tokens": {"from": 8, "to": 99999}}, "where": ["tokens < 90000"]}, "89999"),
        ({"fields": {**FIELDS, "mix": ["round-robin", "single-request"]}, "tokens": 9000}, "9000"),
    ],
)
def test_too_many_tokens_are_known_before_a_search_begins(tmp_path: Path, changes: dict, tokens: str) -> None:
    with pytest.raises(ConfigError) as error:
        search(spec(**changes), tmp_path / "out", Serial())
    assert str(error.value).startswith(MORE.format(tokens=tokens))
    assert str(error.value).endswith("; or leave the designs out, as in 'where: [tokens <= 1024]'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["tokens <= 8", "tokens < 9 and tokens > 1", "tokens in (4, 8)"])
def test_a_search_may_leave_out_the_tokens_that_there_are_not(tmp_path: Path, where: str) -> None:
    fields = {"strategy": ["tp"], "tokens": [4, 8, 99999]}
    found = search(spec(fields=fields, where=[where], trials=6), tmp_path / "out", Serial())
    assert {row["tokens"] for row in found.table.to_pylist()} <= {4, 8}
