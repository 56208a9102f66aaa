"""Fixtures shared by all tests: a private PostgreSQL, database URLs of both kinds, the tiny telescope."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Generator, Iterator
from importlib.util import find_spec

import pytest
from astropy.utils import iers

from dsa110_assets_tests.faults.figures import chosen_rows, record_outcome
from dsa110_assets_tests.postgres import private_server
from dsa110_assets_tests.tiny import (  # noqa: F401  fixtures of every folder
    finished_run,
    inbox,
    no_settings_of_this_machine,
    processed,
    settings,
    tiny_run,
)

# tests compare with the installed bulletins: no network
iers.conf.auto_download = False
iers.conf.auto_max_age = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record a test's outcome under each row of ops/RELIABILITY.md with which it is marked."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        for mark in item.iter_markers("row"):
            for row in mark.args:
                record_outcome(row, item.nodeid, report.outcome, report.duration, mark.kwargs.get("cases", ""))
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the tests of the rows requested by `ops/reliability --rows`, and skip tests that start CASA if it is not installed.

    Worker processes take whole files in this order. Files with slow tests come first, so that none is left for one worker at the end.
    """
    if find_spec("casatasks") is None:  # not imported, because it crashes in one process with python-casacore
        for item in items:
            if item.get_closest_marker("casa"):
                item.add_marker(pytest.mark.skip(reason="CASA is not installed: it has no wheel for Python 3.13"))
    rows = chosen_rows()
    if rows is not None:
        left_out = [item for item in items if rows.isdisjoint(row for mark in item.iter_markers("row") for row in mark.args)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_the_foreground() -> None:
    """Restore the default handler of SIGINT if it is ignored.

    A shell starts background jobs with SIGINT ignored, and children inherit that. Dagster, where a test runs it in this process, then
    gives SIGTERM the same handler, so that no signal could end anything.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a private PostgreSQL server on a free loopback port, stopped and removed at the end."""
    with private_server() as server:
        yield server.url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """URL of a new, empty database on the private server, dropped after the test."""
    import psycopg2

    name = f"test_{uuid.uuid4().hex[:12]}"

    def execute(statement: str) -> None:
        connection = psycopg2.connect(postgres_url.replace("+psycopg2", ""))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    # The sort order of a language, which a server may have: no result may depend on it.
    execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    yield postgres_url.removesuffix("/postgres") + f"/{name}"
    execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine_url(request: pytest.FixtureRequest) -> str | None:
    """The index's database URL: None (SQLite inside the archive), and an empty PostgreSQL database."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("postgres_database"))
