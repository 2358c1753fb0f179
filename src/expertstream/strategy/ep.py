"""EP: every expert has a home die; tokens are dispatched to it and results combined (2-model.md section 5)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.plan import InOrder, Options, Plan, cut
from expertstream.strategy.tokens import add_residents, token_batches
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
WINDOW = 2  # experts per home die: one runs, the next is prefetched
SMALLEST_AREA_TOKENS = 8


@dataclass(frozen=True)
class _Unit:
    """An expert, or a die's share of a shared expert, at its home."""

    expert: int
    first: int
    last: int
    home: int
    tags: Ints  # rows of the slice table: its pieces
    whole: int  # row of the slice table: all its columns


@dataclass(frozen=True)
class _Task:
    """Tokens of a unit that are computed together."""

    unit: _Unit
    part: int  # pass
    tokens: Ints
    token_set: int


def plan_ep(workload: LayerWorkload, options: Options) -> Plan:
    """Whole experts, double-buffered: a die computes an expert when all of it is there and loads the next meanwhile.

    The weight buffer is what two whole experts need (and, where weights of other dies pass through, their transit).
    """
    units, slices = _units(workload, options)
    largest = max((u.last - u.first for u in units), default=0) * workload.column_bytes
    piece = max((int((slices[u.tags, 2] - slices[u.tags, 1]).max()) for u in units), default=0)
    buffers = package_buffers(workload.package)
    buffers[:, 0] = 2 * largest + _transit(workload) * piece * workload.column_bytes
    return _plan(workload, options, units, slices, buffers, streamed=False)


def plan_ep_streamed(workload: LayerWorkload, options: Options) -> Plan:
    """Weights in micro-slices, computed as they arrive, in the package's own weight buffer.

    Tokens of an expert that do not fit the dispatch area go in turns, and its weights are loaded again for each.
    """
    units, slices = _units(workload, options)
    return _plan(workload, options, units, slices, package_buffers(workload.package), streamed=True)


def _transit(workload: LayerWorkload) -> int:
    """Pieces that a die must be able to pass on: none where every die has a channel of its own."""
    topology = workload.topology
    homes = range(workload.package.n_dies)
    direct = all(topology.entry_die(int(topology.nearest_channel[d]), d) == d for d in homes)
    return 0 if direct else 4


