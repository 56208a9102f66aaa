"""Every page can be found from the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsa110_assets_tests.docs import pages

INDEX = pages.DOCS / "index.md"
DECISIONS = pages.DOCS / "decisions"


def led_to(page: Path) -> set[Path]:
    """The files that a page links to."""
    targets = [target.partition("#")[0] for target in pages.links(page.read_text(encoding="utf-8"))]
    return {(page.parent / target).resolve() for target in targets if target}


def test_the_readme_leads_to_the_index_and_the_index_to_every_page() -> None:
    assert INDEX.resolve() in led_to(pages.ROOT / "README.md")
    all_pages = {page.resolve() for page in pages.own_pages() if page.parent != DECISIONS and page != INDEX}
    assert all_pages - led_to(INDEX) == set()


def test_decisions_are_numbered_and_listed() -> None:
    records = sorted(page for page in DECISIONS.glob("*.md") if page.name != "README.md")
    assert [int(page.name[:4]) for page in records] == list(range(1, len(records) + 1))
    assert set(records) <= led_to(DECISIONS / "README.md")
    for page in records:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        assert [part for part in ("**Decided.**", "**Why.**") if part not in text] == [], page.name


@pytest.mark.parametrize(
    "word", ["observation", "strip", "receptor", "anchor", "product", "recipe", "held", "stale", "figure", "quarantine"]
)
def test_words_of_messages_are_explained_in_the_glossary(word: str) -> None:
    rows = re.findall(r"^\| ([^|]+) \|", (pages.DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert word in {part.strip() for row in rows for part in row.split(",")}
