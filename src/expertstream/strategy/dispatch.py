"""Experts at home dies, as chunks for the engine: weights, dispatched tokens, computes, combined outputs.

Vectorised over all experts, dies and passes: a plan of a thousand tokens takes milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import TOKENS
from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.strategy.plan import cut_many, ranks_within
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lists:
    """Token lists: the tokens of an expert that are computed at a die in a pass, cut into turns.

    Attributes:
        part, expert, die, turns: int64 [lists], pass, expert, die and number of turns.
        first_set: int64 [lists]; the turns of list i are the token sets from ``first_set[i]`` on.
        set_ptr, set_ids: the token sets, as in ``Plan``.
        remote: int64 [sets, dies], tokens of a set that come from each other die.
    """

    part: Ints
    expert: Ints
    die: Ints
    turns: Ints
    first_set: Ints
    set_ptr: Ints
    set_ids: Ints
    remote: Ints

    @classmethod
    def of(cls, workload: LayerWorkload, part: Ints, expert: Ints, die: Ints, token: Ints, area_tokens: int) -> Lists:
        """Lists of (pass, expert, die, token) entries, int64 [entries] each.

        A turn takes as many tokens from other dies as fit the dispatch area, from all dies alike; the turns of a list
        differ by at most one of them. The die's own tokens go with the first turn.
        """
        n_dies = workload.package.n_dies
        source = workload.die_of_token[token]
        key = (part * workload.columns.size + expert) * n_dies + die
        away = (source != die).astype(np.int64)
        order = np.lexsort((token, source, key))
        nth = np.empty_like(key)
        nth[order] = ranks_within(key[order] * n_dies + source[order])
        order = np.lexsort((source, nth, away, key))
        key, away, token, source = key[order], away[order], token[order], source[order]
        lists, index, size = np.unique(key, return_inverse=True, return_counts=True)
        n_away = np.bincount(index, weights=away, minlength=lists.size).astype(np.int64)
        turns = np.maximum(1, -(-n_away // area_tokens))
        rank = ranks_within(key) - (size - n_away)[index]
        turn = np.where(away > 0, rank * turns[index] // np.maximum(n_away[index], 1), 0)
        first_set = np.cumsum(turns) - turns
        set_of = first_set[index] + turn
        n_sets = int(turns.sum())
        ptr = np.concatenate(([0], np.cumsum(np.bincount(set_of, minlength=n_sets)))).astype(np.int64)
        remote = np.bincount(set_of * n_dies + source, weights=away, minlength=n_sets * n_dies)
        head, die = np.divmod(lists, n_dies)
        part, expert = np.divmod(head, workload.columns.size)
        return cls(part, expert, die, turns, first_set, ptr, token, remote.reshape(n_sets, n_dies).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Units:
    """Column ranges of experts, each computed at one die with one list of tokens; int64 [units].

    Attributes:
        of: the list. first, last: columns ``first`` to ``last`` - 1.
        bundle: units of one bundle are replicas on several dies; they follow one another.
        held: the weights stay until all turns of the list are computed, each turn in one compute (1), or they are
            computed as they arrive, for a list of one turn (0).
        pieces: transfers into which the weights are cut.
        rank: 0 routed; 1 shared, computed when nothing routed is ready.
        group: of the weights and of the first turn; later turns too unless ``turn_groups``.
    """

    of: Ints
    first: Ints
    last: Ints
    bundle: Ints
    held: Ints
    pieces: Ints
    rank: Ints
    group: Ints


def emit(
    work: Work, workload: LayerWorkload, lists: Lists, units: Units, turn_group: Ints, ready: Ints, done: Ints
) -> Ints:
    """Add everything that the units do.

    A task is a turn of a unit. Its area in the token buffer (tokens from other dies and their partial sums) is asked
    for when the first of the unit's weights have arrived, and kept until the results have gone home.

    Args:
        turn_group: int64 [tasks], the group of each task, in the order of units and turns.
        ready, done: int64 [passes], gates: accumulators of a pass in place (-1: from the start); pass finished.

    Returns:
        The slices of the plan, int64 [n, 3].
    """
    n_tasks = lists.turns[units.of]
    unit = np.repeat(np.arange(units.of.size), n_tasks)
    of, held = units.of[unit], units.held[unit]
    tokens_of = lists.first_set[of] + ranks_within(unit)
    die, part = lists.die[of], lists.part[of]
    tokens = np.diff(lists.set_ptr)[tokens_of]
    remote = lists.remote[tokens_of]
    task, source = np.nonzero(remote)
    sources = np.bincount(task, minlength=unit.size).astype(np.int64)
    count = remote[task, source]

    begun = work.new_gates(np.ones(units.of.size, dtype=np.int64))
    loaded = work.new_gates(units.pieces)
    used = work.new_gates(n_tasks)
    placed = work.new_gates(np.ones(unit.size, dtype=np.int64))
    arrived = work.new_gates(sources + held + (ready[part] >= 0))
    computed = work.new_gates(np.where(held > 0, 1, units.pieces[unit]))
    combined = work.new_gates(sources)
    for p, gate in enumerate(done.tolist()):
        mine = part == p
        work.set_gate(gate, int(mine.sum() + sources[mine].sum()))

    later = np.flatnonzero(ready[part] >= 0)
    whole = np.flatnonzero(held)
    for pick, gate in ((later, ready[part]), (whole, loaded[unit])):
        work.add_chunks(
            group=turn_group[pick],
            bytes=0,
            die=die[pick, None],
            pool=TOKENS,
            gate=gate[pick],
            arrive=arrived[pick, None],
        )
    slices, tags, width, piece_unit = _pieces(workload, lists, units)
    model, chip = workload.model, workload.package.die
    time = compute_ps(chip, tokens, model.d_model, (units.last - units.first)[unit], model.weight_bits)
    is_held = held > 0
    work.add_chunks(
        group=turn_group,
        bytes=remote.sum(axis=1) * workload.remote_token_bytes,
        die=die[:, None],
        pool=TOKENS,
        gate=begun[unit],
        tag=np.where(is_held, unit, -1),
        compute_ps=np.where(is_held, time, 0)[:, None],
        stop_gate=np.where(is_held, arrived, -1)[:, None],
        rank=units.rank[unit][:, None],
        arrive=placed[:, None],
        done=np.where(is_held, computed, -1)[:, None],
        hold=np.where(sources > 0, combined, -1)[:, None],
        tokens=np.where(is_held, tokens, 0)[:, None],
        stop_tag=np.where(is_held, tokens_of, -1)[:, None],
    )
    none = np.full(task.size, -1)
    for gate, n_bytes, ends, arrives, signals in (
        (placed, workload.activation_bytes, (source, die[task]), arrived, none),
        (computed, workload.partial_sum_bytes, (die[task], source), combined, done[part[task]]),
    ):
        work.add_chunks(
            group=turn_group[task],
            bytes=count * n_bytes,
            die=np.stack(ends, axis=1),
            pool=TOKENS,
            gate=gate[task],
            space=0,
            arrive=np.stack((none, arrives[task]), axis=1),
            done=np.stack((none, signals), axis=1),
        )
    work.add_chunks(
        group=turn_group,
        bytes=0,
        die=die[:, None],
        pool=TOKENS,
        gate=computed,
        arrive=np.where(is_held, used[unit], -1)[:, None],
        done=done[part][:, None],
    )
    first_task = np.cumsum(n_tasks) - n_tasks
    gates = {"begun": begun, "loaded": loaded, "used": used, "arrived": arrived, "computed": computed}
    _add_weights(
        work,
        workload,
        lists,
        units,
        tags,
        width,
        piece_unit,
        first_task,
        tokens[first_task],
        tokens_of[first_task],
        gates,
    )
    return slices


def _pieces(workload: LayerWorkload, lists: Lists, units: Units) -> tuple[Ints, Ints, Ints, Ints]:
    """The slices (row u: all of unit u; then the pieces of each bundle), and tag, width, first unit of each piece."""
    expert = lists.expert[units.of]
    lead = np.flatnonzero(ranks_within(units.bundle) == 0)  # a bundle is loaded once, for all of its units
    nth, piece_unit, first, last = cut_many(units.first[lead], units.last[lead], units.pieces[lead])
    piece_unit = lead[piece_unit]
    whole = np.stack((expert, units.first, units.last), axis=1)
    parts = np.stack((expert[piece_unit], first, last), axis=1)
    return np.concatenate((whole, parts)), expert.size + np.arange(nth.size), last - first, piece_unit


def _add_weights(
    work: Work,
    workload: LayerWorkload,
    lists: Lists,
    units: Units,
    tag: Ints,
    width: Ints,
    piece_unit: Ints,
    first_task: Ints,
    tokens: Ints,
    token_set: Ints,
    gates: dict[str, Ints],
) -> None:
    """Each piece comes from the channel of one of its bundle's dies in turn, and goes on round the others."""
    topology, model = workload.topology, workload.model
    n_dies = workload.package.n_dies
    entry = np.array([topology.entry_die(int(topology.nearest_channel[d]), d) for d in range(n_dies)], dtype=np.int64)
    bundle, copies_of = np.unique(units.bundle, return_counts=True)
    copies = copies_of[np.searchsorted(bundle, units.bundle[piece_unit])]
    start = ranks_within(piece_unit) % np.maximum(copies, 1)
    home = lists.die[units.of[piece_unit + start]]
    through = (entry[home] != home).astype(np.int64)
    n_stops = copies + through
    chunk = np.repeat(np.arange(tag.size), n_stops)
    position = ranks_within(chunk) - through[chunk]
    passing = position < 0
    at = piece_unit[chunk] + np.where(passing, 0, (start[chunk] + position) % copies[chunk])
    streamed = ~passing & (units.held[at] == 0)
    held = ~passing & (units.held[at] > 0)
    time = compute_ps(workload.package.die, tokens[at], model.d_model, width[chunk], model.weight_bits)
    work.add_ragged(
        n_stops,
        {
            "bytes": width * workload.column_bytes,
            "group": units.group[piece_unit],
            "channel": topology.nearest_channel[home],
            "tag": tag,
        },
        {
            "die": np.where(passing, entry[home[chunk]], lists.die[units.of[at]]),
            "compute_ps": np.where(streamed, time, 0),
            "rank": units.rank[at],
            "gate": np.where(streamed, gates["arrived"][first_task[at]], -1),
            "arrive": np.where(passing, -1, np.where(streamed, gates["begun"][at], gates["loaded"][at])),
            "done": np.where(streamed, gates["computed"][first_task[at]], np.where(held, gates["begun"][at], -1)),
            "hold": np.where(held, gates["used"][at], -1),
            "tokens": np.where(streamed, tokens[at], 0),
            "tag": np.where(streamed, token_set[at], -1),
        },
    )
