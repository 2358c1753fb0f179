"""The page of a serving run, from the document that ``serve-sim --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import Any

from expertstream.report.html.charts import histogram, stacks, steps
from expertstream.report.html.sections import paragraphs
from expertstream.units import counted, format_bytes, format_time

Document = Mapping[str, Any]
PS_PER_S = 10**12
INKS = {  # colours of the page
    "attention": "receive",
    "experts": "compute",
    "dense": "send",
    "output head": "space",
    "spill": "load",
}
FOOTER = """<footer>
<p>Written by expertstream. Every block was simulated on the event engine; time is exact to the picosecond. Quantiles
and histograms are of values rounded down by at most 0.1 %. Energy is a range: from low to high constants of the
technology.
This page is complete: it loads nothing and sends nothing.</p>
</footer>
"""


def title_of(values: Document) -> str:
    """The page's title."""
    return f"{values['strategy']}: {values['model']} served on {values['package']}"


def body_of(values: Document) -> str:
    """All sections of the page."""
    if not values["iterations"]:
        return '<section class="top">\n<p class="verdict">No iteration was run.</p>\n</section>\n'
    return f"""<section class="top">
{paragraphs(_verdict(values))}{_tiles(values)}</section>
<section aria-labelledby="time-title">
<h2 id="time-title">Over time</h2>
{_over_time(values)}</section>
<section aria-labelledby="requests-title">
<h2 id="requests-title">How long requests wait</h2>
{_requests(values)}</section>
<section aria-labelledby="goes-title">
<h2 id="goes-title">Where the time goes</h2>
{_phases(values)}{_layers(values)}</section>
<section aria-labelledby="energy-title">
<h2 id="energy-title">Energy per token</h2>
{_energy(values)}</section>
<details class="facts"><summary>All facts of the run</summary>{_facts(values)}</details>
"""


def _verdict(values: Document) -> list[str]:
    phase, share = max(values["phase_share"].items(), key=lambda item: item[1])
    ddr, mac = values["ddr_utilisation"], values["utilisation"] + values["overhead"]
    limit = "DDR-bound" if ddr > 0.9 else "compute-bound" if mac > 0.9 else "neither DDR nor the MAC arrays are full"
    out = [
        f"{values['tokens_per_s']:.4g} tokens per second, {limit}: {phase} take{'' if phase == 'experts' else 's'} "
        f"{100 * share:.0f} % of the time.",
        f"DDR channels are busy for {100 * ddr:.1f} % of the time, MAC arrays for {100 * mac:.1f} %.",
    ]
    first, each = values["ttft_ps"], values["tpot_ps"]
    if first["count"]:
        said = f"The first token takes {format_time(first['mean'])} in the mean ({format_time(first['p99'])} at p99)"
        if each["count"]:
            said += f", each further one {format_time(each['mean'])} ({format_time(each['p99'])} at p99)"
        out.append(said + ".")
    if values["deferrals"]:
        out.append(
            f"{counted(values['deferrals'], 'pass')} of requests were deferred, "
            f"{values['deferrals'] / values['iterations']:.2f} an iteration; "
            f"{format_bytes(values['spilled_bytes'])} of their activations went to or from DDR."
        )
    if values["targets"]["ttft_ps"] is None and values["targets"]["tpot_ps"] is None:
        out.append("No targets of service were given.")
    else:
        done = values["requests"]["completed"]
        out.append(f"{values['qos_violations']} of {counted(done, 'completed request')} missed a target.")
    if values["borrowed_layers"]:
        out.append(f"{values['borrowed_layers']} layers borrow the routing of others, because the trace lacks them.")
    return out


def _tiles(values: Document) -> str:
    low, nominal, high = (level / 1e9 for level in values["energy_per_token_pj"])
    requests = values["requests"]
    tiles = [
        ("tokens per second", f"{values['tokens_per_s']:.4g}"),
        ("output tokens per second", f"{values['output_tokens_per_s']:.4g}"),
        ("mean iteration", format_time(values["iteration_ps"]["mean"])),
        ("requests completed", f"{requests['completed']} of {requests['admitted']}"),
        ("deferrals", str(values["deferrals"])),
        ("missed targets", str(values["qos_violations"])),
        ("energy per token, nominal", f"{nominal:.3g} mJ"),
        ("energy per token, low to high", f"{low:.3g} to {high:.3g} mJ"),
    ]
    return '<dl class="tiles">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in tiles) + "</dl>\n"


def _over_time(values: Document) -> str:
    series = values["series"]
    starts, ends, n = series["start_ps"], series["end_ps"], series["iterations"]
    edges = [*starts, ends[-1]]

    def rate(*names: str) -> list[float]:
        lengths = [max(end - start, 1) for start, end in pairwise(edges)]
        total = [sum(each) for each in zip(*(series[name] for name in names), strict=True)]
        return [PS_PER_S * tokens / length for tokens, length in zip(total, lengths, strict=True)]

    def mean(name: str) -> list[float]:
        return [value / count for value, count in zip(series[name], n, strict=True)]

    throughput = [
        ("input and output tokens", "compute", rate("input_tokens", "output_tokens")),
        ("output tokens", "load", rate("output_tokens")),
    ]
    batch = [("tokens of an iteration", "compute", mean("batch_tokens")), ("deferrals", "load", mean("deferrals"))]
    charts = [
        steps("Tokens per second", edges, throughput, format_time, _number),
        steps("Tokens and deferrals of an iteration", edges, batch, format_time, _number),
        steps("Requests that run", edges, [("requests", "send", series["running"])], format_time, _number),
        steps("Key-value cache", edges, [("bytes", "receive", series["kv_bytes"])], format_time, format_bytes, base=2),
    ]
    merged = max(n)
    each = "Each step is an iteration" if merged == 1 else f"Each step is {merged} iterations"
    names = ("start", "iterations", "tokens", "input", "output", "deferrals", "requests", "key-value cache")
    columns = (n, *(series[c] for c in ("batch_tokens", "input_tokens", "output_tokens", "deferrals", "running")))
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{format_time(start)}</th>{"".join(f"<td>{value}</td>" for value in cells)}'
        f"<td>{format_bytes(held)}</td></tr>\n"
        for start, held, *cells in zip(starts, series["kv_bytes"], *columns, strict=True)
    )
    return f"""<p class="hint">{each}; time in which nothing runs belongs to the step before. Rest the
pointer on a curve for its name.</p>
{"".join(charts)}<details><summary>The same as a table</summary>
<div class="scroll" tabindex="0" role="region" aria-label="Series over time">
<table class="numbers"><thead><tr>{head}</tr></thead><tbody>
{rows}</tbody></table></div></details>
"""


