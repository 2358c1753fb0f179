"""Adaptive streaming, beyond the paper: for each expert, how far its weights go and how far its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import COMPLETE
from expertstream.engine.run import View
from expertstream.engine.state import transfer_ps
from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.schedule import (
    copies_to_wait_for,
    enough_in_flight,
    experts_in_flight,
    fifo,
    hot_next,
    least_ahead,
    least_in_flight,
    links_are_free,
)
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.gather import Gathering
from expertstream.strategy.homes import Homes
from expertstream.strategy.modes import LayerTimes, Modes, adaptive_batches
from expertstream.strategy.plan import Options, Plan, any_pending
from expertstream.strategy.shares import Shares, add_movement
from expertstream.strategy.tiles import Tiles
from expertstream.strategy.tokens import TokenTurns, add_residents
from expertstream.strategy.trajectories import Cutting, Flow, add_micro_slices
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
MOVED_SHARE = 8  # of the room for tokens of other dies, for those that even out one expert
GROUPS_PER_BUFFER = 24  # a decision admits about this share of the package's weight buffers


@dataclass(frozen=True)
class Stream:
    """One expert of a pass, in the order in which its micro-slices load.

    Attributes:
        tokens: its tokens in the pass. groups: of each the number, the compute time, mean over the dies, and the load
            time at full rate of all channels, ps.
        waits_for: bytes, as of ``copies_to_wait_for``.
    """

    tokens: int
    groups: tuple[tuple[int, int, int], ...]
    waits_for: int = 0


class AdaptiveDispatcher:
    """Loads from the hot or the cold end of the experts, so that compute and loads proceed in step (``hot_next``).

    Experts are cut into groups, so that a hot and a cold one stream side by side. The expert that should be next is
    waited for if there is no room for it yet. Others may wait for the room that the tokens of an expert take: if all
    stand still while enough is in flight, one that has begun goes on. Where weights stay, each group has its own
    tokens, and begins as an expert does.

    Args:
        prologue: group of the residents. passes: streams of each. target_ps: as of ``hot_next``.
        held: bytes of a weight buffer that a group whose weights stay fills as long as it runs; they must fit
            ``budget``.
        room, at_least, experts_bytes: as of ``enough_in_flight``.
    """

    def __init__(
        self, prologue: int, passes: Sequence[Sequence[Stream]], target_ps: int, held: dict[int, int], budget: int,
        room: int, at_least: int, experts_bytes: int,
    ) -> None:  # fmt: skip
        self._held, self._budget = held, budget
        self._room, self._at_least, self._experts_bytes = room, at_least, experts_bytes
        self._prologue = [prologue]
        self._passes = [_Pass(streams) for streams in passes]
        self._target_ps = target_ps
        self._running: dict[int, int] = {}  # group: compute time
        self._busy_until_ps = 0  # MAC arrays, if they compute whatever has been started
        self._first: list[tuple[int, int]] = []  # of the first pass: groups to start before all others

    def next_groups(self) -> list[int]:
        """Groups of the running pass that have not started."""
        return self._passes[0].groups if self._passes else []

    def start_first(self, groups: Sequence[int]) -> None:
        """Start the experts of these of the next groups before the others, as far as there is room for what stays."""
        if self._passes:
            self._first = self._passes[0].remove(groups)

    def decide(self, view: View) -> Iterable[int]:
        """At most one group at a time: each start is a decision of its own."""
        if self._prologue:
            first, self._prologue = self._prologue, []
            return first
        state = view.group_state
        self._running = {g: ps for g, ps in self._running.items() if state[g] != COMPLETE}
        left = max(0, self._budget - sum(self._held.get(g, 0) for g in self._running))
        if self._first:
            group, compute_ps = self._first[0]
            if self._held.get(group, 0) > left:
                return []
            self._first.pop(0)
            return self._start(view, group, compute_ps)
        while self._passes and not self._passes[0].queue:
            if self._running:
                return []
            self._passes.pop(0)
        if not self._passes or not view.dry_channel or any_pending(view, list(self._running)):
            return []
        queue = self._passes[0]
        backlog_ps = sum(self._running.values())
        enough = self._enough(queue.left_load_ps, queue.left_compute_ps + backlog_ps)
        ahead_ps = min(backlog_ps, max(0, self._busy_until_ps - view.now_ps))
        for end in queue.ends(ahead_ps, self._target_ps):
            held = self._held.get(end.group)
            if held is not None and held > left:
                continue
            goes_on = end.begun and held is None
            least = min(self._room, self._room - enough + (0 if goes_on else end.waits_for))
            if not self._running or view.all_free_bytes >= least or (goes_on and view.stalled):
                return self._start(view, end.group, queue.take(end))
            view.ask_at(least)
            if not view.stalled:
                return []
        return []

    def _start(self, view: View, group: int, compute_ps: int) -> list[int]:
        self._running[group] = compute_ps
        self._busy_until_ps = max(self._busy_until_ps, view.now_ps) + compute_ps
        return [group]

    def _enough(self, load_ps: int, compute_ps: int) -> int:
        """``enough_in_flight`` now."""
        stay = bool(self._held)
        return enough_in_flight(self._room, self._at_least, self._experts_bytes, load_ps, compute_ps, stay)


class _End(NamedTuple):
    """The next group of the hottest (``at`` 0) or of the coldest (-1) expert.

    Attributes:
        begun: whether another group of that expert has been taken. waits_for: as of Stream.
    """

    at: int
    group: int
    begun: bool
    waits_for: int


class _Pass:
    """What is left of a pass, hottest expert first, and how long that takes to compute and to load."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        ranked = sorted(range(len(streams)), key=lambda i: (-streams[i].tokens, i))
        self.queue = [list(streams[i].groups) for i in ranked]
        self._firsts = {groups[0][0] for groups in self.queue}
        self._waits_for = {group: s.waits_for for s in streams for group, _, _ in s.groups}
        self._compute_ps = sum(ps for groups in self.queue for _, ps, _ in groups)
        self._load_ps = sum(ps for groups in self.queue for _, _, ps in groups)
        self.left_compute_ps, self.left_load_ps = self._compute_ps, self._load_ps

    @property
    def groups(self) -> list[int]:
        """What is left, by number."""
        return [group for queue in self.queue for group, _, _ in queue]

    def remove(self, groups: Sequence[int]) -> list[tuple[int, int]]:
        """Take the experts of these groups out, as admitted: number and compute time of all their groups.

        They come in the order of the given groups, expert by expert, those that were not given last.
        """
        order = {group: nth for nth, group in enumerate(groups)}
        found = [queue for queue in self.queue if any(entry[0] in order for entry in queue)]
        self.queue = [queue for queue in self.queue if queue not in found]
        for queue in found:
            queue.sort(key=lambda entry: order.get(entry[0], len(order)))
        found.sort(key=lambda queue: order[queue[0][0]])
        taken = [entry for queue in found for entry in queue]
        self.left_compute_ps -= sum(ps for _, ps, _ in taken)
        self.left_load_ps -= sum(ps for _, _, ps in taken)
        return [(group, ps) for group, ps, _ in taken]

    def ends(self, ahead_ps: int, target_ps: int) -> tuple[_End, _End]:
        """Both ends of what is left, the one that should load next (``hot_next``) before the other."""
        compute = (self._compute_ps - self.left_compute_ps, self._compute_ps)
        load = (self._load_ps - self.left_load_ps, self._load_ps)
        hottest, coldest = self._end(0), self._end(-1)
        return (hottest, coldest) if hot_next(ahead_ps, target_ps, compute, load) else (coldest, hottest)

    def _end(self, at: int) -> _End:
        group = self.queue[at][0][0]
        return _End(at, group, group not in self._firsts, self._waits_for[group])

    def take(self, end: _End) -> int:
        """Take the next group of this end out, as admitted; its compute time."""
        _, compute_ps, load_ps = self.queue[end.at].pop(0)
        if not self.queue[end.at]:
            self.queue.pop(end.at)
        self.left_compute_ps -= compute_ps
        self.left_load_ps -= load_ps
        return compute_ps


