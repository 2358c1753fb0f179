"""One run in detail: verdict, key figures, stalls, links, and the places where the scripts draw."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from expertstream.analysis import CAUSES
from expertstream.report.html.links import dead_links, link_map
from expertstream.report.html.sections import paragraphs
from expertstream.report.verdict import run_verdict
from expertstream.units import counted, format_bytes, format_time

if TYPE_CHECKING:
    from expertstream.simulate import Result

CAUSE_TITLES = {
    "ddr": "waits for DDR",
    "d2d": "waits for D2D",
    "space": "waits for buffer space",
    "other die": "waits for another die",
    "no work": "no work left",
}


def run_about(result: Result) -> dict[str, Any]:
    """What the scripts need to know besides the columns, as plain JSON types."""
    workload, network = result.workload, result.timeline.network
    return {
        "strategy": result.strategy,
        "rows": workload.package.rows,
        "cols": workload.package.cols,
        "links": network.links.tolist(),
        "channels": [list(channel.dies) for channel in workload.package.channels],
        "bufferBytes": result.plan.buffer_bytes.tolist(),
        "routedExperts": workload.model.n_experts,
        "experts": int(workload.columns.size),
        "latency": result.timeline.end_of_all_ps,
        "deadDies": list(workload.package.faults.dead_dies),
        "deadLinks": dead_links(result),
    }


def run_article(result: Result, number: int, *, shown: bool, several: bool) -> str:
    """The run's part of the page, hidden unless ``shown``; ids end in ``number``."""
    workload = result.workload
    name = f"{result.strategy}, {counted(workload.n_tokens, 'token')}, layer {workload.routing.layer}"
    heading = f"<h2>{escape(name)}</h2>\n" if several else f'<h2 class="quiet">{escape(name)}</h2>\n'
    level = "h3"
    return f"""<article class="run" id="run-{number}"{"" if shown else " hidden"} aria-label="{escape(name)}">
{heading}<section class="top">
{paragraphs(run_verdict(result))}{_tiles(result)}</section>
<section class="replay">
<{level}>Replay</{level}>
<p class="hint">Micro-slices on their way through the package; bars in each die show how full its
<span class="key load">weight buffer</span> and <span class="key receive">token buffer</span> are. Pick an expert to
follow its trajectory, or click a die or an activity. Space plays and pauses, <kbd>.</kbd> and <kbd>,</kbd> step.</p>
{_replay(number)}</section>
<section class="time">
<{level}>Over time</{level}>
<p class="hint">Drag to move, pinch or hold Ctrl and turn the wheel to zoom, double-click to zoom in; with the keyboard
<kbd>←</kbd> <kbd>→</kbd> <kbd>+</kbd> <kbd>−</kbd> <kbd>Home</kbd>. Click sets the replay's time.</p>
{_over_time(number)}</section>
<section>
<{level}>Why MAC arrays stand idle</{level}>
{_stalls(result)}</section>
<section>
<{level}>Links and channels</{level}>
{link_map(result, number)}{_resources(result)}</section>
<details class="facts"><summary>All facts of the run</summary>{_facts(result)}</details>
</article>
"""


def _tiles(result: Result) -> str:
    m = result.metrics
    tiles = [
        ("latency", format_time(m.latency_ps)),
        ("latency / lower bound", "–" if m.gap is None else f"{m.gap:.3f}"),
        ("MAC utilisation", f"{100 * m.utilisation:.1f} %"),
        ("loaded from DDR", format_bytes(m.ddr_bytes)),
        ("over D2D, bytes x hops", format_bytes(m.d2d_bytes)),
        ("peak SRAM of the package", format_bytes(m.buffers.package_peak_both_bytes)),
        ("energy, nominal", f"{m.energy.total_pj[1] / 1e9:.3g} mJ"),
        ("energy, low to high", f"{m.energy.total_pj[0] / 1e9:.3g} to {m.energy.total_pj[2] / 1e9:.3g} mJ"),
    ]
    return '<dl class="tiles">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in tiles) + "</dl>\n"


def _replay(number: int) -> str:
    n = number
    return f"""<div class="controls screen-only" role="group" aria-label="Replay">
<button type="button" id="first-{n}" aria-label="To the start">|◀</button>
<button type="button" id="back-{n}" aria-label="Step back">◀</button>
<button type="button" id="play-{n}" class="primary">Play</button>
<button type="button" id="next-{n}" aria-label="Step forward">▶</button>
<label for="speed-{n}">Speed</label>
<select id="speed-{n}"></select>
<label for="expert-{n}">Follow</label>
<select id="expert-{n}"></select>
</div>
<div class="scrub screen-only"><label class="hidden" for="scrub-{n}">Time</label>
<input type="range" id="scrub-{n}" min="0" max="10000" value="0" step="1">
<output id="clock-{n}" for="scrub-{n}"></output></div>
<canvas id="mesh-{n}" role="img" aria-label="The package as a mesh of dies with micro-slices under way"
 aria-describedby="status-{n}"></canvas>
<p id="status-{n}" class="status" role="status"></p>
<details class="screen-only"><summary>What every die does at this time</summary>
<div class="scroll" tabindex="0" role="region" aria-label="What every die does">
<table id="now-{n}"><thead><tr><th scope="col">die</th><th scope="col">receives</th><th scope="col">loads from DDR</th>
<th scope="col">computes</th><th scope="col">sends</th></tr></thead><tbody></tbody></table></div></details>
"""


