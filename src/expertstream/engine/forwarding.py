"""Store-and-forward: a chunk that goes to a die further off stops at every die on its way.

Of each buffer a part is kept for what passes: R bytes, the most stops on the way from one stop to the next times the
largest chunk that makes any (``transit_bytes``). Work that is planned for buffers of C bytes runs with C + R. A
transfer starts when there is room for the chunk where it goes, within the C bytes there, and takes it at once, as
cut-through does; and when there is room on the first die of its way, within the R bytes there.

No deadlock. Entry into what is kept follows the forward-count rule of kernel.py, for the stops up to the end of the
way; R is what the rule needs at most, and a chunk on its way waits for no gate and no compute, and at its last stop on
the way for no room: so whatever is on its way arrives, by the proof there. Between stops of the work itself a transfer
then differs from cut-through in its time alone: chunks take and give back the C bytes in the same way, and work that
can be finished with cut-through, however long its transfers take, can be finished here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.network import Network
from expertstream.engine.work import Work
from expertstream.errors import BufferTooSmallError

Ints = NDArray[np.int64]
_NOTHING = {"compute_ps": 0, "gate": -1, "rank": 0, "lifo": 0, "arrive": -1, "done": -1, "hold": -1, "tokens": 0}


def stop_on_the_way(
    chunks: dict[str, Ints], stops: dict[str, Ints], network: Network
) -> tuple[dict[str, Ints], dict[str, Ints]]:
    """Chunks and stops (``Work.chunk_arrays``, ``Work.stop_arrays``) with a stop at every die of every path.

    Such a stop takes the chunk's bytes of what is kept of the chunk's own kind of buffer, does nothing, and has the tag
    -1. A further field of the stops, ``passing``, is the number of such stops from it to the end of the way, itself
    included; 0 for all others. Where links cut through, no stop is added.

    Args:
        stops: with ``need``, the free bytes that the chunk must find at the stop, int64 [stops].

    Raises:
        BufferTooSmallError: less is kept than ``transit_bytes``.
    """
    if network.transit_bytes is None:
        return chunks, {**stops, "passing": np.zeros_like(stops["die"])}
    slot = _slots(chunks, stops, network)
    if (slot.prod(axis=1) > network.transit_bytes).any():
        raise BufferTooSmallError(
            f"store-and-forward keeps {network.transit_bytes.tolist()} bytes of each weight and token buffer for what "
            f"passes, but {slot.prod(axis=1).tolist()} are needed; keep at least that"
        )
    pair = _pairs(chunks, stops, network)
    extra = _between(pair, network)
    source = np.repeat(np.arange(extra.size), extra + 1)
    nth = np.arange(source.size) - np.repeat(np.cumsum(extra + 1) - (extra + 1), extra + 1)
    added = nth > 0
    link = network.path_links[network.path_ptr[pair[source[added]]] + nth[added] - 1]
    chunk = np.repeat(np.arange(chunks["bytes"].size), chunks["n_stops"])[source]
    out = {name: values[source] for name, values in stops.items()}
    for name, nothing in {**_NOTHING, "tag": -1}.items():
        out[name][added] = nothing
    out["die"][added] = network.links[link, 1]
    out["space"][added] = chunks["bytes"][chunk[added]]
    out["passing"] = np.where(added, extra[source] + 1 - nth, 0)
    out["need"][added] = (out["space"] + (out["passing"] - 1) * slot[chunks["pool"][chunk], 1])[added]
    per_chunk = np.bincount(chunk[added], minlength=chunks["bytes"].size).astype(np.int64)
    return {**chunks, "n_stops": chunks["n_stops"] + per_chunk}, out


def transit_bytes(work: Work, network: Network) -> Ints:
    """R of the module's comment for the weight and the token buffers, bytes, int64 [2]."""
    slot = _slots(work.chunk_arrays(), work.stop_arrays(), network)
    return slot[:, 0] * slot[:, 1]


def _slots(chunks: dict[str, Ints], stops: dict[str, Ints], network: Network) -> Ints:
    """Most stops on one way, and bytes of the largest chunk that makes any; of weights and of tokens, int64 [2, 2]."""
    extra = _between(_pairs(chunks, stops, network), network)
    chunk = np.repeat(np.arange(chunks["bytes"].size), chunks["n_stops"])
    out = np.zeros((2, 2), dtype=np.int64)
    for pool in (0, 1):
        mine = (extra > 0) & (chunks["pool"][chunk] == pool)
        if mine.any():
            out[pool] = extra[mine].max(), chunks["bytes"][chunk[mine]].max()
    return out


def _pairs(chunks: dict[str, Ints], stops: dict[str, Ints], network: Network) -> Ints:
    """Path from each stop to the next; from a die to itself after a chunk's last stop. int64 [stops]."""
    here = stops["die"]
    there = np.append(here[1:], here[-1:])
    last = np.cumsum(chunks["n_stops"]) - 1
    there[last] = here[last]
    return np.asarray(here * network.n_dies + there)


def _between(pair: Ints, network: Network) -> Ints:
    """Dies on each path between its two ends, int64 [stops]."""
    dies: Ints = np.maximum(np.diff(network.path_ptr)[pair] - 1, 0)
    return dies
