"""The book is built without a warning, needs no other host, and agrees with the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from markdown_it import MarkdownIt

from dsa110_assets import settings, thresholds
from dsa110_assets.cli import app
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.watching import conditions
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.browser import chromium
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.portal import small_archive
from dsa110_assets_tests.portal.conftest import ask

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
COUNTED = ("li", "ol", "ul", "tr", "table", "pre")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book as `dsa110 docs` builds it: in strict mode, in a separate process."""
    place = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-c", "from dsa110_assets.cli import main; raise SystemExit(main())", "docs", "--out", str(place)]
    done = subprocess.run(command, cwd=pages.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(place / "index.html")
    return place


@pytest.fixture(scope="module")
def made() -> Iterator[ModuleType]:
    """The module that writes the pages of the reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(pages.ROOT / "ops" / "book")
        import reference

        yield reference
        for name in ("reference", "openapi"):
            del sys.modules[name]


def html(site: Path, page: str) -> str:
    """The HTML of a page of the book, by the page's path in the repository."""
    path = Path(page)
    folder = path.parent if path.name in ("README.md", "index.md") else path.with_suffix("")
    text = (site / folder / "index.html").read_text(encoding="utf-8")
    return text[text.index("<article") : text.index("</article>")]


@pytest.mark.parametrize("page", pages.own_pages(), ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_a_page_looks_as_on_github(site: Path, page: Path) -> None:
    """Lists, items, rows and code blocks are as many as another program (CommonMark) makes of the text; Mermaid blocks are drawn."""
    text = page.read_text(encoding="utf-8")
    expected, shown = MarkdownIt("commonmark").enable("table").render(text), html(site, str(page.relative_to(pages.ROOT)))
    count = {tag: len(re.findall(rf"<{tag}[ >]", expected)) for tag in COUNTED}
    count["pre"] -= text.count("```mermaid")
    assert {tag: len(re.findall(rf"<{tag}[ >]", shown)) for tag in COUNTED} == count
    assert shown.count('aria-label="The asset graph"') == text.count("```mermaid")


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    """Pages load no script, style, font or picture from outside, and have no element for which the theme's script would fetch Mermaid."""
    fetched = re.compile(r"<(?:script|link|img|iframe|source|object)\b[^>]*?(?:src|href|data)=[\"']?((?:https?:)?//[^\"'\s>]+)")
    css = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)")
    html_pages = sorted(site.rglob("*.html"))
    assert len(html_pages) > len(pages.own_pages())
    for page in html_pages:
        text = page.read_text(encoding="utf-8")
        assert fetched.findall(text) == [], page
        assert 'class="mermaid"' not in text
    assert fetched.findall('<link href="https://fonts.example/a.css" rel="stylesheet">') == ["https://fonts.example/a.css"]
    for style in site.rglob("*.css"):
        assert css.findall(style.read_text(encoding="utf-8")) == [], style


def test_words_of_pages_and_of_the_reference_are_found_by_the_search(site: Path) -> None:
    """Words are in the index that the search in the browser uses, which is one file of the site."""
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    expected = {"max_flux_ratio": "docs/reference/thresholds/", "quarantined": "ops/runbook/", "light_curve": "docs/reference/python/"}
    for word, place in expected.items():
        assert [one["location"] for one in found if one["location"].startswith(place) and word in one["text"] + one["title"]], word


@pytest.mark.slow
def test_the_search_answers_in_a_browser_without_a_network(site: Path, tmp_path: Path) -> None:
    """Chromium, which can reach only this machine, finds a threshold by its name."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/docs/"
        with chromium(tmp_path, "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1") as browser:
            browser.get(address + "?q=max_neighbour_difference")
            browser.execute_script("document.querySelector('[data-md-toggle=search]').click()")
            links = WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".md-search-result__link"))
            assert any("/docs/reference/thresholds/" in str(link.get_attribute("href")) for link in links)
            requested = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
            assert requested
            assert [one for one in requested if not one.startswith((f"http://127.0.0.1:{server.server_port}/", "data:", "blob:"))] == []
            assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE" and "favicon" not in line["message"]] == []
        server.shutdown()


def test_every_command_is_in_the_reference(made: ModuleType) -> None:
    def leaves(group: object, path: str) -> set[str]:
        if not hasattr(group, "commands"):
            return {path}
        return {leaf for name, one in group.commands.items() if not one.hidden for leaf in leaves(one, f"{path} {name}")}

    tree = leaves(typer.main.get_command(app.build()), "dsa110")
    assert set(re.findall(r"^## (dsa110 .*)$", made.commands(), re.MULTILINE)) == tree
    assert "| `--dry-run` |  | Check everything and say what would be made; write nothing. |" in made.commands()


def test_every_setting_and_threshold_is_in_the_reference_with_its_default(made: ModuleType, no_settings_of_this_machine: None) -> None:
    rows = settings.describe(settings.load(inbox="/a", archive="/b"))
    listed = {line.split("`")[1]: line for line in made.all_settings().splitlines() if line.startswith("| `")}
    assert listed.keys() == {row.name for row in rows}
    assert [row.name for row in rows if row.source == "default" and row.value and f"`{row.value}`" not in listed[row.name]] == []
    text = made.all_thresholds()
    assert [name for name in thresholds.Thresholds.model_fields if f"| `{name}` |" not in text] == []


def test_every_asset_and_check_is_in_the_reference(made: ModuleType) -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", made.checks(), re.MULTILINE | re.DOTALL))
    for name, asset in specifications().items():
        assert f"## {name}\n" in made.assets()
        for rule in asset.rules:
            (row,) = [line for line in sections[name].splitlines() if line.startswith(f"| `{rule.check}` | {rule.description} |")]
            assert [limit for limit in rule.limits if f"`{limit}`" not in row.split(" | ")[3]] == []


def test_every_alert_is_in_the_reference_with_limits_and_runbook(made: ModuleType) -> None:
    """The strict build checks that the sections exist."""
    rows = {line.split("`")[1]: line for line in made.alerts().splitlines() if line.startswith("| `")}
    assert rows.keys() == conditions.CONDITIONS.keys()
    for name, one in conditions.CONDITIONS.items():
        assert f"(../../ops/runbook.md#{one.runbook})" in rows[name]
        assert [limit for limit in one.limits if f"`{limit}`" not in rows[name]] == []


def test_every_metric_that_is_served_is_in_the_reference(made: ModuleType, tmp_path: Path) -> None:
    """The page, made from an empty archive, has all metrics that a portal over an archive with products serves."""
    small = small_archive.build(tmp_path)
    text = ask(create_app(small.root, inbox=small.inbox), "/metrics").text
    metrics = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP dsa110_")}
    assert len(metrics) > 40
    assert metrics <= set(made.served())
