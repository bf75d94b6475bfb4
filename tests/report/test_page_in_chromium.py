"""`report.html` in a browser: it renders, asks for nothing, fits a telephone, and prints."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import report_command
from engine.report.page.leaderboard import leaderboard
from engine.rundir import RunDir
from tests.browser import CHROMIUM, Browser, Page, chromium

FinishedRun = Any  # defined in conftest.py, which cannot be imported

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")

OVERFLOW = """(() => {
    const wide = document.documentElement.clientWidth;
    const inside = e => e.closest('.scroll, pre, nav, details') !== null;
    return [...document.querySelectorAll('body *')]
        .filter(e => !inside(e) && e.getBoundingClientRect().right > wide + 0.5)
        .map(e => e.tagName + '.' + e.className).slice(0, 5);
})()"""
"""Elements that stick out of the window, but for those in a box that scrolls by itself."""

CLIPPED = """[...document.querySelectorAll('.scroll, pre')]
    .filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.getAttribute('aria-label') || e.tagName)"""
"""Boxes that hold more than they show."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def is_sound(page: Page) -> None:
    """No request but for the page itself, and nothing to complain of."""
    assert [url for url in page.requests if not url.startswith("data:")] == [page.url]
    assert page.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_renders_without_a_complaint_or_a_request(
    page: Path, browser: Browser, dark: bool
) -> None:
    shown = browser.open(page, dark=dark)
    is_sound(shown)
    assert shown.ask("document.querySelectorAll('section').length") == 10
    broken = "[...document.images].filter(img => !img.naturalWidth).length"
    assert shown.ask(broken) == 0
    red, green, blue = map(
        int, re.findall(r"\d+", shown.ask("getComputedStyle(document.body).backgroundColor"))
    )
    assert (max(red, green, blue) < 60) == dark
    # Drawings follow: their text has the colour of the page's.
    ink = "getComputedStyle(document.querySelector('svg text')).fill"
    assert shown.ask(ink) == shown.ask(
        "(e => {e.style.color = 'var(--muted)'; document.body.append(e); "
        "return getComputedStyle(e).color})(document.createElement('i'))"
    )


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_makes_it_scroll_sideways(page: Path, browser: Browser, width: int) -> None:
    shown = browser.open(page, width)
    assert shown.ask("document.documentElement.scrollWidth") <= width
    assert shown.ask(OVERFLOW) == []


def test_names_like_html_do_nothing(hostile_run: RunDir, browser: Browser, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert report_command.main([str(hostile_run.root), "--out", str(out)]) == 0
    for width in (400, 1200):
        page = browser.open(out, width)
        is_sound(page)
        assert page.ask("document.scripts.length") == 0
        assert page.ask("document.querySelectorAll('[onerror]').length") == 0
        assert page.ask("document.documentElement.scrollWidth") <= width
        assert page.ask("document.body.innerText.includes('<img src=x onerror=alert(1)>')")


def test_on_paper_it_has_pages_and_nothing_is_clipped(page: Path, browser: Browser) -> None:
    # What an A4 sheet of 96 pixels an inch leaves between its margins.
    shown = browser.open(page, 696, dark=True, media="print")
    assert shown.ask(CLIPPED) == []
    assert shown.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert shown.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    printed = shown.pdf()
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 3


def test_a_leaderboard_is_put_in_another_order_without_scripts(
    finished_run: FinishedRun, rgbd_run: RunDir, browser: Browser, tmp_path: Path
) -> None:
    out = tmp_path / "board.html"
    out.write_text(leaderboard([finished_run.dir, rgbd_run], out), "utf-8")
    page = browser.open(out, 400)
    is_sound(page)
    assert page.ask("document.documentElement.scrollWidth") <= 400
    shown = """[...document.querySelectorAll('.row:not(.head)')]
        .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
        .map(e => e.style.getPropertyValue(ORDER).trim())"""
    for order in ("miou", "boundary", "time", "memory"):
        page.ask(f"document.getElementById('by-{order}').click()")
        assert page.ask(shown.replace("ORDER", f"'--{order}'")) == ["0", "1"]
