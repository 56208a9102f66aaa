"""Everything that files cite exists: documents, numbered traps, tests, modules, functions, paths and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dsa110_assets_tests.docs import pages

TRAPS = pages.DOCS / "traps.md"
DOCUMENT = re.compile(r"(?<![\w/.-])[\w./-]*\w\.md\b(?!\()")
TRAP = re.compile(r"\btraps? (\d+(?:(?:, | and )\d+)*)", re.IGNORECASE)
FOREIGN = re.compile(r"\bE\d{1,2}\b(?!\()|\b[A-Z]{2} #\d+")
"""References to lists outside the repository, as E7 or an issue of another project. E1(x) is an exponential integral and is allowed."""
MADE_BY_A_TEST = frozenset({"table.md"})
SUFFIXES = frozenset({".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".html", ".lua", ".json", ".service", ""})
TEST = re.compile(r"`([\w/]*test_\w+\.py)(?:::(test_\w+))?`")


@cache
def texts() -> dict[Path, str]:
    """The contents of every text file of the repository."""
    places = [path for path in pages.ROOT.iterdir() if path.is_file()]
    for folder in (".ci", "docs", "dsa110_assets", "dsa110_assets_tests", "ops"):
        places += [path for path in (pages.ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    found = {}
    for path in sorted(places):
        if path.suffix in SUFFIXES:
            found[path] = path.read_text(encoding="utf-8")
    return found


def missing_documents(path: Path, text: str) -> Iterator[str]:
    """Documents that a file cites but that cannot be found from its own folder, from the root or by name."""
    known = {page.name for page in pages.own_pages()}
    for name in DOCUMENT.findall(text):
        plain = Path(name).name
        if plain in MADE_BY_A_TEST | pages.NOT_HERE_YET or name.startswith(pages.GENERATED):
            continue
        places = (path.parent, pages.ROOT, pages.DOCS)  # generated pages of the book are in the last one
        found = any((place / name).exists() for place in places) if "/" in name else plain in known
        if not found:
            yield f"{path.relative_to(pages.ROOT)} cites {name}"


def trap_numbers() -> list[int]:
    return [int(number) for number in re.findall(r"^(\d+)\. \*\*", TRAPS.read_text(encoding="utf-8"), re.MULTILINE)]


def cited_traps(text: str) -> set[int]:
    return {int(number) for numbers in TRAP.findall(text) for number in re.findall(r"\d+", numbers)}


def test_no_file_cites_a_document_that_is_not_here() -> None:
    assert [problem for path, text in texts().items() if path != Path(__file__) for problem in missing_documents(path, text)] == []


def test_citations_of_missing_documents_are_found() -> None:
    here = pages.DOCS / "index.md"
    assert list(missing_documents(here, "see facts.md, docs/traps.md and traps.md")) == ["docs/index.md cites facts.md"]
    assert list(missing_documents(here, "see notes/traps.md")) == ["docs/index.md cites notes/traps.md"]


def test_every_trap_that_is_cited_is_on_the_page() -> None:
    numbers = trap_numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    cited = {number for path, text in texts().items() if path != Path(__file__) for number in cited_traps(text)}
    assert len(cited) >= 20  # shows that the files were read
    assert cited <= set(numbers)
    assert cited_traps("traps 22, 30 and 43; Trap 7: x") == {22, 30, 43, 7}


def test_no_file_cites_numbers_of_lists_that_are_not_here() -> None:
    citations = [f"{path.name}: {match}" for path, text in texts().items() if path != Path(__file__) for match in FOREIGN.findall(text)]
    assert citations == []
    assert FOREIGN.findall("E7: so; E1(x); E501; (VP #711)") == ["E7", "VP #711"]


@pytest.mark.parametrize("page", pages.own_pages(), ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_names_and_links_on_a_page_exist(page: Path) -> None:
    """Modules and functions in backticks can be imported; tests and paths exist; links lead to a file and its heading."""
    text = page.read_text(encoding="utf-8")
    for name in sorted(pages.names(text)):
        pages.resolve(name)
    for file, test in TEST.findall(text):
        found = [place / file for place in (pages.TESTS, pages.ROOT) if (place / file).is_file()] or list(pages.TESTS.rglob(file))
        assert found, f"{page.name}: no {file}"
        assert not test or f"def {test}(" in found[0].read_text(encoding="utf-8"), f"{page.name}: {file} has no {test}"
    for target in pages.links(text):
        name, _, anchor = target.partition("#")
        if Path(name).name in pages.NOT_HERE_YET:
            continue
        place = page if not name else page.parent / name
        assert place.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(place), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_missing_names_are_found() -> None:
    assert pages.names("`imaging.tile.make_tile`, `imaging.nothing`, `dagster.yaml`") == {"imaging.tile.make_tile", "imaging.nothing"}
    with pytest.raises(ModuleNotFoundError):
        pages.resolve("imagery.tile")
    with pytest.raises(AttributeError):
        pages.resolve("imaging.tile.make_tiles")
