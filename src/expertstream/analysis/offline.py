"""A lower bound on what any schedule of a layer can reach, from a linear program solved with HiGHS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from expertstream.errors import WorkloadError
from expertstream.package.timing import compute_ps
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]
TOLERANCE = 1e-6  # by which the solver may be off


class _Program:
    """Rows ``coefficients . variables <= limit``, collected as (row, column, value)."""

    def __init__(self) -> None:
        self.parts: list[tuple[Ints, Ints, NDArray[np.float64]]] = []
        self.limits: list[NDArray[np.float64]] = []
        self.n_rows = 0

    def rows(self, n: int, limit: float | NDArray[np.float64] = 0.0) -> Ints:
        """Numbers of n new rows, int64 [n]."""
        self.limits.append(np.broadcast_to(np.asarray(limit, dtype=np.float64), n))
        self.n_rows += n
        return np.arange(self.n_rows - n, self.n_rows, dtype=np.int64)

    def add(self, row: Ints, column: Ints, value: float | NDArray[np.float64]) -> None:
        """Add ``value`` at (row, column), all broadcast."""
        r, c, v = np.broadcast_arrays(row, column, np.asarray(value, dtype=np.float64))
        self.parts.append((r.reshape(-1), c.reshape(-1), v.reshape(-1)))


def offline_bound_ps(workload: LayerWorkload) -> int:
    """Time that no schedule of the layer is faster than, even one that knows everything beforehand; ps.

    The program chooses how much of each expert each channel loads and each die computes, so that the busiest channel,
    MAC array, or links into or out of a die need the least time:

    - a die that does a share x of an expert's work needs at least a share x of its columns and of its tokens: columns
      from a channel of its own and tokens that live there need not be sent, the others enter over its links;
    - what its own channel loads beyond x must leave it;
    - each token from elsewhere enters at least once, and at least one partial sum of it leaves.

    Order, release times and weight buffers would add nothing, and are left out: were the run cut into slots, however
    short, the same shares of all experts in every slot would keep to all of them. What does not flow is added: before
    the first column is there no array or link works, and the last column is computed after it has come.

    Left out as well: ways through the mesh, room for tokens (and the passes that follow from it), the size of
    micro-slices, and what analysis.Bounds leaves out.

    Raises:
        WorkloadError: the solver finds no solution.
    """
    workload = workload.on_what_is_left()
    package = workload.package
    load = workload.in_passes(1).load[0]
    experts = np.flatnonzero(load.sum(axis=1))
    n_e, n_d, n_c = experts.size, package.n_dies, len(package.channels)
    if n_e == 0:
        return 0
    size = workload.expert_bytes[experts].astype(np.float64)
    here = load[experts].astype(np.float64)
    tokens = here.sum(axis=1)
    macs = tokens * workload.columns[experts] * 3 * workload.model.d_model
    # Scaled so that all numbers are near 1: time in units of the simple bound.
    rate = [package.channel_bytes_per_s(channel) for channel in range(n_c)]
    speed = np.array(rate, dtype=np.float64)
    unit = max(size.sum() / package.ddr_bytes_per_s, macs.sum() / package.macs_per_s)  # s
    at = 1 + np.arange(n_e * n_c).reshape(n_e, n_c)  # share that a channel loads; variable 0 is the time
    work = 1 + at.size + np.arange(n_e * n_d).reshape(n_e, n_d)  # share that a die computes
    into = work.max() + 1 + np.arange(n_e * n_d).reshape(n_e, n_d)  # share of the columns that enters a die
    out = into.max() + 1 + np.arange(n_e * n_d).reshape(n_e, n_d)  # share that leaves it
    come = out.max() + 1 + np.arange(n_d)  # tokens that enter a die, per token of the iteration
    program = _Program()
    part = (size / size.sum())[:, None]

    row = program.rows(n_c)
    program.add(row, at, part)
    program.add(row, np.array(0), -speed * unit / size.sum())
    row = program.rows(n_d)
    program.add(row, work, (macs / macs.sum())[:, None])
    program.add(row, np.array(0), -package.macs_per_s / n_d * unit / macs.sum())
    own = np.array([[die in c.dies for c in package.channels] for die in range(n_d)])
    alone = np.array([[c.dies == (die,) for c in package.channels] for die in range(n_d)])
    enters, leaves = program.rows(n_e * n_d).reshape(n_e, n_d), program.rows(n_e * n_d).reshape(n_e, n_d)
    program.add(enters, work, 1.0)
    program.add(enters, into, -1.0)
    program.add(leaves, work, -1.0)
    program.add(leaves, out, -1.0)
    for die, channel in zip(*np.nonzero(own), strict=True):
        program.add(enters[:, die], at[:, channel], -1.0)
    for die, channel in zip(*np.nonzero(alone), strict=True):
        program.add(leaves[:, die], at[:, channel], 1.0)
    moved = program.rows(n_e * n_d, (here / workload.n_tokens).reshape(-1)).reshape(n_e, n_d)
    program.add(moved, work, (tokens / workload.n_tokens)[:, None])
    program.add(moved, come[None, :], -1.0)
    link = np.array([_rates(workload, 1), _rates(workload, 0)]) * unit / size.sum()
    crossing = program.rows(2 * n_d).reshape(2, n_d)
    of_tokens = workload.n_tokens / size.sum()
    for side, share, token in ((0, into, workload.activation_bytes), (1, out, workload.partial_sum_bytes)):
        program.add(crossing[side], share, part)
        program.add(crossing[side], come, token * of_tokens)
        program.add(crossing[side], np.array(0), -link[side])

    n = int(come.max()) + 1
    once = np.concatenate((np.repeat(np.arange(n_e), n_c), np.repeat(n_e + np.arange(n_e), n_d)))
    shares = np.concatenate((at.reshape(-1), work.reshape(-1)))
    equal: Any = coo_matrix((np.ones(once.size), (once, shares)), shape=(2 * n_e, n))
    rows, columns, values = (np.concatenate([part[i] for part in program.parts]) for i in (0, 1, 2))
    above: Any = coo_matrix((values, (rows, columns)), shape=(program.n_rows, n))
    cost = np.zeros(n)
    cost[0] = 1
    found = linprog(
        cost, A_ub=above, b_ub=np.concatenate(program.limits), A_eq=equal, b_eq=np.ones(2 * n_e),
        method="highs",
    )  # fmt: skip
    if not found.success:
        raise WorkloadError(f"the offline bound's linear program was not solved: {found.message}")
    loads = -(-int(workload.expert_bytes[experts].sum()) * 10**12 // package.ddr_bytes_per_s)
    computes = -(-workload.macs * 10**12 // package.macs_per_s)
    first = workload.column_bytes * 10**12 // max(rate)
    last = int(compute_ps(package.die, 1, workload.model.d_model, 1, workload.model.weight_bits))
    apart = min(c.latency_ps for c in package.channels) + min(first, last)
    return max(int(found.fun * unit * 1e12 * (1 - TOLERANCE)), loads, computes) + apart


def _rates(workload: LayerWorkload, end: int) -> NDArray[np.float64]:
    """Bytes per second of all links that start (end 0) or end (end 1) at each die, float64 [dies]."""
    topology = workload.topology
    arrays = topology.network_arrays()
    links = topology.links
    pair = links[:, 0] * topology.n_dies + links[:, 1]
    rates = np.bincount(links[:, end], arrays["path_bandwidth"][pair].astype(np.float64), topology.n_dies)
    return rates.astype(np.float64)
