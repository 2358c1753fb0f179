"""Routing: which experts each token chose, for one layer (Routing) or a whole capture (RoutingTrace)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.trace import npz, parquet

Mix = Literal["round-robin", "single-request"]
GOLDEN_RATIO = 0.6180339887498949
MIXES: tuple[Mix, ...] = ("round-robin", "single-request")


class HasExperts(Protocol):
    """What a trace needs to know of a model."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def n_experts(self) -> int: ...  # noqa: D102
    @property
    def top_k(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Routing:
    """The choices of an iteration's tokens at one layer.

    Attributes:
        experts: int16 [tokens, k], distinct per token. weights: float32 [tokens, k], gate weights.
        request: int32 [tokens]. layer: the model's layer number.
        source: where it comes from; ``synthetic``: whether it was generated.
    """

    experts: NDArray[np.int16]
    weights: NDArray[np.float32]
    request: NDArray[np.int32]
    layer: int
    n_experts: int
    source: str
    synthetic: bool

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tokens of each expert, int64 [n_experts]."""
        return np.bincount(self.experts.reshape(-1), minlength=self.n_experts).astype(np.int64)


@dataclass(frozen=True, eq=False)
class RoutingTrace:
    """A capture of a model's router, or a synthetic stand-in.

    Attributes:
        experts: int16 [tokens, layers, k]; weights: float32 of the same shape, None where not captured.
        request, position: int32 [tokens], -1 where unknown. phase: int8 [tokens], 0 prefill, 1 decode, -1 unknown.
        layer_index: int32 [layers], the model's number of each recorded layer.
        model, source: names; id_space: what the expert ids mean.

    Raises:
        TraceError: shapes that do not agree, ids out of range, an expert twice in a token, bad gate weights.
    """

    experts: NDArray[np.int16]
    weights: NDArray[np.float32] | None
    request: NDArray[np.int32]
    position: NDArray[np.int32]
    phase: NDArray[np.int8]
    layer_index: NDArray[np.int32]
    n_experts: int
    model: str
    source: str
    id_space: str = "the model's own expert ids"
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Check everything once, so that nothing downstream has to."""
        e = self.experts
        if e.ndim != 3 or 0 in e.shape:
            raise TraceError(
                f"{self.source}: the trace is empty: experts has shape {e.shape}, [tokens, layers, k] needed"
            )
        n, layers, k = e.shape
        for name, array, shape in (
            ("request", self.request, (n,)),
            ("position", self.position, (n,)),
            ("phase", self.phase, (n,)),
            ("layer_index", self.layer_index, (layers,)),
            ("weights", self.weights, (n, layers, k)),
        ):
            if array is not None and array.shape != shape:
                raise TraceError(f"{self.source}: {name} has shape {array.shape}, {shape} needed")
        wrong = np.argwhere((e < 0) | (e >= self.n_experts))
        if wrong.size:
            t, layer, _ = wrong[0]
            raise TraceError(
                f"{self.source}: expert id {int(e[tuple(wrong[0])])} of token {t}, layer "
                f"{int(self.layer_index[layer])} is out of range; the model has experts 0 to {self.n_experts - 1}"
            )
        ordered = np.sort(e, axis=2)
        twice = np.argwhere(ordered[:, :, 1:] == ordered[:, :, :-1])
        if twice.size:
            t, layer, i = twice[0]
            raise TraceError(
                f"{self.source}: token {t} chose expert {int(ordered[t, layer, i])} twice at layer "
                f"{int(self.layer_index[layer])}; the experts of a token must be distinct"
            )
        if self.weights is not None:
            bad = np.argwhere(~(np.isfinite(self.weights) & (self.weights >= 0)))
            if bad.size:
                t, layer, _ = bad[0]
                raise TraceError(
                    f"{self.source}: gate weight {float(self.weights[tuple(bad[0])])} of token {t}, layer "
                    f"{int(self.layer_index[layer])}; gate weights must be finite and not negative"
                )

    @property
    def n_tokens(self) -> int:
        """Tokens of the trace."""
        return int(self.experts.shape[0])

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return int(self.experts.shape[2])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RoutingTrace:
        """Read a native Parquet trace or an ``.npz`` capture.

        Raises:
            TraceError: the file is missing, damaged, of another kind, or holds a trace that is not valid.
        """
        readers = {".parquet": parquet.read, ".npz": npz.read}
        file = Path(path)
        if file.suffix not in readers:
            raise TraceError(f"'{path}' is not a trace that can be read; allowed: {', '.join(readers)} files")
        if not file.is_file():
            raise TraceError(f"there is no trace file '{path}'")
        return cls(**readers[file.suffix](file))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the native Parquet form; the file appears whole or not at all.

        Raises:
            TraceError: the name does not end in .parquet, or its folder cannot be written.
        """
        parquet.write(self, Path(path))

    def check_fits(self, model: HasExperts) -> None:
        """Raise TraceError unless the model has as many experts, and as many per token, as the trace."""
        if (self.n_experts, self.top_k) != (model.n_experts, model.top_k):
            raise TraceError(
                f"the trace of {self.model} has {self.n_experts} experts and k = {self.top_k}, but {model.name} has "
                f"{model.n_experts} experts and k = {model.top_k}; use a trace of that model"
            )

    def iteration(
        self, tokens: int, layer: int, *, mix: Mix = "round-robin", offset: int = 0, request: int | None = None
    ) -> Routing:
        """Tokens that one forward pass would hold, at one layer.

        Args:
            tokens: how many. layer: the model's layer number.
            mix: "round-robin": one token of each request in turn, the requests being at different points of their
                progress, as in continuous batching; "single-request": consecutive tokens of one request (where it
                ends, the next one goes on).
            offset: tokens of that sequence to skip. request: the request to start from (single-request only).

        Raises:
            TraceError: an unknown layer, request or mix, or fewer tokens than asked for.
        """
        if mix not in MIXES:
            raise TraceError(f"unknown mix '{mix}'; allowed: {', '.join(MIXES)}")
        if layer not in self.layer_index:
            raise TraceError(f"{self.source}: layer {layer} is not in the trace; it has {_ranges(self.layer_index)}")
        if tokens < 1 or offset < 0:
            raise TraceError(f"tokens is {tokens} and offset {offset}; at least 1 token and offset 0 are needed")
        order = self._order(mix, request)
        if offset + tokens > order.size:
            raise TraceError(
                f"{self.source}: {tokens} tokens from offset {offset} were asked for, but the trace has {order.size}; "
                "use fewer tokens per iteration or a longer trace"
            )
        pick = order[offset : offset + tokens]
        at = int(np.flatnonzero(self.layer_index == layer)[0])
        experts = self.experts[pick, at]
        uniform = np.full(experts.shape, 1 / self.top_k, dtype=np.float32)
        return Routing(
            experts=experts,
            weights=uniform if self.weights is None else self.weights[pick, at],
            request=self.request[pick],
            layer=layer,
            n_experts=self.n_experts,
            source=self.source,
            synthetic=self.synthetic,
        )

    def _order(self, mix: Mix, request: int | None) -> NDArray[np.int64]:
        by_request = np.lexsort((np.arange(self.n_tokens), self.position, self.request))
        if mix == "round-robin":
            if request is not None:
                raise TraceError("request can be chosen with mix 'single-request' only")
            _, first, length = np.unique(self.request[by_request], return_index=True, return_counts=True)
            stagger = np.arange(first.size) * GOLDEN_RATIO % 1  # spreads any number of requests evenly
            place = np.arange(self.n_tokens) - np.repeat(first, length)
            turn = (place - np.repeat((stagger * length).astype(np.int64), length)) % np.repeat(length, length)
            return by_request[np.lexsort((by_request, turn))]
        if request is None:
            return by_request
        if request not in self.request:
            raise TraceError(f"{self.source}: there is no request {request}; it has {_ranges(self.request)}")
        return by_request[int(np.flatnonzero(self.request[by_request] == request)[0]) :]


def _ranges(numbers: NDArray[np.int32]) -> str:
    """Distinct numbers in short form, for example "0 to 7, 12"."""
    values = np.unique(numbers)
    parts = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(p[0]) if p.size == 1 else f"{p[0]} to {p[-1]}" for p in parts)
