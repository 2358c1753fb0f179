"""FSE-DP: tokens stay, micro-slices flow along each expert's trajectory (paper sections III to V-A)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import COMPLETE
from expertstream.engine.run import View
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError
from expertstream.package.timing import compute_ps
from expertstream.schedule import id_order, next_expert, paired_order
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.plan import InOrder, Options, Plan, any_pending, cut
from expertstream.strategy.tokens import add_residents, token_batches
from expertstream.units import format_bytes
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
Order = Callable[[Sequence[int]], list[int]]


class TrajectoryDispatcher:
    """Algorithm 1 at run time: whenever a DDR channel runs dry, the next expert starts loading.

    A pass over the tokens starts when the one before has completed: weights that wait for the next pass must never
    take the room that the running pass needs to finish.
    """

    def __init__(self, prologue: int, passes: Sequence[tuple[list[int], Sequence[int], Sequence[int]]], dies: int):
        self._prologue = [prologue]
        self._passes = [(list(order), trajectories, groups) for order, trajectories, groups in passes]
        self._all = (1 << dies) - 1
        self._running: list[int] = []  # experts of the first of the passes

    def decide(self, view: View) -> Iterable[int]:
        """At most one expert at a time: each start is a decision of its own."""
        if self._prologue:
            first, self._prologue = self._prologue, []
            return first
        if not self._passes:
            return []
        order, trajectories, groups = self._passes[0]
        self._running = [e for e in self._running if view.group_state[groups[e]] != COMPLETE]
        if not order and not self._running:
            self._passes.pop(0)
            return self.decide(view)
        if not order or not view.dry_channel or any_pending(view, [groups[e] for e in self._running]):
            return []
        busy = 0
        for e in self._running:
            busy |= trajectories[e]
        expert, _ = next_expert(order, trajectories, self._all & ~busy)
        order.remove(expert)
        self._running.append(expert)
        return [groups[expert]]


def plan_flow(workload: LayerWorkload, options: Options, order: Order) -> Plan:
    """Micro-slice flow, rules 1 to 4, with Algorithm 1 over the experts in ``order``."""
    parts = options.micro_slices or _micro_slices(workload)
    batches = token_batches(workload)
    work, done, resident, ready = _start(workload, batches)
    slices, groups = _emit(work, workload, batches, parts * workload.package.n_dies, ready, done, flow=True)
    passes = []
    for p in range(batches.passes):
        masks = (batches.load[p] > 0) @ (1 << np.arange(workload.package.n_dies, dtype=object))
        passes.append((order(batches.load[p].sum(axis=1).tolist()), masks.tolist(), groups[p].tolist()))
    return Plan(
        work=work,
        dispatcher=TrajectoryDispatcher(resident, passes, workload.package.n_dies),
        slices=slices,
        set_ptr=batches.ptr,
        set_ids=batches.ids,
        buffer_bytes=package_buffers(workload.package),
        passes=batches.passes,
        ddr_layout=_layout(workload),
        notes=(f"{parts} micro-slices per expert and die",),
    )


def plan_id_order(workload: LayerWorkload, options: Options) -> Plan:
    """A2: experts in id order."""
    return plan_flow(workload, options, id_order)


def plan_paired(workload: LayerWorkload, options: Options) -> Plan:
    """A3: experts in paired-load order."""
    return plan_flow(workload, options, paired_order)


def plan_naive(workload: LayerWorkload, options: Options) -> Plan:
    """A1: a ring of whole slices, one per die; a slice is sent on when its compute has ended, first come first served.

    The next expert loads while one runs. Slices of which a ring does not fit the weight buffer go in rounds.
    """
    dies = workload.package.n_dies
    largest = int(workload.columns[workload.activated].max(initial=0))
    rounds = 1
    while rounds < largest and _slot(workload, rounds) * (dies + 1) > workload.package.die.weight_buffer_bytes:
        rounds += 1
    batches = token_batches(workload)
    work, done, resident, ready = _start(workload, batches)
    slices, groups = _emit(work, workload, batches, rounds * dies, ready, done, flow=False)
    counts = batches.load.sum(axis=2)
    phases = [[[int(groups[p][e]) for e in id_order(counts[p].tolist())]] for p in range(batches.passes)]
    return Plan(
        work=work,
        dispatcher=InOrder([resident], phases, window=2),
        slices=slices,
        set_ptr=batches.ptr,
        set_ids=batches.ids,
        buffer_bytes=package_buffers(workload.package),
        passes=batches.passes,
        ddr_layout=_layout(workload),
        notes=(f"{rounds} round(s) of {dies} slices per expert",),
    )


def _start(workload: LayerWorkload, batches: Batches) -> tuple[Work, Ints, int, Ints]:
    work = Work()
    computes = np.zeros(batches.passes, dtype=np.int64)  # filled by _emit, which knows the number of micro-slices
    done = work.new_gates(computes)
    resident, ready = add_residents(work, workload, batches, done)
    return work, done, resident, ready


def _layout(workload: LayerWorkload) -> str:
    return f"each expert's micro-slices striped evenly over {len(workload.package.channels)} DDR channels"


def _slot(workload: LayerWorkload, parts: int) -> int:
    """Bytes of the largest micro-slice with ``parts`` of them per expert and die."""
    columns = int(workload.columns[workload.activated].max(initial=1))
    return -(-columns // max(1, min(parts * workload.package.n_dies, columns))) * workload.column_bytes


def _micro_slices(workload: LayerWorkload) -> int:
    """The fewest (2 or more) of which two full trajectories fit a weight buffer, so that flow and prefetch coexist."""
    stops = workload.package.n_dies + 1
    buffer = workload.package.die.weight_buffer_bytes
    columns = int(workload.columns.max())
    parts = 2
    while parts * workload.package.n_dies < columns and _slot(workload, parts) * 2 * stops > buffer:
        parts += 1
    if _slot(workload, parts) * stops > buffer:
        raise BufferTooSmallError(
            f"the weight buffer of a die is {format_bytes(buffer)}, but even micro-slices of one column need "
            f"{format_bytes(_slot(workload, parts) * stops)} to circulate over {stops - 1} dies; enlarge the buffer"
        )
    return parts


def _emit(
    work: Work, workload: LayerWorkload, batches: Batches, parts: int, ready: Ints, done: Ints, *, flow: bool
) -> tuple[Ints, Ints]:
    """Add every micro-slice of every pass; return the slices and each expert's group, int64 [passes, experts]."""
    topology, die = workload.topology, workload.package.die
    n_dies, n_experts, n_channels = workload.package.n_dies, workload.columns.size, len(workload.package.channels)
    bounds = [cut(int(c), parts) for c in workload.columns]
    per_expert = np.array([b.size - 1 for b in bounds], dtype=np.int64)
    first_slice = np.cumsum(per_expert) - per_expert
    slices = np.stack(
        (
            np.repeat(np.arange(n_experts), per_expert),
            np.concatenate([b[:-1] for b in bounds]),
            np.concatenate([b[1:] for b in bounds]),
        ),
        axis=1,
    ).astype(np.int64)
    width = slices[:, 2] - slices[:, 1]
    ring = np.array(topology.ring(range(n_dies)), dtype=np.int64)
    groups = np.full((batches.passes, n_experts), -1, dtype=np.int64)
    turn = 0
    for p in range(batches.passes):
        load = batches.load[p]
        active = np.flatnonzero(load.sum(axis=1))
        groups[p, active] = [work.new_group() for _ in active]
        of = np.repeat(np.arange(active.size), per_expert[active])  # row of ``active`` of each micro-slice
        expert = active[of]
        nth = np.arange(of.size) - np.repeat(np.cumsum(per_expert[active]) - per_expert[active], per_expert[active])
        tag = first_slice[expert] + nth
        channel = (turn + np.arange(of.size)) % n_channels
        turn += of.size
        entry, start = _entries(workload, ring, load[active] > 0)
        here, rank = entry[of, channel], start[of, channel]
        member = load[active][:, ring] > 0
        length = member.sum(axis=1)
        by_rank = ring[np.argsort(~member, axis=1, kind="stable")]  # trajectory dies first, in ring order
        through = (by_rank[of, rank] != here).astype(np.int64)
        n_stops = length[of] + through
        chunk = np.repeat(np.arange(of.size), n_stops)
        position = np.arange(chunk.size) - np.repeat(np.cumsum(n_stops) - n_stops, n_stops) - through[chunk]
        row = of[chunk]
        stop_die = np.where(position < 0, here[chunk], by_rank[row, (rank[chunk] + position) % length[row]])
        tokens = np.where(position < 0, 0, load[expert[chunk], stop_die])
        work_ps = compute_ps(die, tokens, workload.model.d_model, width[tag][chunk], workload.model.weight_bits)
        local = (position == 0) & (through[chunk] == 0)
        work.add_ragged(
            n_stops,
            {
                "bytes": width[tag] * workload.column_bytes,
                "group": groups[p][expert],
                "channel": channel,
                "tag": tag,
                "flow": int(flow),
            },
            {
                "die": stop_die,
                "compute_ps": np.where(position < 0, 0, work_ps),
                "gate": np.where(position < 0, -1, ready[p]),
                "rank": local.astype(np.int64) if flow else 0,
                "lifo": (~local).astype(np.int64) if flow else 0,
                "done": np.where(position < 0, -1, done[p]),
                "tokens": tokens,
                "tag": np.where(position < 0, -1, (p * n_experts + expert[chunk]) * n_dies + stop_die),
            },
        )
        work.set_gate(int(done[p]), int((position >= 0).sum()))
    return slices, groups


