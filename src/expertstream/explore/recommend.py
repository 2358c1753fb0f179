"""Recommendations: the designs of a search that fit a budget best, with the reasons."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from expertstream.analysis.area import Budget
from expertstream.errors import ConfigError
from expertstream.explore.executors import Executor
from expertstream.explore.fields import kind_of, text_of
from expertstream.explore.jobs import Inputs, Job, Progress
from expertstream.explore.rows import OK, Row
from expertstream.explore.run import run_jobs
from expertstream.explore.search import Search, search
from expertstream.explore.spec import SearchSpec
from expertstream.explore.store import Store
from expertstream.explore.sweep import default_executor, spec_document
from expertstream.units import counted

SPACE: Final[dict[str, Any]] = {
    "strategy": ["ep-streamed", "tp", "tp-per-expert", "fse-dp-paired", "fse-dp-adaptive"],
    "package.channels.bandwidth": [
        f"{n} GB/s" for n in ("12.8", "25.6", "38.4", "51.2", "76.8", "102.4", "153.6", "204.8")
    ],
    "package.die.weight_buffer": ["1 MiB", "2 MiB", "4 MiB", "8 MiB", "14 MiB"],
    "package.die.token_buffer": ["512 KiB", "1 MiB", "2 MiB", "4 MiB"],
    "package.die.macs_per_cycle": [256, 512, 1024, 2048, 4096],
    "package.d2d.bandwidth": ["16 GB/s", "32 GB/s", "64 GB/s", "96 GB/s", "192 GB/s", "288 GB/s"],
    "technology.memory_kind": ["ddr3", "ddr4", "lpddr5"],
}
_COMPARED: Final = {"latency_ps": "latency", "energy_pj": "energy", "die_area_mm2": "area"}
# what a design can be best at: least product of the first columns; of equal ones (SAME) that of the others counts
GOALS: Final = {
    "best balance": (("latency_ps", "energy_pj", "die_area_mm2"), ()),
    "fastest": (("latency_ps",), ("die_area_mm2", "energy_pj")),
    "least energy": (("energy_pj",), ("latency_ps", "die_area_mm2")),
    "smallest die": (("die_area_mm2",), ("latency_ps", "energy_pj")),
}
SAME: Final = 1.01  # a result up to 1 % worse than the best counts as equal: the constants are not known better


@dataclass(frozen=True, eq=False)
class Design:
    """One recommended design: what it is best at, its row, and why it is as it is."""

    best_at: tuple[str, ...]
    row: Row
    reasons: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Recommendation:
    """Designs that meet every demand, or if there are none the nearest one (``met`` is False)."""

    met: bool
    designs: tuple[Design, ...]
    search: Search
    folder: Path


def recommend(
    model: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    package: str = "test-chip-2x2",
    technology: str = "5nm",
    trace: str | None = None,
    tokens: int = 64,
    budget: Budget | None = None,
    tokens_per_s: float | None = None,
    trials: int = 200,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Recommendation:
    """Search the designs around ``package`` (``SPACE``) and name the best within a budget.

    Args:
        folder: of the search; None: one named after the demands, so that the same call goes on and another starts anew.
        tokens_per_s: of the whole model's MoE layers, one after another; attention is not counted.

    Raises:
        ConfigError: an input cannot be read, a demand is not above 0 and finite, or the folder is of other demands.
    """
    limits = budget or Budget()
    spec = demands(model, package, technology, trace, tokens, limits, tokens_per_s, trials, seed)
    folder = Path(folder or f"recommendation-{spec.digest()[:8]}")
    found = search(spec, folder, executor, progress=progress)
    rows = [row for row in found.table.to_pylist() if row["status"] == OK]
    if not rows:
        reasons = {str(row["message"]) for row in found.table.to_pylist()}
        raise ConfigError(
            f"none of {counted(trials, 'design')} can run {model} with {counted(tokens, 'token')}: "
            f"{min(reasons, default='')}"
        )
    if not found.front:
        nearest_row = min(rows, key=lambda row: (_distance(row, limits, tokens_per_s), row["point"]))
        why = (*_misses(nearest_row, limits, tokens_per_s), *_reach(rows, limits), _limit(nearest_row))
        return Recommendation(False, (Design(("nearest to the demands",), nearest_row, why),), found, folder)
    executor = executor or default_executor()
    try:
        best, near = _improve(spec, found, folder / "neighbours", executor)
    finally:
        executor.close()
    goals: dict[str, list[str]] = {}
    for goal, row in best.items():
        goals.setdefault(row["hash"], []).append(goal)
    rows_by_hash = {row["hash"]: row for row in best.values()}
    designs = [
        Design(tuple(names), rows_by_hash[key], _reasons(rows_by_hash[key], near[key], limits))
        for key, names in goals.items()
    ]
    return Recommendation(True, tuple(designs), found, folder)


def demands(
    model: str,
    package: str,
    technology: str,
    trace: str | None,
    tokens: int,
    budget: Budget,
    tokens_per_s: float | None,
    trials: int,
    seed: int,
) -> SearchSpec:
    """The search behind a recommendation. Raises ConfigError: a demand is not above 0 and finite; an unknown input."""
    if tokens_per_s is not None and not 0 < tokens_per_s < math.inf:
        raise ConfigError(f"tokens/s is {tokens_per_s}; it must be above 0 and finite")
    wanted = [f"die_area_mm2 <= {budget.area_mm2:g}", f"rated_power_w <= {budget.power_w:g}"]
    if tokens_per_s is not None:
        wanted.append(f"model_tokens_per_s >= {tokens_per_s:g}")
    return SearchSpec(
        model=model,
        package=package,
        technology=technology,
        trace=trace,
        tokens=tokens,
        fields=SPACE,
        limits=tuple(wanted),
        objectives={"latency_ps": "minimize", "energy_pj": "minimize", "die_area_mm2": "minimize"},
        trials=trials,
        population=min(40, max(trials, 4)),
        seed=seed,
    )


def _improve(
    spec: SearchSpec, found: Search, folder: Path, executor: Executor
) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """The best design of each goal, none of whose neighbours is better at it, and the rows of its neighbours.

    Neighbours differ in one field: by the next smaller or larger number, or any other text.
    """
    inputs = Inputs(spec)
    store = Store(folder, inputs.fields, spec_document(spec, inputs))
    pool = {row["hash"]: row for row in found.front}
    near: dict[str, list[Row]] = {}
    try:
        while True:
            best = {goal: _best(list(pool.values()), *columns) for goal, columns in GOALS.items()}
            new = {row["hash"]: row for row in best.values() if row["hash"] not in near}
            if not new:
                return best, near
            jobs = {key: _neighbours(spec, inputs, row) for key, row in new.items()}
            run_jobs(inputs, list({job.hash: job for some in jobs.values() for job in some}.values()), store, executor)
            rows = {row["hash"]: row for row in store.table().to_pylist()}
            near |= {key: [rows[job.hash] for job in some] for key, some in jobs.items()}
            pool |= {job.hash: rows[job.hash] for some in jobs.values() for job in some if rows[job.hash]["feasible"]}
    finally:
        store.close()


def _best(rows: Sequence[Row], columns: Sequence[str], others: Sequence[str]) -> Row:
    """The row with the least product of ``columns``; of those within ``SAME`` of it, that of ``others`` decides."""
    least = min(_product(row, columns) for row in rows)
    equal = [row for row in rows if _product(row, columns) <= (SAME if others else 1) * least]
    return min(equal, key=lambda row: (_product(row, others), _product(row, columns), row["hash"]))


def _product(row: Row, columns: Sequence[str]) -> float:
    return math.prod(float(row[name]) for name in columns)


def _neighbours(spec: SearchSpec, inputs: Inputs, row: Row) -> list[Job]:
    jobs = []
    for place, axis in enumerate(spec.axes):
        at = axis.values.index(row[axis.path])
        first, last = (0, len(axis.values)) if kind_of(axis.path) is str else (max(at - 1, 0), at + 2)
        for other in axis.values[first:at] + axis.values[at + 1 : last]:
            values = [row[path] for path in inputs.fields]
            values[place] = other
            jobs.append(inputs.job(0, tuple(values)))
    return jobs


def _distance(row: Row, budget: Budget, tokens_per_s: float | None) -> float:
    shares = [row["die_area_mm2"] / budget.area_mm2 - 1, row["rated_power_w"] / budget.power_w - 1]
    if tokens_per_s is not None:
        shares.append(1 - row["model_tokens_per_s"] / tokens_per_s)
    return float(sum(max(share, 0.0) for share in shares))


def _misses(row: Row, budget: Budget, tokens_per_s: float | None) -> tuple[str, ...]:
    out = []
    if row["die_area_mm2"] > budget.area_mm2:
        out.append(f"misses the area: {row['die_area_mm2']:.1f} mm2 of {budget.area_mm2:g} mm2 allowed")
    if row["rated_power_w"] > budget.power_w:
        out.append(f"misses the power: {row['rated_power_w']:.1f} W of {budget.power_w:g} W allowed")
    if tokens_per_s is not None and row["model_tokens_per_s"] < tokens_per_s:
        out.append(f"misses the speed: {row['model_tokens_per_s']:.0f} of {tokens_per_s:g} tokens/s")
    return tuple(out)


def _reach(rows: Sequence[Row], budget: Budget) -> tuple[str, ...]:
    """How fast the designs get that keep to the budget."""
    within = [r for r in rows if r["die_area_mm2"] <= budget.area_mm2 and r["rated_power_w"] <= budget.power_w]
    if not within:
        area, power = min(row["die_area_mm2"] for row in rows), min(row["rated_power_w"] for row in rows)
        return (f"no design keeps to the budget: the least area is {area:.1f} mm2, the least power {power:.1f} W",)
    return (
        f"the fastest design within the budget does {max(row['model_tokens_per_s'] for row in within):.0f} tokens/s",
    )


def _reasons(row: Row, near: Sequence[Row], budget: Budget) -> tuple[str, ...]:
    """What limits a design, how sure its budget is, and what the next value of each single field would change."""
    out = [_limit(row)]
    for what, column, allowed, unit in (
        ("area", "die_area_mm2", budget.area_mm2, "mm2"),
        ("power", "rated_power_w", budget.power_w, "W"),
    ):
        if row[f"{column}_high"] > allowed:
            out.append(
                f"{what} {row[column]:.1f} of {allowed:g} {unit}, but {row[f'{column}_high']:.1f} {unit} if every "
                "constant is at its high end"
            )
    for other in near:
        field = next(field for field in SPACE if other[field] != row[field])
        swap = f"{field} {text_of(field, other[field])} instead of {text_of(field, row[field])}"
        if other["status"] != OK:
            out.append(f"{swap}: cannot run ({other['message']})")
            continue
        out.append(f"{swap}: {_changes(other, row)}" + ("" if other["feasible"] else "; breaks a demand"))
    return tuple(out)


def _limit(row: Row) -> str:
    macs_busy = row["utilisation"] + row["overhead"]
    shares = {"DDR": row["ddr_busy"], "the MAC arrays": macs_busy, "the busiest D2D link": row["d2d_busy"]}
    name = max(shares, key=lambda key: shares[key])
    again = f"; weights are loaded {row['passes']} times, as the tokens do not fit" if row["passes"] > 1 else ""
    return (
        f"limited by {name}, busy {100 * shares[name]:.0f} % of the time; MAC utilisation "
        f"{100 * row['utilisation']:.0f} %; {row['gap']:.2f} x the lower bound{again}"
    )


def _changes(other: Row, row: Row) -> str:
    """What another design has more or less of, in whole per cent, such as "-3 % latency, +12 % area; same energy"."""
    percent = {word: round(100 * (other[column] / row[column] - 1)) for column, word in _COMPARED.items()}
    more = ", ".join(f"{change:+} % {word}" for word, change in percent.items() if change)
    same = ", ".join(word for word, change in percent.items() if not change)
    return "; ".join(filter(None, (more, same and f"same {same}")))
