"""The work that a run gets: chunks with their stops, gates and groups."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expertstream.engine.layout import WEIGHTS

Ints = NDArray[np.int64]

_STOP_FIELDS = ("die", "space", "compute_ps", "gate", "rank", "lifo", "arrive", "done", "hold", "tokens", "tag")
_CHUNK_FIELDS = ("bytes", "pool", "group", "channel", "gate", "flow", "n_stops", "tag")


@dataclass
class Work:
    """Collects chunks in batches of equal shape.

    A *chunk* is loaded from a DDR channel (or starts in the package) and visits its *stops* in order. A *gate* opens
    after a number of signals; a chunk, a compute or the release of buffer space can wait for it. A *group* is a set of
    chunks that is admitted together.
    """

    n_groups: int = 0
    _gates: list[Ints] = field(default_factory=list)
    n_gates: int = 0
    _chunks: list[dict[str, Ints]] = field(default_factory=list)
    _stops: list[dict[str, Ints]] = field(default_factory=list)
    n_chunks: int = 0

    def new_group(self) -> int:
        """Return the number of a new group."""
        self.n_groups += 1
        return self.n_groups - 1

    def new_gates(self, signals: ArrayLike) -> Ints:
        """Return the numbers of new gates; ``signals``: how many signals each needs to open (0: open), int [n]."""
        counts = np.atleast_1d(np.asarray(signals, dtype=np.int64))
        self._gates.append(counts)
        self.n_gates += counts.size
        return np.arange(self.n_gates - counts.size, self.n_gates, dtype=np.int64)

    def add_chunks(
        self,
        *,
        group: ArrayLike,
        bytes: ArrayLike,
        die: ArrayLike,
        pool: int = WEIGHTS,
        channel: ArrayLike = -1,
        gate: ArrayLike = -1,
        flow: bool = True,
        tag: ArrayLike = -1,
        space: ArrayLike | None = None,
        compute_ps: ArrayLike = 0,
        stop_gate: ArrayLike = -1,
        rank: ArrayLike = 0,
        lifo: ArrayLike = 0,
        arrive: ArrayLike = -1,
        done: ArrayLike = -1,
        hold: ArrayLike = -1,
        tokens: ArrayLike = 0,
        stop_tag: ArrayLike = -1,
    ) -> Ints:
        """Add n chunks that visit m stops each; returns their numbers, int64 [n].

        Args:
            group, bytes, channel, gate, tag: per chunk, broadcast to [n].
            die, space, compute_ps, stop_gate, rank, lifo, arrive, done, hold, tokens, stop_tag: per stop, broadcast to
                [n, m]; ``die`` must have the full second dimension. ``space`` defaults to ``bytes`` at every stop.
            pool: ``WEIGHTS`` or ``TOKENS``, the buffer that the chunks take.
            flow: a chunk is sent on when its compute starts (True) or ends (False).
            rank, lifo: pick order at a die: lower ranks first; within a rank the latest (lifo) or the earliest arrival.
            tag, stop_tag: the caller's own labels, kept with the timeline.
        """
        dies = np.atleast_2d(np.asarray(die, dtype=np.int64))
        per_chunk = np.broadcast_arrays(
            *(np.asarray(a, dtype=np.int64).reshape(-1) for a in (bytes, group, channel, gate, tag)), dies[:, 0]
        )
        n, m = per_chunk[0].size, dies.shape[1]
        if n == 0:
            return np.empty(0, dtype=np.int64)
        one = np.ones(n, dtype=np.int64)
        self._chunks.append(
            dict(
                zip(
                    _CHUNK_FIELDS,
                    (
                        per_chunk[0],
                        one * pool,
                        per_chunk[1],
                        per_chunk[2],
                        per_chunk[3],
                        one * int(flow),
                        one * m,
                        per_chunk[4],
                    ),
                    strict=True,
                )
            )
        )
        if space is None:
            space = per_chunk[0][:, None]
        values = (dies, space, compute_ps, stop_gate, rank, lifo, arrive, done, hold, tokens, stop_tag)
        self._stops.append(
            {
                name: np.broadcast_to(np.asarray(value, dtype=np.int64), (n, m)).reshape(-1)
                for name, value in zip(_STOP_FIELDS, values, strict=True)
            }
        )
        first = self.n_chunks
        self.n_chunks += n
        return np.arange(first, self.n_chunks, dtype=np.int64)

    def chunk_arrays(self) -> dict[str, Ints]:
        """All chunks, one int64 [chunks] array a field: bytes, pool, group, channel, gate, flow, n_stops, tag."""
        return {name: _joined([batch[name] for batch in self._chunks]) for name in _CHUNK_FIELDS}

    def stop_arrays(self) -> dict[str, Ints]:
        """All stops, one int64 [stops] array a field, in chunk order."""
        return {name: _joined([batch[name] for batch in self._stops]) for name in _STOP_FIELDS}

    def gate_array(self) -> Ints:
        """Signals that each gate needs, int64 [gates]."""
        return _joined(self._gates)


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
