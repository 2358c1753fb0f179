"""Requests and where they come from: a file, a Poisson process, or clients that wait for their answers.

A source can be stopped and continued: ``state`` is plain numbers, and what request i asks for depends on the seed and i
alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from expertstream.errors import ConfigError

SECOND_PS = 10**12


@dataclass(frozen=True)
class Request:
    """A request: ``prompt`` tokens come in, ``output`` tokens go out (the first one with the end of the prompt)."""

    number: int
    arrival_ps: int
    prompt: int
    output: int


@dataclass(frozen=True)
class Lengths:
    """A distribution of token counts, at least 1 and at most ``most``.

    Attributes:
        kind: "fixed", "uniform" (from 1 to 2 mean - 1) or "lognormal" with the given mean and ``sigma`` (standard
            deviation of the logarithm).
    """

    kind: str
    mean: int
    sigma: float
    most: int

    def draw(self, rng: np.random.Generator) -> int:
        """One length."""
        if self.kind == "fixed":
            return min(self.mean, self.most)
        if self.kind == "uniform":
            return min(int(rng.integers(1, 2 * self.mean)), self.most)
        value = rng.lognormal(np.log(self.mean) - self.sigma**2 / 2, self.sigma)
        return max(1, min(round(float(value)), self.most))


class Source(Protocol):
    """Gives requests in the order of their arrival."""

    def take(self, now_ps: int) -> Request | None:
        """The next request if it has arrived by now; each is given once."""
        ...

    def next_arrival_ps(self) -> int | None:
        """When the next request arrives, or None: not before one that is taken completes, or never."""
        ...

    def completed(self, now_ps: int) -> None:
        """Hear that a request that was taken has completed."""
        ...

    def state(self) -> dict[str, int]:
        """What ``restore`` needs."""
        ...

    def restore(self, state: Mapping[str, int]) -> None:
        """Continue where another source of the same kind was."""
        ...


class Stream:
    """Requests with arrival times of their own, from an iterator that can be started anew.

    Raises:
        ConfigError: there are no requests, or their arrivals are not in order.
    """

    def __init__(self, start: Callable[[], Iterator[Request]], count: int | None) -> None:
        self._start, self._count = start, count
        self._taken = 0
        self._requests = islice(start(), count)
        self._next: Request | None = next(self._requests, None)
        if self._next is None:
            raise ConfigError("there are no requests to serve; the request file is empty")

    def take(self, now_ps: int) -> Request | None:  # noqa: D102
        taken = self._next
        if taken is None or taken.arrival_ps > now_ps:
            return None
        self._taken += 1
        self._next = next(self._requests, None)
        if self._next is not None and self._next.arrival_ps < taken.arrival_ps:
            raise ConfigError(
                f"request {self._next.number} arrives before request {taken.number}; sort the requests by arrival"
            )
        return taken

    def next_arrival_ps(self) -> int | None:  # noqa: D102
        return None if self._next is None else self._next.arrival_ps

    def completed(self, now_ps: int) -> None:  # noqa: D102
        pass

    def state(self) -> dict[str, int]:  # noqa: D102
        return {"taken": self._taken}

    def restore(self, state: Mapping[str, int]) -> None:  # noqa: D102
        self._taken = state["taken"]
        self._requests = islice(self._start(), self._taken, self._count)
        self._next = next(self._requests, None)


def poisson(rate_per_s: float, prompt: Lengths, output: Lengths, seed: int) -> Callable[[], Iterator[Request]]:
    """Arrivals of a Poisson process: gaps are exponential with mean 1 / rate."""

    def start() -> Iterator[Request]:
        now_ps, number = 0, 0
        while True:
            rng = np.random.default_rng((seed, number))
            now_ps += round(rng.exponential(1 / rate_per_s) * SECOND_PS)
            yield Request(number, now_ps, prompt.draw(rng), output.draw(rng))
            number += 1

    return start


class ClosedLoop:
    """``clients`` that each send a request, wait for its completion and send the next at once."""

    def __init__(self, clients: int, prompt: Lengths, output: Lengths, seed: int, count: int | None) -> None:
        self._prompt, self._output, self._seed, self._count = prompt, output, seed, count
        self._sent = 0
        self._due = deque([0] * clients)  # arrival times of requests that are not taken yet

    def take(self, now_ps: int) -> Request | None:  # noqa: D102
        due = self.next_arrival_ps()
        if due is None or due > now_ps:
            return None
        self._due.popleft()
        rng = np.random.default_rng((self._seed, self._sent))
        rng.exponential()  # so that lengths are those of a Poisson source with this seed
        self._sent += 1
        return Request(self._sent - 1, due, self._prompt.draw(rng), self._output.draw(rng))

    def next_arrival_ps(self) -> int | None:  # noqa: D102
        return self._due[0] if self._due and (self._count is None or self._sent < self._count) else None

    def completed(self, now_ps: int) -> None:  # noqa: D102
        self._due.append(now_ps)

    def state(self) -> dict[str, int]:  # noqa: D102
        return {"sent": self._sent, **{f"due {i}": t for i, t in enumerate(self._due)}}

    def restore(self, state: Mapping[str, int]) -> None:  # noqa: D102
        self._sent = state["sent"]
        self._due = deque(state[f"due {i}"] for i in range(len(state) - 1))
