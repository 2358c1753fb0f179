"""Every picture of README.md and the docs, by what draws it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from docs.generate import hardware, reproduction, runs, sketches
from docs.generate.results import PACKAGE, synthetic
from expertstream.explore import SweepSpec, load_search, load_sweep, make_executor, search, sweep
from expertstream.explore.pictures import draw_pictures
from expertstream.explore.results import load_results
from expertstream.report.chart import write_chart
from expertstream.reproduce import Study

MODEL = "qwen3-30b-a3b"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _comparison(file: Path) -> None:
    case = next(case for case in synthetic() if case.model == MODEL)
    write_chart(case.found.by_tokens(), file, title=f"{MODEL} on {PACKAGE}, three layers, SYNTHETIC routing")


def _explored(file: Path, kind: str, found: Callable[[Path], object]) -> None:
    with TemporaryDirectory() as folder:
        found(Path(folder) / "found")
        drawn, _ = draw_pictures(load_results(Path(folder) / "found"), folder, kinds=[kind], formats=["png"])
        file.write_bytes(drawn[0].read_bytes())


def _design_space(file: Path) -> None:
    spec = load_sweep(EXAMPLES / "sweep.yaml")
    fields = spec.fields | {
        "package.channels.bandwidth": {"from": "16 GB/s", "to": "192 GB/s", "steps": 12},
        "package.d2d.bandwidth": ["96 GB/s", "288 GB/s"],
    }
    fewer = SweepSpec.model_validate(spec.model_dump() | {"fields": fields})
    _explored(file, "heatmap", lambda folder: sweep(fewer, folder, make_executor("serial")))


def _trade_offs(file: Path) -> None:
    spec = load_search(EXAMPLES / "search.yaml")
    _explored(file, "pareto", lambda folder: search(spec, folder, make_executor("serial")))


def _figure(study: Study) -> Callable[[Path], None]:
    return lambda file: reproduction.draw(study, file)


# file in docs/: writes it to the path that it is given
PICTURES: dict[str, Callable[[Path], None]] = {
    "comparison.png": _comparison,
    "design-space.png": _design_space,
    "trade-offs.png": _trade_offs,
    "pictures/ring-and-flow.svg": runs.ring_and_flow,
    "pictures/bounds.svg": runs.bounds,
    "pictures/paired-load.svg": runs.paired_load,
    "pictures/rules.svg": sketches.rules,
    "pictures/token-buffering.svg": sketches.token_buffering,
    "pictures/admission.svg": sketches.admission,
    "pictures/tiles.svg": sketches.tiles,
    "pictures/scheduler.svg": hardware.draw_units,
    **{f"figures/{study.name}.png": _figure(study) for study in reproduction.studies()},
}
