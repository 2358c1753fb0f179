"""What a run did that costs energy, counted from its timeline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.engine.timeline import Timeline
from expertstream.strategy.plan import Plan
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Activity:
    """What each row of a timeline did, int64 [rows].

    Attributes:
        macs: multiply-accumulates of a compute.
        sram_read_bytes, sram_write_bytes: at the weight and token buffers.
        d2d_bytes: bytes on wires: (payload + header) times hops. ddr_bytes: bytes loaded.
    """

    macs: Ints
    sram_read_bytes: Ints
    sram_write_bytes: Ints
    d2d_bytes: Ints
    ddr_bytes: Ints


def count_activity(workload: LayerWorkload, plan: Plan, timeline: Timeline) -> Activity:
    """Count what each row of a timeline did.

    A compute of n tokens with c columns of an expert makes 3 d_model c n MACs; it reads the columns' weights and the
    tokens' activations and accumulators once, writes the accumulators, and writes and reads c intermediate values per
    token: within a compute the array reuses what it has read. A load writes what it brings, a send is read at its
    source and written at its destination (dies on the way pass it through).
    """
    kind, moved, network = timeline.kind, timeline.bytes, timeline.network
    compute = (kind == COMPUTE) & (timeline.tag >= 0)
    load, send = kind == LOAD, kind == SEND
    slices = plan.slices if plan.slices.size else np.zeros((1, 3), dtype=np.int64)
    tag = np.where(compute, timeline.tag, 0)
    columns = np.where(compute, (slices[:, 2] - slices[:, 1])[tag], 0)
    tokens = np.where(compute, timeline.tokens, 0)
    model = workload.model
    between = -(-columns * tokens * model.activation_bits // 8)
    sums = tokens * workload.partial_sum_bytes
    source = np.where(send, timeline.source, 0)
    hops = np.diff(network.path_ptr)[source * network.n_dies + np.where(send, timeline.die, 0)]
    sent = np.where(send, moved, 0)
    return Activity(
        macs=3 * model.d_model * columns * tokens,
        sram_read_bytes=columns * workload.column_bytes + tokens * workload.activation_bytes + between + sums + sent,
        sram_write_bytes=between + sums + sent + np.where(load, moved, 0),
        d2d_bytes=np.where(send, (moved + network.header_bytes) * hops, 0),
        ddr_bytes=np.where(load, moved, 0),
    )
