"""An attention block as work for the engine: projections, key-value cache, output, router.

Query heads are spread over the dies (heads.py). A die's share of every projection lies in its nearest DDR channel, as
under TP; so does the cache of its key-value heads, and a cache that several dies share is striped over their channels.
One pass over the tokens:

1. ring all-gather of the activations; gathered projections, each with a ring all-gather of its results;
2. the projections of a die's own heads; the new keys and values are written to DDR (as transfers that occupy the
   channel, for the bus works in one direction at a time);
3. attention: cached rows come from DDR in chunks, each of which visits all dies that share it; new tokens attend among
   themselves on chip;
4. the output projection in blocks of columns, each followed by a ring reduce-scatter to the dies where tokens live;
5. after the last pass the router, whose columns are loaded once and visit all dies that have tokens.

Softmax, norms, rotary embedding and additions take no time of their own; biases are not loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expertstream.engine.layout import TOKENS
from expertstream.errors import WorkloadError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.timing import cycles_ps, matmul_cycles
from expertstream.serving.heads import CacheUnit, HeadShares, attend_cycles, column_shares, share_heads
from expertstream.serving.stages import FRONT, HEADS, OUTPUT, READ, ROUTER, SLICES, VALUES, WRITE, BlockPlan, Stages
from expertstream.strategy.collectives import ring_gather, ring_reduce_scatter
from expertstream.strategy.plan import cut
from expertstream.units import counted

Ints = NDArray[np.int64]
MAX_BLOCKS = 64


@dataclass(frozen=True, eq=False)
class AttentionBatch:
    """The tokens of an iteration at one layer, request by request, each request's in order.

    Attributes:
        new: int64 [requests], tokens of this iteration, at least 1 each.
        context: int64 [requests], tokens of the request whose keys and values lie in DDR.
        home: int64 [tokens], the die where each token lives.

    Raises:
        WorkloadError: shapes that do not agree, or a number out of range.
    """

    new: Ints
    context: Ints
    home: Ints

    def __post_init__(self) -> None:
        """Check the shapes and ranges."""
        if self.new.shape != self.context.shape or int(self.new.sum()) != self.home.size:
            raise WorkloadError(
                f"the batch has {counted(self.new.size, 'request')}, {counted(self.context.size, 'context')} and "
                f"{counted(self.home.size, 'token')} with a home, but {counted(int(self.new.sum()), 'new token')}; "
                "they must agree"
            )
        if self.new.size and (int(self.new.min()) < 1 or int(self.context.min()) < 0):
            raise WorkloadError("a request of the batch has no new token or a negative context")

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch."""
        return int(self.home.size)


def plan_attention(
    model: MoEModel, package: Package, batch: AttentionBatch, *, router: bool = True, preloaded: Ints | None = None
) -> BlockPlan:
    """Lay out the attention block of one layer, with the router of an MoE layer (``router``).

    ``preloaded``: int64 [dies], how many of its first micro-slices (``first_loads``) each die has at the start.

    The timeline's tags are stages (``STAGES``). Chunks have no expert slices, so ``Plan.slices`` is empty.

    Raises:
        BufferTooSmallError: the tokens do not fit the token buffers even one at a time.
    """
    return _Attention(model, package, batch, preloaded).plan(router)


def first_loads(model: MoEModel, package: Package) -> list[Ints]:
    """Bytes of the micro-slices that each die loads first in an attention block, int64 [n] each."""
    shares = share_heads(model, package)
    if shares.fronts:
        rows: ArrayLike = shares.fronts[0][0]
        columns = column_shares(shares.fronts[0][1], package.n_dies)
    else:
        rows, columns = shares.own[0]
    block = Stages(model, package, np.empty(0, dtype=np.int64))
    return [n_bytes for _, n_bytes in block.micro_slices(rows, columns)]


