"""Simulate one layer under one strategy."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis import Budget, Metrics, measure
from expertstream.arguments import check_kind
from expertstream.engine.run import run
from expertstream.engine.timeline import Timeline
from expertstream.errors import WorkloadError
from expertstream.model import MoEModel
from expertstream.numerics import check_coverage, check_loads, prove
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.planning import plan_on
from expertstream.renumber import on_the_damaged_package
from expertstream.report.html import write_run_html
from expertstream.report.perfetto import write_perfetto
from expertstream.strategy import DEFAULT, Options, Plan, Strategy, blame, check_plan, get_strategy
from expertstream.strategy.registry import BUILT_IN
from expertstream.trace import Routing
from expertstream.trace.routing import short_source
from expertstream.units import counted, format_bytes, format_time
from expertstream.workload import LayerWorkload, Spread

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Result:
    """One simulated layer.

    Attributes:
        strategy: its name. workload: the layer's tokens and experts on the package.
        plan: the strategy's layout of the work. timeline: what happened when, the source of all that follows.
        technology: constants of energy and area; None: the default profile.
    """

    strategy: str
    workload: LayerWorkload
    plan: Plan
    timeline: Timeline
    technology: Technology | None = None

    def __repr__(self) -> str:
        """What was run and how long it takes, in one line; ``summary`` has more."""
        work = self.workload
        return (
            f"Result({self.strategy}: {work.model.name} on {work.package.name}, {counted(work.n_tokens, 'token')}, "
            f"layer {work.routing.layer}, latency {format_time(self.latency_ps)}; summary() has more)"
        )

    @property
    def latency_ps(self) -> int:
        """Time from the start of the layer to its last output, ps."""
        return self.timeline.latency_ps

    @cached_property
    def metrics(self) -> Metrics:
        """Bounds, busy times of resources, buffers, stalls, energy, area; worked out once."""
        return measure(self.workload, self.plan, self.timeline, self.technology)

    @property
    def expert(self) -> NDArray[np.int64]:
        """Expert of each timeline row, int64 [rows], -1 for token traffic."""
        tag = self.timeline.tag
        return np.where(tag >= 0, self.plan.slices[tag, 0], -1) if self.plan.slices.size else tag

    def check(self) -> int:
        """Check that the layer's work was done: each (token, expert, column) exactly once.

        A built-in strategy must have loaded each weight once a pass; one of a user's own at least once, and at most as
        often as it computed with it.

        Returns:
            The number of (token, expert) pairs computed, shared experts included.

        Raises:
            ReplayError: something was computed or loaded too often, too seldom, too late or not at all.
        """
        check_coverage(self.timeline, self.plan, self.workload)
        load = self.plan.batches(self.workload).load.sum(axis=2)
        times = (load > 0).sum(axis=0) if self.strategy in {s.name for s in BUILT_IN} else None
        check_loads(self.timeline, self.plan, self.workload, times=times)
        return int(load.sum())

    def prove(self, seed: int = 0) -> float:
        """Replay the computes on random weights; return the largest error against the dense layer.

        Raises:
            ReplayError: something was not computed exactly once, or the error exceeds 1e-10.
        """
        return prove(self.workload, self.plan, self.timeline, seed=seed)

    def summary(self) -> str:
        """The main figures, one a line."""
        m, routing = self.metrics, self.workload.routing
        label = "SYNTHETIC routing" if routing.synthetic else "routing"
        gap = "no work" if m.gap is None else f"{m.gap:.3f} x lower bound (max of DDR and compute)"
        lines = [
            f"{self.strategy}: {self.workload.model.name} on {self.workload.package.name}, "
            f"{counted(self.workload.n_tokens, 'token')}, layer {routing.layer}, {label} "
            f"({short_source(routing.source)})",
            f"  latency      {format_time(m.latency_ps)} = {gap}",
            f"  utilisation  {100 * m.utilisation:.1f} % of the MAC arrays",
            f"  traffic      {format_bytes(m.ddr_bytes)} from DDR, {format_bytes(m.d2d_bytes)} x hops over D2D",
            *_head_start(m),
            f"  peak SRAM    {format_bytes(m.buffers.package_peak_both_bytes)} in the package",
            f"  energy       {_range(m.energy.total_pj / 1e9)} mJ, {_range(m.energy.per_token_pj / 1e9)} mJ per token",
            f"  power        {_range(m.energy.average_power_w)} W, at the peak {_range(m.energy.peak_power_w)} W",
            f"  die area     {_range(m.area.total_mm2)} mm2 (constants: {m.technology})",
            f"  rated power  {_range(m.rated_power_w)} W with everything at its full rate",
            f"  budget       {Budget().in_words(m.area, m.rated_power_w)}",
            f"  passes       {m.passes}",
            f"  DDR layout   {self.plan.ddr_layout}",
            f"  prefetch     {self.plan.prefetch}",
            *(f"  note         {note}" for note in self.plan.notes),
        ]
        return "\n".join(lines)

    def to_perfetto(self, path: str | os.PathLike[str]) -> None:
        """Write the timeline for ui.perfetto.dev; the file appears whole or not at all."""
        write_perfetto(self, Path(path))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report of this run as one HTML file. Raises ConfigError if it cannot be written."""
        write_run_html(self, path)

    def to_dict(self) -> Row:
        """Inputs and metrics as plain JSON types."""
        routing = self.workload.routing
        return {
            "model": self.workload.model.name,
            "package": self.workload.package.name,
            "strategy": self.strategy,
            "tokens": self.workload.n_tokens,
            "layer": routing.layer,
            "routing_source": routing.source,
            "synthetic": routing.synthetic,
            "passes": self.plan.passes,
            "ddr_layout": self.plan.ddr_layout,
            "prefetch": self.plan.prefetch,
            "notes": list(self.plan.notes),
            "faults": self.workload.package.faults.in_words,
            **self.metrics.to_dict(),
        }