def _units(workload: LayerWorkload, options: Options) -> tuple[list[_Unit], Ints]:
    """Homes of the activated experts, and the slice table: pieces of every unit, and the unit as a whole."""
    n_dies, n_experts = workload.package.n_dies, workload.model.n_experts
    pieces = (options.micro_slices or 2) * n_dies
    table: list[tuple[int, int, int]] = []
    units: list[_Unit] = []
    for e in workload.activated.tolist():
        columns = int(workload.columns[e])
        if e < n_experts:
            home = e * n_dies // n_experts if options.placement == "contiguous" else e % n_dies
            shares = [(home, 0, columns)]
        else:  # a shared expert serves every token: each die has a share of its columns
            bounds = cut(columns, n_dies)
            shares = [(d, int(bounds[d]), int(bounds[d + 1])) for d in range(bounds.size - 1)]
        for home, first, last in shares:
            bounds = cut(last - first, max(1, pieces * (last - first) // columns)) + first
            tags = np.arange(len(table), len(table) + bounds.size - 1)
            table += [(e, int(a), int(b)) for a, b in itertools.pairwise(bounds)]
            table.append((e, first, last))
            units.append(_Unit(e, first, last, home, tags, len(table) - 1))
    return units, np.array(table, dtype=np.int64).reshape(-1, 3)


def _plan(
    workload: LayerWorkload, options: Options, units: list[_Unit], slices: Ints, buffers: Ints, *, streamed: bool
) -> Plan:
    remote_bytes = workload.activation_bytes + workload.partial_sum_bytes
    alone = workload.package.n_dies == 1
    batches = token_batches(workload, 0 if alone else 2 * SMALLEST_AREA_TOKENS * remote_bytes)
    resident_bytes = int(workload.tokens_on_die.max()) * workload.activation_bytes
    resident_bytes += int(batches.tokens.max()) * workload.partial_sum_bytes
    area_tokens = max(1, (workload.package.die.token_buffer_bytes - resident_bytes) // (WINDOW * remote_bytes))
    work = Work()
    done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    resident, ready = add_residents(work, workload, batches, done)
    sets: list[Ints] = []
    phases: list[list[list[int]]] = []
    refetched = 0
    for p in range(batches.passes):
        queues: list[list[int]] = [[] for _ in range(workload.package.n_dies)]
        signals = 0
        for unit in units:
            turns = _turns(workload, batches, p, unit, int(area_tokens))
            tasks = []
            for tokens in turns:
                tasks.append(_Task(unit, p, tokens, len(sets)))
                sets.append(tokens)
            for batch in [[task] for task in tasks] if streamed else [tasks] if tasks else []:
                group = work.new_group()
                queues[unit.home].append(group)
                signals += _emit(work, workload, group, batch, slices, ready[p], int(done[p]), streamed=streamed)
            refetched += max(0, len(tasks) - 1) if streamed else 0
        work.set_gate(int(done[p]), signals)
        phases.append(queues)
    notes = [f"{options.placement} homes", f"up to {int(area_tokens)} tokens dispatched to an expert at a time"]
    if refetched:
        notes.append(f"{refetched} expert loads repeated because the tokens of an expert did not fit the token buffer")
    return Plan(
        work=work,
        dispatcher=InOrder([resident], phases, window=WINDOW),
        slices=slices,
        set_ptr=np.concatenate(([0], np.cumsum([s.size for s in sets]))).astype(np.int64),
        set_ids=np.concatenate(sets) if sets else np.empty(0, dtype=np.int64),
        buffer_bytes=buffers,
        passes=batches.passes,
        ddr_layout="each expert whole in the DDR channel nearest to its home die",
        notes=tuple(notes),
    )


def _turns(workload: LayerWorkload, batches: Batches, p: int, unit: _Unit, area_tokens: int) -> list[Ints]:
    """The unit's tokens of a pass: as many remote ones at a time as fit the area, the local ones with the first."""
    n_dies = workload.package.n_dies
    row = (p * workload.columns.size + unit.expert) * n_dies
    ids = batches.ids[batches.ptr[row] : batches.ptr[row + n_dies]]
    at_home = workload.die_of_token[ids] == unit.home
    local, remote = ids[at_home], ids[~at_home]
    turns = [remote[i : i + area_tokens] for i in range(0, remote.size, area_tokens)] or [remote]
    turns[0] = np.concatenate((local, turns[0]))
    return turns if ids.size else []


def _emit(
    work: Work,
    workload: LayerWorkload,
    group: int,
    tasks: list[_Task],
    slices: Ints,
    ready: int,
    done: int,
    *,
    streamed: bool,
) -> int:
    """Add a unit's weights and, for each task, dispatch, compute and combine; return the signals to ``done``."""
    unit, model = tasks[0].unit, workload.model
    topology, die = workload.topology, workload.package.die
    home, width = unit.home, slices[unit.tags, 2] - slices[unit.tags, 1]
    channel = int(topology.nearest_channel[home])
    entry = topology.entry_die(channel, home)
    via = entry != home
    dies = np.tile([entry, home] if via else [home], (unit.tags.size, 1))
    loaded = int(work.new_gates(unit.tags.size)[0])
    used = int(work.new_gates(len(tasks))[0])
    signals = 0
    arrived_of_task = -1
    computed = -1
    for task in tasks:
        source = workload.die_of_token[task.tokens]
        counts = np.bincount(source[source != home], minlength=workload.package.n_dies)
        sources = np.flatnonzero(counts)
        remote = int(counts.sum())
        waits = sources.size + (0 if streamed else 1) + (ready >= 0)
        arrived = int(work.new_gates(waits)[0])
        computed = int(work.new_gates(unit.tags.size if streamed else 1)[0])
        combined = int(work.new_gates(sources.size)[0])
        placed = int(work.new_gates(1)[0])
        if ready >= 0:
            work.add_chunks(group=group, bytes=0, die=[[home]], pool=TOKENS, gate=ready, arrive=arrived)
        area = remote * (workload.activation_bytes + workload.partial_sum_bytes)
        whole_ps = compute_ps(
            die, np.array([task.tokens.size]), model.d_model, np.array([unit.last - unit.first]), model.weight_bits
        )
        if not streamed:
            work.add_chunks(group=group, bytes=0, die=[[home]], pool=TOKENS, gate=loaded, arrive=arrived)
        work.add_chunks(
            group=group,
            bytes=area,
            die=[[home]],
            pool=TOKENS,
            tag=-1 if streamed else unit.whole,
            compute_ps=0 if streamed else whole_ps,
            stop_gate=-1 if streamed else arrived,
            arrive=placed,
            done=-1 if streamed else computed,
            hold=combined if sources.size else -1,
            tokens=0 if streamed else task.tokens.size,
            stop_tag=-1 if streamed else task.token_set,
        )
        for gate, n_bytes, there in (
            (placed, workload.activation_bytes, False),
            (computed, workload.partial_sum_bytes, True),
        ):
            ends = np.stack(
                (np.full_like(sources, home), sources) if there else (sources, np.full_like(sources, home)), 1
            )
            work.add_chunks(
                group=group,
                bytes=counts[sources] * n_bytes,
                die=ends,
                pool=TOKENS,
                gate=gate,
                space=0,
                arrive=[-1, combined if there else arrived],
                done=[-1, done if there else -1],
            )
        relay = work.add_chunks(group=group, bytes=0, die=[[home]], pool=TOKENS, gate=computed, arrive=used, done=done)
        signals += sources.size + relay.size
        arrived_of_task = arrived
    last_task = tasks[-1]
    time = compute_ps(die, np.full(unit.tags.size, last_task.tokens.size), model.d_model, width, model.weight_bits)[
        :, None
    ]
    pad = [np.zeros_like(time)] if via else []
    front = [-1] if via else []
    work.add_chunks(
        group=group,
        bytes=width * workload.column_bytes,
        die=dies,
        channel=channel,
        tag=unit.tags,
        compute_ps=np.hstack([*pad, time]) if streamed else 0,
        stop_gate=[*front, arrived_of_task if streamed else -1],
        arrive=[*front, loaded],
        done=[*front, computed if streamed else -1],
        hold=[*front, -1 if streamed else used],
        tokens=[*([0] if via else []), last_task.tokens.size if streamed else 0],
        stop_tag=[*front, last_task.token_set if streamed else -1],
    )
    return signals
