"""The dual of naive FSE-DP: slices stay where they are loaded, tokens circulate (paper, section III)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError
from expertstream.package.timing import compute_ps
from expertstream.schedule import id_order
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.micro_slices import slot_bytes
from expertstream.strategy.plan import InOrder, Options, Plan
from expertstream.strategy.shares import Movement, Shares, add_movement
from expertstream.strategy.tokens import add_residents
from expertstream.strategy.trajectories import Cutting
from expertstream.units import counted, format_bytes
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]
WINDOW = 2  # steps that hold token areas: one runs, the next one's slices are prefetched


def plan_token_ring(workload: LayerWorkload, options: Options) -> Plan:
    """A slice on every die; each die's tokens go round the ring, phase by phase, and collect their partial sums.

    A step is one expert, or one round of it where a slice for every die is too large for two steps' slices to fit the
    weight buffer. In phase k of a step a die computes the tokens that lived k dies before it on the ring; when all
    have, all send them on. An area for two batches of tokens (computed, coming in) is taken at every die for a step.
    """
    dies = workload.package.n_dies
    rounds = _rounds(workload)
    batches, shares = _batches(workload, options)
    cutting = Cutting.of(workload.columns, rounds * dies)
    work = Work()
    done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))
    resident, ready = add_residents(work, workload, batches, done)
    active = shares.load.sum(axis=2) > 0
    groups = np.full(active.shape, -1, dtype=np.int64)
    groups[active] = [work.new_group() for _ in range(int(active.sum()))]
    steps = -(-cutting.per_expert // dies)
    movement = add_movement(work, workload, shares, groups, steps, ready, done)
    phases: list[list[list[int]]] = []
    together: list[list[int]] = []  # steps of an expert: the first keeps room for tokens until the last has ended
    for p in range(batches.passes):
        queue: list[int] = []
        signals = int((shares.moves[:, 0] == p).sum())
        for e in id_order(shares.load[p].sum(axis=1).tolist()):
            together.append([])
            for step in range(int(steps[e])):
                group = int(groups[p, e]) if step == 0 else work.new_group()
                queue.append(group)
                together[-1].append(group)
                tags = np.arange(cutting.first[e], cutting.first[e] + cutting.per_expert[e])[step * dies :][:dies]
                ring = _Step(work, workload, shares, movement, cutting, group, p, e, tags, int(done[p]))
                signals += ring.add()
        work.set_gate(int(done[p]), signals)
        phases.append([queue])
    pairs = counted(int(shares.moves[:, 4].sum()), "(token, expert) pair")
    moved = (f"{pairs} re-dispatched",) if options.redispatch else ()
    return Plan(
        work=work,
        dispatcher=InOrder([resident], phases, window=WINDOW, together=together),
        slices=cutting.slices,
        set_ptr=shares.ptr,
        set_ids=shares.ids,
        buffer_bytes=package_buffers(workload.package),
        passes=batches.passes,
        ddr_layout="each die's slice of every expert in its nearest DDR channel",
        route_known=True,
        notes=(f"{counted(rounds, 'round')} of {counted(dies, 'slice')}", *moved),
    )


def _rounds(workload: LayerWorkload) -> int:
    """The fewest rounds of which a die can hold the slices of the steps in the window.

    A slice may also pass through the die of its DDR channel. That die is always served by its own channel, so that
    slices on their way go to dies that pass nothing on, and room for two of them there is enough.
    """
    topology, capacity = workload.topology, workload.package.die.weight_buffer_bytes
    dies = range(workload.package.n_dies)
    passes_on = any(topology.entry_die(int(topology.nearest_channel[d]), d) != d for d in dies)
    slots = WINDOW + 2 * passes_on
    largest = int(workload.columns[workload.activated].max(initial=0))
    rounds = 1
    while rounds < largest and slot_bytes(workload, rounds) * slots > capacity:
        rounds += 1
    if slot_bytes(workload, rounds) * slots > capacity:
        raise BufferTooSmallError(
            f"the weight buffer of a die is {format_bytes(capacity)}, but {slots} slices of one column need "
            f"{format_bytes(slot_bytes(workload, rounds) * slots)}; enlarge it"
        )
    return rounds


def _batches(workload: LayerWorkload, options: Options) -> tuple[Batches, Shares]:
    """The fewest passes whose tokens fit, with the areas of the steps and of the tokens that are re-dispatched."""
    capacity = workload.package.die.token_buffer_bytes
    own = int(workload.tokens_on_die.max()) * workload.activation_bytes
    remote_bytes = workload.remote_token_bytes
    alone = workload.package.n_dies == 1
    passes = 1
    while True:
        batches = workload.in_passes(passes)
        shares = Shares.at_home(batches)
        received = 0
        if options.redispatch:
            shares = Shares.balanced(batches, workload.n_tokens)
            into = np.zeros(shares.load.shape, dtype=np.int64)
            np.add.at(into, (shares.moves[:, 0], shares.moves[:, 1], shares.moves[:, 3]), shares.moves[:, 4])
            received = int(into.max(initial=0))
        area = 0 if alone else WINDOW * (2 * int(shares.load.max(initial=0)) + received) * remote_bytes
        needed = own + int(batches.tokens.max()) * workload.partial_sum_bytes + area
        if needed <= capacity:
            return batches, shares
        if passes >= int(workload.tokens_on_die.max()):
            raise BufferTooSmallError(
                f"the token buffer of a die is {format_bytes(capacity)}, but tokens that circulate need "
                f"{format_bytes(needed)} even with one token of a die in a pass; use fewer tokens per iteration or a "
                "larger token buffer"
            )
        passes += 1


class _Step:
    """One expert, or one round of it, in one pass: a slice per die and the tokens that go round."""

    def __init__(
        self, work: Work, workload: LayerWorkload, shares: Shares, movement: Movement, cutting: Cutting, group: int,
        p: int, expert: int, tags: Ints, done: int,
    ) -> None:  # fmt: skip
        self.work, self.workload, self.group, self.tags, self.done = work, workload, group, tags, done
        self.width = cutting.width[tags]
        self.load = shares.load[p, expert]
        self.arrived, self.computed = movement.arrived[p, expert], movement.computed[p, expert]
        self.placed = int(movement.placed[p, expert])
        self.first_set = (p * workload.columns.size + expert) * workload.package.n_dies
        self.ring = np.array(workload.topology.ring(range(workload.package.n_dies)), dtype=np.int64)
        self.sources = np.flatnonzero(self.load[self.ring])  # places on the ring

    def add(self) -> int:
        """Add everything; return the number of signals to ``done``."""
        dies, n = self.ring.size, self.sources.size
        has_slice = np.isin(self.ring, np.arange(self.tags.size))
        at = (self.sources[:, None] + np.arange(dies)) % dies  # [source, phase] place on the ring
        phase = self.work.new_gates(has_slice[at].sum(axis=0))
        there = self.work.new_gates(np.full((n, dies), 2).reshape(-1)).reshape(n, dies)  # tokens of a source at a phase
        there[:, 0] = self.arrived[self.ring[self.sources]]
        if dies > 1:
            there[:, 1] = self.work.new_gates(np.ones(n, dtype=np.int64))
        room = self._add_areas(dies)
        self._add_slices(dies, phase, there, room)
        own = self.computed[self.ring[self.sources]]
        end = np.where(own >= 0, own, self.done)
        if dies == 1:
            self.work.add_chunks(group=self.group, bytes=0, die=[[0]], pool=TOKENS, gate=phase[0], done=self.done)
        else:
            self._add_tokens(at, phase, there, end)
        return int((own < 0).sum())

    def _add_areas(self, dies: int) -> int:
        """Room for two batches at every die, before any weights; return the gate that opens when all have it."""
        if dies == 1:
            return self.placed
        size = 2 * int(self.load.max()) * self.workload.remote_token_bytes
        room = int(self.work.new_gates(dies)[0])
        self.home = int(self.work.new_gates(self.sources.size)[0])
        self.work.add_chunks(
            group=self.group,
            bytes=size,
            die=np.arange(dies)[:, None],
            pool=TOKENS,
            gate=self.placed,
            arrive=room,
            hold=self.home,
        )
        return room

    def _add_slices(self, dies: int, phase: Ints, there: Ints, room: int) -> None:
        """A slice meets its die's own tokens first, then those of the die before, and so on."""
        workload, topology = self.workload, self.workload.topology
        place = np.empty(dies, dtype=np.int64)
        place[self.ring] = np.arange(dies)
        for die, tag, width in zip(range(self.tags.size), self.tags.tolist(), self.width.tolist(), strict=True):
            distance = (place[die] - self.sources) % dies
            order = np.argsort(distance)
            source = self.ring[self.sources[order]]
            channel = int(topology.nearest_channel[die])
            entry = topology.entry_die(channel, die)
            front = [] if entry == die else [0]
            tokens = self.load[source]
            size = int(width) * workload.column_bytes
            time = compute_ps(
                workload.package.die, tokens, workload.model.d_model, np.int64(width), workload.model.weight_bits
            )
            used = int(self.work.new_gates(1)[0])
            n = source.size
            gone = [-1] * len(front)
            self.work.add_chunks(
                group=self.group,
                bytes=size,
                die=[[*([entry] if front else []), *([die] * (n + 1))]],
                channel=channel,
                gate=room,
                flow=False,
                tag=tag,
                space=[[*([size] if front else []), size, *([0] * n)]],
                compute_ps=[[*front, *time.tolist(), 0]],
                stop_gate=[[*gone, *there[order, distance[order]].tolist(), -1]],
                done=[[*gone, *phase[distance[order]].tolist(), -1]],
                arrive=[[*gone, *([-1] * n), used]],
                hold=[[*gone, used, *([-1] * n)]],
                tokens=[[*front, *tokens.tolist(), 0]],
                stop_tag=[[*gone, *(self.first_set + source).tolist(), -1]],
            )

    def _add_tokens(self, at: Ints, phase: Ints, there: Ints, end: Ints) -> None:
        """Activations go from home to the last die; partial sums start at the second and come home."""
        stops, tokens = self.ring[at], self.load[self.ring[self.sources]]
        nothing = np.full((self.sources.size, 1), -1, dtype=np.int64)
        gates = np.tile(phase, (self.sources.size, 1))
        self.work.add_chunks(
            group=self.group,
            bytes=tokens * self.workload.activation_bytes,
            die=stops,
            pool=TOKENS,
            space=0,
            stop_gate=gates,
            arrive=np.hstack((nothing, there[:, 1:])),
        )
        self.work.add_chunks(
            group=self.group,
            bytes=tokens * self.workload.partial_sum_bytes,
            die=np.hstack((stops[:, 1:], stops[:, :1])),
            pool=TOKENS,
            space=0,
            gate=phase[0],
            stop_gate=np.hstack((gates[:, 1:], nothing)),
            arrive=np.hstack((nothing, there[:, 2:], np.full_like(nothing, self.home))),
            done=np.hstack((np.full_like(stops[:, 1:], -1), end[:, None])),
        )
