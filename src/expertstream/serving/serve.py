"""Run a scenario: put the parts together, iterate, report; stop and continue from a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expertstream.analysis import COMPONENTS, die_area, energy_by_component
from expertstream.errors import ConfigError
from expertstream.files import write_json
from expertstream.model import MoEModel
from expertstream.package import Package, surviving
from expertstream.package.technology import Technology
from expertstream.serving.blocks import Blocks, Observer
from expertstream.serving.heads import share_heads
from expertstream.serving.iteration import Buffering, Iteration, Witness
from expertstream.serving.recording import record_step
from expertstream.serving.request_files import read_requests
from expertstream.serving.requests import ClosedLoop, Source, Stream, poisson
from expertstream.serving.routing import Replay
from expertstream.serving.scenario import ArrivalSpec, Scenario
from expertstream.serving.server import STATE, Limits, Server
from expertstream.strategy import get_strategy, source_of
from expertstream.strategy.plan import FROM_TRACE
from expertstream.trace import RoutingTrace, synthesize
from expertstream.units import counted

Progress = Callable[[int, int, str], None]
PS_PER_S = 10**12


@dataclass(frozen=True)
class Parts:
    """A scenario with its names resolved."""

    scenario: Scenario
    model: MoEModel
    package: Package
    technology: Technology

    def identity(self) -> str:
        """A hash of all that a run depends on, the files that it reads included, but not where it stops."""
        content = hashlib.sha256()
        for part in (self.scenario.model_copy(update={"iterations": None}), self.model, self.package):
            content.update(part.model_dump_json().encode())
        for file in (self.scenario.trace, self.scenario.requests.file):
            if file is not None:
                with file.open("rb") as data:
                    content.update(hashlib.file_digest(data, "sha256").digest())
        content.update(source_of(self.scenario.strategy) or b"")
        return content.hexdigest()

    def routing(self) -> RoutingTrace:
        """The trace that is replayed. Raises TraceError."""
        if self.scenario.trace is not None:
            return RoutingTrace.open(self.scenario.trace)
        spec = self.scenario.synthetic
        return synthesize(
            self.model,
            requests=spec.requests,
            tokens_per_request=spec.tokens,
            layers=self.model.moe_layers,
            seed=spec.seed,
        )


class Serving:
    """A scenario that runs.

    Args:
        routing: what is replayed; None: what the scenario says. training: what placements are fitted on; None: half of
            the routing, if they are.
        reuse: simulate equal blocks once; changes no result. experts_every: see ``Iteration``.
        observe: called with every block that is run. witness: called with the passes of every block.

    Raises:
        ConfigError: an unknown strategy, or requests that cannot be read.
        TraceError: the routing trace cannot be read or does not fit the model.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        routing: RoutingTrace | None = None,
        training: RoutingTrace | None = None,
        reuse: bool = True,
        experts_every: int = 1,
        observe: Observer | None = None,
        witness: Witness | None = None,
    ) -> None:
        scenario, model = parts.scenario, parts.model
        package = surviving(parts.package)
        self.parts = parts
        routing = parts.routing() if routing is None else routing
        fitted = scenario.placement == "balanced" or scenario.prediction == FROM_TRACE
        if (fitted or get_strategy(scenario.strategy).fitted) and training is None:  # on tokens that are not served
            training, routing = routing.split()
        options = scenario.options(training)
        self.blocks = Blocks(
            model, parts.package, scenario.strategy, options, reuse=reuse, overlap=scenario.overlap, observe=observe
        )
        self.replay = Replay(routing, model, scenario.requests.seed)
        spec = scenario.buffering
        buffering = None if spec is None else Buffering(spec.slack(), spec.theta_min, spec.kept_share)
        iteration = Iteration(
            model,
            self.blocks,
            self.replay,
            buffering,
            output_head=scenario.output_head,
            witness=witness,
            experts_every=experts_every,
        )
        limits = Limits(
            tokens_per_iteration=scenario.tokens_per_iteration,
            requests=scenario.max_requests,
            kv_bytes=scenario.kv_capacity_bytes,
            token_kv_bytes=share_heads(model, package).row_bytes * model.n_layers,
            refill=bool(spec and spec.refill),
            ttft_ps=scenario.qos.ttft,
            tpot_ps=scenario.qos.tpot,
        )
        self.server = Server(_source(scenario.requests), self.replay, iteration, limits, package.n_dies)

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        every: int = 50,
        perfetto: Path | None = None,
        recorded: int = 1,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Iterate to the end of the scenario and report.

        Args:
            checkpoint: file to write after every ``every`` iterations and at the end.
            perfetto: file for the timeline of the iteration of number ``recorded``, from 1 on.
            progress: called as ``progress(iterations, total or 0, what)``.

        Raises:
            ConfigError: a request that cannot be read or served, a file cannot be written, or the run ended before the
                iteration that was to be recorded.
            WorkloadError: a block cannot run on the package.
        """
        tally, total = self.server.tally, self.parts.scenario.iterations
        saved, before = -1, tally.iterations
        if total is not None and before > total:
            raise ConfigError(
                f"the checkpoint was written after {counted(before, 'iteration')}, but {total} are to be run; ask for "
                f"at least {before}, or start anew"
            )
        if perfetto is not None and total is not None and not before < recorded <= total:
            raise ConfigError(
                f"iteration {recorded} is to be recorded, but iterations {before + 1} to {total} are to be run; choose "
                "one of those"
            )
        while total is None or tally.iterations < total:
            record = perfetto is not None and tally.iterations + 1 == recorded
            if not (self._record(perfetto) if record and perfetto else self.server.step()):
                break
            if checkpoint is not None and tally.iterations % every == 0:
                self.save(checkpoint)
                saved = tally.iterations
            if progress:
                progress(tally.iterations, total or 0, f"{counted(tally.completed, 'request')} completed")
        if checkpoint is not None and saved != tally.iterations:
            self.save(checkpoint)
        if perfetto is not None and not before < recorded <= tally.iterations:
            raise ConfigError(
                f"iteration {recorded} was not run and '{perfetto}' not written; iterations {before + 1} to "
                f"{tally.iterations} were run"
            )
        return self.report()

    def _record(self, path: Path) -> bool:
        parts = self.parts
        about = {
            "model": parts.model.name,
            "package": parts.package.name,
            "strategy": parts.scenario.strategy,
            "iteration": self.server.tally.iterations + 1,
            "routing": f"SYNTHETIC: {self.replay.source}" if self.replay.synthetic else self.replay.source,
        }
        return record_step(self.server, self.blocks, path, about)

    def save(self, path: Path) -> None:
        """Write a checkpoint; it appears whole or not at all. Raises ConfigError."""
        write_json({"identity": self.parts.identity(), **self.server.state()}, path)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint. Raises ConfigError if it is damaged or of another scenario."""
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the checkpoint '{path}': {error.strerror}") from None
        except ValueError:
            raise ConfigError(f"'{path}' is not a checkpoint: it is not valid JSON") from None
        if not isinstance(state, dict) or state.get("format") != STATE:
            raise ConfigError(f"'{path}' is not a checkpoint of this version (format {STATE})")
        if state.get("identity") != self.parts.identity():
            raise ConfigError(
                f"the checkpoint '{path}' belongs to another scenario, model, package, trace or strategy; resume with "
                "the same files, or start anew with another checkpoint file"
            )
        try:
            self.server.restore(state)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ConfigError(f"the checkpoint '{path}' is damaged; start anew with another checkpoint file") from None

    def report(self) -> dict[str, Any]:
        """Everything that the run says, as plain JSON types; the same for the same scenario, however it was run."""
        parts, tally, account = self.parts, self.server.tally, self.server.account
        elapsed_ps = max(tally.now_ps, 1)
        tokens = tally.input_tokens + tally.output_tokens
        sums, n_dies = account.sums, surviving(parts.package).n_dies
        energy = energy_by_component(
            parts.technology,
            parts.model,
            macs=sums["macs"],
            sram_read_bytes=sums["sram_read_bytes"],
            sram_write_bytes=sums["sram_write_bytes"],
            d2d_bytes=sums["wire_bytes"],
            ddr_bytes=sums["ddr_bytes"],
            leakage_pj=die_area(parts.package, parts.technology, parts.model).leakage_w * (n_dies * tally.now_ps),
        )
        total_pj = np.sum([energy[name] for name in COMPONENTS], axis=0)
        whole = surviving(parts.package)
        busy_ps, ddr_bytes_per_s, macs_per_s = max(account.latency_ps, 1), whole.ddr_bytes_per_s, whole.macs_per_s
        phase_ps = {phase: sum(times) for phase, times in account.phase_ps.items()}
        macs_share = sums["macs"] * PS_PER_S / (macs_per_s * busy_ps)
        utilisation = {
            phase: account.phase_macs[phase] * PS_PER_S / max(macs_per_s * time, 1) for phase, time in phase_ps.items()
        }
        by_layer = {phase: times[:-1] for phase, times in account.phase_ps.items()}  # the last belongs to no layer
        return {
            "model": parts.model.name,
            "package": parts.package.name,
            "faults": parts.package.faults.in_words,
            "strategy": parts.scenario.strategy,
            "routing_source": self.replay.source,
            "synthetic": self.replay.synthetic,
            "borrowed_layers": self.replay.borrowed,
            "iterations": tally.iterations,
            "time_ps": tally.now_ps,
            "busy_ps": account.latency_ps,
            "requests": {"admitted": tally.admitted, "completed": tally.completed},
            "input_tokens": tally.input_tokens,
            "output_tokens": tally.output_tokens,
            "tokens_per_s": tokens * PS_PER_S / elapsed_ps,
            "output_tokens_per_s": tally.output_tokens * PS_PER_S / elapsed_ps,
            "iteration_ps": tally.iteration.summary(),
            "iteration_histogram": tally.iteration.histogram(),
            "ttft_ps": tally.ttft.summary(),
            "tpot_ps": tally.tpot.summary(),
            "ttft_histogram": tally.ttft.histogram(),
            "tpot_histogram": tally.tpot.histogram(),
            "series": tally.series.columns(),
            "deferrals": account.deferrals,
            "spilled_bytes": account.spilled_bytes,
            "qos_violations": tally.violations,
            "phase_ps": phase_ps,
            "phase_share": {phase: time / busy_ps for phase, time in phase_ps.items()},
            "phase_utilisation": utilisation,
            "phase_overhead": {
                phase: account.phase_compute_ps[phase] / max(time * n_dies, 1) - utilisation[phase]
                for phase, time in phase_ps.items()
            },
            "phase_ddr_utilisation": {
                phase: account.phase_ddr_bytes[phase] * PS_PER_S / max(ddr_bytes_per_s * time, 1)
                for phase, time in phase_ps.items()
            },
            "phase_macs": dict(account.phase_macs),
            "layer_ps": [sum(times) for times in zip(*by_layer.values(), strict=True)],
            "layer_phase_ps": by_layer,
            "preloaded_bytes": account.preloaded_bytes,
            "targets": {"ttft_ps": parts.scenario.qos.ttft, "tpot_ps": parts.scenario.qos.tpot},
            "ddr_utilisation": sums["ddr_bytes"] * PS_PER_S / (ddr_bytes_per_s * busy_ps),
            "utilisation": macs_share,
            "overhead": sums["compute_ps"] / (busy_ps * n_dies) - macs_share,
            "ddr_bytes": sums["ddr_bytes"],
            "d2d_bytes": sums["d2d_bytes"],
            "macs": sums["macs"],
            "peak_package_bytes": sums["peak_bytes"],
            "peak_kv_bytes": tally.peak_kv_bytes,
            "max_passes": sums["passes"],
            "energy_pj": total_pj.tolist(),
            "energy_per_token_pj": (total_pj / max(tokens, 1)).tolist(),
            "energy_by_component_pj": {name: energy[name].tolist() for name in COMPONENTS},
        }


def _source(spec: ArrivalSpec) -> Source:
    prompt, output = spec.prompt_tokens.lengths(), spec.output_tokens.lengths()
    if spec.clients is not None:
        return ClosedLoop(spec.clients, prompt, output, spec.seed, spec.count)
    if spec.rate_per_s is not None:
        return Stream(poisson(spec.rate_per_s, prompt, output, spec.seed), spec.count)
    assert spec.file is not None  # the scenario checks it
    return Stream(read_requests(spec.file), spec.count)
