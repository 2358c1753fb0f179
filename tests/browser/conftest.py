"""Reports, and the pages that a headless Chromium opens of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from expertstream.comparison import Comparison, compare
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.simulate import Result, simulate
from expertstream.trace import RoutingTrace, synthesize

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MODEL = MoEModel.one_layer(d_model=256, d_ffn=192, n_experts=8, top_k=2, n_shared_experts=1, shared_d_ffn=96)
Open = Callable[..., "Page"]


@pytest.fixture(scope="session")
def trace() -> RoutingTrace:
    return synthesize(MODEL, requests=2, tokens_per_request=20, layers=[0], seed=3)


@pytest.fixture(scope="session")
def result(trace: RoutingTrace) -> Result:
    return simulate(MODEL, Package.preset("test-chip-2x2"), trace.iteration(tokens=32, layer=0))


@pytest.fixture(scope="session")
def comparison(trace: RoutingTrace) -> Comparison:
    return compare(MODEL, Package.preset("test-chip-2x2"), trace, tokens=[8, 32])


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Write the report of a result or a comparison and open it; at the end nothing must have gone wrong."""
    problems: list[str] = []
    contexts = []

    def open_it(report: Any, *, before: str | None = None, **options: Any) -> Page:
        file = tmp_path / f"report-{len(contexts)}.html"
        report.to_html(file)
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: problems.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda sent: sent.url == file.as_uri() or problems.append(f"request: {sent.url}"))
        if before is not None:
            page.add_init_script(before)
        page.goto(file.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == []
