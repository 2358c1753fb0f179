"""The RTL against ``schedule/``: the same layers, decision for decision, under random back-pressure."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat
from amaranth.sim import Simulator

from expertstream.errors import ExpertStreamError
from expertstream.hardware.parameters import Parameters
from expertstream.hardware.scheduler import Scheduler
from expertstream.schedule import Decision, OrderName, Qos, Slack, SoftwareScheduler, defer, pass_done, token_counts
from expertstream.schedule.cycles import CLOCK_HZ, MATCH_CYCLES, prepare_cycles

ORDERS: tuple[OrderName, ...] = ("paired", "paired", "id")  # of which each layer takes one


class LockStepError(ExpertStreamError):
    """The RTL and the software took different decisions."""


@dataclass(frozen=True)
class Layer:
    """A layer for the scheduler.

    Attributes:
        counts: tokens of each expert, int [experts].
        trajectories: dies that hold tokens of each expert, bit d for die d, int [experts].
    """

    counts: Sequence[int]
    trajectories: Sequence[int]


@dataclass
class Tally:
    """What a lock-step run has compared."""

    layers: int = 0
    decisions: int = 0
    preloads: int = 0
    verdicts: int = 0
    deferrals: int = 0
    cycles: int = 0


@dataclass
class _Source:
    """Offers what ``next_item`` returns (None: nothing now), with random gaps, and holds it until it is accepted."""

    port: Any
    next_item: Callable[[], Any]
    accepted: Callable[[Any], None] = lambda item: None
    offered: Any = None


@dataclass
class _Sink:
    """Accepts with random gaps."""

    port: Any
    accepted: Callable[[Any], None]


class _Bench:
    """Streams of one simulated scheduler, driven cycle by cycle."""

    def __init__(self, dut: Scheduler, rng: random.Random, tally: Tally) -> None:
        self.dut, self.rng, self.tally = dut, rng, tally

    async def pump(
        self,
        ctx: Any,
        sources: Sequence[_Source],
        sinks: Sequence[_Sink],
        finished: Callable[[], bool],
        watch: Callable[[bool], None] | None = None,
    ) -> None:
        """Run until ``finished``; transfers of one cycle are reported in the order of sources, then sinks."""
        eager = self.rng.choice((0.3, 0.7, 1.0, 1.0))  # of this stretch
        parts: list[_Source | _Sink] = [*sources, *sinks]
        handshakes = Cat(*(part.port.valid & part.port.ready for part in parts), *(sink.port.valid for sink in sinks))
        payloads = [sink.port.payload for sink in sinks]
        waited = 0
        while not finished():
            for source in sources:
                if source.offered is None and self.rng.random() < eager:
                    source.offered = source.next_item()
                    if source.offered is not None:
                        ctx.set(source.port.payload, source.offered)
                        ctx.set(source.port.valid, 1)
            for sink in sinks:
                ctx.set(sink.port.ready, self.rng.random() < eager)
            flags, *arrived = (await ctx.tick().sample(handshakes, *payloads))[2:]
            self.tally.cycles += 1
            for number, part in enumerate(parts):
                if not flags >> number & 1:
                    continue
                if isinstance(part, _Source):
                    item, part.offered = part.offered, None
                    ctx.set(part.port.valid, 0)
                    part.accepted(item)
                else:
                    part.accepted(arrived[number - len(sources)])
            if watch is not None:
                watch(bool(flags >> len(parts)))
            moved = flags & ((1 << len(parts)) - 1)
            waited = 0 if moved else waited + 1
            if waited > 100_000:
                raise LockStepError("the RTL has not moved for 100000 cycles")
        for sink in sinks:
            ctx.set(sink.port.ready, 0)

    async def push(self, ctx: Any, layer: Layer) -> None:
        """Push the layer's experts in random order."""
        experts = [e for e, n in enumerate(layer.counts) if n]
        self.rng.shuffle(experts)
        items = deque({"expert": e, "tokens": layer.counts[e], "trajectory": layer.trajectories[e]} for e in experts)
        sent: list[Any] = []
        source = _Source(self.dut.experts, lambda: items.popleft() if items else None, sent.append)
        await self.pump(ctx, [source], [], lambda: len(sent) == len(experts))

    async def pulse(self, ctx: Any, signal: Any) -> None:
        """Raise a signal for a cycle."""
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)
        self.tally.cycles += 1

    async def layer(self, ctx: Any, layer: Layer) -> None:
        """Push and run a layer; every decision must be that of the software."""
        p, order = self.dut.parameters, self.rng.choice(ORDERS)
        ctx.set(self.dut.paired, order == "paired")
        await self.push(ctx, layer)
        await self.pulse(ctx, self.dut.start)
        twin = SoftwareScheduler(order, dies=p.dies, experts=p.experts)
        twin.begin(layer.counts, layer.trajectories)
        todo = len(twin.remaining)
        self.tally.layers += 1
        if not todo:
            if not ctx.get(self.dut.done):
                raise LockStepError("a layer without experts is not done at once")
            await ctx.tick()
            return
        cycles = 1
        while not ctx.get(self.dut.requests.ready):
            await ctx.tick()
            cycles += 1
        self.tally.cycles += cycles
        if cycles != prepare_cycles(p.sorter, p.slots, todo):
            raise LockStepError(f"{todo} experts took {cycles} cycles to prepare")
        await self._run(ctx, twin, layer)

    async def _run(self, ctx: Any, twin: SoftwareScheduler, layer: Layer) -> None:
        expected: deque[Decision] = deque()
        taken: list[int] = []  # dispatched and not reported as completed
        todo = len(twin.remaining)
        asked_at = [0]

        def request() -> int | None:
            return self.rng.getrandbits(self.dut.parameters.dies) if twin.remaining else None

        def requested(room: int) -> None:
            expected.append(twin.decide(room))
            asked_at[0] = self.tally.cycles

        def completion() -> int | None:
            return taken.pop(self.rng.randrange(len(taken))) if taken and self.rng.random() < patience else None

        def dispatched(payload: Any) -> None:
            decision = Decision(int(payload.expert), bool(payload.streams), int(payload.die))
            wanted = expected.popleft()
            if decision != wanted or int(payload.trajectory) != layer.trajectories[wanted.expert]:
                raise LockStepError(f"the RTL decided {decision}, the software {wanted}; {layer}")
            self.tally.decisions += 1
            self.tally.preloads += not decision.streams
            taken.append(decision.expert)

        def watch(valid: bool) -> None:
            age = self.tally.cycles - asked_at[0]
            if expected and age <= MATCH_CYCLES and valid != (age == MATCH_CYCLES):
                raise LockStepError(f"{age} cycles after a request dispatch.valid is {valid}")

        patience = self.rng.choice((0.1, 0.5, 1.0))
        sources = [
            _Source(self.dut.requests, request, requested),
            _Source(self.dut.completions, completion, twin.complete),
        ]
        sink = _Sink(self.dut.dispatch, dispatched)
        await self.pump(ctx, sources, [sink], lambda: not (twin.remaining or twin.running or expected or taken), watch)
        for _ in range(3):
            if ctx.get(self.dut.done):
                break
            await ctx.tick()
            self.tally.cycles += 1
        if not ctx.get(self.dut.done) or ctx.get(self.dut.idle) != twin.idle:
            raise LockStepError(f"after {todo} experts the layer is not done, or dies stay busy")
        await ctx.tick()

    async def judge(
        self,
        ctx: Any,
        activated: dict[int, list[int]],
        qos: dict[int, Qos],
        counts: Sequence[int],
        theta_min: int,
        slack: Slack,
    ) -> list[int]:
        """Token buffering of the pushed layer; returns the requests that go on."""
        ctx.set(self.dut.theta_min, theta_min)
        verdicts, after = defer(list(activated.values()), counts, [qos[r] for r in activated], slack, theta_min)
        qos.update(zip(activated, after, strict=True))
        waits = dict(zip(activated, verdicts, strict=True))
        items = deque(
            {"request": r, "expert": e, "last": i == len(experts) - 1}
            for r, experts in activated.items()
            for i, e in enumerate(experts)
        )
        seen: list[tuple[int, bool]] = []

        def verdict(payload: Any) -> None:
            seen.append((int(payload.request), bool(payload.deferred)))
            if seen[-1] != list(waits.items())[len(seen) - 1]:
                raise LockStepError(f"the RTL's verdict is {seen[-1]}, the software's {waits}")
            self.tally.verdicts += 1
            self.tally.deferrals += seen[-1][1]

        source = _Source(self.dut.activations, lambda: items.popleft() if items else None)
        await self.pump(ctx, [source], [_Sink(self.dut.verdicts, verdict)], lambda: len(seen) == len(activated))
        return [r for r in activated if not waits[r]]

    async def update(self, ctx: Any, updates: Sequence[tuple[int, bool]]) -> None:
        """Send (request, opened) to the token-buffering unit."""
        items = deque({"request": r, "opened": opened} for r, opened in updates)
        sent: list[Any] = []
        source = _Source(self.dut.updates, lambda: items.popleft() if items else None, sent.append)
        await self.pump(ctx, [source], [], lambda: len(sent) == len(updates))


