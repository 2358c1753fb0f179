"""The pictures of a trace in a browser: drawn, offline, without a message on the console."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from expertstream.report.trace_page import write_trace_html
from expertstream.trace import synthesize
from expertstream.trace.skew import loads, popularity
from expertstream.trace.statistics import counts_of

if TYPE_CHECKING:
    from tests.browser.conftest import Open


def test_pictures(open_page: Open) -> None:
    model = SimpleNamespace(name="small", n_experts=16, top_k=2)
    trace = synthesize(model, requests=4, tokens_per_request=80, layers=(1, 5))
    evil = "</script><img src=https://example.org/x onerror=alert(1)>"
    trace = replace(trace, source=evil, model=evil)

    def to_html(path: Any) -> None:
        write_trace_html(trace, counts_of(trace), popularity(counts_of(trace)), loads(trace), path)

    page = open_page(SimpleNamespace(to_html=to_html))
    page.wait_for_selector("#figure-2 .main-svg")
    assert page.locator(".js-plotly-plot").count() == 3
    assert (
        page.locator("#figure-1 .scatterlayer .trace").count() == 2 * 3
    )  # 16, 64 and 256 tokens, each with its uniform
    assert page.get_by_text("SYNTHETIC").first.is_visible()
    assert page.locator("h1").inner_text() == f"Routing of {evil}"
    assert page.locator("table tr").count() == 1 + 3 + 2
    inner, outer = page.locator(".scroll").evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert inner <= outer
    low, high = page.evaluate("document.querySelector('#figure-2')._fullLayout.xaxis.range")
    assert (low, high) == (-0.5, 15.5)  # 16 experts and no more
