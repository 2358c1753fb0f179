"""Synthetic routing with the statistics of real captures; labelled synthetic everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expertstream.errors import TraceError
from expertstream.trace.routing import HasExperts, RoutingTrace


@dataclass(frozen=True)
class Profile:
    """What a token's choice is made of.

    A token's k experts are those of the largest score: a per-layer popularity (``skew`` x log of a Zipf law, its ranks
    shuffled per layer) plus unit-variance noise. ``request`` is the share of the noise that a request keeps for good,
    ``local`` the share that fades from token to token (AR(1), ``memory`` per step); ``depth`` is the share of all of it
    that follows from the layer before, through a fixed permutation of the experts.
    """

    skew: float
    request: float
    local: float
    memory: float
    depth: float


# Fitted to published captures: Gini of popularity, Jaccard index of the expert sets of two tokens (consecutive, of one
# request, of different requests), recall of the next layer's experts. The figures and their sources: docs/traces.md.
PROFILES = {
    "qwen3-30b-a3b": Profile(skew=0.61, request=0.15, local=0.47, memory=0.85, depth=0.5),
    "gpt-oss-20b": Profile(skew=0.54, request=0.27, local=0.34, memory=0.85, depth=0.95),
    "deepseek-v2-lite": Profile(skew=0.19, request=0.11, local=0.4, memory=0.85, depth=0.9),
    "deepseek-moe-16b": Profile(skew=0.19, request=0.11, local=0.4, memory=0.85, depth=0.9),
    "deepseek-v3": Profile(skew=0.19, request=0.11, local=0.4, memory=0.85, depth=0.9),
    "qwen1.5-moe-a2.7b": Profile(skew=0.22, request=0.01, local=0.35, memory=0.85, depth=0.72),
    "olmoe-1b-7b": Profile(skew=0.28, request=0.1, local=0.35, memory=0.85, depth=0.5),
    "mixtral-8x7b": Profile(skew=0.1, request=0.05, local=0.2, memory=0.85, depth=0.5),
    "phi-3.5-moe": Profile(skew=0.48, request=0.04, local=0.42, memory=0.85, depth=0.5),
}
DEFAULT_PROFILE = Profile(skew=0.4, request=0.1, local=0.35, memory=0.85, depth=0.5)


def synthesize(
    model: HasExperts,
    *,
    requests: int = 8,
    tokens_per_request: int = 160,
    layers: Sequence[int] = (0, 1, 2, 3),
    seed: int = 0,
    profile: Profile | None = None,
) -> RoutingTrace:
    """Generate a trace.

    Args:
        layers: the model's layer numbers. seed: same seed, same bytes.
        profile: default: the model's own where one is known, else a middle one.

    Raises:
        TraceError: no requests, tokens or layers.
    """
    if requests < 1 or tokens_per_request < 1 or not layers:
        raise TraceError(
            f"requests is {requests}, tokens_per_request {tokens_per_request}, layers {list(layers)}; "
            "at least one of each is needed"
        )
    base = model.name.removesuffix("-paper")
    chosen = profile or PROFILES.get(base, DEFAULT_PROFILE)
    rng = np.random.default_rng(seed)
    e, k, n = model.n_experts, model.top_k, requests * tokens_per_request
    rank_score = -chosen.skew * np.log(np.arange(1, e + 1))
    own, fades = np.sqrt(chosen.request), np.sqrt(chosen.local)
    rest = np.sqrt(max(0.0, 1 - chosen.request - chosen.local))
    experts = np.empty((n, len(layers), k), dtype=np.int16)
    weights = np.empty((n, len(layers), k), dtype=np.float32)
    noise = np.zeros((requests, tokens_per_request, e))
    for at in range(len(layers)):
        popularity = rank_score[rng.permutation(e)]
        request = rng.standard_normal((requests, 1, e))
        local = rng.standard_normal((requests, tokens_per_request, e))
        step = np.sqrt(1 - chosen.memory**2)
        for t in range(1, tokens_per_request):
            local[:, t] = chosen.memory * local[:, t - 1] + step * local[:, t]
        fresh = own * request + fades * local + rest * rng.standard_normal((requests, tokens_per_request, e))
        if at == 0:
            noise = fresh
        else:
            noise = np.sqrt(chosen.depth) * noise[:, :, rng.permutation(e)] + np.sqrt(1 - chosen.depth) * fresh
        score = (popularity + noise).reshape(n, e)
        top = np.argsort(-score, axis=1, kind="stable")[:, :k]
        experts[:, at] = top
        logits = np.take_along_axis(score, top, axis=1)
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights[:, at] = weight / weight.sum(axis=1, keepdims=True)
    return RoutingTrace(
        experts=experts,
        weights=weights,
        request=np.repeat(np.arange(requests), tokens_per_request).astype(np.int32),
        position=np.tile(np.arange(tokens_per_request), requests).astype(np.int32),
        phase=np.zeros(n, dtype=np.int8),
        layer_index=np.array(layers, dtype=np.int32),
        n_experts=e,
        model=model.name,
        source=f"synthetic, seed {seed}",
        id_space="synthetic: ids carry no meaning",
        synthetic=True,
    )
