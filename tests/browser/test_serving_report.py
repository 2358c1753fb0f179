"""The page of a serving run in a browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from expertstream.report.html import write_serving_html
from tests.browser.conftest import Open
from tests.serving import serving, tiny_model, tiny_scenario


@dataclass
class Served:
    """What ``open_page`` can open."""

    document: dict[str, Any]

    def to_html(self, path: Path) -> None:
        write_serving_html(self.document, path)


@pytest.fixture(scope="module")
def served() -> Served:
    scenario = tiny_scenario(buffering={"slack_percent": 50, "theta_min": 4}, qos={"ttft": 10**9})
    return Served(serving(scenario).run())


def test_it_says_what_the_document_says(open_page: Open, served: Served) -> None:
    page, values = open_page(served), served.document
    tiles = dict(
        zip(page.locator(".tiles dt").all_inner_texts(), page.locator(".tiles dd").all_inner_texts(), strict=True)
    )
    assert tiles["requests completed"] == "12 of 12"
    assert tiles["deferrals"] == str(values["deferrals"]) != "0"
    assert tiles["missed targets"] == str(values["qos_violations"])
    assert f"{values['tokens_per_s']:.4g} tokens per second" in page.locator(".verdict").inner_text()
    assert page.get_by_text("SYNTHETIC", exact=True).first.is_visible()
    page.get_by_text("The same as a table").click()
    rows = page.get_by_label("Series over time").locator("tbody tr")
    assert rows.count() == values["iterations"]
    outputs = [int(row.locator("td").nth(3).inner_text()) for row in rows.all()]
    assert outputs == values["series"]["output_tokens"]
    assert sum(outputs) == values["output_tokens"]
    page.get_by_text("All facts of the run").click()
    assert page.locator(".facts").get_by_text("tiny", exact=True).count() >= 1


def test_charts_show_every_value(open_page: Open, served: Served) -> None:
    page, values = open_page(served), served.document
    charts = page.locator("figure.chart")
    titles = charts.locator("h4").all_inner_texts()
    assert titles == [
        "Tokens per second",
        "Tokens and deferrals of an iteration",
        "Requests that run",
        "Key-value cache",
        "Time to the first token",
        "Time per output token",
        "Iteration",
        "Time by layer",
    ]
    bars = charts.nth(4).locator("rect title").evaluate_all("all => all.map((title) => title.textContent)")
    assert sum(int(text.rsplit(": ", 1)[1]) for text in bars) == values["ttft_ps"]["count"]
    filled = sum(time > 0 for times in values["layer_phase_ps"].values() for time in times)
    assert charts.nth(7).locator("rect").count() == filled
    for chart in charts.all():
        box, text = chart.locator("svg").bounding_box(), chart.locator("text")
        assert box
        for place in (label.bounding_box() for label in text.all()):
            assert place
            assert place["x"] >= box["x"] - 1
            assert place["x"] + place["width"] <= box["x"] + box["width"] + 1


def test_themes_and_names(open_page: Open, served: Served) -> None:
    page = open_page(served)
    ink = "getComputedStyle(document.querySelector('.chart path.compute')).stroke"
    assert page.evaluate(ink) == "rgb(0, 114, 178)"
    page.get_by_role("button", name="Change to the dark theme").click()
    assert page.evaluate(ink) == "rgb(86, 180, 233)"
    names = page.evaluate(
        """() => [...document.querySelectorAll("svg[role=img]")].map((svg) =>
        document.getElementById(svg.getAttribute("aria-labelledby"))?.textContent || "")"""
    )
    assert len(set(names)) == len(names) == 8
    assert all(names)
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_no_width_makes_the_page_scroll_sideways(open_page: Open, served: Served, width: int) -> None:
    page = open_page(served)
    page.set_viewport_size({"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_works_without_scripts(open_page: Open, served: Served) -> None:
    page = open_page(served, java_script_enabled=False)
    assert page.locator(".chart path").count() > 8
    assert page.get_by_text("need JavaScript").count() == 0


def test_names_cannot_do_anything(open_page: Open, served: Served) -> None:
    evil = "</title><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>&amp;"
    changed = served.document | {"model": evil, "package": evil, "routing_source": evil, "faults": [evil]}
    page = open_page(Served(changed))
    assert page.locator("h1").inner_text().count(evil) == 2
    assert page.locator("img").count() == 0


def test_runs_of_one_iteration_and_of_none(open_page: Open) -> None:
    one = Served(serving(tiny_scenario(iterations=1, requests={"arrivals": "closed-loop", "clients": 1})).run())
    assert "tokens per second" in open_page(one).locator(".verdict").inner_text()
    none = serving(tiny_scenario(), model=tiny_model())
    assert open_page(Served(none.report())).locator(".verdict").inner_text() == "No iteration was run."
