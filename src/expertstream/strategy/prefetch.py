"""Prefetch by gate prediction (paper, IV-A): weights of predicted experts load before the gate has answered.

For ``lead_ps`` before the gate's result DDR would be idle. In that time the weights of predicted experts load, those
with the most predicted tokens first, each as the strategy itself would lay it out, as far as the weight buffers have
room. They wait where they came in; where the strategy fixes an expert's way (``Plan.route_known``) at the end of it.
Nothing is computed and no token moves. When the gate has answered, loads of experts that no token chose are dropped:
what has not begun is never loaded, a load that runs is finished, their space is given back, and their bytes are
reported as wasted. Experts of which something has come start first; the rest goes as without prediction.

No deadlock. All that is chosen here fits the weight buffers at once, beside the room that one largest chunk of several
stops needs at a die, so that the forward-count rule (engine/kernel.py) holds for the others as if the buffers were
smaller by it. Experts of which something has come are admitted before all others and in the order in which they came,
so that whoever waits for tokens, or for the rest of its weights, waits for those before it alone.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import ADMITTED, COMPLETE, STARTED, TOKENS, WAITING, WEIGHTS
from expertstream.engine.run import Admission, View
from expertstream.engine.state import needed_bytes
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError, WorkloadError
from expertstream.strategy.plan import FROM_TRACE, HeadStart, Options, Plan, needs_training
from expertstream.trace.prediction import guess_from_trace, guess_with_accuracy, recall
from expertstream.units import counted, format_time
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]
PlanOf = Callable[[LayerWorkload, Options], Plan]


@runtime_checkable
class Reorderable(Protocol):
    """A dispatcher that can be told what to start first."""

    def decide(self, view: View) -> Iterable[int | Admission]:
        """As of every dispatcher."""

    def next_groups(self) -> list[int]:
        """Groups of the first pass over the tokens."""

    def start_first(self, groups: Sequence[int]) -> None:
        """Let these of the next groups start before the others, in this order."""


def prefetching(plan: PlanOf) -> PlanOf:
    """The same strategy with the option ``prediction``; its dispatcher must be ``Reorderable``."""

    @functools.wraps(plan)
    def planned(workload: LayerWorkload, options: Options) -> Plan:
        without = replace(options, prediction=None)
        if options.prediction is None or options.lead_ps == 0:
            return plan(workload, without)
        return _with_head_start(plan, workload, options, without)

    return planned


def _with_head_start(plan_of: PlanOf, workload: LayerWorkload, options: Options, without: Options) -> Plan:
    plan = plan_of(workload, without)
    routing = workload.routing
    guess = _guess(workload, options)
    guessed = replace(workload, routing=replace(routing, experts=guess))
    tokens = guessed.in_passes(1).load[0].sum(axis=1)
    order = np.lexsort((np.arange(tokens.size), -tokens))[: int((tokens > 0).sum())].tolist()
    own = _Loads.of(plan, workload)
    several = plan.pass_of_token is not None and plan.passes > 1  # which experts the first pass needs is predicted too
    other = _predicted(plan_of, guessed, without) if several or any(e not in own.chunks for e in order) else own
    if several:
        order = [e for e in order if e in other.chunks]
    wrong = [e for e in order if e not in own.chunks]
    chosen = _chosen(plan, [(own if e in own.chunks else other, e) for e in order])
    work, opener, queues, slices = _add_head_start(plan, own, chosen, options.lead_ps)
    about = HeadStart(options.lead_ps, recall(routing.experts, guess), len(order), len(wrong))
    note = (
        f"{counted(about.experts, 'expert')} predicted, {about.wrong} of them without a token; "
        f"{100 * about.recall:.1f} % of the (token, expert) choices predicted; latency counts from the gate's result"
    )
    return replace(
        plan,
        work=work,
        dispatcher=HeadStartDispatcher(_reorderable(plan), work, opener, queues, plan.work.n_groups),
        slices=np.concatenate((plan.slices, slices)),
        prefetch=f"{plan.prefetch}; by prediction for {format_time(options.lead_ps)} before the gate's result",
        head_start=about,
        notes=(*plan.notes, note),
    )


def _reorderable(plan: Plan) -> Reorderable:
    if not isinstance(plan.dispatcher, Reorderable):
        raise WorkloadError(
            f"prediction needs a dispatcher with next_groups and start_first, and {type(plan.dispatcher).__name__} "
            "lacks them; see InOrder in strategy/plan.py"
        )
    return plan.dispatcher


def _guess(workload: LayerWorkload, options: Options) -> NDArray[np.int16]:
    """Predicted experts of each token, int16 [tokens, k]."""
    if workload.model.n_experts == 0:
        return workload.routing.experts
    if options.prediction == FROM_TRACE:
        return guess_from_trace(workload.routing, needs_training(f"prediction '{FROM_TRACE}'", options))
    return guess_with_accuracy(workload.routing, float(options.prediction or 0))


@dataclass(frozen=True, eq=False)
class _Loads:
    """The loads of a plan's first pass, by expert.

    Attributes:
        chunk, stop: fields of all chunks and stops of the plan. first: first stop of each chunk, int64 [chunks + 1].
        chunks: chunks of each expert that has some, in order. slices, route_known: of the plan.
    """

    chunk: dict[str, Ints]
    stop: dict[str, Ints]
    first: Ints
    chunks: dict[int, list[int]]
    slices: Ints
    route_known: bool

    @classmethod
    def of(cls, plan: Plan, workload: LayerWorkload) -> _Loads:
        """Loads of the experts that have a token in the first pass; those of a later one would be in its way."""
        needed = plan.batches(workload).load[0].sum(axis=1) > 0
        chunk, stop = plan.work.chunk_arrays(), plan.work.stop_arrays()
        group = np.array(_reorderable(plan).next_groups(), dtype=np.int64)
        used = (chunk["channel"] >= 0) & (chunk["tag"] >= 0) & (chunk["first"] > 0) & np.isin(chunk["group"], group)
        rows = np.flatnonzero(used)
        rows = rows[needed[plan.slices[chunk["tag"][rows], 0]]]
        _, index = np.unique(plan.slices[chunk["tag"][rows]], axis=0, return_index=True)  # a later pass loads it again
        found: dict[int, list[int]] = {}
        for row in rows[np.sort(index)].tolist():
            found.setdefault(int(plan.slices[chunk["tag"][row], 0]), []).append(row)
        first = np.concatenate(([0], np.cumsum(chunk["n_stops"]))).astype(np.int64)
        return cls(chunk, stop, first, found, plan.slices, plan.route_known)

    def waits_at(self, row: int) -> int:
        """The stop at which a prefetched chunk waits: the first, or the end of the way that is known."""
        first, last = int(self.first[row]), int(self.first[row + 1]) - 1
        if not self.route_known:
            return first
        computing = np.flatnonzero(self.stop["compute_ps"][first : last + 1])
        return first + int(computing[0]) if computing.size else last

    def stays(self, row: int) -> list[int]:
        """Stops whose space a prefetched chunk keeps."""
        end = self.waits_at(row)
        way = range(int(self.first[row]), end + 1)
        return [s for s in way if self.stop["space"][s] and (s == end or self.stop["hold"][s] >= 0)]

    def is_free(self, row: int) -> bool:
        """Whether the chunk can be made to wait: it is computed, or its way is not known, or nothing gates its load."""
        at = self.waits_at(row)
        return not self.route_known or bool(self.stop["compute_ps"][at]) or self.chunk["gate"][row] < 0

    def alternatives(self, row: int) -> list[int]:
        """The chunk and those of which one is loaded in its place."""
        found = [row]
        while self.chunk["other"][found[-1]] >= 0:
            found.append(int(self.chunk["other"][found[-1]]))
        return found


def _predicted(plan_of: PlanOf, guessed: LayerWorkload, options: Options) -> _Loads:
    """Loads of the layer as predicted; none where it could not run like that."""
    try:
        return _Loads.of(plan_of(guessed, options), guessed)
    except BufferTooSmallError:
        nothing = np.empty(0, dtype=np.int64)
        return _Loads({}, {}, nothing, {}, nothing.reshape(0, 3), route_known=False)


def _chosen(plan: Plan, experts: list[tuple[_Loads, int]]) -> list[tuple[_Loads, int]]:
    """Loads and chunk of what may come before the gate's result, in order: what fits the weight buffers at once.

    A die takes nothing more once something did not fit, so that experts stay in order there. What passes through it,
    and a part of an expert that it holds, still find room.
    """
    chunk, stop = plan.work.chunk_arrays(), plan.work.stop_arrays()
    need = np.where(stop["space"] > 0, needed_bytes(chunk, stop), 0)
    of = np.repeat(np.arange(chunk["bytes"].size), chunk["n_stops"])
    weights = (chunk["pool"][of] == WEIGHTS) & (np.bincount(of, weights=stop["space"] > 0)[of] > 1)
    reserve = np.zeros(plan.buffer_bytes.shape[0], dtype=np.int64)
    np.maximum.at(reserve, stop["die"][weights], need[weights])
    reserve += _largest_part(plan, chunk, stop, of)
    room = (plan.buffer_bytes[:, 0] - reserve).tolist()
    out = []
    for loads, expert in experts:
        for row in loads.chunks.get(expert, []):
            stays = [(int(loads.stop["die"][s]), int(loads.stop["space"][s])) for s in loads.stays(row)]
            if all(n <= room[die] for die, n in stays) and loads.is_free(row):
                out.append((loads, row))
                for die, n in stays:
                    room[die] -= n
            else:
                for die, _ in stays:
                    room[die] = -1
    return out


def _largest_part(plan: Plan, chunk: dict[str, Ints], stop: dict[str, Ints], of: Ints) -> Ints:
    """Bytes of the largest part of an expert that a die holds until all of its tokens have met it; int64 [dies].

    0 where no expert has several parts at a die: parts that wait for their turn must leave room for what must be used
    before them. The weights of a part have the same gate that ends the hold.
    """
    n_dies = plan.buffer_bytes.shape[0]
    held = np.flatnonzero((chunk["pool"][of] == WEIGHTS) & (chunk["tag"][of] >= 0) & (stop["hold"] >= 0))
    where = np.stack((stop["die"][held], stop["hold"][held]))
    (die, _), first, part = np.unique(where, axis=1, return_index=True, return_inverse=True)
    expert_at_die = plan.slices[chunk["tag"][of[held[first]]], 0] * n_dies + die
    out = np.zeros(n_dies, dtype=np.int64)
    if np.unique(expert_at_die).size < expert_at_die.size:
        np.maximum.at(out, die, np.bincount(part.reshape(-1), weights=stop["space"][held]).astype(np.int64))
    return out


def _add_head_start(
    plan: Plan, own: _Loads, chosen: list[tuple[_Loads, int]], lead_ps: int
) -> tuple[Work, int, dict[int, list[int]], Ints]:
    """Change the plan's work so that the chosen loads, each a group of its own, can run before all else.

    Returns:
        The work; the group that starts with the gate's result; for each DDR channel the groups that may load before,
        in order; and the slices of the experts without a token, which follow the plan's own.
    """
    work = plan.work.with_fields({}, {})
    opener, opened = work.new_group(), int(work.new_gates(1)[0])
    work.origin_ps = work.not_before_ps[opener] = lead_ps
    waits: list[tuple[int, int]] = [(-1, opened)]  # a gate (-1: none) and the gate that it signals once it is open
    gates: dict[tuple[int, int], int] = {(-1, -1): opened}
    group, load_gate, stop_gate = own.chunk["group"].copy(), own.chunk["gate"].copy(), own.stop["gate"].copy()
    queues: dict[int, list[int]] = {}
    wasted: list[tuple[_Loads, int, int]] = []
    for loads, row in chosen:
        part = work.new_group()
        queues.setdefault(int(loads.chunk["channel"][row]), []).append(part)
        work.parts[part] = int(group[row]) if loads is own else -1
        if loads is not own:
            wasted.append((loads, row, part))
            continue
        for one in loads.alternatives(row):
            at = loads.waits_at(one)
            group[one] = part
            if loads.route_known and not loads.stop["compute_ps"][at]:
                continue  # what computes with it waits for the gate's result
            pair = (int(stop_gate[at]), int(load_gate[one]))
            if pair not in gates:
                before = [gate for gate in pair if gate >= 0]
                gates[pair] = int(work.new_gates(1 + len(before))[0])
                waits += [(gate, gates[pair]) for gate in (-1, *before)]
            stop_gate[at], load_gate[one] = gates[pair], -1
    work = work.with_fields({"group": group, "gate": load_gate}, {"gate": stop_gate})
    gate, signals = np.array(waits, dtype=np.int64).T
    work.add_chunks(
        group=opener, bytes=0, die=np.zeros((gate.size, 1)), pool=TOKENS, gate=gate, arrive=signals[:, None]
    )
    for number, (loads, row, part) in enumerate(wasted):
        _add_wasted(work, loads, row, part, opened, len(plan.slices) + number)
    slices = [loads.slices[loads.chunk["tag"][row]] for loads, row, _ in wasted]
    return work, opener, queues, np.array(slices, dtype=np.int64).reshape(-1, 3)


def _add_wasted(work: Work, loads: _Loads, row: int, group: int, opened: int, tag: int) -> None:
    """A load that is dropped with the gate's result."""
    way = np.arange(loads.first[row], loads.waits_at(row) + 1)
    work.add_chunks(
        group=group,
        bytes=loads.chunk["bytes"][row],
        die=loads.stop["die"][way][None, :],
        channel=loads.chunk["channel"][row],
        tag=tag,
        space=loads.stop["space"][way],
        hold=np.where(np.isin(way, loads.stays(row)), opened, -1),
    )