def _over_time(number: int) -> str:
    n = number
    return f"""<div class="controls screen-only" role="group" aria-label="Zoom">
<button type="button" id="in-{n}" aria-label="Zoom in">+</button>
<button type="button" id="out-{n}" aria-label="Zoom out">−</button>
<button type="button" id="fit-{n}">Whole run</button>
<button type="button" id="focus-{n}" disabled>Followed expert</button>
<output id="window-{n}"></output>
</div>
<ul class="legend"><li class="receive">receive</li><li class="load">DDR load</li><li class="compute">compute</li>
<li class="send">send over D2D</li></ul>
<h4 id="use-title-{n}">How busy</h4>
<p class="hint">Share of each picture column for which resources are busy, mean over all MAC arrays, DDR channels and
links.</p>
<div class="view"><canvas id="use-{n}" role="img" aria-labelledby="use-title-{n}"></canvas></div>
<h4 id="activities-title-{n}">Activities of each die</h4>
<div class="view" id="activities-view-{n}"><canvas id="activities-{n}" tabindex="0" role="application"
 aria-roledescription="timeline" aria-labelledby="activities-title-{n}" aria-describedby="window-{n}"></canvas>
<div class="tip" id="tip-{n}" hidden></div></div>
<h4 id="levels-title-{n}">Buffers</h4>
<p class="hint">Share of its capacity that each die's <span class="key load">weight buffer</span> and
<span class="key receive">token buffer</span> hold; the highest level within each picture column.</p>
<div class="view"><canvas id="levels-{n}" role="img" aria-labelledby="levels-title-{n}"></canvas></div>
"""


def _stalls(result: Result) -> str:
    metrics = result.metrics
    latency = max(metrics.latency_ps, 1)
    shares = (metrics.times_ps / latency).tolist()
    classes = ["compute", "overhead", *(cause.replace(" ", "-") for cause in CAUSES)]
    titles = ["MACs", "overhead", *(CAUSE_TITLES[cause] for cause in CAUSES)]
    rows = []
    for die, values in enumerate(shares):
        bars = "".join(
            f'<span class="{c}" style="width:{100 * share:.3f}%"></span>'
            for c, share in zip(classes, values, strict=True)
            if share > 0
        )
        cells = "".join(f"<td>{100 * share:.1f} %</td>" for share in values)
        rows.append(
            f'<tr><th scope="row">die {die}</th><td class="stack-cell">'
            f'<div class="stack" aria-hidden="true">{bars}</div></td>{cells}</tr>\n'
        )
    head = "".join(
        f'<th scope="col"><span class="key {c}">{title}</span></th>' for c, title in zip(classes, titles, strict=True)
    )
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Stalls of each die">
<table class="numbers stalls"><caption>Shares of the latency; they add up to the whole. MACs: at the full rate of the
array. Overhead: the array is busy, with control or with waiting for weights from SRAM. Each idle time is explained by
what the next compute waited for.</caption>
<thead><tr><th scope="col">die</th><td></td>{head}</tr></thead>
<tbody>
{"".join(rows)}</tbody></table></div>
"""


def _resources(result: Result) -> str:
    busy = result.metrics.busy
    channels = result.workload.package.channels
    rows = [
        (f"DDR channel {number}, die {', '.join(map(str, channel.dies))}", share, moved)
        for number, (channel, share, moved) in enumerate(
            zip(channels, busy.channel_share.tolist(), busy.channel_bytes.tolist(), strict=True)
        )
    ]
    links = result.timeline.network.links.tolist()
    rows += [
        (f"link from die {a} to die {b}", share, moved)
        for (a, b), share, moved in zip(links, busy.link_share.tolist(), busy.link_bytes.tolist(), strict=True)
    ]
    body = "".join(
        f'<tr><th scope="row">{name}</th><td>{100 * share:.1f} %</td><td>{format_bytes(moved)}</td></tr>\n'
        for name, share, moved in rows
    )
    return f"""<details><summary>Every channel and link as a table</summary>
<table class="numbers narrow"><thead><tr><th scope="col">resource</th><th scope="col">busy</th>
<th scope="col">moved</th></tr></thead><tbody>
{body}</tbody></table></details>
"""


def _facts(result: Result) -> str:
    workload, metrics = result.workload, result.metrics
    routing, bounds = workload.routing, metrics.bounds
    facts = [
        ("model", workload.model.name),
        ("package", f"{workload.package.name}: {workload.package.rows} x {workload.package.cols} dies"),
        ("strategy", result.strategy),
        ("tokens", str(workload.n_tokens)),
        ("layer", str(routing.layer)),
        ("routing", f"SYNTHETIC: {routing.source}" if routing.synthetic else routing.source),
        ("DDR layout", result.plan.ddr_layout),
        *(("note", note) for note in result.plan.notes),
        ("passes over the tokens", str(metrics.passes)),
        ("lower bound, DDR", format_time(bounds.ddr_ps)),
        ("lower bound, compute", format_time(bounds.compute_ps)),
        ("busiest D2D link", format_time(bounds.d2d_ps)),
        ("micro-slice computes", str(metrics.computes)),
        ("activities", str(len(result.timeline))),
        ("events of the engine", str(metrics.n_events)),
    ]
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts)
    return f"<table><tbody>{body}</tbody></table>"
