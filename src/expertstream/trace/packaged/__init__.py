"""Small synthetic traces that come with the package; ``python -m expertstream.trace.packaged`` writes them anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expertstream.errors import TraceError, nearest
from expertstream.trace.routing import HasExperts, RoutingTrace
from expertstream.trace.synthesis import synthesize

FOLDER = Path(__file__).parent.parent / "data"
REQUESTS, TOKENS, LAYERS = 8, 160, (1, 2, 3, 4)


@dataclass(frozen=True)
class _Shape:
    name: str
    n_experts: int
    top_k: int


SHAPES = (
    _Shape("phi-3.5-moe", 16, 2),
    _Shape("yuan2-m32", 32, 2),
    _Shape("deepseek-moe-16b", 64, 6),
    _Shape("qwen3-30b-a3b", 128, 8),
)


def packaged_trace(model: HasExperts | str) -> RoutingTrace:
    """The packaged synthetic trace of a model; for a model of another name or shape, one made on the spot.

    Raises:
        TraceError: a name (rather than a model) that has no packaged trace.
    """
    shapes = {shape.name: shape for shape in SHAPES}
    name = (model if isinstance(model, str) else model.name).removesuffix("-paper")
    shape = shapes.get(name)
    if isinstance(model, str):
        if shape is None:
            raise TraceError(
                f"there is no packaged trace of '{model}'{nearest(name, shapes)}; packaged: {', '.join(shapes)}; "
                "synthesize a trace for any other model"
            )
    elif shape is None or (model.n_experts, model.top_k) != (shape.n_experts, shape.top_k):
        layers = LAYERS if set(LAYERS) <= set(getattr(model, "moe_layers", LAYERS)) else None
        return synthesize(model, requests=REQUESTS, tokens_per_request=TOKENS, layers=layers)
    return RoutingTrace.load(FOLDER / f"{name}.parquet")


def write(folder: Path) -> None:
    """Write all packaged traces into a folder, the same bytes every time."""
    folder.mkdir(exist_ok=True)
    for shape in SHAPES:
        trace = synthesize(shape, requests=REQUESTS, tokens_per_request=TOKENS, layers=LAYERS)
        trace.save(folder / f"{shape.name}.parquet")
