"""Every picture of README.md and the docs, by what draws it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.generate.results import PACKAGE, synthetic
from expertstream.report.chart import write_chart

MODEL = "qwen3-30b-a3b"


def _comparison(file: Path) -> None:
    case = next(case for case in synthetic() if case.model == MODEL)
    write_chart(case.found.by_tokens(), file, title=f"{MODEL} on {PACKAGE}, three layers, SYNTHETIC routing")


# file in docs/: writes it to the path that it is given
PICTURES: dict[str, Callable[[Path], None]] = {"comparison.png": _comparison}