def _requests(values: Document) -> str:
    rows, charts = [], []
    for name, key, target in (
        ("time to the first token", "ttft", values["targets"]["ttft_ps"]),
        ("time per output token", "tpot", values["targets"]["tpot_ps"]),
        ("iteration", "iteration", None),
    ):
        times = values[f"{key}_ps"]
        cells = ["–" if times[m] is None else format_time(times[m]) for m in ("mean", "p50", "p99")]
        rows.append(
            f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}'
            f"<td>{'–' if target is None else format_time(target)}</td><td>{times['count']}</td></tr>\n"
        )
        found = values.get(f"{key}_histogram")
        if found and found["counts"]:
            marks = [(m, times[m]) for m in ("p50", "p99")]
            if target is not None and found["edges"][0] <= target <= found["edges"][-1]:
                marks.append(("target", target))
            charts.append(histogram(name.capitalize(), found["edges"], found["counts"], format_time, marks))
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "mean", "p50", "p99", "target", "count"))
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Times of requests">
<table class="numbers"><thead><tr>{head}</tr></thead><tbody>
{"".join(rows)}</tbody></table></div>
{"".join(charts)}"""


def _phases(values: Document) -> str:
    rows, bars = [], []
    for phase, time in values["phase_ps"].items():
        share, ink = values["phase_share"][phase], INKS[phase]
        bars.append(f'<span class="{ink}" style="width:{100 * share:.3f}%"></span>' if share else "")
        rows.append(
            f'<tr><th scope="row"><span class="key {ink}">{phase}</span></th><td>{format_time(time)}</td>'
            f"<td>{100 * share:.1f} %</td><td>{100 * values['phase_ddr_utilisation'][phase]:.1f} %</td>"
            f"<td>{100 * values['phase_utilisation'][phase]:.1f} %</td>"
            f"<td>{100 * values['phase_overhead'][phase]:.1f} %</td></tr>\n"
        )
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("phase", "time", "share", "DDR channels busy", "MAC utilisation", "overhead of MAC arrays")
    )
    return f"""<div class="stack" aria-hidden="true">{"".join(bars)}</div>
<div class="scroll" tabindex="0" role="region" aria-label="Time by phase">
<table class="numbers"><caption>Attention includes the router. Spill is the way of deferred activations to DDR and
back. Weights loaded ahead count where they are used.</caption><thead><tr>{head}</tr></thead><tbody>
{"".join(rows)}</tbody></table></div>
"""


def _layers(values: Document) -> str:
    by_phase = values["layer_phase_ps"]
    parts = [(phase, INKS[phase]) for phase in by_phase]
    rows = [list(row) for row in zip(*by_phase.values(), strict=True)]
    return stacks("Time by layer", rows, parts, format_time)


def _energy(values: Document) -> str:
    tokens = max(values["input_tokens"] + values["output_tokens"], 1)
    levels = {name: [x / tokens for x in each] for name, each in values["energy_by_component_pj"].items()}
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{x / 1e9:.3g} mJ</td>" for x in each)}</tr>\n'
        for name, each in [*levels.items(), ("all", values["energy_per_token_pj"])]
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("component", "low", "nominal", "high"))
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Energy per token">
<table class="numbers narrow"><caption>Input and output tokens alike; leakage counts the whole simulated time.</caption>
<thead><tr>{head}</tr></thead><tbody>
{rows}</tbody></table></div>
"""


def _facts(values: Document) -> str:
    routing = values["routing_source"]
    facts = [
        ("model", values["model"]),
        ("package", values["package"]),
        *(("fault", fault) for fault in values["faults"]),
        ("strategy", values["strategy"]),
        ("routing", f"SYNTHETIC: {routing}" if values["synthetic"] else routing),
        ("iterations", str(values["iterations"])),
        ("simulated time", format_time(values["time_ps"])),
        ("of which something ran", format_time(values["busy_ps"])),
        ("input tokens", str(values["input_tokens"])),
        ("output tokens", str(values["output_tokens"])),
        ("DDR traffic", format_bytes(values["ddr_bytes"])),
        ("of which loaded while the block before ended", format_bytes(values["preloaded_bytes"])),
        ("over D2D, bytes x hops", format_bytes(values["d2d_bytes"])),
        ("peak SRAM of the package", format_bytes(values["peak_package_bytes"])),
        ("peak key-value cache", format_bytes(values["peak_kv_bytes"])),
        ("most passes over the tokens of a block", str(values["max_passes"])),
    ]
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts)
    return f"<table><tbody>{body}</tbody></table>"


def _number(value: float) -> str:
    return f"{value:.4g}"