def _entries(workload: LayerWorkload, ring: Ints, member: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Where micro-slices of each expert come in from each channel.

    Args:
        ring: int64 [dies], all dies in ring order. member: bool [experts, dies], the trajectories.

    Returns:
        The die loaded into, and the place in the trajectory (in ring order) of the nearest die to it, by hops, the
        next along the ring if several are; int64 [experts, channels] each.
    """
    topology, n_dies = workload.topology, workload.package.n_dies
    place = np.empty(n_dies, dtype=np.int64)
    place[ring] = np.arange(n_dies)
    on_ring = member[:, ring]
    rank_at = np.cumsum(on_ring, axis=1) - 1
    entries, starts = [], []
    for channel in workload.package.channels:
        attached = np.array(channel.dies, dtype=np.int64)
        ahead = (np.arange(n_dies)[None, :] - place[attached][:, None]) % n_dies
        cost = topology.hops[attached][:, ring] * n_dies + ahead  # [attached, dies in ring order]
        masked = np.where(on_ring[:, None, :], cost[None], np.iinfo(np.int64).max)
        best = masked.reshape(member.shape[0], -1).argmin(axis=1)
        entries.append(attached[best // n_dies])
        starts.append(rank_at[np.arange(member.shape[0]), best % n_dies])
    return np.stack(entries, axis=1), np.stack(starts, axis=1)
