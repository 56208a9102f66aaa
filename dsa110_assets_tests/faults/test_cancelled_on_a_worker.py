"""Row 31 on a worker: a run on a Celery worker is cancelled while it is queued, works or is stopped. It ends, and the next one runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import LaunchRunContext

from dsa110_assets.archive.store import Archive
from dsa110_assets.children import descendants
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.execute import partition_lock
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.serving import until
from dsa110_assets_tests.live.platform import MAIN
from dsa110_assets_tests.postgres import private_server
from dsa110_assets_tests.redis import RedisServer, private_redis

pytestmark = [
    pytest.mark.slow, pytest.mark.postgres, pytest.mark.row(31),
    pytest.mark.filterwarnings("ignore:Task name 'execute_job' is already registered"),  # by Dagster's launcher, with every launch
]  # fmt: skip
Ended = dg.DagsterRunStatus


class Worker:
    """A worker with one slot, its database and its broker, and a Dagster instance that launches runs on it. There is no daemon."""

    def __init__(self, place: Path, environment: dict[str, str], instance: dg.DagsterInstance, redis: RedisServer) -> None:
        self.place, self.environment, self.instance, self.redis = place, environment, instance, redis
        self.log = place / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MAIN, "worker", "--slots", "1"], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def archive(self) -> Archive:
        return Archive(self.place / "archive", self.environment["DSA110_DATABASE_URL"])

    def launch(self, asset: str) -> str:
        """Launch a run of one catalogue through the broker, as the daemon does. Return its id."""
        job = ReconstructableRepository.for_module("dsa110_assets.definitions", "defs").get_reconstructable_job("catalogues")
        run = self.instance.create_run_for_job(
            job.get_definition(),
            job_code_origin=job.get_python_origin(),
            status=Ended.STARTING,
            asset_selection=frozenset({dg.AssetKey(asset)}),
        )
        self.instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
        return run.run_id

    def run(self, run_id: str) -> dg.DagsterRun:
        """The run as Dagster knows it."""
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def begins(self, run_id: str) -> int:
        """Wait until a run has begun. Return its process id."""
        until(lambda: self.run(run_id).status == Ended.STARTED or self.process.poll() is not None, f"run {run_id} begins")
        assert self.process.poll() is None, self.log.read_text()
        process = instances.process_of(self.run(run_id))
        assert process
        return process

    def lives(self, run_id: str) -> bool:
        """Whether a run's process is alive. A mere entry in the process table stays while a worker waits for its broker."""
        return instances.process_of(self.run(run_id)) != 0

    def cancel(self, run_id: str) -> None:
        """Cancel a run with the command that an operator uses."""
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "runs", "--cancel", run_id], env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    def ends(self, run_id: str, status: dg.DagsterRunStatus) -> None:
        """Wait until a run has ended; it must have this status."""
        until(lambda: self.run(run_id).is_finished, f"run {run_id} ends")
        assert self.run(run_id).status == status, self.log.read_text()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    (tmp_path / "inbox").mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DSA110_", "DAGSTER"))}
    with ExitStack() as stack:
        postgres, redis = stack.enter_context(private_server()), stack.enter_context(private_redis())
        settings = {
            "DAGSTER_HOME": str(tmp_path / "home"), "DSA110_INBOX": str(tmp_path / "inbox"), "DSA110_ARCHIVE": str(tmp_path / "archive"),
            "DSA110_DATABASE_URL": postgres.new_database("index"), "DAGSTER_PG_URL": postgres.new_database("dagster"),
            "DAGSTER_REDIS_URL": redis.url,
        }  # fmt: skip
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        Archive.create(tmp_path / "archive", settings["DSA110_DATABASE_URL"]).close()
        started = Worker(tmp_path, inherited | settings, stack.enter_context(instances.open_instance(tmp_path / "home")), redis)
        try:
            yield started
        finally:
            for pid in (started.process.pid, *descendants(started.process.pid)):
                os.kill(pid, signal.SIGKILL)
            started.process.wait()


def test_a_cancelled_run_ends_on_its_worker_and_the_next_one_runs(worker: Worker) -> None:
    with worker.archive as archive:
        with partition_lock(archive, "source_catalog", None):  # a run that makes it waits for the lock
            responsive, waiting = worker.launch("source_catalog"), worker.launch("source_catalog")
            worker.begins(responsive)
            worker.cancel(waiting)
            assert worker.run(waiting).status == Ended.CANCELED, "no worker has begun it: it is over at once"
            worker.cancel(responsive)
            worker.ends(responsive, Ended.CANCELED)
            until(lambda: not worker.lives(responsive), "its process is gone")

            hung = worker.launch("source_catalog")
            os.kill(worker.begins(hung), signal.SIGSTOP)
            worker.redis.stop()  # the broker is not needed for it
            began = time.monotonic()
            worker.cancel(hung)
            worker.ends(hung, Ended.CANCELED)
            record_figure(31, "seconds until a cancelled run of a worker that is stopped has ended", round(time.monotonic() - began, 1))
            until(lambda: not worker.lives(hung), "nothing is left of the one that stood still")
            worker.redis.start()
        last = worker.launch("source_catalog")
        worker.ends(last, Ended.SUCCESS)
    assert worker.run(waiting).status == Ended.CANCELED, "it was begun although it had been cancelled"
    assert worker.process.poll() is None
