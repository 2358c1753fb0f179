"""One iteration: forward passes of several requests through all layers, block after block.

Each block starts when the one before has ended; DDR channels that have nothing left to load for it then load weights of
the next (preload.py). A deferred pass (token buffering) leaves at an MoE layer after the
router and comes back at the same layer of a later iteration; its tokens keep their dies, its activations and gating
results stay in the token buffers, where other blocks lack the room, or go to DDR once they pass ``kept_share`` of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from expertstream.model import MoEModel
from expertstream.schedule import Qos, Slack, defer, pass_done
from expertstream.serving.attention import AttentionBatch
from expertstream.serving.blocks import COUNTS, Blocks, BlockTiming
from expertstream.serving.preload import Tail
from expertstream.serving.routing import Replay

Ints = NDArray[np.int64]
PHASES = ("attention", "experts", "dense", "output head", "spill")
PAGE_BYTES = 16 << 10  # token-buffer space of deferred passes is set aside in pages, so that blocks can be reused
GATE_BYTES = 6  # of a kept choice: expert number and gate weight


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass of one request: ``rows.size`` tokens after ``context`` earlier ones.

    Attributes:
        rows: int64 [tokens], rows of the routing trace. home: int64 [tokens], dies.
        samples: whether its last token yields an output token. layer: the MoE layer where a deferred pass waits.
        spilled: whether its activations wait in DDR.
    """

    request: int
    context: int
    rows: Ints
    home: Ints
    samples: bool
    layer: int = -1
    spilled: bool = False


@dataclass(frozen=True)
class Buffering:
    """Token buffering (Algorithm 2).

    Attributes:
        theta_min: experts with fewer tokens are cold. kept_share: share of each token buffer that deferred activations
            may take before further ones go to DDR.
    """

    slack: Slack
    theta_min: int = 2
    kept_share: float = 0.25


@dataclass
class Account:
    """Where time and work go; all whole numbers.

    Attributes:
        phase_ps: for each of ``PHASES`` by layer; the last entry is what belongs to no layer.
        phase_compute_ps: busy time of all MAC arrays. phase_macs: what they did. phase_ddr_bytes: loaded and written.
        sums: of ``COUNTS`` of
            BlockTiming; ``peak_bytes`` and ``passes`` are maxima.
        preloaded_bytes: weights loaded while the block before came to its end.
    """

    n_layers: int
    phase_ps: dict[str, list[int]] = field(default_factory=dict)
    phase_compute_ps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    phase_macs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    phase_ddr_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    deferrals: int = 0
    spilled_bytes: int = 0
    preloaded_bytes: int = 0

    def __post_init__(self) -> None:
        """Start every layer at zero."""
        self.phase_ps = self.phase_ps or {phase: [0] * (self.n_layers + 1) for phase in PHASES}

    def add(self, phase: str, layer: int, timing: BlockTiming, apart_bytes: int = 0) -> None:
        """Count a block; ``layer`` is -1 for one that belongs to none, ``apart_bytes`` what deferred passes keep."""
        self.phase_ps[phase][layer] += timing.latency_ps
        self.phase_compute_ps[phase] += timing.compute_ps
        self.phase_macs[phase] += timing.macs
        self.phase_ddr_bytes[phase] += timing.ddr_bytes
        for name in self.sums:
            value = getattr(timing, name) + (apart_bytes if name == "peak_bytes" else 0)
            self.sums[name] = (
                max(self.sums[name], value) if name in ("peak_bytes", "passes") else self.sums[name] + value
            )

    def preload(self, n_bytes: int, tail: Tail, apart_bytes: int = 0) -> None:
        """Count weights that were loaded in the tail of the block before; ``apart_bytes`` as for ``add``."""
        self.preloaded_bytes += n_bytes
        if n_bytes:
            self.sums["peak_bytes"] = max(self.sums["peak_bytes"], tail.held_bytes + n_bytes + apart_bytes)

    @property
    def latency_ps(self) -> int:
        """Time of everything counted."""
        return self.sums["latency_ps"]


