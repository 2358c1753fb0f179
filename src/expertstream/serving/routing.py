"""Routing of a request's tokens, replayed from the requests of a routing trace."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError
from expertstream.model import MoEModel
from expertstream.trace import Routing, RoutingTrace

Ints = NDArray[np.int64]


class Replay:
    """Gives each request the choices of a request of the trace, token by token.

    Request i follows the trace's request i mod n; from the second time on it starts at another of its tokens, drawn
    from the seed and i. A request that is longer than the trace's goes round. Layers that the trace lacks borrow those
    of the trace in turn (``borrowed``).

    It keeps choices of its own, layer by layer in the smallest types that hold them, and lets go of the trace.

    Attributes:
        source: the trace in words. synthetic: whether it was generated. borrowed: layers that the trace lacks.

    Raises:
        TraceError: the trace does not fit the model, or its file is damaged.
    """

    def __init__(self, trace: RoutingTrace, model: MoEModel, seed: int = 0) -> None:
        trace.check_fits(model)
        self.source, self.synthetic, self._n_experts, self._seed = trace.source, trace.synthetic, trace.n_experts, seed
        order = np.lexsort((np.arange(trace.n_tokens), trace.position, trace.request))
        _, first, length = np.unique(trace.request[order], return_index=True, return_counts=True)
        self._order, self._first, self._length = order, first, length
        known = {int(layer): at for at, layer in enumerate(trace.layer_index)}
        self._layer = {
            layer: known.get(layer, turn % trace.layer_index.size) for turn, layer in enumerate(model.moe_layers)
        }
        self.borrowed = sum(layer not in known for layer in model.moe_layers)
        self._request = trace.request
        self._choices = [_choices(trace, at) for at in range(trace.layer_index.size)]

    def rows(self, request: int, first: int, last: int) -> Ints:
        """Rows of the trace that tokens ``first`` to ``last`` - 1 of a request follow, int64 [last - first]."""
        n = self._first.size
        at = request % n
        start = 0
        if request >= n:
            start = int(np.random.default_rng((self._seed, request)).integers(self._length[at]))
        place = (start + np.arange(first, last, dtype=np.int64)) % self._length[at]
        return np.asarray(self._order[self._first[at] + place], dtype=np.int64)

    def routing(self, rows: Ints, layer: int) -> Routing:
        """The choices at a layer. Raises TraceError if it is no MoE layer of the model."""
        if layer not in self._layer:
            raise TraceError(f"layer {layer} is not an MoE layer of the model")
        experts, weights = self._choices[self._layer[layer]]
        return Routing(
            experts=experts[rows].astype(np.int16),
            weights=weights[rows].astype(np.float32),
            request=self._request[rows],
            layer=layer,
            n_experts=self._n_experts,
            source=self.source,
            synthetic=self.synthetic,
        )


def _choices(trace: RoutingTrace, at: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Experts and gate weights [tokens, k] at a layer of the trace."""
    if trace.weights is None:
        uniform = np.float32(1 / trace.top_k)
        weights: NDArray[Any] = np.broadcast_to(uniform, (trace.n_tokens, trace.top_k))
    else:
        weights = _narrowed(trace.weights[:, at], np.float16)  # before experts: see layerwise.Layers
    return _narrowed(trace.experts[:, at], np.uint8), weights


def _narrowed(values: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
    """The values in a smaller type where it holds them all exactly, else as they are."""
    with np.errstate(over="ignore"):  # to infinity, which is not what was given
        taken = values.astype(kind)
    return taken if np.array_equal(taken, values) else values
