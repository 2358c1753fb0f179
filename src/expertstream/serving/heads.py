"""What each die does of an attention block: its heads' matrices, and the keys and values that it reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.model import MoEModel
from expertstream.package import DieSpec, Package, Topology
from expertstream.package.timing import matmul_cycles
from expertstream.strategy.plan import cut

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CacheUnit:
    """Keys and values that the same dies read: those of one or several key-value heads, or the latents of MLA.

    Attributes:
        dies: int64 [n], in ring order; ``query_heads``: int64 [n], query heads of each that use them.
        kv_heads: key-value heads in the unit (1 for latents, and for a head that several dies share).
        row_bytes: bytes of one token. key_width, value_width: multiply-accumulates per query head and row are their
            sum. expand: (latent width, expanded width per head, key width, value width) of the form of MLA that
            expands latents to keys and values first, or None.
    """

    dies: Ints
    query_heads: Ints
    kv_heads: int
    row_bytes: int
    key_width: int
    value_width: int
    expand: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class HeadShares:
    """Head parallelism: query heads in consecutive runs over the dies, with all that belongs to them.

    Attributes:
        fronts: (rows, columns) of projections that all heads need; split by columns, results gathered by all dies.
        own: (rows, int64 [dies] columns) of projections of a die's own heads, in order; ``values``: the same after
            attention (the value expansion of absorbed MLA). out_rows: int64 [dies], rows of the output projection.
        units: the key-value cache. token_bytes: int64 [dies], bytes of a token's queries, new keys and values and
            head outputs.
    """

    fronts: tuple[tuple[int, int], ...]
    own: tuple[tuple[int, Ints], ...]
    values: tuple[tuple[int, Ints], ...]
    out_rows: Ints
    units: tuple[CacheUnit, ...]
    token_bytes: Ints

    @property
    def front_columns(self) -> int:
        """Columns of all gathered projections."""
        return sum(columns for _, columns in self.fronts)

    @property
    def row_bytes(self) -> int:
        """Bytes that one token adds to the key-value cache of one layer."""
        return sum(unit.row_bytes for unit in self.units)


def share_heads(model: MoEModel, package: Package) -> HeadShares:
    """Spread the heads of a model's attention over the dies of a package.

    GQA and LFA: where the key-value heads divide evenly over the dies, each die has its own; otherwise keys and
    values are projected by columns and gathered, and the dies that share a head read its cache in turn.
    LFA adds its two convolutions of length 2 as gathered projections; their one token of state is not counted.
    MLA (arXiv 2405.04434, section 2.1): compressed queries, latents and the rope key are gathered projections; queries
    are multiplied into the latent space (absorbed form), so that the cache holds latents, which every die reads.
    """
    attention, d_model = model.attention, model.d_model
    n_dies, bits = package.n_dies, model.activation_bits
    ring = np.array(Topology.of(package).ring(range(n_dies)), dtype=np.int64)
    bounds = np.arange(n_dies + 1, dtype=np.int64) * attention.n_heads // n_dies
    heads = np.diff(bounds)
    if attention.kind == "mla":
        rank, rope = attention.kv_lora_rank, attention.qk_rope_head_dim
        nope, v = attention.qk_nope_head_dim, attention.v_head_dim
        compressed = attention.q_lora_rank or 0
        fronts = [(d_model, compressed + rank + rope)]
        unit = CacheUnit(
            dies=ring[heads[ring] > 0],
            query_heads=heads[ring][heads[ring] > 0],
            kv_heads=1,
            row_bytes=_bytes(rank + rope, bits),
            key_width=rank + rope,
            value_width=rank,
            expand=(rank, nope + v, nope + rope, v),
        )
        return HeadShares(
            fronts=tuple(fronts),
            own=((compressed or d_model, heads * (nope + rope)), (nope, heads * rank)),
            values=((rank, heads * v),),
            out_rows=heads * v,
            units=(unit,),
            token_bytes=_bytes_of(heads * (nope + 2 * rope + 2 * rank + v), bits),
        )
    width, kv_heads = attention.head_dim, attention.n_kv_heads
    fronts = [(2 * d_model, d_model // 2), (2 * (d_model // 2), d_model)] if attention.kind == "lfa" else []
    own_kv = np.zeros(n_dies, dtype=np.int64)
    if kv_heads % n_dies == 0:
        own_kv[:] = kv_heads // n_dies
    else:
        fronts.append((d_model, 2 * kv_heads * width))
    per_group = attention.n_heads // kv_heads
    units = []
    for sharers, kvs in _sharers(bounds, kv_heads, per_group):
        dies = ring[np.isin(ring, sharers)]
        used = [
            sum(max(0, min(bounds[d + 1], (k + 1) * per_group) - max(bounds[d], k * per_group)) for k in kvs)
            for d in dies
        ]
        units.append(
            CacheUnit(
                dies=dies,
                query_heads=np.array(used, dtype=np.int64),
                kv_heads=len(kvs),
                row_bytes=len(kvs) * _bytes(2 * width, bits),
                key_width=width,
                value_width=width,
            )
        )
    return HeadShares(
        fronts=tuple(fronts),
        own=((d_model, heads * width + 2 * own_kv * width),),
        values=(),
        out_rows=heads * width,
        units=tuple(units),
        token_bytes=_bytes_of(heads * width + 2 * own_kv * width, bits),
    )


def attend_cycles(die: DieSpec, unit: CacheUnit, at: int, new: Ints, rows: Ints, *, causal: bool = False) -> Ints:
    """Array cycles of the unit's ``at``-th die for queries of ``new`` tokens over ``rows`` tokens, int64 [n].

    Scores and weighted values. Of MLA's two forms the cheaper one is taken for each entry: latents as they are, or
    expanded to keys and values first. The softmax is not counted: it keeps up with the array.

    Args:
        causal: the rows are the new tokens themselves. A MAC array then skips what causality masks and computes
            n (n + 1) / 2 pairs a head; a systolic array computes the square.
    """
    heads = int(unit.query_heads[at])

    def pairs(query_heads: int, key: int, value: int) -> Ints:
        if die.array == "mac-array":
            n = new * (new + 1) // 2 if causal else new * rows
            return matmul_cycles(die, n, query_heads, key + value)
        return matmul_cycles(die, new * query_heads, key, rows) + matmul_cycles(die, new * query_heads, rows, value)

    if unit.expand is None:
        # a systolic array loads the keys and values of each key-value head once for all its query heads
        apart = 1 if die.array == "mac-array" else unit.kv_heads
        return np.asarray(apart * pairs(heads // apart, unit.key_width, unit.value_width), dtype=np.int64)
    latent, expanded, key, value = unit.expand
    absorbed = pairs(heads, unit.key_width, unit.value_width)
    apart = 1 if die.array == "mac-array" else heads
    expanding = matmul_cycles(die, rows, latent, heads * expanded) + apart * pairs(heads // apart, key, value)
    return np.asarray(np.minimum(absorbed, expanding), dtype=np.int64)


def _sharers(bounds: Ints, kv_heads: int, per_group: int) -> list[tuple[list[int], list[int]]]:
    """Sets of dies that share key-value heads, with those heads; heads of a single die together."""
    found: dict[tuple[int, ...], list[int]] = {}
    for k in range(kv_heads):
        first, last = k * per_group, (k + 1) * per_group
        dies = np.flatnonzero(np.maximum(bounds[:-1], first) < np.minimum(bounds[1:], last)).tolist()
        found.setdefault(tuple(dies), []).append(k)
    return [(list(dies), kvs) for dies, kvs in found.items()]


def column_shares(columns: int, n_dies: int) -> Ints:
    """Columns of each die, int64 [dies], that differ by at most one."""
    shares = np.zeros(n_dies, dtype=np.int64)
    parts = np.diff(cut(columns, n_dies))
    shares[: parts.size] = parts
    return shares


def _bytes(values: int, bits: int) -> int:
    return -(-values * bits // 8)


def _bytes_of(values: Ints, bits: int) -> Ints:
    return np.asarray(-(-values * bits // 8), dtype=np.int64)
