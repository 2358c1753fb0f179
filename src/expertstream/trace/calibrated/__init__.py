"""Calibrations that come with the package, fitted to captures that others published; no token of these is in them.

``python -m expertstream.trace.calibrated CAPTURES`` fits them anew, CAPTURES being the folder of the captures (.npz).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from expertstream.trace.calibration import Calibration
from expertstream.trace.calibration_file import load_calibration, save_calibration
from expertstream.trace.fitting import calibrate
from expertstream.trace.routing import HasExperts, RoutingTrace

FOLDER = Path(__file__).parent.parent / "data"


@dataclass(frozen=True)
class Source:
    """The capture that a model's calibration is fitted to: its file, what it is and whence, its stated licence."""

    model: str
    file: str
    text: str
    licence: str


SOURCES = (
    Source(
        "gpt-oss-20b",
        "gpt-oss-20b__mmlu__decode.npz",
        "MMLU questions, greedy decode (github.com/AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting)",
        "Apache-2.0",
    ),
    Source(
        "deepseek-v2-lite",
        "deepseek-v2-lite-chat__puffin-prompts__prefill.npz",
        "Puffin chat prompts, prefill (github.com/ngavhane/moe-beyond)",
        "none stated",
    ),
    Source(
        "qwen1.5-moe-a2.7b",
        "qwen1.5-moe-a2.7b-chat__own-prompts__prefill+decode.npz",
        "six prompts of the capture's author, prefill and decode (github.com/jinlong-huo/moe_ocs_learning)",
        "none stated",
    ),
)


def packaged_calibration(model: HasExperts) -> Calibration | None:
    """The packaged calibration of a model by name and shape; None where there is none."""
    name = model.name.removesuffix("-paper")
    if name not in {source.model for source in SOURCES}:
        return None
    calibration = _load(name)
    return calibration if (calibration.n_experts, calibration.top_k) == (model.n_experts, model.top_k) else None


@cache
def _load(name: str) -> Calibration:
    return load_calibration(FOLDER / f"{name}.npz")


def write(captures: Path, folder: Path, report: Callable[[str], None] = print) -> None:
    """Fit all packaged calibrations to the captures of one folder and write them into another.

    Raises:
        TraceError: a capture is missing or damaged.
    """
    folder.mkdir(exist_ok=True)
    for source in SOURCES:
        fitted = calibrate(RoutingTrace.load(captures / source.file))
        path = folder / f"{source.model}.npz"
        notes = (*fitted.notes, f"licence of the capture: {source.licence}")
        save_calibration(replace(fitted, model=source.model, source=source.text, notes=notes), path)
        report(f"{path}: {path.stat().st_size} bytes")
