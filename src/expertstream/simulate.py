"""Simulate one layer under one strategy; compare strategies over layers and batch sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis import Budget, Metrics, measure
from expertstream.engine.run import run
from expertstream.engine.timeline import Timeline
from expertstream.errors import BufferTooSmallError, ConfigError, WorkloadError
from expertstream.model import MoEModel
from expertstream.numerics import check_coverage, check_loads, prove
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.planning import plan_on
from expertstream.renumber import on_the_damaged_package
from expertstream.report.html import write_comparison_html, write_run_html
from expertstream.report.perfetto import write_perfetto
from expertstream.strategy import DEFAULT, Options, Plan, Strategy, blame, check_plan, get_strategy, strategy_names
from expertstream.strategy.registry import BUILT_IN
from expertstream.trace import Routing, RoutingTrace
from expertstream.units import format_bytes, format_time
from expertstream.workload import LayerWorkload, Spread

Mix = Literal["round-robin", "single-request"]
Row = dict[str, Any]
Splits = dict[int, tuple[RoutingTrace, RoutingTrace]]  # by the least tokens that are evaluated


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
            f"{self.workload.n_tokens} tokens, layer {routing.layer}, {label} ({routing.source})",
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
        ConfigError: the strategy is unknown, or is a user's own and fails.
        WorkloadError: the routing does not fit the model, or the layer cannot run on the package.
    """
    options = Options() if options is None else options
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


