"""The work of one MoE layer on a package: which tokens of which expert live on which die."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import WorkloadError, nearest
from expertstream.model import MoEModel
from expertstream.package import Package, Topology, surviving
from expertstream.trace import Routing

Ints = NDArray[np.int64]
Spread = Literal["contiguous", "round-robin"]
SPREADS: tuple[Spread, ...] = ("contiguous", "round-robin")


@dataclass(frozen=True, eq=False)
class Batches:
    """The tokens of each (pass, expert, die), int64 arrays.

    Attributes:
        load: [passes, experts, dies] number of tokens.
        ptr: [passes * experts * dies + 1]; ids: token numbers; the tokens of (p, e, d) are
            ``ids[ptr[i] : ptr[i + 1]]`` with ``i = (p * experts + e) * dies + d``, ascending.
        tokens: [passes, dies] tokens that live on a die and belong to a pass.
        part: [tokens] the pass of each token.
    """

    load: Ints
    ptr: Ints
    ids: Ints
    tokens: Ints
    part: Ints

    @property
    def passes(self) -> int:
        """Number of passes over the tokens."""
        return int(self.load.shape[0])


@dataclass(frozen=True, eq=False)
class LayerWorkload:
    """One MoE layer of one iteration. Experts 0 to n_experts - 1 are routed; shared experts follow.

    Attributes:
        model, package: what runs where; the package is what its faults leave. topology: links, paths, rings.
        routing: the experts of each token.
        die_of_token: int64 [tokens], where each token lives.
        columns: int64 [experts], d_ffn columns of each expert.
    """

    model: MoEModel
    package: Package
    topology: Topology
    routing: Routing
    die_of_token: Ints
    columns: Ints

    def __repr__(self) -> str:
        """What runs where, in one line."""
        return f"LayerWorkload({self.model.name} on {self.package.name}, {self.routing!r})"

    @classmethod
    def of(cls, model: MoEModel, package: Package, routing: Routing, *, spread: Spread = "contiguous") -> LayerWorkload:
        """Spread the tokens of an iteration evenly over the dies that work.

        The workload's package is what faults leave of the given one (``surviving``), with numbers of its own.

        Args:
            spread: "contiguous": each die gets consecutive tokens; "round-robin": token t lives on die t mod dies.

        Raises:
            WorkloadError: the routing does not fit the model, or ``spread`` is unknown.
        """
        if spread not in SPREADS:
            raise WorkloadError(
                f"unknown token spread '{spread}'{nearest(spread, SPREADS) or '.'} Allowed: {', '.join(SPREADS)}"
            )
        experts = routing.experts
        if routing.n_experts != model.n_experts or experts.shape[1] != model.top_k:
            raise WorkloadError(
                f"the routing has {routing.n_experts} experts and k = {experts.shape[1]}, but {model.name} has "
                f"{model.n_experts} experts and k = {model.top_k}; use a trace of this model"
            )
        package = surviving(package)
        n, dies = experts.shape[0], package.n_dies
        token = np.arange(n, dtype=np.int64)
        home = token * dies // max(n, 1) if spread == "contiguous" else token % dies
        columns = np.full(model.n_experts + model.n_shared_experts, model.d_ffn, dtype=np.int64)
        columns[model.n_experts :] = model.shared_d_ffn
        return cls(model, package, Topology.of(package), routing, home, columns)

    def with_homes(self, home: Ints) -> LayerWorkload:
        """The same layer with tokens that already live somewhere; ``home``: int64 [tokens], die numbers.

        Raises:
            WorkloadError: not one die of the package for each token.
        """
        if home.shape != self.die_of_token.shape or (
            home.size and not 0 <= home.min() <= home.max() < self.package.n_dies
        ):
            raise WorkloadError(
                f"homes of {home.size} tokens were given for {self.n_tokens} tokens; each must be a die from 0 to "
                f"{self.package.n_dies - 1}"
            )
        return replace(self, die_of_token=home.astype(np.int64))

    def on_what_is_left(self) -> LayerWorkload:
        """The same layer on what faults leave of its package, in the numbers of that; itself where nothing is broken.

        It undoes what the workload of a result has been through (``renumber.on_the_damaged_package``).
        """
        left = surviving(self.package)
        if left is self.package:
            return self
        home = np.searchsorted(np.array(self.package.live_dies), self.die_of_token)
        return replace(self, package=left, topology=Topology.of(left), die_of_token=home)

    def on(self, package: Package) -> LayerWorkload:
        """The same layer on a package that differs in its buffers only."""
        return self if package is self.package else replace(self, package=package, topology=Topology.of(package))

    @property
    def n_tokens(self) -> int:
        """Tokens of the iteration."""
        return int(self.die_of_token.size)

    @property
    def tokens_on_die(self) -> Ints:
        """Tokens that live on each die, int64 [dies]."""
        return np.bincount(self.die_of_token, minlength=self.package.n_dies).astype(np.int64)

    @property
    def column_bytes(self) -> int:
        """Bytes of one d_ffn column of an expert: a column of gate and up, a row of down."""
        return -(-3 * self.model.d_model * self.model.weight_bits // 8)

    @property
    def activation_bytes(self) -> int:
        """Bytes of one token's activations."""
        return -(-self.model.d_model * self.model.activation_bits // 8)

    @property
    def partial_sum_bytes(self) -> int:
        """Bytes of one token's accumulators."""
        return -(-self.model.d_model * self.model.partial_sum_bits // 8)

    @property
    def remote_token_bytes(self) -> int:
        """Bytes of a token that another die computes: its activations and its accumulators."""
        return self.activation_bytes + self.partial_sum_bytes

    @cached_property
    def activated(self) -> Ints:
        """Experts with at least one token, ascending, int64."""
        return np.flatnonzero(self.in_passes(1).load[0].sum(axis=1)).astype(np.int64)

    @property
    def expert_bytes(self) -> Ints:
        """Weight bytes of each expert, int64 [experts]."""
        return self.columns * self.column_bytes

    @property
    def macs(self) -> int:
        """MACs of the layer's experts (3 d_model d_ffn per token and expert)."""
        load = self.in_passes(1).load[0].sum(axis=1)
        return int(3 * self.model.d_model * (load * self.columns).sum())

    def in_passes(self, passes: int) -> Batches:
        """Cut each die's tokens into ``passes`` consecutive parts that differ by at most one token."""
        return self._whole if passes == 1 else self.batches(self._parts(passes, np.zeros(self.n_tokens)))

    def in_passes_by_expert(self, passes: int) -> Batches:
        """As ``in_passes``, but each die's tokens in the order of their coldest routed expert, the hottest first.

        Experts are ranked by their tokens in the package, the lower number first of equals. Passes before the last then
        need hot experts only.
        """
        if passes == 1:
            return self._whole
        rank = np.argsort(np.argsort(-self.routing.counts, kind="stable"))
        return self.batches(self._parts(passes, rank[self.routing.experts].max(axis=1, initial=0)))

    @cached_property
    def _whole(self) -> Batches:
        batches = self.batches(np.zeros(self.n_tokens, dtype=np.int64))
        for array in (batches.load, batches.ptr, batches.ids, batches.tokens, batches.part):
            array.flags.writeable = False  # as all who ask get the same
        return batches

    def _parts(self, passes: int, key: NDArray[np.generic]) -> Ints:
        """The pass of each token, int64 [tokens]: each die's tokens by ``key`` [tokens], then by number, in parts."""
        on_die = self.tokens_on_die
        order = np.lexsort((key, self.die_of_token))
        rank = np.empty(self.n_tokens, dtype=np.int64)
        rank[order] = np.arange(self.n_tokens) - np.repeat(np.cumsum(on_die) - on_die, on_die)
        return np.asarray(rank * passes // np.maximum(on_die[self.die_of_token], 1))

    def batches(self, part: Ints) -> Batches:
        """The tokens in passes; ``part``: the pass of each token, int64 [tokens], from 0 on.

        Raises:
            WorkloadError: not a pass for each token.
        """
        if part.shape != (self.n_tokens,) or part.min(initial=0) < 0:
            raise WorkloadError(
                f"passes of {part.size} tokens were given for {self.n_tokens} tokens; each must be 0 or more"
            )
        dies, n_experts, n = self.package.n_dies, self.columns.size, self.n_tokens
        passes = int(part.max(initial=0)) + 1
        shared = np.arange(self.model.n_experts, n_experts)
        expert = np.concatenate((self.routing.experts.astype(np.int64).reshape(-1), np.tile(shared, n)))
        token = np.concatenate(
            (np.repeat(np.arange(n), self.model.top_k), np.repeat(np.arange(n), self.model.n_shared_experts))
        ).astype(np.int64)
        cell = (part[token] * n_experts + expert) * dies + self.die_of_token[token]
        load = np.bincount(cell, minlength=passes * n_experts * dies).astype(np.int64)
        ids = token[np.lexsort((token, cell))]
        tokens = np.bincount(part * dies + self.die_of_token, minlength=passes * dies).astype(np.int64)
        return Batches(
            load=load.reshape(passes, n_experts, dies),
            ptr=np.concatenate(([0], np.cumsum(load))).astype(np.int64),
            ids=ids,
            tokens=tokens.reshape(passes, dies),
            part=part,
        )