def plan_adaptive(workload: LayerWorkload, options: Options) -> Plan:
    """Per expert: weights circulate over all dies (fse-dp, tokens evened out) or a tile, or tokens move (gather.py)."""
    package = workload.package
    batches = adaptive_batches(workload)
    times = LayerTimes.of(workload, batches)
    accumulators = batches.tokens.max(axis=0) * workload.partial_sum_bytes
    residents = workload.tokens_on_die * workload.activation_bytes + accumulators
    room = (package.die.token_buffer_bytes - int(residents.max())) // workload.remote_token_bytes
    modes = Modes.of(workload, batches, int(room), options, times)
    cutting = Cutting.of(workload.columns, modes.parts)
    flowing = _only(batches, ~modes.gathers)
    tiles = Tiles.of(workload.topology, modes.tile)
    turns = TokenTurns.of(_only(batches, modes.gathers), modes.most, tiles)
    shares = Shares.balanced(flowing, int(room) // MOVED_SHARE, workload.columns)
    total = batches.load.sum(axis=2)
    active = total > 0
    copies = _copies(workload, modes)
    expert_bytes = _expert_bytes(workload, modes, copies, active)
    buffers = package_buffers(package)
    free = int(buffers[:, 0].sum()), int(buffers[:, 1].sum() - residents.sum())
    in_turns = bool((modes.stays & (modes.most < total.max(axis=0))).any())
    work = Work()
    done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    resident, ready = add_residents(work, workload, batches, done)
    groups = _groups(work, workload, cutting, modes, active)
    first = np.where(active, groups[:, np.minimum(cutting.first, cutting.slices.shape[0] - 1)], -1)
    movement = add_movement(work, workload, shares, first, cutting.per_expert, ready, done)
    moves = expert_bytes > 0
    in_order = fifo(moves, bool(modes.stays.any()), *times)
    hot = total * workload.columns.sum() > (total @ workload.columns)[:, None]  # hotter than the average
    late = hot & (not in_order)
    # Where no token moves, a die may fall behind: a micro-slice starts where there is most room (rule 5).
    roomiest = not moves and links_are_free(modes.links_ps, *times)
    flow = Flow(workload.topology.rings[: options.rings], roomiest=roomiest, late=late)
    add_micro_slices(work, workload, cutting, shares, movement, groups, done, flow)
    waits_for = [
        copies_to_wait_for(size, sum(free), stays)
        for size, stays in zip(copies.tolist(), modes.stays.tolist(), strict=True)
    ]
    streams = [_streams(workload, cutting, groups[p], total[p], waits_for) for p in range(batches.passes)]
    gathering = Gathering(
        work, workload, cutting, turns, shares.ptr.size - 1, modes.spare, modes.stays, tiles, in_order
    )  # fmt: skip
    held: dict[int, int] = {}
    for p in range(batches.passes):
        loads = _loads(streams[p], groups[p])
        homes = Homes.of(workload, cutting, loads, tiles, modes.stays, total[p], shares.load[p])
        work.add_to_gate(int(done[p]), gathering.add(p, homes, groups[p], late[p], int(ready[p]), int(done[p])))
        held |= _held_bytes(workload, cutting, modes, groups[p], homes)
    round_ps = _round_ps(workload, cutting)
    dispatcher = AdaptiveDispatcher(
        resident, streams, _target_ps(workload, round_ps, modes, times), held, modes.budget, sum(free),
        least_in_flight(*free, moves, in_turns),
        experts_in_flight(expert_bytes, round_ps, max(times) // max(1, int(active.sum())), bool(held)),
    )  # fmt: skip
    return Plan(
        work=work,
        dispatcher=dispatcher,
        slices=cutting.slices,
        set_ptr=np.concatenate((shares.ptr, shares.ids.size + turns.ptr[1:])),
        set_ids=np.concatenate((shares.ids, turns.ids)),
        buffer_bytes=buffers,
        passes=batches.passes,
        pass_of_token=batches.part,
        prefetch=_prefetch(moves),
        ddr_layout=flow.ddr_layout(len(package.channels)),
        notes=(_notes(modes.tile[active.any(axis=0)], package.n_dies),),
    )


def _prefetch(moves: bool) -> str:
    """``enough_in_flight`` in words; ``moves``: whether some tokens move."""
    if not moves:
        return "nothing else begins while weights take three fifths of the buffers"
    return (
        "nothing else begins while weights and copies of tokens take as much as a few experts, or a third of the "
        "buffers (a quarter to a fifth if loads are ahead), or what moving tokens may fill if that is more"
    )


def _notes(tile: Ints, n_dies: int) -> str:
    """In words, what moves for how many experts; ``tile``: of those that are activated, as in Modes."""
    circulating = f"weights visit all {n_dies} dies that hold tokens" if n_dies > 1 else "weights come to the only die"
    words = {0: circulating, 1: "tokens move"}
    found = zip(*np.unique(tile, return_counts=True), strict=True)
    return "; ".join(f"{words.get(size, f'weights visit tiles of {size} dies')} for {count}" for size, count in found)


def _only(batches: Batches, some: NDArray[np.bool_]) -> Batches:
    """The same tokens at some of the experts only, bool [experts]."""
    load = np.where(some[None, :, None], batches.load, 0)
    keep = np.repeat(load.reshape(-1) > 0, batches.load.reshape(-1))
    ptr = np.concatenate(([0], np.cumsum(load))).astype(np.int64)
    return replace(batches, load=load, ptr=ptr, ids=batches.ids[keep])


def _held_bytes(workload: LayerWorkload, cutting: Cutting, modes: Modes, groups: Ints, homes: Homes) -> dict[int, int]:
    """Of each group whose micro-slices stay, the bytes that it fills at the die that gets the most."""
    n_dies = workload.package.n_dies
    stay = np.flatnonzero(modes.stays[cutting.slices[:, 0]] & (groups >= 0))
    numbers, index = np.unique(groups[stay], return_inverse=True)
    filled = np.bincount(index * n_dies + homes.die[stay], cutting.width[stay], numbers.size * n_dies)
    most = filled.astype(np.int64).reshape(-1, n_dies).max(axis=1, initial=0) * workload.column_bytes
    return dict(zip(numbers.tolist(), most.tolist(), strict=True))


def _groups(work: Work, workload: LayerWorkload, cutting: Cutting, modes: Modes, active: NDArray[np.bool_]) -> Ints:
    """A group for every few micro-slices of an activated expert, int64 [passes, micro-slices], -1 for the others."""
    n_channels = len(workload.package.channels)
    budget = workload.package.die.weight_buffer_bytes * workload.package.n_dies // GROUPS_PER_BUFFER
    out = np.full((active.shape[0], cutting.slices.shape[0]), -1, dtype=np.int64)
    for p, e in zip(*np.nonzero(active), strict=True):
        first, count = int(cutting.first[e]), int(cutting.per_expert[e])
        size = int(cutting.width[first]) * workload.column_bytes
        each = int(modes.block[e]) or n_channels * max(1, budget // max(1, size * n_channels))
        index = np.arange(count) // each
        numbers = np.array([work.new_group() for _ in range(int(index[-1]) + 1)])
        out[p, first : first + count] = numbers[index]
    return out


def _streams(
    workload: LayerWorkload, cutting: Cutting, groups: Ints, tokens: Ints, waits_for: Sequence[int]
) -> list[Stream]:
    """Streams of the activated experts of a pass."""
    package, model = workload.package, workload.model
    rate = np.array(package.ddr_bytes_per_s)
    out = []
    for e in np.flatnonzero(tokens).tolist():
        mine = slice(int(cutting.first[e]), int(cutting.first[e] + cutting.per_expert[e]))
        time = compute_ps(package.die, int(tokens[e]), model.d_model, cutting.width[mine], model.weight_bits)
        numbers, index = np.unique(groups[mine], return_inverse=True)
        each = np.bincount(index, weights=time).astype(np.int64) // package.n_dies
        size = np.bincount(index, weights=cutting.width[mine]).astype(np.int64) * workload.column_bytes
        load_ps = transfer_ps(size, rate)
        groups_of = zip(numbers.tolist(), each.tolist(), load_ps.tolist(), strict=True)
        out.append(Stream(int(tokens[e]), tuple(groups_of), waits_for[e]))
    return out


def _loads(streams: Sequence[Stream], groups: Ints) -> Iterator[Ints]:
    """Micro-slices of each group, in the order in which groups load if MAC arrays never run dry."""
    queue = _Pass(streams)
    while queue.queue:
        end, _ = queue.ends(1, 0)
        queue.take(end)
        yield np.flatnonzero(groups == end.group)


def _copies(workload: LayerWorkload, modes: Modes) -> Ints:
    """Bytes of the copies of its tokens, of one turn, for each expert whose tokens move, else 0; int64 [experts]."""
    tiles = np.where(modes.gathers, workload.package.n_dies // np.maximum(modes.tile, 1), 0)
    return np.asarray(tiles * modes.most * workload.remote_token_bytes)


def _expert_bytes(workload: LayerWorkload, modes: Modes, copies: Ints, active: NDArray[np.bool_]) -> int:
    """Weights and copies of tokens of an activated expert whose tokens move, mean; 0: there is none."""
    some = modes.gathers & active.any(axis=0)
    if not some.any():
        return 0
    return int((workload.expert_bytes[some] + copies[some]).sum()) // int(some.sum())


def _round_ps(workload: LayerWorkload, cutting: Cutting) -> int:
    """Time in which the widest micro-slice would pass all dies one by one."""
    size = workload.package.n_dies * int(cutting.width.max()) * workload.column_bytes
    return size * 10**12 // workload.package.d2d.bandwidth_bytes_per_s


def _target_ps(workload: LayerWorkload, round_ps: int, modes: Modes, times: LayerTimes) -> int:
    """``least_ahead`` of this layer."""
    package = workload.package
    fill_bytes = package.n_dies * package.die.weight_buffer_bytes
    return least_ahead(round_ps, fill_bytes * 10**12 // package.ddr_bytes_per_s, modes.links_ps, *times)
