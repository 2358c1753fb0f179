"""The results of ``expertstream reproduce`` that docs/reproduction.md shows.

``python -m docs.generate.reproduction run`` runs every study shown (minutes; captures of EXPERTSTREAM_TRACES get rows
of their own) and keeps the tables in docs/figures; ``claims`` and the pictures follow from those tables alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.csv

from expertstream.cli.reproduce import captures_in
from expertstream.explore import make_executor
from expertstream.report.chart import save_figure
from expertstream.reproduce import Claim, Setting, Study, chosen_studies, reproduce
from expertstream.reproduce.study import Row

OWN_PAGES = ("ablation", "sensitivity", "regimes")  # studies that docs.generate.studies shows
FIGURES = Path(__file__).resolve().parents[1] / "figures"
TRACES = "EXPERTSTREAM_TRACES"


def studies() -> list[Study]:
    """The studies whose tables are kept."""
    return [study for study in _chosen() if (FIGURES / f"{study.name}.csv").exists()]


def _chosen() -> list[Study]:
    return chosen_studies(["all", *OWN_PAGES])


def table_of(study: Study) -> list[Row]:
    """The kept table of a study."""
    rows: list[Row] = pyarrow.csv.read_csv(FIGURES / f"{study.name}.csv").to_pylist()
    return rows


def draw(study: Study, file: Path) -> None:
    """Draw a study's figure from its kept table."""
    save_figure(study.draw(table_of(study)), file, dpi=105)


def claims() -> str:
    """A section for each figure of the paper: ours, the paper's claims and ours, and its assumptions."""
    shown = [study for study in studies() if study.name not in OWN_PAGES]
    of = {study.name: study.assumptions for study in shown}
    shared = [text for text, n in Counter(text for texts in of.values() for text in texts).items() if n > 2]
    parts = ["Assumptions, where a figure does not say otherwise:\n\n" + "\n".join(f"- {text}" for text in shared)]
    for study in shown:
        lines = [
            f"## {study.name}: {study.title}",
            "",
            f"![{study.title}](figures/{study.name}.png)",
            "",
            "| the paper | ours | | why |",
            "| --- | --- | --- | --- |",
        ]
        lines += [line_of(claim) for claim in study.claims(table_of(study))]
        own = [text for text in study.assumptions if text not in shared]
        parts.append("\n".join([*lines, *(["", "Assumptions: " + " ".join(own)] if own else [])]))
    return "\n\n".join(parts)


def line_of(claim: Claim) -> str:
    """A claim as a line of a table."""
    verdict = claim.verdict if claim.verdict == "agrees" else f"**{claim.verdict}**"
    return f"| {claim.claimed} ({claim.section}) | {claim.ours} | {verdict} | {claim.why} |"


def run(folder: Path) -> None:
    """Run everything and keep the tables; ``folder`` keeps the rows of an interrupted run."""
    traces = os.environ.get(TRACES)
    if not traces:
        print(f"{TRACES} names no folder of captures; docs/figures is left as it is", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(traces=captures_in(Path(traces)))
    chosen = _chosen()
    reproduce(chosen, folder, setting, make_executor("processes"), print_progress)
    FIGURES.mkdir(exist_ok=True)
    for study in chosen:
        shutil.copyfile(folder / f"{study.name}.csv", FIGURES / f"{study.name}.csv")


def print_progress(done: int, total: int, what: str) -> None:
    """A line on stderr."""
    print(f"{done} of {total}: {what}", file=sys.stderr)


def main(arguments: Sequence[str]) -> None:
    """``claims``: print the claims; ``run [DIR]``: run everything."""
    if arguments[0] == "claims":
        print(claims())
    else:
        run(Path(arguments[1] if len(arguments) > 1 else "reproduction"))


if __name__ == "__main__":
    main(sys.argv[1:])
