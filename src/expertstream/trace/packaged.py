"""Small synthetic traces that come with the package; ``python -m expertstream.trace.packaged`` writes them anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expertstream.trace.routing import HasExperts, RoutingTrace
from expertstream.trace.synthesis import synthesize

FOLDER = Path(__file__).parent / "data"
REQUESTS, TOKENS, LAYERS = 8, 136, (1, 2)


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


def packaged_trace(model: HasExperts) -> RoutingTrace:
    """The packaged synthetic trace of a model, or a synthetic one of the same size made on the spot."""
    path = FOLDER / f"{model.name.removesuffix('-paper')}.parquet"
    if path.is_file():
        return RoutingTrace.load(path)
    return synthesize(model, requests=REQUESTS, tokens_per_request=TOKENS, layers=LAYERS)


def main() -> None:
    """Write all packaged traces."""
    FOLDER.mkdir(exist_ok=True)
    for shape in SHAPES:
        trace = synthesize(shape, requests=REQUESTS, tokens_per_request=TOKENS, layers=LAYERS)
        trace.save(FOLDER / f"{shape.name}.parquet")


if __name__ == "__main__":
    main()
