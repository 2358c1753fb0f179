"""A statistical model of a router: popularity, co-activation, locality and layer dependence; draws synthetic traces.

A layer has a latent score per expert, Gaussian with mean ``popularity``; a token's k experts are those of the largest
score. The score's covariance over experts is the sum of a part that a request keeps for good (``request_root``) and
one that fades from token to token (``token_root``), the latter a mixture of AR(1) processes. The white noise behind
each part follows that of the layer before through ``depth``, a contraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from expertstream.errors import TraceError
from expertstream.trace.latent import Floats, root
from expertstream.trace.routing import RoutingTrace, by_request, ranges
from expertstream.units import counted

MEMORIES = (0.0, 0.3, 0.7, 0.9, 0.97, 0.99)  # correlation of the AR(1) processes from one token to the next
BLOCK_TOKENS = 8192  # tokens drawn at once


@dataclass(frozen=True, eq=False)
class LayerCalibration:
    """One layer; E experts, all float64.

    Attributes:
        popularity: [E] mean scores. request_root, token_root: [E, E] symmetric square roots of the two covariances,
            whose sum has a unit diagonal. shares: [len(MEMORIES)] variance of each AR(1) process, sum 1.
        depth: [E, E] largest singular value below 1; zero at the first layer. rest: [E, E] symmetric root of what
            ``depth`` leaves, I - depth depth^T.
        gate_scale, gate_sum: gate weights are gate_sum * softmax(gate_scale * scores of the chosen experts).
    """

    popularity: Floats
    request_root: Floats
    token_root: Floats
    shares: Floats
    depth: Floats
    rest: Floats
    gate_scale: float
    gate_sum: float

    def __repr__(self) -> str:
        """Its size."""
        return f"LayerCalibration({counted(self.popularity.size, 'expert')})"


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted router; ``expertstream.trace.fitting.calibrate`` makes it from a trace.

    Attributes:
        layers: in the order of layer_index. n_experts, top_k, model, source: of the trace that it was fitted to.
        has_weights: whether drawn traces carry gate weights.
        notes: what could not be fitted, for people.
    """

    layers: tuple[LayerCalibration, ...]
    layer_index: tuple[int, ...]
    n_experts: int
    top_k: int
    model: str
    source: str
    has_weights: bool
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """What it was fitted to, in one line."""
        return (
            f"Calibration({self.model}, layers {ranges(self.layer_index)}, {self.top_k} of {self.n_experts} experts, "
            f"from {self.source})"
        )

    def of_layers(self, layers: Sequence[int]) -> Calibration:
        """Some layers only, in rising order; where layers between are left out, their dependences are chained.

        Raises:
            TraceError: no layer, or one that was not fitted.
        """
        wanted = sorted(set(layers))
        unknown = sorted(set(wanted) - set(self.layer_index))
        if unknown or not wanted:
            raise TraceError(
                f"{self.source}: layer {unknown[0] if unknown else 'none'} was asked for; calibrated are "
                f"{', '.join(map(str, self.layer_index))}"
            )
        picked: list[LayerCalibration] = []
        before: int | None = None
        for at in (self.layer_index.index(layer) for layer in wanted):
            layer = self.layers[at]
            depth = np.zeros_like(layer.depth)
            if before is not None:
                depth = layer.depth
                for between in range(at - 1, before, -1):
                    depth = depth @ self.layers[between].depth
            picked.append(replace(layer, depth=depth, rest=root(np.eye(self.n_experts) - depth @ depth.T)))
            before = at
        return replace(self, layers=tuple(picked), layer_index=tuple(wanted))

    def like(self, trace: RoutingTrace, *, seed: int = 0) -> RoutingTrace:
        """A twin: the requests, positions and phases of ``trace`` with drawn experts.

        Tokens of unknown request are drawn as requests of one token each.

        Raises:
            TraceError: a negative seed.
        """
        order = by_request(trace.request, trace.position)
        sorted_request = trace.request[order]
        starts = np.flatnonzero(np.r_[True, (np.diff(sorted_request) != 0) | (sorted_request[1:] < 0)])
        lengths = np.diff(np.append(starts, order.size))
        experts, weights = self._draw(lengths.tolist(), seed)
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        weights = None if weights is None else weights[back]
        return self._trace(experts[back], weights, trace.request, trace.position, trace.phase, seed)

    def requests(self, lengths: Sequence[int], *, seed: int = 0) -> RoutingTrace:
        """A trace of requests of the given numbers of tokens; the phase is unknown.

        Raises:
            TraceError: no request, an empty request or a negative seed.
        """
        if not lengths or min(lengths) < 1:
            raise TraceError(f"lengths is {list(lengths)[:8]}; at least one request of at least one token is needed")
        experts, weights = self._draw(list(lengths), seed)
        request = np.repeat(np.arange(len(lengths)), lengths)
        position = np.concatenate([np.arange(length) for length in lengths])
        return self._trace(experts, weights, request, position, np.full(request.size, -1), seed)

    def _trace(
        self,
        experts: NDArray[np.int16],
        weights: NDArray[np.float32] | None,
        request: NDArray[np.int_] | NDArray[np.int32],
        position: NDArray[np.int_] | NDArray[np.int32],
        phase: NDArray[np.int_] | NDArray[np.int8],
        seed: int,
    ) -> RoutingTrace:
        return RoutingTrace(
            experts=experts,
            weights=weights,
            request=request.astype(np.int32),
            position=position.astype(np.int32),
            phase=phase.astype(np.int8),
            layer_index=np.array(self.layer_index, dtype=np.int32),
            n_experts=self.n_experts,
            model=self.model,
            source=f"synthetic routing like {self.source}, seed {seed}",
            id_space="as in the calibrating trace",
            synthetic=True,
        )

    def _draw(self, lengths: list[int], seed: int) -> tuple[NDArray[np.int16], NDArray[np.float32] | None]:
        if seed < 0:
            raise TraceError(f"seed is {seed}; it must not be negative")
        n, shape = sum(lengths), (len(self.layers), self.top_k)
        experts = np.empty((n, *shape), dtype=np.int16)
        weights = np.empty((n, *shape), dtype=np.float32) if self.has_weights else None
        active = [i for i in range(len(MEMORIES)) if any(layer.shares[i] > 0 for layer in self.layers)]
        first = number = 0
        while number < len(lengths):
            block: list[int] = []
            size = 0
            while number + len(block) < len(lengths) and (
                not block or size + lengths[number + len(block)] <= BLOCK_TOKENS
            ):
                size += lengths[number + len(block)]
                block.append(lengths[number + len(block)])
            rngs = [np.random.default_rng([seed, number + i]) for i in range(len(block))]
            self._draw_block(
                rngs,
                block,
                active,
                experts[first : first + size],
                None if weights is None else weights[first : first + size],
            )
            first, number = first + size, number + len(block)
        return experts, weights

    def _draw_block(
        self,
        rngs: list[np.random.Generator],
        lengths: list[int],
        active: list[int],
        experts: NDArray[np.int16],
        weights: NDArray[np.float32] | None,
    ) -> None:
        own: Floats | None = None
        noise: list[Floats] = []
        for at, layer in enumerate(self.layers):
            fresh_own = np.stack([rng.standard_normal(self.n_experts) for rng in rngs])
            fresh = [fading(rngs, lengths, self.n_experts, MEMORIES[i]) for i in active]
            if own is None:
                own, noise = fresh_own, fresh
            else:
                own = own @ layer.depth.T + fresh_own @ layer.rest
                noise = [old @ layer.depth.T + new @ layer.rest for old, new in zip(noise, fresh, strict=True)]
            mixed = sum(np.sqrt(layer.shares[i]) * part for i, part in zip(active, noise, strict=True))
            score = layer.popularity + np.repeat(own @ layer.request_root, lengths, axis=0) + mixed @ layer.token_root
            top = chosen(score, self.top_k)
            experts[:, at] = top
            if weights is not None:
                logits = layer.gate_scale * np.take_along_axis(score, top, axis=1)
                gate = np.exp(logits - logits[:, :1])
                gate *= layer.gate_sum / gate.sum(axis=1, keepdims=True)
                weights[:, at] = gate.astype(np.float16)  # captures keep half precision


def chosen(score: Floats, k: int) -> NDArray[np.int64]:
    """Indices int64 [tokens, k] of the k largest of score [tokens, E], largest first."""
    top = np.argpartition(-score, k - 1, axis=1)[:, :k] if k < score.shape[1] else np.argsort(-score, axis=1)
    order = np.argsort(-np.take_along_axis(score, top, axis=1), axis=1)
    return np.take_along_axis(top, order, axis=1).astype(np.int64)


def fading(rngs: list[np.random.Generator], lengths: list[int], e: int, memory: float) -> Floats:
    """Stationary AR(1) of variance 1 along the tokens of each request, float64 [sum of lengths, e]."""
    parts = []
    for rng, length in zip(rngs, lengths, strict=True):
        part = rng.standard_normal((length, e))
        if memory and length > 1:
            part[1:] *= np.sqrt(1 - memory**2)
            part = lfilter([1.0], [1.0, -memory], part, axis=0)
        parts.append(part)
    return np.concatenate(parts)
