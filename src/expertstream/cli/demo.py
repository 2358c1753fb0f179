"""``expertstream demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import which
from typing import Annotated

import typer

from expertstream.cli.compare import as_document, show, title_of
from expertstream.cli.console import announce_compilation, print_json, progress, remark
from expertstream.cli.inputs import JsonOption
from expertstream.comparison import compare, in_parts
from expertstream.files import make_folder, write_json
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.report.chart import write_chart
from expertstream.report.perfetto import write_perfetto
from expertstream.simulate import simulate
from expertstream.strategy import Options
from expertstream.trace import packaged_trace

MODEL, PACKAGE, STRATEGY = "qwen3-30b-a3b", "test-chip-2x2", "fse-dp-paired"
TOKENS = (16, 64, 256)


def demo_command(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the files.")] = Path(
        "expertstream-demo"
    ),
    json: JsonOption = False,
) -> None:
    """Compare all strategies on packaged inputs; write a table, a chart, a timeline and a report.

    Example: expertstream demo --output expertstream-demo
    """
    make_folder(output)
    model, package = MoEModel.preset(MODEL), Package.preset(PACKAGE)
    trace = packaged_trace(model)
    announce_compilation()
    with progress("comparing") as report:
        found = compare(model, package, trace, tokens=TOKENS, proof=True, progress=report)
    document = as_document(found, model, package, trace, mix="round-robin", spread="contiguous", options=Options())
    evaluation, options = in_parts(trace, TOKENS[-1])
    run = simulate(
        model, package, evaluation.iteration(TOKENS[-1], int(trace.layer_index[0])), STRATEGY, options=options
    )
    files = [output / "comparison.json", output / "comparison.png", output / f"{STRATEGY}.perfetto.json"]
    files.append(output / "comparison.html")
    write_json(document, files[0])
    write_chart(document["by_tokens"], files[1], title=title_of(document))
    write_perfetto(run, files[2])
    found.to_html(files[3])
    if json:
        print_json({"files": [str(file) for file in files], "proof_error": found.proof_error, "comparison": document})
        return
    show(document)
    print(f"\nwrote {files[0]} (every number of every run)")
    print(f"wrote {files[1]} (latency above the lower bound)")
    print(f"wrote {files[2]} ({STRATEGY}, {TOKENS[-1]} tokens; open it at https://ui.perfetto.dev)")
    print(f"wrote {files[3]} (the report: open it in a browser)")
    # as it can be typed: an environment that is not activated has the program on no path
    program = "expertstream" if which("expertstream") else sys.argv[0]
    remark(f"next: {program} compare {MODEL} --tokens 16,64,256,1024 --prove")