def simulator(dut: Any) -> Simulator:
    """A simulator of ``dut`` with the scheduler's clock."""
    simulation = Simulator(dut)
    simulation.add_clock(1 / CLOCK_HZ)
    return simulation


def run_layers(parameters: Parameters, layers: Sequence[Layer], seed: int) -> Tally:
    """Run given layers in lock step.

    Raises:
        LockStepError: the RTL differs from the software; names the seed.
    """

    async def work(ctx: Any, bench: _Bench) -> None:
        for layer in layers:
            await bench.layer(ctx, layer)

    return _simulate(parameters, seed, work)


def run_random(parameters: Parameters, decisions: int, seed: int) -> Tally:
    """Run random layers, with token buffering, in lock step until ``decisions`` decisions have been compared.

    Raises:
        LockStepError: the RTL differs from the software; names the seed.
    """

    async def work(ctx: Any, bench: _Bench) -> None:
        rng, p = bench.rng, parameters
        slack = Slack(rng.randint(0, 3), rng.randint(3, 10), saved=rng.randint(1, 4))
        ctx.set(bench.dut.deferrals, slack.deferrals)
        ctx.set(bench.dut.passes, slack.passes)
        ctx.set(bench.dut.saved, slack.saved)
        qos = {r: Qos() for r in range(p.requests)}
        while bench.tally.decisions < decisions:
            routed = random_requests(rng, p)
            counts = token_counts([[e for e, _ in tokens] for tokens in routed.values()], p.experts)
            activated = {r: [e for e, _ in tokens] for r, tokens in routed.items()}
            running = list(routed)
            if rng.random() < 0.3:
                await bench.push(ctx, layer_of(routed, p))
                running = await bench.judge(ctx, activated, qos, counts, rng.randint(0, 4), slack)
                await bench.pulse(ctx, bench.dut.clear)
            await bench.layer(ctx, layer_of({r: routed[r] for r in running}, p))
            updates = [(r, rng.random() < 0.05) for r in running]
            qos |= {r: Qos() if opened else pass_done(qos[r], slack) for r, opened in updates}
            await bench.update(ctx, updates)

    return _simulate(parameters, seed, work)


