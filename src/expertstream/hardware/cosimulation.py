"""The RTL in the place of the software scheduler: its simulation takes the decisions inside the event engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from expertstream.errors import WorkloadError
from expertstream.hardware.lockstep import simulator
from expertstream.hardware.parameters import Parameters
from expertstream.hardware.scheduler import Scheduler
from expertstream.schedule import Decision, OrderName

PATIENCE = 10_000  # cycles without an answer after which the RTL is stuck; a serial sort of 512 keys takes 11,600
Act = Callable[[Any], Awaitable[None]]


class RtlScheduler:
    """A ``schedule.LayerScheduler`` whose decisions the simulated RTL takes, at full speed and without back-pressure.

    The RTL's clock runs only while it works: ``cycles`` counts its cycles.

    Args:
        order: in which activated experts are considered.
        dies, experts: of the package and the model. tokens: the most tokens that an expert may have.

    Raises:
        ConfigError: more dies, experts or tokens than the hardware can have; names the range.
    """

    def __init__(self, order: OrderName, *, dies: int, experts: int, tokens: int) -> None:
        # The smallest hardware has 2 dies and 8 experts: what is not there is never pushed.
        parameters = Parameters(max(2, dies), max(8, experts), 1, max(4, tokens.bit_length()))
        self.cycles = 0
        self._dut = Scheduler(parameters)
        self._paired = order == "paired"
        self._left = self._running = 0
        self._act: Act | None = None
        self._simulation = simulator(self._dut)
        self._simulation.add_testbench(self._serve)

    @property
    def left(self) -> bool:
        """Whether some expert of the layer has not started."""
        return self._left > 0

    def begin(self, counts: Sequence[int], trajectories: Sequence[int]) -> None:
        """Push the experts of a layer, sort them, and wait until requests are accepted."""
        experts = [e for e, n in enumerate(counts) if n]
        self._left = len(experts)

        async def act(ctx: Any) -> None:
            ctx.set(self._dut.paired, self._paired)
            ctx.set(self._dut.experts.valid, 1)
            for e in experts:
                entry = {"expert": e, "tokens": counts[e], "trajectory": trajectories[e]}
                ctx.set(self._dut.experts.payload, entry)
                await self._tick(ctx)
            ctx.set(self._dut.experts.valid, 0)
            ctx.set(self._dut.start, 1)
            await self._tick(ctx)
            ctx.set(self._dut.start, 0)
            await self._until(ctx, self._dut.requests.ready)

        if experts:
            self._do(act)

    def decide(self, room: int) -> Decision:
        """Request a decision and take it."""
        found: list[Decision] = []

        async def act(ctx: Any) -> None:
            ctx.set(self._dut.requests.payload, room)
            ctx.set(self._dut.requests.valid, 1)
            await self._until(ctx, self._dut.requests.ready)
            await self._tick(ctx)
            ctx.set(self._dut.requests.valid, 0)
            ctx.set(self._dut.dispatch.ready, 1)
            await self._until(ctx, self._dut.dispatch.valid)
            payload = ctx.get(self._dut.dispatch.payload)
            found.append(Decision(int(payload.expert), bool(payload.streams), int(payload.die)))
            await self._tick(ctx)
            ctx.set(self._dut.dispatch.ready, 0)

        self._do(act)
        self._left, self._running = self._left - 1, self._running + 1
        return found[0]

    def complete(self, expert: int) -> None:
        """Report a completion; after the last one wait until the next layer can be pushed."""

        async def act(ctx: Any) -> None:
            ctx.set(self._dut.completions.payload, expert)
            ctx.set(self._dut.completions.valid, 1)
            await self._until(ctx, self._dut.completions.ready)
            await self._tick(ctx)
            ctx.set(self._dut.completions.valid, 0)
            if not self._left and not self._running:
                await self._until(ctx, self._dut.loading)

        self._running -= 1
        self._do(act)

    async def _tick(self, ctx: Any) -> None:
        await ctx.tick()
        self.cycles += 1

    async def _until(self, ctx: Any, flag: Any) -> None:
        began = self.cycles
        while not ctx.get(flag):
            if self.cycles - began > PATIENCE:
                raise WorkloadError(f"the RTL scheduler has not answered for {PATIENCE} cycles")
            await self._tick(ctx)

    async def _serve(self, ctx: Any) -> None:
        while True:
            if self._act is not None:
                await self._act(ctx)
                if ctx.get(self._dut.errors):
                    raise WorkloadError(f"the RTL scheduler reports errors {ctx.get(self._dut.errors):02b}")
                self._act = None
            await ctx.delay(0)  # until the next call; the clock stands

    def _do(self, act: Act) -> None:
        self._act = act
        while self._act is not None:
            self._simulation.advance()


class RtlSchedulers:
    """A ``schedule.SchedulerFactory`` that remembers what it made."""

    def __init__(self) -> None:
        self.made: list[RtlScheduler] = []

    def __call__(self, order: OrderName, *, dies: int, experts: int, tokens: int) -> RtlScheduler:
        """Make one; see ``RtlScheduler``."""
        self.made.append(RtlScheduler(order, dies=dies, experts=experts, tokens=tokens))
        return self.made[-1]

    @property
    def cycles(self) -> int:
        """Cycles of all of them."""
        return sum(scheduler.cycles for scheduler in self.made)
