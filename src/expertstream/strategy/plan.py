"""What a strategy hands to the engine, with what is needed to explain and to replay it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import ADMITTED, COMPLETE
from expertstream.engine.run import Dispatcher, View
from expertstream.engine.work import Work
from expertstream.errors import ConfigError, WorkloadError, check_whole, nearest
from expertstream.schedule import ORDERS, OrderName, SchedulerFactory, SoftwareScheduler
from expertstream.trace import RoutingTrace
from expertstream.units import counted
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
PLACEMENTS = ("contiguous", "round-robin", "balanced")
LAYOUTS = ("striped", "whole")
RINGS = (1, 2, 4)
FROM_TRACE = "trace"
LEAD_PS = 10_000_000
LONGEST_PS = 10**12  # of a decision or a lead; times of a layer must stay within 64 bits


@dataclass(frozen=True)
class Options:
    """Choices that strategies share.

    Attributes:
        micro_slices: micro-slices per expert and die; None: chosen by the strategy and reported.
        placement: home dies of EP's experts (``PLACEMENTS``); "balanced" needs ``training``; "best": every one that
            can be had is simulated and the fastest reported.
        order: in which order EP and TP take the experts, "id" or "paired" (hot and cold ones in turn).
        rings: logical rings that FSE-DP's micro-slices take in turn: 1 one ring in one direction, 2 in both, 4 also the
            ring along the columns of the mesh in both.
        redispatch: FSE-DP first re-dispatches tokens, so that each die has about the same number of every expert.
        layout: where an expert's weights lie under FSE-DP: "striped" evenly over all DDR channels, or "whole" in one
            channel, the experts in turn. The definitions of EP and TP fix theirs.
        depth: the most routed experts (under EP: of a home die) whose weights are loading, waiting or in use at once;
            None: as the strategy's definition says. ``fse-dp-adaptive`` and ``fse-dp-naive-tokens`` admit parts of
            experts that need one another, and take none.
        decision_ps: time that one scheduling decision takes; None: the cycles of the hardware scheduler
            (schedule/cycles.py) where Algorithm 1 decides, no time where the order is fixed when the layer starts.
        scheduler: takes the decisions of Algorithm 1.
        training: the part of a trace on which placements and predictors are fitted; never the part that is simulated.
        prediction: weights load before the gate has answered, by a prediction of its answer (prefetch.py): of this
            accuracy, above 0 and up to 1, or "trace": predicted from the experts of the layer before. None: not.
        lead_ps: how long before the gate's result the prediction is known and DDR is idle. The default is about the
            time between the last load and the end of the attention block of Qwen3-30B-A3B at 64 tokens on 2x2 with
            512 tokens of context (12.6 us; 1.4 us at 16 tokens, 509 us at 256).

    Raises:
        ConfigError: a value of another kind, or out of its range.
    """

    micro_slices: int | None = None
    placement: str = "best"
    order: OrderName = "id"
    rings: int = 4
    redispatch: bool = False
    layout: str = "striped"
    depth: int | None = None
    decision_ps: int | None = None
    scheduler: SchedulerFactory = SoftwareScheduler
    training: RoutingTrace | None = None
    prediction: float | str | None = None
    lead_ps: int = LEAD_PS

    def __post_init__(self) -> None:
        """Check kinds and ranges."""
        for name in ("micro_slices", "depth"):
            _check_number(name, getattr(self, name), 1, None, "at least 1 (or left out)")
        _check_number("decision_ps", self.decision_ps, 0, LONGEST_PS, f"from 0 to 1 s ({LONGEST_PS}), or left out")
        check_whole("lead_ps", self.lead_ps)
        _check_number("lead_ps", self.lead_ps, 0, LONGEST_PS, f"from 0 to 1 s ({LONGEST_PS})")
        check_whole("rings", self.rings)
        choices = {"placement": (*PLACEMENTS, "best"), "order": (*ORDERS,), "rings": RINGS, "layout": LAYOUTS}
        for name, allowed in choices.items():
            value: object = getattr(self, name)
            if not isinstance(value, (str, Integral)) or value not in allowed:
                near = nearest(value, map(str, allowed)) if isinstance(value, str) else ""
                raise ConfigError(f"{name} is {value!r}{near or ';'} allowed: {', '.join(map(str, allowed))}")
        if not isinstance(self.redispatch, bool):
            raise ConfigError(f"redispatch is {self.redispatch!r}; allowed: True, False")
        if self.training is not None and not isinstance(self.training, RoutingTrace):
            raise ConfigError(f"training is {self.training!r}; it must be of type RoutingTrace, or left out")
        if not callable(self.scheduler):
            raise ConfigError(f"scheduler is {self.scheduler!r}; it must make a scheduler, as SoftwareScheduler does")
        if not (self.prediction is None or is_prediction(self.prediction)):
            raise ConfigError(
                f"prediction is {self.prediction!r}; allowed: an accuracy above 0 and up to 1, such as 0.8, or "
                f"'{FROM_TRACE}'"
            )

    def window(self, experts: int) -> int:
        """How many of ``experts`` may run at once."""
        return experts if self.depth is None else min(experts, self.depth)

    def prefetch(self, words: str = "as far as the weight buffer has room") -> str:
        """How far loads run ahead, in words; ``words`` where ``depth`` does not say."""
        return words if self.depth is None else f"{words}, but at most {counted(self.depth, 'expert')} at once"


def _check_number(name: str, value: int | None, least: int, most: int | None, allowed: str) -> None:
    if value is None:
        return
    check_whole(name, value)
    if value < least or (most is not None and value > most):
        raise ConfigError(f"{name} is {value}; it must be {allowed}")


def is_prediction(value: object) -> bool:
    """Whether ``Options.prediction`` may have the value: an accuracy above 0 and up to 1, or "trace"."""
    if isinstance(value, str):
        return value == FROM_TRACE
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) <= 1


def parse_prediction(text: str) -> float | str:
    """``Options.prediction`` from a text; neither a number nor "trace": as it is, for Options to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


