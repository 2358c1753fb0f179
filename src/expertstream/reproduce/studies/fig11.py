"""Fig. 11: compute utilisation over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expertstream.analysis.activity import count_activity
from expertstream.analysis.windows import macs_in_windows
from expertstream.reproduce import drawing
from expertstream.reproduce.layers import SAMPLING, layer_points, simulated, with_strategies
from expertstream.reproduce.means import by_routing, cells, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study

STRATEGIES: Final = ("ep", "hydra", "fse-dp-paired")
TOKENS: Final = (64, 256, 1024)
SHOWN: Final = 256  # tokens of the iteration in the picture
WINDOWS: Final = 40


def points(setting: Setting) -> list[Point]:
    """Every layer of every model."""
    return with_strategies(layer_points(setting, tokens=TOKENS), STRATEGIES)


def measure(point: Point) -> Row:
    """Utilisation in each of ``WINDOWS`` equal windows of the run, over the whole package."""
    result = simulated(point)
    activity = count_activity(result.workload, result.plan, result.timeline)
    macs = macs_in_windows(result.timeline, activity.macs, WINDOWS).sum(axis=0)
    most = result.workload.package.macs_per_s * result.latency_ps / 10**12 / macs.size
    return {"latency_ps": result.latency_ps, "shares": (macs / most).tolist()}


def table(rows: Sequence[Row]) -> list[Row]:
    """The first layer's utilisation in each window at ``SHOWN`` tokens; the first window's row, which every (model,
    tokens, strategy) has, has the figures of all layers, too.
    """
    out: list[Row] = []
    by = ("model", "tokens", "strategy")
    some = cells(rows, *by)
    figures = summary(
        rows,
        by,
        mean_percent=lambda mine: float(np.mean([100 * np.mean(row["shares"]) for row in mine])),
        swing_percent=lambda mine: float(np.mean([100 * _swing(row["shares"]) for row in mine])),
    )
    for cell in figures:
        first = some[cell["model"], cell["tokens"], cell["strategy"]][0]
        width = first["latency_ps"] / len(first["shares"]) / 1e9
        windows = [
            {"from_ms": at * width, "to_ms": (at + 1) * width, "percent": 100 * share}
            for at, share in enumerate(first["shares"])
        ]
        where = {name: cell[name] for name in (*by, "captured")} | {"layer": first["layer"]}
        out.append(cell | where | windows[0])
        if cell["tokens"] == SHOWN:
            out += [where | window for window in windows[1:]]
    return out


def _swing(shares: Sequence[float]) -> float:
    """Standard deviation over the mean, in time."""
    return float(np.std(shares) / max(float(np.mean(shares)), 1e-12))


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per model: utilisation over time in one layer; the legend has the swing over all layers."""
    shown = [row for row in rows if row["tokens"] == SHOWN]
    text = (
        f"MAC utilisation of the 2x2 test chip over time, {SHOWN} tokens, first layer; per cent: "
        "standard deviation / mean, averaged over all layers"
    )
    return drawing.by_model(shown, _curves, xlabel="time in the layer (ms)", text=text, legend_cols=0)


def _curves(place: Axes, rows: Sequence[Row]) -> None:
    for (strategy,), some in cells(rows, "strategy").items():
        edges = [some[0]["from_ms"], *(row["to_ms"] for row in some)]
        colour, swing = drawing.colour_of(strategy), some[0]["swing_percent"]
        line = {"ep": "-", "hydra": "--"}.get(strategy, "-")
        label = f"{strategy}: {swing:.0f} %"
        place.stairs([row["percent"] for row in some], edges, color=colour, label=label, ls=line, lw=1.3)
    place.set_ylim(0, 122)  # room for the legend
    place.set_yticks(range(0, 101, 25))
    place.set_ylabel("MAC utilisation (%)", fontsize=8)
    place.legend(fontsize=6, frameon=False, loc="upper center", ncols=3, columnspacing=1)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What section VI says of this figure."""
    found, less, settings = [], 0, 0
    for label, own in by_routing(rows).items():
        firsts = [row for row in own if row["from_ms"] == 0]
        swing = {(row["strategy"], row["model"], row["tokens"]): row["swing_percent"] for row in firsts}
        at = list(dict.fromkeys((row["model"], row["tokens"]) for row in own))
        ours, theirs = ([swing[name, *where] for where in at] for name in ("fse-dp-paired", "ep"))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        less, settings = less + sum(ratio < 0.8 for ratio in ratios), settings + len(ratios)
        found.append(
            f"{label}it swings by {min(ours):.0f} to {max(ours):.0f} %, EP by {min(theirs):.0f} to {max(theirs):.0f} "
            f"%, in {sum(ratio < 0.8 for ratio in ratios)} of {len(ratios)} settings by below 0.8 of EP's, median "
            f"{float(np.median(ratios)):.2f}"
        )
    return [
        Claim(
            "VI, Fig. 11",
            "The utilisation of FSE-DP fluctuates much less",
            "".join(found),
            "agrees" if less >= 0.75 * settings else "differs",
            "The exceptions are 1024 tokens of small experts, where the MAC arrays are busy most of the time, and "
            "captures of Qwen1.5-MoE, whose shared experts fill the beginning of a layer under every strategy",
        )
    ]


STUDY = Study(
    name="fig11",
    title="Compute utilisation over time",
    section="VI, Fig. 11",
    points=points,
    measure=measure,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        *SAMPLING,
        f"Utilisation in {WINDOWS} equal windows of each run, mean over the dies; swing is the standard deviation over "
        "the windows divided by the mean.",
    ),
)
