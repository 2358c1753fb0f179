"""Buffer bytes over time, from the stays of the chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.timeline import Timeline

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Buffers:
    """Bytes held in the buffers of a run. Pool 0 is the weight buffer, 1 the token buffer.

    Attributes:
        peak_bytes: int64 [dies, 2].
        mean_bytes: float64 [dies, 2], averaged over the latency (without a head start); 0 for a run that takes no time.
        package_peak_bytes: int64 [2], largest sum over the dies at any one time.
        package_peak_both_bytes: the same of weights and tokens together.
    """

    peak_bytes: Ints
    mean_bytes: NDArray[np.float64]
    package_peak_bytes: Ints
    package_peak_both_bytes: int

    @property
    def package_mean_bytes(self) -> NDArray[np.float64]:
        """Sum of the means over the dies, float64 [2]."""
        return np.asarray(self.mean_bytes.sum(axis=0))


def occupancy(timeline: Timeline, die: int, pool: int) -> tuple[Ints, Ints]:
    """Bytes held in one buffer as a step function.

    Args:
        pool: 0 weight buffer, 1 token buffer.

    Returns:
        times_ps, bytes: int64 [n] each, n >= 1, times strictly ascending from 0; ``bytes[i]`` are held from
        ``times_ps[i]`` until the next time, the last (0) for ever.

    Raises:
        IndexError: there is no such die or pool.
    """
    if not 0 <= die < timeline.network.n_dies:
        raise IndexError(f"die is {die}; it must be from 0 to {timeline.network.n_dies - 1}")
    if pool not in (0, 1):
        raise IndexError(f"pool is {pool}; it must be 0 (weights) or 1 (tokens)")
    mine = (timeline.hold_die == die) & (timeline.hold_pool == pool)
    start, end, held = timeline.hold_from_ps[mine], timeline.hold_to_ps[mine], timeline.hold_bytes[mine]
    times = np.concatenate((np.zeros(1, dtype=np.int64), start, end))
    change = np.concatenate((np.zeros(1, dtype=np.int64), held, -held))
    order = np.argsort(times)
    times, level = times[order], np.cumsum(change[order])
    last = _last_of_run(times)
    return times[last], level[last]


def measure_buffers(timeline: Timeline) -> Buffers:
    """Peaks and means of all buffers.

    Space given back at an instant is free for what is taken at that instant, and a stay of no length counts for
    nothing: only the level after all changes of an instant is looked at.
    """
    n_dies = timeline.network.n_dies
    pools = 2 * timeline.hold_die + timeline.hold_pool
    held = timeline.hold_bytes
    times = np.concatenate((timeline.hold_from_ps, timeline.hold_to_ps))
    order = np.argsort(times)
    times = times[order]
    change = np.concatenate((held, -held))[order]
    pool = np.concatenate((pools, pools))[order]
    in_pool = np.argsort(pool.astype(np.uint16), kind="stable")  # 16 bits: radix sort
    peak = np.zeros(2 * n_dies, dtype=np.int64)
    # Each pool's changes add up to 0, so that one running sum serves them all in turn.
    level = np.cumsum(change[in_pool])
    last = _last_of_run(times[in_pool]) | _last_of_run(pool[in_pool])
    np.maximum.at(peak, pool[in_pool][last], level[last])
    last = _last_of_run(times)
    is_tokens = (pool & 1).astype(bool)
    by_pool = [_peak(np.where(is_tokens == kind, change, 0), last) for kind in (False, True)]
    until, since = (np.maximum(t, timeline.origin_ps) for t in (timeline.hold_to_ps, timeline.hold_from_ps))
    stay = (until - since).astype(np.float64)
    mean = np.bincount(pools, weights=held * stay, minlength=2 * n_dies) / max(timeline.latency_ps, 1)
    return Buffers(
        peak_bytes=peak.reshape(n_dies, 2),
        mean_bytes=mean.reshape(n_dies, 2),
        package_peak_bytes=np.array(by_pool, dtype=np.int64),
        package_peak_both_bytes=_peak(change, last),
    )


def _last_of_run(values: Ints) -> NDArray[np.bool_]:
    """Where the next value differs."""
    last = np.ones(values.size, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=last[:-1])
    return last


def _peak(change: Ints, last: NDArray[np.bool_]) -> int:
    return int(np.cumsum(change)[last].max(initial=0))
