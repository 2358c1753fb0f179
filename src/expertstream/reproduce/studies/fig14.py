"""Fig. 14: throughput of whole models, attention included, over the slack of token buffering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expertstream.reproduce import drawing
from expertstream.reproduce.iterations import CURVES, LOAD, PAIRED, SLACKS, curve_points, iterations_row
from expertstream.reproduce.means import cells, interval
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study

STYLES: Final = dict(
    zip(CURVES, ("#0072B2", "#56B4E9", "#999999", "#F0E442", "#E69F00", "#D55E00", "#009E73"), strict=True)
)


def points(setting: Setting) -> list[Point]:
    """Every model and number of tokens under every curve."""
    return curve_points(setting, list(CURVES))


def table(rows: Sequence[Row]) -> list[Row]:
    """Throughput of each (model, tokens, curve), and its ratios to EP and to no slack under the same seed."""
    out: list[Row] = []
    for (model, tokens), mine in cells(rows, "model", "tokens").items():
        of = {(row["curve"], row["seed"]): row for row in mine}
        for (curve,), some in cells(mine, "curve").items():
            values = {
                "tokens_per_s": [row["tokens_per_s"] for row in some],
                "speedup_over_ep": [row["tokens_per_s"] / of["ep", row["seed"]]["tokens_per_s"] for row in some],
                "gain_over_no_slack": [
                    row["tokens_per_s"] / of[f"{PAIRED}, 0 %", row["seed"]]["tokens_per_s"] for row in some
                ],
                "iteration_ms": [row["iteration_ps"] / 1e9 for row in some],
                "deferrals_per_iteration": [row["deferrals"] / row["iterations"] for row in some],
                "experts_share_percent": [100 * row["experts_share"] for row in some],
                "decode_percent": [100 * row["decode_share"] for row in some],
                "energy_per_token_mj": [row["energy_per_token_pj"] / 1e9 for row in some],
            }
            extent = {"seeds": len(some), "iterations": some[0]["iterations"], "every": some[0]["every"]}
            row: Row = {"model": model, "tokens": tokens, "curve": curve, **extent}
            for name, each in values.items():
                row[name], row[f"{name}_half_interval"] = interval(each)
            out.append(row)
    return out


def draw(rows: Sequence[Row]) -> Figure:
    """A panel per model; bars are throughput relative to EP."""
    text = "Throughput of whole models on the 2x2 test chip, attention included, over the slack of token buffering"
    return drawing.by_model(rows, _bars, xlabel="tokens per iteration", text=text, legend_cols=4)


def _bars(place: Axes, rows: Sequence[Row]) -> None:
    by_curve = cells(rows, "curve")
    width = 0.86 / len(by_curve)
    for number, ((curve,), some) in enumerate(by_curve.items()):
        at = [group + (number - (len(by_curve) - 1) / 2) * width for group in range(len(some))]
        place.bar(
            at,
            [row["speedup_over_ep"] for row in some],
            width * 0.94,
            yerr=[row["speedup_over_ep_half_interval"] for row in some],
            error_kw={"lw": 0.7},
            label=curve,
            color=STYLES[curve],
        )
    groups = [tokens for (tokens,) in cells(rows, "tokens")]
    place.set_xticks(range(len(groups)), [str(n) for n in groups])
    lowest = min(row["speedup_over_ep"] for row in rows)
    place.set_ylim(bottom=0.05 * int(20 * 0.96 * lowest))
    place.set_ylabel("throughput / EP", fontsize=8)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What section VI says of this figure."""
    of = {(row["model"], row["tokens"], row["curve"]): row for row in rows}
    at = list(dict.fromkeys((row["model"], row["tokens"]) for row in rows))
    speedups = [of[(*where, f"{PAIRED}, 0 %")]["speedup_over_ep"] for where in at]
    plain = {
        slack: [of[(*where, f"{PAIRED}, {slack} %")]["gain_over_no_slack"] for where in at] for slack in SLACKS[1:]
    }
    helps = max(max(values) for values in plain.values()) > 1.005
    refilled = [of[(*where, f"{PAIRED}, 20 %, refilled")]["gain_over_no_slack"] for where in at]
    ranges = ", ".join(f"{min(values):.3f}x to {max(values):.3f}x at {slack} %" for slack, values in plain.items())
    phi = [of["phi-3.5-moe-paper", n, f"{PAIRED}, 0 %"] for m, n in at if m == "phi-3.5-moe-paper"]
    phi_best = max(
        of["phi-3.5-moe-paper", row["tokens"], f"{PAIRED}, {s} %"]["gain_over_no_slack"]
        for row in phi
        for s in SLACKS[1:]
    )
    fewest = min(n for _, n in at)
    worst = min(of[(m, n, f"{PAIRED}, 30 %")]["gain_over_no_slack"] for m, n in at if n == fewest)
    extent = _extent(rows)
    return [
        Claim(
            "VI, Fig. 14",
            "FSE-DP with paired load is 1.22x to 2.00x faster end to end than the baselines",
            f"{min(speedups):.2f}x to {max(speedups):.2f}x over EP, without slack{extent}",
            "agrees" if min(speedups) >= 1.17 and max(speedups) <= 2.05 else "differs",
            "Attention, router and output head take the same time under every strategy, and where DDR is the "
            "bottleneck, EP is slower only by its imbalance between channels",
        ),
        Claim(
            "VI, Fig. 14",
            "Moderate slack helps",
            f"throughput over no slack {ranges}; with other requests' tokens in the place of deferred ones "
            f"{min(refilled):.3f}x to {max(refilled):.3f}x at 20 %{extent}",
            "agrees" if helps else "differs",
            "A deferral saves the loads of its cold experts once, but nothing is saved where another request needs the "
            "same expert; the deferred tokens are missing in this iteration and load other experts in the next",
        ),
        Claim(
            "VI, Fig. 14",
            "Too much slack hurts when few tokens remain",
            f"30 % slack at {fewest} tokens: down to {worst:.3f}x{extent}",
            "agrees" if worst < 0.995 else "differs",
            "" if worst < 0.995 else "Deferred requests leave dies and channels no emptier than before",
        ),
        Claim(
            "VI, Fig. 14",
            "There is little gain on Phi-3.5-MoE, because its FFN share is small",
            f"experts take {min(row['experts_share_percent'] for row in phi):.0f} to "
            f"{max(row['experts_share_percent'] for row in phi):.0f} % of the time; the best gain of slack is "
            f"{phi_best:.3f}x{extent}",
            "agrees" if phi_best < 1.02 else "differs",
            "The FFN share is not small here: weights from DDR take most of the time of each layer",
        ),
    ]


def _extent(rows: Sequence[Row]) -> str:
    """How much was simulated, where it was not every layer."""
    every, iterations = rows[0]["every"], rows[0]["iterations"]
    return "" if every == 1 else f" (estimate: {iterations} iterations, experts of every {every}th MoE layer)"


STUDY = Study(
    name="fig14",
    title="End-to-end throughput with attention, over the slack of token buffering",
    section="VI, Fig. 14",
    points=points,
    measure=iterations_row,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        *LOAD,
        "theta_min is 2: an expert with one token is cold. Refilled: other requests' tokens take the place of deferred "
        "ones in the budget; the paper does not say whether they do.",
    ),
)
