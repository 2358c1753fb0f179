"""Are the weights that a timeline computes with loaded from DDR, no more and no less?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import LOAD
from expertstream.engine.timeline import Timeline
from expertstream.numerics.inputs import Ints, PlanLike, WorkloadLike
from expertstream.numerics.rows import ReplayError, columns_text, expand, expert_computes, where


def check_loads(timeline: Timeline, plan: PlanLike, workload: WorkloadLike, *, times: Ints | None = None) -> None:
    """Check the weights that come from DDR: the right bytes, of every activated expert and of no other.

    Every column must be loaded at least once if it is computed with, and at most as often as it is computed with; its
    first load must end before its first compute starts. Loads that the run could have done without (of experts that a
    predictor named and no token chose) are checked for their bytes alone: they are waste, and counted apart.

    Args:
        times: how often each expert must be loaded, int64 [experts]; for FSE-DP, TP and EP that is the number of
            passes in which it has tokens. None: as often as the strategy likes, within the limits above.

    Raises:
        ReplayError: a load has other bytes than its columns, or a column is loaded too late or too often or too
            seldom, or a label is wrong (``expert_computes``).
    """
    computes = expert_computes(timeline, plan, workload)
    start_ps = timeline.start_ps[computes.row][computes.size > 0]
    used = [a[computes.size > 0] for a in (computes.expert, computes.first, computes.last)]
    rows = np.flatnonzero((timeline.kind == LOAD) & (timeline.tag >= 0))
    loaded = list(plan.slices[timeline.tag[rows]].T) if rows.size else [rows, rows, rows]
    expected = (loaded[2] - loaded[1]) * workload.column_bytes
    wrong = np.flatnonzero(timeline.bytes[rows] != expected)
    if wrong.size:
        i = int(wrong[0])
        raise ReplayError(
            f"the load of {columns_text(*(a[i] for a in loaded))} {where(timeline, rows[i])} moves "
            f"{timeline.bytes[rows[i]]} bytes, but these columns have {expected[i]} bytes"
        )
    wanted = ~timeline.optional[rows]
    rows, loaded = rows[wanted], [column[wanted] for column in loaded]
    columns = workload.columns
    offset = np.cumsum(columns) - columns
    owner = np.repeat(np.arange(columns.size), columns)
    (load_first, load_last), (use_first, use_last) = ((offset[e] + a, offset[e] + b) for e, a, b in (loaded, used))
    loads = _per_column(load_first, load_last, owner.size)
    uses = _per_column(use_first, use_last, owner.size)
    least = np.minimum(uses, 1) if times is None else times[owner]
    most = uses if times is None else least
    wrong = np.flatnonzero((loads < least) | (loads > most))
    if wrong.size:
        raise _wrong_count(int(wrong[0]), owner, offset, loads, uses, least, most)
    there = _earliest(load_first, load_last, timeline.end_ps[rows], owner.size)
    begun = _earliest(use_first, use_last, start_ps, owner.size)
    late = np.flatnonzero((uses > 0) & (begun < there))
    if late.size:
        i = int(late[0])
        column = i - int(offset[owner[i]])
        raise ReplayError(
            f"the first compute with {columns_text(int(owner[i]), column, column + 1)} starts at {begun[i]} ps, but "
            f"its first load ends at {there[i]} ps; a compute must wait for its weights"
        )


def _wrong_count(i: int, owner: Ints, offset: Ints, loads: Ints, uses: Ints, least: Ints, most: Ints) -> ReplayError:
    """Message about column ``i`` (over all experts) and those after it with the same fate; int64 [columns] each."""
    expert = int(owner[i])
    alike: NDArray[np.bool_] = (owner == expert) & (loads == loads[i]) & (uses == uses[i])
    end = i + int(np.argmin(np.append(alike[i:], False)))
    allowed = f"{least[i]}" if least[i] == most[i] else f"{least[i]} to {most[i]}"
    return ReplayError(
        f"DDR loads of {columns_text(expert, i - int(offset[expert]), end - int(offset[expert]))}: {loads[i]}, "
        f"allowed: {allowed}; the timeline computes {uses[i]} times with these columns"
    )


def _per_column(first: Ints, last: Ints, total: int) -> Ints:
    """How many of the ranges ``first[i]`` to ``last[i]`` - 1 hold each column, int64 [total] (difference array)."""
    change = np.zeros(total + 1, dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, last, -1)
    counts: Ints = np.cumsum(change)[:total]
    return counts


def _earliest(first: Ints, last: Ints, time_ps: Ints, total: int) -> Ints:
    """Least time over the ranges that hold each column, int64 [total], ps; the largest int64 where there is none."""
    result = np.full(total, np.iinfo(np.int64).max, dtype=np.int64)
    order = np.lexsort((time_ps, last, first))
    first, last, time_ps = first[order], last[order], time_ps[order]
    again = (first[1:] == first[:-1]) & (last[1:] == last[:-1])
    distinct = np.flatnonzero(np.append(True, ~again)[: first.size])
    first, size, time_ps = first[distinct], (last - first)[distinct], time_ps[distinct]
    np.minimum.at(result, expand(first, size), np.repeat(time_ps, size))
    return result
