"""When token buffering helps: the table and the sentences of docs/serving.md, from the rows of fig14.

``python -m docs.generate.buffering [FOLDER]``: FOLDER keeps rows for the next time. ``... idle``: for how much of the
time DDR stands idle in attention blocks.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from expertstream.explore import make_executor
from expertstream.reproduce import Setting, chosen_studies, reproduce
from expertstream.reproduce.drawing import title_of
from expertstream.reproduce.iterations import TOKENS, iterations_row
from expertstream.reproduce.layers import MODELS

Row = dict[str, str]


def main(arguments: Sequence[str]) -> int:
    """Print the table and what it says, or the idle times."""
    if list(arguments) == ["idle"]:
        print(_idle())
        return 0
    with TemporaryDirectory() as temporary:
        folder = Path(arguments[0] if arguments else temporary)
        folder.mkdir(exist_ok=True)
        reproduce(chosen_studies(["fig14"]), folder, Setting(), make_executor("processes"))
        with (folder / "fig14.csv").open(encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    of = {(row["model"], int(row["tokens"]), row["curve"]): row for row in rows}
    print(_table(of))
    print()
    print(_sentences(of))
    return 0


def _idle() -> str:
    found: dict[int, list[float]] = {}
    for model in MODELS:
        for tokens in TOKENS:
            point = {"model": model, "tokens": tokens, "seed": 0, "iterations": 24, "every": 16}
            row = iterations_row(point | {"strategy": "fse-dp-paired", "overlap": False})
            found.setdefault(tokens, []).append(100 * row["attention_ddr_idle_share"])
    return ", ".join(f"{min(each):.1f} to {max(each):.1f} % at {tokens} tokens" for tokens, each in found.items())


def _gain(of: dict[tuple[str, int, str], Row], model: str, tokens: int, curve: str) -> float:
    return float(of[model, tokens, f"fse-dp-paired, {curve}"]["gain_over_no_slack"])


def _table(of: dict[tuple[str, int, str], Row]) -> str:
    lines = [
        "| model | tokens | `fse-dp-paired` / `ep` | / `hydra` | 10 % slack | 20 % | 30 % | 20 %, refilled | deferrals "
        "an iteration at 20 % | experts' share |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, tokens in dict.fromkeys((model, tokens) for model, tokens, _ in of):
        plain = of[model, tokens, "fse-dp-paired, 0 %"]
        hydra = float(plain["tokens_per_s"]) / float(of[model, tokens, "hydra"]["tokens_per_s"])
        gains = [
            f"{_gain(of, model, tokens, curve):.3f}" + ("" if abs(_gain(of, model, tokens, curve) - 1) > half else " ~")
            for curve in ("10 %", "20 %", "30 %", "20 %, refilled")
            for half in [float(of[model, tokens, f"fse-dp-paired, {curve}"]["gain_over_no_slack_half_interval"])]
        ]
        deferrals = float(of[model, tokens, "fse-dp-paired, 20 %"]["deferrals_per_iteration"])
        share = float(plain["experts_share_percent"])
        cells = [title_of(model), str(tokens), f"{float(plain['speedup_over_ep']):.2f}x", f"{hydra:.2f}x", *gains]
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
        half = {(m, n): float(of[m, n, f"fse-dp-paired, {curve}"]["gain_over_no_slack_half_interval"]) for m, n in at}
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
