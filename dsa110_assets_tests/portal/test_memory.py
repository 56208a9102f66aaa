"""The portal's memory: its caches are limited in bytes, and viewing every page repeatedly stops adding memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.portal.remembered import Memory, remembered
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.portal import small_archive

ROUNDS = 8
LIMIT_MB, GROWTH_MB = 450.0, 12.0
"""Limit of anonymous memory, libraries included, as in docs/portal.md, and of its growth in the last half of the rounds. The remaining
growth is freed by garbage collections at unpredictable times."""
_LOOKED_AT = """
import json, sys
sys.path.insert(0, sys.argv[3])
from dsa110_assets import heap
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.portal.test_browser import PAGES, SOURCE, MOSAIC
from dsa110_assets_tests.portal.small_archive import DEC_DEG, RA_DEG

place = f"ra={RA_DEG}&dec={DEC_DEG}"
more = ["/timeline.json", "/timeline.json?since=2026-01-01&until=2026-01-26&colour=rms", "/trends/rms.json", "/metrics",
        f"/sources/{SOURCE}/chart.json", f"/sources/{SOURCE}/ensemble.json", f"/sources/{SOURCE}/plot.svg", f"/sources/{SOURCE}/spark.svg",
        f"/products/{MOSAIC}/plot.png", f"/cutout/{MOSAIC}.png?{place}", f"/view/{MOSAIC}/at.json?x=3&y=4", "/api/v1/status",
        "/api/v1/products", "/api/v1/sources", "/api/v1/observations", "/api/v1/checks", "/api/v1/openapi.json", "/sky"]
app, held = create_app(sys.argv[1]), []
for number in range(int(sys.argv[2])):
    for url in (*PAGES, *more):
        answer = ask(app, url)
        assert answer.status == 200, (url, answer.status, answer.text[:300])
    for level in range(4):  # windows that differ from round to round, as those of people do
        ask(app, f"/view/{MOSAIC}/tile.png?level={level}&low={-0.005 - number / 1e4}&high=0.03")
    heap.give_back()
    held.append(heap.held_bytes() / 1e6)
print(json.dumps(held))
"""


@pytest.mark.slow
def test_memory_levels_off_when_pages_are_repeated(tmp_path: Path) -> None:
    small = small_archive.build(tmp_path)
    command = [sys.executable, "-W", "ignore", "-c", _LOOKED_AT, str(small.root), str(ROUNDS), str(pages.ROOT)]
    done = subprocess.run(command, env={**os.environ, "MALLOC_ARENA_MAX": "2"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout.splitlines()[-1])
    assert held[-1] < LIMIT_MB, held
    assert held[-1] - held[ROUNDS // 2 - 1] < GROWTH_MB, held


def test_the_least_recently_used_entry_is_dropped_first() -> None:
    memory = Memory(100)
    for name in "abc":
        memory.put(name, name.upper(), 40)
    assert memory.get("a") is None
    assert memory.get("b") == ("B",)
    memory.put("d", "D", 40)
    assert (memory.get("c"), memory.get("b"), memory.held_bytes) == (None, ("B",), 80)
    memory.put("b", "BB", 60)
    assert memory.held_bytes == 100
    memory.put("large", "", 101)
    assert memory.get("large") is None
    assert memory.held_bytes == 100


def test_results_are_cached_while_there_is_room_and_errors_are_not() -> None:
    calls = []

    @remembered(10, len)
    def twice(text: str) -> str:
        calls.append(text)
        if not text:
            raise ValueError(text)
        return text * 2

    assert [twice("abc"), twice("abc"), twice("defg"), twice("abc")] == ["abcabc", "abcabc", "defgdefg", "abcabc"]
    assert calls == ["abc", "defg", "abc"]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            twice("")
    assert calls[3:] == ["", ""]