class HeadStartDispatcher:
    """Keeps the DDR channels busy with predicted loads until the gate has answered, then lets the strategy decide.

    Args:
        strategy: the strategy's dispatcher; it sees its own groups, the first ``n_groups``, some of which have parts.
        opener: the group that starts with the gate's result.
        queues: for each DDR channel the parts and optional groups that may load before.
    """

    def __init__(
        self, strategy: Reorderable, work: Work, opener: int, queues: Mapping[int, Sequence[int]], n_groups: int
    ) -> None:
        self._strategy, self._opener, self._n_groups = strategy, opener, n_groups
        self._queues = {channel: deque(queue) for channel, queue in sorted(queues.items())}
        self._latest: dict[int, int] = {}
        self._whole_of = {part: whole for part, whole in sorted(work.parts.items()) if whole >= 0}
        chunk = work.chunk_arrays()
        rest = np.bincount(chunk["group"], minlength=work.n_groups) > 0
        self._loading = {*self._whole_of.values(), *chunk["group"][chunk["channel"] >= 0].tolist()}
        members: dict[int, list[int]] = {}
        for part, whole in self._whole_of.items():
            members.setdefault(whole, []).append(part)
        self._members = {w: np.array([*parts, *([w] if rest[w] else [])]) for w, parts in members.items()}
        self._admitted: set[int] = set()
        self._answered = False

    def decide(self, view: View) -> Iterable[int | Admission]:
        """Groups to admit now."""
        if view.group_state[self._opener] < STARTED:
            return self._ahead(view)
        if not self._answered:
            self._answered = True
            self._strategy.start_first(self._begun(view))
        picked: list[int | Admission] = []
        more = True
        while more:
            more = False
            for decided in self._strategy.decide(view.with_states(self._states(view, picked))):
                group = decided.group if isinstance(decided, Admission) else decided
                self._admitted.add(group)
                members = self._members.get(group, np.array([group]))
                waiting = members[view.group_state[members] == WAITING].tolist()
                if waiting:  # the decision about the group takes its time once
                    first = decided._replace(group=waiting[0]) if isinstance(decided, Admission) else waiting[0]
                    picked += [first, *(Admission(part, 0) for part in waiting[1:])]
                more |= not waiting  # all of it was admitted before: no decision point will follow from it
        return picked

    def _begun(self, view: View) -> list[int]:
        """Groups of which something has been asked for, each with those that follow it and use its weights."""
        begun = [whole for part, whole in self._whole_of.items() if view.group_state[part] != WAITING]
        queue = self._strategy.next_groups()
        place = {group: i for i, group in reversed(list(enumerate(queue)))}
        found: dict[int, None] = {}
        for group in dict.fromkeys(begun):
            end = place[group] + 1
            while end < len(queue) and queue[end] not in self._loading:
                end += 1
            found.update(dict.fromkeys(queue[place[group] : end]))
        return list(found)

    def _ahead(self, view: View) -> list[Admission]:
        """The next load of every idle channel, and at the start the group that waits for the gate's result."""
        picked = [self._opener] if view.group_state[self._opener] == WAITING else []
        for channel, queue in self._queues.items():
            asked = channel in self._latest and view.group_state[self._latest[channel]] == ADMITTED
            if queue and not asked and view.is_idle(channel):
                self._latest[channel] = queue.popleft()
                picked.append(self._latest[channel])
        return [Admission(group, 0) for group in picked]  # the order was decided before

    def _states(self, view: View, picked: Sequence[int | Admission]) -> Ints:
        """States of the strategy's groups, int64 [groups]; a group is complete when all of its parts are."""
        state: Ints = view.group_state[: self._n_groups].copy()
        numbers = [one.group if isinstance(one, Admission) else one for one in picked]
        state[[group for group in numbers if group < self._n_groups]] = ADMITTED
        for whole, members in self._members.items():
            found = view.group_state[members]
            if whole not in self._admitted:
                state[whole] = WAITING
            elif (found == COMPLETE).all():
                state[whole] = COMPLETE
            else:
                state[whole] = ADMITTED if (found < STARTED).any() else STARTED
        return state
