"""The repository's pages as tests read them: their text, the code in them, and the names they give."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dsa110_assets

PACKAGE = Path(dsa110_assets.__file__).parent
ROOT = PACKAGE.parent
TESTS = ROOT / "dsa110_assets_tests"
DOCS = ROOT / "docs"
NOT_HERE_YET = frozenset({"adding-an-asset.md"})
"""Pages that are linked but will be written later."""
GENERATED = "docs/reference/"
"""Folder of the pages that the book generates from the code; its strict build checks that they exist."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TICKED = re.compile(r"`([^`\n]+)`")
_DOTTED = re.compile(r"[a-z_]\w*(\.\w+)+(?<!\.toml)(?<!\.py)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TOP = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}


def own_pages() -> list[Path]:
    """All documentation pages of the repository."""
    return sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "ops").rglob("*.md"), TESTS / "README.md"})


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next heading. Raises AssertionError if the heading does not exist."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", _without_fences(text), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no heading {heading!r}"
    return text[found.start(2) : found.end(2)]


def _without_fences(text: str) -> str:
    """The text with fenced blocks replaced by blanks, so that positions do not change."""
    return _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def fenced(text: str, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return [match[2] for match in _FENCE.finditer(text) if match[1] == language]


def ticked(text: str) -> Iterator[str]:
    """All text between backticks outside code blocks."""
    yield from _TICKED.findall(_without_fences(text))


def names(text: str) -> set[str]:
    """Dotted names between backticks whose first part is a module or folder of the package."""
    return {word for word in ticked(text) if _DOTTED.fullmatch(word) and word.split(".")[0] in _TOP}


def links(text: str) -> list[str]:
    """The targets of a page's links, except links to other sites."""
    return [target for target in _LINK.findall(_without_fences(text)) if not target.startswith(("http:", "https:"))]


def resolve(name: str) -> Any:
    """The object with this dotted name below the package. Raises AttributeError or ImportError if it does not exist."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(["dsa110_assets", *parts[:n]]))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("dsa110_assets"):
                raise
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)
