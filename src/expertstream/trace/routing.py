"""Routing: which experts each token chose, for one layer (Routing) or a whole capture (RoutingTrace)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expertstream.errors import ConfigError, TooFewTokensError, TraceError, check_whole, nearest
from expertstream.trace import npz, parquet
from expertstream.trace.checks import (
    TYPES,
    check_experts,
    check_layers,
    check_shapes,
    check_tokens,
    check_weights,
    to_type,
)
from expertstream.trace.layerwise import LayerByLayer, Layers
from expertstream.trace.split import split
from expertstream.units import counted

Mix = Literal["round-robin", "single-request"]
GOLDEN_RATIO = 0.6180339887498949
SYNTHETIC_SOURCE = "synthetic routing for "  # begins the source of synthetic traces
MIXES: tuple[Mix, ...] = ("round-robin", "single-request")


class HasExperts(Protocol):
    """What a trace needs to know of a model."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def n_experts(self) -> int: ...  # noqa: D102
    @property
    def top_k(self) -> int: ...  # noqa: D102


class HasLayers(HasExperts, Protocol):
    """What a trace that fits a model needs to know of it."""

    @property
    def moe_layers(self) -> tuple[int, ...]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Routing:
    """The choices of an iteration's tokens at one layer.

    Attributes:
        experts: int16 [tokens, k], distinct per token. weights: float32 [tokens, k], gate weights.
        request: int32 [tokens]. layer: the model's layer number. n_experts: routed experts of the model.
        source: where it comes from; ``synthetic``: whether it was generated.
        before: int16 [tokens, k], the same tokens' experts at layer - 1; None where that layer is not recorded.
    """

    experts: NDArray[np.int16]
    weights: NDArray[np.float32]
    request: NDArray[np.int32]
    layer: int
    n_experts: int
    source: str
    synthetic: bool
    before: NDArray[np.int16] | None = None

    def __repr__(self) -> str:
        """Sizes and source, in one line."""
        tokens, k = self.experts.shape
        of = f"{counted(tokens, 'token')} x {k} of {self.n_experts} experts"
        return f"Routing({of}, layer {self.layer}, {_origin(self)})"

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tokens of each expert, int64 [n_experts]."""
        return np.bincount(self.experts.reshape(-1), minlength=self.n_experts).astype(np.int64)


@dataclass(frozen=True, eq=False)
class RoutingTrace:
    """A capture of a model's router, or a synthetic stand-in.

    Attributes:
        experts: int16 [tokens, layers, k]; weights: float32 of the same shape, None where not captured. Of a trace that
            was opened, not loaded, each is a LayerByLayer.
        request, position: int32 [tokens], -1 where unknown. phase: int8 [tokens], 0 prefill, 1 decode, -1 unknown.
        layer_index: int32 [layers], the model's number of each recorded layer.
        n_experts: routed experts of the model. model, source: names; id_space: what the expert ids mean.
        synthetic: whether it was generated; results then say so.

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
        """Check everything once, so that nothing downstream has to; bring the arrays to their types."""
        check_shapes(self.source, {name: getattr(self, name) for name in TYPES})
        check_layers(self.source, self.layer_index, self.n_experts)
        if not isinstance(self.experts, LayerByLayer):  # else checked when a layer is read
            check_experts(self.source, self.experts, self.layer_index, self.n_experts)
        if isinstance(self.weights, np.ndarray):
            check_weights(self.source, self.weights, self.layer_index)
        for name in TYPES:
            if isinstance(getattr(self, name), np.ndarray):
                object.__setattr__(self, name, to_type(self.source, name, getattr(self, name), copy=False))
        check_tokens(self.source, self.request, self.position, self.phase)

    def __repr__(self) -> str:
        """Sizes, layers and source, in one line."""
        layers = self.layer_index.tolist()
        which = ", ".join(map(str, layers if len(layers) <= 6 else [*layers[:3], "...", layers[-1]]))
        return (
            f"RoutingTrace({counted(self.n_tokens, 'token')} x layers {which} x {self.top_k} of {self.n_experts} "
            f"experts, {self.model}, {_origin(self)})"
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
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        layers: Collection[int] | None = None,
        requests: Collection[int] | None = None,
    ) -> RoutingTrace:
        """Read a native Parquet trace or an ``.npz`` capture.

        Args:
            layers: the model's numbers of the layers to read. requests: numbers of the requests. None: all. Of a
                Parquet trace the others are not read, so that slices of a trace that is larger than memory fit.

        Raises:
            TraceError: the file is missing, damaged, of another kind, or holds a trace that is not valid or lacks a
                layer or all requests.
        """
        file = Path(path)
        if file.suffix not in (".parquet", ".npz"):
            raise TraceError(
                f"'{path}' is not a trace that can be read; allowed: .parquet, .npz files. Files of other tools become "
                "one with 'expertstream trace import'"
            )
        if not file.is_file():
            raise TraceError(f"'{path}' is a folder" if file.is_dir() else f"there is no trace file '{path}'")
        if file.suffix == ".parquet":
            return cls(**parquet.read(file, layers, requests))
        trace = cls(**npz.read(file))
        if layers is not None:
            trace = trace.of_layers(layers)
        return trace if requests is None else trace.of_requests(np.array(list(requests), dtype=np.int32))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RoutingTrace:
        """A trace whose experts stay in their Parquet file: a layer is read, and checked, when it is asked for.

        Whatever is worked out of it is the same as of a trace that was loaded. An ``.npz`` capture is loaded.

        Raises:
            TraceError: as ``load`` does, of the file as a whole and its first layer; of the others when they are read.
        """
        file = Path(path)
        if file.suffix != ".parquet" or not file.is_file():
            return cls.load(path)
        numbers = parquet.layers_of(file)
        first = cls.load(file, layers=numbers[:1])
        shape, weights = (first.n_tokens, first.top_k), first.weights is not None
        about = {field.name: getattr(first, field.name) for field in fields(cls)}

        def layer(number: int, weights: bool) -> RoutingTrace:
            return cls(**about | {"layer_index": np.array([number])} | parquet.read_choices(file, number, weights))

        source = Layers(layer)
        source.keep(numbers[0], first)
        about["layer_index"] = np.array(numbers, dtype=np.int32)
        about["experts"] = LayerByLayer(source, "experts", numbers, None, shape)
        about["weights"] = LayerByLayer(source, "weights", numbers, None, shape) if weights else None
        return cls(**about)

    def note(self, *tokens: NDArray[np.int64]) -> None:
        """Tell which tokens, arrays of numbers, are going to be asked for, so that one reading of a file does."""
        if isinstance(self.experts, LayerByLayer):
            self.experts.note(tokens)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the native Parquet form; the file appears whole or not at all.

        Raises:
            TraceError: the name does not end in .parquet, or its folder cannot be written.
        """
        parquet.write(self, Path(path))

    def of_requests(self, requests: NDArray[np.int32]) -> RoutingTrace:
        """The tokens of some requests only. Raises TraceError if there are none."""
        pick = np.isin(self.request, requests)
        return replace(
            self,
            experts=self.experts[pick],
            weights=None if self.weights is None else self.weights[pick],
            request=self.request[pick],
            position=self.position[pick],
            phase=self.phase[pick],
        )

    def of_layers(self, layers: Collection[int]) -> RoutingTrace:
        """Some layers only, by the model's numbers. Raises TraceError for one that is not in the trace."""
        layers = layers if isinstance(layers, Iterable) else [layers]
        for layer in layers:
            check_whole("a layer", layer)
        wanted = np.array(sorted(set(layers)), dtype=np.int32)
        if missing := sorted(set(wanted.tolist()) - set(self.layer_index.tolist())):
            raise TraceError(
                f"{self.source}: layer {missing[0]} is not in the trace; it has {ranges(self.layer_index)}"
            )
        at = np.flatnonzero(np.isin(self.layer_index, wanted))
        return replace(
            self,
            experts=self.experts[:, at],
            weights=None if self.weights is None else self.weights[:, at],
            layer_index=self.layer_index[at],
        )

    def check_fits(self, model: HasLayers) -> None:
        """Raise TraceError unless the model has the experts of the trace, as many per token, and its layers."""
        if (self.n_experts, self.top_k) != (model.n_experts, model.top_k):
            raise TraceError(
                f"the trace of {self.model} has {self.n_experts} experts and k = {self.top_k}, but {model.name} has "
                f"{model.n_experts} experts and k = {model.top_k}; use a trace of that model"
            )
        if other := sorted(set(self.layer_index.tolist()) - set(model.moe_layers)):
            raise TraceError(
                f"the trace of {self.model} has layer {other[0]}, but the MoE layers of {model.name} are "
                f"{ranges(model.moe_layers)}; use a trace of that model"
            )

    def iteration(
        self, tokens: int, layer: int, *, mix: Mix = "round-robin", offset: int = 0, request: int | None = None
    ) -> Routing:
        """Routing of one forward pass at one layer, of the tokens that ``tokens_of`` picks.

        Args:
            layer: the model's layer number.

        Raises:
            TraceError: an unknown layer, request or mix, or fewer tokens than asked for.
        """
        at = self.place_of(layer)
        pick = self.tokens_of(tokens, mix=mix, offset=offset, request=request)
        before = np.flatnonzero(self.layer_index == layer - 1)
        uniform = np.full((tokens, self.top_k), 1 / self.top_k, dtype=np.float32)
        weights = uniform if self.weights is None else self.weights[pick, at]  # before experts: see layerwise.Layers
        return Routing(
            experts=self.experts[pick, at],
            weights=weights,
            request=self.request[pick],
            layer=layer,
            n_experts=self.n_experts,
            source=self.source,
            synthetic=self.synthetic,
            before=self.experts[pick, int(before[0])] if before.size else None,
        )

    def place_of(self, layer: int) -> int:
        """Index of a layer by the model's number. Raises TraceError if it is not in the trace."""
        at = np.flatnonzero(self.layer_index == layer)
        if at.size == 0:
            raise TraceError(f"{self.source}: layer {layer} is not in the trace; it has {ranges(self.layer_index)}")
        return int(at[0])

    @cached_property
    def request_order(self) -> NDArray[np.int32]:
        """Order of the tokens by request, then position, then place in the file, int32 [tokens]."""
        return by_request(self.request, self.position).astype(np.int32)

    @cached_property
    def worked_out(self) -> dict[Any, Any]:
        """Small tables that were worked out of this trace, kept as long as the trace lives."""
        return {}

    def split(self, *, share: float = 0.5, least: int = 1) -> tuple[RoutingTrace, RoutingTrace]:
        """A training and an evaluation part, by requests; see ``trace.split.split``. Raises TraceError."""
        return split(self, share=share, least=least)

    def tokens_of(
        self, tokens: int, *, mix: Mix = "round-robin", offset: int = 0, request: int | None = None
    ) -> NDArray[np.int64]:
        """Tokens that one forward pass would hold, as indices int64 [tokens] into the trace.

        Args:
            tokens: how many.
            mix: "round-robin": one token of each request in turn, the requests being at different points of their
                progress, as in continuous batching (tokens of unknown request count as one request more);
                "single-request": consecutive tokens of one request.
            offset: tokens of that sequence to skip.
            request: the request of "single-request"; None: the first that is long enough.

        Raises:
            TraceError: an unknown request or mix. TooFewTokensError: fewer tokens than asked for.
            ConfigError: ``tokens`` or ``offset`` is no whole number.
        """
        if mix not in MIXES:
            raise TraceError(f"unknown mix '{mix}'{nearest(mix, MIXES)}; allowed: {', '.join(MIXES)}")
        for name, number in (("tokens", tokens), ("offset", offset)):
            check_whole(name, number)
        if tokens < 1 or offset < 0:
            wrong, least = (f"tokens is {tokens}", 1) if tokens < 1 else (f"offset is {offset}", 0)
            raise TraceError(f"{wrong}; it must be at least {least}")
        if request is not None and mix != "single-request":
            raise TraceError(f"request {request} was given with mix '{mix}'; it needs mix 'single-request'")
        if mix == "single-request":
            order, what = self._of_one_request(offset + tokens, request)
        else:
            order, what = self._staggered, "the trace"
        if offset + tokens > order.size:
            after = f" after the first {offset}" if offset else ""
            raise TooFewTokensError(
                f"{self.source}: {counted(tokens, 'token')}{after} asked for, but {what} has {order.size}; "
                "use fewer tokens per iteration or a longer trace"
            )
        return order[offset : offset + tokens].astype(np.int64)

    @cached_property
    def _staggered(self) -> NDArray[np.int32]:
        order = self.request_order
        _, first, length = np.unique(self.request[order], return_index=True, return_counts=True)
        stagger = np.arange(first.size) * GOLDEN_RATIO % 1  # spreads any number of requests evenly
        begin = (first + (stagger * length).astype(np.int64)).astype(np.int32)
        turn = np.arange(self.n_tokens, dtype=np.int32) - np.repeat(begin, length)
        turn %= np.repeat(length.astype(np.int32), length)
        return order[np.lexsort((order, turn))]

    def _of_one_request(self, needed: int, request: int | None) -> tuple[NDArray[np.int32], str]:
        order = self.request_order
        known = order[self.request[order] >= 0]
        numbers, first, length = np.unique(self.request[known], return_index=True, return_counts=True)
        if numbers.size == 0:
            raise TraceError(f"{self.source}: its tokens' requests are not known; use mix 'round-robin'")
        if request is None:
            enough = np.flatnonzero(length >= needed)
            at = int(enough[0]) if enough.size else int(length.argmax())
            what = f"the longest request, {numbers[at]},"
        else:
            if request not in numbers:
                raise TraceError(f"{self.source}: there is no request {request}; it has {ranges(numbers)}")
            at = int(np.flatnonzero(numbers == request)[0])
            what = f"request {request}"
        return known[first[at] : first[at] + length[at]], what


