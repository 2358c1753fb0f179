"""Arguments from Python that are of the wrong kind: one message, which says how to make the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import expertstream as es
from expertstream.model import MoEModel

MODEL = MoEModel.one_layer(d_model=64, d_ffn=48, n_experts=8, top_k=2).replace(name="small")
CHIP = es.Package.preset("test-chip-2x2")
TRACE = es.synthesize(MODEL, requests=2, tokens_per_request=20, layers=[0], seed=1)
ROUTING = TRACE.iteration(tokens=8, layer=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: es.simulate("mixtral-8x7b", CHIP, ROUTING),  # type: ignore[arg-type]
            "model is 'mixtral-8x7b'; it must be of type MoEModel, such as MoEModel.preset('qwen3-30b-a3b') or "
            "MoEModel.from_hf_config('config.json')",
        ),
        (
            lambda: es.simulate(MODEL, "3x3", ROUTING),  # type: ignore[arg-type]
            "package is '3x3'; it must be of type Package, such as Package.preset('test-chip-2x2') or "
            "Package.from_yaml('my-package.yaml')",
        ),
        (
            lambda: es.simulate(MODEL, CHIP, TRACE),  # type: ignore[arg-type]
            f"routing is {TRACE!r}; it must be of type Routing, such as trace.iteration(tokens=64, layer=12)",
        ),
        (
            lambda: es.simulate(MODEL, CHIP, ROUTING, options={"rings": 2}),  # type: ignore[arg-type]
            "options is {'rings': 2}; it must be of type Options, such as Options(rings=2)",
        ),
        (
            lambda: es.simulate(MODEL, CHIP, ROUTING, technology="5nm"),  # type: ignore[arg-type]
            "technology is '5nm'; it must be of type Technology, such as Technology.preset('5nm')",
        ),
        (
            lambda: es.simulate(MODEL, CHIP, ROUTING, strategy=None),  # type: ignore[arg-type]
            "the strategy is None; give a name, such as 'fse-dp-paired', or a Strategy",
        ),
        (
            lambda: es.compare(MODEL, CHIP, ROUTING),  # type: ignore[arg-type]
            f"trace is {ROUTING!r}; it must be of type RoutingTrace, such as packaged_trace(model) or "
            "RoutingTrace.load('trace.parquet')",
        ),
        (
            lambda: es.compare(MODEL, CHIP, TRACE, options={"rings": 2}),  # type: ignore[arg-type]
            "options is {'rings': 2}; it must be of type Options, such as Options(rings=2)",
        ),
        (lambda: es.compare(MODEL, CHIP, TRACE, tokens="16"), "tokens is '16'; a whole number is needed"),  # type: ignore[arg-type]
        (lambda: es.compare(MODEL, CHIP, TRACE, tokens=[2.5]), "one of tokens is 2.5; a whole number is needed"),  # type: ignore[list-item]
        (lambda: es.compare(MODEL, CHIP, TRACE, layers=[]), "layers is []; give at least one number"),
        (lambda: es.compare(MODEL, CHIP, TRACE, layers="all"), "layers is 'all'; a whole number is needed"),  # type: ignore[arg-type]
        (
            lambda: es.compare(MODEL, CHIP, TRACE, strategies=3),  # type: ignore[arg-type]
            "the strategy is 3; give a name, such as 'fse-dp-paired', or a Strategy",
        ),
        (
            lambda: es.synthesize("mixtral-8x7b"),  # type: ignore[arg-type]
            "model is 'mixtral-8x7b'; a model is needed, such as MoEModel.preset('qwen3-30b-a3b')",
        ),
        (
            lambda: es.synthesize(MODEL, profile="skewed"),  # type: ignore[arg-type]
            "profile is 'skewed'; it must be of type Profile, or left out",
        ),
        (
            lambda: es.calibrate("trace.parquet"),  # type: ignore[arg-type]
            "trace is 'trace.parquet'; a RoutingTrace is needed, such as RoutingTrace.load('trace.parquet')",
        ),
        (lambda: es.calibrate(TRACE, seed=-1), "seed is -1; it must be at least 0"),
        (lambda: es.simulate(MODEL, CHIP, ROUTING, "tp").prove(seed=-1), "seed is -1; it must be at least 0"),
        (lambda: TRACE.of_layers(["0"]), "a layer is '0'; a whole number is needed"),  # type: ignore[list-item]
        (lambda: TRACE.split(share="half"), "the training share is 'half'; it must be above 0 and below 1"),  # type: ignore[arg-type]
        (
            lambda: TRACE.iteration(tokens=8, layer=0, mix=None),  # type: ignore[arg-type]
            "unknown mix 'None'; allowed: round-robin, single-request",
        ),
        (lambda: TRACE.iteration(tokens=8.5, layer=0), "tokens is 8.5; a whole number is needed"),  # type: ignore[arg-type]
        (
            lambda: replace(TRACE, experts=TRACE.experts.tolist()),  # type: ignore[arg-type]
            f"{TRACE.source}: experts is a list; a NumPy array is needed",
        ),
    ],
)
def test_wrong_kinds(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(es.ExpertStreamError) as error:
        call()
    assert str(error.value) == message


def test_one_number_of_tokens_or_layers_may_stand_for_a_list_of_one() -> None:
    one = es.compare(MODEL, CHIP, TRACE, tokens=8, layers=0, strategies="tp", baseline="tp")
    many = es.compare(MODEL, CHIP, TRACE, tokens=[8], layers=[0], strategies=["tp"], baseline="tp")
    assert one.rows == many.rows


def test_numbers_of_numpy_are_numbers() -> None:
    found = TRACE.iteration(tokens=np.int64(8), layer=np.int32(0))  # type: ignore[arg-type]
    assert found.experts.tolist() == ROUTING.experts.tolist()
