"""Token buffering over random request mixes: nothing lost, duplicated or reordered, and the numbers are right.

A tiny transformer is computed block by block in the order of the run, its experts by replaying the timelines; each
request's outputs must equal those of the request alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expertstream.engine.timeline import Timeline
from expertstream.errors import BufferTooSmallError
from expertstream.model import MoEModel
from expertstream.numerics import DenseLayer, dense_output, replay
from expertstream.package import Package
from expertstream.serving.iteration import Pass
from expertstream.serving.requests import Request
from expertstream.serving.scenario import Scenario
from expertstream.strategy import Plan, strategy_names
from expertstream.workload import LayerWorkload
from tests.property.cases import damaged_packages, packages
from tests.property.test_attention_invariants import attention_models
from tests.serving import serving, tiny_model, tiny_package, tiny_scenario

Floats = np.ndarray


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    return tiny_scenario(
        strategy=draw(st.sampled_from(["fse-dp-paired", "fse-dp-naive", "ep", "ep-streamed", "tp"])),
        synthetic={"requests": draw(st.integers(1, 6)), "tokens": 8, "seed": draw(st.integers(0, 9))},
        requests={
            "arrivals": "poisson",
            "rate_per_s": draw(st.sampled_from([50, 5000, 10**6])),
            "count": draw(st.integers(1, 10)),
            "prompt_tokens": {"distribution": "uniform", "mean": draw(st.integers(1, 7))},
            "output_tokens": {"distribution": "uniform", "mean": draw(st.integers(1, 4))},
            "seed": draw(st.integers(0, 99)),
        },
        tokens_per_iteration=draw(st.integers(1, 12)),
        max_requests=draw(st.integers(1, 8)),
        output_head=draw(st.booleans()),
        prediction=draw(st.sampled_from([None, 0.5, 1.0])),
        buffering=draw(
            st.none()
            | st.fixed_dictionaries(
                {
                    "slack_percent": st.sampled_from([0, 10, 30, 50, 100]),
                    "theta_min": st.integers(0, 5),
                    "kept_share": st.sampled_from([0.0, 0.25]),
                    "refill": st.booleans(),
                }
            )
        ),
    )


class Transformer:
    """Takes the blocks of a run as they come and computes them in float64."""

    def __init__(self, layers: int, d_model: int, columns: dict[int, np.ndarray]) -> None:
        rng = np.random.default_rng(5)
        self.d_model = d_model
        self.qkv = rng.standard_normal((layers, 3, d_model, d_model)) / 4
        self.mlp = {layer: DenseLayer.random(d_model, c, seed=layer) for layer, c in columns.items()}
        self.hidden: dict[int, Floats] = {}  # of the pass in flight of each request
        self.cache: dict[tuple[int, int], Floats] = {}
        self.output: dict[int, list[Floats]] = defaultdict(list)
        self.visits: dict[int, list[tuple[str, int, int, int]]] = defaultdict(list)
        self.tokens: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.last: tuple[Plan, Timeline, LayerWorkload | None] | None = None

    def embed(self, request: int, first: int, last: int) -> Floats:
        return np.stack([np.random.default_rng((request, i)).standard_normal(self.d_model) for i in range(first, last)])

    def attend(self, layer: int, x: Floats, past: Floats) -> Floats:
        """Causal attention of x, which follows ``past`` in the same request."""
        q, k, v = self.qkv[layer]
        rows = np.concatenate((past, x))
        scores = x @ q @ (rows @ k).T
        scores[np.arange(len(rows))[None, :] > (len(past) + np.arange(len(x)))[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True) @ (rows @ v)

    def observe(self, kind: str, layer: int, plan: Plan, timeline: Timeline, workload: LayerWorkload | None) -> None:
        self.last = plan, timeline, workload

    def witness(self, phase: str, layer: int, passes: Sequence[Pass]) -> None:
        for p in passes:
            self.visits[p.request].append((phase, layer, p.context, p.rows.size))
        self.tokens[phase, layer].append(sum(p.rows.size for p in passes))
        if phase == "attention":
            for p in passes:
                if layer == 0:
                    self.hidden[p.request] = self.embed(p.request, p.context, p.context + p.rows.size)
                past = self.cache.get((p.request, layer), np.empty((0, self.d_model)))
                x = self.hidden[p.request]
                self.cache[p.request, layer] = np.concatenate((past, x))
                self.hidden[p.request] = x + self.attend(layer, x, past)
            return
        assert self.last is not None
        plan, timeline, workload = self.last
        assert workload is not None
        assert workload.n_tokens == sum(p.rows.size for p in passes)
        x = np.concatenate([self.hidden[p.request] for p in passes])
        y = x + replay(timeline, plan, self.mlp[layer], x, workload)
        ends = np.cumsum([p.rows.size for p in passes])
        for p, part in zip(passes, np.split(y, ends[:-1]), strict=True):
            self.hidden[p.request] = part
            if layer == len(self.qkv) - 1:
                self.output[p.request].append(part)

    def alone(self, run: Any, request: int, n: int) -> Floats:
        """All tokens of a request at once, without any schedule."""
        x = self.embed(request, 0, n)
        rows = run.replay.rows(request, 0, n)
        for layer in range(len(self.qkv)):
            x = x + self.attend(layer, x, np.empty((0, self.d_model)))
            if layer == 0:
                dense = self.mlp[0]
                x = x + dense.partial_sum(x, 0, 0, int(dense.columns[0]))
            else:
                x = x + dense_output(self.mlp[layer], x, run.replay.routing(rows, layer), 8)
        return x


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios(), st.sampled_from([64 << 10, 40 << 10]))
def test_every_token_passes_every_layer_once_in_order_and_the_numbers_are_right(
    scenario: Scenario, token_buffer_bytes: int
) -> None:
    columns = {0: np.array([20]), 1: np.full(8, 12), 2: np.full(8, 12)}
    net = Transformer(3, 16, columns)
    run = serving(
        scenario,
        package=tiny_package(token_buffer_bytes),
        reuse=False,
        observe=net.observe,
        witness=net.witness,
    )
    report = run.run()
    assert report["requests"]["completed"] == report["requests"]["admitted"] == scenario.requests.count
    lengths = scenario.requests.prompt_tokens.lengths(), scenario.requests.output_tokens.lengths()
    prompt_tokens = output_tokens = 0
    for number in range(report["requests"]["completed"]):
        rng = np.random.default_rng((scenario.requests.seed, number))
        rng.exponential()
        request = Request(number, 0, lengths[0].draw(rng), lengths[1].draw(rng))
        prompt_tokens += request.prompt
        output_tokens += request.output
        n = request.prompt + request.output - 1
        _passes_follow_one_another(net.visits[number], n, request.prompt)
        produced = np.concatenate(net.output[number])
        expected = net.alone(run, number, n)
        assert np.abs(produced - expected).max() <= 1e-10 * np.abs(expected).max()
    assert (report["input_tokens"], report["output_tokens"]) == (prompt_tokens, output_tokens)
    spec = scenario.buffering
    passes = sum(len(v) // 6 for v in net.visits.values())
    assert report["deferrals"] * 100 <= passes * (spec.slack_percent if spec else 0)
    if spec is None or not spec.refill:
        assert max(max(counts) for counts in net.tokens.values()) <= scenario.tokens_per_iteration


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenarios(), st.one_of(packages(), damaged_packages()), attention_models(), st.sampled_from(strategy_names()))
def test_a_run_on_any_package_ends_or_names_the_buffer_that_is_too_small(
    scenario: Scenario, package: Package, shape: MoEModel, strategy: str
) -> None:
    model = tiny_model(attention=shape.attention.model_dump())
    run = serving(scenario.model_copy(update={"strategy": strategy}), model=model, package=package)
    try:
        report = run.run()
    except BufferTooSmallError:
        return
    assert report["requests"]["completed"] == report["requests"]["admitted"] == scenario.requests.count
    assert sum(report["phase_ps"].values()) == report["busy_ps"] <= report["time_ps"]
    assert max(report["utilisation"], report["ddr_utilisation"], *report["phase_utilisation"].values()) <= 1 + 1e-9
    left = run.blocks.package(0)
    if not strategy.startswith(("ep", "hydra")):  # which bring weight buffers of their own
        size = left.n_dies * (left.die.weight_buffer_bytes + left.die.token_buffer_bytes)
        assert report["peak_package_bytes"] <= size


def _passes_follow_one_another(visits: list[tuple[str, int, int, int]], n: int, prompt: int) -> None:
    """Each pass goes through all blocks before the next starts where it ended; decodes take one token."""
    blocks = [("attention", 0), ("dense", 0), ("attention", 1), ("experts", 1), ("attention", 2), ("experts", 2)]
    assert len(visits) % len(blocks) == 0
    context = 0
    for first in range(0, len(visits), len(blocks)):
        part = visits[first : first + len(blocks)]
        assert [(phase, layer) for phase, layer, _, _ in part] == blocks
        assert {(c, size) for _, _, c, size in part} == {(context, part[0][3])}
        assert part[0][3] == 1 or context + part[0][3] <= prompt
        context += part[0][3]
    assert context == n
