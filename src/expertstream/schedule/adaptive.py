"""Decisions of adaptive streaming: what moves, tokens or weights, in which form, and which expert loads next.

Each needs only what the scheduler's tables hold. ``tokens_move`` is two table reads (tokens of the expert on the
package and on its dies), three multiplications by constants of the layer and two comparisons; ``hot_next`` is two
comparisons of sums that adders keep up to date as groups start and end, and two multiplications: a few cycles each.
``all_tokens_move``, ``weights_stay``, ``balanced`` and ``passes`` are taken once for a layer: a comparison or two each.
"""

from __future__ import annotations

from typing import Final

ROOM_SHARE: Final = 2  # an expert's tokens may take 1/2 of the room that dies have for tokens of others at once
TURN_SHARE: Final = 3  # or a third of it, turn by turn
SMALLEST_TURN: Final = 8  # tokens
LINK_SHARE: Final = 4  # all tokens move where this keeps links busy for at most 1/4 of what the layer takes anyway


def tokens_move(tokens: int, stops: int, dies: int, token_bytes: int, weight_bytes: int) -> bool:
    """Whether it is cheaper to move an expert's tokens to where its weights come in than to circulate the weights.

    Args:
        tokens: of the expert, in the package.
        stops: dies that hold them. Weights would be sent stops - 1 times, and once more where they come in elsewhere.
        dies: dies where weights come in, which compute the expert if tokens move: each token is sent to all of them.
        token_bytes: activations and partial sums of a token. weight_bytes: of the expert.
    """
    elsewhere = max(0, dies - stops)
    return tokens * dies * dies * token_bytes <= weight_bytes * ((stops - 1) * dies + elsewhere)


def all_tokens_move(links_ps: int, load_ps: int, compute_ps: int) -> bool:
    """Whether the tokens of all experts may move, as the links have time for it.

    Args:
        links_ps: time in which the tokens of all experts pass a link. load_ps, compute_ps: of the layer, at full rate.
    """
    return links_ps * LINK_SHARE <= max(load_ps, compute_ps)


def weights_stay(turns: int, load_ps: int, compute_ps: int) -> bool:
    """Whether the weights of a layer's gathered experts stay at their dies until all turns of tokens have met them.

    They do if an expert needs several turns; and where computing binds: loads then run ahead of the tokens, and every
    die gets an equal part of each expert. Else they go as they come, each to the die that will be done with it first.
    """
    return turns > 1 or compute_ps >= load_ps


def balanced(load_ps: int, compute_ps: int) -> bool:
    """Whether loading and computing take about equally long, so that both must go on nearly all the time."""
    return 3 * max(load_ps, compute_ps) <= 4 * min(load_ps, compute_ps)


def passes(fewest: int, enough: int, plenty: int, load_ps: int, compute_ps: int) -> int:
    """In how many passes tokens are computed: more than must be, if the room that it gives is worth loading again.

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


def token_turns(tokens: int, room: int) -> int:
    """In how many turns an expert's tokens may move, 0: in none, there is too little room.

    Args:
        tokens: of the expert, in the package. room: tokens of other dies for which a die has room.
    """
    if tokens * ROOM_SHARE <= room:
        return 1
    turn = room // TURN_SHARE
    return -(-tokens // turn) if turn >= SMALLEST_TURN else 0


def hot_next(backlog_ps: int, target_ps: int, compute: tuple[int, int], load: tuple[int, int]) -> bool:
    """Whether the hottest remaining expert should load next, rather than the coldest.

    It should if MAC arrays may run dry, or if no larger part of the compute than of the loads has been admitted: in
    step, neither the channels nor the arrays are left with work that the other could have hidden.

    Args:
        backlog_ps: compute time, mean over the dies, of what has been admitted and has not been finished.
        target_ps: the least that it should be.
        compute, load: (admitted so far, in all), in any unit.
    """
    return backlog_ps < target_ps or compute[0] * load[1] <= load[0] * compute[1]
