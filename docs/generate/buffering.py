"""When token buffering helps, and what overlap gives: the table and the sentences of docs/serving.md.

``python -m docs.generate.buffering``: the table, from the one of fig14 that docs/figures keeps. ``... decodes``: the
share of decodes in it. ``... idle``: for how much of the time DDR stands idle in attention blocks. ``... overlap``: by
how much loads of the next block's weights raise throughput. The last two run whole iterations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

from docs.generate.reproduction import table_of
from expertstream.errors import ConfigError
from expertstream.reproduce.drawing import title_of
from expertstream.reproduce.iterations import CURVES, EVERY, ITERATIONS, PAIRED, TOKENS, iterations_row
from expertstream.reproduce.layers import MODELS
from expertstream.reproduce.studies import fig14
from expertstream.reproduce.study import Point, Row

OVERLAPPED: Final = ({"strategy": PAIRED}, {"strategy": "tp"}, CURVES["ep"], CURVES["hydra"])


def main(arguments: Sequence[str]) -> int:
    """Print the table and what it says, or one of ``SHOW``."""
    show = " ".join(arguments) or "table"
    if show not in SHOW:
        raise ConfigError(f"{show} was given; allowed: {', '.join(SHOW)}")
    print(SHOW[show]())
    return 0


def _kept() -> dict[tuple[str, int, str], Row]:
    return {(row["model"], row["tokens"], row["curve"]): row for row in table_of(fig14.STUDY)}


def table() -> str:
    """Throughput over the slack, and in how many cases it helps."""
    of = _kept()
    return f"{_table(of)}\n\n{_sentences(of)}"


def decodes() -> str:
    """Share of the tokens that are decodes."""
    shares = [row["decode_percent"] for row in _kept().values()]
    return f"{min(shares):.0f} to {max(shares):.0f} %"


def _points() -> list[Point]:
    extent = {"seed": 0, "iterations": ITERATIONS, "every": EVERY}
    return [{"model": model, "tokens": tokens, **extent} for tokens in TOKENS for model in MODELS]


def idle() -> str:
    """Time for which DDR stands idle in attention blocks, of the whole time."""
    found: dict[int, list[float]] = {}
    for point in _points():
        row = iterations_row(point | {"strategy": PAIRED, "overlap": False})
        found.setdefault(point["tokens"], []).append(100 * row["attention_ddr_idle_share"])
    return ", ".join(f"{min(each):.1f} to {max(each):.1f} % at {tokens} tokens" for tokens, each in found.items())


def overlap() -> str:
    """By how much overlap raises throughput at most, by strategy."""
    parts = []
    for strategy in OVERLAPPED:
        gains = []
        for point in _points():
            without, with_it = (
                iterations_row(point | strategy | {"overlap": on})["tokens_per_s"] for on in (False, True)
            )
            gains.append(100 * (with_it / without - 1))
        parts.append(f"{max(gains):.2f} % under `{strategy['strategy']}`")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _gain(of: dict[tuple[str, int, str], Row], model: str, tokens: int, curve: str) -> float:
    return float(of[model, tokens, f"{PAIRED}, {curve}"]["gain_over_no_slack"])


def _table(of: dict[tuple[str, int, str], Row]) -> str:
    lines = [
        "| model | tokens | `fse-dp-paired` / `ep` | / `hydra` | 10 % slack | 20 % | 30 % | 20 %, refilled | deferrals "
        "an iteration at 20 % | experts' share |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, tokens in dict.fromkeys((model, tokens) for model, tokens, _ in of):
        plain = of[model, tokens, f"{PAIRED}, 0 %"]
        hydra = plain["tokens_per_s"] / of[model, tokens, "hydra"]["tokens_per_s"]
        gains = [
            f"{_gain(of, model, tokens, curve):.3f}" + ("" if abs(_gain(of, model, tokens, curve) - 1) > half else " ~")
            for curve in ("10 %", "20 %", "30 %", "20 %, refilled")
            for half in [of[model, tokens, f"{PAIRED}, {curve}"]["gain_over_no_slack_half_interval"]]
        ]
        deferrals = of[model, tokens, f"{PAIRED}, 20 %"]["deferrals_per_iteration"]
        share = plain["experts_share_percent"]
        cells = [title_of(model), str(tokens), f"{plain['speedup_over_ep']:.2f}x", f"{hydra:.2f}x", *gains]
        lines.append("| " + " | ".join([*cells, f"{deferrals:.1f}", f"{share:.0f} %"]) + " |")
    return "\n".join(lines)


def _sentences(of: dict[tuple[str, int, str], Row]) -> str:
    at = list(dict.fromkeys((model, tokens) for model, tokens, _ in of))
    out = []
    for curve, what in (
        ("10 %", "10 % slack without refill"),
        ("20 %", "20 % slack without refill"),
        ("30 %", "30 % slack without refill"),
        ("20 %, refilled", "20 % slack with refill"),
    ):
        half = {(m, n): of[m, n, f"{PAIRED}, {curve}"]["gain_over_no_slack_half_interval"] for m, n in at}
        gains = {(m, n): _gain(of, m, n, curve) for m, n in at}
        helps = [f"{title_of(m)} at {n}" for (m, n), gain in gains.items() if gain - 1 > max(0.001, half[m, n])]
        hurts = [f"{title_of(m)} at {n}" for (m, n), gain in gains.items() if 1 - gain > max(0.001, half[m, n])]
        out.append(
            f"- **{what}**: {min(gains.values()):.3f}x to {max(gains.values()):.3f}x; helps in {len(helps)} of "
            f"{len(at)} cases{_named(helps)}, hurts in {len(hurts)}."
        )
    return "\n".join(out)


def _named(cases: list[str]) -> str:
    return f" ({', '.join(cases)})" if cases else ""


SHOW: Final[dict[str, Callable[[], str]]] = {"table": table, "decodes": decodes, "idle": idle, "overlap": overlap}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
