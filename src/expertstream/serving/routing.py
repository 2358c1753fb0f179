"""Routing of a request's tokens, replayed from the requests of a routing trace."""

from __future__ import annotations

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

    Raises:
        TraceError: the trace does not fit the model.
    """

    def __init__(self, trace: RoutingTrace, model: MoEModel, seed: int = 0) -> None:
        trace.check_fits(model)
        self._trace, self._seed = trace, seed
        order = np.lexsort((np.arange(trace.n_tokens), trace.position, trace.request))
        _, first, length = np.unique(trace.request[order], return_index=True, return_counts=True)
        self._order, self._first, self._length = order, first, length
        known = {int(layer): at for at, layer in enumerate(trace.layer_index)}
        self._layer = {
            layer: known.get(layer, turn % trace.layer_index.size) for turn, layer in enumerate(model.moe_layers)
        }
        self.borrowed = sum(layer not in known for layer in model.moe_layers)

    @property
    def source(self) -> str:
        """The trace in words."""
        return self._trace.source

    @property
    def synthetic(self) -> bool:
        """Whether the trace was generated."""
        return self._trace.synthetic

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
        at, trace = self._layer[layer], self._trace
        experts = trace.experts[rows, at]
        if trace.weights is None:
            weights = np.full(experts.shape, 1 / trace.top_k, dtype=np.float32)
        else:
            weights = trace.weights[rows, at]
        return Routing(
            experts=experts,
            weights=weights,
            request=trace.request[rows],
            layer=layer,
            n_experts=trace.n_experts,
            source=trace.source,
            synthetic=trace.synthetic,
        )
