"""The timeline's expert computes, with their labels looked up and checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import COMPUTE
from expertstream.engine.timeline import KINDS, Timeline
from expertstream.errors import ExpertStreamError
from expertstream.numerics.inputs import Ints, PlanLike, WorkloadLike


class ReplayError(ExpertStreamError):
    """A timeline does not compute the layer: something is missing, repeated, misplaced or numerically wrong."""


@dataclass(frozen=True, eq=False)
class Computes:
    """Expert computes of a timeline in the order in which they end, int64 [n] each.

    Attributes:
        row: row of the timeline. expert, first, last: columns ``first`` to ``last`` - 1 of the expert.
        token_set: number of the token set; size: tokens in it.
    """

    row: Ints
    expert: Ints
    first: Ints
    last: Ints
    token_set: Ints
    size: Ints


def expert_computes(timeline: Timeline, plan: PlanLike, workload: WorkloadLike) -> Computes:
    """Look up the slice and the token set of every compute that has weights (``tag`` not -1).

    Raises:
        ReplayError: a label, a slice or a token number is out of range, or the timeline counts other tokens than the
            token set has.
    """
    _check_slices(timeline, plan, workload)
    rows = np.flatnonzero((timeline.kind == COMPUTE) & (timeline.tag != -1))
    rows = rows[np.argsort(timeline.end_ps[rows], kind="stable")]
    tag, token_set = timeline.tag[rows], timeline.stop_tag[rows]
    n_sets = plan.set_ptr.size - 1
    if (bad := _first((token_set < 0) | (token_set >= n_sets))) is not None:
        raise ReplayError(
            f"the compute {where(timeline, rows[bad])} has stop tag {token_set[bad]}, but the plan has {n_sets} token "
            "sets; label every stop that computes with the number of its token set"
        )
    ids = plan.set_ids
    if (bad := _first((ids < 0) | (ids >= workload.n_tokens))) is not None:
        raise ReplayError(
            f"the plan's token sets name token {ids[bad]}, but the iteration has {workload.n_tokens} tokens; "
            "token numbers count from 0"
        )
    expert, first, last = plan.slices[tag].T if tag.size else np.empty((3, 0), dtype=np.int64)
    size = np.diff(plan.set_ptr)[token_set]
    counted = timeline.tokens[rows]
    if (bad := _first(counted != size)) is not None:
        raise ReplayError(
            f"the compute of {columns_text(expert[bad], first[bad], last[bad])} {where(timeline, rows[bad])} takes the "
            f"time of {counted[bad]} tokens, but its token set {token_set[bad]} has {size[bad]}; make them agree"
        )
    return Computes(rows, expert, first, last, token_set, size)


def _check_slices(timeline: Timeline, plan: PlanLike, workload: WorkloadLike) -> None:
    """Check that every tag is a slice, and that every slice in use is a part of an expert that exists."""
    tag, n_slices, n_experts = timeline.tag, len(plan.slices), workload.columns.size
    if (bad := _first((tag < -1) | (tag >= n_slices))) is not None:
        raise ReplayError(
            f"the {KINDS[timeline.kind[bad]]} {where(timeline, bad)} has tag {tag[bad]}, but the plan has {n_slices} "
            "slices; label a chunk with its row of plan.slices, or with -1 if it has no weights"
        )
    used = np.unique(tag[tag >= 0])
    expert, first, last = plan.slices[used].T if used.size else np.empty((3, 0), dtype=np.int64)
    if (bad := _first((expert < 0) | (expert >= n_experts))) is not None:
        raise ReplayError(
            f"slice {used[bad]} of the plan is of expert {expert[bad]}, but the layer has {n_experts} experts, shared "
            "ones included; experts count from 0"
        )
    if (bad := _first((first < 0) | (first >= last) | (last > workload.columns[expert]))) is not None:
        raise ReplayError(
            f"slice {used[bad]} of the plan covers columns [{first[bad]}, {last[bad]}) of expert {expert[bad]}, which "
            f"has {workload.columns[expert[bad]]} columns; a slice needs 0 <= first < last <= columns"
        )


def expand(start: Ints, size: Ints) -> Ints:
    """``start[i], start[i] + 1, ...``, ``size[i]`` numbers of each, in one int64 array."""
    numbers: Ints = np.arange(int(size.sum()), dtype=np.int64) + np.repeat(start - (np.cumsum(size) - size), size)
    return numbers


def where(timeline: Timeline, row: int) -> str:
    """Place and time of a timeline row, for messages."""
    return f"on die {timeline.die[row]} at {timeline.start_ps[row]} ps"


def columns_text(expert: int, first: int, last: int) -> str:
    """Name columns ``first`` to ``last`` - 1 of an expert, for messages."""
    columns = f"column {first}" if last - first == 1 else f"columns {first}-{last - 1}"
    return f"{columns} of expert {expert}"


def _first(bad: NDArray[np.bool_]) -> int | None:
    found = np.flatnonzero(bad)
    return int(found[0]) if found.size else None
