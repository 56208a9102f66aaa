"""`dsa110 docs`: what it says where the book cannot be built, and how it is shown."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dsa110_assets.cli.services import free_port
from dsa110_assets_tests.cli.conftest import Run

needs_extra = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed")
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
def test_it_is_shown_on_this_machine_until_it_is_told_to_stop(tmp_path: Path) -> None:
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
