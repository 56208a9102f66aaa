"""`dsa110 checks`, `runs`, `queue` and `watch` on an archive with one observation in each state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from dsa110_assets.archive import quarantine
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.judging import checks, rules
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.portal import overview
from dsa110_assets.settings import Settings
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.cli.test_standing import environment, publish, run
from dsa110_assets_tests.tiny import OBSERVATIONS, tiny_settings

DONE, ASIDE, ACCEPTED, QUEUED, BUSY, HELD = (f"2026-01-25T21:{minute}" for minute in ("00", "05", "10", "15", "20", "25"))
BROKEN = {"checks": {"flag_fraction": "flag_fraction is 0.7, above 0.5", "wide_interference": "flag_judged_wide is 0, below 0.5"},
          "n_failed_checks": 2, "failed_errors": ["flag_fraction"]}  # fmt: skip


@pytest.fixture(scope="module")
def night(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, no_settings_of_this_machine: None) -> Settings:
    """A night with 22:20 (its run failed), 22:25 and 22:30 (lacks subbands) in the inbox, and 21:00 to 21:25 accepted. Read-only."""
    place = tmp_path_factory.mktemp("seen")
    inbox = place / "inbox"
    inbox.mkdir()
    for path in tiny_run.glob("*.hdf5"):
        (inbox / path.name).hardlink_to(path)
    for path in sorted(inbox.glob("2026-01-25T22:30*"))[2:]:
        path.unlink()
    settings = tiny_settings(inbox, place)
    result = run(settings.model_copy(update={"inbox": place / "away"}), OBSERVATIONS[0], "subband_group", "measurement_set")
    assert not result.success
    with Archive.create(settings.archive) as archive:
        for key in (DONE, ACCEPTED, QUEUED, BUSY, HELD):
            publish(archive, "subband_group", key)
        for key in (DONE, HELD):
            publish(archive, "measurement_set", key, **({"held": "uvw: wrong"} if key == HELD else BROKEN))
        publish(archive, "calibrated_ms", DONE)
        publish(archive, "tile_image", DONE)
        quarantine.quarantine(archive, [inbox / "gone_sb00.hdf5"], "2 of 4 subbands", ASIDE)
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("dsa110"), "repository"), "observations")
    with instances.open_instance(settings.dagster_home) as instance:
        for key, status in ((QUEUED, dg.DagsterRunStatus.QUEUED), (BUSY, dg.DagsterRunStatus.NOT_STARTED)):
            made = create_run_for_test(
                instance, status=status, asset_selection=frozenset({dg.AssetKey("measurement_set")}),
                tags={"dagster/partition": key, instances.LANE_TAG: "live"}, remote_job_origin=origin,
            )  # fmt: skip
            if key == BUSY:
                began = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=made.job_name)
                instance.report_dagster_event(began, made.run_id)
    return settings


@pytest.fixture
def dsa110(night: Settings, bare: Run) -> Run:
    """`dsa110` on the night above."""
    return lambda *arguments, **options: bare(*arguments, **{**environment(night), **options})


def test_the_queue_has_every_observation_in_its_state(dsa110: Run) -> None:
    found = dsa110("queue", "--json").json
    rows = {row["observation"]: (row["state"], row["step"]) for row in found["observations"]}
    assert rows == {
        OBSERVATIONS[0]: ("failed", "measurement_set"), OBSERVATIONS[1]: ("pending", "subband_group"),
        OBSERVATIONS[2]: ("collecting", "subband_group"), DONE: ("completed", "tile_image"), ASIDE: ("failed", "subband_group"),
        ACCEPTED: ("pending", "measurement_set"), QUEUED: ("pending", "measurement_set"), BUSY: ("in progress", "measurement_set"),
        HELD: ("failed", "measurement_set"),
    }  # fmt: skip
    assert found["counts"] == {"collecting": 1, "pending": 3, "in progress": 1, "completed": 1, "failed": 3}
    reasons = {row["observation"]: row["reason"] for row in found["observations"]}
    assert "no such directory" in reasons[OBSERVATIONS[0]]
    assert reasons[OBSERVATIONS[2]].startswith("2 of 4 subbands")
    assert reasons[ASIDE] == "quarantined: 2 of 4 subbands"
    assert reasons[HELD] == "held: uvw: wrong"
    assert "is queued" in reasons[QUEUED]
    assert all(0 <= row["age_h"] < 1 for row in found["observations"] if row["observation"].startswith("2026-01-25T21"))
    plain = dsa110("queue", "--state", "failed")
    assert plain.status == 0
    assert [key for key in rows if key in plain.out] == [key for key, (state, _) in rows.items() if state == "failed"]
    assert dsa110("queue", "--state", "lost").status == 2


def test_runs_are_listed_with_states_and_reasons(dsa110: Run) -> None:
    rows = dsa110("runs", "--json").json
    assert {(row["partition"], row["state"]) for row in rows} == {(QUEUED, "queued"), (BUSY, "running"), (OBSERVATIONS[0], "failed")}
    (failed,) = (row for row in rows if row["state"] == "failed")
    assert failed["assets"] == ["measurement_set", "subband_group"]
    assert "no such directory" in failed["reason"]
    assert "no such directory" in dsa110("runs").out


def test_checks_are_listed_with_figure_limit_and_severity(dsa110: Run) -> None:
    """ERROR comes first. `--all` also lists checks that passed, one per rule of the asset."""
    rows = dsa110("checks", "--json").json
    assert [(row["check"], row["severity"], row["reason"]) for row in rows] == [
        ("flag_fraction", "ERROR", "flag_fraction is 0.7, above 0.5"),
        ("wide_interference", "WARN", "flag_judged_wide is 0, below 0.5"),
    ]
    assert {(row["asset"], row["partition"]) for row in rows} == {("measurement_set", DONE)}
    all_checks = dsa110("checks", "--all", "--asset", "measurement_set", "--json").json
    assert len(all_checks) == len(specifications()["measurement_set"].rules)
    assert sum(row["passed"] for row in all_checks) == len(all_checks) - 2
    assert dsa110("checks", "--since", "2026-01-26", "--json").json == []
    plain = dsa110("checks")
    assert "flag_fraction is 0.7, above 0.5" in plain.out
    assert "2 of " in plain.err


def test_one_frame_of_watch_has_status_queue_and_runs(dsa110: Run) -> None:
    done = dsa110("watch", "--once")
    assert done.status == 0
    for words in (
        "latest observation",
        "1 collecting, 3 pending, 1 in progress, 1 completed, 3 failed",
        "runs: 3",
        HELD,
        "no such directory",
    ):
        assert words in done.out
    assert "1 check of severity ERROR failed: measurement_set-20260125T2100-v1 flag_fraction" in done.out


def test_a_run_is_cancelled_and_a_failed_one_queued_again(night: Settings, dsa110: Run, tmp_path: Path) -> None:
    """In a copy of Dagster's home. The retry is a backfill of exactly what the run was to make."""
    home = tmp_path / "home"
    shutil.copytree(night.dagster_home or home, home)
    on = {**environment(night), "DAGSTER_HOME": home}
    ids = {row["partition"]: row["run_id"] for row in dsa110("runs", "--json").json}
    for key, words in ((OBSERVATIONS[0], "is not queued or running"), (BUSY, "its process does not answer")):
        done = dsa110("runs", "--cancel", ids[key], **on)
        assert (done.status, done.err.count("\n")) == (1, 1)
        assert words in done.err
    assert dsa110("runs", "--cancel", ids[QUEUED][:8], **on).status == 0
    assert "names no runs" in dsa110("runs", "--cancel", "nothing", **on).err
    assert "did not fail" in dsa110("runs", "--retry", ids[BUSY], **on).err
    assert dsa110("runs", "--retry", ids[OBSERVATIONS[0]][:8], **on).status == 0
    with instances.open_instance(home) as instance:
        run = instance.get_run_by_id(ids[QUEUED])
        assert run is not None
        assert run.status == dg.DagsterRunStatus.CANCELED
        (backfill,) = instance.get_backfills()
        assert backfill.tags["dsa110/retry"] == ids[OBSERVATIONS[0]]
        assert backfill.title == f"subband_group, measurement_set: {OBSERVATIONS[0]} to {OBSERVATIONS[0]}"


