"""Check the numbers that work refers to: compiled code would read and write whatever a wrong one points at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.network import Network
from expertstream.engine.work import Work
from expertstream.errors import WorkloadError

Ints = NDArray[np.int64]
MOST = 2**62  # sums of a few stay within int64
RANKS = 2**14


def check_work(work: Work, network: Network, chunks: dict[str, Ints], stops: dict[str, Ints]) -> None:
    """Check every number of the chunks and stops.

    Raises:
        WorkloadError: one is out of range, a chunk must go where no path leads, or begins where its DDR channel does
            not load; names the chunk.
    """
    gates, dies = work.n_gates, network.n_dies
    chunk_limits = {
        "n_stops": (1, MOST),
        "bytes": (0, MOST),
        "spare": (0, MOST),
        "pool": (0, 1),
        "group": (0, work.n_groups - 1),
        "channel": (-1, network.n_channels - 1),
        "gate": (-1, gates - 1),
    }
    stop_limits = {
        "die": (0, dies - 1),
        "space": (0, MOST),
        "compute_ps": (0, MOST),
        "tokens": (0, MOST),
        "rank": (0, RANKS - 1),
    } | dict.fromkeys(("gate", "arrive", "done", "hold"), (-1, gates - 1))
    for name, (low, high) in chunk_limits.items():
        _check(chunks[name], low, high, f"{name} of chunk", None)
    chunk_of = np.repeat(np.arange(chunks["bytes"].size), chunks["n_stops"])
    for name, (low, high) in stop_limits.items():
        _check(stops[name], low, high, f"{name} of a stop of chunk", chunk_of)
    if network.channel_dies is not None and chunks["bytes"].size:
        channel, entry = chunks["channel"], stops["die"][np.cumsum(chunks["n_stops"]) - chunks["n_stops"]]
        bad = np.flatnonzero((channel >= 0) & ~network.channel_dies[channel, entry])
        if bad.size:
            at = int(bad[0])
            allowed = ", ".join(map(str, np.flatnonzero(network.channel_dies[channel[at]])))
            raise WorkloadError(
                f"chunk {at} begins at die {entry[at]}, but its DDR channel, {channel[at]}, loads into {allowed}; let "
                "it begin there"
            )
    here, there = stops["die"][:-1], stops["die"][1:]
    pair = here * dies + there
    cut_off = (here != there) & (network.path_ptr[pair] == network.path_ptr[pair + 1])
    bad = np.flatnonzero(cut_off & (chunk_of[:-1] == chunk_of[1:]))
    if bad.size:
        at = int(bad[0])
        raise WorkloadError(
            f"chunk {chunk_of[at]} goes from die {here[at]} to die {there[at]}, but no links lead there"
        )


def _check(values: Ints, low: int, high: int, what: str, chunk_of: Ints | None) -> None:
    if values.size and (values.min() < low or values.max() > high):
        at = int(np.flatnonzero((values < low) | (values > high))[0])
        chunk = at if chunk_of is None else int(chunk_of[at])
        allowed = f"at least {low}" if high == MOST else f"from {low} to {high}"
        raise WorkloadError(f"{what} {chunk} is {values[at]}; it must be {allowed}")