class Witness(Protocol):
    """Hears which passes went through a block, right after it has been timed."""

    def __call__(self, phase: str, layer: int, passes: Sequence[Pass]) -> None:
        """Take a block: "attention", "experts" or "dense"."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What an iteration did: passes that came to their end and passes that wait, in the order of their requests."""

    finished: tuple[Pass, ...]
    waiting: tuple[Pass, ...]
    latency_ps: int
    sampled: int


class Iteration:
    """Runs iterations of one model; what they cost goes to ``account``.

    Args:
        experts_every: of so many MoE layers one is simulated and the next ones take the same time: an estimate, for
            studies that need many runs. Who goes on and who is deferred is decided at every layer.
    """

    def __init__(
        self,
        model: MoEModel,
        blocks: Blocks,
        replay: Replay,
        buffering: Buffering | None,
        *,
        output_head: bool,
        witness: Witness | None = None,
        experts_every: int = 1,
    ) -> None:
        self._witness = witness
        self._model, self._blocks, self._replay, self._buffering = model, blocks, replay, buffering
        self._output_head = output_head
        self._moe = frozenset(model.moe_layers)
        self._simulated = frozenset(model.moe_layers[::experts_every])
        self._experts_before: BlockTiming | None = None
        activation_bytes = -(-model.d_model * model.activation_bits // 8)
        self._kept_bytes = activation_bytes + model.top_k * GATE_BYTES
        share = 0 if buffering is None else buffering.kept_share
        self._most_kept = int(share * blocks.package(0).die.token_buffer_bytes)  # of a token buffer
        self.account = Account(model.n_layers)
        self._tail: Tail | None = None  # of the block before, within an iteration

    def run(self, fresh: Sequence[Pass], waiting: Sequence[Pass], qos: dict[int, Qos]) -> Outcome:
        """Take ``fresh`` passes from the first layer, and ``waiting`` ones from where they are, as far as they get.

        Args:
            qos: Algorithm 2's state of every request that takes part; updated.
        """
        start_ps = self.account.latency_ps
        self._tail = self._experts_before = None
        active, apart = sorted(fresh, key=_request), list(waiting)
        for layer in range(self._model.n_layers):
            if active:
                self._attention(active, apart, layer)
            if layer not in self._moe:
                if active:
                    self._dense(active, apart, layer)
                continue
            back = [p for p in apart if p.layer == layer]
            if back:
                apart = [p for p in apart if p.layer != layer]
                self._spill(sum(p.rows.size for p in back if p.spilled), [*apart, *back], layer, back=True)
                active = sorted([*active, *(replace(p, layer=-1, spilled=False) for p in back)], key=_request)
            if active and self._buffering:
                active, left = self._defer(active, apart, layer, qos)
                apart += left
            if active:
                self._experts(active, apart, layer)
        sampled = np.array([p.home[-1] for p in active if p.samples], dtype=np.int64)
        if sampled.size and self._output_head:
            reserved = self._reserved(apart)
            after = self._preload(apart, head=True)
            timing = self._blocks.output_head(sampled, reserved_bytes=reserved, after=after)
            self._count("output head", -1, timing, apart)
        if self._buffering:
            for p in active:
                qos[p.request] = pass_done(qos[p.request], self._buffering.slack)
        return Outcome(
            finished=tuple(active),
            waiting=tuple(sorted(apart, key=_request)),
            latency_ps=self.account.latency_ps - start_ps,
            sampled=int(sampled.size),
        )

    def _count(
        self, phase: str, layer: int, timing: BlockTiming, apart: Sequence[Pass], passes: Sequence[Pass] = ()
    ) -> None:
        self.account.add(phase, layer, timing, self._apart_bytes(apart))
        self._tail = timing.tail
        if passes and self._witness:
            self._witness(phase, layer, passes)

    def _preload(self, apart: Sequence[Pass], *, head: bool = False) -> Tail | None:
        """The tail of the block before, once what is loaded in it has been counted."""
        if self._tail is not None:
            n_bytes = self._blocks.preloaded_bytes(self._tail, head=head)
            self.account.preload(n_bytes, self._tail, self._apart_bytes(apart))
        return self._tail

    def _attention(self, active: Sequence[Pass], apart: Sequence[Pass], layer: int) -> None:
        batch = AttentionBatch(
            new=np.array([p.rows.size for p in active], dtype=np.int64),
            context=np.array([p.context for p in active], dtype=np.int64),
            home=np.concatenate([p.home for p in active]),
        )
        router, reserved = layer in self._moe, self._reserved(apart)
        after = self._preload(apart)
        timing = self._blocks.attention(batch, router=router, reserved_bytes=reserved, layer=layer, after=after)
        self._count("attention", layer, timing, apart, active)

    def _dense(self, active: Sequence[Pass], apart: Sequence[Pass], layer: int) -> None:
        home = np.concatenate([p.home for p in active])
        timing = self._blocks.dense(home, reserved_bytes=self._reserved(apart), layer=layer)
        self._count("dense", layer, timing, apart, active)

    def _experts(self, active: Sequence[Pass], apart: Sequence[Pass], layer: int) -> None:
        timing = self._experts_before
        if timing is None or layer in self._simulated:
            routing = self._replay.routing(np.concatenate([p.rows for p in active]), layer)
            home = np.concatenate([p.home for p in active])
            timing = self._blocks.experts(
                routing, home, reserved_bytes=self._reserved(apart), layer=layer, after=self._tail
            )
        self._experts_before = timing
        self._count("experts", layer, timing, apart, active)

    def _defer(
        self, active: Sequence[Pass], apart: Sequence[Pass], layer: int, qos: dict[int, Qos]
    ) -> tuple[list[Pass], list[Pass]]:
        """Algorithm 2: who goes on and who waits."""
        assert self._buffering is not None
        slack, theta_min = self._buffering.slack, self._buffering.theta_min
        routing = self._replay.routing(np.concatenate([p.rows for p in active]), layer)
        rows = iter(routing.experts.tolist())
        activated = [[expert for row in islice(rows, p.rows.size) for expert in row] for p in active]
        counts = np.bincount(routing.experts.reshape(-1), minlength=self._model.n_experts).tolist()
        waits, after = defer(activated, counts, [qos[p.request] for p in active], slack, theta_min)
        qos.update((p.request, state) for p, state in zip(active, after, strict=True))
        left: list[Pass] = []
        spilled = 0
        for p in (p for p, deferred in zip(active, waits, strict=True) if deferred):
            fits = self._kept([*apart, *left, replace(p, layer=layer)]) <= self._most_kept
            left.append(replace(p, layer=layer, spilled=not fits))
            spilled += 0 if fits else p.rows.size
        self.account.deferrals += len(left)
        self._spill(spilled, [*apart, *left], layer)
        return [p for p, deferred in zip(active, waits, strict=True) if not deferred], left

    def _spill(self, tokens: int, apart: Sequence[Pass], layer: int, *, back: bool = False) -> None:
        if tokens:
            n_bytes = tokens * self._kept_bytes
            self.account.spilled_bytes += n_bytes
            self._count("spill", layer, self._blocks.spill(n_bytes, back=back, layer=layer), apart)

    def _apart_bytes(self, apart: Sequence[Pass]) -> int:
        """Bytes that deferred passes take of all token buffers together."""
        return sum(p.rows.size for p in apart if not p.spilled) * self._kept_bytes

    def _kept(self, apart: Sequence[Pass]) -> int:
        """Bytes that deferred passes take of the fullest token buffer."""
        homes = [p.home for p in apart if not p.spilled]
        return int(np.bincount(np.concatenate(homes)).max()) * self._kept_bytes if homes else 0

    def _reserved(self, apart: Sequence[Pass]) -> int:
        return min(-(-self._kept(apart) // PAGE_BYTES) * PAGE_BYTES, self._most_kept)


def _request(p: Pass) -> int:
    return p.request
