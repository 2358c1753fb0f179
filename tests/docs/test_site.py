"""The docs as a site: built strictly, whole, and without a request to anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs.generate.blocks import ROOT
from tests.needs import needs_module

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_module("material", "docs")
    needs_module("mkdocstrings", "docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not (site / page).is_file()} == set()
    assert not (site / "generate").exists()


def test_every_list_and_table_became_one(site: Path) -> None:
    """A list or a table right after a paragraph is taken for a part of it: an empty line belongs between."""
    left = re.compile(r"<p>(?:(?!</p>).)*?\n\s*(?:- |\d+\. |\| ).*?</p>", re.DOTALL)
    found = {}
    for file in site.rglob("*.html"):
        article = file.read_text().partition("<article")[2].partition("</article")[0]
        found[file.name] = [match[0][:100] for match in left.finditer(article)]
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_every_page_opens_without_a_request_to_elsewhere(site: Path, browser: Browser) -> None:
    problems: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    page.on("console", lambda message: problems.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("request", lambda sent: sent.url.startswith(site.as_uri()) or problems.append(f"request: {sent.url}"))
    # leaving a page aborts what it still loads
    page.on("requestfailed", lambda sent: sent.failure == "net::ERR_ABORTED" or problems.append(f"failed: {sent.url}"))
    for file in sorted(site.rglob("*.html")):
        if file.name != "404.html":  # its links need a server
            page.goto(file.as_uri(), wait_until="load")
            assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)"), file
    context.close()
    assert problems == []


def test_search_finds_a_word(site: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 800})
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").press_sequentially("Toueg Ullman")
    page.locator(".md-search-result__item a[href*='model.html']").first.wait_for(timeout=10_000)
    page.close()
