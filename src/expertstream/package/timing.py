"""Compute time of a micro-slice on a die (docs/model.md)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expertstream.package.package import DieSpec

Ints = NDArray[np.int64]


def bytes_of_columns(d_model: int, columns: ArrayLike, weight_bits: int) -> Ints:
    """Weight bytes of c columns of a gated expert (gate, up and down), int64, rounded up to whole bytes."""
    return -(-3 * d_model * np.asarray(columns, dtype=np.int64) * weight_bits // 8)


def compute_ps(die: DieSpec, tokens: ArrayLike, d_model: int, columns: ArrayLike, weight_bits: int) -> Ints:
    """Time of n tokens with c columns of a gated expert, int64 ps, broadcast over ``tokens`` and ``columns``.

    The larger of array cycles and SRAM cycles (weight bytes / SRAM bandwidth), plus the control overhead, each
    rounded up to whole cycles; no tokens still read the weights. Array cycles:

    - "mac-array": ceil(3 d_model c n / macs_per_cycle).
    - "weight-stationary": each of the three matrices is cut into tiles of array_rows x array_cols; a tile takes
      array_rows cycles to fill, then n tokens stream and drain in n + array_rows + array_cols - 2 cycles.
    """
    n, c = np.asarray(tokens, dtype=np.int64), np.asarray(columns, dtype=np.int64)
    if die.array == "mac-array":
        cycles = -(-3 * d_model * c * n // die.macs_per_cycle)
    else:
        down = -(-d_model // die.array_rows), -(-c // die.array_cols)  # gate and up: [d_model, c]
        up = -(-c // die.array_rows), -(-d_model // die.array_cols)  # down: [c, d_model]
        tiles = 2 * down[0] * down[1] + up[0] * up[1]
        cycles = tiles * (n + 2 * die.array_rows + die.array_cols - 2)
    return _duration_ps(die, cycles, bytes_of_columns(d_model, c, weight_bits))


def matmul_cycles(die: DieSpec, tokens: ArrayLike, rows: ArrayLike, columns: ArrayLike) -> Ints:
    """Array cycles of n tokens with a matrix [rows, columns], int64, broadcast; both array models as ``compute_ps``.

    No tokens, rows or columns take no cycles.
    """
    n, r, c = (np.asarray(x, dtype=np.int64) for x in (tokens, rows, columns))
    if die.array == "mac-array":
        return np.asarray(-(-n * r * c // die.macs_per_cycle))
    tiles = -(-r // die.array_rows) * -(-c // die.array_cols)
    return np.asarray(np.where(n > 0, tiles * (n + 2 * die.array_rows + die.array_cols - 2), 0))


def cycles_ps(die: DieSpec, cycles: ArrayLike, operand_bytes: ArrayLike) -> Ints:
    """Time of one dispatched compute of so many array cycles, int64 ps.

    The larger of the array cycles and the SRAM cycles of its streamed operand (weights, keys and values), plus the
    control overhead.
    """
    return _duration_ps(die, np.asarray(cycles, dtype=np.int64), np.asarray(operand_bytes, dtype=np.int64))


def _duration_ps(die: DieSpec, cycles: Ints, operand_bytes: Ints) -> Ints:
    ratio = Fraction(die.clock_hz, die.sram_bandwidth_bytes_per_s)  # cycles per byte
    if operand_bytes.size and int(operand_bytes.max()) * ratio.numerator >= 2**63:
        operand_bytes = operand_bytes.astype(object)  # the exact product leaves int64
    sram_cycles = np.asarray(-(-operand_bytes * ratio.numerator // ratio.denominator)).astype(np.int64)
    total = np.maximum(cycles, sram_cycles) + die.control_overhead_cycles
    # ceil(cycles * 1e12 / clock) in steps that stay within int64
    seconds, rest = np.divmod(total, die.clock_hz)
    microseconds, rest = np.divmod(rest * 1_000_000, die.clock_hz)
    picoseconds = -(-rest * 1_000_000 // die.clock_hz)
    return np.asarray(seconds * 10**12 + microseconds * 10**6 + picoseconds, dtype=np.int64)
