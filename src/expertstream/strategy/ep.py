"""EP: every expert has a home die; tokens are dispatched to it and results combined (docs/strategies.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.strategy import placement
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.dispatch import Lists, Units, emit
from expertstream.strategy.micro_slices import SHARED_WINDOW, TRANSIT, most_columns, passes_on
from expertstream.strategy.placement import Placement
from expertstream.strategy.plan import (
    PLACEMENTS,
    InOrder,
    Options,
    Plan,
    cut_many,
    in_order,
    needs_training,
    ranks_within,
)
from expertstream.strategy.tokens import add_residents, token_batches
from expertstream.trace import RoutingTrace
from expertstream.trace.prediction import popularity_of
from expertstream.units import counted
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
WINDOW = 2  # whole experts per home die: one runs, the next is prefetched
SMALLEST_AREA_TOKENS = 8


def plan_ep(workload: LayerWorkload, options: Options) -> Plan:
    """Whole experts, double-buffered: a die computes an expert when all of it is there and loads the next meanwhile.

    The weight buffer is what two whole experts need, the die's share of the shared experts and, where weights of other
    dies pass through, their transit.
    """
    return _plan(workload, options, *_placed(workload, options), streamed=False)


def plan_ep_streamed(workload: LayerWorkload, options: Options) -> Plan:
    """Weights in micro-slices, computed as they arrive, in the package's own weight buffer.

    An expert whose tokens do not fit the dispatch area at once is cut into column ranges that stay in the buffer until
    all of its tokens, in turns, have met them: no weight is loaded twice.
    """
    return _plan(workload, options, *_placed(workload, options), streamed=True)


def plan_ep_replicated(workload: LayerWorkload, options: Options) -> Plan:
    """``ep`` with hot experts on several dies: their tokens are divided, their weights loaded once and sent round."""
    if workload.model.n_experts == 0:
        return plan_ep(workload, options)
    training = needs_training("ep-replicated", options)
    costs = _Expected.of(workload)(popularity_of(training, workload.routing.layer))
    holds = placement.replicated(costs, workload.package.n_dies)
    extra = int(holds.sum()) - holds.shape[0]
    where = f"{counted(extra, 'replica')} of hot experts, {_fitted(training)}"
    return _plan(workload, options, holds, where, streamed=False)


def plan_hydra(workload: LayerWorkload, options: Options) -> Plan:
    """``ep`` with experts placed by popularity and layer-to-layer affinity.

    A token starts and ends on the die that holds most of its experts of the layer before, as many tokens on each die
    as otherwise; where that layer is not recorded, as spread.
    """
    if workload.model.n_experts == 0:
        return plan_ep(workload, options)
    training = needs_training("hydra", options)
    layer, n_dies = workload.routing.layer, workload.package.n_dies
    cost = _Expected.of(workload)
    holds = placement.hydra_placement(training, layer, n_dies, cost)
    before = workload.routing.before
    known = before is not None and layer - 1 in training.layer_index
    if known:
        votes = placement.hydra_placement(training, layer - 1, n_dies, cost)[before].sum(axis=1).astype(np.int64)
        workload = replace(workload, die_of_token=placement.homes_by_votes(votes, workload.tokens_on_die))
        how = "popularity and affinity to the layer before; tokens start where most of their experts of it are"
    else:
        how = "popularity (the layer before is not recorded)"
    plan = _plan(workload, options, holds, f"experts placed by {how}, {_fitted(training)}", streamed=False)
    return replace(plan, die_of_token=workload.die_of_token)


def placements(options: Options) -> tuple[Options, ...]:
    """The options with each placement that "best" stands for: "balanced" only with a training part."""
    if options.placement != "best":
        return (options,)
    names = PLACEMENTS if options.training is not None else PLACEMENTS[:-1]
    return tuple(replace(options, placement=name) for name in names)


def _fitted(training: RoutingTrace) -> str:
    return f"fitted on {counted(training.n_tokens, 'other token')} of the trace"


def _placed(workload: LayerWorkload, options: Options) -> tuple[Placement, str]:
    n_experts, n_dies = workload.model.n_experts, workload.package.n_dies
    if options.placement == "contiguous":
        return placement.contiguous(n_experts, n_dies), "contiguous homes"
    if options.placement == "balanced" and n_experts > 0:
        training = needs_training("placement 'balanced'", options)
        costs = _Expected.of(workload)(popularity_of(training, workload.routing.layer))
        return placement.balanced(costs, n_dies), f"balanced homes, {_fitted(training)}"
    return placement.round_robin(n_experts, n_dies), "round-robin homes"


@dataclass(frozen=True)
class _Expected:
    """Expected time to fetch and to compute each expert in an iteration of so many tokens, int64 [experts, 2], ps."""

    fetch_ps: float
    compute_ps: float  # per token
    tokens: int
    top_k: int

    @classmethod
    def of(cls, workload: LayerWorkload) -> _Expected:
        model, die, n = workload.model, workload.package.die, 1000
        channel = workload.package.channels[0].effective_bytes_per_s
        time = compute_ps(die, np.array([n]), model.d_model, np.array([model.d_ffn]), model.weight_bits)
        return cls(
            model.d_ffn * workload.column_bytes * 1e12 / channel, int(time[0]) / n, workload.n_tokens, model.top_k
        )

    def __call__(self, popularity: Ints) -> Ints:
        seen = popularity + 1  # an expert that no training token chose is rare, not free
        share = np.minimum(seen * self.top_k / int(seen.sum()), 1)
        fetch = self.fetch_ps * (1 - (1 - share) ** self.tokens)
        return np.rint(np.stack((fetch, self.compute_ps * share * self.tokens), axis=1)).astype(np.int64)


def _plan(workload: LayerWorkload, options: Options, holds: Placement, where: str, *, streamed: bool) -> Plan:
    package, n_dies, n_experts = workload.package, workload.package.n_dies, workload.model.n_experts
    remote_bytes = workload.remote_token_bytes
    batches = token_batches(workload, 0 if n_dies == 1 else 2 * SMALLEST_AREA_TOKENS * remote_bytes)
    resident_bytes = int(workload.tokens_on_die.max()) * workload.activation_bytes
    resident_bytes += int(batches.tokens.max()) * workload.partial_sum_bytes
    has_shared = workload.columns.size > n_experts
    areas = WINDOW + has_shared
    area_tokens = max(1, (package.die.token_buffer_bytes - resident_bytes) // (areas * remote_bytes))
    lists = _lists(workload, batches, holds, int(area_tokens))
    work = Work()
    done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    resident, ready = add_residents(work, workload, batches, done)
    units = _units(workload, options, batches, lists, streamed=streamed)
    n_turns = lists.turns[units.of]
    unit = np.repeat(np.arange(units.of.size), n_turns)
    turn = ranks_within(unit)
    # Later turns of a shared expert start one by one, so that they do not keep routed tokens from the area.
    own = (units.rank[unit] > 0) & (turn > 0)
    n_groups = int(units.group.max(initial=-1)) + 1
    turn_group = np.where(own, n_groups + np.cumsum(own) - 1, units.group[unit])
    first_group = work.n_groups
    work.n_groups += n_groups + int(own.sum())
    units = replace(units, group=units.group + first_group)
    turn_group += first_group
    slices = emit(work, workload, lists, units, turn_group, ready, done)
    size = (units.last - units.first) * workload.column_bytes
    piece = int((-(-(units.last - units.first) // units.pieces)).max(initial=0)) * workload.column_bytes
    copies = int(np.bincount(units.bundle).max(initial=1))
    buffers = package_buffers(package)
    if streamed:
        window = 2 + int(package.die.weight_buffer_bytes // max(int(size.min(initial=1)), 1))
        prefetch = "as far as the weight buffer has room"
    else:
        window = WINDOW
        prefetch = "one whole expert per die beside the one that runs (double buffer)"
        shared = np.sort(size[units.rank > 0])[::-1][:SHARED_WINDOW]
        shared_bytes = int(shared.sum()) if workload.columns.size > n_experts + 1 else int(shared.max(initial=0))
        transit = 2 * TRANSIT if passes_on(workload) else 0
        transit += copies if copies > 1 else 0
        buffers[:, 0] = WINDOW * int(size[units.rank == 0].max(initial=0)) + shared_bytes + transit * piece
    phases = _queues(workload, options, batches, lists, units, turn_group)
    windows = [SHARED_WINDOW] * n_dies + [options.window(window)] * n_dies
    notes = [where, f"up to {counted(area_tokens, 'token')} dispatched to an expert at a time"]
    layout = "each expert whole in the DDR channel nearest to its home die"
    if copies > 1:
        layout += ", replicated ones striped over those of their dies, loaded once and sent round"
    if has_shared:
        layout += "; each die's share of shared experts in its nearest channel"
    return Plan(
        work=work,
        dispatcher=InOrder([resident], phases, window=windows),
        slices=slices,
        set_ptr=lists.set_ptr,
        set_ids=lists.set_ids,
        buffer_bytes=buffers,
        passes=batches.passes,
        ddr_layout=layout,
        prefetch=options.prefetch(prefetch),
        route_known=True,
        notes=tuple(notes),
    )


def _lists(workload: LayerWorkload, batches: Batches, holds: Placement, area_tokens: int) -> Lists:
    n_dies, n_experts, total = workload.package.n_dies, workload.model.n_experts, workload.columns.size
    cell = np.repeat(np.arange(batches.load.size), batches.load.reshape(-1))
    part, rest = np.divmod(cell, total * n_dies)
    expert, token = rest // n_dies, batches.ids
    shared = expert >= n_experts
    die = np.zeros(expert.size, dtype=np.int64)
    routed = np.flatnonzero(~shared)
    die[routed] = _home(part[routed], expert[routed], workload.die_of_token[token[routed]], holds)
    some = np.flatnonzero(shared)
    for_all = np.repeat(some, n_dies)  # a shared expert serves every token: each die has a share of its columns
    at = np.tile(np.arange(n_dies), some.size)
    columns = workload.columns[expert[for_all]]
    has_share = (at + 1) * columns // n_dies > at * columns // n_dies
    for_all, at = for_all[has_share], at[has_share]
    pick = np.concatenate((routed, for_all))
    where = np.concatenate((die[routed], at))
    return Lists.of(workload, part[pick], expert[pick], where, token[pick], area_tokens)


def _home(part: Ints, expert: Ints, source: Ints, holds: Placement) -> Ints:
    """Die for each token of a routed expert: a replica at its own die, else replicas are filled up evenly."""
    home: Ints = holds.argmax(axis=1)[expert]
    several = np.flatnonzero(holds.sum(axis=1) > 1)
    key = part * holds.shape[0] + expert
    for one in np.unique(key[np.isin(expert, several)]).tolist():
        mine = np.flatnonzero(key == one)
        dies = np.flatnonzero(holds[one % holds.shape[0]])
        local = np.isin(source[mine], dies)
        home[mine[local]] = source[mine[local]]
        filled = np.array([(source[mine] == d).sum() for d in dies])
        for i in mine[~local].tolist():
            least = int(filled.argmin())
            home[i] = dies[least]
            filled[least] += 1
    return home


def _units(workload: LayerWorkload, options: Options, batches: Batches, lists: Lists, *, streamed: bool) -> Units:
    """Column ranges: whole experts and whole shares, or what the weight buffer can hold of them at once."""
    n_dies = workload.package.n_dies
    shared = (lists.expert >= workload.model.n_experts).astype(np.int64)
    columns = workload.columns[lists.expert]
    first = np.where(shared > 0, lists.die * columns // n_dies, 0)
    last = np.where(shared > 0, (lists.die + 1) * columns // n_dies, columns)
    held = np.ones(first.size, dtype=np.int64)
    ranges = held.copy()
    finest = (options.micro_slices or 2) * n_dies  # transfers per whole expert
    most = np.full(first.size, np.iinfo(np.int64).max)
    if streamed:
        held = np.maximum(shared, lists.turns > 1)
        most[:] = most_columns("ep-streamed", workload, bool(shared.any()))
        ranges = np.where(held > 0, -(-(last - first) // most), 1)
    place = np.empty(n_dies, dtype=np.int64)
    place[workload.topology.ring(range(n_dies))] = np.arange(n_dies)
    bundle = (lists.part * workload.columns.size + lists.expert) * (n_dies + 1)
    bundle += np.where(shared > 0, lists.die + 1, 0)
    homes = np.bincount(bundle)[bundle]  # dies of a routed expert
    order = np.lexsort((place[lists.die], bundle))
    nth, at, low, high = cut_many(first[order], last[order], ranges[order])
    of = order[at]
    width = high - low
    pieces = np.maximum(1, finest * width // workload.columns[lists.expert[of]])
    pieces = np.minimum(np.maximum(pieces, -(-width // most[of])), width)
    if streamed:
        pieces = np.maximum(pieces, np.where(held[of] > 0, np.minimum(2, width), 1))
    # Column ranges of one list are bundles of their own; replicas (whole experts only) share one.
    _, number = np.unique(bundle[of] * (int(ranges.max(initial=1)) + 1) + nth, return_inverse=True)
    assert not streamed or bool((homes == 1).all())
    return Units(of, low, high, number, held[of], pieces, shared[of], number)


def _queues(
    workload: LayerWorkload, options: Options, batches: Batches, lists: Lists, units: Units, turn_group: Ints
) -> list[list[list[int]]]:
    """For each pass the queues of shared experts, then those of routed ones, one a die."""
    n_dies = workload.package.n_dies
    n_turns = lists.turns[units.of]
    first_turn = np.cumsum(n_turns) - n_turns
    alone = np.bincount(units.bundle)[units.bundle] == 1
    phases = []
    for p in range(batches.passes):
        queues: list[list[int]] = [[] for _ in range(2 * n_dies)]
        rank = np.zeros(workload.columns.size, dtype=np.int64)
        order = in_order(batches.load[p].sum(axis=1).tolist(), options)
        rank[order] = np.arange(len(order))
        mine = np.flatnonzero(lists.part[units.of] == p)
        # Replicated experts first: those that several dies share must have one order on all of them.
        mine = mine[np.lexsort((units.first[mine], rank[lists.expert[units.of[mine]]], alone[mine]))]
        for u in mine.tolist():
            die = int(lists.die[units.of[u]])
            if units.rank[u] == 0:
                queues[n_dies + die].append(int(units.group[u]))
            else:
                queues[die] += turn_group[first_turn[u] : first_turn[u] + n_turns[u]].tolist()
        phases.append(queues)
    return phases
