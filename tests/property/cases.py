"""Random packages, models, routings and strategies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import ChannelFault, ChannelSpec, D2DSpec, DieSpec, Faults, LinkFault, Package
from expertstream.strategy import Options, strategy_names
from expertstream.trace import Routing, RoutingTrace


@dataclass(frozen=True)
class Case:
    model: MoEModel
    package: Package
    routing: Routing
    strategy: str
    spread: str
    options: Options


@st.composite
def models(draw: st.DrawFn) -> MoEModel:
    n_experts = draw(st.integers(1, 64))
    shared = draw(st.integers(0, 2))
    return MoEModel.one_layer(
        d_model=draw(st.sampled_from([8, 24, 64])),
        d_ffn=draw(st.integers(1, 70)),
        n_experts=n_experts,
        top_k=draw(st.integers(1, min(8, n_experts))),
        n_shared_experts=shared,
        shared_d_ffn=draw(st.integers(1, 40)) if shared else 0,
    )


def _sizes(low: int, high: int) -> st.SearchStrategy[int]:
    """Log-uniform, from about 2^low to about 2^high, so that many are barely workable."""
    return st.tuples(st.integers(low, high), st.floats(1, 2)).map(lambda x: int(2 ** x[0] * x[1]))


@st.composite
def faults(draw: st.DrawFn, package: Package) -> Faults:
    """Faults that may leave too little to run on."""
    pairs = [(a, b) for a in range(package.n_dies) for b in package.neighbours(a) if a < b]
    dead = st.booleans()
    links = draw(st.lists(st.sampled_from(pairs), max_size=3, unique=True)) if pairs else []
    numbers = draw(st.lists(st.integers(0, len(package.channels) - 1), max_size=2, unique=True))

    def state() -> dict[str, int | bool]:
        return {"dead": True} if draw(dead) else {"bandwidth_bytes_per_s": draw(st.sampled_from([10**6, 5 * 10**7]))}

    return Faults(
        dead_dies=tuple(draw(st.lists(st.integers(0, package.n_dies - 1), max_size=3, unique=True))),
        links=tuple(LinkFault(dies=link, one_way=draw(st.booleans()), **state()) for link in links),
        channels=tuple(ChannelFault(channel=c, **state()) for c in numbers),
    )


@st.composite
def damaged_packages(draw: st.DrawFn) -> Package:
    """Packages with faults; without, where they would leave too little."""
    package = draw(packages())
    try:
        return package.replace(faults=draw(faults(package)))
    except ConfigError:
        return package


@st.composite
def packages(draw: st.DrawFn) -> Package:
    rows, cols = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dies = rows * cols
    channels = draw(st.integers(1, min(4, dies)))
    homes = draw(st.permutations(range(dies)))
    return Package(
        name="random",
        source="random",
        rows=rows,
        cols=cols,
        die=DieSpec(
            clock_hz=800_000_000,
            macs_per_cycle=draw(st.sampled_from([1, 64, 2048])),
            weight_buffer_bytes=draw(_sizes(7, 18)),
            token_buffer_bytes=draw(_sizes(7, 16)),
            sram_bandwidth_bytes_per_s=1_600_000_000_000,
            control_overhead_cycles=draw(st.sampled_from([0, 64])),
        ),
        d2d=D2DSpec(
            bandwidth_bytes_per_s=draw(st.sampled_from([10**9, 288 * 10**9])),
            latency_ps=draw(st.sampled_from([0, 4020])),
            header_bytes=draw(st.sampled_from([0, 16])),
            switching=draw(st.sampled_from(["cut-through", "cut-through", "store-and-forward"])),
        ),
        channels=tuple(
            ChannelSpec(
                dies=(homes[c],),
                bandwidth_bytes_per_s=draw(st.sampled_from([10**8, 256 * 10**8, 10**12])),
                efficiency=draw(st.sampled_from([1.0, 1.0, 0.7])),
                latency_ps=draw(st.sampled_from([0, 50_000])),
            )
            for c in range(channels)
        ),
    )


def training_of(routing: Routing, seed: int) -> RoutingTrace:
    """A training part that knows the layer and the one before it: two shuffles of the routing's own tokens."""
    rng = np.random.default_rng(seed)
    n = routing.experts.shape[0]
    return RoutingTrace(
        experts=np.stack((rng.permutation(routing.experts), rng.permutation(routing.experts)), axis=1),
        weights=None,
        request=np.zeros(n, dtype=np.int32),
        position=np.arange(n, dtype=np.int32),
        phase=np.zeros(n, dtype=np.int8),
        layer_index=np.array([routing.layer - 1, routing.layer], dtype=np.int32),
        n_experts=routing.n_experts,
        model="random",
        source="random",
        synthetic=True,
    )


def routing_of(model: MoEModel, tokens: int, skew: float, seed: int) -> Routing:
    """Random routing: k distinct experts a token, from a Zipf law of the given exponent."""
    rng = np.random.default_rng(seed)
    keys = rng.gumbel(size=(tokens, model.n_experts)) - skew * np.log1p(np.arange(model.n_experts))
    experts = np.argsort(-keys, axis=1)[:, : model.top_k].astype(np.int16)
    weights = rng.dirichlet(np.ones(model.top_k), size=tokens).astype(np.float32)
    return Routing(
        experts=experts,
        weights=weights,
        request=np.zeros(tokens, dtype=np.int32),
        layer=1,
        n_experts=model.n_experts,
        source="random",
        synthetic=True,
        before=experts[rng.permutation(tokens)] if seed % 2 else None,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    model, seed = draw(models()), draw(st.integers(0, 99))
    routing = routing_of(model, draw(st.integers(1, 40)), draw(st.sampled_from([0.0, 1.0, 3.0])), seed)
    return Case(
        model,
        draw(st.one_of(packages(), damaged_packages())),
        routing,
        draw(st.sampled_from(strategy_names())),
        draw(st.sampled_from(["contiguous", "round-robin"])),
        Options(
            micro_slices=draw(st.sampled_from([None, 1, 2, 5])),
            placement=draw(st.sampled_from(["contiguous", "round-robin", "balanced", "best"])),
            order=draw(st.sampled_from(["id", "paired"])),
            rings=draw(st.sampled_from([1, 2, 4])),
            redispatch=draw(st.booleans()),
            layout=draw(st.sampled_from(["striped", "whole"])),
            depth=draw(st.sampled_from([None, 1, 3])),
            decision_ps=draw(st.sampled_from([None, 0, 1_000_000])),
            training=training_of(routing, seed),
            prediction=draw(st.one_of(st.none(), st.sampled_from(["trace", 0.1, 0.5, 0.9, 1.0]))),
            lead_ps=draw(st.sampled_from([1, 100_000, 10_000_000, 10**9])),
        ),
    )
