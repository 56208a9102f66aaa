"""`dsa110 docs`: its message if the book cannot be built, how it serves the book, and the reading commands on the pages."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dsa110_assets.cli import app
from dsa110_assets.cli.services import free_port
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.docs.test_commands import TREE, typed
from dsa110_assets_tests.portal import small_archive

needs_extra = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed")
READING = frozenset(
    {"status", "queue", "runs", "checks", "thresholds", "groups", "settings", "products", "lineage", "lightcurve", "sources", "variables",
     "transits", "trial list", "requested list", "calibration list", "calibration show", "archive verify",
     "alerts list", "alerts silences", "export sources"}
)  # fmt: skip
NAMES = {
    "SOURCE": small_archive.FAINT, "PRODUCT": "tile_image-20260125T2205-v1", "TABLE": "caltables-20260125-v1",
    "T": "2026-01-25T22:25", "ASSET": "tile_image",
}  # fmt: skip
BOOK = "site_name: x\nnav: [NAME]\nplugins: []\ntheme: mkdocs\n"


def test_the_book_cannot_be_built_without_its_pages(bare: Run, tmp_path: Path) -> None:
    done = bare("docs", "--source", tmp_path)
    assert done.status == 1
    assert f"no mkdocs.yml in {tmp_path}" in done.err


def test_without_the_extra_it_says_what_to_install(bare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "mkdocstrings" else found(name, *more))
    done = bare("docs")
    assert done.status == 1
    assert 'the book needs mkdocstrings: pip install "dsa110-assets[docs]"' in done.err


@needs_extra
def test_a_mistake_in_a_page_stops_the_build_and_is_named(bare: Run, tmp_path: Path) -> None:
    (tmp_path / "mkdocs.yml").write_text(BOOK.replace("NAME", "traps.md"))
    (tmp_path / "docs").mkdir()
    done = bare("docs", "--source", tmp_path, "--out", tmp_path / "site")
    assert done.status == 1
    assert "the book was not built: WARNING" in done.err
    assert "traps.md" in done.err


@needs_extra
def test_documentation_is_served_locally_until_interrupted(tmp_path: Path) -> None:
    (tmp_path / "mkdocs.yml").write_text(BOOK.replace("NAME", "index.md"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A title\n")
    start, port = "from dsa110_assets.cli import main; raise SystemExit(main())", str(free_port())
    command = [sys.executable, "-c", start, "docs", "--source", str(tmp_path), "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        address = next((line.strip() for line in shown.stdout if line.startswith("http")), "")
        try:
            assert address == f"http://127.0.0.1:{port}", shown.stderr
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert b"A title" in answer.read()
        finally:
            shown.send_signal(signal.SIGINT)
        assert shown.wait(60) == 0


def complete(words: list[str]) -> bool:
    """Whether a command on a page only reads and is complete, neither a bare mention nor with parts to fill in."""
    if not (words[0] in READING or " ".join(words[:2]) in READING) or any(re.match(r"[<$]|ID$|robust_0$", word) for word in words):
        return False
    command, rest = TREE, words
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        command.make_context(words[0], list(rest))
    except app._USAGE_ERROR:
        return False
    return True


def filled_in(words: list[str], place: Path) -> list[str]:
    """A command with its words in capitals replaced by names of the small archive."""
    out = str(place / "out.vot")
    return [out if word in ("OUT", "curve.vot") else NAMES.get(word, word) for word in words]


def written() -> list[tuple[str, ...]]:
    """All such commands, except those of the tutorials, which are run as a whole."""
    texts = [page.read_text(encoding="utf-8") for page in pages.own_pages() if page.parent.name != "tutorials"]
    return sorted({tuple(words) for text in texts for words in typed(text) if words and complete(words)})


@pytest.mark.parametrize("words", written(), ids=" ".join)
def test_reading_commands_on_pages_work_on_an_archive(words: tuple[str, ...], dsa110: Run, tmp_path: Path) -> None:
    done = dsa110(*filled_in(list(words), tmp_path))
    assert done.status == 0, done.err
