"""Splitting a trace into a training and an evaluation part."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from expertstream.errors import TraceError
from expertstream.model import MoEModel
from expertstream.trace import RoutingTrace, synthesize

MODEL = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2, n_layers=4)


@pytest.fixture
def trace() -> RoutingTrace:
    return synthesize(MODEL, requests=6, tokens_per_request=10, layers=(0, 1, 3))


def test_every_second_request_trains(trace: RoutingTrace) -> None:
    training, evaluation = trace.split()
    requests = np.unique(trace.request)
    assert np.unique(training.request).tolist() == requests[::2].tolist()
    assert np.unique(evaluation.request).tolist() == requests[1::2].tolist()
    assert training.n_tokens + evaluation.n_tokens == trace.n_tokens


def test_the_evaluation_part_keeps_as_many_tokens_as_asked_for(trace: RoutingTrace) -> None:
    training, evaluation = trace.split(least=45)
    assert (training.n_tokens, evaluation.n_tokens) == (10, 50)
    training, evaluation = trace.split(least=55)  # no whole request fits: cut in time
    assert (training.n_tokens, evaluation.n_tokens) == (5, 55)


def test_a_single_or_unknown_request_is_cut_in_time(trace: RoutingTrace) -> None:
    for request in (7, -1):
        one = replace(trace, request=np.full_like(trace.request, request), position=np.arange(trace.n_tokens))
        training, evaluation = one.split(share=0.25)
        assert training.position.tolist() == list(range(15))
        assert evaluation.position.tolist() == list(range(15, 60))


def test_a_cut_in_time_goes_by_positions_not_by_places_in_the_file(trace: RoutingTrace) -> None:
    backwards = np.arange(trace.n_tokens)[::-1].copy()
    training, evaluation = replace(trace, request=np.zeros_like(trace.request), position=backwards).split()
    assert training.position.tolist() == list(range(29, -1, -1))
    assert evaluation.position.tolist() == list(range(59, 29, -1))


def test_a_trace_without_a_token_to_spare_is_refused(trace: RoutingTrace) -> None:
    message = (
        f"{trace.source}: its 60 tokens leave none to train on beside the 60 that are evaluated; use fewer tokens per "
        "iteration or a longer trace"
    )
    with pytest.raises(TraceError, match=re.escape(message)):
        trace.split(least=60)
    with pytest.raises(TraceError, match=re.escape("the training share is 1; it must be above 0 and below 1")):
        trace.split(share=1)


def test_an_iteration_knows_the_layer_before_only_where_it_is_recorded(trace: RoutingTrace) -> None:
    assert trace.iteration(tokens=5, layer=0).before is None
    assert trace.iteration(tokens=5, layer=3).before is None
    before = trace.iteration(tokens=5, layer=1).before
    assert before is not None
    np.testing.assert_array_equal(before, trace.iteration(tokens=5, layer=0).experts)
