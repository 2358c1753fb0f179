"""Points that are whole iterations of many requests: the load, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.reproduce.layers import MODELS
from expertstream.reproduce.study import Point, Row, Setting
from expertstream.serving.scenario import Scenario
from expertstream.serving.serve import Parts, Serving
from expertstream.trace import RoutingTrace

ITERATIONS: Final = 24
SEEDS: Final = 3
EVERY: Final = 16
TOKENS: Final = (16, 64, 256)
LOAD: Final = (
    "As many clients as tokens per iteration, each of which waits for its answer before it asks again; prompts of 1 to "
    "31 tokens, answers of 1 to 95. In the long run three quarters of the tokens are decodes; all clients begin with "
    "their prompts, so that fewer are in a short run (decode_percent in the table). The paper does not say what mix it "
    "used.",
    f"{ITERATIONS} iterations under each of {SEEDS} seeds. Requests join, run and are deferred at every layer, but "
    f"experts are simulated at every {EVERY}th MoE layer only, and those after it take the same time: an estimate. "
    "With every layer (one seed, four curves) throughput differs by up to 3.1 %, its ratio to EP by up to 2.0 %. "
    "With --full: 100 iterations, every layer, all seeds. A request's routing is that of one of 24 generated requests "
    "of 64 tokens; 24 others train the placements of EP (balanced) and Hydra, which stay the same in all iterations.",
    "Attention (head-parallel, key-value cache from DDR), router and output head are included under every strategy.",
)


PAIRED: Final = "fse-dp-paired"
SLACKS: Final = (0, 10, 20, 30)
CURVES: Final[dict[str, dict[str, object]]] = {
    "ep": {"strategy": "ep", "placement": "balanced"},
    "hydra": {"strategy": "hydra"},
    **{f"{PAIRED}, {slack} %": {"strategy": PAIRED, "slack": slack} for slack in SLACKS},
    f"{PAIRED}, 20 %, refilled": {"strategy": PAIRED, "slack": 20, "refill": True},
}


def curve_points(setting: Setting, curves: Sequence[str]) -> list[Point]:
    """Every model and number of tokens under some of ``CURVES``; the same point in every study that has it."""
    points = iteration_points(setting, MODELS, TOKENS)
    return [{**point, "curve": name, **CURVES[name]} for point in points for name in curves]


def iteration_points(setting: Setting, models: tuple[str, ...], tokens: tuple[int, ...]) -> list[Point]:
    """Points of every model, number of tokens and seed, without a strategy."""
    extent = {"iterations": 100, "every": 1} if setting.full else {"iterations": ITERATIONS, "every": EVERY}
    if setting.layers is not None:
        extent = {"iterations": 3, "every": 48}
    seeds = range(setting.seeds if setting.full else min(setting.seeds, SEEDS))
    chosen = [n for n in tokens if n in setting.tokens]
    return [{"model": model, "tokens": n, "seed": seed, **extent} for model in models for n in chosen for seed in seeds]


@lru_cache(maxsize=4)
def _routing(model: str, seed: int) -> tuple[RoutingTrace, RoutingTrace]:
    """The parts that train placements and that are served, the same under every strategy."""
    return _parts({"model": model, "seed": seed, "tokens": 1, "strategy": "ep", "iterations": 1}).routing().split()


def _parts(point: Point) -> Parts:
    values: dict[str, Any] = {
        "model": point["model"],
        "strategy": point["strategy"],
        "placement": point.get("placement", "round-robin"),
        "synthetic": {"requests": 48, "tokens": 64, "seed": point["seed"]},
        "requests": {
            "arrivals": "closed-loop",
            "clients": point["tokens"],
            "prompt_tokens": {"distribution": "uniform", "mean": 16},
            "output_tokens": {"distribution": "uniform", "mean": 48},
            "seed": point["seed"],
        },
        "tokens_per_iteration": point["tokens"],
        "max_requests": point["tokens"],
        "kv_capacity_bytes": 1 << 50,
        "iterations": point["iterations"],
        "overlap": point.get("overlap", True),
    }
    if point.get("slack"):
        values["buffering"] = {"slack_percent": point["slack"], "theta_min": 2, "refill": point.get("refill", False)}
    package = Package.preset(point.get("package", "test-chip-2x2"))
    model, technology = MoEModel.preset(point["model"]), Technology.preset("5nm")
    return Parts(Scenario.model_validate(values), model, package, technology)


def iterations_row(point: Point) -> Row:
    """Throughput and where the time goes, of whole iterations.

    A point has model, tokens, seed, strategy, iterations, ``every`` (of how many MoE layers one is simulated), and
    optionally ``slack`` in percent, ``refill``, ``placement``, ``overlap`` (as in a scenario) and ``package``.

    Raises:
        WorkloadError: a block cannot run on the package.
    """
    training, routing = _routing(point["model"], point["seed"])
    serving = Serving(_parts(point), routing=routing, training=training, experts_every=point["every"])
    report = serving.run()
    decodes = report["output_tokens"] - report["ttft_ps"]["count"]  # a prompt's last token yields the first
    return {
        "tokens_per_s": report["tokens_per_s"],
        "iteration_ps": report["iteration_ps"]["mean"],
        "tpot_p99_ps": report["tpot_ps"]["p99"] or 0,
        "deferrals": report["deferrals"],
        "ddr_bytes": report["ddr_bytes"],
        "energy_per_token_pj": report["energy_per_token_pj"][1],
        "experts_share": report["phase_share"]["experts"],
        "attention_ddr_idle_share": report["phase_share"]["attention"]
        * (1 - report["phase_ddr_utilisation"]["attention"]),
        "decode_share": decodes / max(1, report["input_tokens"] + decodes),
        "experts_macs": report["phase_macs"]["experts"],
        "experts_ps": report["phase_ps"]["experts"],
    }