def by_request(request: NDArray[np.int32], position: NDArray[np.int32]) -> NDArray[np.int64]:
    """Order of the tokens by request, then position, then place in the file, int64 [tokens]."""
    return np.lexsort((np.arange(request.size), position, request)).astype(np.int64)


def check_moe_layers(layers: Iterable[int], model: str, own: Sequence[int]) -> None:
    """Raise ConfigError unless all ``layers`` are among a model's ``own`` MoE layers, each once."""
    seen = set()
    for layer in layers:
        if layer not in own:
            allowed = ranges(own)
            raise ConfigError(f"layer {layer} is not an MoE layer of {model}; those are {allowed}")
        if layer in seen:
            raise ConfigError(f"layer {layer} is given twice; give each layer once")
        seen.add(layer)


def ranges(numbers: ArrayLike) -> str:
    """Distinct numbers in short form, for example "0 to 7, 12"."""
    values = np.unique(numbers)
    parts = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(p[0]) if p.size == 1 else f"{p[0]} to {p[-1]}" for p in parts)


def short_source(source: str) -> str:
    """A source without the words that a label of synthetic routing has already."""
    return source.removeprefix(SYNTHETIC_SOURCE)


def _origin(of: Routing | RoutingTrace) -> str:
    return f"SYNTHETIC: {short_source(of.source)}" if of.synthetic else f"from {of.source}"
