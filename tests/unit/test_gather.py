"""Adaptive FSE-DP where gathered experts meet several passes over the tokens."""

from __future__ import annotations

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.trace import synthesize


def test_gathered_experts_in_several_passes() -> None:
    model = MoEModel.one_layer(d_model=512, d_ffn=512, n_experts=16, top_k=2)
    chip = Package.preset("test-chip-2x2")
    small = chip.model_copy(update={"die": chip.die.model_copy(update={"token_buffer_bytes": 88 * 1024})})
    trace = synthesize(model, requests=4, tokens_per_request=40, layers=[0])
    result = simulate(model, small, trace.iteration(tokens=128, layer=0), "fse-dp-adaptive")
    assert result.plan.passes > 1
    assert "tiles of 2 dies" in result.plan.notes[0]
    assert result.check() == 256
    assert result.prove() < 1e-10
