"""Adaptive streaming, beyond the paper: for each expert, move its weights or its tokens, whichever is cheaper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import COMPLETE
from expertstream.engine.run import View
from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.schedule import hot_next, tokens_move
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.gather import Homes, add_gathered
from expertstream.strategy.micro_slices import micro_slices
from expertstream.strategy.plan import Options, Plan, any_pending
from expertstream.strategy.shares import Shares, add_movement
from expertstream.strategy.tokens import add_residents, token_batches
from expertstream.strategy.trajectories import Cutting, Flow, add_micro_slices
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
MOVED_SHARE = 8  # of the room for tokens of other dies, for those that even out one expert
GROUPS_PER_BUFFER = 16  # a decision admits about this share of the package's weight buffers


@dataclass(frozen=True)
class Stream:
    """One expert of a pass, in the order in which its micro-slices load.

    Attributes:
        tokens: its tokens in the pass. groups: of each the number, the compute time, mean over the dies, and the bytes.
    """

    tokens: int
    groups: tuple[tuple[int, int, int], ...]


class AdaptiveDispatcher:
    """Loads from the hot or the cold end of the experts, so that compute and loads proceed in step (``hot_next``).

    Experts are cut into groups, so that a hot and a cold one stream side by side.
    """

    def __init__(self, prologue: int, passes: Sequence[Sequence[Stream]], target_ps: int) -> None:
        self._prologue = [prologue]
        self._passes = [_Pass(streams) for streams in passes]
        self._target_ps = target_ps
        self._running: dict[int, int] = {}  # group: compute time

    def decide(self, view: View) -> Iterable[int]:
        """At most one group at a time: each start is a decision of its own."""
        if self._prologue:
            first, self._prologue = self._prologue, []
            return first
        state = view.group_state
        self._running = {g: ps for g, ps in self._running.items() if state[g] != COMPLETE}
        while self._passes and not self._passes[0].queue:
            if self._running:
                return []
            self._passes.pop(0)
        if not self._passes or not view.dry_channel or any_pending(view, list(self._running)):
            return []
        group, compute_ps = self._passes[0].take(sum(self._running.values()), self._target_ps)
        self._running[group] = compute_ps
        return [group]


class _Pass:
    """What is left of a pass, hottest expert first, and how much has been admitted."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        ranked = sorted(range(len(streams)), key=lambda i: (-streams[i].tokens, i))
        self.queue = [list(streams[i].groups) for i in ranked]
        self._admitted_ps, self._admitted_bytes = 0, 0
        self._total_ps = sum(ps for groups in self.queue for _, ps, _ in groups)
        self._total_bytes = sum(size for groups in self.queue for _, _, size in groups)

    def take(self, backlog_ps: int, target_ps: int) -> tuple[int, int]:
        """The next group and its compute time."""
        compute, load = (self._admitted_ps, self._total_ps), (self._admitted_bytes, self._total_bytes)
        end = 0 if hot_next(backlog_ps, target_ps, compute, load) else -1
        group, ps, size = self.queue[end].pop(0)
        if not self.queue[end]:
            self.queue.pop(end)
        self._admitted_ps += ps
        self._admitted_bytes += size
        return group, ps


