"""FSE-DP: tokens stay, micro-slices flow along each expert's trajectory (paper sections III to V-A)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import ADMITTED, COMPLETE
from expertstream.engine.run import Admission, Dispatcher, View
from expertstream.engine.work import Work
from expertstream.schedule import CYCLE_PS, LayerScheduler, OrderName, id_order
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.micro_slices import micro_slices, slot_bytes
from expertstream.strategy.plan import InOrder, Options, Plan
from expertstream.strategy.shares import Shares, add_movement
from expertstream.strategy.tokens import add_residents, token_batches
from expertstream.strategy.trajectories import Cutting, Flow, add_micro_slices
from expertstream.units import counted
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]
REDISPATCH_SHARE = 8  # a die keeps 1/8 of its token buffer for tokens that are re-dispatched to it


class TrajectoryDispatcher:
    """Algorithm 1 at run time: whenever a DDR channel runs dry, the next expert starts loading.

    A pass over the tokens starts when the one before has completed: weights that wait for the next pass must never
    take the room that the running pass needs to finish.

    Args:
        prologue: group of the tokens; it starts at once and is no decision.
        passes: for each pass tokens, trajectory (bit mask of dies) and group of each expert.
        scheduler: decides. cycle_ps: its clock, if decisions take the cycles that it works; else None.
        depth: the most experts that run at once; None: no limit.
    """

    def __init__(
        self,
        prologue: int,
        passes: Sequence[tuple[list[int], list[int], list[int]]],
        scheduler: LayerScheduler,
        cycle_ps: int | None,
        depth: int | None = None,
    ) -> None:
        self._prologue = [prologue]
        self._passes = list(passes)
        self._scheduler, self._cycle_ps = scheduler, cycle_ps
        self._groups: list[int] = []  # of the pass that runs
        self._running: list[int] = []
        self._ahead: list[int] = []  # groups that were started first
        self._depth = depth

    def next_groups(self) -> list[int]:
        """Groups of the next pass."""
        if not self._passes:
            return []
        counts, _, groups = self._passes[0]
        return [group for group, count in zip(groups, counts, strict=True) if count]

    def start_first(self, groups: Sequence[int]) -> None:
        """Start these of the next groups with the prologue, in this order; the scheduler never hears of them."""
        self._prologue = [*reversed(groups), *self._prologue]
        self._ahead = list(groups)
        counts, trajectories, group_of = self._passes[0]
        left = [0 if group in self._ahead else count for group, count in zip(group_of, counts, strict=True)]
        self._passes[0] = (left, trajectories, group_of)

    def decide(self, view: View) -> Iterable[int | Admission]:
        """At most one expert at a time: each start is a decision of its own."""
        if self._prologue:
            return [self._admission(self._prologue.pop(), 0)]
        # Asked at every decision point of a layer, hundreds of times: ``item`` gives plain numbers, which compare fast.
        state, before = view.group_state.item, self._scheduler.cycles
        states = [state(self._groups[e]) for e in self._running]
        if COMPLETE in states:
            for expert in [e for e, now in zip(self._running, states, strict=True) if now == COMPLETE]:
                self._running.remove(expert)
                self._scheduler.complete(expert)
        if self._ahead:
            self._ahead = [group for group in self._ahead if state(group) != COMPLETE]
        while not self._scheduler.left and not self._running:
            if not self._passes or (self._ahead and self._groups):  # these are of the first pass
                return []
            counts, trajectories, self._groups = self._passes.pop(0)
            self._scheduler.begin(counts, trajectories)
        full = self._depth is not None and len(self._running) + len(self._ahead) >= self._depth
        if full or ADMITTED in states or not self._scheduler.left or not view.dry_channel:
            return []  # ADMITTED: the decision before has not taken effect yet
        # The entry die is not used: an expert's micro-slices are striped over all channels.
        expert, _, _ = self._scheduler.decide(view.roomy_dies)
        self._running.append(expert)
        return [self._admission(self._groups[expert], self._scheduler.cycles - before)]

    def _admission(self, group: int, cycles: int) -> int | Admission:
        return group if self._cycle_ps is None else Admission(group, cycles * self._cycle_ps)


def plan_flow(workload: LayerWorkload, options: Options, order: OrderName, *, roomiest: bool = False) -> Plan:
    """Micro-slice flow, rules 1 to 4, with Algorithm 1 over the experts in ``order``."""
    parts, why = micro_slices(workload, options.micro_slices)
    rings = workload.topology.rings[: options.rings]
    flow = Flow(rings, roomiest=roomiest, whole=options.layout == "whole")
    notes = (f"{counted(parts, 'micro-slice')} per expert and die: {why}", f"{counted(len(rings), 'ring')}")
    dies, experts = workload.package.n_dies, workload.columns.size

    def dispatcher(resident: int, load: Ints, groups: Ints) -> Dispatcher:
        counts = load.sum(axis=2)
        masks = (load > 0) @ (1 << np.arange(dies, dtype=object))
        passes = list(zip(counts.tolist(), masks.tolist(), groups.tolist(), strict=True))
        scheduler = options.scheduler(order, dies=dies, experts=experts, tokens=workload.n_tokens)
        cycle_ps = CYCLE_PS if options.decision_ps is None else None
        return TrajectoryDispatcher(resident, passes, scheduler, cycle_ps, options.depth)

    return _plan(workload, options, parts * dies, flow, dispatcher, notes)


def plan_id_order(workload: LayerWorkload, options: Options) -> Plan:
    """A2: experts in id order."""
    return plan_flow(workload, options, "id")


def plan_paired(workload: LayerWorkload, options: Options) -> Plan:
    """A3: experts in paired-load order."""
    return plan_flow(workload, options, "paired")


def plan_rule5(workload: LayerWorkload, options: Options) -> Plan:
    """A4: paired load, and each micro-slice is given to the die with the most free storage among those it visits."""
    return plan_flow(workload, options, "paired", roomiest=True)


def plan_naive(workload: LayerWorkload, options: Options) -> Plan:
    """A1: a ring of whole slices, one per die; a slice is sent on when its compute has ended, first come first served.

    The next expert loads while one runs. Slices of which a ring does not fit the weight buffer go in rounds.
    """
    dies = workload.package.n_dies
    largest = int(workload.columns[workload.activated].max(initial=0))
    rounds = 1
    while rounds < largest and slot_bytes(workload, rounds) * (dies + 1) > workload.package.die.weight_buffer_bytes:
        rounds += 1

    def dispatcher(resident: int, load: Ints, groups: Ints) -> Dispatcher:
        counts = load.sum(axis=2)
        phases = [[[int(groups[p][e]) for e in id_order(counts[p].tolist())]] for p in range(load.shape[0])]
        return InOrder([resident], phases, window=options.window(2))

    flow = Flow(workload.topology.rings[:1], at_once=False, whole=options.layout == "whole")
    note = f"{counted(rounds, 'round')} of {counted(dies, 'slice')}"
    return _plan(workload, options, rounds * dies, flow, dispatcher, (note,))


def _plan(
    workload: LayerWorkload,
    options: Options,
    parts: int,
    flow: Flow,
    dispatcher: Callable[[int, Ints, Ints], Dispatcher],
    notes: tuple[str, ...],
) -> Plan:
    reserve, most = 0, 0
    if options.redispatch:
        reserve = workload.package.die.token_buffer_bytes // REDISPATCH_SHARE
        most = reserve // workload.remote_token_bytes
    batches = token_batches(workload, reserve)
    shares = Shares.balanced(batches, most) if options.redispatch else Shares.at_home(batches)
    work = Work()
    done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))  # set by add_micro_slices
    resident, ready = add_residents(work, workload, batches, done)
    cutting = Cutting.of(workload.columns, parts)
    groups = np.full(shares.load.shape[:2], -1, dtype=np.int64)
    active = shares.load.sum(axis=2) > 0
    groups[active] = [work.new_group() for _ in range(int(active.sum()))]
    movement = add_movement(work, workload, shares, groups, cutting.per_expert, ready, done)
    of_slice = groups[:, cutting.slices[:, 0]]
    add_micro_slices(work, workload, cutting, shares, movement, of_slice, done, flow)
    if options.redispatch:
        notes = (*notes, f"{counted(int(shares.moves[:, 4].sum()), '(token, expert) pair')} re-dispatched")
    return Plan(
        work=work,
        dispatcher=dispatcher(resident, shares.load, groups),
        slices=cutting.slices,
        set_ptr=shares.ptr,
        set_ids=shares.ids,
        buffer_bytes=package_buffers(workload.package),
        passes=batches.passes,
        ddr_layout=flow.ddr_layout(len(workload.package.channels)),
        prefetch=options.prefetch(),
        notes=notes,
    )
