"""Fig. 2: how unevenly the tokens of an iteration are spread over the experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expertstream.reproduce import drawing
from expertstream.reproduce.layers import SAMPLING, layer_points, routing_of
from expertstream.reproduce.means import by_routing, cells, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study
from expertstream.trace.statistics import gini

COLD: Final = 2  # tokens of a cold expert at most


def points(setting: Setting) -> list[Point]:
    """The routing of every layer; nothing is simulated."""
    return layer_points(setting, tokens=setting.tokens)


def measure(point: Point) -> Row:
    """Tokens of every expert, the hottest first, and figures of the spread."""
    counts = sorted(routing_of(point)[0].counts.tolist(), reverse=True)
    active = [count for count in counts if count]
    hot = max(len(counts) // 10, 1)
    return {
        "counts": counts,
        "gini": gini(routing_of(point)[0].counts.astype(float)),
        "active": len(active) / len(counts),
        "cold": sum(count <= COLD for count in active) / len(active),
        "hot_share": sum(counts[:hot]) / sum(counts),
    }


def table(rows: Sequence[Row]) -> list[Row]:
    """A row per (model, tokens, rank of the expert): its load; that of the first has the figures of the cell, too."""
    out: list[Row] = []
    for mine in cells(rows, "model", "tokens").values():
        figures = summary(
            mine,
            ("model", "tokens"),
            gini=lambda some: _mean(some, "gini"),
            activated_percent=lambda some: 100 * _mean(some, "active"),
            cold_percent_of_activated=lambda some: 100 * _mean(some, "cold"),
            hottest_tenth_percent_of_tokens=lambda some: 100 * _mean(some, "hot_share"),
        )[0]
        experts = len(mine[0]["counts"])
        for rank in range(experts):
            load = sum(row["counts"][rank] for row in mine) / len(mine)
            where = {name: figures[name] for name in ("model", "tokens", "captured")}
            out.append(where | {"rank": rank + 1, "experts": experts, "load": load} | (figures if rank == 0 else {}))
    return out


def _mean(rows: Sequence[Row], column: str) -> float:
    return float(sum(row[column] for row in rows) / len(rows))


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per model: load over the mean load against the expert's rank."""
    text = "Load of the experts in one layer of one iteration, sorted by load: mean over the layers"
    return drawing.by_model(rows, _curves, xlabel="experts, hottest first (%)", text=text)


def _curves(place: Axes, rows: Sequence[Row]) -> None:
    colours = ("#0072B2", "#E69F00", "#009E73", "#D55E00")
    for number, ((tokens,), some) in enumerate(cells(rows, "tokens").items()):
        mean = sum(row["load"] for row in some) / len(some)
        place.plot(
            [100 * row["rank"] / row["experts"] for row in some],
            [row["load"] / mean for row in some],
            label=f"{tokens} tokens",
            color=colours[number % 4],
            marker=drawing.MARKERS[number % 4],
            markevery=max(len(some) // 8, 1),
            ms=3,
            lw=1.2,
        )
    place.axhline(1, color="black", lw=0.6, ls=":")
    place.set_ylabel("tokens / mean", fontsize=8)
    place.set_ylim(bottom=0)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What sections I and II say of loads."""
    first = {label: [row for row in own if row["rank"] == 1] for label, own in by_routing(rows).items()}
    few, many = min(row["tokens"] for row in first[""]), max(row["tokens"] for row in first[""])
    ginis, colds, falls, cold = [], [], [], []
    for label, own in first.items():
        at = {n: [row["gini"] for row in own if row["tokens"] == n] for n in (few, many)}
        falls += [a >= b for a, b in zip(at[few], at[many], strict=True)] + [gini > 0.3 for gini in at[few]]
        ranges = [f"{min(some):.2f} to {max(some):.2f} at {n}" for n, some in at.items() if some]
        ginis.append(f"{label}{' tokens, '.join(ranges)}")
        mine = [row["cold_percent_of_activated"] for row in own if row["tokens"] == few]
        cold += mine
        colds.append(f"{label}{min(mine):.0f} to {max(mine):.0f} % of the activated experts")
    return [
        Claim(
            "I, II",
            "Expert loads are long-tailed, more so at small token counts",
            f"Gini index {''.join(ginis)}",
            "agrees" if all(falls) else "differs",
            "Part of the tail at small counts is chance: few tokens cannot be spread evenly",
        ),
        Claim(
            "I, II",
            "A cold expert serves one or two tokens, yet all of its weights must be fetched",
            f"{''.join(colds)} have at most {COLD} tokens at {few}",
            "agrees" if min(cold) > 40 else "differs",
            "With few experts each gets more tokens",
        ),
    ]


STUDY = Study(
    name="fig2",
    title="Long-tailed loads of the experts",
    section="I, Fig. 2",
    points=points,
    measure=measure,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        *SAMPLING,
        "The paper shows WinoGrande; the skew of our synthetic routing is fitted to published measurements of each "
        "model (docs/traces.md), so that this figure shows the fit, and captures show the fact.",
    ),
)
