"""Sweeps: rows, failures, resuming, damaged and foreign results, a full disk."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pyarrow.parquet as pq
import pytest

from expertstream.comparison import compare
from expertstream.errors import ConfigError, WorkerError
from expertstream.explore import SweepSpec, make_executor, sweep
from expertstream.explore import shards as shards_module
from expertstream.explore import store as store_module
from expertstream.explore.executors import DIED, Serial
from expertstream.explore.jobs import Inputs, jobs_of, points_of
from expertstream.explore.store import Store
from expertstream.explore.worker import BatchTask, Done, run_batch
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.trace import packaged_trace
from tests.damage import change_a_number
from tests.needs import needs_module

FIELDS = {"tokens": [4, 8], "strategy": ["tp", "fse-dp"], "package.die.weight_buffer": ["1 KiB", "8 MiB"]}


def spec(**changes: object) -> SweepSpec:
    return SweepSpec.model_validate({"model": "olmoe-1b-7b", "fields": FIELDS, **changes})


class Counting(Serial):
    """Serial, in batches of one job, that stops after some of them."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.ran: list[int] = []
        self._stop = stop_after

    def run(self, tasks: Iterator[BatchTask]) -> Iterator[Done]:  # type: ignore[override]
        for task in tasks:
            for job in task.batch.jobs:
                if len(self.ran) == self._stop:
                    raise KeyboardInterrupt
                self.ran.append(job.number)
                yield run_batch(replace(task.batch, jobs=(job,)))


