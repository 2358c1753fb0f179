"""Experts whose weights stay where they come in: their tokens go to these dies, partial sums come back once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.package import Topology
from expertstream.package.timing import compute_ps
from expertstream.schedule import place
from expertstream.strategy.trajectories import Cutting
from expertstream.workload import Batches, LayerWorkload

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Homes:
    """Where the micro-slices of gathered experts come in and stay.

    Attributes:
        channel, die: int64 [micro-slices], -1 for those of other experts.
    """

    channel: Ints
    die: Ints

    @classmethod
    def of(
        cls, workload: LayerWorkload, cutting: Cutting, turns: Iterable[Ints], gathers: NDArray[np.bool_], load: Ints,
        shares: Ints,
    ) -> Homes:  # fmt: skip
        """Stripe the experts' micro-slices over the channels, and place each at a die near its channel (``place``).

        Args:
            turns: micro-slices, int64 [n] each, of one expert each, in the order in which they are expected to load.
            gathers: bool [experts], whether an expert's tokens move.
            load: int64 [experts], tokens. shares: int64 [experts, dies], tokens that a die computes of other experts.
        """
        package, model, topology = workload.package, workload.model, workload.topology
        n_channels = len(package.channels)
        channel = np.full(cutting.slices.shape[0], -1, dtype=np.int64)
        die = channel.copy()
        network = topology.network_arrays()
        channel_free, link_free, die_free = (
            np.zeros(n, dtype=np.int64) for n in (n_channels, topology.links.shape[0], package.n_dies)
        )
        ways = [_ways(topology, c) for c in range(n_channels)]
        bandwidth = np.array([c.effective_bytes_per_s for c in package.channels], dtype=np.int64)
        width = cutting.width
        turn = 0
        for tags in turns:
            e = int(cutting.slices[tags[0], 0])
            size = width[tags] * workload.column_bytes
            at = (np.arange(tags.size) + turn) % n_channels
            turn += tags.size
            load_ps = size * 10**12 // bandwidth[at]
            if not gathers[e]:
                time = compute_ps(package.die, shares[e][:, None], model.d_model, width[tags], model.weight_bits)
                channel_free += np.bincount(at, weights=load_ps, minlength=n_channels).astype(np.int64)
                die_free[:] = np.maximum(die_free, channel_free.min()) + np.where(shares[e] > 0, time.sum(axis=1), 0)
                continue
            time = compute_ps(package.die, int(load[e]), model.d_model, width[tags], model.weight_bits)
            send_ps = size * 10**12 // package.d2d.bandwidth_bytes_per_s
            channel[tags] = at
            for c in np.unique(at).tolist():
                mine = np.flatnonzero(at == c)
                where = np.empty(mine.size, dtype=np.int64)
                place(
                    channel_free, link_free, die_free, network["path_ptr"], network["path_links"], c, ways[c],
                    load_ps[mine], send_ps[mine], time[mine], where,
                )  # fmt: skip
                die[tags[mine]] = where
        return cls(channel, die)


def _ways(topology: Topology, channel: int) -> Ints:
    """Dies to which no channel is nearer, and the row of the path to each, nearest first; int64 [n, 2]."""
    distance = np.array([topology.hops[list(c.dies)].min(axis=0) for c in topology.package.channels])
    mine = np.flatnonzero(distance[channel] == distance.min(axis=0))
    mine = mine[np.argsort(distance[channel, mine], kind="stable")]
    entry = np.array([topology.entry_die(channel, int(d)) for d in mine], dtype=np.int64)
    return np.stack((mine, entry * topology.n_dies + mine), axis=1)


@dataclass
class _Columns:
    """Chunks of one kind with their stops, collected one by one."""

    n_stops: list[int] = field(default_factory=list)
    chunks: dict[str, list[int]] = field(default_factory=dict)
    stops: dict[str, list[int]] = field(default_factory=dict)

    def add(self, chunk: dict[str, int], stops: dict[str, list[int]]) -> None:
        """One chunk; ``stops`` has a list of equal length for each field."""
        self.n_stops.append(len(stops["die"]))
        for name, value in chunk.items():
            self.chunks.setdefault(name, []).append(value)
        for name, values in stops.items():
            self.stops.setdefault(name, []).extend(values)

    def emit(self, work: Work) -> None:
        """Add all of them as token traffic."""
        if self.n_stops:
            work.add_ragged(self.n_stops, {**self.chunks, "pool": TOKENS}, self.stops)


def add_gathered(
    work: Work, workload: LayerWorkload, cutting: Cutting, homes: Homes, batches: Batches, p: int, experts: list[int],
    groups: Ints, ready: int, done: int,
) -> int:  # fmt: skip
    """Add the gathered experts of a pass; return the number of signals to ``done``.

    Room is taken at all dies of an expert before its weights load (as in shares.add_movement). Tokens of a die visit
    the expert's dies along the ring; their partial sums are collected on the same way, and come home.

    Args:
        groups: int64 [micro-slices]; tokens belong to the group of the expert's first micro-slice.
    """
    topology, model = workload.topology, workload.model
    n_dies, n_experts, passes = workload.package.n_dies, workload.columns.size, batches.passes
    n_sets = passes * n_experts * n_dies
    token_bytes = workload.activation_bytes + workload.partial_sum_bytes
    full = topology.ring(range(n_dies))
    areas, sent, back, relays = _Columns(), _Columns(), _Columns(), _Columns()
    signals = 0
    for e in experts:
        load = batches.load[p, e]
        total = int(load.sum())
        tags = np.arange(cutting.first[e], cutting.first[e] + cutting.per_expert[e])
        group = int(groups[tags[0]])
        dies = [d for d in full if (homes.die[tags] == d).any()]
        sources = np.flatnonzero(load).tolist()
        chains = [s for s in sources if dies != [s]]
        placed = int(work.new_gates(len(dies))[0])
        combined = int(work.new_gates(len(chains))[0])
        at = {d: i for i, d in enumerate(dies)}
        arrived = work.new_gates([sum(s != d for s in sources) + (ready >= 0) for d in dies]).tolist()
        computed = work.new_gates([int((homes.die[tags] == d).sum()) for d in dies]).tolist()
        for d in dies:
            area = (total - int(load[d])) * token_bytes
            areas.add(
                {"group": group, "bytes": area},
                {"die": [d], "arrive": [placed], "hold": [combined if chains else -1]},
            )
            if ready >= 0:
                relays.add(
                    {"group": group, "bytes": 0, "gate": ready},
                    {"die": [d], "arrive": [arrived[at[d]]], "done": [-1]},
                )
            if load[d]:
                relays.add(
                    {"group": group, "bytes": 0, "gate": computed[at[d]]},
                    {"die": [d], "arrive": [-1], "done": [done]},
                )
                signals += 1
        for s in chains:
            turned = full[full.index(s) + 1 :] + full[: full.index(s)]
            others = [d for d in turned if d in at]
            n = len(others)
            sent.add(
                {"group": group, "bytes": int(load[s]) * workload.activation_bytes, "gate": placed},
                {"die": [s, *others], "space": [0] * (n + 1), "arrive": [-1, *(arrived[at[d]] for d in others)]},
            )
            back.add(
                {"group": group, "bytes": int(load[s]) * workload.partial_sum_bytes, "gate": computed[at[others[0]]]},
                {
                    "die": [*others, s],
                    "space": [0] * (n + 1),
                    "gate": [*(computed[at[d]] for d in others), -1],
                    "arrive": [-1] * n + [combined],
                    "done": [-1] * n + [done],
                },
            )
        signals += len(chains)
        entry = np.array([topology.entry_die(int(homes.channel[t]), int(homes.die[t])) for t in tags])
        width = cutting.width[tags]
        time = compute_ps(workload.package.die, total, model.d_model, width, model.weight_bits)
        through = (entry != homes.die[tags]).astype(np.int64)
        last = np.cumsum(through + 1) - 1
        size = int(last[-1]) + 1
        stops = {"die": np.empty(size, dtype=np.int64), "compute_ps": np.zeros(size, dtype=np.int64)}
        stops |= {name: np.full(size, -1, dtype=np.int64) for name in ("gate", "done", "tag")}
        stops["rank"] = np.ones(size, dtype=np.int64)  # as micro-slices that have just been loaded
        stops["tokens"] = np.zeros(size, dtype=np.int64)
        stops["die"][last - through] = entry
        index = np.array([at[int(d)] for d in homes.die[tags]])
        stops["die"][last], stops["compute_ps"][last] = homes.die[tags], time
        stops["gate"][last], stops["done"][last] = np.array(arrived)[index], np.array(computed)[index]
        stops["tokens"][last], stops["tag"][last] = total, n_sets + p * n_experts + e
        work.add_ragged(
            through + 1,
            {
                "bytes": width * workload.column_bytes,
                "group": groups[tags],
                "channel": homes.channel[tags],
                "gate": placed,
                "tag": tags,
            },
            stops,
        )
    for columns in (areas, relays, sent, back):
        columns.emit(work)
    return signals
