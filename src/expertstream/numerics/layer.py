"""A dense MoE layer in float64: the reference that every schedule must reproduce."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from expertstream.errors import WorkloadError
from expertstream.numerics.inputs import Floats, Ints, RoutingLike

# Values between the two products that are computed at once: they stay in the cache, and products of this size are left
# to one thread by OpenBLAS, whose threads would wait for one another for longer than they compute.
BLOCK = 16384


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """Weights of every expert, routed ones first, shared ones after; float64.

    Attributes:
        gate, up: for each expert [d_model, columns]. down: for each expert [columns, d_model].
    """

    gate: tuple[Floats, ...]
    up: tuple[Floats, ...]
    down: tuple[Floats, ...]

    @classmethod
    def random(cls, d_model: int, columns: ArrayLike, seed: int = 0) -> DenseLayer:
        """Draw normal weights, scaled so that outputs are of order 1.

        An expert's weights depend on ``seed`` and its own number only, not on the other experts.

        Args:
            d_model: width of the layer. columns: d_ffn columns of each expert, int [experts]; 0 is allowed.

        Raises:
            WorkloadError: ``d_model`` is below 1 or a number of columns is negative.
        """
        counts = np.asarray(columns, dtype=np.int64).reshape(-1)
        if d_model < 1:
            raise WorkloadError(f"d_model is {d_model}; it must be at least 1")
        if (counts < 0).any():
            raise WorkloadError(f"an expert has {counts.min()} columns; give each expert 0 columns or more")
        gate, up, down = [], [], []
        for expert, n in enumerate(counts.tolist()):
            draws = np.random.default_rng((seed, expert)).standard_normal((3, d_model, n))
            gate.append(draws[0] / np.sqrt(d_model))
            up.append(draws[1] / np.sqrt(d_model))
            down.append(np.ascontiguousarray(draws[2].T) / np.sqrt(max(n, 1)))
        return cls(tuple(gate), tuple(up), tuple(down))

    @property
    def d_model(self) -> int:
        """Width of the layer."""
        return int(self.gate[0].shape[0])

    @property
    def columns(self) -> Ints:
        """d_ffn columns of each expert, int64 [experts]."""
        return np.array([g.shape[1] for g in self.gate], dtype=np.int64)

    def partial_sum(self, x: Floats, expert: int, first: int, last: int) -> Floats:
        """What columns ``first`` to ``last`` - 1 of an expert add to its output (paper page, section 2).

        SwiGLU: (silu(x gate) * (x up)) down. Each column acts alone, so partial sums add up in any order.

        Args:
            x: float64 [tokens, d_model].

        Returns:
            float64 [tokens, d_model], without the gate weight of the routing.
        """
        gate, up, down = self.gate[expert][:, first:last], self.up[expert][:, first:last], self.down[expert][first:last]
        out = np.empty(x.shape, dtype=np.float64)
        rows = max(1, BLOCK // max(last - first, 1))
        for at in range(0, x.shape[0], rows):
            some = x[at : at + rows]
            out[at : at + rows] = (silu(some @ gate) * (some @ up)) @ down
        return out


def silu(z: Floats) -> Floats:
    """The activation z / (1 + exp(-z)), written with tanh so that no input overflows; any shape."""
    return z * 0.5 * (1.0 + np.tanh(0.5 * z))


def dense_output(layer: DenseLayer, x: Floats, routing: RoutingLike, n_routed: int) -> Floats:
    """Output of the layer: gate-weighted sum over the routed experts plus the shared experts with weight 1.

    Args:
        x: activations, float64 [tokens, d_model].
        routing: ``experts`` int [tokens, k] and ``weights`` float [tokens, k].
        n_routed: experts from this number on are shared and serve every token.

    Returns:
        float64 [tokens, d_model].
    """
    output = np.zeros_like(x, dtype=np.float64)
    for expert, n in enumerate(layer.columns.tolist()):
        if expert >= n_routed:
            output += layer.partial_sum(x, expert, 0, n)
            continue
        token, slot = np.nonzero(routing.experts == expert)
        weight = routing.weights[token, slot].astype(np.float64)
        np.add.at(output, token, weight[:, None] * layer.partial_sum(x[token], expert, 0, n))
    return output