def test_rows_are_what_simulate_says_and_failures_are_rows(tmp_path: Path) -> None:
    found = sweep(spec(limits=["die_area_mm2 <= 30"]), tmp_path / "out", Serial())
    rows = found.table.to_pylist()
    assert [row["point"] for row in rows] == list(range(8))
    assert found.ran == 8
    model = MoEModel.preset("olmoe-1b-7b")
    trace = packaged_trace(model)
    for row in rows:
        package = Package.preset("test-chip-2x2").replace(
            **{"die.weight_buffer_bytes": row["package.die.weight_buffer"]}
        )
        if row["status"] == "failed":
            assert row["package.die.weight_buffer"] == 1024
            assert "buffer" in row["message"]
            assert row["latency_ps"] is None
            assert not row["feasible"]
            continue
        routing = trace.iteration(row["tokens"], int(trace.layer_index[trace.layer_index.size // 2]))
        metrics = simulate(model, package, routing, row["strategy"]).metrics
        assert row["latency_ps"] == metrics.latency_ps
        assert row["energy_pj"] == metrics.energy.total_pj[1]
        assert row["energy_pj_high"] == metrics.energy.total_pj[2]
        assert row["die_area_mm2_low"] == metrics.area.total_mm2[0]
        assert row["feasible"] == (metrics.area.total_mm2[1] <= 30)
        shares = [row[f"stall_{cause}"] for cause in ("ddr", "d2d", "space", "other_die", "no_work")]
        assert sum(shares) + row["utilisation"] + row["overhead"] == pytest.approx(1)
        assert row["utilisation"] == pytest.approx(row["compute_bound_ps"] / row["latency_ps"])
    assert found.failed == sum(row["status"] == "failed" for row in rows) > 0
    assert pq.read_table(tmp_path / "out/results.parquet").equals(found.table)


def test_a_stopped_sweep_goes_on_and_runs_nothing_twice(tmp_path: Path) -> None:
    first = Counting(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        sweep(spec(), tmp_path / "out", first)
    assert not (tmp_path / "out/results.parquet").exists()
    second = Counting()
    found = sweep(spec(), tmp_path / "out", second)
    assert sorted(first.ran + second.ran) == list(range(8))
    assert found.ran == 5
    sweep(spec(), tmp_path / "whole", Serial())
    assert (tmp_path / "out/results.parquet").read_bytes() == (tmp_path / "whole/results.parquet").read_bytes()
    third = Counting()
    sweep(spec(), tmp_path / "out", third)
    assert third.ran == []


def test_failed_points_run_again_only_when_asked(tmp_path: Path) -> None:
    failed = sweep(spec(), tmp_path / "out", Serial()).failed
    again = Counting()
    found = sweep(spec(), tmp_path / "out", again, retry_failed=True)
    assert len(again.ran) == failed
    assert found.table.num_rows == 8


def _cut_off(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:100])


def _changed(shard: Path) -> None:
    change_a_number(shard, "ddr_bytes")


def _of_other_columns(shard: Path) -> None:
    pq.write_table(pq.read_table(shard).drop_columns("hash"), shard)


@pytest.mark.parametrize("damage", [_cut_off, _changed, _of_other_columns])
def test_a_damaged_file_of_rows_is_run_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    sweep(spec(), tmp_path / "out", Counting())
    whole = (tmp_path / "out/results.parquet").read_bytes()
    shard = sorted((tmp_path / "out/shards").iterdir())[2]
    damage(shard)
    again = Counting()
    found = sweep(spec(), tmp_path / "out", again)
    assert found.damaged == (shard.name,)
    assert len(again.ran) == 1
    assert (tmp_path / "out/results.parquet").read_bytes() == whole


def test_what_a_killed_run_left_is_deleted(tmp_path: Path) -> None:
    sweep(spec(), tmp_path / "out", Serial())
    before = sorted((tmp_path / "out/shards").iterdir())
    (tmp_path / "out/shards/.00000009.parquet.0123456789ab.tmp").write_bytes(b"half")
    assert sweep(spec(), tmp_path / "out", Serial()).ran == 0
    assert sorted((tmp_path / "out/shards").iterdir()) == before


def test_results_of_another_specification_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(spec(), tmp_path / "out", Serial())
    with pytest.raises(ConfigError) as caught:
        sweep(spec(fields={"tokens": [4]}), tmp_path / "out", Serial())
    assert str(caught.value) == (
        f"'{tmp_path / 'out'}' holds results of another specification (it differs in: fields); give another --output, "
        "or delete the folder"
    )
    monkeypatch.setattr(sys.modules["expertstream.explore.sweep"], "version", lambda _: "9.9")
    with pytest.raises(ConfigError, match=r"\(it differs in: fields, version\)"):
        sweep(spec(fields={"tokens": [4]}), tmp_path / "out", Serial())
    monkeypatch.undo()
    document = json.loads((tmp_path / "out/spec.json").read_text())
    (tmp_path / "out/spec.json").write_text(json.dumps(document | {"digest": "0"}))
    with pytest.raises(ConfigError, match="a model, package, trace or strategy has changed"):
        sweep(spec(), tmp_path / "out", Serial())


def _own_strategy(folder: Path, built_in: str) -> str:
    """A file with a strategy that is a built-in one; what ``strategy`` calls it."""
    (folder / "mine.py").write_text(
        "import dataclasses\nfrom expertstream.strategy import get_strategy\n"
        f"Mine = dataclasses.replace(get_strategy('{built_in}'), name='mine')\n"
    )
    return f"{folder}/mine.py:Mine"


def test_a_strategy_whose_file_has_changed_is_another_one(tmp_path: Path) -> None:
    own = _own_strategy(tmp_path, "tp")
    mine = spec(fields={"tokens": [4], "strategy": [own, "fse-dp"]})
    first = sweep(mine, tmp_path / "out", Serial()).table.to_pylist()
    _own_strategy(tmp_path, "fse-dp-naive")
    with pytest.raises(ConfigError, match="a model, package, trace or strategy has changed"):
        sweep(mine, tmp_path / "out", Serial())
    second = sweep(mine, tmp_path / "again", Serial()).table.to_pylist()
    assert [a["hash"] == b["hash"] for a, b in zip(first, second, strict=True)] == [False, True]
    assert first[0]["latency_ps"] != second[0]["latency_ps"]


def test_workers_need_no_file_of_a_strategy_and_all_run_the_same(tmp_path: Path) -> None:
    own = _own_strategy(tmp_path, "tp")
    inputs = Inputs(spec(fields={"tokens": [4], "strategy": [own, "tp"]}))
    batch = inputs.batch(jobs_of(inputs, points_of(inputs.spec)))
    (tmp_path / "mine.py").unlink()
    mine, tp = run_batch(batch).rows.to_pylist()
    assert mine["status"] == "ok"
    assert mine["latency_ps"] == tp["latency_ps"]


def test_a_worker_that_lacks_a_strategy_makes_no_row(tmp_path: Path) -> None:
    own = _own_strategy(tmp_path, "tp")
    inputs = Inputs(spec(fields={"tokens": [4], "strategy": [own]}))
    batch = inputs.batch(jobs_of(inputs, points_of(inputs.spec)))
    with pytest.raises(ConfigError, match=r"mine.py:1: ModuleNotFoundError: No module named 'not_here'$"):
        run_batch(replace(batch, strategies={own: b"import not_here"}))


def test_a_specification_that_is_no_object_is_refused(tmp_path: Path) -> None:
    sweep(spec(), tmp_path / "out", Serial())
    (tmp_path / "out/spec.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"spec.json' cannot be read; give another --output$"):
        sweep(spec(), tmp_path / "out", Serial())


def test_two_writers_are_refused(tmp_path: Path) -> None:
    first = Store(tmp_path / "out", [], {"digest": "1"})
    with pytest.raises(ConfigError, match="another run is writing to"):
        Store(tmp_path / "out", [], {"digest": "1"})
    first.close()
    Store(tmp_path / "out", [], {"digest": "1"}).close()


def test_a_full_disk_is_one_message_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(*args: object, **options: object) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(args)
        pq.write_table(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "pq", type("Full", (), {"write_table": write, "read_table": pq.read_table}))
        with pytest.raises(ConfigError, match="No space left on device; 3 rows are safe, run the same command again"):
            sweep(spec(), tmp_path / "out", Counting())
    assert [file.suffix for file in (tmp_path / "out/shards").iterdir()] == [".parquet"] * 3
    assert sweep(spec(), tmp_path / "out", Serial()).ran == 5


def test_a_disk_that_is_full_at_the_end_keeps_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "pq", SimpleNamespace(write_table=write))
        with pytest.raises(
            ConfigError, match="No space left on device; all 8 rows are safe, run the same command again"
        ):
            sweep(spec(), tmp_path / "out", Serial())
    assert not list((tmp_path / "out").glob("*results*"))
    assert sweep(spec(), tmp_path / "out", Serial()).ran == 0


def test_captured_traces_can_be_varied_and_too_many_tokens_are_known_before_anything_runs(tmp_path: Path) -> None:
    trace = tmp_path / "trace.parquet"
    whole = packaged_trace(MoEModel.preset("olmoe-1b-7b"))
    whole.save(trace)
    fields = {"trace": [str(trace)], "tokens": [8, 99999, 88888], "strategy": ["ep", "tp"]}
    with pytest.raises(ConfigError) as caught:
        sweep(spec(fields=fields), tmp_path / "out", Counting())
    assert str(caught.value) == (
        "4 of 6 points ask for more tokens than there are (88888, 99999), so nothing was run. "
        f"{whole.source}: 88888 tokens asked for, but the trace has {whole.n_tokens}; use fewer tokens per "
        "iteration or a longer trace; or leave the points out, as in 'where: [tokens <= 1024]'"
    )
    assert not (tmp_path / "out").exists()
    found = sweep(spec(fields=fields, where=["tokens <= 1024"]), tmp_path / "out", Serial())
    assert [row["status"] for row in found.table.to_pylist()] == ["ok", "ok"]


def test_strategies_that_are_fitted_get_a_training_part_and_all_are_judged_on_the_rest(tmp_path: Path) -> None:
    found = sweep(spec(fields={"strategy": ["hydra", "fse-dp"]}, tokens=16), tmp_path / "out", Serial())
    model, package = MoEModel.preset("olmoe-1b-7b"), Package.preset("test-chip-2x2")
    trace = packaged_trace(model)
    layer = int(trace.layer_index[trace.layer_index.size // 2])
    compared = compare(model, package, trace, tokens=[16], layers=[layer], strategies=["hydra", "fse-dp"])
    by_hand = [row["latency_ps"] for row in compared.rows]
    assert found.table["latency_ps"].to_pylist() == by_hand
    trace.save(tmp_path / "trace.parquet")
    again = spec(fields={"strategy": ["hydra", "fse-dp"]}, tokens=16, trace=str(tmp_path / "trace.parquet"))
    found = sweep(again, tmp_path / "file", make_executor("processes", workers=1))
    assert found.table["latency_ps"].to_pylist() == by_hand


def test_a_batch_carries_what_its_jobs_need_and_no_more() -> None:
    wanted = spec(fields={"tokens": list(range(1, 30))})
    inputs = Inputs(wanted)
    jobs = jobs_of(inputs, points_of(wanted))
    assert len(inputs.batch(jobs[:2]).routings) == 2
    assert len(inputs.batch(jobs).routings) == 29


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "slurm"}, "--executor 'slurm' is unknown; allowed: serial, processes, dask"),
        ({"kind": "serial", "address": "tcp://a:1"}, "--address is for --executor dask, not serial"),
        ({"kind": "processes", "workers": 0}, "--workers is 0; it must be at least 1"),
        ({"kind": "dask", "workers": 2, "address": "tcp://a:1"}, "--workers is for a cluster of this machine"),
    ],
)
def test_bad_executors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_executor(**options)  # type: ignore[arg-type]


class Pool:
    """Stands for a pool of processes; ``kills`` says of a task that the worker dies with it."""

    made: ClassVar[list[Pool]] = []
    kills: ClassVar[Callable[[BatchTask], bool]]

    def __init__(self, *_: object, **__: object) -> None:
        Pool.made.append(self)
        self.broken = False

    def submit(self, call: Callable[[BatchTask], Done], task: BatchTask) -> Future[Done]:
        if self.broken:
            raise BrokenProcessPool
        future: Future[Done] = Future()
        self.broken = Pool.kills(task)
        if self.broken:
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(call(task))
        return future

    def shutdown(self, **_: object) -> None:
        pass


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_worker_that_dies_once_costs_no_row(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("expertstream.explore.executors.ProcessPoolExecutor", Pool)
    monkeypatch.setattr(Pool, "made", [])
    monkeypatch.setattr(Pool, "kills", lambda _: len(Pool.made) == 1, raising=False)
    rows = _rows_in_batches_of(size)
    assert [row["status"] for row in rows] == ["failed", "ok"] * 4  # every second buffer is too small
    assert not any("died" in str(row["message"]) for row in rows)
    assert len(Pool.made) == 2


def test_a_point_that_kills_every_worker_is_the_only_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertstream.explore.executors.ProcessPoolExecutor", Pool)
    monkeypatch.setattr(Pool, "made", [])
    monkeypatch.setattr(Pool, "kills", lambda task: any(job.number == 2 for job in task.batch.jobs), raising=False)
    for row in _rows_in_batches_of(8):
        assert (row["message"] == DIED) == (row["point"] == 2)


def _rows_in_batches_of(size: int) -> list[dict[str, object]]:
    inputs = Inputs(spec())
    jobs = jobs_of(inputs, points_of(spec()))
    batches = (BatchTask(inputs.batch(jobs[at : at + size])) for at in range(0, len(jobs), size))
    found = list(make_executor("processes", workers=2).run(batches))
    rows = sorted((row for done in found for row in done.rows.to_pylist()), key=lambda row: int(row["point"]))
    assert [row["point"] for row in rows] == list(range(8))
    return rows


def test_an_executor_that_loses_rows_is_found_out(tmp_path: Path) -> None:
    class Losing(Serial):
        def run(self, tasks: Iterator[BatchTask]) -> Iterator[Done]:  # type: ignore[override]
            return itertools.islice(super().run(tasks), 1)

    with pytest.raises(WorkerError, match="rows of 4 points never came; run the same command again to go on"):
        sweep(spec(), tmp_path / "out", Losing())
    assert not (tmp_path / "out/results.parquet").exists()
    assert sweep(spec(), tmp_path / "out", Serial()).ran == 4


def test_a_local_dask_cluster_has_the_workers_asked_for_and_keeps_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_module("distributed", "explore")
    import dask
    import distributed

    asked = {}

    def cluster(**options: object) -> object:
        asked.update(options, environment=dask.config.get("distributed.nanny.pre-spawn-environ"))
        raise OSError("no more")

    monkeypatch.setattr(distributed, "LocalCluster", cluster)
    with pytest.raises(ConfigError, match="no more"):
        list(make_executor("dask", workers=3).run(iter(())))
    assert asked["n_workers"] == 3
    assert asked["threads_per_worker"] == 1
    assert asked["environment"]["MALLOC_TRIM_THRESHOLD_"] == 2**30
    assert dask.config.get("distributed.nanny.pre-spawn-environ")["MALLOC_TRIM_THRESHOLD_"] != 2**30


class Cluster:
    """Stands for a Dask client: ``kills`` says of a task that workers die with it.

    After ``lost`` or ``cancelled`` tasks the scheduler is gone.
    """

    def __init__(
        self, kills: Callable[[BatchTask], bool] = lambda _: False, lost: int = 10**9, cancelled: int = 10**9
    ) -> None:
        self.scheduler = SimpleNamespace(address="tcp://127.0.0.1:8786")
        self.submitted = 0
        self._kills, self._lost, self._cancelled = kills, lost, cancelled

    def nthreads(self) -> dict[str, int]:
        return {"one": 1}

    def submit(self, call: Callable[[BatchTask], Done], task: BatchTask, *, pure: bool) -> object:
        from distributed import KilledWorker
        from distributed.comm import CommClosedError

        self.submitted += 1
        if self.submitted > self._lost:
            raise CommClosedError("gone")
        failure = KilledWorker("task", None, 3) if self._kills(task) else None  # type: ignore[no-untyped-call]
        status = "cancelled" if self.submitted > self._cancelled else "error" if failure else "finished"
        return Arrived(status, failure, lambda: call(task))


@dataclass(frozen=True, eq=False)
class Arrived:
    """Stands for a Dask future."""

    status: str
    failure: Exception | None
    result: Callable[[], Done]

    def exception(self) -> Exception | None:
        return self.failure

    def release(self) -> None:
        pass


class Arriving(list):  # type: ignore[type-arg]
    """Stands for ``distributed.as_completed``."""

    add = list.append


def _rows_of_dask(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> list[dict[str, object]]:
    needs_module("distributed", "explore")
    from distributed import KilledWorker

    module = SimpleNamespace(as_completed=Arriving, KilledWorker=KilledWorker)
    executor = make_executor("dask")
    monkeypatch.setattr(executor, "_started", lambda: (module, cluster))
    inputs = Inputs(spec())
    jobs = jobs_of(inputs, points_of(spec()))
    tasks = (BatchTask(inputs.batch(jobs[at : at + 4])) for at in (0, 4))
    return [row for done in executor.run(tasks) for row in done.rows.to_pylist()]


def test_dask_finds_the_point_that_kills_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows_of_dask(monkeypatch, Cluster(lambda task: any(job.number == 2 for job in task.batch.jobs)))
    assert sorted(row["point"] for row in rows) == list(range(8))  # type: ignore[type-var]
    assert [row["point"] for row in rows if row["message"] == DIED] == [2]


@pytest.mark.parametrize(
    ("cluster", "how"), [(Cluster(lost=1), "CommClosedError"), (Cluster(cancelled=1), "cancelled")]
)
def test_a_scheduler_that_is_lost_is_one_message(cluster: Cluster, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        _rows_of_dask(monkeypatch, cluster)
    assert str(caught.value) == (
        f"lost the Dask scheduler at 'tcp://127.0.0.1:8786' ({how}); all rows that came are safe, run the same command "
        "again to go on"
    )
