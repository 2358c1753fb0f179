"""Pictures of concepts that are drawn from runs of the engine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from docs.generate.results import TOKENS, Case, synthetic
from docs.generate.svg import COLOURS, INK, MUTED, Canvas
from expertstream.analysis import busy_in_windows, occupancy
from expertstream.comparison import in_parts
from expertstream.engine.layout import COMPUTE
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import Result, simulate
from expertstream.strategy import Options
from expertstream.trace import packaged_trace, synthesize
from expertstream.units import format_bytes, format_time

WINDOWS = 40


def ring_and_flow(file: Path) -> None:
    """Two experts on four dies, phase by phase and as micro-slices: computes of each die, and the weight buffers."""
    model = MoEModel.one_layer(d_model=1024, d_ffn=1024, n_experts=2, top_k=2)
    routing = synthesize(model, requests=1, tokens_per_request=192, layers=[0]).iteration(tokens=192, layer=0)
    chip, options = Package.preset("test-chip-2x2"), Options(micro_slices=4, rings=1)
    runs = {name: simulate(model, chip, routing, name, options=options) for name in ("fse-dp-naive", "fse-dp")}
    end = max(run.latency_ps for run in runs.values())
    top = max(int(_package_bytes(run)[1].max()) for run in runs.values())
    canvas = Canvas(760, 380, "Computes and weight buffers of two experts: ring of slices, and flow of micro-slices")
    for (name, run), y in zip(runs.items(), (24, 204), strict=True):
        peak = format_bytes(int(_package_bytes(run)[1].max()))
        what = "whole slices, phase by phase" if name == "fse-dp-naive" else "micro-slices, sent on at once"
        canvas.text(16, y, f"{name}: {what}; {format_time(run.latency_ps)}, at most {peak} of weights", bold=True)
        _computes(canvas, run, 70, y + 10, 670 / end)
        _levels(canvas, run, 70, y + 156, 670 / end, 50 / top)
    canvas.write(file)


def _computes(canvas: Canvas, run: Result, x: float, y: float, scale: float) -> None:
    rows = np.flatnonzero(run.timeline.kind == COMPUTE)
    channel_of = {int(tag): i for i, tag in enumerate(np.unique(run.timeline.tag[rows]))}
    for die in range(4):
        canvas.text(16, y + 15 + 21 * die, f"die {die}", colour=MUTED)
    for row in rows.tolist():
        start, length = run.timeline.start_ps[row] * scale, (run.timeline.end_ps - run.timeline.start_ps)[row] * scale
        colour = COLOURS[channel_of[int(run.timeline.tag[row])] % 4 + 4 * int(run.expert[row] > 0)]
        canvas.rect(x + start, y + 2 + 21 * int(run.timeline.die[row]), max(length - 0.6, 0.8), 17, colour)


def _levels(canvas: Canvas, run: Result, x: float, y: float, scale: float, height: float) -> None:
    times, level = _package_bytes(run)
    points = [(x, y)]
    for time, before, after in zip(times, np.concatenate(([0], level[:-1])), level, strict=True):
        points += [(x + time * scale, y - before * height), (x + time * scale, y - after * height)]
    canvas.area([*points, (x + times[-1] * scale, y)], COLOURS[0])
    canvas.text(16, y - 2, "weights", colour=MUTED)
    canvas.line([(x, y), (740, y)], MUTED, width=1)


def _package_bytes(run: Result) -> tuple[np.ndarray, np.ndarray]:
    """Weight bytes in the package as a step function: times ps and levels, int64 [n]."""
    steps = [occupancy(run.timeline, die, 0) for die in range(4)]
    times = np.unique(np.concatenate([time for time, _ in steps]))
    level = sum(held[np.searchsorted(time, times, side="right") - 1] for time, held in steps)
    return times, np.asarray(level)


def bounds(file: Path) -> None:
    """Latency over tokens with both bounds, Qwen3-30B-A3B on the test chip."""
    case = next(case for case in synthetic() if case.model == "qwen3-30b-a3b")
    canvas = Canvas(760, 380, "Latency of a layer and its lower bounds over the tokens per iteration")
    low, high = math.log10(0.08e9), math.log10(20e9)
    xs = {n: 110 + 150 * i for i, n in enumerate(TOKENS)}

    def y(ps: float) -> float:
        return 330 - 300 * (math.log10(ps) - low) / (high - low)

    for value in (0.1, 0.3, 1, 3, 10):
        canvas.line([(80, y(value * 1e9)), (600, y(value * 1e9))], "#dddad2", width=1)
        canvas.text(72, y(value * 1e9) + 4, f"{value:g} ms", anchor="end", colour=MUTED)
    for n, x in xs.items():
        canvas.text(x, 352, f"{n} tokens", anchor="middle", colour=MUTED)
    for key, dash in (("ddr_bound_ps", ""), ("compute_bound_ps", "6 4")):
        points = [(xs[n], y(_mean(case, n, key))) for n in TOKENS]
        canvas.line(points, INK, width=2.5, dash=dash)
    canvas.text(116, y(_mean(case, 16, "ddr_bound_ps")) + 24, "DDR bound", bold=True)
    canvas.text(278, y(_mean(case, 64, "compute_bound_ps")) + 14, "compute bound", bold=True)
    names = ("tp", "ep", "fse-dp-paired", "tp-per-expert", "fse-dp-adaptive")
    for i, name in enumerate(names):
        for n in TOKENS:
            canvas.circle(xs[n] + 9 * (i - 2), y(case.rows[n, name]["latency_ps"]), 4.5, COLOURS[i])
        canvas.circle(626, 60 + 22 * i, 4.5, COLOURS[i])
        canvas.text(636, 64 + 22 * i, name)
    canvas.write(file)


def _mean(case: Case, tokens: int, key: str) -> float:
    rows = [row for row in case.found.rows if row["tokens"] == tokens and row["strategy"] == "ep"]
    return float(sum(row[key] for row in rows) / len(rows))


def paired_load(file: Path) -> None:
    """MAC and DDR use over time with experts in id order and in paired-load order, where it helps and where not."""
    canvas = Canvas(760, 436, "Use of MAC arrays and DDR channels over time, id order and paired load")
    for i, name in enumerate(("phi-3.5-moe", "qwen3-30b-a3b")):
        model = MoEModel.preset(name)
        trace, options = in_parts(packaged_trace(model), 1024)
        routing = trace.iteration(tokens=1024, layer=1)
        chip = Package.preset("test-chip-2x2")
        runs = {s: simulate(model, chip, routing, s, options=options) for s in ("fse-dp", "fse-dp-paired")}
        end = max(run.latency_ps for run in runs.values())
        for j, (strategy, run) in enumerate(runs.items()):
            x, y = 20 + 375 * i, 48 + 212 * j
            canvas.text(x, y - 8, f"{name}, {strategy}: {format_time(run.latency_ps)}, {run.metrics.gap:.3f} x bound")
            _use(canvas, run, x, y, 345 / end)
    canvas.text(20, 22, "1024 tokens, one layer", bold=True)
    for k, label in enumerate(("MAC arrays busy", "DDR channels busy")):
        canvas.rect(300 + 170 * k, 12, 12, 12, COLOURS[k])
        canvas.text(318 + 170 * k, 22, label)
    canvas.write(file)


def _use(canvas: Canvas, run: Result, x: float, y: float, scale: float) -> None:
    windows = busy_in_windows(run.timeline, WINDOWS)
    width, height = run.latency_ps * scale / WINDOWS, 70
    each = np.diff(windows.edges_ps)
    for k, busy in enumerate((windows.compute_ps, windows.channel_ps)):
        base = y + 80 * (k + 1) - 4
        points = [(x, base)]
        for i, value in enumerate((busy.mean(axis=0) / each).tolist()):
            points += [(x + i * width, base - height * value), (x + (i + 1) * width, base - height * value)]
        canvas.area([*points, (x + WINDOWS * width, base)], COLOURS[k])
        canvas.line([(x, base), (x + 345, base)], MUTED, width=1)