def _head_start(m: Metrics) -> list[str]:
    if not m.lead_ps:
        return []
    return [
        f"  head start   {format_time(m.lead_ps)} before the gate's result: {format_bytes(m.ahead_bytes)} that were "
        f"needed, {format_bytes(m.wasted_bytes)} wasted"
    ]


def _range(levels: NDArray[np.float64]) -> str:
    low, nominal, high = (f"{level:.3g}" for level in levels)
    return f"{nominal} ({low} to {high})"


def simulate(
    model: MoEModel,
    package: Package,
    routing: Routing,
    strategy: str | Strategy = DEFAULT,
    *,
    spread: Spread = "contiguous",
    options: Options | None = None,
    technology: Technology | None = None,
) -> Result:
    """Simulate one MoE layer of one iteration.

    Args:
        routing: the tokens' experts, for example ``trace.iteration(tokens=64, layer=12)``.
        strategy: a name, ``file.py:Name``, or a strategy of your own.
        spread: how tokens are spread over the dies.
        options: micro-slices, placement, rings and the like; None: the defaults.
        technology: constants of energy and area; default: ``Technology.preset("5nm")``.

    Raises:
        ConfigError: the strategy is unknown, or is a user's own and fails; an argument is of another kind.
        WorkloadError: the routing does not fit the model, or the layer cannot run on the package.
    """
    options = Options() if options is None else options
    check_kind("model", model, MoEModel)
    check_kind("package", package, Package)
    check_kind("routing", routing, Routing)
    check_kind("options", options, Options)
    if technology is not None:
        check_kind("technology", technology, Technology)
    chosen = get_strategy(strategy)
    workload = LayerWorkload.of(model, package, routing, spread=spread)
    found = [_run(chosen, workload, variant, technology) for variant in chosen.variants(options)]
    best = min(found, key=lambda result: result.latency_ps)
    if len(found) > 1:
        tried = ", ".join(f"{format_time(r.latency_ps)} with {r.plan.notes[0]}" for r in found)
        which, *others = best.plan.notes
        best = replace(best, plan=replace(best.plan, notes=(which, f"the fastest of: {tried}", *others)))
    return best


def _run(strategy: Strategy, workload: LayerWorkload, options: Options, technology: Technology | None) -> Result:
    def make(package: Package) -> Plan:
        plan = strategy.plan(workload.on(package), options)
        check_plan(plan, strategy, workload, options)
        return plan

    with blame(strategy.plan):
        plan, network = plan_on(workload.package, make)
        timeline = run(plan.work, network, plan.dispatcher, decision_ps=options.decision_ps or 0)
    if plan.die_of_token is not None:
        workload, plan = replace(workload, die_of_token=plan.die_of_token), replace(plan, die_of_token=None)
    return Result(strategy.name, *on_the_damaged_package(workload, plan, timeline), technology)


def latency_without_faults(
    model: MoEModel,
    package: Package,
    routing: Routing,
    strategy: str | Strategy = DEFAULT,
    *,
    spread: Spread = "contiguous",
    options: Options | None = None,
) -> int | None:
    """Latency of the same layer on the package without its faults, ps; the arguments are those of ``simulate``.

    None where the package has no faults, or where the layer cannot run without them (a trajectory over more dies needs
    more buffer).
    """
    if not package.faults:
        return None
    try:
        return simulate(model, package.healthy, routing, strategy, spread=spread, options=options).latency_ps
    except WorkloadError:
        return None
