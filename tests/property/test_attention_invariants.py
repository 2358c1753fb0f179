"""The attention block over random models, packages and batches."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from expertstream.analysis import occupancy
from expertstream.engine.layout import COMPUTE, LOAD
from expertstream.engine.run import run
from expertstream.errors import BufferTooSmallError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.planning import network_of
from expertstream.serving.attention import AttentionBatch, plan_attention
from expertstream.serving.heads import share_heads
from expertstream.serving.stages import HEADS, READ, WRITE
from tests.property.cases import packages


@st.composite
def attention_models(draw: st.DrawFn) -> MoEModel:
    kv_heads = draw(st.integers(1, 5))
    heads = kv_heads * draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["gqa", "lfa", "mla"]))
    spec: dict[str, object] = {
        "kind": kind,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "head_dim": draw(st.integers(1, 9)),
    }
    if kind == "mla":
        spec |= {
            "n_kv_heads": heads,
            "kv_lora_rank": draw(st.integers(1, 9)),
            "qk_nope_head_dim": draw(st.integers(1, 6)),
        }
        spec |= {"qk_rope_head_dim": draw(st.integers(0, 3)), "v_head_dim": draw(st.integers(1, 6))}
        spec |= {"q_lora_rank": draw(st.none() | st.integers(1, 8))}
    return MoEModel.one_layer(
        d_model=draw(st.sampled_from([8, 15, 24])), d_ffn=4, n_experts=draw(st.integers(1, 20)), top_k=1, attention=spec
    )


@st.composite
def batches(draw: st.DrawFn, dies: int) -> AttentionBatch:
    new = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    context = draw(st.lists(st.sampled_from([0, 1, 7, 60]), min_size=len(new), max_size=len(new)))
    home = draw(st.lists(st.integers(0, dies - 1), min_size=sum(new), max_size=sum(new)))
    return AttentionBatch(np.array(new), np.array(context), np.array(home, dtype=np.int64))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(attention_models(), packages(), st.data(), st.booleans())
def test_attention_never_deadlocks_and_conserves_bytes_and_buffers(
    model: MoEModel, package: Package, data: st.DataObject, router: bool
) -> None:
    batch = data.draw(batches(package.n_dies))
    try:
        plan = plan_attention(model, package, batch, router=router)
        timeline = run(plan.work, network_of(package, plan), plan.dispatcher)
    except BufferTooSmallError:
        assume(False)
        raise
    shares = share_heads(model, package)
    loads, tag = timeline.kind == LOAD, timeline.tag
    assert timeline.bytes[loads & (tag == WRITE)].sum() == batch.n_tokens * shares.row_bytes
    heads = sum(rows * int(columns.sum()) for rows, columns in shares.own)
    assert timeline.bytes[loads & (tag == HEADS)].sum() == plan.passes * heads
    read = timeline.bytes[loads & (tag == READ)].sum()
    assert read >= batch.context.sum() * shares.row_bytes
    assert plan.passes > 1 or read == batch.context.sum() * shares.row_bytes
    for die in range(package.n_dies):
        for pool in (0, 1):
            _, level = occupancy(timeline, die, pool)
            assert level.max() <= plan.buffer_bytes[die, pool]
            assert level[-1] == 0
    busy = (timeline.end_ps - timeline.start_ps)[timeline.kind == COMPUTE].sum()
    assert timeline.latency_ps * package.n_dies >= busy
    assert timeline.latency_ps * package.ddr_bytes_per_s >= timeline.bytes[loads].sum() * 10**12
