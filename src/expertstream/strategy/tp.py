"""TP: every expert's d_ffn split over all dies, tokens gathered to all, partial sums reduce-scattered."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError
from expertstream.package.timing import compute_ps
from expertstream.schedule import id_order
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.collectives import ring_gather, ring_reduce_scatter
from expertstream.strategy.plan import InOrder, Options, Plan, cut
from expertstream.units import format_bytes
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]


def plan_tp(workload: LayerWorkload, options: Options) -> Plan:
    """Ring all-gather of the tokens, weights streamed in micro-slices, ring reduce-scatter once per pass.

    A die holds its own activations for the layer and, for a pass, everybody's activations and 32-bit partial sums.
    The additions of the reduce-scatter take no time of their own (they keep up with the link).
    """
    package, n_dies = workload.package, workload.package.n_dies
    parts = options.micro_slices or _micro_slices(workload)
    batches = _batches(workload)
    work = Work()
    resident = work.new_group()
    finished = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    here = np.flatnonzero(workload.tokens_on_die)
    own = workload.tokens_on_die[here] * workload.activation_bytes
    work.add_chunks(group=resident, bytes=own, die=here[:, None], pool=TOKENS, hold=finished[-1])
    slices, ranges = _slices(workload, parts)
    phases = []
    for p in range(batches.passes):
        gathered = _gather(work, workload, batches, p, finished, resident)
        groups, computed = _weights(work, workload, batches, p, slices, ranges, gathered)
        sums = batches.tokens[p] * workload.partial_sum_bytes
        blocks = ring_reduce_scatter(work, workload.topology, resident, sums, computed, int(finished[p]))
        work.set_gate(int(finished[p]), blocks)
        phases.append([groups])
    return Plan(
        work=work,
        dispatcher=InOrder([resident], phases, window=3),
        slices=slices,
        set_ptr=batches.ptr[::n_dies],
        set_ids=batches.ids,
        buffer_bytes=package_buffers(package),
        passes=batches.passes,
        ddr_layout="each die's share of every expert in its nearest DDR channel",
        notes=(f"{parts} micro-slices per expert and die",),
    )


def _batches(workload: LayerWorkload) -> Batches:
    capacity = workload.package.die.token_buffer_bytes
    own = int(workload.tokens_on_die.max()) * workload.activation_bytes
    passes = 1
    while True:
        batches = workload.in_passes(passes)
        in_pass = int(batches.tokens.sum(axis=1).max())
        gathered = (in_pass - int(batches.tokens.min())) * workload.activation_bytes
        needed = own + gathered + in_pass * workload.partial_sum_bytes
        if needed <= capacity:
            return batches
        if passes >= int(workload.tokens_on_die.max()):
            raise BufferTooSmallError(
                f"the token buffer of a die is {format_bytes(capacity)}, but tp needs {format_bytes(needed)} for "
                f"{in_pass} tokens per pass, the fewest; use fewer tokens per iteration or a larger token buffer"
            )
        passes += 1


def _micro_slices(workload: LayerWorkload) -> int:
    """The fewest (2 or more) of which eight fit the weight buffer, so that loads run ahead of computes."""
    columns = int(workload.columns.max())
    parts = 2
    while True:
        slot = -(-columns // min(parts * workload.package.n_dies, columns)) * workload.column_bytes
        if slot * 8 <= workload.package.die.weight_buffer_bytes or parts * workload.package.n_dies >= columns:
            return parts
        parts += 1


def _slices(workload: LayerWorkload, parts: int) -> tuple[Ints, list[list[Ints]]]:
    """All micro-slices, int64 [n, 3], and the rows that belong to each expert and die."""
    n_dies = workload.package.n_dies
    table: list[tuple[int, int, int]] = []
    rows: list[list[Ints]] = []
    for e, columns in enumerate(workload.columns.tolist()):
        shares = np.arange(n_dies + 1) * columns // n_dies
        rows.append([])
        for d in range(n_dies):
            size = int(shares[d + 1] - shares[d])
            bounds = cut(size, parts) + shares[d] if size else shares[d : d + 1]
            rows[-1].append(np.arange(len(table), len(table) + bounds.size - 1))
            table += [(e, int(a), int(b)) for a, b in itertools.pairwise(bounds)]
    return np.array(table, dtype=np.int64).reshape(-1, 3), rows


def _gather(work: Work, workload: LayerWorkload, batches: Batches, p: int, finished: Ints, group: int) -> Ints:
    """Areas for a pass at every die, then each die's tokens round the ring; gates of complete sets, int64 [dies]."""
    n_dies = workload.package.n_dies
    tokens = batches.tokens[p]
    area = (tokens.sum() - tokens) * workload.activation_bytes + tokens.sum() * workload.partial_sum_bytes
    placed = work.new_gates(n_dies)
    work.add_chunks(
        group=group,
        bytes=area,
        die=np.arange(n_dies)[:, None],
        pool=TOKENS,
        gate=finished[p - 1] if p > 0 else -1,
        arrive=placed[0],
        hold=finished[p],
    )
    return ring_gather(work, workload.topology, group, tokens * workload.activation_bytes, placed)


def _weights(
    work: Work, workload: LayerWorkload, batches: Batches, p: int, slices: Ints, rows: list[list[Ints]], gathered: Ints
) -> tuple[list[int], Ints]:
    """Every die's share of the activated experts; their groups in order, and the gates of finished dies."""
    n_dies, model = workload.package.n_dies, workload.model
    totals = batches.load[p].sum(axis=1)
    order = id_order(totals.tolist())
    groups = [work.new_group() for _ in order]
    computed = work.new_gates([sum(rows[e][d].size for e in order) for d in range(n_dies)])
    entry = [workload.topology.entry_die(int(workload.topology.nearest_channel[d]), d) for d in range(n_dies)]
    for group, e in zip(groups, order, strict=True):
        for d in range(n_dies):
            tag = rows[e][d]
            if tag.size == 0:
                continue
            width = slices[tag, 2] - slices[tag, 1]
            tokens = np.full(tag.size, totals[e])
            time = compute_ps(workload.package.die, tokens, model.d_model, width, model.weight_bits)[:, None]
            via = entry[d] != d
            idle = np.zeros_like(time)
            work.add_chunks(
                group=group,
                bytes=width * workload.column_bytes,
                die=np.tile([entry[d], d] if via else [d], (tag.size, 1)),
                channel=int(workload.topology.nearest_channel[d]),
                tag=tag,
                compute_ps=np.hstack((idle, time)) if via else time,
                stop_gate=[-1, gathered[d]] if via else [gathered[d]],
                done=[-1, computed[d]] if via else [computed[d]],
                tokens=[0, totals[e]] if via else [totals[e]],
                stop_tag=p * workload.columns.size + e,
            )
    return groups, computed
