"""What capture adds to a forward pass of a tiny and of a mid-size random model; prints medians of alternating runs."""

from __future__ import annotations

import statistics
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from expertstream import capture
from expertstream.units import signed

SIZES = {
    "tiny": {"hidden_size": 256, "moe_intermediate_size": 128, "num_hidden_layers": 4, "num_experts": 16},
    "mid-size": {"hidden_size": 1024, "moe_intermediate_size": 512, "num_hidden_layers": 8, "num_experts": 32},
}


def seconds(model: torch.nn.Module, ids: torch.Tensor, hooked: bool) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        if hooked:
            with capture(model):
                model(ids)
        else:
            model(ids)
    return time.perf_counter() - start


def main() -> None:
    for name, size in SIZES.items():
        config = AutoConfig.for_model(
            "qwen3_moe", **size, vocab_size=1000, num_attention_heads=8, num_key_value_heads=4, num_experts_per_tok=4
        )
        model = AutoModelForCausalLM.from_config(config).eval()
        ids = torch.randint(0, 1000, (4, 128))
        seconds(model, ids, True)
        pairs = [(seconds(model, ids, False), seconds(model, ids, True)) for _ in range(9)]
        plain, hooked = (statistics.median(column) for column in zip(*pairs, strict=True))
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        cost = 100 * (hooked / plain - 1)
        print(f"{name} ({parameters:.0f} M parameters, 512 tokens): {1e3 * plain:.1f} ms, {signed(cost)} %")


if __name__ == "__main__":
    main()
