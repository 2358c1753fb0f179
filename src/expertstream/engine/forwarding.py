"""Store-and-forward: a chunk that goes to a die further off stops at every die on its way.

Room for what passes. Work that is planned for buffers of C bytes runs with C + R, where R is the most stops on the way
of a chunk times the largest chunk that makes or shares such stops (``transit_bytes``). A chunk of one buffered stop
must leave R free, so that what stays in a buffer until a gate opens never takes the room of what passes. Stops on the
way obey the forward-count rule of kernel.py like all others, and ask for at most R more than without them: wherever a
chunk could enter a buffer of C bytes, it can enter one of C + R that nothing passes through.

This is no proof: a chunk of several stops that waits for a gate at its last one can still fill R. Of 5,000 random cases
at the smallest buffers one stopped for that. The run is then planned again with twice the reserve, until it can finish
or nothing is left for the rest, which is an error (``simulate``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.network import Network
from expertstream.engine.work import Work

Ints = NDArray[np.int64]
_NOTHING = {"compute_ps": 0, "gate": -1, "rank": 0, "lifo": 0, "arrive": -1, "done": -1, "hold": -1, "tokens": 0}


def stop_on_the_way(
    chunks: dict[str, Ints], stops: dict[str, Ints], network: Network
) -> tuple[dict[str, Ints], dict[str, Ints]]:
    """Chunks and stops (``Work.chunk_arrays``, ``Work.stop_arrays``) with a stop at every die of every path.

    Such a stop takes the chunk's bytes of the chunk's own kind of buffer, does nothing, and has the tag -1. A further
    field of the stops, ``passing``, is 1 for it and 0 for the others.
    """
    _, source, nth = _on_the_way(chunks, stops, network)
    passing = nth > 0
    pair = _pairs(chunks, stops, network)[source]
    link = network.path_links[network.path_ptr[pair[passing]] + nth[passing] - 1]
    chunk = np.repeat(np.arange(chunks["bytes"].size), chunks["n_stops"])[source]
    out = {name: values[source] for name, values in stops.items()} | {"passing": passing.astype(np.int64)}
    for name, nothing in {**_NOTHING, "tag": -1}.items():
        out[name][passing] = nothing
    out["die"][passing] = network.links[link, 1]
    out["space"][passing] = chunks["bytes"][chunk[passing]]
    per_chunk = np.bincount(chunk[passing], minlength=chunks["bytes"].size).astype(np.int64)
    return {**chunks, "n_stops": chunks["n_stops"] + per_chunk}, out


def transit_bytes(work: Work, network: Network) -> Ints:
    """R of the module's comment for the weight and the token buffers, bytes, int64 [2]."""
    chunks, stops = work.chunk_arrays(), work.stop_arrays()
    extra, _, _ = _on_the_way(chunks, stops, network)
    chunk = np.repeat(np.arange(chunks["bytes"].size), chunks["n_stops"])
    on_the_way = np.bincount(chunk, weights=extra, minlength=chunks["bytes"].size).astype(np.int64)
    buffered = np.bincount(chunk, weights=stops["space"] > 0, minlength=chunks["bytes"].size)
    largest = np.zeros(chunks["bytes"].size, dtype=np.int64)
    np.maximum.at(largest, chunk, stops["space"])
    largest = np.maximum(largest, np.where(on_the_way > 0, chunks["bytes"], 0))
    shares = (on_the_way > 0) | (buffered > 1)
    out = np.zeros(2, dtype=np.int64)
    for pool in (0, 1):
        mine = shares & (chunks["pool"] == pool)
        if (on_the_way[mine] > 0).any():
            out[pool] = on_the_way[mine].max() * largest[mine].max()
    return out


def _pairs(chunks: dict[str, Ints], stops: dict[str, Ints], network: Network) -> Ints:
    """Path from each stop to the next; from a die to itself after a chunk's last stop. int64 [stops]."""
    here = stops["die"]
    there = np.append(here[1:], here[-1:])
    last = np.cumsum(chunks["n_stops"]) - 1
    there[last] = here[last]
    return np.asarray(here * network.n_dies + there)


def _on_the_way(chunks: dict[str, Ints], stops: dict[str, Ints], network: Network) -> tuple[Ints, Ints, Ints]:
    """Stops to add after each stop; of all stops then the stop they come from, and their place after it."""
    hops = np.diff(network.path_ptr)[_pairs(chunks, stops, network)]
    extra = np.maximum(hops - 1, 0).astype(np.int64)
    source = np.repeat(np.arange(extra.size), extra + 1)
    nth = np.arange(source.size) - np.repeat(np.cumsum(extra + 1) - (extra + 1), extra + 1)
    return extra, source, nth
