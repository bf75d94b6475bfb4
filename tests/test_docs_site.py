"""The docs as a site: every link leads somewhere, and nothing is fetched from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, chromium

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    pytest.importorskip("material", reason="needs mkdocs-material, which the extra docs installs")
    out = tmp_path_factory.mktemp("site")
    command: list[str | Path] = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["--site-dir", out]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
        },  # of the theme's makers, about their next one
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_there(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in site.glob("*.html")} == {*pages, "notebook", "404"}
    assert "First hour" in (site / "index.html").read_text(encoding="utf-8")


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//|"
        r"<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|icon)[^>]*href=[\"']?(?:https?:)?//"
    )
    for page in site.rglob("*.html"):
        assert not fetched.search(page.read_text(encoding="utf-8")), page.relative_to(site)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser_it_asks_for_nothing_outside_and_fits_a_telephone(
    site: Path, dark: bool
) -> None:
    with chromium() as browser:  # a new one: the site remembers the first theme that it had
        for name, width in (("index", 400), ("notebook", 400), ("configuration", 1200)):
            page = browser.open(site / f"{name}.html", width, dark=dark)
            own = site.resolve().as_uri(), "data:", "blob:"
            assert [url for url in page.requests if not url.startswith(own)] == []
            assert page.complaints == []
            assert page.ask("document.documentElement.scrollWidth") == width
            assert page.ask("[...document.images].every(image => image.naturalWidth > 0)")
            scheme = page.ask("document.body.getAttribute('data-md-color-scheme')")
            assert scheme == ("slate" if dark else "default")
