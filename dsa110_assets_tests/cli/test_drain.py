"""`dsa110 drain`: queued runs stay queued, active runs are waited for, and `status` reports it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.queue import DrainableQueue
from dsa110_assets_tests.cli.conftest import Run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive and a Dagster home, named by the environment."""
    (tmp_path / "inbox").mkdir()
    Archive.create(tmp_path / "archive").close()
    for name, folder in (("DSA110_INBOX", "inbox"), ("DSA110_ARCHIVE", "archive"), ("DAGSTER_HOME", "home")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    return tmp_path


def started(instance: dg.DagsterInstance) -> dg.DagsterRun:
    return instance.create_run_for_job(dg.JobDefinition(graph_def=dg.GraphDefinition("g")), status=dg.DagsterRunStatus.STARTED)


def test_drain_waits_for_active_runs_and_closes_the_queue_until_ended(bare: Run, place: Path) -> None:
    with instances.open_instance(place / "home") as instance:
        assert isinstance(instance.run_coordinator, DrainableQueue)
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None
        assert limits.max_concurrent_runs == 4
        run = started(instance)

        done = bare("drain", "--timeout", "0", "--reason", "version 2", "--json")
        assert done.status == 1
        report = json.loads(done.out)
        assert report["draining"] is True
        assert report["drained"] is False
        assert [one["run_id"] for one in report["running"]] == [run.run_id]
        closed = instance.get_concurrency_config().run_queue_config
        assert closed == limits._replace(max_concurrent_runs=0)
        status = json.loads(bare("status", "--json").out)
        assert [one for one in status["halted"] if "version 2" in one]
        assert "version 2" in bare("status").out

        threading.Timer(1.0, instance.report_run_failed, (run, "ended")).start()
        done = bare("drain", "--timeout", "1")
        assert done.status == 0
        assert "nothing runs; 0 queued runs wait" in done.out

        assert bare("drain", "--off").status == 0
        assert instance.get_concurrency_config().run_queue_config == limits
    assert pausing.halted(place / "archive") == []
    assert json.loads(bare("status", "--json").out)["halted"] == []
