"""What 100 iterations of Qwen3-30B-A3B at 64 tokens cost: CPU time of one core and memory."""

from __future__ import annotations

import resource
import time

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.serving.scenario import Scenario
from expertstream.serving.serve import Parts, Serving

SCENARIO = Scenario.model_validate(
    {
        "model": "qwen3-30b-a3b",
        "requests": {
            "arrivals": "closed-loop",
            "clients": 64,
            "prompt_tokens": {"distribution": "uniform", "mean": 16},
            "output_tokens": {"distribution": "uniform", "mean": 48},
        },
        "iterations": 100,
    }
)


def main() -> None:
    model, package, technology = (
        MoEModel.preset("qwen3-30b-a3b"),
        Package.preset("test-chip-2x2"),
        Technology.preset("5nm"),
    )
    began = time.process_time()
    serving = Serving(Parts(SCENARIO, model, package, technology))
    serving.run()
    spent = time.process_time() - began
    blocks, memory = serving.blocks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"100 iterations: {spent:.1f} s of CPU time, {memory:.0f} MB at the peak")
    print(f"{blocks.simulated} blocks simulated, {1e3 * spent / blocks.simulated:.2f} ms each; {blocks.reused} reused")


if __name__ == "__main__":
    main()
