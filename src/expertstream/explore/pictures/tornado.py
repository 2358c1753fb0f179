"""Tornado charts: how much each constant of the technology profile moves one design's energy, area and power."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from matplotlib.figure import Figure

from expertstream.analysis.sensitivity import OUTPUTS, Swing, sensitivity
from expertstream.errors import ConfigError
from expertstream.explore.jobs import Inputs
from expertstream.explore.pictures.labels import BLUE, ORANGE, column_label, put_title
from expertstream.explore.pictures.pareto import describe
from expertstream.explore.results import Results
from expertstream.explore.rows import Row
from expertstream.explore.worker import load_strategies, simulate_job

MOST_BARS: Final = 10
BRACKETS: Final = "in brackets how sure it is (high: stated by its source, medium: derived from one, low: assumed)"
LEAST: Final = 1e-3  # narrower swings, as shares of the result, are not shown


@dataclass(frozen=True, eq=False)
class Tornado:
    """Swings of each of ``OUTPUTS`` around its nominal value, in the units that are drawn."""

    nominal: Mapping[str, float]
    swings: Mapping[str, tuple[Swing, ...]]
    title: str


def tornado(results: Results, point: int | None = None) -> Tornado:
    """Simulate one design again and vary each constant over its range.

    Args:
        point: number of its row; default: the feasible row (else any) that is best at the first objective.

    Raises:
        ConfigError: no such row, or none that ran; an input of the row cannot be read any more.
    """
    row = _chosen(results, point)
    inputs = Inputs(results.spec)
    job = inputs.job(row["point"], tuple(row[path] for path in inputs.fields))
    if job.hash != row["hash"]:
        raise ConfigError("a model, package, technology or trace has changed since these results were made; run again")
    batch = inputs.batch([job])
    run = simulate_job(batch, job, load_strategies(batch))
    assert run.technology is not None
    nominal, swings = sensitivity(run.workload, run.plan, run.timeline, run.technology)
    what = describe(row, list(results.spec.fields))
    swings = {n: tuple(s for s in swings[n] if abs(s.high - s.low) > LEAST * nominal[n]) for n in OUTPUTS}
    return Tornado(nominal, swings, f"point {row['point']} of {results.spec.model}: {what}")


def _chosen(results: Results, point: int | None) -> Row:
    rows = results.ran
    if not rows:
        raise ConfigError("no point ran, so there is nothing to vary")
    if point is None:
        first, way = next(iter(results.objectives().items()))
        sign = 1.0 if way == "minimize" else -1.0
        return min(rows, key=lambda row: (not row["feasible"], sign * row[first], row["point"]))
    found = [row for row in rows if row["point"] == point]
    if not found:
        raise ConfigError(f"--point {point} is no point that ran; the column 'point' of the results names them")
    return found[0]


def draw_tornado(data: Tornado) -> Figure:
    """A panel per output: bars from the result at a constant's low end to that at its high end, widest first."""
    shown = [name for name in OUTPUTS if data.swings[name]]
    most = max(min(len(data.swings[name]), MOST_BARS) for name in shown)
    figure = Figure(figsize=(4.6 * len(shown), 0.32 * most + 1.7), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False).ravel(), shown, strict=True):
        label, factor = column_label(name)
        middle = data.nominal[name] * factor
        swings = data.swings[name][:MOST_BARS]
        for i, swing in enumerate(swings):
            for end, colour in ((swing.low, BLUE), (swing.high, ORANGE)):
                axes.barh(i, end * factor - middle, left=middle, color=colour, height=0.7)
        axes.axvline(middle, color="black", linewidth=0.8)
        axes.set_yticks(range(len(swings)), [swing_text(swing) for swing in swings], fontsize=7)
        axes.set_ylim(most - 0.5, -0.5)
        axes.set_xlabel(f"{label}; nominal {middle:.4g}", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.margins(x=0.08)
    put_title(figure, f"{data.title}\nblue: the constant at its low end, orange: at its high end; {BRACKETS}")
    return figure


def swing_text(swing: Swing) -> str:
    """A constant and how sure it is (``BRACKETS``)."""
    return f"{swing.constant} ({swing.confidence})"
