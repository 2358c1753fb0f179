"""Experts whose weights stay where they come in: their tokens go to these dies, partial sums come back once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.strategy.homes import Homes
from expertstream.strategy.tiles import Tiles
from expertstream.strategy.tokens import TokenTurns
from expertstream.strategy.trajectories import Cutting
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]


import os
LT = int(os.environ.get('LT','2'))
NOSH = os.environ.get('NOSH','1')=='1'

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


class _Round(NamedTuple):
    """A turn of an expert's tokens: the gate of its room; for each die the gates of its tokens and of its computes."""

    placed: int
    arrived: dict[int, int]
    computed: dict[int, int]


class Gathering:
    """Adds the gathered experts of a layer, pass by pass.

    Room for all turns of an expert is asked for when its group starts: at all dies at one instant and in one order, so
    that the earliest turn that is not over finds its room everywhere, whatever the later ones wait for. Tokens of a die
    visit the expert's dies along the ring, one way or the other; their partial sums are collected on the same way, and
    come home.

    Weights that do not stay load when there is room for their tokens (as in shares.add_movement). Those that stay load
    at once, and are there until the last turn. They leave ``spare`` bytes free for micro-slices that go on without a
    gate, and the dispatcher admits no more of them at a time than fit beside that: so whatever has been admitted can
    come in, and ends.

    Args:
        turns: of the gathered experts. first_set: number of the token set of turn 0. stays: bool [experts].
    """

    def __init__(
        self, work: Work, workload: LayerWorkload, cutting: Cutting, turns: TokenTurns, first_set: int, spare: int,
        stays: NDArray[np.bool_], tiles: Tiles,
    ) -> None:  # fmt: skip
        self._work, self._workload, self._cutting, self._turns = work, workload, cutting, turns
        self._first_set, self._spare, self._stays, self._tiles = first_set, spare, stays, tiles
        self._ring = workload.topology.ring(range(workload.package.n_dies))
        self._areas, self._sent, self._back, self._relays = (_Columns() for _ in range(4))

    def add(self, p: int, homes: Homes, groups: Ints, late: NDArray[np.bool_], ready: int, done: int) -> int:
        """Add the experts of a pass; return the number of signals to ``done``.

        Args:
            groups: int64 [micro-slices]; of those that stay, those of one group stay together, group by group. Tokens
                belong to the group of the first.
            late: bool [experts], whether an expert's weights that stay are computed where nothing else is ready.
            ready, done: gates of the pass (tokens.add_residents).
        """
        turns, cutting = self._turns, self._cutting
        signals = 0
        part, expert = np.divmod(turns.key, self._workload.columns.size)
        for i in np.flatnonzero(part == p).tolist():
            e = int(expert[i])
            tags = np.arange(cutting.first[e], cutting.first[e] + cutting.per_expert[e])
            mine = range(int(turns.first[i]), int(turns.first[i] + turns.count[i]))
            if self._tiles.size[e] > 1:
                signals += self._add_tiled(mine, e, tags, homes, groups, ready, done, bool(late[e]))
                continue
            cuts = np.flatnonzero(np.diff(groups[tags])) + 1
            blocks = np.split(tags, cuts) if self._stays[e] else [tags]
            rounds = []
            for block in blocks:
                if not rounds or len(mine) > 1 or NOSH:
                    of = block if len(mine) > 1 or NOSH else tags
                    group = int(groups[block[0]])
                    rounds = [self._add_round(turn, homes.die[of], group, ready, done) for turn in mine]
                    signals += int((turns.on_die[mine.start : mine.stop] > 0).sum())
                self._add_weights(mine, block, homes, groups[block], rounds, bool(self._stays[e]), bool(late[e]))
        for columns in (self._areas, self._relays, self._sent, self._back):
            columns.emit(self._work)
        self._areas, self._sent, self._back, self._relays = (_Columns() for _ in range(4))
        return signals

    def _add_tiled(self, turns: range, e: int, tags: Ints, homes: Homes, groups: Ints, ready: int, done: int, late=False) -> int:
        """Turn k is computed at die k of the tiles; every micro-slice visits the dies of one."""
        workload, n, count = self._workload, tags.size, len(turns)
        parts = int(self._tiles.size[e])
        members, index = self._tiles.members[parts], self._tiles.index[parts]
        tile = np.empty(workload.package.n_dies, dtype=np.int64)
        tile[members] = np.arange(members.shape[0])[:, None]
        group = int(groups[tags[0]])
        used = members[np.unique(tile[homes.die[tags]])]
        placed = int(self._work.new_gates([used.shape[0] * count])[0])
        mine = members[tile[homes.die[tags]]]
        rounds = [self._add_round(turn, mine[:, k], group, ready, done, placed) for k, turn in enumerate(turns)]
        signals = int((self._turns.on_die[turns.start : turns.stop] > 0).sum())
        channel, width = homes.channel[tags], self._cutting.width[tags]
        start = index[homes.die[tags]]
        way = np.where(np.arange(n) // len(workload.package.channels) % 2, 1, -1)
        order = (start[:, None] + way[:, None] * np.arange(parts)) % parts
        order = order[order < count].reshape(n, count)  # fewer tokens than dies: the last dies have none
        dies = np.take_along_axis(mine, order, axis=1)
        entry = np.array([workload.topology.entry_die(c, d) for c, d in zip(channel.tolist(), dies[:, 0].tolist(), strict=True)])
        through = (entry != dies[:, 0]).astype(np.int64)
        n_stops = through + count
        begin = np.cumsum(n_stops) - n_stops
        size = width * workload.column_bytes
        total = int(n_stops.sum())
        stops = {name: np.full(total, -1, dtype=np.int64) for name in ("gate", "done", "tag")}
        stops |= {name: np.zeros(total, dtype=np.int64) for name in ("compute_ps", "tokens", "rank", "lifo", "die")}
        stops["die"][begin] = entry
        tokens = self._turns.on_die[turns.start : turns.stop].sum(axis=1)
        for nth in range(count):
            at = begin + through + nth
            k = order[:, nth]
            stops["die"][at] = dies[:, nth]
            stops["compute_ps"][at] = compute_ps(
                workload.package.die, tokens[k], workload.model.d_model, width, workload.model.weight_bits
            )
            stops["gate"][at] = [rounds[i].arrived[d] for i, d in zip(k.tolist(), dies[:, nth].tolist(), strict=True)]
            stops["done"][at] = [rounds[i].computed[d] for i, d in zip(k.tolist(), dies[:, nth].tolist(), strict=True)]
            stops["tokens"][at], stops["tag"][at] = tokens[k], self._first_set + turns.start + k
            stops["rank"][at], stops["lifo"][at] = (nth == 0) + 2 * (late and LT > 0), nth > 0
        self._work.add_ragged(
            n_stops,
            {"bytes": size, "group": groups[tags], "channel": channel, "gate": placed, "tag": tags, "flow": 1},
            stops,
        )
        return signals

    def _add_round(self, turn: int, die: Ints, group: int, ready: int, done: int, place: int = -1) -> _Round:
        """Room, tokens and partial sums of a turn; every die with tokens of its own signals ``done`` once."""
        workload, work = self._workload, self._work
        load = self._turns.on_die[turn].tolist()
        total = sum(load)
        dies = [d for d in self._ring if (die == d).any()]
        sources = [s for s in range(len(load)) if load[s]]
        chains = [s for s in sources if dies != [s]]
        placed, combined = work.new_gates([len(dies), len(chains)]).tolist()
        placed = place if place >= 0 else placed
        come = [sum(s != d for s in sources) + (ready >= 0) for d in dies]
        arrived = dict(zip(dies, work.new_gates(come).tolist(), strict=True))
        computed = dict(zip(dies, work.new_gates([int((die == d).sum()) for d in dies]).tolist(), strict=True))
        for d in dies:
            area = (total - load[d]) * workload.remote_token_bytes
            self._areas.add(
                {"group": group, "bytes": area},
                {"die": [d], "arrive": [placed], "hold": [combined if chains else -1]},
            )
            if ready >= 0:
                stop = {"die": [d], "arrive": [arrived[d]], "done": [-1]}
                self._relays.add({"group": group, "bytes": 0, "gate": ready}, stop)
            if [d] == dies and load[d]:
                stop = {"die": [d], "arrive": [-1], "done": [done]}
                self._relays.add({"group": group, "bytes": 0, "gate": computed[d]}, stop)
        for s in chains:
            ring = self._ring if (s + turn) % 2 else self._ring[::-1]  # both ways, so that all links carry some
            at = ring.index(s)
            others = [d for d in ring[at + 1 :] + ring[:at] if d in arrived]
            n = len(others)
            self._sent.add(
                {"group": group, "bytes": load[s] * workload.activation_bytes, "gate": placed},
                {"die": [s, *others], "space": [0] * (n + 1), "arrive": [-1, *(arrived[d] for d in others)]},
            )
            self._back.add(
                {"group": group, "bytes": load[s] * workload.partial_sum_bytes, "gate": computed[others[0]]},
                {
                    "die": [*others, s],
                    "space": [0] * (n + 1),
                    "gate": [*(computed[d] for d in others), computed.get(s, -1)],
                    "arrive": [-1] * n + [combined],
                    "done": [-1] * n + [done],
                },
            )
        return _Round(placed, arrived, computed)

    def _add_weights(
        self, turns: range, tags: Ints, homes: Homes, groups: Ints, rounds: list[_Round], stay: bool, late: bool
    ) -> None:
        """Micro-slices that are computed at their die, turn by turn; they ``stay`` there for as long, or for one."""
        workload, n = self._workload, tags.size
        die, channel, width = homes.die[tags], homes.channel[tags], self._cutting.width[tags]
        entry = [workload.topology.entry_die(c, d) for c, d in zip(channel.tolist(), die.tolist(), strict=True)]
        through = (np.array(entry) != die).astype(np.int64)
        n_stops = through + len(rounds) + stay
        begin = np.cumsum(n_stops) - n_stops
        size = width * workload.column_bytes
        stops = {name: np.full(int(n_stops.sum()), -1, dtype=np.int64) for name in ("gate", "arrive", "done", "hold")}
        stops |= {name: np.zeros(int(n_stops.sum()), dtype=np.int64) for name in ("compute_ps", "tokens", "space")}
        stops["tag"] = stops["gate"].copy()
        stops["die"] = np.repeat(die, n_stops)
        stops["die"][begin] = entry
        stops["space"][begin] = size
        stops["space"][begin + through] = size
        for nth, (turn, round_) in enumerate(zip(turns, rounds, strict=True)):
            at = begin + through + nth
            total = int(self._turns.on_die[turn].sum())
            stops["compute_ps"][at] = compute_ps(
                workload.package.die, total, workload.model.d_model, width, workload.model.weight_bits
            )
            stops["gate"][at] = [round_.arrived[d] for d in die.tolist()]
            stops["done"][at] = [round_.computed[d] for d in die.tolist()]
            stops["tokens"][at], stops["tag"][at] = total, self._first_set + turn
        if stay:
            used = self._work.new_gates(np.ones(n, dtype=np.int64))
            stops["hold"][begin + through] = used
            stops["arrive"][begin + n_stops - 1] = used
        self._work.add_ragged(
            n_stops,
            {
                "bytes": size,
                "group": groups,
                "channel": channel,
                "gate": -1 if stay else rounds[0].placed,
                "tag": tags,
                "flow": int(not stay),
                "spare": self._spare if stay else 0,
            },
            {**stops, "rank": 1 + ((stay or LT == 2) and late)},  # 1: as micro-slices that have just been loaded
        )
