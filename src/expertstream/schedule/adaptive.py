"""Decisions of adaptive streaming: what moves, tokens or weights, over how many dies, and which expert loads next.

Each needs only what the scheduler's tables hold. ``tile_size`` and ``least_traffic`` are a table read (tokens of the
expert; and its dies), one or two multiplications by constants of the layer and a comparison for each size of tiles;
``hot_next`` and ``enough_in_flight`` are one or two comparisons of sums that adders keep up to date as groups start and
end, and two multiplications: a few cycles each; what is ahead of the MAC arrays takes a clock and one more comparison.
``copies_to_wait_for`` is a constant of the expert. ``links_are_free``, ``weights_stay``, ``ddr_binds``, ``fifo``,
``least_ahead``, ``experts_in_flight``, ``passes`` and ``by_expert`` are taken once for a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ROOM_SHARE: Final = 2  # an expert's tokens may take 1/2 of the room that dies have for tokens of others at once
TURN_SHARE: Final = 3  # or a third of it, turn by turn
SMALLEST_TURN: Final = 8  # tokens
TILE_SHARE: Final = 5  # or a fifth of it, where weights visit several dies;
TILE_SHARES_OF_DDR: Final = (16, 8)  # where DDR binds, a sixteenth if links have time for it, or else an eighth
EXPERTS_IN_FLIGHT: Final = 2  # of average size, and twice as many as begin while tokens go round the dies,
EXPERTS_THAT_STAY: Final = 3  # or three where weights stay
COPIES_SHARE: Final = 24  # copies of 1/24 of the room come as they come, where weights stay
LINK_SHARE: Final = (3, 4)  # links are free if they are busy for at most 3/4 of what the layer takes anyway,
LINK_SHARE_OF_DDR: Final = (1, 3)  # or 1/3, for the larger tiles where DDR binds,
LINK_SHARE_AHEAD: Final = ((1, 4), (1, 5))  # or 1/4, for compute time that is kept ahead; 1/5 where loads take longer
ROUND_AHEAD: Final = (4, 5)  # of the way of an expert's tokens round all dies is kept ahead,
BUFFERS_AHEAD: Final = 4  # at most what 1/4 of the weight buffers takes to load


def least_traffic(tokens: int, stops: int, token_bytes: int, weight_bytes: int, room: int, sizes: Sequence[int]) -> int:
    """How many dies an expert's micro-slices visit, so that the fewest bytes pass links; 0: its tokens stay.

    On tiles of g of n dies each of its tokens is sent to n / g dies, and its weights are sent on g - 1 times. If its
    tokens stay, its weights are sent to all dies that hold some, from where they come in: at any die.

    Args:
        tokens: of the expert, in the package. stops: dies that hold them.
        token_bytes: activations and partial sums of a token. weight_bytes: of the expert.
        room: tokens of other dies for which a die has room.
        sizes: numbers of dies into tiles of which the package can be cut, ascending; the last is all dies.
    """
    best, least = 0, stops * (sizes[-1] - 1) * weight_bytes // sizes[-1]
    for size in sizes:
        traffic = tokens * token_bytes * (sizes[-1] // size) + (size - 1) * weight_bytes
        if traffic < least and tokens * ROOM_SHARE <= size * room:
            best, least = size, traffic
    return best


def links_are_free(links_ps: int, load_ps: int, compute_ps: int, share: tuple[int, int] = LINK_SHARE) -> bool:
    """Whether links have time for what would be sent, so that room rather than traffic decides.

    Args:
        links_ps: time in which it passes a link. load_ps, compute_ps: of the layer, at full rate.
        share: of the longer of these, for which links may be busy.
    """
    return links_ps * share[1] <= max(load_ps, compute_ps) * share[0]


def weights_stay(load_ps: int, compute_ps: int) -> bool:
    """Whether the weights of a layer's gathered experts stay at their dies until all turns of tokens have met them.

    They do where computing binds: loads then run ahead of the tokens, and every die gets an equal part of each expert.
    Else they go as they come, over the dies of a tile (``tile_size``).
    """
    return 10 * load_ps < 9 * compute_ps


def ddr_binds(load_ps: int, compute_ps: int) -> bool:
    """Whether MAC arrays have so much time to spare that micro-slices may visit more dies, for fewer copies of tokens.

    Each visit costs control overhead and a wait for the die before.
    """
    return 10 * load_ps > 11 * compute_ps


def fifo(moves: bool, stay: bool, load_ps: int, compute_ps: int) -> bool:
    """Whether dies compute micro-slices that visit them in the order in which these arrive.

    They do where arrays and channels must both always be busy: the room that was taken first is given back first, and
    the next expert can begin. Else those on their way go first, the latest before the others, and those of hot experts
    last, as cold experts would wait behind them.

    Args:
        moves: whether some tokens move. stay: whether some weights stay (``weights_stay``).
        load_ps, compute_ps: of the layer, at full rate; arrays have time to spare if ``ddr_binds``.
    """
    return moves and not stay and not ddr_binds(load_ps, compute_ps)


def tile_size(tokens: int, room: int, sizes: Sequence[int], share: int) -> int:
    """How many dies an expert's micro-slices visit, so that its tokens need few copies; 0: its tokens stay.

    Each of those dies has a part of the tokens, and there is a copy of a token for each tile of the package.

    Args:
        tokens: of the expert, in the package. room: tokens of other dies for which a die has room.
        sizes: numbers of dies into tiles of which the package can be cut, ascending; the last is all dies.
        share: its copies may take 1/share of that room, unless all dies are visited (``TILE_SHARE``, or one of
            ``TILE_SHARES_OF_DDR`` if ``ddr_binds``).
    """
    for size in sizes[:-1]:
        if tokens * share <= size * room:
            return size
    return sizes[-1] if tokens * ROOM_SHARE <= sizes[-1] * room else 0


def least_in_flight(weights: int, tokens: int, moves: bool, turns: bool) -> int:
    """Bytes of weights and of copies of tokens in flight that are never enough, a constant of the layer.

    Three quarters of the room for tokens, which copies may fill, or all of it where turns of tokens do, and 1/32 of the
    weight buffers beside it: where these are small, weights would else wait for copies. Where no token moves three
    fifths of all: the more micro-slices circulate, the less a die waits for those that others have.

    Args:
        weights, tokens: bytes of all weight buffers together, and of all token buffers, that are free while nothing is
            in flight.
        moves: whether some tokens move. turns: whether they do so in turns.
    """
    if not moves:
        return 3 * (weights + tokens) // 5
    return (tokens if turns else 3 * tokens // 4) + weights // 32


def experts_in_flight(expert_bytes: int, round_ps: int, expert_ps: int, stay: bool) -> int:
    """Bytes of the experts that must be in flight so that the way of their tokens does not hold loads up.

    By Little's law, as many as begin in the time for which one is in flight: two, while it is loaded and computed, and
    two for each expert that begins while its tokens go round the dies, and their partial sums come back. Weights that
    stay do not wait for that; three experts are enough.

    Args:
        expert_bytes: weights and copies of tokens of an expert whose tokens move, on average.
        round_ps: time in which the widest micro-slice would pass all dies one by one.
        expert_ps: time that the layer takes for one expert, at full rate. stay: whether some weights stay.
    """
    if stay:
        return EXPERTS_THAT_STAY * expert_bytes
    return EXPERTS_IN_FLIGHT * expert_bytes * (expert_ps + round_ps) // max(expert_ps, 1)


def enough_in_flight(room: int, at_least: int, experts_bytes: int, load_ps: int, compute_ps: int, stay: bool) -> int:
    """Bytes of weights and of copies of tokens in flight above which nothing else begins.

    What a few experts take, but no more than a third of the room that there is, and no less than a quarter of it where
    weights stay. While loads are ahead, that is while what is left of them would take less than 4/5 of the time of what
    is left of computing, no more than a fifth, or than a quarter and no less than a fifth where weights stay.

    Args:
        room: bytes of all buffers together that are free while nothing is in flight.
        at_least: bytes that are never enough (``least_in_flight``).
        experts_bytes: of a few experts (``experts_in_flight``).
        load_ps: of what has not been admitted. compute_ps: of what has not been finished; both at full rate.
        stay: whether some weights stay (``weights_stay``).
    """
    ahead = 5 * load_ps < 4 * compute_ps
    if stay:
        least, most = room // (5 if ahead else 4), room // (4 if ahead else 3)
    else:
        least, most = 0, room // (5 if ahead else 3)
    return max(at_least, min(max(experts_bytes, least), most))


def copies_to_wait_for(copies: int, room: int, stay: bool) -> int:
    """Bytes of an expert's copies of tokens for which it waits until, with them, no more than enough is in flight.

    Weights come one by one, but all copies of its tokens at once: those of a hot expert would overshoot by far. Where
    weights stay and run ahead of the tokens, waiting costs more, and only what is above 1/24 of the room counts.

    Args:
        copies: bytes of the copies of its tokens, of one turn.
        room: as of ``enough_in_flight``. stay: whether its weights stay.
    """
    return max(0, copies - room // COPIES_SHARE) if stay else copies


def passes(fewest: int, enough: int, plenty: int, load_ps: int, compute_ps: int) -> int:
    """In how many passes tokens are computed: more than must be, if the room that it gives is worth loading again.

    The last pass may need all experts: each is taken to load all.

    Args:
        fewest: passes that the tokens' residents need. enough, plenty: passes that leave room for the smallest turns of
            tokens, and for twice as many. load_ps, compute_ps: of the layer, each expert loaded once.

    Returns:
        The passes for plenty, as far as all loads take three quarters of the compute time at most; fewest, if that is
        not enough.
    """
    affordable = 3 * compute_ps // (4 * load_ps) if load_ps else fewest
    most = min(plenty, max(affordable, fewest))
    return most if most >= enough else fewest


def by_expert(passes: int, load_ps: int, compute_ps: int) -> bool:
    """Whether tokens come in the order of their coldest expert, so that passes before the last load hot experts only.

    They do where loading all experts in every pass would take more than three quarters of the compute time. Else they
    come as they are, as that spreads a hot expert's tokens over the passes.

    Args:
        load_ps, compute_ps: of the layer, each expert loaded once.
    """
    return 4 * passes * load_ps > 3 * compute_ps


def token_turns(tokens: int, room: int) -> int:
    """In how many turns an expert's tokens may move, 0: in none, there is too little room.

    Args:
        tokens: of the expert, in the package. room: tokens of other dies for which a die has room.
    """
    if tokens * ROOM_SHARE <= room:
        return 1
    turn = room // TURN_SHARE
    return -(-tokens // turn) if turn >= SMALLEST_TURN else 0


def least_ahead(round_ps: int, fill_ps: int, links_ps: int, load_ps: int, compute_ps: int) -> int:
    """Compute time that MAC arrays should have before them, so that they do not run dry while tokens come, ps.

    The tokens of an expert that begins pass all dies, and wait at each for a micro-slice that takes the same link: 4/5
    of that way. No more than a quarter of the weight buffers takes to load: it would never be reached, and hot experts
    always be next. Nor more than the times of loading and of computing differ by: if they are equal both must always be
    busy, and what puts hot experts first leaves loads for last that have nothing to hide behind. Nothing if links are
    busy for more than a quarter of the time, or a fifth where loading takes longer than computing: arrays then run dry
    whatever is next, and the traffic of hot experts should come between that of others.

    Args:
        round_ps: time in which the widest micro-slice would pass all dies one by one.
        fill_ps: time in which all weight buffers are loaded. links_ps: as of ``links_are_free``.
        load_ps, compute_ps: of the layer, at full rate.
    """
    if not links_are_free(links_ps, load_ps, compute_ps, LINK_SHARE_AHEAD[load_ps > compute_ps]):
        return 0
    return min(round_ps * ROUND_AHEAD[0] // ROUND_AHEAD[1], fill_ps // BUFFERS_AHEAD, abs(compute_ps - load_ps))


def hot_next(ahead_ps: int, target_ps: int, compute: tuple[int, int], load: tuple[int, int]) -> bool:
    """Whether the hottest remaining expert should load next, rather than the coldest.

    It should if MAC arrays may run dry, or if no larger part of the compute than of the loads has been admitted: in
    step, neither the channels nor the arrays are left with work that the other could have hidden.

    Args:
        ahead_ps: compute time, mean over the dies, that MAC arrays have before them with what has been admitted.
        target_ps: the least that it should be (``least_ahead``).
        compute, load: (admitted so far, in all), in any unit.
    """
    return ahead_ps < target_ps or compute[0] * load[1] <= load[0] * compute[1]
