"""A trace in two parts: what is fitted on one is judged on the other."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expertstream.errors import TraceError

if TYPE_CHECKING:
    from expertstream.trace.routing import RoutingTrace


def split(trace: RoutingTrace, *, share: float = 0.5, least: int = 1) -> tuple[RoutingTrace, RoutingTrace]:
    """Split by requests: every second request trains, as long as the limits allow, then the others.

    A trace of a single request, or of requests that are not known, is cut in time: its first tokens train.

    Args:
        share: at most this share of the tokens trains, above 0 and below 1.
        least: the evaluation part keeps at least so many tokens.

    Returns:
        The training part and the evaluation part; no token is in both, and each keeps the order of the trace.

    Raises:
        TraceError: no token would be left to train on, or ``share`` is out of range.
    """
    if not isinstance(share, Real) or not 0 < share < 1:
        raise TraceError(f"the training share is {share!r}; it must be above 0 and below 1")
    n = trace.n_tokens
    limit = min(int(share * n), n - max(least, 1))
    train = _whole_requests(trace, limit)
    if not train.any():
        train[np.lexsort((np.arange(n), trace.position, trace.request))[: max(limit, 0)]] = True
    if not train.any():
        raise TraceError(
            f"{trace.source}: its {n} tokens leave none to train on beside the {least} that are evaluated; use fewer "
            "tokens per iteration or a longer trace"
        )
    return _part(trace, train), _part(trace, ~train)


def _whole_requests(trace: RoutingTrace, limit: int) -> NDArray[np.bool_]:
    numbers, tokens = np.unique(trace.request[trace.request >= 0], return_counts=True)
    chosen, used = [], 0
    turns = np.concatenate((np.arange(0, numbers.size, 2), np.arange(1, numbers.size, 2)))
    for i in turns.tolist() if numbers.size > 1 else []:
        if used + int(tokens[i]) <= limit:
            chosen.append(numbers[i])
            used += int(tokens[i])
    return np.isin(trace.request, np.array(chosen, dtype=trace.request.dtype))


def _part(trace: RoutingTrace, keep: NDArray[np.bool_]) -> RoutingTrace:
    weights = None if trace.weights is None else trace.weights[keep]
    return replace(
        trace,
        experts=trace.experts[keep],
        weights=weights,
        request=trace.request[keep],
        position=trace.position[keep],
        phase=trace.phase[keep],
    )
