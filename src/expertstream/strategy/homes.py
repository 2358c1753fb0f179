"""Where the micro-slices of gathered experts come in and stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.package import Topology
from expertstream.package.timing import compute_ps
from expertstream.schedule import place
from expertstream.strategy.tokens import DieClusters
from expertstream.strategy.trajectories import Cutting
from expertstream.workload import LayerWorkload

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
        cls, workload: LayerWorkload, cutting: Cutting, loads: Iterable[Ints], gathers: NDArray[np.bool_],
        held: NDArray[np.bool_], tokens: Ints, shares: Ints, clusters: DieClusters,
    ) -> Homes:  # fmt: skip
        """Stripe the experts' micro-slices over the channels, and place each at a die near its channel (``place``).

        Args:
            loads: micro-slices, int64 [n] each, of one expert each, in the order in which they are expected to load.
            gathers: bool [experts], whether an expert's tokens move.
            held: bool [experts], whether each die must get equally many of these micro-slices (as they stay for long).
            tokens: int64 [experts]. shares: int64 [experts, dies], tokens that a die computes of other experts.
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
        turn = spin = 0
        import os; compute_bound = workload.macs / package.macs_per_s * float(os.environ.get('EV','1')) >= int(workload.expert_bytes[workload.activated].sum()) / sum(bandwidth.tolist())
        for tags in loads:
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
            time = compute_ps(package.die, int(tokens[e]), model.d_model, width[tags], model.weight_bits)
            send_ps = size * 10**12 // package.d2d.bandwidth_bytes_per_s
            channel[tags] = at
            if held[e]:
                die[tags] = _evenly(topology, at, die_free)
                channel_free += np.bincount(at, weights=load_ps, minlength=n_channels).astype(np.int64)
                np.maximum(die_free, channel_free.min(), out=die_free)
                np.add.at(die_free, die[tags], time)
                continue
            several = int(clusters.count[e]) > 1
            if several:
                each = -(-int(tokens[e]) // int(clusters.count[e]))
                time = compute_ps(package.die, each, model.d_model, width[tags], model.weight_bits)
                import os
                if compute_bound:
                    count = int(clusters.count[e])
                    size_of = package.n_dies // count
                    cl = clusters.of_die(e, np.array([package.channels[c].dies[0] for c in at.tolist()]))
                    position = (np.arange(tags.size) // n_channels + at + spin) % size_of
                    spin += 1
                    die[tags] = clusters.ring[cl * size_of + position]
                    channel_free += np.bincount(at, weights=load_ps, minlength=n_channels).astype(np.int64)
                    np.maximum(die_free, channel_free.min(), out=die_free)
                    np.add.at(die_free, clusters.peers(e, die[tags]), time[:, None])
                    continue
            for c in np.unique(at).tolist():
                mine = np.flatnonzero(at == c)
                where = np.empty(mine.size, dtype=np.int64)
                place(
                    channel_free, link_free, die_free, network["path_ptr"], network["path_links"], c,
                    _in_cluster(topology, c, clusters, e) if several else ways[c],
                    load_ps[mine], send_ps[mine], time[mine], where,
                )  # fmt: skip
                die[tags[mine]] = where
                if several:
                    peers = clusters.peers(e, where)
                    others = peers != where[:, None]
                    np.add.at(die_free, peers[others], np.repeat(time[mine], others.sum(axis=1)))
        return cls(channel, die)


def _ways(topology: Topology, channel: int) -> Ints:
    """Dies to which no channel is nearer, and the row of the path to each, nearest first; int64 [n, 2]."""
    distance = np.array([topology.hops[list(c.dies)].min(axis=0) for c in topology.package.channels])
    mine = np.flatnonzero(distance[channel] == distance.min(axis=0))
    mine = mine[np.argsort(distance[channel, mine], kind="stable")]
    entry = np.array([topology.entry_die(channel, int(d)) for d in mine], dtype=np.int64)
    return np.stack((mine, entry * topology.n_dies + mine), axis=1)


def _in_cluster(topology: Topology, channel: int, clusters: DieClusters, expert: int) -> Ints:
    """As _ways: the dies of the cluster where the channel comes in."""
    attached = topology.package.channels[channel].dies[0]
    index = clusters.of_die(expert, np.arange(topology.n_dies))
    mine = np.flatnonzero(index == index[attached])
    entry = np.array([topology.entry_die(channel, int(d)) for d in mine], dtype=np.int64)
    mine_order = np.argsort(topology.hops[entry, mine], kind="stable")
    mine, entry = mine[mine_order], entry[mine_order]
    return np.stack((mine, entry * topology.n_dies + mine), axis=1)


def _evenly(topology: Topology, channel: Ints, die_free: Ints) -> Ints:
    """A die for each micro-slice, equally many each: nearest to its channel, then the one that is free first."""
    distance = np.array([topology.hops[list(c.dies)].min(axis=0) for c in topology.package.channels])
    left = np.full(topology.n_dies, -(-channel.size // topology.n_dies), dtype=np.int64)
    die = np.empty(channel.size, dtype=np.int64)
    for i, c in enumerate(channel.tolist()):
        die[i] = np.lexsort((die_free, -left, distance[c], left == 0))[0]
        left[die[i]] -= 1
    return die
