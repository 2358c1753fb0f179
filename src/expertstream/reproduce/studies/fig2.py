"""Fig. 2: how unevenly the tokens of an iteration are spread over the experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from expertstream.reproduce import drawing
from expertstream.reproduce.layers import SAMPLING, layer_points, routing_of
from expertstream.reproduce.means import cells, summary
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
    """A row per (model, tokens, rank of the expert): its load over the mean load; figures of the cell in each row."""
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
            out.append(figures | {"rank": rank + 1, "experts": experts, "load": load})
    return out


def _mean(rows: Sequence[Row], column: str) -> float:
    return float(sum(row[column] for row in rows) / len(rows))


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per model: load over the mean load against the expert's rank."""
    models = cells(rows, "model")
    figure, axes = drawing.panels(-(-len(models) // 2), 2)
    colours = ("#0072B2", "#E69F00", "#009E73", "#D55E00")
    for place, ((model,), mine) in zip(axes, models.items(), strict=False):
        for number, ((tokens,), some) in enumerate(cells(mine, "tokens").items()):
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
        place.set_title(drawing.title_of(model, "captured" if mine[0]["captured"] else None), fontsize=8)
        place.set_xlabel("experts, hottest first (%)", fontsize=7)
        place.set_ylabel("tokens / mean", fontsize=8)
        place.set_ylim(bottom=0)
    drawing.hide_rest(axes, len(models))
    drawing.legend(figure, axes[0])
    drawing.caption(figure, "Load of the experts in one layer of one iteration, sorted by load: mean over the layers")
    return figure


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What sections I and II say of loads."""
    own = [row for row in rows if not row["captured"] and row["rank"] == 1]
    few, many = min(row["tokens"] for row in own), max(row["tokens"] for row in own)
    at = {(row["model"], row["tokens"]): row for row in own}
    models = list(dict.fromkeys(row["model"] for row in own))
    ginis = {n: [at[model, n]["gini"] for model in models] for n in (few, many)}
    cold = [row["cold_percent_of_activated"] for row in own if row["tokens"] == few]
    falls = all(at[model, few]["gini"] >= at[model, many]["gini"] for model in models)
    return [
        Claim(
            "I, II",
            "Expert loads are long-tailed, more so at small token counts",
            f"Gini index {min(ginis[few]):.2f} to {max(ginis[few]):.2f} at {few} tokens, {min(ginis[many]):.2f} to "
            f"{max(ginis[many]):.2f} at {many}",
            "agrees" if falls and min(ginis[few]) > 0.3 else "differs",
            "Part of the tail at small counts is chance: few tokens cannot be spread evenly",
        ),
        Claim(
            "I, II",
            "A cold expert serves one or two tokens, yet all of its weights must be fetched",
            f"{min(cold):.0f} to {max(cold):.0f} % of the activated experts have at most {COLD} tokens at {few} tokens",
            "agrees" if min(cold) > 50 else "differs",
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
