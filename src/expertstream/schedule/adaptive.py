"""Decisions of adaptive streaming: what moves, tokens or weights, and which expert loads next.

Each needs only what the scheduler's tables hold. ``tokens_move`` is two table reads (tokens of the expert on the
package and on its dies), three multiplications by constants of the layer and two comparisons; ``hot_next`` is one
subtraction (kept up to date by an adder as groups start and end) and one comparison: a few cycles each.
"""

from __future__ import annotations

from typing import Final

ROOM_SHARE: Final = 2  # an expert's tokens may take 1/2 of the room that dies have for tokens of others


def tokens_move(tokens: int, stops: int, dies: int, token_bytes: int, weight_bytes: int, room: int) -> bool:
    """Whether it is cheaper to move an expert's tokens to where its weights come in than to circulate the weights.

    Args:
        tokens: of the expert, in the package.
        stops: dies that hold them: the weights would be sent stops - 1 times.
        dies: dies that compute the expert if tokens move: each token is sent to all of them.
        token_bytes: activations and partial sums of a token. weight_bytes: of the expert.
        room: tokens for which a die has room.
    """
    if tokens * ROOM_SHARE > room:
        return False
    return tokens * dies * token_bytes <= weight_bytes * (stops - 1)


def hot_next(backlog_ps: int, target_ps: int) -> bool:
    """Whether the hottest remaining expert should load next, rather than the coldest.

    Args:
        backlog_ps: compute time, mean over the dies, of what has been admitted and has not been finished.
        target_ps: compute time that keeps the MAC arrays busy while cold experts load.
    """
    return backlog_ps < target_ps