def plan_adaptive(workload: LayerWorkload, options: Options) -> Plan:
    """Weights circulate (fse-dp, tokens evened out), or tokens go to where weights come in (gather.py), per expert."""
    package, n_experts = workload.package, workload.columns.size
    dies, n_channels = package.n_dies, len(package.channels)
    batches = token_batches(workload)
    token_bytes = workload.activation_bytes + workload.partial_sum_bytes
    residents = int(workload.tokens_on_die.max()) * workload.activation_bytes
    residents += int(batches.tokens.max()) * workload.partial_sum_bytes
    room = (package.die.token_buffer_bytes - residents) // token_bytes
    gathers = _gathers(workload, batches, int(room))
    parts, _ = micro_slices(workload, options.micro_slices)
    cutting = Cutting.of(workload.columns, np.where(gathers, _stay_parts(workload, n_channels), parts * dies))
    flowing = _without(batches, gathers)
    shares = Shares.balanced(flowing, int(room) // MOVED_SHARE, workload.columns)
    work = Work()
    done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    resident, ready = add_residents(work, workload, batches, done)
    active = batches.load.sum(axis=2) > 0
    groups = _groups(work, workload, cutting, active)
    first = np.where(active, groups[:, np.minimum(cutting.first, cutting.slices.shape[0] - 1)], -1)
    movement = add_movement(work, workload, shares, first, cutting.per_expert, ready, done)
    flow = Flow(workload.topology.rings[: options.rings])
    add_micro_slices(work, workload, cutting, shares, movement, groups, done, flow)
    total = batches.load.sum(axis=2)
    streams = [_streams(workload, cutting, groups[p], total[p]) for p in range(batches.passes)]
    for p in range(batches.passes):
        stay = np.flatnonzero(gathers & active[p])
        turns = _turns(streams[p], groups[p])
        homes = Homes.of(workload, cutting, turns, gathers, total[p], shares.load[p])
        signals = add_gathered(
            work, workload, cutting, homes, batches, p, stay.tolist(), groups[p], int(ready[p]), int(done[p])
        )
        work.add_to_gate(int(done[p]), signals)
    by_expert = batches.ptr[::dies]
    return Plan(
        work=work,
        dispatcher=AdaptiveDispatcher(resident, streams, _target_ps(workload)),
        slices=cutting.slices,
        set_ptr=np.concatenate((shares.ptr, shares.ids.size + by_expert[1:])),
        set_ids=np.concatenate((shares.ids, batches.ids)),
        buffer_bytes=package_buffers(package),
        passes=batches.passes,
        ddr_layout=f"each expert's micro-slices striped evenly over {n_channels} DDR channels",
        notes=(
            f"tokens move for {int((gathers & active.any(axis=0)).sum())} experts, weights for "
            f"{int((~gathers & active.any(axis=0)).sum())} of {n_experts}",
        ),
    )


def _gathers(workload: LayerWorkload, batches: Batches, room: int) -> NDArray[np.bool_]:
    """Experts of which the tokens move (in every pass), bool [experts]."""
    n_dies = workload.package.n_dies
    spread = min(n_dies, len(workload.package.channels))
    token_bytes = workload.activation_bytes + workload.partial_sum_bytes
    tokens = batches.load.sum(axis=2).max(axis=0).tolist()
    stops = (batches.load > 0).sum(axis=2).max(axis=0).tolist()
    weights = workload.expert_bytes.tolist()
    return np.array(
        [
            n_dies > 1 and tokens_move(n, s, spread, token_bytes, w, room)
            for n, s, w in zip(tokens, stops, weights, strict=True)
        ]
    )


def _stay_parts(workload: LayerWorkload, n_channels: int) -> int:
    """Micro-slices of a gathered expert: one for each channel, or as many rounds as let ``slots`` fit a weight buffer.

    One that passes through the die of its channel shares that buffer with trajectories over all dies: of these two
    must fit, as in micro_slices.py, whichever micro-slices they are made of.
    """
    columns = int(workload.columns.max())
    package = workload.package
    slots = max(8, 2 * (package.n_dies + 1))
    rounds = 2
    while rounds * n_channels < columns and (
        -(-columns // (rounds * n_channels)) * workload.column_bytes * slots > package.die.weight_buffer_bytes
    ):
        rounds += 1
    return rounds * n_channels


def _without(batches: Batches, gathers: NDArray[np.bool_]) -> Batches:
    """The same tokens without those of gathered experts."""
    load = np.where(gathers[None, :, None], 0, batches.load)
    keep = np.repeat(load.reshape(-1) > 0, batches.load.reshape(-1))
    ptr = np.concatenate(([0], np.cumsum(load))).astype(np.int64)
    return Batches(load, ptr, batches.ids[keep], batches.tokens)


def _groups(work: Work, workload: LayerWorkload, cutting: Cutting, active: NDArray[np.bool_]) -> Ints:
    """A group for every few micro-slices of an activated expert, int64 [passes, micro-slices], -1 for the others."""
    n_channels = len(workload.package.channels)
    budget = workload.package.die.weight_buffer_bytes * workload.package.n_dies // GROUPS_PER_BUFFER
    out = np.full((active.shape[0], cutting.slices.shape[0]), -1, dtype=np.int64)
    for p, e in zip(*np.nonzero(active), strict=True):
        first, count = int(cutting.first[e]), int(cutting.per_expert[e])
        size = int(cutting.width[first]) * workload.column_bytes
        each = n_channels * max(1, budget // max(1, size * n_channels))
        index = np.arange(count) // each
        numbers = np.array([work.new_group() for _ in range(int(index[-1]) + 1)])
        out[p, first : first + count] = numbers[index]
    return out


def _streams(workload: LayerWorkload, cutting: Cutting, groups: Ints, tokens: Ints) -> list[Stream]:
    """Streams of the activated experts of a pass."""
    package, model = workload.package, workload.model
    out = []
    for e in np.flatnonzero(tokens).tolist():
        mine = slice(int(cutting.first[e]), int(cutting.first[e] + cutting.per_expert[e]))
        time = compute_ps(package.die, int(tokens[e]), model.d_model, cutting.width[mine], model.weight_bits)
        numbers, index = np.unique(groups[mine], return_inverse=True)
        each = np.bincount(index, weights=time).astype(np.int64) // package.n_dies
        size = np.bincount(index, weights=cutting.width[mine]).astype(np.int64) * workload.column_bytes
        groups_of = zip(numbers.tolist(), each.tolist(), size.tolist(), strict=True)
        out.append(Stream(int(tokens[e]), tuple(groups_of)))
    return out


def _turns(streams: Sequence[Stream], groups: Ints) -> Iterator[Ints]:
    """Micro-slices of each group, in the order in which groups load if MAC arrays never run dry."""
    queue = _Pass(streams)
    while queue.queue:
        group, _ = queue.take(1, 0)
        yield np.flatnonzero(groups == group)


def _target_ps(workload: LayerWorkload) -> int:
    """Time in which the DDR channels fill a quarter of the weight buffers."""
    package = workload.package
    rate = sum(c.effective_bytes_per_s for c in package.channels)
    return package.die.weight_buffer_bytes * package.n_dies * 10**12 // (4 * rate)
