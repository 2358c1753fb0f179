"""The attention block: what it loads and computes, and latencies that can be worked out by hand.

On the small die a cycle of 1 ns does one MAC and DDR brings one byte in 1 ns.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.engine.run import run
from expertstream.engine.timeline import Timeline
from expertstream.errors import BufferTooSmallError, WorkloadError
from expertstream.model import MoEModel
from expertstream.package import ChannelSpec, D2DSpec, DieSpec, Package
from expertstream.planning import network_of
from expertstream.serving.attention import AttentionBatch, plan_attention
from expertstream.serving.blocks import Blocks
from expertstream.serving.heads import CacheUnit, attend_cycles, share_heads
from expertstream.serving.output_head import plan_lm_head
from expertstream.serving.stages import FRONT, HEAD, HEADS, OUTPUT, READ, ROUTER, STAGES, VALUES, WRITE
from expertstream.strategy import Options

NS = 1000
FAST = 9 * 10**12
MLA = {
    "kind": "mla",
    "n_heads": 4,
    "n_kv_heads": 4,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2,
    "v_head_dim": 4,
}


def chip(dies: int = 1, *, ddr: int = 10**9, d2d: int = FAST, macs: int = 1, tokens: int = 1 << 20) -> Package:
    die = DieSpec(
        clock_hz=10**9,
        macs_per_cycle=macs,
        weight_buffer_bytes=1 << 20,
        token_buffer_bytes=tokens,
        sram_bandwidth_bytes_per_s=10**15,
        control_overhead_cycles=0,
    )
    return Package(
        name="by hand",
        rows=1 if dies == 1 else 2,
        cols=max(1, dies // 2),
        die=die,
        d2d=D2DSpec(bandwidth_bytes_per_s=d2d, latency_ps=0, header_bytes=0),
        channels=tuple(ChannelSpec(dies=(d,), bandwidth_bytes_per_s=ddr, latency_ps=0) for d in range(dies)),
    )


def shape(**more: object) -> MoEModel:
    attention = {"kind": "gqa", "n_heads": 4, "n_kv_heads": 4, "head_dim": 8}
    return MoEModel.one_layer(
        **({"d_model": 32, "d_ffn": 8, "n_experts": 8, "top_k": 2, "attention": attention} | more)  # type: ignore[arg-type]
    )


def batch(new: list[int], context: list[int], dies: int = 1) -> AttentionBatch:
    n = sum(new)
    return AttentionBatch(np.array(new), np.array(context), np.arange(n) * dies // max(n, 1))


def simulated(model: MoEModel, package: Package, tokens: AttentionBatch, *, router: bool = True) -> Timeline:
    plan = plan_attention(model, package, tokens, router=router)
    return run(plan.work, network_of(package, plan), plan.dispatcher)


def loaded(timeline: Timeline) -> dict[int, int]:
    rows = timeline.kind == LOAD
    return {stage: int(timeline.bytes[rows & (timeline.tag == stage)].sum()) for stage in range(len(STAGES))}


def test_one_die_bound_by_ddr_takes_the_bytes_at_the_bandwidth() -> None:
    # q, k, v 32 x 96, output 32 x 32, cache 10 rows x 128 B, 1 new row; the last slice is computed in one cycle
    timeline = simulated(shape(), chip(ddr=10**6, macs=10**6), batch([1], [10]), router=False)
    assert loaded(timeline) == {
        FRONT: 0,
        HEADS: 3072,
        READ: 1280,
        WRITE: 128,
        VALUES: 0,
        OUTPUT: 1024,
        ROUTER: 0,
        HEAD: 0,
    }
    assert timeline.latency_ps == (5504 * 1000 + 1) * NS


def test_one_die_bound_by_compute_waits_for_the_first_slice_only() -> None:
    # slices of 32 x 12: 384 ns to load at 1 GB/s; 20 tokens x 384 MACs each to compute
    timeline = simulated(shape(), chip(), batch([20], [0]), router=False)
    projections, attention = 20 * (3072 + 1024), 4 * 16 * 20 * 21 // 2
    assert timeline.latency_ps == (384 + projections + attention) * NS


def test_four_dies_with_infinite_links_take_a_quarter_of_one() -> None:
    one = simulated(shape(), chip(ddr=10**6, macs=10**6), batch([4], [40]), router=False).latency_ps
    four = simulated(shape(), chip(4, ddr=10**6, macs=10**6), batch([4], [40], 4), router=False).latency_ps
    assert abs(4 * four - one) <= 0.001 * one


def test_slow_links_pay_for_gather_and_reduce_scatter() -> None:
    # One token on each of four dies: three steps of 64 B gather, three of 128 B reduce, at 1 byte a microsecond
    fast = simulated(shape(), chip(4, ddr=FAST, macs=10**6), batch([4], [0], 4), router=False)
    slow = simulated(shape(), chip(4, ddr=FAST, macs=10**6, d2d=10**6), batch([4], [0], 4), router=False)
    us = 1000 * NS
    assert 3 * (64 + 128) * us <= slow.latency_ps <= 3 * (64 + 128) * us + fast.latency_ps
    assert int(slow.bytes[slow.kind == SEND].sum()) == 4 * 3 * (64 + 128)


@pytest.mark.parametrize(
    "name", ["qwen3-30b-a3b", "phi-3.5-moe", "deepseek-v2-lite", "deepseek-v3", "gpt-oss-20b", "yuan2-m32"]
)
@pytest.mark.parametrize("package", ["test-chip-2x2", "3x3", "4x4"])
def test_weights_and_cache_are_loaded_once_a_pass(name: str, package: str) -> None:
    model, dies = MoEModel.preset(name), Package.preset(package)
    tokens = batch([1] * 7 + [9], [300, 0, 5, 77, 1000, 3, 12, 40], dies.n_dies)
    plan = plan_attention(model, dies, tokens)
    timeline = run(plan.work, network_of(dies, plan), plan.dispatcher)
    found, row_bytes = loaded(timeline), share_heads(model, dies).row_bytes
    plain = model.replace(**{"attention.bias": "none", "attention.qk_norm": "none", "attention.sinks": False})
    norms = (plain.attention.q_lora_rank or 0) + plain.attention.kv_lora_rank if plain.attention.kind == "mla" else 0
    norms += 5 * model.d_model // 2 if plain.attention.kind == "lfa" else 0  # and the convolutions' biases
    assert plan.passes == 1
    assert sum(found[s] for s in (FRONT, HEADS, VALUES, OUTPUT)) == plain.attention.params(model.d_model) - norms
    assert found[READ] == 1437 * row_bytes
    assert found[WRITE] == 16 * row_bytes
    assert found[ROUTER] == plain.replace(router_bias=False).router_params


def test_keys_and_values_of_a_die_without_a_channel_go_over_the_mesh_to_ddr() -> None:
    package = chip(2)
    package = package.model_copy(update={"channels": package.channels[:1]})
    timeline = simulated(shape(), package, batch([3], [2], 2))
    written = timeline.tag == WRITE
    assert timeline.bytes[written & (timeline.kind == LOAD)].tolist() == [3 * 64, 3 * 64]  # half the heads each
    sends = written & (timeline.kind == SEND)
    assert timeline.bytes[sends].tolist() == [3 * 64]
    assert (timeline.source[sends].tolist(), timeline.die[sends].tolist()) == ([1], [0])


def test_a_systolic_array_loads_the_keys_of_each_head_once() -> None:
    array = {"array": "weight-stationary", "array_rows": 4, "array_cols": 2, "macs_per_cycle": 8}
    die = chip().die.model_copy(update=array)
    nothing = np.zeros(1, dtype=np.int64)
    unit = CacheUnit(nothing, np.array([6]), kv_heads=3, row_bytes=0, key_width=8, value_width=4)
    # For each of three heads two query heads of five tokens, with keys [8, 7] and values [7, 4]: 2 x 4 and 2 x 2 tiles.
    by_hand = 3 * (8 + 4) * (10 + 2 * 4 + 2 - 2)
    assert attend_cycles(die, unit, 0, np.array([5]), np.array([7])).tolist() == [by_hand]


def test_cache_rows_of_published_models() -> None:
    two = Package.preset("test-chip-2x2")
    assert share_heads(MoEModel.preset("qwen3-30b-a3b"), two).row_bytes == 2 * 4 * 128 * 2
    assert share_heads(MoEModel.preset("deepseek-v2-lite"), two).row_bytes == (512 + 64) * 2


def macs_of(timeline: Timeline, macs_per_ns: int = 1) -> int:
    rows = timeline.kind == COMPUTE
    return int((timeline.end_ps - timeline.start_ps)[rows].sum()) // NS * macs_per_ns


@pytest.mark.parametrize("dies", [1, 2, 4, 6, 8])
def test_gqa_does_the_multiplications_of_its_formula(dies: int) -> None:
    model = shape(attention={"kind": "gqa", "n_heads": 8, "n_kv_heads": 2, "head_dim": 4})
    tokens = batch([1, 3, 2], [5, 0, 7], dies)
    package = chip(dies)
    projections = 6 * (32 * 32 + 2 * 32 * 8 + 32 * 32) + 6 * 32 * 8
    pairs = (1 * 5 + 3 * 0 + 2 * 7) + (1 + 6 + 3)
    assert plan_attention(model, package, tokens).macs == projections + 8 * 8 * pairs
    assert macs_of(simulated(model, package, tokens)) == projections + 8 * 8 * pairs


def test_mla_does_the_multiplications_of_its_cheaper_form() -> None:
    model = shape(attention=MLA)
    weights = 32 * 8 + 32 * 24 + 4 * 24 + 6 * 16 + 16 * 32
    absorbed = 4 * (8 + 6) * 9 + 4 * (8 + 6) * 1  # one new token on nine cached ones, and on itself
    assert macs_of(simulated(model, chip(), batch([1], [9]), router=False)) == weights + absorbed
    long = batch([50], [1])  # many queries on one row: expanding it is cheaper
    pairs = 4 * (6 + 4) * (50 + 50 * 51 // 2) + (1 + 50) * 6 * 4 * 8
    assert macs_of(simulated(model, chip(), long, router=False)) == 50 * weights + pairs


def test_keys_and_values_that_go_to_ddr_are_read_from_the_buffers() -> None:
    blocks = Blocks(shape(), chip(), "tp", Options())
    timing = blocks.attention(batch([1], [0]), router=False)
    weights, row = 3072 + 1024, 128
    # inputs and results of 2 bytes: 32 and 96 of q, k, v; 32 queries and head outputs; 32 and 32 of the output
    assert timing.ddr_bytes == weights + row
    assert timing.sram_read_bytes == weights + row + 2 * (32 + 32 + 32) + row
    assert timing.sram_write_bytes == weights + 2 * (96 + 32 + 32)


def test_a_router_that_fills_the_buffer_lets_keys_and_values_by() -> None:
    """They come from another die, to a channel in whose queue the router stands before them."""
    model = MoEModel.one_layer(
        d_model=8, d_ffn=4, n_experts=17, top_k=1, attention={"n_heads": 1, "n_kv_heads": 1, "head_dim": 1}
    )
    slow = {"die.weight_buffer_bytes": 128, "d2d.bandwidth_bytes_per_s": 10**9}
    package = chip(ddr=256 * 10**8).replace(cols=2, **slow)
    timeline = simulated(model, package, batch([1], [0]))
    found = loaded(timeline)
    assert [found[s] for s in (FRONT, HEADS, WRITE, OUTPUT, ROUTER)] == [16, 8, 4, 8, 17 * 8]


def test_passes_read_what_earlier_passes_wrote() -> None:
    one = simulated(shape(), chip(), batch([8], [4]))
    package = chip(tokens=2000)
    plan = plan_attention(shape(), package, batch([8], [4]))
    timeline = run(plan.work, network_of(package, plan), plan.dispatcher)
    assert plan.passes == 2
    assert loaded(timeline)[HEADS] == 2 * loaded(one)[HEADS]
    assert loaded(timeline)[READ] == (4 + 8) * 128
    assert loaded(timeline)[WRITE] == 8 * 128
    assert macs_of(timeline) == macs_of(one)


def test_the_output_head_loads_the_vocabulary_once() -> None:
    model, package = shape(vocab_size=1003), chip(4)
    plan = plan_lm_head(model, package, np.array([0, 0, 3]))
    timeline = run(plan.work, network_of(package, plan), plan.dispatcher)
    assert loaded(timeline)[HEAD] == 1003 * 32
    assert macs_of(timeline) == 3 * 1003 * 32


def test_attention_is_near_its_bound_where_ddr_is_slow() -> None:
    package = Package.preset("test-chip-2x2")
    timeline = simulated(MoEModel.preset("qwen3-30b-a3b"), package, batch([1] * 16, [500] * 16, 4))
    bound = int(timeline.bytes[timeline.kind == LOAD].sum()) * 10**12 / package.ddr_bytes_per_s
    assert bound <= timeline.latency_ps <= 1.01 * bound


def test_a_token_buffer_that_is_too_small_is_refused() -> None:
    message = (
        "the token buffer of a die is 500 B, but the attention of 4 tokens on 1 die needs at least 512 B even one "
        "token at a time; use fewer tokens per iteration or a larger token buffer"
    )
    with pytest.raises(BufferTooSmallError, match=re.escape(message)):
        plan_attention(shape(), chip(tokens=500), batch([4], [0]))


def test_batches_that_do_not_agree_are_refused() -> None:
    with pytest.raises(WorkloadError, match=re.escape("has 1 request, 1 context and 3 tokens with a home, but 2 new")):
        AttentionBatch(np.array([2]), np.array([0]), np.zeros(3, dtype=np.int64))
    with pytest.raises(WorkloadError, match="no new token or a negative context"):
        AttentionBatch(np.array([0]), np.array([0]), np.zeros(0, dtype=np.int64))
