"""What limits a run, and which strategy wins, in words that follow from the measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis import CAUSES
from expertstream.units import counted, format_bytes, format_time

if TYPE_CHECKING:
    from expertstream.simulate import Result

SATURATED = 0.85  # share of the bound, or of the time for which a resource is busy, from which it is named as the limit
WORTH_SAYING = 0.05  # share of the latency below which a stall is not mentioned
EQUAL = 0.01  # relative difference of latencies below which strategies count as equally fast
WAITS = {
    "ddr": "waits for DDR",
    "d2d": "waits for D2D links",
    "space": "waits for buffer space",
    "other die": "waits for another die or the dispatcher",
    "no work": "has no work left",
}
WAIT = {cause: text.replace("waits", "wait").replace("has", "have") for cause, text in WAITS.items()}


def run_verdict(result: Result) -> list[str]:
    """Sentences about one run, the limit first."""
    metrics = result.metrics
    if metrics.bounds.bound_ps == 0:
        return ["No token activates an expert: there is nothing to compute."]
    return [_limit(result), *_stalls(result), *_passes(result), *_imbalance(result), _memory(result)]


def comparison_verdict(rows: Sequence[dict[str, Any]], baseline: str) -> list[str]:
    """A sentence for each number of tokens: the fastest strategy and those that equal it.

    Args:
        rows: of ``Comparison.by_tokens``.
    """
    sentences = []
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        mine = [row for row in rows if row["tokens"] == tokens]
        best = min(mine, key=lambda row: row["latency_ps"])
        same = [
            row["strategy"] for row in mine if row is not best and row["latency_ps"] <= best["latency_ps"] * (1 + EQUAL)
        ]
        sentence = f"At {counted(tokens, 'token')} {best['strategy']} is the fastest: {format_time(best['latency_ps'])}"
        if best["speedup"] and best["strategy"] != baseline:
            sentence += f", {best['speedup']:.2f}x as fast as {baseline}"
        if best["gap"]:
            sentence += f", {best['gap']:.2f} x the lower bound"
        sentence += f"; within 1 %: {', '.join(same)}." if same else "."
        sentences.append(sentence)
    return sentences


def percent(share: float) -> str:
    """A share in per cent; from 99 % on with a decimal and rounded down, so that only 1 is 100 %."""
    if 0.99 <= share < 1:
        return f"{math.floor(1000 * share) / 10:.1f} %"
    return f"{100 * share:.0f} %"


def _limit(result: Result) -> str:
    metrics = result.metrics
    bounds, busy, latency = metrics.bounds, metrics.busy, metrics.latency_ps
    reached = f"{percent(bounds.bound_ps / latency)} of the bound"
    times = f"latency {format_time(latency)}, lower bound {format_time(bounds.bound_ps)}"
    kind = "DDR" if bounds.ddr_ps >= bounds.compute_ps else "Compute"
    if bounds.bound_ps >= SATURATED * latency:
        return f"{kind}-bound: {reached} ({times})."
    ddr, macs = float(busy.channel_share.mean()), float(busy.compute_share.mean())
    link = float(busy.link_share.max(initial=0.0))
    if max(ddr, macs, link) < SATURATED:
        shares = f"DDR channels are busy {percent(ddr)} of the time, MAC arrays {percent(macs)}"
        shares += f", the busiest link {percent(link)}" if busy.link_share.size else ""
        return f"No resource is saturated: {shares}; {reached} ({times})."
    if ddr == max(ddr, macs, link):
        return f"DDR-bound, above the bound: channels are busy {percent(ddr)} of the time; {reached} ({times})."
    if macs >= link:
        return f"Compute-bound: MAC arrays are busy {percent(macs)} of the time; {reached} ({times})."
    a, b = result.timeline.network.links[int(busy.link_share.argmax())].tolist()
    return f"D2D-bound: the link from die {a} to die {b} is busy {percent(link)} of the time; {reached} ({times})."


def _stalls(result: Result) -> list[str]:
    shares = result.metrics.stall_ps / max(result.metrics.latency_ps, 1)  # [dies, causes]
    live = _live(result)
    mean = shares[live].mean(axis=0)
    top = int(mean.argmax())
    sentences = []
    if mean[top] >= WORTH_SAYING:
        sentences.append(f"MAC arrays {WAIT[CAUSES[top]]} {percent(float(mean[top]))} of the time, mean over the dies.")
    above = shares - mean  # what one die suffers more than the others
    above[:, top] = 0
    above[~live] = 0
    die, cause = np.unravel_index(int(above.argmax()), above.shape)
    if shares[die, cause] >= WORTH_SAYING:
        sentences.append(f"Die {die} {WAITS[CAUSES[cause]]} {percent(float(shares[die, cause]))} of the time.")
    return sentences


def _live(result: Result) -> NDArray[np.bool_]:
    """Dies that are not dead, bool [dies]."""
    live = np.ones(result.metrics.stall_ps.shape[0], dtype=bool)
    live[list(result.workload.package.faults.dead_dies)] = False
    return live


def _passes(result: Result) -> list[str]:
    metrics, workload = result.metrics, result.workload
    once = int(workload.expert_bytes[workload.activated].sum())
    if metrics.ddr_bytes <= once:
        return []
    times = f"Weights are loaded {metrics.ddr_bytes / once:.1f} times"
    if metrics.passes == 1:
        return [f"{times}: the tokens of an expert come in several turns."]
    return [
        f"{times}: the layer takes {counted(metrics.passes, 'pass')}, because the token buffers cannot hold all tokens."
    ]


def _imbalance(result: Result) -> list[str]:
    compute = result.metrics.busy.compute_ps
    worst = float(compute.max() / compute[_live(result)].mean())
    if worst < 1.2:
        return []
    return [f"The load is uneven: die {int(compute.argmax())} computes {worst:.2f} times as long as the mean."]


def _memory(result: Result) -> str:
    buffers, given = result.metrics.buffers, result.metrics.given_bytes
    fill = buffers.peak_bytes[:, 0] / np.maximum(given[:, 0], 1)
    die = int(fill.argmax())
    return (
        f"Buffers hold at most {format_bytes(buffers.package_peak_both_bytes)} in the package at a time; the fullest "
        f"weight buffer is that of die {die}, {percent(float(fill[die]))} of {format_bytes(int(given[die, 0]))}."
    )
