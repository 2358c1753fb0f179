"""Parts of the page that need no script: header, comparison table, choice of a run, footer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from expertstream.errors import ConfigError
from expertstream.report.verdict import comparison_verdict
from expertstream.units import counted, format_bytes, format_time

if TYPE_CHECKING:
    from expertstream.comparison import Comparison
    from expertstream.simulate import Result

FOOTER = """<footer>
<p>Written by expertstream. Time is exact to the picosecond. The lower bound is the larger of the time to load the
weights of the activated experts once over all DDR channels and the time to compute all MACs on all dies; no strategy
can be faster.
This page is complete: it loads nothing and sends nothing.</p>
</footer>
"""


WITHOUT_SCRIPTS = """<noscript><p class="badge">The timeline, the replay and the charts over time need JavaScript; the
tables do not.</p></noscript>
"""


def header(title: str, synthetic: str | None, *, scripted: bool) -> str:
    """Title, the label of synthetic routing, the button of the theme; ``scripted``: views need a script."""
    badge = ""
    if synthetic is not None:
        badge = (
            '<p class="badge"><strong>SYNTHETIC</strong> routing: '
            f"{escape(synthetic)}. No real model chose these experts.</p>\n"
        )
    return f"""<a class="skip" href="#report">Skip to the report</a>
<header>
<div><p class="brand" aria-hidden="true">expertstream</p>
<h1>{escape(title)}</h1>
{badge}</div>
<button type="button" id="theme" class="screen-only" hidden>Dark</button>
</header>
{WITHOUT_SCRIPTS if scripted else ""}"""


def paragraphs(sentences: Sequence[str]) -> str:
    """The first sentence as a heading line, the rest as a list."""
    rest = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences[1:])
    return f'<p class="verdict">{escape(sentences[0])}</p>\n' + (f"<ul>{rest}</ul>\n" if rest else "")


def first_row(comparison: Comparison) -> dict[str, Any]:
    """The first row. Raises ConfigError if there is none."""
    if not comparison.rows:
        raise ConfigError("there is nothing to report: the comparison has no rows")
    return comparison.rows[0]


def comparison(found: Comparison) -> str:
    """The verdict and the table of a comparison."""
    rows = found.by_tokens()
    layers = sorted({row["layer"] for row in found.rows})
    over = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    widest = max((row["gap"] or 1.0) - 1 for row in rows) or 1.0
    best = {n: min(r["latency_ps"] for r in rows if r["tokens"] == n) for n in {r["tokens"] for r in rows}}
    body = []
    before = None
    for row in rows:
        winner = row["latency_ps"] == best[row["tokens"]]
        classes = " ".join((["best"] if winner else []) + (["group"] if row["tokens"] != before else []))
        before = row["tokens"]
        strategy = escape(row["strategy"]) + (' <span class="tag">fastest</span>' if winner else "")
        cells = (
            f"{row['tokens']}",
            f'<th scope="row">{strategy}</th>',
            format_time(row["latency_ps"]),
            "–" if not row["speedup"] else f"{row['speedup']:.3f}x",
            _gap(row["gap"], widest),
            f"{100 * row['utilisation']:.1f} %",
            format_bytes(row["ddr_bytes"]),
            format_bytes(row["d2d_bytes"]),
            format_bytes(row["peak_package_bytes"]),
            f"{row['passes']}",
        )
        tds = "".join(cell if cell.startswith("<t") else f"<td>{cell}</td>" for cell in cells)
        body.append(f'<tr class="{classes}">{tds}</tr>\n')
    titles = (
        "tokens",
        "strategy",
        "latency",
        f"speed-up over {found.baseline}",
        "latency / bound",
        "MAC utilisation",
        "from DDR",
        "over D2D, bytes x hops",
        "peak SRAM",
        "passes",
    )
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    layouts: dict[str, list[str]] = {}
    for row in rows:
        users = layouts.setdefault(row["ddr_layout"], [])
        if row["strategy"] not in users:
            users.append(row["strategy"])
    findings = "".join(f"<li>{escape(sentence)}</li>" for sentence in comparison_verdict(rows, found.baseline))
    where = "".join(f"<li>{escape(', '.join(users))}: {escape(layout)}</li>" for layout, users in layouts.items())
    reasons = "".join(
        f"<li>{escape(name)} at {counted(n, 'token')}: {escape(why)}</li>" for n, name, why in found.left_out
    )
    left_out = f"<p>Left out:</p><ul>{reasons}</ul>\n" if reasons else ""
    return f"""<section aria-labelledby="comparison-title">
<h2 id="comparison-title">Comparison</h2>
<ul class="findings">{findings}</ul>
<div class="scroll" tabindex="0" role="region" aria-label="Comparison table">
<table class="numbers comparison">
<caption>Means over {over}; speed-ups are ratios of summed latencies, peaks are maxima. The bar is the time above the
lower bound.</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{"".join(body)}</tbody>
</table></div>
{left_out}<details><summary>Where the weights lie in DDR</summary><ul>{where}</ul></details>
</section>
"""


def _gap(gap: float | None, widest: float) -> str:
    if gap is None:
        return "–"
    # the number keeps its room, however long the bar
    width = f"calc((100% - 4.5rem) * {(gap - 1) / widest:.4f})"
    return f'<td class="bar-cell"><span class="bar" style="width:{width}"></span>{gap:.3f}</td>'


def run_picker(runs: Sequence[Result], shown: int, tokens: int, layer: int, left_out: Sequence[str]) -> str:
    """Choice of the run that is shown in detail; empty without runs."""
    missing = ""
    if left_out:
        missing = (
            f"<p>Not in detail, because the page would become too large: {escape(', '.join(left_out))}. "
            "Write a report of one with: expertstream simulate --html FILE.</p>\n"
        )
    if not runs:
        return missing
    options = "".join(
        f'<option value="{number}"{" selected" if number == shown else ""}>'
        f"{escape(run.strategy)} ({format_time(run.latency_ps)})</option>"
        for number, run in enumerate(runs)
    )
    return f"""<section class="picker" aria-labelledby="picker-title">
<h2 id="picker-title">One run in detail</h2>
<p><label for="run">Strategy</label> <select id="run">{options}</select>
at {counted(tokens, "token")}, layer {layer}</p>
{missing}</section>
"""
