"""TP that gathers and reduces expert by expert: no pass over the tokens is needed where ``tp`` needs several.

Every expert's columns are split over all dies. For each expert its tokens go round the ring to all dies, and its
partial sums are reduce-scattered round the ring to where the tokens live, while the next experts load, gather and
compute. A die holds the gathered tokens and partial sums of the experts in flight only, not of the whole iteration; the
price is that a token's partial sums travel once per expert.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.micro_slices import SHARED_WINDOW, most_columns
from expertstream.strategy.plan import InOrder, Options, Plan, cut_many, in_order, ranks_within
from expertstream.strategy.tokens import TokenTurns, add_residents, token_batches
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]
SMALLEST_AREA_TOKENS = 8
AREAS = 2  # turns of routed experts in flight: one computes, the next gathers


def plan_tp_per_expert(workload: LayerWorkload, options: Options) -> Plan:
    """An expert whose tokens do not fit the area at once is computed in turns, its weights staying in the buffer."""
    package, n_dies, total = workload.package, workload.package.n_dies, workload.columns.size
    remote_bytes = workload.remote_token_bytes
    batches = token_batches(workload, 0 if n_dies == 1 else 2 * SMALLEST_AREA_TOKENS * remote_bytes)
    resident = int(workload.tokens_on_die.max()) * workload.activation_bytes
    resident += int(batches.tokens.max()) * workload.partial_sum_bytes
    has_shared = total > workload.model.n_experts
    room = (package.die.token_buffer_bytes - resident) // ((AREAS + has_shared) * remote_bytes)
    area_tokens = workload.n_tokens if n_dies == 1 else max(1, int(room))
    work = Work()
    done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    residents, ready = add_residents(work, workload, batches, done)

    turns = TokenTurns.of(batches, area_tokens)
    lists, n_turns, first_set, on_die = turns.key, turns.count, turns.first, turns.on_die

    # Units: an expert, or a block of its columns that stays until all turns are computed.
    part, expert = np.divmod(lists, total)
    shared = expert >= workload.model.n_experts
    most = most_columns("tp-per-expert", workload, has_shared)
    held = (n_turns > 1) | shared
    share = -(-workload.columns[expert] // n_dies)
    blocks = np.where(held, -(-share // most), 1)
    of = np.repeat(np.arange(lists.size), blocks)
    block = ranks_within(of)
    rounds_of = n_turns[of]
    unit = np.repeat(np.arange(of.size), rounds_of)
    turn = ranks_within(unit)
    set_number = first_set[of[unit]] + turn
    own = shared[of[unit]] & (turn > 0)
    first_group = work.n_groups
    work.n_groups += of.size + int(own.sum())
    unit_group = first_group + np.arange(of.size)
    round_group = np.where(own, first_group + of.size + np.cumsum(own) - 1, unit_group[unit])

    # Columns of each unit at each die, and their micro-slices.
    dies = np.arange(n_dies)
    columns = workload.columns[expert[of]][:, None]
    left, right = dies * columns // n_dies, (dies + 1) * columns // n_dies
    low = left + block[:, None] * (right - left) // blocks[of][:, None]
    high = left + (block[:, None] + 1) * (right - left) // blocks[of][:, None]
    width = high - low
    parts = options.micro_slices or 2
    pieces = np.maximum(-(-parts // blocks[of])[:, None], -(-width // most))
    pieces = np.minimum(np.maximum(pieces, 1), width)

    is_held = held[of]
    loaded = work.new_gates(pieces.reshape(-1)).reshape(pieces.shape)
    used = work.new_gates(np.repeat(rounds_of, n_dies)).reshape(pieces.shape)
    counts = on_die[set_number]
    tokens = counts.sum(axis=1)
    p_of = part[of[unit]]
    round_held = is_held[unit]
    ring = np.array(workload.topology.ring(range(n_dies)), dtype=np.int64)
    g_round, g_die, g_way, g_bytes = _halves(counts * workload.activation_bytes, n_dies)
    r_round, r_die, r_way, r_bytes = _halves(counts * workload.partial_sum_bytes, n_dies)
    if n_dies == 1:
        g_round, g_die, g_way, g_bytes = (x[:0] for x in (g_round, g_die, g_way, g_bytes))
    n_rounds = unit.size
    sent = np.bincount(g_round, minlength=n_rounds)
    has_width = width[unit] > 0
    waits_weights = (round_held[:, None] & has_width).astype(np.int64)
    waits_pass = np.broadcast_to((ready[p_of] >= 0)[:, None], waits_weights.shape)
    gathered = work.new_gates((sent[:, None] + waits_weights + waits_pass).reshape(-1)).reshape(counts.shape)
    computed = work.new_gates(
        np.where(round_held[:, None], has_width, pieces[unit]).astype(np.int64).reshape(-1)
    ).reshape(counts.shape)
    placed = work.new_gates(np.full(n_rounds, n_dies))
    finished = work.new_gates(np.bincount(r_round, minlength=n_rounds))
    for p, gate in enumerate(done.tolist()):
        work.set_gate(gate, int((p_of == p).sum()))

    # Areas (and the computes of held blocks), gather, reduce.
    slices, tag, at_unit, at_die = _slices(expert[of], low, high, pieces)
    time = compute_ps(package.die, tokens[:, None], workload.model.d_model, width[unit], workload.model.weight_bits)
    computes = (waits_weights > 0).reshape(-1)
    every = np.repeat(np.arange(n_rounds), n_dies)
    everywhere = np.tile(dies, n_rounds)
    rank = shared[of].astype(np.int64)
    work.add_chunks(
        group=round_group[every],
        bytes=((tokens[:, None] - counts) * remote_bytes).reshape(-1),
        die=everywhere[:, None],
        pool=TOKENS,
        tag=np.where(computes, unit[every] * n_dies + everywhere, -1),
        compute_ps=np.where(computes, time.reshape(-1), 0)[:, None],
        stop_gate=np.where(computes, gathered.reshape(-1), -1)[:, None],
        rank=rank[unit][every][:, None],
        arrive=placed[every][:, None],
        done=np.where(computes, computed.reshape(-1), -1)[:, None],
        hold=finished[every][:, None],
        tokens=np.where(computes, tokens[every], 0)[:, None],
        stop_tag=np.where(computes, set_number[every], -1)[:, None],
    )
    for mask, gate, arrive in (
        (waits_weights > 0, loaded[unit], gathered),
        (waits_pass, np.broadcast_to(ready[p_of][:, None], counts.shape), gathered),
        (waits_weights > 0, computed, used[unit]),
    ):
        at_round, here = np.nonzero(mask)
        work.add_chunks(
            group=round_group[at_round],
            bytes=0,
            die=here[:, None],
            pool=TOKENS,
            gate=gate[mask],
            arrive=arrive[mask][:, None],
        )
    place = np.empty(n_dies, dtype=np.int64)
    place[ring] = dies
    stops = ring[(place[g_die][:, None] + g_way[:, None] * dies) % n_dies]
    work.add_chunks(
        group=round_group[g_round],
        bytes=g_bytes,
        die=stops,
        pool=TOKENS,
        gate=placed[g_round],
        space=0,
        arrive=gathered[g_round[:, None], stops],
    )
    stops = ring[(place[r_die][:, None] + r_way[:, None] * (dies + 1)) % n_dies]
    last = np.full(stops.shape, -1, dtype=np.int64)
    last[:, -1] = finished[r_round]
    work.add_chunks(
        group=round_group[r_round],
        bytes=r_bytes,
        die=stops,
        pool=TOKENS,
        gate=computed[r_round, stops[:, 0]],
        space=0,
        stop_gate=computed[r_round[:, None], stops],
        done=last,
    )
    work.add_chunks(
        group=round_group, bytes=0, die=np.zeros((n_rounds, 1)), pool=TOKENS, gate=finished, done=done[p_of][:, None]
    )

    # Weights.
    topology, model = workload.topology, workload.model
    entry = np.array([topology.entry_die(int(topology.nearest_channel[d]), d) for d in dies.tolist()], dtype=np.int64)
    first_round = np.cumsum(rounds_of) - rounds_of
    round_0 = first_round[at_unit]
    through = (entry[at_die] != at_die).astype(np.int64)
    chunk = np.repeat(np.arange(tag.size), 1 + through)
    passing = (ranks_within(chunk) == 0) & (through[chunk] > 0)
    piece = slices[tag, 2] - slices[tag, 1]
    streams = ~passing & ~is_held[at_unit][chunk]
    one = compute_ps(package.die, tokens[round_0], model.d_model, piece, model.weight_bits)
    holds = ~passing & is_held[at_unit][chunk]
    work.add_ragged(
        1 + through,
        {
            "bytes": piece * workload.column_bytes,
            "group": unit_group[at_unit],
            "channel": topology.nearest_channel[at_die],
            "tag": tag,
        },
        {
            "die": np.where(passing, entry[at_die][chunk], at_die[chunk]),
            "compute_ps": np.where(streams, one[chunk], 0),
            "rank": rank[at_unit][chunk],
            "gate": np.where(streams, gathered[round_0, at_die][chunk], -1),
            "arrive": np.where(holds, loaded[at_unit, at_die][chunk], -1),
            "done": np.where(streams, computed[round_0, at_die][chunk], -1),
            "hold": np.where(holds, used[at_unit, at_die][chunk], -1),
            "tokens": np.where(streams, tokens[round_0][chunk], 0),
            "tag": np.where(streams, set_number[round_0][chunk], -1),
        },
    )

    phases = []
    for p in range(batches.passes):
        position = np.zeros(total, dtype=np.int64)
        by_load = in_order(batches.load[p].sum(axis=1).tolist(), options)
        position[by_load] = np.arange(len(by_load))
        mine = np.flatnonzero(part[of] == p)
        mine = mine[np.lexsort((block[mine], position[expert[of[mine]]]))]
        routed = unit_group[mine[~shared[of[mine]]]].tolist()
        again = [round_group[first_round[u] + t] for u in mine[shared[of[mine]]].tolist() for t in range(rounds_of[u])]
        phases.append([[int(g) for g in again], routed])
    smallest = int(width.max(axis=1, initial=1).min(initial=1)) * workload.column_bytes
    window = 1 if _crossed(workload, entry) else 2 + int(package.die.weight_buffer_bytes // max(smallest, 1))
    return Plan(
        work=work,
        dispatcher=InOrder([residents], phases, window=[SHARED_WINDOW, options.window(window)]),
        slices=slices,
        set_ptr=turns.ptr,
        set_ids=turns.ids,
        buffer_bytes=package_buffers(package),
        passes=batches.passes,
        ddr_layout="each die's share of every expert in its nearest DDR channel",
        prefetch=options.prefetch(),
        route_known=True,
        notes=(f"up to {area_tokens} tokens of an expert gathered at a time",),
    )


def _halves(block_bytes: Ints, n_dies: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Half of every block for each direction of the ring: round, die, direction (1, -1) and bytes, int64 [n] each."""
    back = block_bytes // 2 if n_dies > 2 else np.zeros_like(block_bytes)
    both = np.stack((block_bytes - back, back), axis=2)
    at_round, die, way = np.nonzero(both)
    return at_round, die, 1 - 2 * way, both[at_round, die, way]


def _slices(expert: Ints, low: Ints, high: Ints, pieces: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """The plan's slices, and tag, unit and die of each micro-slice.

    Row unit x dies + die is all that the die has of the unit; the micro-slices follow.
    """
    n_dies = low.shape[1]
    whole = np.stack((np.repeat(expert, n_dies), low.reshape(-1), high.reshape(-1)), axis=1)
    _, row, first, last = cut_many(low.reshape(-1), high.reshape(-1), pieces.reshape(-1))
    table = np.concatenate((whole, np.stack((whole[row, 0], first, last), axis=1)))
    # By unit, then piece by piece over the dies: a channel that serves several dies serves them in turn.
    order = np.lexsort((row % n_dies, ranks_within(row), row // n_dies))
    return table, (whole.shape[0] + np.arange(row.size))[order], row[order] // n_dies, row[order] % n_dies


def _crossed(workload: LayerWorkload, entry: Ints) -> bool:
    """Whether a die's buffer is entered from two channels: their order is not one, so that nothing may run ahead."""
    channel = workload.topology.nearest_channel
    pairs = {(int(e), int(c)) for e, c in zip(entry, channel, strict=True)}
    return len({e for e, _ in pairs}) < len(pairs)
