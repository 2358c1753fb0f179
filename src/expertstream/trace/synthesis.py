"""Synthetic routing with the statistics of real captures; labelled synthetic everywhere.

Drawn from a packaged calibration where one of the model exists, else from a profile of six numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from expertstream.errors import ConfigError, TraceError, check_whole
from expertstream.trace.calibrated import packaged_calibration
from expertstream.trace.calibration import Calibration
from expertstream.trace.checks import MAX_EXPERTS
from expertstream.trace.routing import SYNTHETIC_SOURCE, HasExperts, RoutingTrace, check_moe_layers

LAYERS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Profile:
    """What a token's choice is made of.

    A token's k experts are those of the largest score: a popularity, shuffled per layer, plus noise of variance 1.

    Attributes:
        alpha: the popularities are quantiles of a Gamma(alpha) law, as of a symmetric Dirichlet's components;
            ``skew``: the standard deviation of their logarithms.
        request: share of the noise that a request keeps for good. local: share that fades from token to token,
            ``memory`` per step.
        depth: share of all noise that follows from the layer before, through a fixed permutation of the experts.

    Raises:
        TraceError: a value that is out of its range.
    """

    alpha: float
    skew: float
    request: float
    local: float
    memory: float
    depth: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = (1e-3, 1e6) if field.name == "alpha" else (0.0, 100.0) if field.name == "skew" else (0.0, 1.0)
            if not low <= value <= high:
                raise TraceError(f"the profile's {field.name} is {value}; it must be from {low:g} to {high:g}")
        if self.request + self.local > 1:
            raise TraceError(
                f"the profile's request {self.request} and local {self.local} add up to more than 1; lower one of them"
            )

    def popularity(self, n_experts: int) -> NDArray[np.float64]:
        """Scores from the least to the most popular expert, float64 [n_experts], mean 0."""
        middle = (np.arange(n_experts) + 0.5) / n_experts
        score = np.log(np.maximum(gammaincinv(self.alpha, middle), 1e-300))
        score -= score.mean()
        spread = float(score.std())
        return np.asarray(self.skew * score / spread if spread else score, dtype=np.float64)


# Alpha: Dirichlet laws fitted to published captures. The rest is fitted here, so that the Gini of popularity, Jaccard
# of consecutive tokens and of tokens of one request, and the recall of the next layer come out as in the captures
# (figures and tolerances: tests/unit/test_synthesis.py). Where captures do not give them (Qwen3: recall; OLMoE, Mixtral
# and Phi: locality and recall), a middle value is assumed. DeepSeek-MoE-16B and V3 borrow DeepSeek-V2-Lite's.
_DEEPSEEK = Profile(alpha=12.8, skew=0.163, request=0.157, local=0.573, memory=0.5, depth=0.65)
PROFILES = {
    "qwen3-30b-a3b": Profile(alpha=0.42, skew=1.19, request=0.376, local=0.335, memory=0.7, depth=0.9),
    "gpt-oss-20b": Profile(alpha=0.95, skew=0.675, request=0.312, local=0.523, memory=0.5, depth=0.9),
    "deepseek-v2-lite": _DEEPSEEK,
    "deepseek-moe-16b": _DEEPSEEK,
    "deepseek-v3": _DEEPSEEK,
    "qwen1.5-moe-a2.7b": Profile(alpha=8.6, skew=0.174, request=0.043, local=0.86, memory=0.3, depth=0.49),
    "olmoe-1b-7b": Profile(alpha=4.5, skew=0.29, request=0.1, local=0.5, memory=0.5, depth=0.88),
    "mixtral-8x7b": Profile(alpha=40.0, skew=0.081, request=0.1, local=0.5, memory=0.5, depth=0.5),
    "phi-3.5-moe": Profile(alpha=1.38, skew=0.455, request=0.1, local=0.5, memory=0.5, depth=0.52),
}
DEFAULT_PROFILE = Profile(alpha=2.0, skew=0.6, request=0.1, local=0.4, memory=0.5, depth=0.7)


def synthesize(
    model: HasExperts,
    *,
    requests: int = 8,
    tokens_per_request: int = 160,
    layers: int | Sequence[int] | None = None,
    seed: int = 0,
    profile: Profile | None = None,
) -> RoutingTrace:
    """Generate a trace of ``requests * tokens_per_request`` tokens.

    Args:
        layers: the model's layer numbers, one or several; None: its first four MoE layers.
        seed: same seed, same bytes.
        profile: what to draw from; None: the model's packaged calibration where it has all the layers, else the model's
            own profile where one is known, else a middle one.

    Raises:
        TraceError: no requests, tokens or layers, or k that the experts cannot give.
        ConfigError: a layer that the model lacks or that is given twice, or an argument of another kind.
    """
    if not hasattr(model, "n_experts"):
        raise ConfigError(f"model is {model!r}; a model is needed, such as MoEModel.preset('qwen3-30b-a3b')")
    if profile is not None and not isinstance(profile, Profile):
        raise ConfigError(f"profile is {profile!r}; it must be of type Profile, or left out")
    chosen_layers = _layers_of(model, layers)
    for name, number in (("requests", requests), ("tokens_per_request", tokens_per_request), ("seed", seed)):
        check_whole(name, number)
    if requests < 1 or tokens_per_request < 1 or not chosen_layers or seed < 0:
        raise TraceError(
            f"requests is {requests}, tokens_per_request {tokens_per_request}, layers {list(chosen_layers)}, seed "
            f"{seed}; at least one request, token and layer and a seed of 0 or more are needed"
        )
    e, k = model.n_experts, model.top_k
    if not 1 <= k <= e <= MAX_EXPERTS:
        raise TraceError(f"{model.name} has {e} experts and k = {k}; k from 1 to the experts is needed")
    calibration = packaged_calibration(model) if profile is None else None
    if calibration is not None and set(chosen_layers) <= set(calibration.layer_index):
        return draw(calibration, model.name, [tokens_per_request] * requests, chosen_layers, seed)
    p = profile or PROFILES.get(model.name.removesuffix("-paper"), DEFAULT_PROFILE)
    rng = np.random.default_rng(seed)
    n, popularity = requests * tokens_per_request, p.popularity(e)
    experts = np.empty((n, len(chosen_layers), k), dtype=np.int16)
    weights = np.empty((n, len(chosen_layers), k), dtype=np.float32)
    noise = _noise(rng, p, requests, tokens_per_request, e)
    for at in range(len(chosen_layers)):
        shuffled = rng.permutation(e)
        popularity = popularity[shuffled]
        if at:
            fresh = _noise(rng, p, requests, tokens_per_request, e)
            noise = np.sqrt(p.depth) * noise[:, :, shuffled] + np.sqrt(1 - p.depth) * fresh
        score = popularity + noise.reshape(n, e)
        top = np.argsort(-score, axis=1, kind="stable")[:, :k]
        logits = np.take_along_axis(score, top, axis=1)
        gate = np.exp(logits - logits[:, :1])
        experts[:, at] = top
        weights[:, at] = (gate / gate.sum(axis=1, keepdims=True)).astype(np.float16)  # captures keep half precision
    return RoutingTrace(
        experts=experts,
        weights=weights,
        request=np.repeat(np.arange(requests), tokens_per_request).astype(np.int32),
        position=np.tile(np.arange(tokens_per_request), requests).astype(np.int32),
        phase=np.full(n, -1, dtype=np.int8),
        layer_index=np.array(chosen_layers, dtype=np.int32),
        n_experts=e,
        model=model.name,
        source=f"{SYNTHETIC_SOURCE}{model.name}, seed {seed}",
        id_space="synthetic: ids carry no meaning",
        synthetic=True,
    )


def _layers_of(model: HasExperts, layers: int | Sequence[int] | None) -> tuple[int, ...]:
    own: tuple[int, ...] | None = getattr(model, "moe_layers", None)
    if layers is None:
        return (LAYERS if own is None else own)[: len(LAYERS)]
    chosen = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    for layer in chosen:
        check_whole("a layer", layer)
    if own is not None:
        check_moe_layers(chosen, model.name, own)
    return chosen


def draw(
    calibration: Calibration, model: str, lengths: Sequence[int], layers: Sequence[int] | None, seed: int
) -> RoutingTrace:
    """A trace from a calibration, labelled with its source; gate weights are assumed where none were captured.

    Args:
        model: name to label it with. lengths: tokens of each request. layers: in any order; None: all calibrated.

    Raises:
        TraceError: a layer that was not fitted or is named twice, no tokens or a negative seed.
    """
    wanted = calibration.layer_index if layers is None else tuple(layers)
    fitted = replace(calibration.of_layers(wanted), has_weights=True)
    trace = fitted.requests(lengths, seed=seed)
    at = [fitted.layer_index.index(layer) for layer in wanted]
    return replace(
        trace,
        experts=trace.experts[:, at],
        weights=None if trace.weights is None else trace.weights[:, at],
        layer_index=trace.layer_index[at],
        model=model,
        source=f"{SYNTHETIC_SOURCE}{model}, calibrated on {calibration.source}, seed {seed}",
        id_space="as in the calibrating trace",
    )


def _noise(rng: np.random.Generator, p: Profile, requests: int, tokens: int, e: int) -> NDArray[np.float64]:
    """Noise of variance 1, float64 [requests, tokens, e]; its fading part is a stationary AR(1) along the tokens."""
    own = rng.standard_normal((requests, 1, e))
    local = rng.standard_normal((requests, tokens, e))
    step = np.sqrt(1 - p.memory**2)
    for t in range(1, tokens):
        local[:, t] *= step
        local[:, t] += p.memory * local[:, t - 1]
    rest = np.sqrt(max(0.0, 1 - p.request - p.local))
    fresh = rng.standard_normal((requests, tokens, e))
    return np.asarray(np.sqrt(p.request) * own + np.sqrt(p.local) * local + rest * fresh, dtype=np.float64)
