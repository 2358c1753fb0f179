"""TP: every expert's d_ffn split over all dies, tokens gathered to all, partial sums reduce-scattered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError
from expertstream.package.timing import compute_ps
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.collectives import ring_gather, ring_reduce_scatter
from expertstream.strategy.plan import InOrder, Options, Plan, cut_many, in_order, ranks_within
from expertstream.units import counted, format_bytes
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]


def plan_tp(workload: LayerWorkload, options: Options) -> Plan:
    """Ring all-gather of the tokens, weights streamed in micro-slices, ring reduce-scatter once per pass.

    A die holds its own activations for the layer and, for a pass, everybody's activations and 32-bit partial sums.
    The additions of the reduce-scatter take no time of their own (they keep up with the link).
    """
    package, n_dies = workload.package, workload.package.n_dies
    most = -(-int(workload.columns.max()) // n_dies)  # of a column each
    parts = min(options.micro_slices or _micro_slices(workload), most)
    batches = _batches(workload)
    work = Work()
    resident = work.new_group(decided=False)
    finished = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    here = np.flatnonzero(workload.tokens_on_die)
    own = workload.tokens_on_die[here] * workload.activation_bytes
    work.add_chunks(group=resident, bytes=own, die=here[:, None], pool=TOKENS, hold=finished[-1])
    slices = _slices(workload, parts)
    nearest = workload.topology.nearest_channel.tolist()
    direct = all(workload.topology.entry_die(channel, die) == die for die, channel in enumerate(nearest))
    share = -(-int(workload.columns[workload.activated].min(initial=1)) // n_dies) * workload.column_bytes
    window = 2 + int(package.die.weight_buffer_bytes // share)
    phases: list[list[list[int]]] = []
    for p in range(batches.passes):
        gathered = _gather(work, workload, batches, p, finished, resident)
        groups, computed = _weights(work, workload, batches, p, slices, gathered, options)
        sums = batches.tokens[p] * workload.partial_sum_bytes
        blocks = ring_reduce_scatter(work, workload.topology, resident, sums, computed, int(finished[p]))
        work.set_gate(int(finished[p]), blocks)
        # Where every die has a channel of its own, the next pass's weights load during the reduce-scatter.
        if phases and direct:
            phases[-1][0] += groups
        else:
            phases.append([groups])
    return Plan(
        work=work,
        dispatcher=InOrder([resident], phases, window=options.window(window)),
        slices=slices[0],
        set_ptr=batches.ptr[::n_dies],
        set_ids=batches.ids,
        buffer_bytes=package_buffers(package),
        passes=batches.passes,
        ddr_layout="each die's share of every expert in its nearest DDR channel",
        prefetch=options.prefetch(),
        route_known=True,
        notes=(f"{counted(parts, 'micro-slice')} per expert and die",),
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
                f"{counted(in_pass, 'token')} per pass, the fewest; use fewer tokens per iteration or a larger token "
                "buffer"
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


def _slices(workload: LayerWorkload, parts: int) -> tuple[Ints, Ints, Ints]:
    """All micro-slices by expert and die, int64 [n, 3]; the die of each; how many each expert has, int64 [experts]."""
    n_dies, total = workload.package.n_dies, workload.columns.size
    die = np.tile(np.arange(n_dies), total)
    columns = np.repeat(workload.columns, n_dies)
    first, last = die * columns // n_dies, (die + 1) * columns // n_dies
    _, row, low, high = cut_many(first, last, np.minimum(parts, last - first))
    per_expert = np.bincount(row // n_dies, minlength=total).astype(np.int64)
    return np.stack((row // n_dies, low, high), axis=1).astype(np.int64), die[row], per_expert


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
    work: Work,
    workload: LayerWorkload,
    batches: Batches,
    p: int,
    slices: tuple[Ints, Ints, Ints],
    gathered: Ints,
    options: Options,
) -> tuple[list[int], Ints]:
    """Every die's share of the activated experts; their groups in order, and the gates of finished dies.

    Shared experts are loaded first and computed when no routed expert is ready.
    """
    table, die_of, per_expert = slices
    n_dies, model, topology = workload.package.n_dies, workload.model, workload.topology
    totals = batches.load[p].sum(axis=1)
    by_load = in_order(totals.tolist(), options)
    order = np.array(sorted(by_load, key=lambda e: e < model.n_experts), dtype=np.int64)
    groups = np.array([work.new_group() for _ in order], dtype=np.int64)
    first = np.cumsum(per_expert) - per_expert
    of = np.repeat(np.arange(order.size), per_expert[order])
    tag = first[order][of] + ranks_within(of)
    die, expert = die_of[tag], order[of]
    computed = work.new_gates(np.bincount(die, minlength=n_dies))
    entry = np.array([topology.entry_die(int(topology.nearest_channel[d]), d) for d in range(n_dies)], dtype=np.int64)
    width = table[tag, 2] - table[tag, 1]
    time = compute_ps(workload.package.die, totals[expert], model.d_model, width, model.weight_bits)
    through = (entry[die] != die).astype(np.int64)
    chunk = np.repeat(np.arange(tag.size), 1 + through)
    here = (ranks_within(chunk) == 1) | (through[chunk] == 0)
    work.add_ragged(
        1 + through,
        {
            "bytes": width * workload.column_bytes,
            "group": groups[of],
            "channel": topology.nearest_channel[die],
            "tag": tag,
        },
        {
            "die": np.where(here, die[chunk], entry[die][chunk]),
            "compute_ps": np.where(here, time[chunk], 0),
            "rank": (expert[chunk] >= model.n_experts).astype(np.int64),
            "gate": np.where(here, gathered[die][chunk], -1),
            "done": np.where(here, computed[die][chunk], -1),
            "tokens": np.where(here, totals[expert][chunk], 0),
            "tag": np.where(here, p * workload.columns.size + expert[chunk], -1),
        },
    )
    return groups.tolist(), computed
