"""A tiny model and scenarios for the tests of serving."""

from __future__ import annotations

from typing import Any

from expertstream.model import MoEModel
from expertstream.package import ChannelSpec, D2DSpec, DieSpec, Package
from expertstream.package.technology import Technology
from expertstream.serving.scenario import Scenario
from expertstream.serving.serve import Parts, Serving


def tiny_model(**more: Any) -> MoEModel:
    """Three layers, the first of them dense."""
    values: dict[str, Any] = {
        "d_model": 16,
        "d_ffn": 12,
        "n_experts": 8,
        "top_k": 2,
        "n_layers": 3,
        "first_dense_layers": 1,
        "dense_d_ffn": 20,
        "vocab_size": 50,
        "attention": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 4},
    }
    return MoEModel.one_layer(**(values | more))


def tiny_package(token_buffer_bytes: int = 64 << 10) -> Package:
    return Package(
        name="tiny",
        rows=2,
        cols=2,
        die=DieSpec(
            clock_hz=10**9,
            macs_per_cycle=16,
            weight_buffer_bytes=16 << 10,
            token_buffer_bytes=token_buffer_bytes,
            sram_bandwidth_bytes_per_s=10**12,
        ),
        d2d=D2DSpec(bandwidth_bytes_per_s=10**10, latency_ps=1000),
        channels=tuple(ChannelSpec(dies=(d,), bandwidth_bytes_per_s=10**9, latency_ps=1000) for d in range(4)),
    )


def tiny_scenario(**more: Any) -> Scenario:
    values: dict[str, Any] = {
        "model": "tiny",
        "synthetic": {"requests": 4, "tokens": 16},
        "requests": {
            "arrivals": "poisson",
            "rate_per_s": 5000,
            "count": 12,
            "prompt_tokens": {"distribution": "uniform", "mean": 6},
            "output_tokens": {"distribution": "uniform", "mean": 4},
        },
        "tokens_per_iteration": 8,
    }
    given = values | more
    return Scenario.model_validate({key: value for key, value in given.items() if value is not None})


def serving(
    scenario: Scenario, *, model: MoEModel | None = None, package: Package | None = None, **more: Any
) -> Serving:
    parts = Parts(scenario, model or tiny_model(), package or tiny_package(), Technology.preset("5nm"))
    return Serving(parts, **more)
