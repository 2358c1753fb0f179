"""What blocks without experts are made of: matrices split over the dies, as work for the engine.

No deadlock: a stage's weights are loaded only when all chunks of the stage before have come to their last stop. Until
then nothing holds weight-buffer space but chunks whose inputs do not depend on later loads, so that the kernel's rule
for freely flowing chunks applies to each stage alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.run import AllAtOnce
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError
from expertstream.model import MoEModel
from expertstream.package import Package, Topology
from expertstream.package.timing import cycles_ps, matmul_cycles
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.plan import Plan, cut
from expertstream.units import counted, format_bytes

Ints = NDArray[np.int64]
SLICES = 8  # micro-slices of a die's share of a projection
STAGES = (
    "gathered projections",
    "head projections",
    "cache read",
    "cache write",
    "value expansion",
    "output projection",
    "router",
    "output head",
)
FRONT, HEADS, READ, WRITE, VALUES, OUTPUT, ROUTER, HEAD = range(len(STAGES))


@dataclass(frozen=True, eq=False)
class BlockPlan(Plan):
    """A plan of a block without experts, with what its computes do in all.

    Attributes:
        macs: multiply-accumulates. read_bytes, written_bytes: at the buffers, by computes.
        preloaded_bytes: weights that lie in each die's buffer when the block starts.
    """

    macs: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    preloaded_bytes: tuple[int, ...] = ()


class Stages:
    """Lays out the stages of a block, one after another; what they do in all adds up in its attributes.

    Args:
        home: int64 [tokens], the die where each token lives. preloaded: int64 [dies], how many micro-slices of the
            first stage each die has when the block starts; None: none.
    """

    def __init__(self, model: MoEModel, package: Package, home: Ints, preloaded: Ints | None = None) -> None:
        self.model, self.package, self.home = model, package, home
        self.topology = Topology.of(package)
        self.n_dies = package.n_dies
        self.activation_bytes = -(-model.d_model * model.activation_bits // 8)
        self.own_bytes = np.bincount(home, minlength=self.n_dies) * self.activation_bytes
        self.channel = self.topology.nearest_channel
        self.entry = [self.topology.entry_die(int(self.channel[d]), d) for d in range(self.n_dies)]
        # Two chunks of this size can circulate over all dies in a weight buffer.
        self.slot_bytes = max(1, package.die.weight_buffer_bytes // max(SLICES, 2 * (self.n_dies + 1)))
        self.work = Work()
        self.group = self.work.new_group(decided=False)
        self.macs = self.read_bytes = self.written_bytes = 0
        self.preloaded_bytes = [0] * self.n_dies
        self.preloaded = np.zeros(self.n_dies, dtype=np.int64) if preloaded is None else preloaded.copy()
        self.loaded = -1  # opens when all weights of the stage before have come to their last stop

    def fewest_passes(self, token_bytes: int) -> int:
        """The fewest passes over the tokens if each takes ``token_bytes`` on every die."""
        capacity, own = self.package.die.token_buffer_bytes, int(self.own_bytes.max(initial=0))
        fitting = (capacity - own) // token_bytes
        if fitting < 1:
            raise BufferTooSmallError(
                f"the token buffer of a die is {format_bytes(capacity)}, but the attention of {self.home.size} "
                f"tokens on {counted(self.n_dies, 'die')} needs at least {format_bytes(own + token_bytes)} even one "
                "token at a time; use fewer tokens per iteration or a larger token buffer"
            )
        return max(1, -(-self.home.size // fitting))

    def tokens_on_dies(self, first: int, last: int) -> Ints:
        """Tokens ``first`` to ``last`` - 1 by the die where they live, int64 [dies]."""
        return np.bincount(self.home[first:last], minlength=self.n_dies).astype(np.int64)

    def each_die(self) -> Ints:
        """A stop at every die, int64 [dies, 1]."""
        return np.arange(self.n_dies, dtype=np.int64)[:, None]

    def residents(self, hold: int) -> None:
        """Activations of the tokens where they live, until the gate ``hold`` opens."""
        self.work.add_chunks(group=self.group, bytes=self.own_bytes, die=self.each_die(), pool=TOKENS, hold=hold)

    def area(self, n_bytes: Ints, gate: ArrayLike, arrive: ArrayLike, hold: ArrayLike) -> None:
        """Token-buffer space on every die; ``arrive`` and ``hold``: one gate, or int64 [dies, 1]."""
        self.work.add_chunks(
            group=self.group, bytes=n_bytes, die=self.each_die(), pool=TOKENS, gate=gate, arrive=arrive, hold=hold
        )

    def stage(self, tag: int, rows: ArrayLike, columns: Ints, n: int, gate: Ints) -> Ints:
        """A matrix [rows, columns[d]] for each die d, loaded in micro-slices of columns and applied to n tokens.

        Args:
            rows: one number, or int64 [dies]. gate: int64 [dies], opens when the inputs are there.

        Returns:
            The gates that open when a die is done, int64 [dies].
        """
        height = np.broadcast_to(np.asarray(rows, dtype=np.int64), self.n_dies)
        slices = self.micro_slices(rows, columns)
        done = self.work.new_gates([width.size for width, _ in slices])
        loaded = int(self.work.new_gates(sum(width.size for width, _ in slices))[0])
        for d, (width, n_bytes) in enumerate(slices):
            if width.size:
                self.count(n * int(height[d] * columns[d]), int(n_bytes.sum()), n * int(height[d]), n * int(columns[d]))
                time = cycles_ps(self.package.die, matmul_cycles(self.package.die, n, height[d], width), n_bytes)
                route, there = np.array([d]), int(self.preloaded[d])
                self.preloaded_bytes[d] += int(n_bytes[:there].sum())
                channel = np.where(np.arange(width.size) < there, -1, self.channel[d])
                self.visit(tag, n_bytes, route, time[:, None], gate[route], done[route], np.array([n]), loaded, channel)
        self.preloaded[:] = 0  # only the first stage is loaded ahead
        self.loaded = loaded
        return done

    def micro_slices(self, rows: ArrayLike, columns: Ints) -> list[tuple[Ints, Ints]]:
        """Columns and bytes of the micro-slices of each die's share of a matrix; int64 [n] each."""
        height = np.broadcast_to(np.asarray(rows, dtype=np.int64), self.n_dies)
        out = []
        for d in range(self.n_dies):
            parts = max(SLICES, -(-int(height[d] * columns[d]) * self.model.weight_bits // 8 // self.slot_bytes))
            width = np.diff(cut(int(columns[d]), parts)) if columns[d] and height[d] else columns[:0]
            out.append((width, -(-height[d] * width * self.model.weight_bits // 8)))
        return out

    def count(self, macs: int, operand_bytes: int, values_in: int, values_out: int) -> None:
        """Add the work of computes: the array reads its operand and inputs once and writes its outputs once."""
        self.macs += macs
        self.read_bytes += operand_bytes - (-values_in * self.model.activation_bits // 8)
        self.written_bytes += -(-values_out * self.model.activation_bits // 8)

    def visit(
        self,
        tag: int,
        n_bytes: Ints,
        route: Ints,
        time: Ints,
        gate: Ints,
        done: Ints,
        tokens: Ints,
        loaded: int,
        channel: Ints | None = None,
    ) -> None:
        """Chunks that come from the nearest channel of the first die of ``route`` and are computed at each of its dies.

        Args:
            n_bytes: int64 [chunks]. time: int64 [chunks, stops], ps. gate, done, tokens: int64 [stops].
            channel: int64 [chunks], -1 for chunks that lie at the first die already; None: the nearest for all.
        """
        first = int(route[0])
        skip = [self.entry[first]] if self.entry[first] != first else []
        nothing = [-1] * len(skip)
        arrive = np.full(len(skip) + route.size, -1)
        arrive[-1] = loaded
        self.work.add_chunks(
            group=self.group,
            bytes=n_bytes,
            die=np.tile(np.concatenate((np.array(skip, dtype=np.int64), route)), (n_bytes.size, 1)),
            channel=self.channel[first] if channel is None else channel,
            gate=self.loaded,
            tag=tag,
            compute_ps=np.hstack((np.zeros((n_bytes.size, len(skip)), dtype=np.int64), time)),
            stop_gate=[*nothing, *gate],
            arrive=arrive,
            done=[*nothing, *done],
            tokens=[*([0] * len(skip)), *tokens],
        )

    def circulate(
        self, tag: int, n_bytes: Ints, dies: Ints, time: Ints, gate: Ints, done: Ints, tokens: Ints, loaded: int
    ) -> None:
        """Chunks that visit all ``dies``, each from another one on, so that they come in evenly.

        Args:
            n_bytes: int64 [chunks]. time: int64 [chunks, stops], ps. dies, gate, done, tokens: int64 [stops].
        """
        start = np.arange(n_bytes.size) % dies.size
        for first in range(min(dies.size, n_bytes.size)):
            mine, turn = start == first, (first + np.arange(dies.size)) % dies.size
            self.visit(
                tag, n_bytes[mine], dies[turn], time[mine][:, turn], gate[turn], done[turn], tokens[turn], loaded
            )

    def finished_plan(self, passes: int, layout: str, note: str) -> BlockPlan:
        """All that was laid out, as a plan."""
        nothing = np.empty(0, dtype=np.int64)
        return BlockPlan(
            work=self.work,
            dispatcher=AllAtOnce(self.work.n_groups),
            slices=nothing.reshape(0, 3),
            set_ptr=np.zeros(1, dtype=np.int64),
            set_ids=nothing,
            buffer_bytes=package_buffers(self.package),
            passes=passes,
            ddr_layout=layout,
            notes=(note,),
            macs=self.macs,
            read_bytes=self.read_bytes,
            written_bytes=self.written_bytes,
            preloaded_bytes=tuple(self.preloaded_bytes),
        )
