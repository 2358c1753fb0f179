"""Assembles the page: tables made here, views drawn by the page's own scripts, data packed in.

The scripts are our own because a charting library draws each activity as an object of its own: at 100,000 activities a
page with one is neither small nor quick. They are ES modules in files beside this one, joined into one script.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from expertstream.files import replacing
from expertstream.report.html import sections, serving
from expertstream.report.html.pack import Packed, pack_run
from expertstream.report.html.run import run_about, run_article
from expertstream.units import counted

if TYPE_CHECKING:
    from expertstream.comparison import Comparison
    from expertstream.simulate import Result

SCRIPTS = ("inflate", "unpack", "format", "run", "state", "canvas", "activities", "lines", "mesh", "replay", "main")
MAX_ACTIVITIES = 1_000_000  # of all runs in one page: about 3 to 6 bytes each in the file, 100 in the browser
# Nothing may be fetched from anywhere: a browser refuses it whatever a name in the report says.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def write_run_html(result: Result, path: str | os.PathLike[str]) -> None:
    """Write the report of one run; the same run gives the same bytes. Raises ConfigError if it cannot be written."""
    workload = result.workload
    title = (
        f"{result.strategy}: {workload.model.name} on {workload.package.name}, {counted(workload.n_tokens, 'token')}"
    )
    source = workload.routing.source
    _write(path, title, source if workload.routing.synthetic else None, "", [result], 0)


def write_comparison_html(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write the report of a comparison: its table, and the runs at the most tokens in detail.

    The runs in detail are those of one layer, the middle one; they are simulated again, as a comparison keeps no
    timelines. Runs beyond a million activities in all are left out, which the page says.

    Raises:
        ConfigError: the comparison has no rows, or the file cannot be written.
    """
    first = sections.first_row(comparison)
    tokens = max(row["tokens"] for row in comparison.rows)
    layers = sorted({row["layer"] for row in comparison.rows if row["tokens"] == tokens})
    layer = layers[len(layers) // 2]
    chosen = [row for row in comparison.rows if row["tokens"] == tokens and row["layer"] == layer]
    runs: list[Result] = []
    left_out: list[str] = []
    activities = 0
    for row in chosen if comparison.rerun else []:
        result = comparison.rerun(row) if comparison.rerun else None
        if result is None or activities + len(result.timeline) > MAX_ACTIVITIES:
            left_out.append(row["strategy"])
            continue
        activities += len(result.timeline)
        runs.append(result)
    fastest = min(range(len(runs)), key=lambda i: runs[i].latency_ps, default=0)
    body = sections.comparison(comparison) + sections.run_picker(runs, fastest, tokens, layer, left_out)
    title = f"Strategies compared: {first['model']} on {first['package']}"
    _write(path, title, first["routing_source"] if first["synthetic"] else None, body, runs, fastest)


def write_serving_html(document: serving.Document, path: str | os.PathLike[str]) -> None:
    """Write the report of a serving run from its document, that of ``serve-sim --json``.

    Raises:
        ConfigError: the file cannot be written.
    """
    synthetic = document["routing_source"] if document["synthetic"] else None
    body = serving.body_of(document)
    _write(path, serving.title_of(document), synthetic, body, [], 0, footer=serving.FOOTER)


def _write(
    path: str | os.PathLike[str],
    title: str,
    synthetic: str | None,
    before: str,
    runs: Sequence[Result],
    shown: int,
    *,
    footer: str = sections.FOOTER,
) -> None:
    several = before != ""
    packed = [pack_run(run) for run in runs]
    articles = [run_article(run, number, shown=number == shown, several=several) for number, run in enumerate(runs)]
    data = [_data(number, run, some) for number, (run, some) in enumerate(zip(runs, packed, strict=True))]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_head(title))
        file.write(sections.header(title, synthetic, scripted=bool(runs)))
        file.write(f'<main id="report">\n{before}')
        for part in (*articles, "</main>\n", footer, *data):
            file.write(part)
        file.write(f'<script type="module">\n{_script()}</script>\n</body>\n</html>\n')


def _head(title: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
</head>
<body>
"""


def _data(number: int, result: Result, packed: Packed) -> str:
    about = run_about(result) | {"columns": packed.columns, "size": packed.size}
    # "<" is escaped so that no name can end the script element.
    text = json.dumps(about, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<script type="application/json" id="about-{number}">{text}</script>\n'
        f'<script type="text/plain" id="data-{number}">{packed.text}</script>\n'
    )


def _script() -> str:
    """All modules as one: their imports name nothing outside, so that they can go, and nothing has to be exported."""
    joined = "".join(_asset(f"{name}.js") for name in SCRIPTS)
    return re.sub(r"^export ", "", re.sub(r"^import [^;]*;\n", "", joined, flags=re.M), flags=re.M)


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
