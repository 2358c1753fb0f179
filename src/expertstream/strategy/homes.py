"""Where the micro-slices of gathered experts come in, and at which die they are computed first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.state import transfer_ps
from expertstream.package import Topology
from expertstream.package.timing import compute_ps
from expertstream.schedule import place
from expertstream.strategy.tiles import Tiles
from expertstream.strategy.trajectories import Cutting
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Homes:
    """Where the micro-slices of gathered experts come in.

    Attributes:
        channel, die: int64 [micro-slices], -1 for those of other experts; the first die that computes each.
    """

    channel: Ints
    die: Ints

    @classmethod
    def of(
        cls, workload: LayerWorkload, cutting: Cutting, loads: Iterable[Ints], tiles: Tiles,
        held: NDArray[np.bool_], tokens: Ints, shares: Ints,
    ) -> Homes:  # fmt: skip
        """Stripe the experts' micro-slices over the channels, and place each at a die near its channel (``place``).

        Where they stay, or visit tiles of several dies, every die or tile gets equally many.

        Args:
            loads: micro-slices, int64 [n] each, of one expert each, in the order in which they are expected to load.
            tiles: of the gathered experts (0 dies: of the others).
            held: bool [experts], whether the micro-slices stay until all turns of tokens have met them.
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
        given: dict[int, Ints] = {}  # expert: micro-slices so far at each tile
        turn = 0
        for tags in loads:
            e = int(cutting.slices[tags[0], 0])
            size = width[tags] * workload.column_bytes
            at = (np.arange(tags.size) + turn) % n_channels
            turn += tags.size
            load_ps = transfer_ps(size, bandwidth[at])
            if tiles.size[e] == 0:
                time = compute_ps(package.die, shares[e][:, None], model.d_model, width[tags], model.weight_bits)
                channel_free += np.bincount(at, weights=load_ps, minlength=n_channels).astype(np.int64)
                die_free[:] = np.maximum(die_free, channel_free.min()) + np.where(shares[e] > 0, time.sum(axis=1), 0)
                continue
            parts = int(tiles.size[e])
            time = compute_ps(package.die, -(-int(tokens[e]) // parts), model.d_model, width[tags], model.weight_bits)
            send_ps = transfer_ps(size, np.array(package.d2d.bandwidth_bytes_per_s))
            channel[tags] = at
            if held[e] or parts > 1:
                members = tiles.members[parts]
                so_far = given.setdefault(e, np.zeros(members.shape[0], dtype=np.int64))
                die[tags] = _evenly(topology, at, die_free, members, so_far)
                channel_free += np.bincount(at, weights=load_ps, minlength=n_channels).astype(np.int64)
                np.maximum(die_free, channel_free.min(), out=die_free)
                np.add.at(die_free, tiles.tile_of(e, die[tags])[0], time[:, None])
                continue
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


def _evenly(topology: Topology, channel: Ints, die_free: Ints, members: Ints, given: Ints) -> Ints:
    """A die for each micro-slice, equally many in each tile: nearest to its channel, then the tile that is free first.

    Args:
        members: int64 [tiles, dies of a tile]. given: int64 [tiles], micro-slices of the expert that each tile has;
            those placed here are added.
    """
    away = np.array([topology.hops[list(c.dies)].min(axis=0) for c in topology.package.channels])[:, members]
    free = die_free[members].sum(axis=1)
    left = -(-(int(given.sum()) + channel.size) // members.shape[0]) - given
    die = np.empty(channel.size, dtype=np.int64)
    for i, c in enumerate(channel.tolist()):
        tile = np.lexsort((free, -left, away[c].min(axis=1), left == 0))[0]
        left[tile] -= 1
        given[tile] += 1
        die[i] = members[tile, away[c, tile].argmin()]
    return die