def test_a_status_with_failures_and_a_backlog_is_quick(night: Settings) -> None:
    """`status` does not import slow packages: Dagster (1.3 s with the assets), pandas. It takes 0.8 s of CPU in all, measured as the best
    of five because other programs slow it down."""
    code = (
        "import resource, sys; from dsa110_assets.cli import main; status = main(['status', '--json'])\n"
        "spent = resource.getrusage(resource.RUSAGE_SELF); print(spent.ru_utime + spent.ru_stime, file=sys.stderr)\n"
        "sys.exit(status or ', '.join({'dagster', 'pandas', 'duckdb', 'matplotlib', 'numba'} & set(sys.modules)) or 0)\n"
    )
    given = {**os.environ, **{name: str(value) for name, value in environment(night).items()}}
    seconds = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        seconds.append(float(done.stderr))
    status = json.loads(done.stdout)
    assert len(status["failed_runs"]) == 1
    assert [one["check"] for one in status["failed_checks"]] == ["flag_fraction"]
    assert status["inbox_groups"] == {"ready": 2, "waiting": 1, "unusable": 0}
    assert min(seconds) < 1.0


def test_the_steps_of_an_observation_are_those_of_the_graph() -> None:
    steps = [asset.name for asset in specifications().values() if asset.grain == "observation"]
    assert tuple(steps[: steps.index("tile_image") + 1]) == overview.STEPS


def test_products_record_which_failed_checks_are_errors() -> None:
    """Severities follow the rules. In products published without this record, all failed checks count as errors."""
    for asset, specified in specifications().items():
        verdicts = [rules.Verdict(rule.check, False, "wrong", {}, rule.hard, rule.severity) for rule in specified.rules]
        metadata = rules.to_metadata(verdicts)
        product = Product(f"{asset}-v1", asset, None, 1, Path(), (), {}, "1", {}, "r", 0, "", datetime.now(UTC), metadata, "current")
        expected = [rule.check for rule in specified.rules if rule.severity == rules.ERROR]
        assert [one.check for one in checks.failed([product])] == expected
        older = replace(product, metadata={key: value for key, value in metadata.items() if key != "failed_errors"})
        assert [one.check for one in checks.failed([older])] == [rule.check for rule in specified.rules]
