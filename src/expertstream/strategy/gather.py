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


class _Visits(NamedTuple):
    """Micro-slices of an expert: which, from which channels; dies that they visit and the turns that they meet there.

    tag, channel: int64 [micro-slices]; die, turn: int64 [micro-slices, visits].
    """

    tag: Ints
    channel: Ints
    die: Ints
    turn: Ints


class Gathering:
    """Adds the gathered experts of a layer, pass by pass.

    Room for all turns of an expert is asked for when its group starts: at all dies at one instant and in one order, so
    that the earliest turn that is not over finds its room everywhere, whatever the later ones wait for. Tokens of a die
    visit the dies of their turn along the ring, one way or the other; their partial sums are collected on the same way,
    and come home.

    Weights that do not stay load when there is room for all of the expert's tokens (as in shares.add_movement), and
    visit the dies of a tile, where turn k is computed at die k. Those that stay load at once, and are there until the
    last turn. They leave ``spare`` bytes free for micro-slices that go on without a gate, and the dispatcher admits no
    more of them at a time than fit beside that: so whatever has been admitted can come in, and ends.

    Args:
        turns: of the gathered experts. first_set: number of the token set of turn 0. stays: bool [experts].
        fifo: dies compute what does not stay in the order in which it arrives, not the latest on its way first.
    """

    def __init__(
        self, work: Work, workload: LayerWorkload, cutting: Cutting, turns: TokenTurns, first_set: int, spare: int,
        stays: NDArray[np.bool_], tiles: Tiles, fifo: bool,
    ) -> None:  # fmt: skip
        self._work, self._workload, self._cutting, self._turns = work, workload, cutting, turns
        self._first_set, self._spare, self._stays, self._tiles = first_set, spare, stays, tiles
        self._fifo = fifo
        self._ring = workload.topology.ring(range(workload.package.n_dies))
        self._areas, self._sent, self._back, self._relays = (_Columns() for _ in range(4))

    def add(self, p: int, homes: Homes, groups: Ints, late: NDArray[np.bool_], ready: int, done: int) -> int:
        """Add the experts of a pass; return the number of signals to ``done``.

        Args:
            groups: int64 [micro-slices]; of those that stay, those of one group stay together, group by group. Tokens
                belong to the group of the first.
            late: bool [experts], whether an expert is computed where nothing else is ready.
            ready, done: gates of the pass (tokens.add_residents).
        """
        turns, cutting = self._turns, self._cutting
        signals = 0
        part, expert = np.divmod(turns.key, self._workload.columns.size)
        for i in np.flatnonzero(part == p).tolist():
            e = int(expert[i])
            tags = np.arange(cutting.first[e], cutting.first[e] + cutting.per_expert[e])
            mine = range(int(turns.first[i]), int(turns.first[i] + turns.count[i]))
            cuts = np.flatnonzero(np.diff(groups[tags])) + 1
            stay = bool(self._stays[e])
            for block in np.split(tags, cuts) if stay else [tags]:
                die, turn = self._visits(e, homes.die[block], mine, stay)
                at = [die[turn == k] for k in mine]
                placed = self._placed([np.unique(dies).size for dies in at], stay)
                group = int(groups[block[0]])
                rounds = {
                    k: self._add_round(k, dies, gate, group, ready, done)
                    for k, dies, gate in zip(mine, at, placed, strict=True)
                }
                signals += int((turns.on_die[mine.start : mine.stop] > 0).sum())
                visits = _Visits(block, homes.channel[block], die, turn)
                self._add_weights(visits, groups[block], rounds, stay, bool(late[e]))
        for columns in (self._areas, self._relays, self._sent, self._back):
            columns.emit(self._work)
        self._areas, self._sent, self._back, self._relays = (_Columns() for _ in range(4))
        return signals

    def _visits(self, expert: int, home: Ints, turns: range, stay: bool) -> tuple[Ints, Ints]:
        """Dies that micro-slices visit and the turn that they meet there, int64 [micro-slices, turns] each.

        Args:
            home: the first die of each, int64 [micro-slices].
        """
        if stay:
            return np.repeat(home[:, None], len(turns), axis=1), np.tile(np.array(turns), (home.size, 1))
        tile, first = self._tiles.tile_of(expert, home)
        ways = np.where(np.arange(home.size) // len(self._workload.package.channels) % 2, 1, -1)
        place = (first[:, None] + ways[:, None] * np.arange(tile.shape[1])) % tile.shape[1]
        place = place[place < len(turns)].reshape(home.size, len(turns))  # an expert may have fewer tokens than dies
        return np.take_along_axis(tile, place, axis=1), turns.start + place

    def _placed(self, dies: list[int], stay: bool) -> list[int]:
        """For each turn the gate that opens when there is room for it at all of its dies: one for all if none stay."""
        if stay:
            return [int(gate) for gate in self._work.new_gates(dies)]
        return [int(self._work.new_gates(sum(dies))[0])] * len(dies)

    def _add_round(self, turn: int, die: Ints, placed: int, group: int, ready: int, done: int) -> _Round:
        """Room, tokens and partial sums of a turn; every die with tokens of its own signals ``done`` once.

        Args:
            die: the dies that compute it, once for each micro-slice. placed: gate that opens when there is room.
        """
        workload, work = self._workload, self._work
        load = self._turns.on_die[turn].tolist()
        total = sum(load)
        dies = [d for d in self._ring if (die == d).any()]
        sources = [s for s in range(len(load)) if load[s]]
        chains = [s for s in sources if dies != [s]]
        combined = int(work.new_gates(len(chains))[0])
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

    def _add_weights(self, visits: _Visits, groups: Ints, rounds: dict[int, _Round], stay: bool, late: bool) -> None:
        """Micro-slices that meet the turns where they come in, if they ``stay``, or one at each die of a tile."""
        workload = self._workload
        n, n_visits = visits.die.shape
        width = self._cutting.width[visits.tag]
        entry = np.array(
            [
                workload.topology.entry_die(c, d)
                for c, d in zip(visits.channel.tolist(), visits.die[:, 0].tolist(), strict=True)
            ]
        )
        through = (entry != visits.die[:, 0]).astype(np.int64)
        n_stops = through + n_visits + stay
        begin = np.cumsum(n_stops) - n_stops
        total = int(n_stops.sum())
        size = width * workload.column_bytes
        stops = {name: np.full(total, -1, dtype=np.int64) for name in ("gate", "arrive", "done", "hold", "tag")}
        stops |= {name: np.zeros(total, dtype=np.int64) for name in ("compute_ps", "tokens", "space", "lifo")}
        stops["die"] = np.repeat(visits.die[:, 0], n_stops)
        stops["die"][begin] = entry
        stops["space"][begin] = size
        for nth in range(n_visits):
            at = begin + through + nth
            die, turn = visits.die[:, nth], visits.turn[:, nth]
            tokens = self._turns.on_die[turn].sum(axis=1)
            stops["die"][at] = die
            stops["compute_ps"][at] = compute_ps(
                workload.package.die, tokens, workload.model.d_model, width, workload.model.weight_bits
            )
            met = list(zip(turn.tolist(), die.tolist(), strict=True))
            stops["gate"][at] = [rounds[k].arrived[d] for k, d in met]
            stops["done"][at] = [rounds[k].computed[d] for k, d in met]
            stops["tokens"][at], stops["tag"][at] = tokens, self._first_set + turn
            if nth == 0 or not stay:
                stops["space"][at] = size
            stops["lifo"][at] = nth > 0 and not stay and not self._fifo
        if stay:
            used = self._work.new_gates(np.ones(n, dtype=np.int64))
            stops["hold"][begin + through] = used
            stops["arrive"][begin + n_stops - 1] = used
        self._work.add_ragged(
            n_stops,
            {
                "bytes": size,
                "group": groups,
                "channel": visits.channel,
                "gate": -1 if stay else next(iter(rounds.values())).placed,
                "tag": visits.tag,
                "flow": int(not stay),
                "spare": self._spare if stay else 0,
            },
            # As in trajectories.py, those that are on their way go first, unless all go in order (``fifo``).
            {**stops, "rank": 1 - stops["lifo"] + 2 * late},
        )