def random_requests(rng: random.Random, p: Parameters) -> dict[int, list[tuple[int, int]]]:
    """Random (expert, die) pairs of some requests: few hot experts and many cold ones, as in real routing."""
    popularity = [rng.random() ** 3 + 0.01 for _ in range(p.experts)]
    most = (1 << p.token_bits) - 1
    chosen = sorted(rng.sample(range(p.requests), rng.randint(1, p.requests)))
    per_request = max(1, min(2 * p.experts, most) // len(chosen))
    skew = rng.choice((1, p.dies))  # tokens of a request on one die, or anywhere
    routed = {}
    for request in chosen:
        home = rng.randrange(p.dies)
        experts = rng.choices(range(p.experts), popularity, k=rng.randint(1, per_request))
        routed[request] = [(e, (home + rng.randrange(skew)) % p.dies) for e in experts]
    return routed


def layer_of(routed: dict[int, list[tuple[int, int]]], p: Parameters) -> Layer:
    """The layer that the scheduler sees of requests' (expert, die) pairs."""
    counts, trajectories = [0] * p.experts, [0] * p.experts
    for tokens in routed.values():
        for expert, die in tokens:
            counts[expert] += 1
            trajectories[expert] |= 1 << die
    return Layer(counts, trajectories)


def _simulate(parameters: Parameters, seed: int, work: Callable[[Any, _Bench], Any]) -> Tally:
    dut = Scheduler(parameters)
    tally = Tally()
    bench = _Bench(dut, random.Random(seed), tally)

    async def testbench(ctx: Any) -> None:
        await work(ctx, bench)
        if ctx.get(dut.errors):
            raise LockStepError(f"the RTL reports errors {ctx.get(dut.errors):02b}")

    simulation = simulator(dut)
    simulation.add_testbench(testbench)
    try:
        simulation.run()
    except LockStepError as error:
        raise LockStepError(f"{error} ({parameters}, seed {seed})") from None
    return tally
