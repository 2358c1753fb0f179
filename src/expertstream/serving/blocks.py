"""Blocks of an iteration, each simulated on the engine; equal ones are simulated once.

A block's timing depends on the model, the package, the strategy and its options, and on its own tokens and routing.
Its key is a hash of all of these, so that reuse changes no result.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis import count_activity, measure_buffers, measure_busy_times
from expertstream.engine.layout import LOAD, TOKENS
from expertstream.engine.run import AllAtOnce, run
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from expertstream.model import MoEModel
from expertstream.package import Package, surviving
from expertstream.planning import plan_on
from expertstream.serving.attention import AttentionBatch, first_loads, plan_attention
from expertstream.serving.output_head import first_head_loads, plan_lm_head
from expertstream.serving.preload import Lead, Preloads, Tail, measure_lead, measure_tail, own_channels
from expertstream.serving.stages import WRITE, BlockPlan
from expertstream.strategy import Options, Plan, blame, check_plan, get_strategy
from expertstream.strategy.buffers import package_buffers
from expertstream.trace import Routing
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]
CAPACITY = 8192  # timings kept for reuse


@dataclass(frozen=True)
class BlockTiming:
    """What a block takes and does, as plain integers; sums over dies, channels and links.

    Attributes:
        latency_ps: from its first activity to its last. compute_ps: busy time of all MAC arrays.
        ddr_bytes: loaded and written, what was loaded ahead for the block included. d2d_bytes: payload times hops.
        macs, sram_read_bytes, sram_write_bytes, wire_bytes: what costs energy (wire: payload and header, times hops).
        peak_bytes: largest sum of all buffers. passes: passes over the tokens.
        tail: what the block leaves to the next one at its end. lead: what it needs before its start.
    """

    latency_ps: int
    compute_ps: int
    ddr_bytes: int
    d2d_bytes: int
    macs: int
    sram_read_bytes: int
    sram_write_bytes: int
    wire_bytes: int
    peak_bytes: int
    passes: int
    tail: Tail
    lead: Lead


COUNTS = tuple(f.name for f in fields(BlockTiming) if f.name not in ("tail", "lead"))


class Observer(Protocol):
    """Sees every block that is run (not those that are reused)."""

    def __call__(self, kind: str, layer: int, plan: Plan, timeline: Timeline, workload: LayerWorkload | None) -> None:
        """Take a block: its kind, the layer, and what was run; ``workload`` of MoE and dense layers only."""
        ...


class Blocks:
    """Runs the blocks of one model on one package under one strategy.

    Args:
        reuse: simulate equal blocks once. overlap: whether DDR channels that a block leaves idle at its end load
            weights of the next one (preload.py). observe: called with every block that is run.

    Raises:
        ConfigError: the strategy is unknown.
    """

    def __init__(
        self,
        model: MoEModel,
        package: Package,
        strategy: str,
        options: Options,
        *,
        reuse: bool = True,
        overlap: bool = True,
        observe: Observer | None = None,
    ) -> None:
        self.model, self.options = model, options
        self._strategy = get_strategy(strategy)
        self._whole = package
        self._packages = {0: surviving(package)}
        self._reuse, self._observe = reuse, observe
        self._overlap = overlap
        # Where dies store and forward, only the plan itself shows how much is left for the micro-slices of attention.
        self._preload = overlap and package.d2d.switching == "cut-through"
        self._own = own_channels(self._packages[0])
        self._ahead = {
            head: Preloads(self._packages[0], self._own, first(model, self._packages[0]))
            for head, first in ((False, first_loads), (True, first_head_loads))
        }
        self._known: OrderedDict[bytes, BlockTiming] = OrderedDict()
        # A dense layer is an MoE layer without routed experts and with one shared expert.
        no_experts = {"n_experts": 0, "top_k": 0, "n_shared_experts": 1, "shared_d_ffn": model.dense_d_ffn}
        self._dense_model = model.model_copy(update=no_experts)
        self.simulated = self.reused = 0

    def attention(
        self,
        batch: AttentionBatch,
        *,
        router: bool,
        reserved_bytes: int = 0,
        layer: int = -1,
        after: Tail | None = None,
    ) -> BlockTiming:
        """Time the attention block of a layer.

        Args:
            reserved_bytes: of each token buffer that are not available to it. after: the tail of the block before.
        """
        preloaded = self._preloaded(after, head=False)
        return self._time(
            "attention",
            layer,
            reserved_bytes,
            (batch.new, batch.context, batch.home, np.array([router]), preloaded),
            lambda package: (plan_attention(self.model, package, batch, router=router, preloaded=preloaded), None),
        )

    def experts(
        self,
        routing: Routing,
        home: Ints,
        *,
        reserved_bytes: int = 0,
        layer: int = -1,
        after: Tail | None = None,
    ) -> BlockTiming:
        """Time the experts of an MoE layer, of which weights may load in the tail of the block before, by prediction.

        Args:
            home: int64 [tokens], the die where each token lives. after: the tail of the block before.
        """
        lead_ps = 0 if after is None or self.options.prediction is None else self._lead_ps(after)

        def time(lead_ps: int) -> BlockTiming:
            return self._time(
                "experts",
                layer,
                reserved_bytes,
                # a strategy may look at all of the routing: placements are fitted per layer
                (np.array([routing.layer, lead_ps]), routing.experts, routing.weights, routing.request, home),
                lambda package: self._layer(self.model, routing, home, package, lead_ps),
            )

        timing = time(lead_ps)
        if lead_ps and after is not None and not timing.lead.fits(after):
            return time(0)
        return timing

    def _lead_ps(self, after: Tail) -> int:
        """For how long all channels stand idle before a block, where each die has one of its own."""
        return min(after.idle_ps) if self._overlap and (self._own >= 0).all() else 0

    def dense(self, home: Ints, *, reserved_bytes: int = 0, layer: int = -1) -> BlockTiming:
        """Time a dense layer's MLP."""
        n = home.size
        routing = Routing(
            experts=np.empty((n, 0), dtype=np.int16),
            weights=np.empty((n, 0), dtype=np.float32),
            request=np.zeros(n, dtype=np.int32),
            layer=layer,
            n_experts=0,
            source="dense layer",
            synthetic=False,
        )
        return self._time(
            "dense",
            layer,
            reserved_bytes,
            (home,),
            lambda package: self._layer(self._dense_model, routing, home, package),
        )

    def output_head(self, home: Ints, *, reserved_bytes: int = 0, after: Tail | None = None) -> BlockTiming:
        """Time the output head for the tokens that are sampled; ``after``: the tail of the block before."""
        preloaded = self._preloaded(after, head=True)
        return self._time(
            "output head",
            -1,
            reserved_bytes,
            (home, preloaded),
            lambda package: (plan_lm_head(self.model, package, home, preloaded=preloaded), None),
        )

    def preloaded_bytes(self, after: Tail, *, head: bool = False) -> int:
        """What attention, or the output ``head``, finds in the buffers after a block with this tail."""
        return self._ahead[head].loaded(self._preloaded(after, head=head))

    def _preloaded(self, after: Tail | None, *, head: bool) -> Ints:
        if after is None or not self._preload:
            return np.zeros(self._own.size, dtype=np.int64)
        return self._ahead[head].count(after)

    @contextmanager
    def watched(self, observe: Observer) -> Iterator[None]:
        """Within it, every block is run, reused or not, and ``observe`` is called with it."""
        before = self._reuse, self._observe
        self._reuse, self._observe = False, observe
        try:
            yield
        finally:
            self._reuse, self._observe = before

    def spill(self, n_bytes: int, *, back: bool = False, layer: int = -1) -> BlockTiming:
        """Time the way of activations to DDR, or ``back``, over all channels evenly."""
        return self._time(
            "spill", layer, 0, (np.array([n_bytes, back]),), lambda package: (_plan_spill(package, n_bytes, back), None)
        )

    def package(self, reserved_bytes: int) -> Package:
        """What works of the package, with token buffers that are smaller by what is reserved."""
        if reserved_bytes not in self._packages:
            if len(self._packages) > 1024:
                self._packages = {0: self._packages[0]}
            left = self._whole.die.token_buffer_bytes - reserved_bytes
            self._packages[reserved_bytes] = surviving(self._whole.replace(**{"die.token_buffer_bytes": left}))
        return self._packages[reserved_bytes]

    def _layer(
        self, model: MoEModel, routing: Routing, home: Ints, package: Package, lead_ps: int = 0
    ) -> tuple[Plan, LayerWorkload]:
        workload = LayerWorkload.of(model, package, routing).with_homes(home)
        with blame(self._strategy.plan):
            options = replace(self.options, lead_ps=lead_ps)
            plan = self._strategy.plan(workload, options)
            check_plan(plan, self._strategy, workload, options)
        return plan, workload

    def _time(
        self,
        kind: str,
        layer: int,
        reserved_bytes: int,
        arrays: tuple[NDArray[np.generic], ...],
        plan_block: Callable[[Package], tuple[Plan, LayerWorkload | None]],
    ) -> BlockTiming:
        content = hashlib.blake2b(kind.encode() + b"|%d" % reserved_bytes, digest_size=16)
        for array in arrays:
            content.update(f"|{array.dtype}{array.shape}".encode())
            content.update(np.ascontiguousarray(array).tobytes())
        key = content.digest()
        if self._reuse and key in self._known:
            self._known.move_to_end(key)
            self.reused += 1
            return self._known[key]
        workload: LayerWorkload | None = None

        def make(package: Package) -> Plan:
            nonlocal workload
            plan, workload = plan_block(package)
            return plan

        plan, network = plan_on(self.package(reserved_bytes), make)
        with blame(self._strategy.plan):  # the dispatcher is the strategy's too
            timeline = run(plan.work, network, plan.dispatcher, decision_ps=self.options.decision_ps or 0)
        if self._observe:
            self._observe(kind, layer, plan, timeline, workload)
        timing = _measure(plan, workload, timeline, self._own)
        self.simulated += 1
        if self._reuse:
            self._known[key] = timing
            if len(self._known) > CAPACITY:
                self._known.popitem(last=False)
        return timing


