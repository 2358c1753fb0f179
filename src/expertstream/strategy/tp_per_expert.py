"""TP that gathers and reduces expert by expert: no pass over the tokens is needed where ``tp`` needs several.

Every expert's columns are split over all dies. For each expert its tokens go round the ring to all dies, and its
partial sums are reduce-scattered round the ring to where the tokens live, while the next experts load, gather and
compute. A die holds the gathered tokens and partial sums of the experts in flight only, not of the whole iteration; the
price is that a token's partial sums travel once per expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.micro_slices import SHARED_WINDOW, most_columns
from expertstream.strategy.plan import InOrder, Options, Plan, cut_many, in_order, ranks_within
from expertstream.strategy.tokens import TokenTurns, add_residents, token_batches
from expertstream.units import counted
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
SMALLEST_AREA_TOKENS = 8
AREAS = 2  # turns of routed experts in flight: one computes, the next gathers


def plan_tp_per_expert(workload: LayerWorkload, options: Options) -> Plan:
    """An expert whose tokens do not fit the area at once is computed in turns, its weights staying in the buffer."""
    package, n_dies = workload.package, workload.package.n_dies
    remote_bytes = workload.remote_token_bytes
    batches = token_batches(workload, 0 if n_dies == 1 else 2 * SMALLEST_AREA_TOKENS * remote_bytes)
    resident = int(workload.tokens_on_die.max()) * workload.activation_bytes
    resident += int(batches.tokens.max()) * workload.partial_sum_bytes
    has_shared = workload.columns.size > workload.model.n_experts
    room = (package.die.token_buffer_bytes - resident) // ((AREAS + has_shared) * remote_bytes)
    area_tokens = workload.n_tokens if n_dies == 1 else max(1, int(room))
    work = Work()
    done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    residents, ready = add_residents(work, workload, batches, done)
    turns = TokenTurns.of(batches, area_tokens)
    units = _Units.of_turns(workload, options, turns, has_shared)
    rounds = _Rounds.of(work, units, turns)
    cut = _slices(units.expert, units.low, units.high, units.pieces)
    gates = _add_rounds(work, workload, units, rounds, ready, done)
    _add_weights(work, workload, units, rounds, gates, cut)
    smallest = int(units.width.max(axis=1, initial=1).min(initial=1)) * workload.column_bytes
    window = 1 if _crossed(workload) else 2 + int(package.die.weight_buffer_bytes // max(smallest, 1))
    phases = _phases(batches, units, rounds, options)
    return Plan(
        work=work,
        dispatcher=InOrder([residents], phases, window=[SHARED_WINDOW, options.window(window)]),
        slices=cut[0],
        set_ptr=turns.ptr,
        set_ids=turns.ids,
        buffer_bytes=package_buffers(package),
        passes=batches.passes,
        ddr_layout="each die's share of every expert in its nearest DDR channel",
        prefetch=options.prefetch(),
        route_known=True,
        notes=(f"up to {counted(area_tokens, 'token')} of an expert gathered at a time",),
    )


@dataclass(frozen=True, eq=False)
class _Units:
    """Experts, or blocks of their columns that stay until all turns are computed; int64 [units] unless stated.

    Attributes:
        of: number of the turns' list. part, expert: pass and expert. shared, held: bool, a shared expert; its weights
            stay until all of its rounds are computed. block: place among the expert's blocks. rounds: turns.
        low, high: int64 [units, dies], columns ``low`` to ``high`` - 1 are a die's. pieces: micro-slices of them.
    """

    of: Ints
    part: Ints
    expert: Ints
    shared: NDArray[np.bool_]
    held: NDArray[np.bool_]
    block: Ints
    rounds: Ints
    low: Ints
    high: Ints
    pieces: Ints

    @property
    def width(self) -> Ints:
        """Columns of each die, int64 [units, dies]."""
        return self.high - self.low

    @property
    def first_round(self) -> Ints:
        """Number of each unit's first round."""
        return np.asarray(np.cumsum(self.rounds) - self.rounds)

    @classmethod
    def of_turns(cls, workload: LayerWorkload, options: Options, turns: TokenTurns, has_shared: bool) -> _Units:
        """Cut each expert, for the tokens of each pass, into what a weight buffer can hold."""
        n_dies = workload.package.n_dies
        part, expert = np.divmod(turns.key, workload.columns.size)
        shared = expert >= workload.model.n_experts
        most = most_columns("tp-per-expert", workload, has_shared)
        held = (turns.count > 1) | shared
        share = -(-workload.columns[expert] // n_dies)
        blocks = np.where(held, -(-share // most), 1)
        of = np.repeat(np.arange(expert.size), blocks)
        block = ranks_within(of)
        dies = np.arange(n_dies)
        columns = workload.columns[expert[of]][:, None]
        left, right = dies * columns // n_dies, (dies + 1) * columns // n_dies
        low = left + block[:, None] * (right - left) // blocks[of][:, None]
        high = left + (block[:, None] + 1) * (right - left) // blocks[of][:, None]
        parts = options.micro_slices or 2
        pieces = np.maximum(-(-parts // blocks[of])[:, None], -(-(high - low) // most))
        pieces = np.minimum(np.maximum(pieces, 1), high - low)
        return cls(of, part[of], expert[of], shared[of], held[of], block, turns.count[of], low, high, pieces)


@dataclass(frozen=True, eq=False)
class _Rounds:
    """A unit with the tokens of one turn; int64 [rounds] unless stated.

    Attributes:
        unit: its unit. set_number: token set. group: of the round; unit_group: int64 [units], of a unit's weights and
            its first round (later ones too, but of shared experts, which start one by one).
        counts: int64 [rounds, dies], tokens by the die where they live.
    """

    unit: Ints
    set_number: Ints
    group: Ints
    unit_group: Ints
    counts: Ints

    @property
    def tokens(self) -> Ints:
        """Tokens of each round."""
        return np.asarray(self.counts.sum(axis=1))

    @classmethod
    def of(cls, work: Work, units: _Units, turns: TokenTurns) -> _Rounds:
        """All rounds in the order of the units, with new groups."""
        unit = np.repeat(np.arange(units.of.size), units.rounds)
        turn = ranks_within(unit)
        set_number = turns.first[units.of[unit]] + turn
        own = units.shared[unit] & (turn > 0)
        first_group = work.n_groups
        work.n_groups += units.of.size + int(own.sum())
        unit_group = first_group + np.arange(units.of.size)
        group = np.where(own, first_group + units.of.size + np.cumsum(own) - 1, unit_group[unit])
        return cls(unit, set_number, group, unit_group, turns.on_die[set_number])


@dataclass(frozen=True, eq=False)
class _Gates:
    """Gates between weights and rounds.

    Attributes:
        loaded, used: int64 [units, dies], the weights of a unit that stay are there; all rounds have met them.
        gathered, computed: int64 [rounds, dies], a die has all it needs for a round; it has computed it.
    """

    loaded: Ints
    used: Ints
    gathered: Ints
    computed: Ints


def _add_rounds(work: Work, workload: LayerWorkload, units: _Units, rounds: _Rounds, ready: Ints, done: Ints) -> _Gates:
    """Areas with the computes of what stays, tokens that go round to all dies, partial sums that go home.

    Args:
        ready, done: gates of each pass (tokens.add_residents); every round signals ``done``.
    """
    n_dies, n_rounds, counts, unit = workload.package.n_dies, rounds.unit.size, rounds.counts, rounds.unit
    part, held, has_width = units.part[unit], units.held[unit][:, None], units.width[unit] > 0
    gather = _halves(counts * workload.activation_bytes * (n_dies > 1), n_dies)
    reduce = _halves(counts * workload.partial_sum_bytes, n_dies)
    waits_weights = (held & has_width).astype(np.int64)
    waits_pass = np.broadcast_to((ready[part] >= 0)[:, None], counts.shape)
    sent = np.bincount(gather[0], minlength=n_rounds)[:, None]
    pieces = np.where(held, has_width, units.pieces[unit]).astype(np.int64)
    gates = _Gates(
        loaded=work.new_gates(units.pieces.reshape(-1)).reshape(units.pieces.shape),
        used=work.new_gates(np.repeat(units.rounds, n_dies)).reshape(units.pieces.shape),
        gathered=work.new_gates((sent + waits_weights + waits_pass).reshape(-1)).reshape(counts.shape),
        computed=work.new_gates(pieces.reshape(-1)).reshape(counts.shape),
    )
    placed = work.new_gates(np.full(n_rounds, n_dies))
    finished = work.new_gates(np.bincount(reduce[0], minlength=n_rounds))
    for p, gate in enumerate(done.tolist()):
        work.set_gate(gate, int((part == p).sum()))
    _add_areas(work, workload, units, rounds, gates, waits_weights, placed, finished)
    for mask, gate, arrive in (
        (waits_weights > 0, gates.loaded[unit], gates.gathered),
        (waits_pass, np.broadcast_to(ready[part][:, None], counts.shape), gates.gathered),
        (waits_weights > 0, gates.computed, gates.used[unit]),
    ):
        at_round, here = np.nonzero(mask)
        work.add_chunks(
            group=rounds.group[at_round],
            bytes=0,
            die=here[:, None],
            pool=TOKENS,
            gate=gate[mask],
            arrive=arrive[mask][:, None],
        )
    ring = np.array(workload.topology.ring(range(n_dies)), dtype=np.int64)
    place, dies = np.argsort(ring), np.arange(n_dies)
    at_round, die, way, n_bytes = gather
    stops = ring[(place[die][:, None] + way[:, None] * dies) % n_dies]
    work.add_chunks(
        group=rounds.group[at_round],
        bytes=n_bytes,
        die=stops,
        pool=TOKENS,
        gate=placed[at_round],
        space=0,
        arrive=gates.gathered[at_round[:, None], stops],
    )
    at_round, die, way, n_bytes = reduce
    stops = ring[(place[die][:, None] + way[:, None] * (dies + 1)) % n_dies]
    last = np.full(stops.shape, -1, dtype=np.int64)
    last[:, -1] = finished[at_round]
    work.add_chunks(
        group=rounds.group[at_round],
        bytes=n_bytes,
        die=stops,
        pool=TOKENS,
        gate=gates.computed[at_round, stops[:, 0]],
        space=0,
        stop_gate=gates.computed[at_round[:, None], stops],
        done=last,
    )
    work.add_chunks(
        group=rounds.group, bytes=0, die=np.zeros((n_rounds, 1)), pool=TOKENS, gate=finished, done=done[part][:, None]
    )
    return gates


def _add_areas(
    work: Work, workload: LayerWorkload, units: _Units, rounds: _Rounds, gates: _Gates, computes: Ints, placed: Ints,
    finished: Ints,
) -> None:  # fmt: skip
    """Room for a round at every die until its partial sums have gone home; ``computes``: 1 where weights stay."""
    n_dies, model, unit, tokens = workload.package.n_dies, workload.model, rounds.unit, rounds.tokens
    time = compute_ps(workload.package.die, tokens[:, None], model.d_model, units.width[unit], model.weight_bits)
    here = computes.reshape(-1) > 0
    every = np.repeat(np.arange(unit.size), n_dies)
    die = np.tile(np.arange(n_dies), unit.size)
    work.add_chunks(
        group=rounds.group[every],
        bytes=((tokens[:, None] - rounds.counts) * workload.remote_token_bytes).reshape(-1),
        die=die[:, None],
        pool=TOKENS,
        tag=np.where(here, unit[every] * n_dies + die, -1),
        compute_ps=np.where(here, time.reshape(-1), 0)[:, None],
        stop_gate=np.where(here, gates.gathered.reshape(-1), -1)[:, None],
        rank=units.shared[unit][every][:, None],
        arrive=placed[every][:, None],
        done=np.where(here, gates.computed.reshape(-1), -1)[:, None],
        hold=finished[every][:, None],
        tokens=np.where(here, tokens[every], 0)[:, None],
        stop_tag=np.where(here, rounds.set_number[every], -1)[:, None],
    )


def _add_weights(
    work: Work,
    workload: LayerWorkload,
    units: _Units,
    rounds: _Rounds,
    gates: _Gates,
    cut: tuple[Ints, Ints, Ints, Ints],
) -> None:
    """Micro-slices, computed as they come where a unit has one round, else held; ``cut``: of ``_slices``."""
    slices, tag, at_unit, at_die = cut
    topology, model = workload.topology, workload.model
    entry = _entries(workload)
    round_0 = units.first_round[at_unit]
    through = (entry[at_die] != at_die).astype(np.int64)
    chunk = np.repeat(np.arange(tag.size), 1 + through)
    passing = (ranks_within(chunk) == 0) & (through[chunk] > 0)
    piece = slices[tag, 2] - slices[tag, 1]
    streams = ~passing & ~units.held[at_unit][chunk]
    holds = ~passing & units.held[at_unit][chunk]
    tokens = rounds.tokens[round_0]
    one = compute_ps(workload.package.die, tokens, model.d_model, piece, model.weight_bits)
    work.add_ragged(
        1 + through,
        {
            "bytes": piece * workload.column_bytes,
            "group": rounds.unit_group[at_unit],
            "channel": topology.nearest_channel[at_die],
            "tag": tag,
        },
        {
            "die": np.where(passing, entry[at_die][chunk], at_die[chunk]),
            "compute_ps": np.where(streams, one[chunk], 0),
            "rank": units.shared[at_unit][chunk],
            "gate": np.where(streams, gates.gathered[round_0, at_die][chunk], -1),
            "arrive": np.where(holds, gates.loaded[at_unit, at_die][chunk], -1),
            "done": np.where(streams, gates.computed[round_0, at_die][chunk], -1),
            "hold": np.where(holds, gates.used[at_unit, at_die][chunk], -1),
            "tokens": np.where(streams, tokens[chunk], 0),
            "tag": np.where(streams, rounds.set_number[round_0][chunk], -1),
        },
    )


def _phases(batches: Batches, units: _Units, rounds: _Rounds, options: Options) -> list[list[list[int]]]:
    """For each pass the groups of shared experts, round by round, and those of routed ones, in order."""
    phases = []
    for p in range(batches.passes):
        position = np.zeros(batches.load.shape[1], dtype=np.int64)
        by_load = in_order(batches.load[p].sum(axis=1).tolist(), options)
        position[by_load] = np.arange(len(by_load))
        mine = np.flatnonzero(units.part == p)
        mine = mine[np.lexsort((units.block[mine], position[units.expert[mine]]))]
        shared = units.shared[mine]
        of_shared = [rounds.group[rounds.unit == u].tolist() for u in mine[shared].tolist()]
        phases.append([[group for groups in of_shared for group in groups], rounds.unit_group[mine[~shared]].tolist()])
    return phases


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


def _entries(workload: LayerWorkload) -> Ints:
    """For each die the one at which its weights enter the package, int64 [dies]."""
    topology = workload.topology
    dies = range(workload.package.n_dies)
    return np.array([topology.entry_die(int(topology.nearest_channel[d]), d) for d in dies], dtype=np.int64)


def _crossed(workload: LayerWorkload) -> bool:
    """Whether a die's buffer is entered from two channels: their order is not one, so that nothing may run ahead."""
    channel = workload.topology.nearest_channel
    pairs = {(int(e), int(c)) for e, c in zip(_entries(workload), channel, strict=True)}
    return len({e for e, _ in pairs}) < len(pairs)
