"""Points that are one simulated layer: which layers and draws are taken, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from expertstream.analysis.bounds import lower_bounds
from expertstream.analysis.buffers import measure_buffers
from expertstream.analysis.busy_times import measure_busy_times
from expertstream.analysis.stalls import CAUSES, stall_ps
from expertstream.comparison import in_parts
from expertstream.errors import TraceError
from expertstream.explore.fields import change_package
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.reproduce.study import Point, Row, Setting
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options
from expertstream.trace import Routing, RoutingTrace, synthesize

MODELS: Final = ("phi-3.5-moe-paper", "yuan2-m32-paper", "deepseek-moe-16b", "qwen3-30b-a3b")
REQUESTS, TOKENS_PER_REQUEST = 16, 128  # of a draw; one half trains placements, the other is simulated
SAMPLING: Final = (
    "Synthetic routing is calibrated per model; WikiText-2 and C4 routings of the paper's models are not published.",
    "Every MoE layer is simulated. Unless --full, consecutive layers are shared out among the seeds: each seed draws "
    "routing for its own layers, and means over them give the 95 % confidence intervals (Student's t over the seeds).",
    "Of captures, layers are shared out among disjoint windows of the trace, as many as it is long, at most the seeds.",
    "16 requests of 128 tokens are drawn; half of them train placements, the others are simulated, a token of each in "
    "turn.",
)

MACS_DONE: Final = (
    "Utilisation is MACs done over what all arrays could do in the latency. Waiting for weights from SRAM or for "
    "control is no work, so that only a shorter latency is better."
)


def models_with_routing(setting: Setting) -> dict[str, str | None]:
    """What is simulated: the paper's models with synthetic routing (None), and captures that fit a preset (a path)."""
    return dict.fromkeys(MODELS) | captured(setting)


def captured(setting: Setting) -> dict[str, str | None]:
    """The captures of models that have a preset; of several of a model the one with the most tokens."""
    best: dict[str, tuple[int, str]] = {}
    for file in setting.traces:
        model = preset_of(file)
        if model is not None:
            size = _load(str(file)).n_tokens
            best[model] = max(best.get(model, (0, "")), (size, str(file)))
    return {model: path for model, (_, path) in best.items()}


def preset_of(file: Path) -> str | None:
    """The preset of a capture named MODEL...__...npz that it fits; None if there is none."""
    names = [name for name in MoEModel.preset_names() if file.name.startswith(name)]
    if not names:
        return None
    model = MoEModel.preset(max(names, key=len))
    try:
        _load(str(file)).check_fits(model)
    except TraceError:
        return None
    return model.name


def layer_points(
    setting: Setting, *, tokens: Sequence[int], sources: dict[str, str | None] | None = None
) -> list[Point]:
    """Points for every layer of every source and number of tokens, without a strategy.

    Args:
        sources: path of a capture, or None for synthetic routing, by model; None: ``models_with_routing``.
    """
    chosen = models_with_routing(setting) if sources is None else sources
    points: list[Point] = []
    for model, trace in chosen.items():
        make = _drawn if trace is None else _windows
        points += make(setting, model, trace or "", tokens)
    return points


