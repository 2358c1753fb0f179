"""The output head as work for the engine: gathered activations, the vocabulary's columns split over the dies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.serving.heads import column_shares
from expertstream.serving.stages import HEAD, BlockPlan, Stages
from expertstream.strategy.collectives import ring_gather

Ints = NDArray[np.int64]


def plan_lm_head(model: MoEModel, package: Package, home: Ints, *, preloaded: Ints | None = None) -> BlockPlan:
    """Lay out the output head for tokens that live on the dies ``home``, int64 [tokens].

    Activations are gathered, the vocabulary's columns are split over the dies; a die keeps its best logit of each token
    and nothing else.

    Raises:
        BufferTooSmallError: a token does not fit the token buffers.
    """
    return _Head(model, package, home, preloaded).plan()


def first_head_loads(model: MoEModel, package: Package) -> list[Ints]:
    """Bytes of the micro-slices that each die loads first in the output head, int64 [n] each."""
    block = Stages(model, package, np.empty(0, dtype=np.int64))
    slices = block.micro_slices(model.d_model, column_shares(model.vocab_size, package.n_dies))
    return [n_bytes for _, n_bytes in slices]


class _Head(Stages):
    def plan(self) -> BlockPlan:
        n = self.home.size
        passes = self.fewest_passes(self.activation_bytes)
        finished = self.work.new_gates(np.full(passes, self.n_dies))
        self.residents(int(finished[-1]))
        for p in range(passes):
            tokens = self.tokens_on_dies(n * p // passes, n * (p + 1) // passes)
            before = int(finished[p - 1]) if p else -1
            self.loaded = before if p else self.loaded
            placed = self.work.new_gates(self.n_dies)
            gathered = ring_gather(self.work, self.topology, self.group, tokens * self.activation_bytes, placed)
            columns = column_shares(self.model.vocab_size, self.n_dies)
            computed = self.stage(HEAD, self.model.d_model, columns, int(tokens.sum()), gathered)
            self.area((tokens.sum() - tokens) * self.activation_bytes, before, int(placed[0]), finished[p])
            self.work.add_chunks(
                group=self.group, bytes=0, die=self.each_die(), pool=TOKENS, gate=computed, arrive=finished[p]
            )
        return self.finished_plan(
            passes, "each die's share of the vocabulary in its nearest DDR channel", "output head"
        )
