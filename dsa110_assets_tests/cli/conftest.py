"""Run `dsa110` in this process on the small archive, as the console script would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets.cli import main
from dsa110_assets_tests.portal import small_archive
from dsa110_assets_tests.portal.small_archive import SmallArchive


@dataclass(frozen=True)
class Done:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallArchive:
    return small_archive.build(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def own(tmp_path: Path) -> SmallArchive:
    """A private copy of the small archive that the test may change."""
    return small_archive.build(tmp_path)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`dsa110` without any settings; its log goes to the test's directory."""
    for name in ("DSA110_ARCHIVE", "DSA110_INBOX", "DSA110_DATABASE_URL", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*arguments: object, on: SmallArchive | None = None, **environment: object) -> Done:
        given = {**(on.environment if on else {}), **environment}
        for name, value in given.items():
            monkeypatch.setenv(name, str(value))
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return run


@pytest.fixture
def dsa110(bare: Run, small: SmallArchive) -> Run:
    """`dsa110` on the small archive, for commands that change nothing."""
    return lambda *arguments, **options: bare(*arguments, **{"on": small, **options})