def one_layer_per_seed(points: Sequence[Point]) -> list[Point]:
    """Of the points of each (model, tokens, seed) the one in the middle, where all layers would be too many."""
    groups: dict[tuple[str, int, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point["model"], point["tokens"], point["seed"]), []).append(point)
    return [mine[len(mine) // 2] for mine in groups.values()]


def with_strategies(points: Sequence[Point], strategies: Sequence[str], **rest: Any) -> list[Point]:
    """Each point under each strategy; ``rest``: more values of every point, such as ``package``."""
    return [point | rest | {"strategy": strategy} for point in points for strategy in strategies]


def _shares(layers: Sequence[int], setting: Setting, seeds: int) -> list[list[int]]:
    """Layers of each seed."""
    if setting.layers is not None:
        at = np.linspace(0, len(layers) - 1, min(setting.layers, len(layers))).round().astype(int)
        layers = [layers[i] for i in at]
    if setting.full:
        return [list(layers)] * seeds
    if seeds > len(layers):
        return [[layers[seed % len(layers)]] for seed in range(seeds)]
    return [part.tolist() for part in np.array_split(np.array(layers), seeds)]


def _drawn(setting: Setting, model: str, _: str, tokens: Sequence[int]) -> list[Point]:
    moe = MoEModel.preset(model).moe_layers
    return [
        # the layer before is drawn, too, as placements by affinity look at it
        {
            "model": model,
            "seed": seed,
            "drawn": [max(min(layers) - 1, moe[0]), max(layers)],
            "layer": layer,
            "tokens": n,
        }
        for seed, layers in enumerate(_shares(moe, setting, setting.seeds))
        for layer in layers
        for n in tokens
    ]


def _windows(setting: Setting, model: str, trace: str, tokens: Sequence[int]) -> list[Point]:
    whole = _load(trace)
    points: list[Point] = []
    for n in tokens:
        if whole.n_tokens <= n:
            continue
        windows = min(setting.seeds, in_parts(whole, n)[0].n_tokens // n)
        points += [
            {"model": model, "trace": trace, "seed": window, "layer": layer, "tokens": n}
            for window, layers in enumerate(_shares(whole.layer_index.tolist(), setting, windows))
            for layer in layers
        ]
    return points


@lru_cache(maxsize=4)
def _load(path: str) -> RoutingTrace:
    return RoutingTrace.load(path)


@lru_cache(maxsize=8)
def _draw(model: str, seed: int, first: int, last: int) -> RoutingTrace:
    return synthesize(
        MoEModel.preset(model),
        requests=REQUESTS,
        tokens_per_request=TOKENS_PER_REQUEST,
        layers=range(first, last + 1),
        seed=seed,
    )


@lru_cache(maxsize=16)
def _parts(source: tuple[Any, ...], tokens: int) -> tuple[RoutingTrace, Options]:
    return in_parts(_load(*source) if len(source) == 1 else _draw(*source), tokens)


def routing_of(point: Point) -> tuple[Routing, Options]:
    """The iteration of a point, and the options with the part of its trace that trains placements."""
    n, trace = point["tokens"], point.get("trace")
    if trace:
        evaluation, options = _parts((trace,), n)
        return evaluation.iteration(n, point["layer"], offset=point["seed"] * n), options
    evaluation, options = _parts((point["model"], point["seed"], *point["drawn"]), n)
    return evaluation.iteration(n, point["layer"]), options


def package_of(point: Point) -> Package:
    """The package of a point: ``package`` (default: the 2x2 test chip) with ``changes``, {"die.weight_buffer": ...}."""
    return change_package(Package.preset(point.get("package", "test-chip-2x2")), point.get("changes", {}))


def simulated(point: Point) -> Result:
    """Simulate the layer of a point.

    A point has model, layer, tokens, seed, strategy, the layers ``drawn`` or a ``trace``, and optionally ``package``,
    ``changes`` and ``options`` (fields of ``Options``).

    Raises:
        WorkloadError: the layer cannot run on the package.
    """
    routing, options = routing_of(point)
    known = Options(**{"training": options.training, **point.get("options", {})})
    return simulate(MoEModel.preset(point["model"]), package_of(point), routing, point["strategy"], options=known)


def layer_row(point: Point) -> Row:
    """Latency, bounds, buffers and traffic of the layer of a point (``simulated``)."""
    result = simulated(point)
    return row_of(result)


def row_of(result: Result) -> Row:
    """What most studies need of a run; ``Result.metrics`` has the rest, but costs several times as much."""
    timeline = result.timeline
    busy, buffers = measure_busy_times(timeline), measure_buffers(timeline)
    bounds = lower_bounds(result.workload, timeline)
    return {
        "latency_ps": result.latency_ps,
        "bound_ps": bounds.bound_ps,
        "ddr_bound_ps": bounds.ddr_ps,
        "compute_bound_ps": bounds.compute_ps,
        "ddr_bytes": int(busy.channel_bytes.sum()),
        "d2d_bytes": int(busy.link_bytes.sum()),
        "peak_bytes": buffers.package_peak_both_bytes,
        "peak_weight_bytes": int(buffers.package_peak_bytes[0]),
        "peak_token_bytes": int(buffers.package_peak_bytes[1]),
        "passes": result.plan.passes,
    }


def waits_of(result: Result) -> Row:
    """Shares of the latency for which MAC arrays wait, means over the dies, as ``wait_CAUSE`` (``stall_ps``)."""
    shares = stall_ps(result.timeline).sum(axis=0) / max(result.latency_ps * result.workload.package.n_dies, 1)
    return {f"wait_{cause.replace(' ', '_')}": float(share) for cause, share in zip(CAUSES, shares, strict=True)}
