"""The work that a run gets: chunks with their stops, gates and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expertstream.engine.layout import WEIGHTS

Ints = NDArray[np.int64]

_STOP_FIELDS = ("die", "space", "compute_ps", "gate", "rank", "lifo", "arrive", "done", "hold", "tokens", "tag")
_CHUNK_FIELDS = ("bytes", "pool", "group", "channel", "gate", "flow", "n_stops", "tag", "spare")


@dataclass
class Work:
    """Collects chunks in batches of equal shape.

    A *chunk* is loaded from a DDR channel (or starts in the package) and visits its *stops* in order. A *gate* opens
    after a number of signals; a chunk, a compute or the release of buffer space can wait for it. A *group* is a set of
    chunks that is admitted together.

    Attributes:
        origin_ps: the time from which the latency counts; what is done before is a head start.
        not_before_ps: groups that start no earlier than a time.
        parts: groups that were cut out of another one, under whose number they appear in the timeline, or -1: they need
            not be admitted at all. The ends of their loads are decision points.
        undecided: groups whose start is no decision, such as that of tokens which stay where they are.
    """

    n_groups: int = 0
    _gates: list[Ints] = field(default_factory=list)
    n_gates: int = 0
    _chunks: list[dict[str, Ints]] = field(default_factory=list)
    _stops: list[dict[str, Ints]] = field(default_factory=list)
    n_chunks: int = 0
    _alternatives: list[tuple[Ints, Ints]] = field(default_factory=list)
    origin_ps: int = 0
    not_before_ps: dict[int, int] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)
    undecided: set[int] = field(default_factory=set)

    def new_group(self, *, decided: bool = True) -> int:
        """Return the number of a new group; ``decided``: its start is a decision, which may take time."""
        self.n_groups += 1
        if not decided:
            self.undecided.add(self.n_groups - 1)
        return self.n_groups - 1

    @property
    def optional(self) -> list[int]:
        """Groups that need not be admitted at all."""
        return [group for group, whole in self.parts.items() if whole < 0]

    def with_fields(self, chunks: Mapping[str, Ints], stops: Mapping[str, Ints]) -> Work:
        """A copy with some fields of all chunks (int64 [chunks]) and stops (int64 [stops]) replaced."""
        old = self.chunk_arrays()
        fields = {**{name: old[name] for name in _CHUNK_FIELDS}, **chunks}
        return replace(
            self,
            _gates=[self.gate_array()],
            _chunks=[fields] if self.n_chunks else [],
            _stops=[{**self.stop_arrays(), **stops}] if self.n_chunks else [],
            _alternatives=list(self._alternatives),
            not_before_ps=dict(self.not_before_ps),
            parts=dict(self.parts),
            undecided=set(self.undecided),
        )

    def new_gates(self, signals: ArrayLike) -> Ints:
        """Return the numbers of new gates; ``signals``: how many signals each needs to open (0: open), int [n]."""
        counts = np.array(signals, dtype=np.int64, ndmin=1)
        self._gates.append(counts)
        self.n_gates += counts.size
        return np.arange(self.n_gates - counts.size, self.n_gates, dtype=np.int64)

    def add_to_gate(self, gate: int, signals: int) -> None:
        """Let a gate need so many signals more."""
        for counts in self._gates:
            if gate < counts.size:
                counts[gate] += signals
                return
            gate -= counts.size

    def set_gate(self, gate: int, signals: int) -> None:
        """Change how many signals a gate needs, once the number is known."""
        for counts in self._gates:
            if gate < counts.size:
                counts[gate] = signals
                return
            gate -= counts.size

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
        spare: ArrayLike = 0,
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
            group, bytes, channel, gate, tag, spare: per chunk, broadcast to [n].
            die, space, compute_ps, stop_gate, rank, lifo, arrive, done, hold, tokens, stop_tag: per stop, broadcast to
                [n, m]; ``die`` must have the full second dimension. ``space`` defaults to ``bytes`` at every stop.
            pool: ``WEIGHTS`` or ``TOKENS``, the buffer that the chunks take.
            spare: bytes that must stay free in a buffer when a chunk has entered it: for others, that go on without a
                gate, so that they never wait for chunks that are held at one.
            flow: a chunk is sent on when its compute starts (True) or ends (False).
            rank, lifo: pick order at a die: lower ranks first; within a rank the latest (lifo) or the earliest arrival.
            tag, stop_tag: the caller's own labels, kept with the timeline.
        """
        dies = np.atleast_2d(np.asarray(die, dtype=np.int64))
        n, m = dies.shape
        if n == 0:
            return np.empty(0, dtype=np.int64)
        size = _filled(bytes, (n,))
        space = size[:, None] if space is None else space
        values = (dies, space, compute_ps, stop_gate, rank, lifo, arrive, done, hold, tokens, stop_tag)
        stops = {name: _filled(value, (n, m)).reshape(-1) for name, value in zip(_STOP_FIELDS, values, strict=True)}
        chunks = {"bytes": size, "group": group, "channel": channel, "gate": gate, "tag": tag, "spare": spare}
        return self.add_ragged(np.full(n, m), {**chunks, "pool": pool, "flow": int(flow)}, stops)

    def add_ragged(self, n_stops: ArrayLike, chunks: Mapping[str, ArrayLike], stops: Mapping[str, ArrayLike]) -> Ints:
        """Add chunks with different numbers of stops, from flat arrays; returns their numbers, int64 [n].

        Args:
            n_stops: stops of each chunk, int [n].
            chunks: per chunk, broadcast to [n]: bytes and group are required; pool, channel, gate, flow, tag, spare.
            stops: per stop in chunk order, broadcast to [n_stops.sum()]: die is required; the rest as ``add_chunks``.
        """
        counts = np.asarray(n_stops, dtype=np.int64)
        n, m = counts.size, int(counts.sum())
        defaults: dict[str, ArrayLike] = {"pool": WEIGHTS, "channel": -1, "gate": -1, "flow": 1, "tag": -1, "spare": 0}
        values = {**defaults, **chunks, "n_stops": counts}
        self._chunks.append({k: _filled(values[k], (n,)) for k in _CHUNK_FIELDS})
        free: dict[str, ArrayLike] = {"space": np.repeat(self._chunks[-1]["bytes"], counts), "compute_ps": 0}
        free |= {"rank": 0, "lifo": 0, "tokens": 0, "gate": -1, "arrive": -1, "done": -1, "hold": -1, "tag": -1}
        at_stop = {**free, **stops}
        self._stops.append({k: _filled(at_stop[k], (m,)) for k in _STOP_FIELDS})
        self.n_chunks += n
        return np.arange(self.n_chunks - n, self.n_chunks, dtype=np.int64)

    def add_alternatives(self, chunks: Ints, target: Ints) -> None:
        """Let only one chunk of each row be loaded: that whose target die has the most free space when its turn comes.

        Args:
            chunks: int64 [n, m], loaded from the same channel, of the same group; of equals the first is taken. The
                first stands in the queue for all, and its gate counts for all.
            target: int64 [n, m], the dies that are compared.
        """
        self._alternatives.append((chunks, target))

    def chunk_arrays(self) -> dict[str, Ints]:
        """All chunks, one int64 [chunks] array a field.

        bytes, pool, group, channel, gate, flow, n_stops, tag, spare; of alternatives: other (the next one, -1: none),
        target (its die) and first (1 for the first of a row and for every chunk without alternatives).
        """
        fields = {name: _joined([batch[name] for batch in self._chunks]) for name in _CHUNK_FIELDS}
        other, target = np.full(self.n_chunks, -1, dtype=np.int64), np.zeros(self.n_chunks, dtype=np.int64)
        first = np.ones(self.n_chunks, dtype=np.int64)
        for chunks, dies in self._alternatives:
            other[chunks[:, :-1]] = chunks[:, 1:]
            target[chunks] = dies
            first[chunks[:, 1:]] = 0
        return {**fields, "other": other, "target": target, "first": first}

    def stop_arrays(self) -> dict[str, Ints]:
        """All stops, one int64 [stops] array a field, in chunk order."""
        return {name: _joined([batch[name] for batch in self._stops]) for name in _STOP_FIELDS}

    def gate_array(self) -> Ints:
        """Signals that each gate needs, int64 [gates]."""
        return _joined(self._gates)


def _filled(value: ArrayLike, shape: tuple[int, ...]) -> Ints:
    # Several times faster than np.broadcast_to for the many small batches of a plan.
    out = np.empty(shape, dtype=np.int64)
    out[...] = value
    return out


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