def needs_training(what: str, options: Options) -> RoutingTrace:
    """The training part.

    Raises:
        WorkloadError: there is none.
    """
    if options.training is None:
        raise WorkloadError(
            f"{what} is fitted on a training part of the trace, and none is left; use fewer tokens per iteration or a "
            "longer trace. In Python: split it (training, rest = trace.split()), simulate iterations of the rest, and "
            "pass Options(training=training)"
        )
    return options.training


@dataclass(frozen=True)
class HeadStart:
    """What was known of the layer before its gate answered.

    Attributes:
        lead_ps: how long before. recall: share of the (token, routed expert) choices that were predicted.
        experts: experts predicted, shared ones included. wrong: those of them without a token in the (first) pass.
    """

    lead_ps: int
    recall: float
    experts: int
    wrong: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A layer as work for the engine.

    Attributes:
        work: chunks, gates and groups. dispatcher: decides at run time which groups are admitted.
        slices: int64 [n, 3] expert, first and last + 1 column; a chunk's tag is a row number, -1 for no weights.
        set_ptr, set_ids: int64; token set i is ``set_ids[set_ptr[i] : set_ptr[i + 1]]``; a stop's tag is a set number.
        buffer_bytes: int64 [dies, 2], weight and token buffer that the strategy was given.
        passes: passes over the tokens; weights are loaded once per pass that needs them.
        ddr_layout: where the weights lie, in words.
        prefetch: how far loads run ahead of computes, in words.
        die_of_token: where the tokens start and end, int64 [tokens], if the strategy chooses; None: as spread.
        pass_of_token: int64 [tokens], if the strategy chooses; None: as ``LayerWorkload.in_passes``.
        route_known: which dies an expert's weights visit up to the first compute hangs on no token, so that they may
            travel before the gate has answered.
        head_start: set if weights load by prediction.
        notes: choices made that a reader of the result needs.
    """

    work: Work
    dispatcher: Dispatcher
    slices: Ints
    set_ptr: Ints
    set_ids: Ints
    buffer_bytes: Ints
    passes: int
    ddr_layout: str
    prefetch: str = "as far as the weight buffer has room"
    die_of_token: Ints | None = None
    pass_of_token: Ints | None = None
    route_known: bool = False
    head_start: HeadStart | None = None
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        """Its size, in one line."""
        return (
            f"Plan({counted(len(self.slices), 'piece')} of experts, {counted(len(self.set_ptr) - 1, 'token set')}, "
            f"{counted(self.passes, 'pass')}; DDR: {self.ddr_layout}; prefetch: {self.prefetch})"
        )

    def batches(self, workload: LayerWorkload) -> Batches:
        """The tokens of each pass."""
        if self.pass_of_token is None:
            return workload.in_passes(self.passes)
        return workload.batches(self.pass_of_token)


class InOrder:
    """Admits a prologue at once, then groups in order, so many of a queue at a time, phase after phase.

    Args:
        prologue: groups admitted first.
        phases: for each phase (a pass over the tokens) a list of queues, each a list of groups in order. A phase starts
            when the one before has completed. The queues get their turns round-robin. A group may stand in several
            queues: it starts when it is the next of each; such groups must have the same order in all of them.
        window: groups of a queue that may run at once; one number for all queues, or one for each.
        together: groups that stay one after another when some of them start first, because the first of them keeps
            room until the last has ended.
    """

    def __init__(
        self,
        prologue: Sequence[int],
        phases: Sequence[Sequence[Sequence[int]]],
        window: int | Sequence[int],
        together: Sequence[Sequence[int]] = (),
    ) -> None:
        self._prologue = list(prologue)
        self._phases = [[deque(queue) for queue in phase] for phase in phases]
        self._window = window
        self._together = {group: groups for groups in together for group in groups}
        self._phase = -1
        self._next_phase()

    def _next_phase(self) -> None:
        self._phase += 1
        self._queues = self._phases[self._phase] if self._phase < len(self._phases) else []
        self._running: list[list[int]] = [[] for _ in self._queues]
        self._windows = [self._window] * len(self._queues) if isinstance(self._window, int) else list(self._window)
        self._queues_of: dict[int, list[int]] = {}
        for number, queue in enumerate(self._queues):
            for group in queue:
                self._queues_of.setdefault(group, []).append(number)

    def next_groups(self) -> list[int]:
        """Groups of the running phase that have not started."""
        return [group for queue in self._queues for group in queue]

    def start_first(self, groups: Sequence[int]) -> None:
        """Let these of the next groups start before the others, in this order."""
        whole = list(dict.fromkeys(g for group in groups for g in self._together.get(group, (group,))))
        chosen = set(whole)
        for number, queue in enumerate(self._queues):
            front = [group for group in whole if group in set(queue)]
            self._queues[number] = deque((*front, *(group for group in queue if group not in chosen)))

    def decide(self, view: View) -> Iterable[int]:
        """Groups that fit the windows now."""
        picked, self._prologue = self._prologue, []
        state = view.group_state
        self._running = [[g for g in running if state[g] != COMPLETE] for running in self._running]
        if self._queues and not any(self._running) and not any(self._queues):
            self._next_phase()
        more = True
        while more:
            more = False
            for queue in self._queues:
                if queue and all(self._may_start(queue[0], number) for number in self._queues_of[queue[0]]):
                    group = queue[0]
                    for number in self._queues_of[group]:
                        self._queues[number].popleft()
                        self._running[number].append(group)
                    picked.append(group)
                    more = True
        return picked

    def _may_start(self, group: int, number: int) -> bool:
        return self._queues[number][0] == group and len(self._running[number]) < self._windows[number]


def any_pending(view: View, groups: Sequence[int]) -> bool:
    """Whether a decision about one of ``groups`` has been taken and has not taken effect yet."""
    return any(view.group_state[g] == ADMITTED for g in groups)


def in_order(token_counts: Sequence[int], options: Options) -> list[int]:
    """Activated experts in the order that the options ask for."""
    return ORDERS[options.order](token_counts)


def cut(columns: int, parts: int) -> Ints:
    """Boundaries of ``parts`` column ranges that differ by at most one column, int64 [min(parts, columns) + 1]."""
    parts = max(1, min(parts, columns))
    return np.arange(parts + 1, dtype=np.int64) * columns // parts


def cut_many(first: Ints, last: Ints, parts: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut n column ranges into ``parts`` each that differ by at most one column; no part is empty.

    Args:
        first, last, parts: int64 [n]; range i has columns ``first[i]`` to ``last[i]`` - 1 and at least ``parts[i]``.

    Returns:
        nth, range, first, last of every part in order, int64 [parts.sum()] each.
    """
    index = np.repeat(np.arange(parts.size, dtype=np.int64), parts)
    nth = ranks_within(index)
    start, width, n = first[index], (last - first)[index], parts[index]
    return nth, index, start + np.floor_divide(nth * width, n), start + np.floor_divide((nth + 1) * width, n)


def ranks_within(key: Ints) -> Ints:
    """Place of each entry within its run of equal keys, int64; equal keys must be adjacent."""
    starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1]))) if key.size else np.empty(0, dtype=np.int64)
    size = np.diff(np.append(starts, key.size))
    return np.arange(key.size, dtype=np.int64) - np.repeat(starts, size)
