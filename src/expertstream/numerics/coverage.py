"""Is every (token, expert, column) computed exactly once?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.timeline import Timeline
from expertstream.numerics.inputs import Ints, PlanLike, WorkloadLike, routed_pairs
from expertstream.numerics.rows import Computes, ReplayError, columns_text, expand, expert_computes, where


def check_coverage(timeline: Timeline, plan: PlanLike, workload: WorkloadLike) -> None:
    """Check that every (token, routed or shared expert, column) is computed exactly once, and nothing else is.

    Column ranges that an expert computes for one token set are merged first, so that the work grows with
    tokens x k x token sets of a token, not with columns.

    Raises:
        ReplayError: a label is wrong (``expert_computes``), a token meets an expert that it is not routed to, or a
            column is computed twice or never. The message names token, expert, columns and, where there is one, the
            die and the time.
    """
    found = _Coverage(timeline, plan, expert_computes(timeline, plan, workload))
    expert, token_set, first, last = found.merged()
    size = np.diff(plan.set_ptr)[token_set]
    block = np.repeat(np.arange(size.size), size)
    token = plan.set_ids[expand(plan.set_ptr[token_set], size)]
    wanted = routed_pairs(workload)
    strays = np.flatnonzero(~wanted[expert[block], token])
    if strays.size:
        raise found.stray(int(token[strays[0]]), int(expert[block[strays[0]]]))
    pair = expert[block] * workload.n_tokens + token
    order = np.lexsort((first[block], pair))
    pair, block = pair[order], block[order]
    low, high = first[block], last[block]
    overlap = np.flatnonzero((pair[1:] == pair[:-1]) & (low[1:] < high[:-1]))
    if overlap.size:
        i = int(overlap[0])
        e, t = divmod(int(pair[i]), workload.n_tokens)
        raise found.twice(t, e, int(low[i + 1]), int(min(high[i], high[i + 1])))
    covered = np.zeros(wanted.size, dtype=np.int64)
    np.add.at(covered, pair, high - low)
    short = wanted & (covered.reshape(wanted.shape) != workload.columns[:, None])
    if short.any():
        missing = int(np.flatnonzero(short)[0])
        e, t = divmod(missing, workload.n_tokens)
        mine = pair == missing
        gap = _first_gap(low[mine], high[mine], int(workload.columns[e]))
        raise ReplayError(
            f"token {t} is never computed with {columns_text(e, *gap)}; {int(short.sum())} of {int(wanted.sum())} "
            "(token, expert) pairs are incomplete, and every column must be computed exactly once for each"
        )


@dataclass(frozen=True, eq=False)
class _Coverage:
    """The computes of a timeline, and what can be wrong with them."""

    timeline: Timeline
    plan: PlanLike
    computes: Computes

    def merged(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Adjacent column ranges of an expert and a token set as one: expert, token set, first, last, int64 [n].

        Raises:
            ReplayError: ranges of an expert and a token set overlap.
        """
        c = self.computes
        used = np.flatnonzero(c.size)
        used = used[np.lexsort((c.first[used], c.token_set[used], c.expert[used]))]
        expert, token_set, first, last = c.expert[used], c.token_set[used], c.first[used], c.last[used]
        same = (expert[1:] == expert[:-1]) & (token_set[1:] == token_set[:-1])
        overlap = np.flatnonzero(same & (first[1:] < last[:-1]))
        if overlap.size:
            i = int(overlap[0])
            token = int(self.plan.set_ids[self.plan.set_ptr[token_set[i]]])
            raise self.twice(token, int(expert[i]), int(first[i + 1]), int(min(last[i], last[i + 1])))
        joins: NDArray[np.bool_] = same & (first[1:] == last[:-1])
        starts = np.flatnonzero(np.append(True, ~joins)[: used.size])
        ends = np.flatnonzero(np.append(~joins, True)[: used.size])
        return expert[starts], token_set[starts], first[starts], last[ends]

    def stray(self, token: int, expert: int) -> ReplayError:
        """A token meets an expert that it is not routed to."""
        c, i = self.computes, self._meetings(token, expert)[0]
        return ReplayError(
            f"token {token} is computed with {columns_text(expert, c.first[i], c.last[i])} "
            f"{where(self.timeline, c.row[i])}, but it is not routed to that expert; token set "
            f"{c.token_set[i]} of the plan is wrong"
        )

    def twice(self, token: int, expert: int, first: int, last: int) -> ReplayError:
        """A token meets columns of an expert more than once."""
        c = self.computes
        met = [i for i in self._meetings(token, expert) if c.first[i] < last and c.last[i] > first]
        places = " and ".join(where(self.timeline, c.row[i]) for i in met)
        return ReplayError(
            f"token {token} is computed {len(met)} times with {columns_text(expert, first, last)}: {places}; "
            "every column must be computed exactly once"
        )

    def _meetings(self, token: int, expert: int) -> list[int]:
        """Computes of the expert whose token set holds the token, one entry for each time that it does."""
        met: list[int] = []
        ptr = self.plan.set_ptr
        for i in np.flatnonzero(self.computes.expert == expert).tolist():
            s = self.computes.token_set[i]
            met += [i] * int((self.plan.set_ids[ptr[s] : ptr[s + 1]] == token).sum())
        return met


def _first_gap(first: Ints, last: Ints, columns: int) -> tuple[int, int]:
    """First columns, as first and last + 1, that sorted disjoint ranges leave open; int64 [n] each."""
    ends, starts = np.append(0, last), np.append(first, columns)
    gap = int(np.flatnonzero(starts > ends)[0])
    return int(ends[gap]), int(starts[gap])