@dataclass(frozen=True)
class Comparison:
    """Rows of metrics, one for each (tokens, layer, strategy), with its ``speedup`` over the baseline.

    Attributes:
        baseline: the strategy that speed-ups refer to.
        rows: ``Result.to_dict`` of each run, with ``speedup``, and latencies without the package's faults.
        pairs: (token, expert) pairs that every strategy computed, all iterations together; checked on the timelines,
            as is that every weight was loaded once a pass.
        training_tokens: for each number of tokens, the tokens of the training part; 0: the trace was too short to
            split, or the options brought a training part of their own.
        left_out: those of "all" that have no rows, as (tokens, name, reason): fitted ones where the trace could not be
            split, and those whose buffers are too small in some layer.
        proof_error: largest error of the replays against the dense layer, None where they were not asked for.
        rerun: simulates the run of a row again, as timelines are not kept; None: it is not known how.
    """

    baseline: str
    rows: tuple[Row, ...]
    pairs: int = 0
    training_tokens: dict[int, int] = field(default_factory=dict)
    left_out: tuple[tuple[int, str, str], ...] = ()
    proof_error: float | None = None
    rerun: Callable[[Row], Result] | None = None

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one HTML file: the table, and the runs at the most tokens of one layer in detail.

        Raises:
            ConfigError: there are no rows, or the file cannot be written.
        """
        write_comparison_html(self, path)

    def by_tokens(self) -> list[Row]:
        """Means over the layers of each (tokens, strategy): latency, gap, speed-up, nominal energy; peaks are maxima.

        The speed-up is the ratio of summed latencies, as of a model that runs these layers one after another; so is
        the slow-down that a package's faults cause, None without faults.
        """
        cells: dict[tuple[int, str], list[Row]] = {}
        for row in self.rows:
            cells.setdefault((row["tokens"], row["strategy"]), []).append(row)
        table = []
        for (tokens, strategy), rows in cells.items():
            latency = sum(r["latency_ps"] for r in rows)
            base = sum(r["latency_ps"] for r in cells.get((tokens, self.baseline), []))
            bound = sum(r["bound_ps"] for r in rows)
            table.append(
                {
                    "tokens": tokens,
                    "strategy": strategy,
                    "layers": len(rows),
                    "latency_ps": latency // len(rows),
                    "speedup": base / latency if base and latency else None,
                    "gap": latency / bound if bound else None,
                    "utilisation": sum(r["utilisation"] * r["latency_ps"] for r in rows) / max(latency, 1),
                    "overhead": sum(r["overhead"] * r["latency_ps"] for r in rows) / max(latency, 1),
                    "ddr_bytes": sum(r["ddr_bytes"] for r in rows) // len(rows),
                    "ahead_bytes": sum(r["ahead_bytes"] for r in rows) // len(rows),
                    "wasted_bytes": sum(r["wasted_bytes"] for r in rows) // len(rows),
                    "d2d_bytes": sum(r["d2d_bytes"] for r in rows) // len(rows),
                    "peak_package_bytes": max(r["peak_package_bytes"] for r in rows),
                    "energy_pj": sum(r["energy_pj"][1] for r in rows) / len(rows),
                    "slowdown": _ratio(latency, [r["healthy_latency_ps"] for r in rows]),
                    "passes": max(r["passes"] for r in rows),
                    "ddr_layout": rows[0]["ddr_layout"],
                    "prefetch": rows[0]["prefetch"],
                    "weight_buffer_bytes": max(max(r["weight_buffer_bytes"]) for r in rows),
                    "token_buffer_bytes": max(max(r["token_buffer_bytes"]) for r in rows),
                    "synthetic": rows[0]["synthetic"],
                }
            )
        return table


def compare(
    model: MoEModel,
    package: Package,
    trace: RoutingTrace,
    *,
    tokens: Sequence[int] = (16, 64, 256, 1024),
    layers: Sequence[int] | None = None,
    strategies: Sequence[str | Strategy] | str | Strategy = "all",
    mix: Mix = "round-robin",
    spread: Spread = "contiguous",
    baseline: str | Strategy = "ep",
    options: Options | None = None,
    technology: Technology | None = None,
    proof: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Simulate every strategy on the same iterations, and check on the timelines that all did the same work.

    For each number of tokens the trace is split by requests (``trace.split``): placements are fitted on the training
    part, and every strategy runs iterations of the evaluation part. A trace too short for that is used whole; of
    "all" strategies those that need a training part are then left out, as are those whose buffers are too small.
    ``options.training`` replaces the split.

    Args:
        tokens: tokens per iteration. layers: the model's layer numbers; None: three spread over the trace.
        strategies: names, ``file.py:Name``, strategies of your own, or "all".
        mix: tokens of many requests in turn, or of one. spread: how tokens are spread over the dies.
        baseline: the strategy that speed-ups refer to.
        technology: constants of energy and area; default: ``Technology.preset("5nm")``.
        proof: replay every timeline on random weights against the dense layer.
        progress: called as ``progress(done, total, what)``.

    Raises:
        ConfigError: a strategy is unknown, or two have the same name.
        TraceError: the trace does not fit the model or has too few tokens.
        WorkloadError: a layer cannot run on the package, or a strategy that needs a training part has none; not for
            those of "all", unless none can run.
        ReplayError: a strategy did not do the work.
    """
    given = [strategies] if isinstance(strategies, (str, Strategy)) else strategies
    plans = [get_strategy(name) for one in given for name in (strategy_names() if one == "all" else [one])]
    names = [strategy.name for strategy in plans]
    reference = baseline if isinstance(baseline, str) and baseline in names else get_strategy(baseline).name
    if len(set(names)) < len(names):
        raise ConfigError(f"strategies to compare need names of their own; these are {', '.join(names)}")
    if not plans or not tokens:
        raise ConfigError("nothing to compare: give at least one strategy and one number of tokens")
    trace.check_fits(model)
    chosen = _three_layers(trace.layer_index.tolist()) if layers is None else list(layers)
    splits: Splits = {}
    parts = {n: in_parts(trace, n, options, mix=mix, splits=splits) for n in tokens}
    optional = set(strategy_names() if "all" in given else ())
    left_out = {
        (n, strategy.name): "no tokens of the trace are left to fit on"
        for n in tokens
        for strategy in plans
        if strategy.name in optional and strategy.fitted and parts[n][1].training is None
    }
    jobs = [(n, layer, s) for n in tokens for layer in chosen for s in plans]
    # Layer by layer: of a trace in a file each is read once.
    routings = {(n, layer): parts[n][0].iteration(n, layer, mix=mix) for layer in chosen for n in tokens}
    rows: list[Row] = []
    pairs: dict[tuple[int, int], int] = {}
    worst = 0.0
    for done, (n, layer, strategy) in enumerate(jobs):
        if progress:
            progress(done, len(jobs), f"{strategy.name}, {n} tokens, layer {layer}")
        if (n, strategy.name) in left_out:
            continue
        routing, with_training = routings[n, layer], parts[n][1]
        try:
            result = simulate(
                model, package, routing, strategy, spread=spread, options=with_training, technology=technology
            )
        except BufferTooSmallError as error:
            if strategy.name not in optional:
                raise BufferTooSmallError(f"{strategy.name} at {n} tokens, layer {layer}: {error}") from None
            left_out[n, strategy.name] = str(error)
            continue
        pairs[n, layer] = result.check()  # the same for all: they cover the same routing exactly once
        worst = max(worst, result.prove()) if proof else worst
        healthy = latency_without_faults(model, package, routing, strategy, spread=spread, options=with_training)
        rows.append(
            result.to_dict() | {"healthy_latency_ps": healthy, "slowdown": _ratio(result.latency_ps, [healthy])}
        )
    if progress:
        progress(len(jobs), len(jobs), "done")
    rows = [row for row in rows if (row["tokens"], row["strategy"]) not in left_out]  # a mean is over all layers
    if not rows:
        (n, name), why = list(left_out.items())[-1]
        raise BufferTooSmallError(f"no strategy can run; {name} at {n} tokens: {why}")
    _add_speedups(rows, reference)
    strategy_of = dict(zip(names, plans, strict=True))

    def rerun(row: Row) -> Result:
        routing, with_training = routings[row["tokens"], row["layer"]], parts[row["tokens"]][1]
        strategy = strategy_of[row["strategy"]]
        return simulate(model, package, routing, strategy, spread=spread, options=with_training, technology=technology)

    return Comparison(
        reference,
        tuple(rows),
        pairs=sum(pairs.values()),
        training_tokens={n: trace.n_tokens - parts[n][0].n_tokens for n in tokens},
        left_out=tuple((n, name, why) for (n, name), why in left_out.items()),
        proof_error=worst if proof else None,
        rerun=rerun,
    )


