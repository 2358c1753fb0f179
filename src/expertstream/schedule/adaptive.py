"""Decisions of adaptive streaming: what moves, tokens or weights, and which expert loads next.

Each needs only what the scheduler's tables hold. ``tokens_move`` is two table reads (tokens of the expert on the
package and on its dies), three multiplications by constants of the layer and two comparisons; ``hot_next`` is two
comparisons of sums that adders keep up to date as groups start and end, and two multiplications: a few cycles each.
"""

from __future__ import annotations

from typing import Final

ROOM_SHARE: Final = 2  # an expert's tokens may take 1/2 of the room that dies have for tokens of others at once
TURN_SHARE: Final = 3  # or a third of it, turn by turn
SMALLEST_TURN: Final = 8  # tokens


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
