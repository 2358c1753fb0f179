"""Compute time of a micro-slice, against hand-made figures and exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from expertstream.package import DieSpec, Package
from expertstream.package.timing import bytes_of_columns, compute_ps, matmul_cycles

CHIP = Package.preset("test-chip-2x2").die


def test_bytes_of_columns() -> None:
    assert bytes_of_columns(2048, 768, 8) == 3 * 2048 * 768
    assert bytes_of_columns(2048, [1, 96], 4).tolist() == [3072, 96 * 3072]
    assert bytes_of_columns(3, 1, 4) == 5  # 36 bits
    assert bytes_of_columns(3, 0, 4) == 0


def test_one_token_is_bound_by_the_array_and_the_buffer_alike() -> None:
    # 3 x 2048 x 96 int8 weights: 288 cycles of 2048 MACs, and 288 cycles at one weight per MAC and cycle
    assert compute_ps(CHIP, 1, 2048, 96, 8) == (288 + 64) * 1250


def test_many_tokens_are_bound_by_the_array() -> None:
    assert compute_ps(CHIP, 16, 2048, 96, 8) == (16 * 288 + 64) * 1250


def test_wide_weights_are_bound_by_the_buffer() -> None:
    assert compute_ps(CHIP, 1, 2048, 96, 16) == (2 * 288 + 64) * 1250


def test_a_matrix_fills_and_drains_the_weight_stationary_array_tile_by_tile() -> None:
    die = CHIP.model_copy(update={"array": "weight-stationary", "array_rows": 8, "array_cols": 4, "macs_per_cycle": 32})
    # 16 x 9 takes 2 x 3 tiles; each 8 cycles to fill, then 5 tokens through 8 + 4 cells
    assert matmul_cycles(die, 5, 16, 9) == 6 * (8 + 5 + 8 + 4 - 2)
    assert matmul_cycles(die, [0, 1], 16, 9).tolist() == [0, 6 * (8 + 1 + 8 + 4 - 2)]
    assert matmul_cycles(CHIP, 5, 16, 900) == 36  # of 2048 MACs


def test_no_tokens_still_read_the_weights() -> None:
    assert compute_ps(CHIP, 0, 2048, 96, 8) == (288 + 64) * 1250


def test_no_work_at_all_is_the_control_overhead() -> None:
    assert compute_ps(CHIP, 5, 2048, 0, 8) == 64 * 1250


def test_a_started_cycle_and_picosecond_count_whole() -> None:
    die = DieSpec(
        clock_hz=300_000_000,
        macs_per_cycle=7,
        weight_buffer_bytes=1,
        token_buffer_bytes=1,
        sram_bandwidth_bytes_per_s=10**12,
        control_overhead_cycles=0,
    )
    # 3 MACs take one cycle of 3333.3 ps
    assert compute_ps(die, 1, 1, 1, 8) == 3334
    assert compute_ps(die, 3, 1, 1, 8) == 6667
    assert compute_ps(die, 7, 1, 1, 8) == 10_000


def test_tokens_and_columns_are_broadcast() -> None:
    times = compute_ps(CHIP, np.array([[1], [2], [300]]), 2048, np.array([95, 96]), 8)
    assert times.shape == (3, 2)
    assert times.dtype == np.int64
    assert times.tolist() == [[int(compute_ps(CHIP, n, 2048, c, 8)) for c in (95, 96)] for n in (1, 2, 300)]
    assert compute_ps(CHIP, [], 2048, 96, 8).shape == (0,)


def test_the_weight_stationary_array_fills_and_drains_per_tile() -> None:
    die = CHIP.model_copy(update={"array": "weight-stationary", "array_rows": 32, "array_cols": 64})
    # gate and up [2048, 96]: 64 x 2 tiles each; down [96, 2048]: 3 x 32 tiles
    tiles = 2 * 64 * 2 + 3 * 32
    for tokens in (1, 7, 256):
        cycles = tiles * (tokens + 2 * 32 + 64 - 2)
        assert compute_ps(die, tokens, 2048, 96, 8) == (cycles + 64) * 1250


def test_a_weight_stationary_array_of_one_cell_is_a_mac_array() -> None:
    one = {"macs_per_cycle": 1, "control_overhead_cycles": 0}
    plain = CHIP.model_copy(update=one)
    array = CHIP.model_copy(update=one | {"array": "weight-stationary", "array_rows": 1, "array_cols": 1})
    # one cell: a cycle to fill, then a cycle per token
    assert compute_ps(plain, 9, 4, 5, 8) == 3 * 4 * 5 * 9 * 1250
    assert compute_ps(array, 9, 4, 5, 8) == 3 * 4 * 5 * (9 + 1) * 1250


@example(  # the bytes times the clock leave int64
    clock=713_106_815_033, macs=1, sram=10**6, overhead=0, tokens=3, d_model=8192, columns=14_336, bits=32
)
@given(
    clock=st.integers(10**6, 10**12),
    macs=st.integers(1, 10**6),
    sram=st.integers(10**6, 10**14),
    overhead=st.integers(0, 10**6),
    tokens=st.integers(0, 4096),
    d_model=st.integers(1, 8192),
    columns=st.integers(0, 14_336),
    bits=st.sampled_from([2, 4, 8, 16, 32]),
)
def test_it_is_exact(
    clock: int, macs: int, sram: int, overhead: int, tokens: int, d_model: int, columns: int, bits: int
) -> None:
    die = DieSpec(
        clock_hz=clock,
        macs_per_cycle=macs,
        weight_buffer_bytes=1,
        token_buffer_bytes=1,
        sram_bandwidth_bytes_per_s=sram,
        control_overhead_cycles=overhead,
    )
    weights = 3 * d_model * columns
    cycles = max(
        ceil(Fraction(weights * tokens, macs)), ceil(Fraction(ceil(Fraction(weights * bits, 8)) * clock, sram))
    )
    expected = ceil(Fraction((cycles + overhead) * 10**12, clock))
    if expected < 2**63:
        assert compute_ps(die, tokens, d_model, columns, bits) == expected
