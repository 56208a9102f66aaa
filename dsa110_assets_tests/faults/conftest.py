"""Every fault test names its row of the table with `@pytest.mark.row(N)`; how it ended is told to `ops/reliability`."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from dsa110_assets_tests.faults.figures import record_outcome


@pytest.fixture(scope="session", autouse=True)
def _no_settings(no_settings_of_this_machine: None) -> None:
    return


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record a test's outcome under each row it is marked with."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        for mark in item.iter_markers("row"):
            for row in mark.args:
                record_outcome(row, item.nodeid, report.outcome, report.duration)
    return report
