"""Algorithm 2 of the paper (section V-A): which requests wait at a layer because an expert of theirs is cold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from expertstream.errors import ConfigError


class Qos(NamedTuple):
    """What Algorithm 2 remembers of a request; a new request starts with zeros.

    Attributes:
        timer: T(r), deferrals that the request may still suffer.
        counter: C(r), forward passes since the last allowance, in units of 1 / ``Slack.deferrals`` pass.
    """

    timer: int = 0
    counter: int = 0


@dataclass(frozen=True)
class Slack:
    """How often requests may be deferred: ``deferrals`` times in ``passes`` forward passes.

    The paper's slack of 10 %, 20 % and 30 % is 1 in 10, 1 in 5 and 3 in 10 (``Slack(1, 10)``, ``Slack(1, 5)``,
    ``Slack(3, 10)``). A forward pass adds ``deferrals`` to C(r), and N_threshold is ``passes``: so 10/3 passes need no
    fractions.

    Attributes:
        saved: the largest T(r); a request that was never deferred does not save up more.

    Raises:
        ConfigError: a number is out of range.
    """

    deferrals: int
    passes: int
    saved: int = 255

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.passes < 1 or not 0 <= self.deferrals <= self.passes:
            raise ConfigError(
                f"slack is {self.deferrals} deferrals in {self.passes} forward passes; it must be from 0 in 1 to 1 in 1"
            )
        if self.saved < 1:
            raise ConfigError(f"slack saves up {self.saved} deferrals; it must be at least 1")


def pass_done(qos: Qos, slack: Slack) -> Qos:
    """The request has finished a forward pass (all layers of one iteration)."""
    # The counter stops at twice the threshold: without it a request that meets no MoE layer would count for ever.
    return Qos(qos.timer, min(qos.counter + slack.deferrals, 2 * slack.passes))


def token_counts(activated: Sequence[Sequence[int]], n_experts: int) -> list[int]:
    """Tokens of every expert over all requests.

    Args:
        activated: for each request, the routed experts of its tokens, one entry for each (token, expert).
    """
    counts = [0] * n_experts
    for experts in activated:
        for expert in experts:
            counts[expert] += 1
    return counts


def defer(
    activated: Sequence[Sequence[int]],
    counts: Sequence[int],
    qos: Sequence[Qos],
    slack: Slack,
    theta_min: int,
) -> tuple[list[bool], list[Qos]]:
    """Algorithm 2 at one MoE layer, after gating and before scheduling.

    Every request is judged by the same ``counts``: a deferral does not change what the others see. So the result does
    not depend on the order of the requests, and requests that share a cold expert are deferred together and meet again.
    The caller schedules the tokens of the others, whose experts may then be colder than ``theta_min``. All of them may
    be deferred at once; every deferral lowers a timer, so that ends by itself.

    Args:
        activated: for each request, its routed experts at this layer; repeats are allowed, order does not matter.
        counts: tokens of each expert over all active requests, deferred ones that rejoin here included.
        qos: state of each request, in the same order.
        theta_min: an expert with fewer tokens is cold.

    Returns:
        For each request whether it is deferred, and its new state.
    """
    deferred, after = [], []
    for experts, (timer, counter) in zip(activated, qos, strict=True):
        if counter >= slack.passes:
            timer, counter = min(timer + 1, slack.saved), counter - slack.passes
        waits = timer > 0 and any(counts[expert] < theta_min for expert in experts)
        deferred.append(waits)
        after.append(Qos(timer - waits, counter))
    return deferred, after
