"""The serving loop: admission, chunked prefill mixed with decode, iterations, completion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from expertstream.errors import ConfigError
from expertstream.schedule import Qos
from expertstream.serving.iteration import Account, Iteration, Pass
from expertstream.serving.quantiles import Quantiles
from expertstream.serving.requests import Request, Source
from expertstream.serving.routing import Replay
from expertstream.serving.series import Series
from expertstream.units import format_bytes, format_time

STATE = "expertstream-serving-2"
LATEST_PS = 4 * 10**18  # of an arrival: what follows it must stay within 64 bits


@dataclass(frozen=True)
class Limits:
    """What an iteration and the memory may hold.

    Attributes:
        tokens_per_iteration: token budget. requests: requests that run at a time.
        kv_bytes: DDR for keys and values; a request is admitted when all of its tokens fit. token_kv_bytes: of a token.
        refill: whether other tokens may take the place of deferred ones in the budget.
        ttft_ps, tpot_ps: targets, or None.
    """

    tokens_per_iteration: int
    requests: int
    kv_bytes: int
    token_kv_bytes: int
    refill: bool = False
    ttft_ps: int | None = None
    tpot_ps: int | None = None


@dataclass
class Running:
    """A request that was admitted.

    Attributes:
        processed: tokens whose keys and values exist. generated: output tokens. first_ps: time of the first of them, -1
            before. served: the iteration that last took tokens of it.
    """

    request: Request
    processed: int = 0
    generated: int = 0
    first_ps: int = -1
    served: int = -1

    @property
    def kv_tokens(self) -> int:
        """Tokens that it will have in the cache at its end: the last output token is never fed back."""
        return self.request.prompt + self.request.output - 1

    @property
    def decoding(self) -> bool:
        """Whether its prompt has been processed."""
        return self.processed >= self.request.prompt


@dataclass
class Tally:
    """What has happened so far."""

    now_ps: int = 0
    iterations: int = 0
    admitted: int = 0
    completed: int = 0
    violations: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    kv_bytes: int = 0
    peak_kv_bytes: int = 0
    reserved_kv_bytes: int = 0
    iteration: Quantiles = field(default_factory=Quantiles)
    ttft: Quantiles = field(default_factory=Quantiles)
    tpot: Quantiles = field(default_factory=Quantiles)
    series: Series = field(default_factory=Series)


def share_budget(running: Iterable[Running], budget: int) -> list[tuple[Running, int]]:
    """Tokens of each request in the next iteration, as (request, tokens).

    Decodes come first, the longest unserved ones before others; what is left goes to prompts, in order of arrival, in
    chunks (chunked prefill).
    """
    ready = list(running)
    decodes = sorted((r for r in ready if r.decoding), key=lambda r: (r.served, r.request.number))
    chosen = [(r, 1) for r in decodes[:budget]]
    left = budget - len(chosen)
    for r in sorted((r for r in ready if not r.decoding), key=lambda r: r.request.number):
        if left < 1:
            break
        chunk = min(left, r.request.prompt - r.processed)
        chosen.append((r, chunk))
        left -= chunk
    return chosen


class Server:
    """Serves the requests of a source, one iteration after another."""

    def __init__(self, source: Source, replay: Replay, iteration: Iteration, limits: Limits, n_dies: int) -> None:
        self._source, self._replay, self._iteration, self._limits, self._n_dies = (
            source,
            replay,
            iteration,
            limits,
            n_dies,
        )
        self._running: dict[int, Running] = {}
        self._waiting: tuple[Pass, ...] = ()
        self._qos: dict[int, Qos] = {}
        self._blocked: Request | None = None  # has arrived but does not fit yet
        self.tally = Tally()

    @property
    def account(self) -> Account:
        """Where the time went."""
        return self._iteration.account

    def step(self) -> bool:
        """Run one iteration; False when no request is left.

        Raises:
            ConfigError: a request can never fit the key-value memory.
        """
        if not self.ready():
            return False
        tally = self.tally
        fresh = self._fresh()
        before = (tally.now_ps, tally.input_tokens, tally.output_tokens, self.account.deferrals, len(self._running))
        batch = sum(p.rows.size for p in (*fresh, *self._waiting))
        outcome = self._iteration.run(fresh, self._waiting, self._qos)
        self._waiting = outcome.waiting
        tally.now_ps += outcome.latency_ps
        tally.iteration.add(outcome.latency_ps)
        tally.iterations += 1
        tally.kv_bytes += sum(p.rows.size for p in outcome.finished) * self._limits.token_kv_bytes
        tally.peak_kv_bytes = max(tally.peak_kv_bytes, tally.kv_bytes)  # before any request of the iteration completes
        for p in outcome.finished:
            self._advance(p)
        start_ps, input_tokens, output_tokens, deferrals, running = before
        tally.series.add(
            start_ps=start_ps,
            end_ps=tally.now_ps,
            batch_tokens=batch,
            input_tokens=tally.input_tokens - input_tokens,
            output_tokens=tally.output_tokens - output_tokens,
            deferrals=self.account.deferrals - deferrals,
            running=running,
            kv_bytes=tally.kv_bytes,
        )
        return True

    def ready(self) -> bool:
        """Admit requests, those that arrive next if none is running; False when no request is left.

        Raises:
            ConfigError: a request can never fit the key-value memory, or arrives too late for the clock.
        """
        self._admit()
        if not self._running:
            arrival = self._source.next_arrival_ps()
            if arrival is None:
                return False
            if arrival > LATEST_PS:
                raise ConfigError(
                    f"the next request arrives after {format_time(arrival)}, but a run ends at the latest after "
                    f"{format_time(LATEST_PS)} (46 days); let arrivals begin at 0, at a higher rate"
                )
            self.tally.now_ps = max(self.tally.now_ps, arrival)
            self._admit()
        return True

    def _admit(self) -> None:
        """Take requests in order of arrival while there is room."""
        tally, limits = self.tally, self._limits
        while len(self._running) < limits.requests:
            request = self._blocked or self._source.take(tally.now_ps)
            self._blocked = None
            if request is None:
                return
            new = Running(request)
            needed = new.kv_tokens * limits.token_kv_bytes
            if needed > limits.kv_bytes:
                raise ConfigError(
                    f"request {request.number} needs {format_bytes(needed)} for keys and values, kv_capacity is "
                    f"{format_bytes(limits.kv_bytes)}; give more or limit its prompt and output"
                )
            if tally.reserved_kv_bytes + needed > limits.kv_bytes:
                self._blocked = request
                return
            tally.reserved_kv_bytes += needed
            tally.admitted += 1
            self._running[request.number] = new
            self._qos[request.number] = Qos()

    def _fresh(self) -> list[Pass]:
        """The passes that start now; their tokens are spread evenly over the dies, in order."""
        waiting = {p.request for p in self._waiting}
        budget = self._limits.tokens_per_iteration
        if not self._limits.refill:
            budget -= sum(p.rows.size for p in self._waiting)
        chosen = share_budget((r for n, r in self._running.items() if n not in waiting), budget)
        chosen.sort(key=lambda pair: pair[0].request.number)
        total = sum(n for _, n in chosen)
        home = np.arange(total, dtype=np.int64) * self._n_dies // max(total, 1)
        passes, first = [], 0
        for r, n in chosen:
            rows = self._replay.rows(r.request.number, r.processed, r.processed + n)
            last = r.processed + n >= r.request.prompt
            passes.append(Pass(r.request.number, r.processed, rows, home[first : first + n], last))
            first += n
            r.served = self.tally.iterations
        return passes

    def _advance(self, p: Pass) -> None:
        tally = self.tally
        r = self._running[p.request]
        prompt_left = max(0, r.request.prompt - r.processed)
        r.processed += p.rows.size
        tally.input_tokens += min(prompt_left, p.rows.size)
        if not p.samples:
            return
        r.generated += 1
        tally.output_tokens += 1
        if r.generated == 1:
            r.first_ps = tally.now_ps
            tally.ttft.add(r.first_ps - r.request.arrival_ps)
        if r.generated == r.request.output:
            self._complete(r)

    def _complete(self, r: Running) -> None:
        tally, limits, number = self.tally, self._limits, r.request.number
        ttft_ps, tpot_ps = r.first_ps - r.request.arrival_ps, 0
        if r.generated > 1:
            tpot_ps = (tally.now_ps - r.first_ps) // (r.generated - 1)
            tally.tpot.add(tpot_ps)
        late = limits.ttft_ps is not None and ttft_ps > limits.ttft_ps
        slow = limits.tpot_ps is not None and tpot_ps > limits.tpot_ps
        tally.violations += late or slow
        tally.completed += 1
        tally.kv_bytes -= r.processed * limits.token_kv_bytes
        tally.reserved_kv_bytes -= r.kv_tokens * limits.token_kv_bytes
        del self._running[number], self._qos[number]
        self._source.completed(tally.now_ps)

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs, as plain JSON values."""
        tally = {k: v.state() if isinstance(v, (Quantiles, Series)) else v for k, v in vars(self.tally).items()}
        return {
            "format": STATE,
            "tally": tally,
            "account": asdict(self.account),
            "source": self._source.state(),
            "blocked": None if self._blocked is None else asdict(self._blocked),
            "running": [asdict(r) for r in self._running.values()],
            "qos": [[number, *qos] for number, qos in self._qos.items()],
            "waiting": [_plain(p) for p in self._waiting],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where a server with the same scenario was."""
        tally: dict[str, Any] = {}
        for key, value in state["tally"].items():
            kind = Series if key == "series" else Quantiles
            tally[key] = kind.restored(value) if isinstance(value, dict) else value
        self.tally = Tally(**tally)
        self._iteration.account = Account(**state["account"])
        self._source.restore(state["source"])
        self._blocked = None if state["blocked"] is None else Request(**state["blocked"])
        running = [Running(**{**r, "request": Request(**r["request"])}) for r in state["running"]]
        self._running = {r.request.number: r for r in running}
        self._qos = {number: Qos(timer, counter) for number, timer, counter in state["qos"]}
        self._waiting = tuple(_restored(p) for p in state["waiting"])


def _plain(p: Pass) -> dict[str, Any]:
    return {**vars(p), "rows": p.rows.tolist(), "home": p.home.tolist()}


def _restored(values: dict[str, Any]) -> Pass:
    arrays: dict[str, Sequence[int]] = {key: values[key] for key in ("rows", "home")}
    return Pass(**{**values, **{key: np.array(array, dtype=np.int64) for key, array in arrays.items()}})