def _measure(plan: Plan, workload: LayerWorkload | None, timeline: Timeline, own: Ints) -> BlockTiming:
    busy = measure_busy_times(timeline)
    ahead = sum(plan.preloaded_bytes) if isinstance(plan, BlockPlan) else 0
    sent = int(timeline.bytes[timeline.source >= 0].sum())
    if workload is not None:
        activity = count_activity(workload, plan, timeline)
        macs, read = int(activity.macs.sum()), int(activity.sram_read_bytes.sum())
        written, wire = int(activity.sram_write_bytes.sum()), int(activity.d2d_bytes.sum())
    else:
        sends = np.flatnonzero(timeline.source >= 0)
        pair = timeline.source[sends] * timeline.network.n_dies + timeline.die[sends]
        hops = np.diff(timeline.network.path_ptr)[pair]
        wire = int(((timeline.bytes[sends] + timeline.network.header_bytes) * hops).sum())
        block = plan if isinstance(plan, BlockPlan) else None
        to_ddr = timeline.tag == WRITE
        stored, loaded = (int(timeline.bytes[(timeline.kind == LOAD) & way].sum()) for way in (to_ddr, ~to_ddr))
        macs = block.macs if block else 0
        read = (block.read_bytes if block else 0) + sent + stored
        written = (block.written_bytes if block else 0) + sent + loaded + ahead
    return BlockTiming(
        latency_ps=timeline.latency_ps,
        compute_ps=int(busy.compute_ps.sum()),
        ddr_bytes=int(busy.channel_bytes.sum()) + ahead,
        d2d_bytes=int(busy.link_bytes.sum()),
        macs=macs,
        sram_read_bytes=read,
        sram_write_bytes=written,
        wire_bytes=wire,
        peak_bytes=measure_buffers(timeline).package_peak_both_bytes,
        passes=plan.passes,
        tail=measure_tail(own, plan, timeline),
        lead=measure_lead(timeline),
    )


def _plan_spill(package: Package, n_bytes: int, back: bool) -> Plan:
    """Activations from the dies to DDR or back: the channels share the bytes; the mesh is not modelled."""
    work = Work()
    group = work.new_group(decided=False)
    channels = np.arange(len(package.channels))
    share = np.diff(np.arange(channels.size + 1, dtype=np.int64) * n_bytes // channels.size)
    work.add_chunks(
        group=group,
        bytes=share[share > 0],
        die=np.array([c.dies[0] for c in package.channels])[share > 0][:, None],
        pool=TOKENS,
        channel=channels[share > 0],
        space=0,
        tag=-1 if back else WRITE,
    )
    nothing = np.empty(0, dtype=np.int64)
    return Plan(
        work=work,
        dispatcher=AllAtOnce(work.n_groups),
        slices=nothing.reshape(0, 3),
        set_ptr=np.zeros(1, dtype=np.int64),
        set_ids=nothing,
        buffer_bytes=package_buffers(package),
        passes=1,
        ddr_layout="spread over all channels",
    )