def in_parts(
    trace: RoutingTrace,
    tokens: int,
    options: Options | None = None,
    *,
    mix: Mix = "round-robin",
    splits: Splits | None = None,
) -> tuple[RoutingTrace, Options]:
    """The part of a trace that iterations of so many tokens are taken from, and the options with the other part.

    The whole trace and the options as they are where the options bring a training part of their own, or where no token
    (or, for single-request iterations, no request that is long enough) would be left. ``splits`` keeps the parts of
    this trace for other numbers of tokens that give the same ones.
    """
    options = Options() if options is None else options
    if options.training is not None or trace.n_tokens <= tokens:
        return trace, options
    splits = {} if splits is None else splits
    least = max(tokens, trace.n_tokens - trace.n_tokens // 2)  # fewer than half leave the split as it is
    if least not in splits:
        splits[least] = trace.split(least=least)
    training, evaluation = splits[least]
    if mix == "single-request" and np.bincount(evaluation.request[evaluation.request >= 0]).max(initial=0) < tokens:
        return trace, options
    return evaluation, replace(options, training=training)


def _ratio(latency_ps: int, references: Sequence[int | None]) -> float | None:
    total = 0 if None in references else sum(reference or 0 for reference in references)
    return latency_ps / total if total else None


def _three_layers(layers: list[int]) -> list[int]:
    return sorted({layers[0], layers[len(layers) // 2], layers[-1]})


def _add_speedups(rows: Iterable[Row], baseline: str) -> None:
    base = {(r["tokens"], r["layer"]): r["latency_ps"] for r in rows if r["strategy"] == baseline}
    for row in rows:
        reference = base.get((row["tokens"], row["layer"]))
        row["speedup"] = reference / row["latency_ps"] if reference and row["latency_ps"] else None
