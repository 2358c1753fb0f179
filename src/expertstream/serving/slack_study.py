"""When does token buffering help? Throughput of whole models over slack (the paper's Fig. 14).

``python -m expertstream.serving.slack_study`` prints the table; ``--json`` for machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.report.files import to_json
from expertstream.serving.scenario import Scenario
from expertstream.serving.serve import Parts, Serving

MODELS = ("phi-3.5-moe-paper", "yuan2-m32-paper", "deepseek-moe-16b", "qwen3-30b-a3b")
TOKENS = (16, 64, 256)
SLACKS = (0, 10, 20, 30)
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A curve of the figure: a strategy with a slack in percent; ``refill`` as in ``BufferingSpec``."""

    strategy: str
    slack_percent: int = 0
    refill: bool = False


def variants(baselines: Sequence[str] = ("ep",), slacks: Sequence[int] = SLACKS) -> list[Variant]:
    """The figure's curves: baselines without slack, then ``fse-dp-paired`` over slack without and with refill."""
    buffered = [Variant("fse-dp-paired", slack) for slack in slacks]
    refilled = [Variant("fse-dp-paired", slack, refill=True) for slack in slacks if slack]
    return [*(Variant(name) for name in baselines), *buffered, *refilled]


def scenario_of(model: str, package: str, tokens: int, variant: Variant, iterations: int) -> Scenario:
    """The load of the study: as many clients as tokens, prompts of 1 to 31 tokens, outputs of 1 to 95.

    A client waits for its answer before it asks again. About three quarters of an iteration's tokens are decodes, and
    the budget is always filled. The paper does not say what mix it used.
    """
    values: dict[str, Any] = {
        "model": model,
        "package": package,
        "strategy": variant.strategy,
        "synthetic": {"requests": 64, "tokens": 128},
        "requests": {
            "arrivals": "closed-loop",
            "clients": tokens,
            "prompt_tokens": {"distribution": "uniform", "mean": 16},
            "output_tokens": {"distribution": "uniform", "mean": 48},
        },
        "tokens_per_iteration": tokens,
        "max_requests": tokens,
        "kv_capacity_bytes": 1 << 50,
        "iterations": iterations,
    }
    if variant.slack_percent:
        values["buffering"] = {"slack_percent": variant.slack_percent, "theta_min": 2, "refill": variant.refill}
    return Scenario.model_validate(values)


def slack_study(
    models: Sequence[str] = MODELS,
    tokens: Sequence[int] = TOKENS,
    curves: Sequence[Variant] | None = None,
    *,
    package: str = "test-chip-2x2",
    iterations: int = 100,
    progress: Callable[[int, int, str], None] | None = None,
) -> Iterator[Row]:
    """Simulate every model, load and curve; yield a row each, as it is known.

    Returns:
        Rows with model, tokens, strategy, slack_percent, refill, tokens_per_s, iteration_ps (mean), deferrals,
        ddr_bytes, ffn_share (of the time), and ``gain``: tokens_per_s over that of the same strategy without slack.

    Raises:
        ConfigError: an unknown model, package or strategy.
    """
    chosen = variants() if curves is None else list(curves)
    total, done = len(models) * len(tokens) * len(chosen), 0
    technology, chips = Technology.preset("5nm"), Package.preset(package)
    for name in models:
        model, routing = MoEModel.preset(name), None
        for n in tokens:
            base: dict[str, float] = {}
            for variant in chosen:
                parts = Parts(scenario_of(name, package, n, variant, iterations), model, chips, technology)
                routing = parts.routing() if routing is None else routing
                report = Serving(parts, routing=routing).run()
                base.setdefault(variant.strategy, report["tokens_per_s"])
                done += 1
                if progress:
                    progress(done, total, f"{name}, {n} tokens, {variant.strategy}")
                yield {
                    "model": name,
                    "tokens": n,
                    "strategy": variant.strategy,
                    "slack_percent": variant.slack_percent,
                    "refill": variant.refill,
                    "tokens_per_s": report["tokens_per_s"],
                    "gain": report["tokens_per_s"] / base[variant.strategy],
                    "iteration_ps": report["iteration_ps"]["mean"],
                    "tpot_p99_ps": report["tpot_ps"]["p99"],
                    "deferrals": report["deferrals"],
                    "ddr_bytes": report["ddr_bytes"],
                    "ffn_share": report["phase_share"]["experts"] + report["phase_share"]["dense"],
                }


def main(
    models: Annotated[str, typer.Option(help="Model presets, separated by commas.")] = ",".join(MODELS),
    tokens: Annotated[str, typer.Option(help="Tokens per iteration, separated by commas.")] = "16,64,256",
    baselines: Annotated[str, typer.Option(help="Strategies to compare with, separated by commas.")] = "ep",
    iterations: Annotated[int, typer.Option(min=1)] = 100,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Throughput of whole models over slack (the paper's Fig. 14)."""
    from expertstream.cli.console import remark, stdout

    curves = variants([name for name in baselines.split(",") if name])
    rows = []
    for row in slack_study(models.split(","), [int(n) for n in tokens.split(",")], curves, iterations=iterations):
        rows.append(row)
        if json:
            print(to_json(row).replace("\n", ""), flush=True)
        else:
            remark(f"{row['model']}, {row['tokens']} tokens, {row['strategy']}: {row['tokens_per_s']:.1f} tokens/s")
    if not json:
        stdout().print(_table(rows))


def _table(rows: Sequence[Row]) -> Table:
    from expertstream.cli.console import table

    columns = ["model", "tokens", "strategy", "slack", "tokens/s", "against no slack", "deferrals", "FFN share"]
    return table(
        "Token buffering",
        columns,
        [
            [
                row["model"],
                str(row["tokens"]),
                row["strategy"],
                f"{row['slack_percent']} %" + (" refilled" if row["refill"] else ""),
                f"{row['tokens_per_s']:.1f}",
                f"{row['gain']:.3f}",
                str(row["deferrals"]),
                f"{100 * row['ffn_share']:.0f} %",
            ]
            for row in rows
        ],
        left=4,
    )


if __name__ == "__main__":
    typer.run(main)