class _Attention(Stages):
    """Builds the work, stage by stage."""

    def __init__(self, model: MoEModel, package: Package, batch: AttentionBatch, preloaded: Ints | None) -> None:
        super().__init__(model, package, batch.home, preloaded)
        self.batch = batch

    def plan(self, router: bool) -> BlockPlan:
        shares, n = share_heads(self.model, self.package), self.batch.n_tokens
        passes, blocks = self._fit(shares)
        finished = self.work.new_gates(np.zeros(passes, dtype=np.int64))
        routed = int(self.work.new_gates(0)[0])
        self.residents(routed if router else int(finished[-1]))
        reduced = -1
        for p in range(passes):
            before = int(finished[p - 1]) if p else -1
            reduced = self._pass(shares, n * p // passes, n * (p + 1) // passes, blocks, before, int(finished[p]))
        if router:
            self._router(reduced, routed)
        layout = "each die's share of the projections, and its heads' cache, in its nearest DDR channel"
        return self.finished_plan(passes, layout, f"output projection in {counted(blocks, 'block')} of columns")

    def _fit(self, shares: HeadShares) -> tuple[int, int]:
        """The fewest passes, and then the fewest blocks of the output projection, that fit the token buffers.

        Before attention a die holds the gathered activations and projections, and its heads' queries, keys and values;
        after it, the latter and the partial sums of a block. Its own tokens' activations stay throughout.
        """
        kept = int(shares.token_bytes.max(initial=0))
        gathered = self.activation_bytes - (-shares.front_columns * self.model.activation_bits // 8)
        passes = self.fewest_passes(kept + gathered)
        room = self.package.die.token_buffer_bytes - int(self.own_bytes.max(initial=0))
        while True:
            n = -(-self.batch.n_tokens // passes)
            for blocks in range(1, min(MAX_BLOCKS, self.model.d_model) + 1):
                if n * (kept + self._sum_bytes(-(-self.model.d_model // blocks))) <= room:
                    return passes, blocks
            passes = self.fewest_passes(kept + self._sum_bytes(-(-self.model.d_model // MAX_BLOCKS)))

    def _sum_bytes(self, columns: int) -> int:
        return -(-columns * self.model.partial_sum_bits // 8)

    def _pass(self, shares: HeadShares, first: int, last: int, blocks: int, before: int, finished: int) -> int:
        """A pass; returns the gate of its results, which do not wait for keys and values to be written.

        What waits for them could hold the buffer of loads that stand before them in the queue of a DDR channel.
        """
        n, on_die = last - first, self.tokens_on_dies(first, last)
        if before >= 0:
            self.loaded = before
        placed = self.work.new_gates(2 * self.n_dies)
        ready = ring_gather(self.work, self.topology, self.group, on_die * self.activation_bytes, placed)
        for rows, columns in shares.fronts:
            split = column_shares(columns, self.n_dies)
            computed = self.stage(FRONT, rows, split, n, ready)
            results = n * -(-split * self.model.activation_bits // 8)
            ready = ring_gather(self.work, self.topology, self.group, results, computed)
        with_heads = shares.out_rows > 0
        used = ready  # a die without heads takes part in the gathered projections only
        for rows, split in shares.own:
            ready = self.stage(HEADS, rows, split, n, ready)
        front_bytes = -(-shares.front_columns * self.model.activation_bits // 8)
        used = np.where(with_heads, ready, used)[:, None]
        self.area((n - on_die) * self.activation_bytes + n * front_bytes, before, int(placed[0]), used)
        self.area(n * shares.token_bytes, before, int(placed[0]), finished)
        written = self._write(shares, n, ready, finished)
        ready = self._attend(shares, first, last, ready)
        for rows, split in shares.values:
            ready = self.stage(VALUES, rows, split, n, ready)
        bounds = cut(self.model.d_model, blocks)
        reduced = -1
        for width in np.diff(bounds).tolist():
            there = self.work.new_gates(np.ones(self.n_dies))
            gate = ready if reduced < 0 else reduced
            reduced = int(self.work.new_gates(0)[0])
            self.area(with_heads * n * self._sum_bytes(width), gate, there[:, None], reduced)
            computed = self.stage(OUTPUT, shares.out_rows, np.full(self.n_dies, width), n, there)
            sums = on_die * self._sum_bytes(width)
            ends = ring_reduce_scatter(self.work, self.topology, self.group, sums, computed, reduced)
            self.work.set_gate(reduced, ends)
        self.work.set_gate(finished, 1 + written)
        self.work.add_chunks(group=self.group, bytes=0, die=[[0]], pool=TOKENS, gate=reduced, arrive=finished)
        return reduced

    def _write(self, shares: HeadShares, n: int, ready: Ints, finished: int) -> int:
        """New keys and values go to DDR, over the mesh where a die has no channel; return the signals to come."""
        n_bytes = np.zeros(self.n_dies, dtype=np.int64)
        for unit in shares.units:
            part = np.diff(cut(n * unit.row_bytes, unit.dies.size))
            n_bytes[unit.dies[: part.size]] += part
        dies = np.flatnonzero(n_bytes)
        for d in dies.tolist():
            gate = int(ready[d])
            if self.entry[d] != d:
                there = int(self.work.new_gates(1)[0])
                self.work.add_chunks(
                    group=self.group,
                    bytes=n_bytes[d],
                    die=[[d, self.entry[d]]],
                    pool=TOKENS,
                    gate=gate,
                    space=0,
                    arrive=[-1, there],
                    tag=WRITE,
                )
                gate = there
            self.work.add_chunks(
                group=self.group,
                bytes=n_bytes[d],
                die=[[self.entry[d]]],
                pool=TOKENS,
                channel=self.channel[d],
                gate=gate,
                space=0,
                done=finished,
                tag=WRITE,
            )
        return int(dies.size)

    def _attend(self, shares: HeadShares, first: int, last: int, ready: Ints) -> Ints:
        """Cached rows from DDR, new tokens on chip; return the gates that open when a die's heads are done."""
        ends = np.cumsum(self.batch.new)
        begins = ends - self.batch.new
        new = np.minimum(ends, last) - np.maximum(begins, first)
        there = new > 0
        new, context = new[there], (self.batch.context + np.maximum(0, first - begins))[there]
        attended = self.work.new_gates(np.zeros(self.n_dies, dtype=np.int64))
        signals = np.zeros(self.n_dies, dtype=np.int64)
        own = np.zeros(self.n_dies, dtype=np.int64)
        loaded = int(self.work.new_gates(0)[0])
        chunks = 0
        for unit in shares.units:
            for at, d in enumerate(unit.dies.tolist()):
                own[d] += attend_cycles(self.package.die, unit, at, new, new, causal=True).sum()
                self._count_attention(unit, at, new, context)
            of_unit = self._read(unit, new, context, ready, attended, loaded)
            signals[unit.dies] += of_unit
            chunks += of_unit
        if chunks:
            self.work.set_gate(loaded, chunks)
            self.loaded = loaded
        heads = np.flatnonzero(own)
        self.work.add_chunks(
            group=self.group,
            bytes=0,
            die=heads[:, None],
            pool=TOKENS,
            gate=ready[heads],
            compute_ps=cycles_ps(self.package.die, own[heads], np.zeros_like(heads))[:, None],
            done=attended[heads][:, None],
            tokens=int(new.sum()),
            tag=READ,
        )
        signals[heads] += 1
        for d in range(self.n_dies):
            self.work.set_gate(int(attended[d]), int(signals[d]))
        return attended

    def _count_attention(self, unit: CacheUnit, at: int, new: Ints, context: Ints) -> None:
        one = self.package.die.model_copy(update={"array": "mac-array", "macs_per_cycle": 1})
        macs = attend_cycles(one, unit, at, new, context) + attend_cycles(one, unit, at, new, new, causal=True)
        heads, n, rows = int(unit.query_heads[at]), int(new.sum()), int((context + new).sum())
        self.count(int(macs.sum()), rows * unit.row_bytes, n * heads * unit.key_width, n * heads * unit.value_width)

    def _read(self, unit: CacheUnit, new: Ints, context: Ints, ready: Ints, attended: Ints, loaded: int) -> int:
        """The cached rows of a unit, in chunks over the requests; return how many chunks visit each of its dies."""
        rows = int(context.sum())
        if rows == 0:
            return 0
        parts = max(SLICES * unit.dies.size, -(-rows * unit.row_bytes // self.slot_bytes))
        bounds = cut(rows, parts)
        ends = np.cumsum(context)
        edges = np.unique(np.concatenate((bounds, ends)))
        request = np.searchsorted(ends, edges[:-1], side="right")
        starts = np.searchsorted(edges[:-1], bounds[:-1])
        cycles = [
            np.add.reduceat(attend_cycles(self.package.die, unit, at, new[request], np.diff(edges)), starts)
            for at in range(unit.dies.size)
        ]
        n_bytes = np.diff(bounds) * unit.row_bytes
        time = cycles_ps(self.package.die, np.stack(cycles, axis=1), n_bytes[:, None])
        tokens = np.full(unit.dies.size, int(new.sum()))
        self.circulate(READ, n_bytes, unit.dies, time, ready[unit.dies], attended[unit.dies], tokens, loaded)
        return int(n_bytes.size)

    def _router(self, reduced: int, routed: int) -> None:
        """The router's columns, split over the dies, visit all dies with tokens."""
        tokens = self.tokens_on_dies(0, self.batch.n_tokens)
        ring = np.array(self.topology.ring(range(self.n_dies)), dtype=np.int64)
        dies = ring[tokens[ring] > 0]
        projections = self.model.router_params // (self.model.n_experts * self.model.d_model)
        width = np.diff(cut(projections * self.model.n_experts, self.n_dies))
        n_bytes = -(-self.model.d_model * width * self.model.weight_bits // 8)
        cycles = matmul_cycles(self.package.die, tokens[dies], self.model.d_model, width[:, None])
        time = cycles_ps(self.package.die, cycles, n_bytes[:, None])
        n = int(tokens.sum())
        self.count(n * self.model.d_model * int(width.sum()), dies.size * int(n_bytes.sum()), n * self.model.d_model, 0)
        loaded = int(self.work.new_gates(n_bytes.size)[0])
        gate, done = np.full(dies.size, reduced), np.full(dies.size, routed)
        self.circulate(ROUTER, n_bytes, dies, time, gate, done, tokens[dies], loaded)
        self.work.set_gate(routed, int(n_bytes.size * dies.size))
