"""The timeline: one row per activity, in columns; the only source of every result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine import layout as at
from expertstream.engine.network import Network
from expertstream.engine.state import State
from expertstream.engine.work import Work
from expertstream.units import counted, format_time

Ints = NDArray[np.int64]
KINDS = ("load", "send", "compute")


@dataclass(frozen=True, eq=False)
class Timeline:
    """Columns of int64 [rows] unless stated, in the order in which the activities start.

    Attributes:
        start_ps, end_ps: the time for which the resource is busy. The data of a load or a send are there a latency
            after ``end_ps``; a send occupies every link of its path for that time.
        kind: 0 load, 1 send, 2 compute (``KINDS``).
        resource: DDR channel, first link of the path, or die.
        die: die loaded into, sent to, or computing; ``source``: the die sent from, -1 otherwise.
        chunk, group, stop: what was moved or computed; ``tag``, ``stop_tag``: the caller's labels of chunk and stop.
        bytes: bytes moved, without header; 0 for a compute. ``tokens``: tokens computed.
        ready_ps: when the activity was asked for; ``space_ps``: how much of the wait was for buffer space.
        hold_die, hold_pool, hold_bytes, hold_from_ps, hold_to_ps: int64 [stays], one for each stay of a chunk in a
            buffer; pool 0 is the weight buffer, 1 the token buffer.
        network: the resources it ran on.
        optional: bool; whether the activity belongs to a group that the run could have done without (``Work``).
        latency_ps: from ``origin_ps`` to the end of the last event. Times of the columns count from 0, not from there.
        origin_ps: what starts earlier is a head start.
        n_events: events that the kernel processed.
    """

    start_ps: Ints
    end_ps: Ints
    kind: Ints
    resource: Ints
    die: Ints
    source: Ints
    chunk: Ints
    group: Ints
    stop: Ints
    tag: Ints
    stop_tag: Ints
    bytes: Ints
    tokens: Ints
    ready_ps: Ints
    space_ps: Ints
    hold_die: Ints
    hold_pool: Ints
    hold_bytes: Ints
    hold_from_ps: Ints
    hold_to_ps: Ints
    optional: NDArray[np.bool_]
    latency_ps: int
    origin_ps: int
    n_events: int
    network: Network

    def __repr__(self) -> str:
        """How many activities of each kind, in one line."""
        counts = np.bincount(self.kind, minlength=len(KINDS)).tolist()
        kinds = ", ".join(counted(n, kind) for n, kind in zip(counts, KINDS, strict=True))
        dies = counted(self.network.n_dies, "die")
        return f"Timeline({counted(len(self), 'activity')}: {kinds}; latency {format_time(self.latency_ps)}, {dies})"

    def __len__(self) -> int:
        """Number of activities."""
        return int(self.start_ps.size)

    @property
    def end_of_all_ps(self) -> int:
        """The end of the last event, ps."""
        return self.origin_ps + self.latency_ps

    @classmethod
    def of_run(cls, state: State, work: Work, network: Network) -> Timeline:
        """Columns of a finished run."""
        rows = state.tables["rows"][: int(state.vector[at.K_ROWS])]
        stop, kind = rows[:, at.T_STOP], rows[:, at.T_KIND]
        chunk = state.tables["stops"][stop, at.S_CHUNK]
        group = state.tables["chunks"][chunk, at.C_GROUP]
        whole = np.arange(work.n_groups)
        for part, of in work.parts.items():
            whole[part] = part if of < 0 else of
        is_send = kind == at.SEND
        here = state.tables["stops"][stop, at.S_DIE]
        to = state.tables["stops"][stop + is_send, at.S_DIE]
        held = np.flatnonzero((state.tables["stops"][:, at.S_SPACE] > 0) & (state.tables["stops"][:, at.S_STATE] > 0))
        stays = state.tables["stops"][held]
        return cls(
            start_ps=rows[:, at.T_START].copy(),
            end_ps=rows[:, at.T_END].copy(),
            kind=kind.copy(),
            resource=rows[:, at.T_RESOURCE].copy(),
            die=to,
            source=np.where(is_send, here, -1),
            chunk=chunk,
            group=whole[group],
            stop=stop.copy(),
            tag=state.chunk_tag[chunk],
            stop_tag=state.stop_tag[stop],
            bytes=np.where(kind == at.COMPUTE, 0, state.tables["chunks"][chunk, at.C_BYTES]),
            tokens=np.where(kind == at.COMPUTE, state.tables["stops"][stop, at.S_TOKENS], 0),
            ready_ps=rows[:, at.T_READY].copy(),
            space_ps=rows[:, at.T_SPACE].copy(),
            hold_die=stays[:, at.S_DIE],
            hold_pool=state.tables["chunks"][stays[:, at.S_CHUNK], at.C_POOL],
            hold_bytes=stays[:, at.S_SPACE],
            hold_from_ps=stays[:, at.S_TAKEN],
            hold_to_ps=stays[:, at.S_FREED],
            optional=np.isin(group, work.optional),
            latency_ps=max(int(state.vector[at.K_NOW]) - work.origin_ps, 0),
            origin_ps=work.origin_ps,
            n_events=int(state.vector[at.K_POPPED]),
            network=network,
        )
