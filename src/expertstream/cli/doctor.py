"""``expertstream doctor``."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import numpy as np
import typer

from expertstream.cli.console import announce_compilation, print_json, stdout, table
from expertstream.cli.inputs import JsonOption
from expertstream.engine import kernel
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import simulate
from expertstream.strategy import Options, strategy_names
from expertstream.strategy.registry import GROUP
from expertstream.trace import Routing, synthesize
from expertstream.trace.packaged import FOLDER
from expertstream.units import format_time

LIBRARIES = ("numpy", "numba", "pydantic", "ruamel.yaml", "typer", "rich", "pyarrow", "scipy", "matplotlib", "plotly")


def doctor_command(json: JsonOption = False) -> None:
    """Check the installation: versions, Numba's cache, plug-ins, presets, traces, and a small run with its proof.

    Example: expertstream doctor

    Exit code 1: something is wrong.
    """
    traces = sorted(file.stem for file in FOLDER.glob("*.parquet"))
    points = sorted(f"{point.name} = {point.value}" for point in entry_points(group=GROUP))
    checks = {
        "Numba cache": _check(_cache),
        "model presets": _check(lambda: ", ".join(MoEModel.preset(n).name for n in MoEModel.preset_names())),
        "package presets": _check(lambda: ", ".join(Package.preset(n).name for n in Package.preset_names())),
        "packaged traces (SYNTHETIC)": (bool(traces), ", ".join(traces) or f"none in {FOLDER}"),
        "strategies": _check(lambda: ", ".join(strategy_names())),
        f"plug-ins ({GROUP})": (True, ", ".join(points) or "none installed"),
        "self-test": _check(_self_test),
    }
    versions = {"python": platform.python_version(), "expertstream": _version("expertstream")}
    versions |= {name: _version(name) for name in LIBRARIES}
    healthy = all(good for good, _ in checks.values())
    if json:
        found = {name: {"ok": good, "found": text} for name, (good, text) in checks.items()}
        print_json({"ok": healthy, "versions": versions, "platform": platform.platform(), "checks": found})
    else:
        rows = [["ok" if good else "WRONG", name, text] for name, (good, text) in checks.items()]
        rows.insert(0, ["ok", "versions", ", ".join(f"{name} {text}" for name, text in versions.items())])
        stdout().print(table("expertstream doctor", ["", "check", "found"], rows, left=3))
        print("everything works" if healthy else "something is wrong: see above")
    if not healthy:
        raise typer.Exit(1)


def _check(look: Any) -> tuple[bool, str]:
    try:
        return True, look()
    except Exception as error:  # a doctor reports what is broken, whatever it is
        return False, f"{type(error).__name__}: {error}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cache() -> str:
    stats: Any = getattr(kernel.advance, "stats", None)
    if stats is None:
        return "compilation is switched off (NUMBA_DISABLE_JIT): everything works, very slowly"
    if stats.cache_path is None:
        return "no writable folder: the kernel is compiled at every start; set NUMBA_CACHE_DIR to a writable folder"
    folder = Path(stats.cache_path)
    kept = len(list(folder.glob("kernel.*.nbc")))
    return f"{folder} is writable, {kept} compiled functions in it"


def _self_test() -> str:
    """A layer of 8 experts and 16 tokens under every strategy, each proven."""
    rng = np.random.default_rng(0)
    experts = np.argsort(rng.random((16, 8)), axis=1)[:, :2].astype(np.int16)
    routing = Routing(
        experts=experts,
        weights=np.full((16, 2), 0.5, dtype=np.float32),
        request=np.zeros(16, dtype=np.int32),
        layer=0,
        n_experts=8,
        source="self-test",
        synthetic=True,
    )
    model = MoEModel.one_layer(d_model=64, d_ffn=96, n_experts=8, top_k=2)
    package = Package.preset("test-chip-2x2")
    announce_compilation()
    began = time.perf_counter()
    options = Options(training=synthesize(model, requests=2, tokens_per_request=16, layers=(0,)))
    results = [simulate(model, package, routing, name, options=options) for name in strategy_names()]
    worst = max(result.prove() for result in results)
    took = format_time(1e12 * (time.perf_counter() - began))
    return f"{len(results)} strategies run and proven, largest relative error {worst:.1e}, {took}"
