"""MkDocs hooks that make the book from the repository's pages, where they are, and from pages generated from the code.

Pages keep their paths in the repository, so that links between files of the repository also work in the book.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drawing
import github
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "docs/**/*.md", "ops/**/*.md", "dsa110_assets_tests/README.md")
REFERENCE = "docs/reference/"
_LINK = re.compile(r"\]\(([^)\s#]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors they have on GitHub, and add pages that no section of the navigation names to the how-tos."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    placed = set(_named(config.nav))
    (how_to,) = [section["How-to"] for section in config.nav or [] if "How-to" in section]
    how_to += [name for page in _pages() if (name := page.relative_to(ROOT).as_posix()) not in placed]
    return config


def _named(nav: Any) -> Iterator[str]:
    """The pages that a navigation names, including those of its sections."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(part)


def _pages() -> list[Path]:
    return sorted({page for place in PLACES for page in ROOT.glob(place)})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, the repository's pages and the files they link to, and the generated pages."""
    kept = [file for file in files if file.src_dir != config.docs_dir]
    pages = _pages()
    kept += [_file(config, path) for path in (*pages, *sorted(set(_linked(pages)) - set(pages)))]
    for name, text in reference.pages():
        kept.append(File.generated(config, f"{REFERENCE}{name}.md", content=text))
    return Files(kept)


def _file(config: MkDocsConfig, path: Path) -> File:
    return File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))


def _linked(pages: list[Path]) -> Iterator[Path]:
    """Pictures, notebooks and other files of the repository to which pages link."""
    for page in pages:
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if path.is_file() and path.is_relative_to(ROOT):
                yield path


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page adapted to Python-Markdown, with the asset graph as a drawing, because Mermaid's script would be fetched."""
    return github.adapted(drawing.instead_of_mermaid(markdown))
