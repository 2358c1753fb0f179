"""An iteration as a Chrome trace: every block of it is run, also those that equal an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expertstream.engine.timeline import Timeline
from expertstream.package import SurvivingPackage
from expertstream.report.perfetto import expert_names, trace_file
from expertstream.report.perfetto_blocks import BlockTrace
from expertstream.serving.blocks import Blocks
from expertstream.serving.preload import own_channels
from expertstream.serving.server import Server
from expertstream.serving.stages import STAGES, BlockPlan
from expertstream.strategy import Plan
from expertstream.workload import LayerWorkload


def record_step(server: Server, blocks: Blocks, path: Path, about: dict[str, Any]) -> bool:
    """Run one iteration of a server and write its blocks, back to back, to ``path``.

    Args:
        about: what the file says of the run, plain JSON types.

    Returns:
        What ``Server.step`` does; without a request left, no file is written.

    Raises:
        ConfigError: the file cannot be written, and what ``Server.step`` raises.
    """
    if not server.ready():
        return False
    package = blocks.package(0)
    own = own_channels(package)
    if isinstance(package, SurvivingPackage):
        about = about | {"dies": f"those that work: {', '.join(map(str, package.dies))}"}
    with trace_file(path, about) as write:
        trace = BlockTrace(write, package, server.tally.now_ps)

        def observe(kind: str, layer: int, plan: Plan, timeline: Timeline, workload: LayerWorkload | None) -> None:
            names = [(stage, stage) for stage in STAGES]
            tokens = 0
            if workload is not None:
                experts = expert_names(workload)
                names = [(experts[e], f"{experts[e]} columns {a}-{b}") for e, a, b in plan.slices.tolist()]
                tokens = workload.n_tokens
            ahead = plan.preloaded_bytes if isinstance(plan, BlockPlan) else ()
            loads = {int(own[die]): n_bytes for die, n_bytes in enumerate(ahead) if n_bytes}
            where = kind if layer < 0 else f"layer {layer} {kind}"
            trace.add(where, timeline, names, tokens=tokens or int(timeline.tokens.max(initial=0)), ahead=loads)

        with blocks.watched(observe):
            return server.step()
