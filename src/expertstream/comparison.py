"""Compare strategies over layers and batch sizes, on the same iterations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from expertstream.arguments import as_numbers, check_kind
from expertstream.errors import BufferTooSmallError, ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.report.html import write_comparison_html
from expertstream.simulate import Result, Row, latency_without_faults, simulate
from expertstream.strategy import Options, Strategy, get_strategy, strategy_names
from expertstream.trace import Mix, RoutingTrace
from expertstream.units import counted
from expertstream.workload import Spread

Splits = dict[int, tuple[RoutingTrace, RoutingTrace]]  # by the least tokens that are evaluated


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

    def __repr__(self) -> str:
        """What was compared, in one line; ``by_tokens`` has the table."""

        def of(name: str) -> str:
            return ", ".join(str(value) for value in dict.fromkeys(row[name] for row in self.rows))

        return (
            f"Comparison({of('model')} on {of('package')}, tokens {of('tokens')}, layers {of('layer')}: "
            f"{of('strategy')}; baseline {self.baseline}; by_tokens() has the table)"
        )

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
    tokens: int | Sequence[int] = (16, 64, 256, 1024),
    layers: int | Sequence[int] | None = None,
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
        tokens: tokens per iteration, one number or several. layers: the model's layer numbers, one or several; None:
            three spread over the trace.
        strategies: names, ``file.py:Name``, strategies of your own, or "all".
        mix: tokens of many requests in turn, or of one. spread: how tokens are spread over the dies.
        baseline: the strategy that speed-ups refer to.
        technology: constants of energy and area; default: ``Technology.preset("5nm")``.
        proof: replay every timeline on random weights against the dense layer.
        progress: called as ``progress(done, total, what)``.

    Raises:
        ConfigError: a strategy is unknown, or two have the same name; an argument is of another kind.
        TraceError: the trace does not fit the model or has too few tokens.
        WorkloadError: a layer cannot run on the package, or a strategy that needs a training part has none; not for
            those of "all", unless none can run.
        ReplayError: a strategy did not do the work.
    """
    check_kind("model", model, MoEModel)
    check_kind("package", package, Package)
    check_kind("trace", trace, RoutingTrace)
    if options is not None:
        check_kind("options", options, Options)
    if technology is not None:
        check_kind("technology", technology, Technology)
    tokens = as_numbers("tokens", tokens)
    given = strategies if isinstance(strategies, Iterable) and not isinstance(strategies, str) else [strategies]
    plans = [get_strategy(name) for one in given for name in (strategy_names() if one == "all" else [one])]
    names = [strategy.name for strategy in plans]
    reference = baseline if isinstance(baseline, str) and baseline in names else get_strategy(baseline).name
    if len(set(names)) < len(names):
        raise ConfigError(f"strategies to compare need names of their own; these are {', '.join(names)}")
    if not plans:
        raise ConfigError("nothing to compare: give at least one strategy")
    trace.check_fits(model)
    chosen = _three_layers(trace.layer_index.tolist()) if layers is None else as_numbers("layers", layers)
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
            progress(done, len(jobs), f"{strategy.name}, {counted(n, 'token')}, layer {layer}")
        if (n, strategy.name) in left_out:
            continue
        routing, with_training = routings[n, layer], parts[n][1]
        try:
            result = simulate(
                model, package, routing, strategy, spread=spread, options=with_training, technology=technology
            )
        except BufferTooSmallError as error:
            if strategy.name not in optional:
                raise BufferTooSmallError(f"{strategy.name} at {counted(n, 'token')}, layer {layer}: {error}") from None
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
        raise BufferTooSmallError(f"no strategy can run; {name} at {counted(n, 'token')}: {why}")
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
