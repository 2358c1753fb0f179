"""What the proof needs to know of a workload and a plan; ``LayerWorkload`` and ``strategy.Plan`` fit."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class RoutingLike(Protocol):
    """Routing of one layer: ``experts`` int [tokens, k], ``weights`` float [tokens, k]."""

    @property
    def experts(self) -> NDArray[Any]:
        """Routed experts of each token, distinct within a token."""

    @property
    def weights(self) -> NDArray[Any]:
        """Gate weight of each of them."""


class ModelLike(Protocol):
    """Experts 0 to ``n_experts`` - 1 are routed, the rest are shared."""

    @property
    def n_experts(self) -> int:
        """Number of routed experts."""


class WorkloadLike(Protocol):
    """One MoE layer of one iteration."""

    @property
    def routing(self) -> RoutingLike:
        """Experts and gate weights of the tokens."""

    @property
    def model(self) -> ModelLike:
        """Shape of the model."""

    @property
    def columns(self) -> Ints:
        """d_ffn columns of each expert, routed then shared, int64 [experts]."""

    @property
    def n_tokens(self) -> int:
        """Tokens of the iteration."""

    @property
    def column_bytes(self) -> int:
        """Weight bytes of one d_ffn column."""


class PlanLike(Protocol):
    """What the labels of a timeline mean (``strategy.Plan``)."""

    @property
    def slices(self) -> Ints:
        """Expert, first and last + 1 column, int64 [n, 3]; a row's ``tag`` is a row number here."""

    @property
    def set_ptr(self) -> Ints:
        """int64 [sets + 1]; token set i is ``set_ids[set_ptr[i] : set_ptr[i + 1]]``."""

    @property
    def set_ids(self) -> Ints:
        """Token numbers of all sets, int64."""


def routed_pairs(workload: WorkloadLike) -> NDArray[np.bool_]:
    """Which expert each token needs, shared experts included, bool [experts, tokens]."""
    wanted = np.zeros((workload.columns.size, workload.n_tokens), dtype=np.bool_)
    experts = np.asarray(workload.routing.experts, dtype=np.int64)
    wanted[experts, np.arange(workload.n_tokens)[:, None]] = True
    wanted[workload.model.n_experts :] = True
    return wanted
