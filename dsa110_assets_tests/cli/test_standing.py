"""The status of the platform: failures, files not yet ingested and failed checks are reported by every command that shows them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.app import EXIT_CHECKS
from dsa110_assets.errors import BadDataError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.partition_run import QUIET
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.watching import disks, report
from dsa110_assets.settings import Settings
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.tiny import OBSERVATIONS, SMALL_DISK, SUBBANDS


def environment(settings: Settings) -> dict[str, object]:
    return {
        "DSA110_INBOX": settings.inbox, "DSA110_ARCHIVE": settings.archive, "DAGSTER_HOME": settings.dagster_home,
        "DSA110_SUBBANDS": SUBBANDS, "DSA110_MIN_SUBBANDS": SUBBANDS - 1, "DSA110_STILL_S": 0,
        "DSA110_THRESHOLDS": settings.thresholds_path,
    }  # fmt: skip


@pytest.fixture
def strict(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a rule that all data fail, which is reported but stops nothing."""
    strict = [
        replace(rule, judge=lambda figures, thresholds: ["too much is flagged"]) if rule.check == "flag_fraction" else rule
        for rule in specifications()["measurement_set"].rules
    ]
    monkeypatch.setitem(specifications(), "measurement_set", replace(specifications()["measurement_set"], rules=tuple(strict)))
    return settings


def run(settings: Settings, partition: str, *assets: str) -> dg.ExecuteInProcessResult:
    """Run a job as sensors launch it, without an asset selection in the run."""
    job = dg.define_asset_job("of_assets", selection=dg.AssetSelection.assets(*assets))
    whole = dg.Definitions(graph.ASSETS, jobs=[job], resources={"platform": Platform(settings)}, executor=dg.in_process_executor)
    with instances.open_instance(settings.dagster_home) as instance:
        return whole.resolve_job_def("of_assets").execute_in_process(
            run_config=QUIET, instance=instance, partition_key=partition, raise_on_error=False
        )


@pytest.mark.row(43, cases="ways on which what failed or waits is told")
def test_failed_runs_and_waiting_observations_are_reported(settings: Settings, bare: Run, tmp_path: Path) -> None:
    """A run fails because its inbox is unavailable. Two subbands of another observation wait, and one file is foreign."""
    result = run(settings.model_copy(update={"inbox": tmp_path / "away"}), OBSERVATIONS[0], "subband_group", "measurement_set")
    assert not result.success
    assert not result.dagster_run.asset_selection
    for path in sorted(settings.inbox.glob("2026-01-25T22:30*"))[2:]:
        path.unlink()
    (settings.inbox / "2026-01-25T22:40:00_sb00.uvh5").write_bytes(b"x")
    status = bare("status", "--json", **environment(settings)).json
    (failed,) = status["failed_runs"]
    assert failed["assets"] == ["measurement_set", "subband_group"]
    assert failed["partition"] == OBSERVATIONS[0]
    assert f"DSA110_INBOX={tmp_path / 'away'}: no such directory" in failed["reason"]
    waiting = {row["observation"]: row for row in status["waiting"]}
    assert waiting.keys() == set(OBSERVATIONS)
    assert {row["next"] for row in waiting.values()} == {"subband_group"}
    assert waiting[OBSERVATIONS[0]]["reason"] == "all 4 subbands; not taken up yet"
    assert waiting[OBSERVATIONS[2]]["reason"].startswith("2 of 4 subbands (missing sb0")
    assert status["inbox_groups"] == {"ready": 2, "waiting": 1, "unusable": 0}
    assert ["uvh5" in row["path"] for row in status["inbox_files"]] == [True]
    plain = bare("status", **environment(settings))
    assert plain.status == 0
    assert plain.out.splitlines()[-1].startswith("1 runs failed, 2 observations in the inbox not taken up, no check of")


@pytest.mark.row(43, cases="ways on which what failed or waits is told")
def test_observations_waiting_for_calibration_are_not_failures(settings: Settings, bare: Run) -> None:
    process(settings, through="measurement_set")
    assert not run(settings, OBSERVATIONS[0], "calibrated_ms").success
    status = bare("status", "--json", **environment(settings)).json
    assert status["failed_runs"] == []
    assert {(row["observation"], row["next"]) for row in status["waiting"]} == {(key, "calibrated_ms") for key in OBSERVATIONS}


@pytest.mark.row(43, cases="ways on which what failed or waits is told")
def test_failed_checks_are_named_and_are_an_exit_status(strict: Settings, bare: Run) -> None:
    """For products made now and before, in the last line, in JSON, in the status and in its last line. Processing stays in this process,
    because only here the rule is changed."""
    settings = strict
    ids = [f"measurement_set-{key.replace('-', '').replace(':', '')}-v1" for key in OBSERVATIONS]
    for _ in range(2):
        done = bare("process", "--at-once", "1", "--through", "measurement_set", **environment(settings))
        assert done.status == EXIT_CHECKS
        last = done.out.splitlines()[-1]
        assert "0 failed" in last
        assert "3 checks of severity ERROR failed" in last
        assert all(f"{name} flag_fraction" in last for name in ids)
        assert f"check failed: {ids[0]}: flag_fraction: too much is flagged" in done.out
    again = bare("process", "--at-once", "1", "--through", "measurement_set", "--json", **environment(settings))
    assert again.status == EXIT_CHECKS
    assert [one["product_id"] for one in again.json["failed_checks"]] == ids
    status = bare("status", "--json", **environment(settings)).json
    assert [(one["product_id"], one["check"]) for one in status["failed_checks"]] == [(name, "flag_fraction") for name in ids]
    assert "3 checks of severity ERROR failed" in bare("status", **environment(settings)).out.splitlines()[-1]


@pytest.mark.row(43, cases="ways on which what failed or waits is told")
def test_parts_of_the_status_that_fail_hide_no_other(settings: Settings, bare: Run) -> None:
    """An unavailable inbox and an unreadable calibrator catalogue are reported together with everything else."""
    process(settings, through="measurement_set")
    for path in settings.archive.glob("calibrator_catalog/v0001/*.parquet"):
        path.write_bytes(b"no parquet")
    status = bare("status", "--json", **environment(settings) | {"DSA110_INBOX": settings.inbox / "away"}).json
    assert status["products"]["measurement_set"] == 3
    assert status["next_transit"] is None
    assert status["inbox_groups"] is None
    troubles = "; ".join(status["troubles"])
    assert "the inbox: DSA110_INBOX=" in troubles
    assert "the next transit: " in troubles


def publish(archive: Archive, asset: str, partition: str, **metadata: object) -> None:
    with archive.publish(asset, partition, (), settings={}, code_version="1", run_id="r", engines={}) as draft:
        draft.metadata.update(metadata)
        (draft.path / "data").write_bytes(b"x")


@pytest.mark.row(43, cases="ways on which what failed or waits is told")
def test_the_night_report_names_checks_and_what_failed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed checks of severity ERROR come first, those that only warn below, and failed runs of an hour and of a night are listed."""

    def fails(*_: object) -> None:
        raise BadDataError("broken on purpose")

    hour, night, archive = "2026-01-25T22:00", "2026-01-25", Archive.create(settings.archive)
    publish(archive, "subband_group", OBSERVATIONS[0])
    publish(
        archive,
        "tile_image",
        OBSERVATIONS[0],
        checks={"rms": "too noisy", "dynamic_range": "too low"},
        n_failed_checks=2,
        failed_errors=["rms"],
    )
    with monkeypatch.context() as patch:
        for asset, key in (("hour_mosaic", hour), ("caltables", night)):
            patch.setitem(specifications(), asset, replace(specifications()[asset], finder=fails))
            assert not run(settings, key, asset).success
    with instances.open_instance(settings.dagster_home) as instance:
        failures = report.failures_of(instance, archive, night)
        assert {(one.asset, one.partition) for one in failures} == {("hour_mosaic", hour), ("caltables", night)}
        publish(archive, "caltables", night)
        assert {one.asset for one in report.failures_of(instance, archive, night)} == {"hour_mosaic"}
    figures = report.write(settings.archive.parent, night, archive, failures)
    assert (figures["n_errors"], figures["n_checks_broken"]) == (1, 2)
    text = (settings.archive.parent / "night_report.html").read_text()
    head = text[: text.index("What failed, and why")]
    tile = "tile_image-20260125T2220-v1"
    assert f'1 failed check of severity ERROR:\n<a href="/products/{tile}"><code>{tile}</code></a> rms.' in head
    assert "dynamic_range" not in head
    assert "<td>tile_image: dynamic_range</td>" in text
    assert "<td>hour_mosaic</td><td>2026-01-25T22:00</td><td>BadDataError: broken on purpose</td>" in text


@pytest.mark.row(42)
def test_limits_that_were_never_valid_stop_nothing_and_are_recorded(settings: Settings, bare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults hold, products record this, and retention removes nothing until the file is corrected."""
    monkeypatch.setattr(disks, "SMALL_DISK_PART", 0.0)  # with the defaults a developer's nearly full disk is an emergency
    path = settings.archive.parent / "limits.toml"
    path.write_text("max_flag_fraction = 7\n")
    wrong = settings.model_copy(update={"thresholds": path})
    assert process(wrong, through="subband_group").failed == ()
    message = f"thresholds {path}: max_flag_fraction = 7: Input should be less than or equal to 1; correct it, it is read again at once"
    for product in Archive(wrong.archive).products("subband_group"):
        assert product.metadata["thresholds_refused"] == message
        assert product.metadata["thresholds"] == {}
    done = bare("archive", "retain", **environment(wrong))
    assert done.status == 1
    assert f"{message}; nothing is removed before that" in done.err.replace("\n", " ")
    assert bare("archive", "retain", "--dry-run", "--json", **environment(wrong)).json
    findings = {one["check"]: one for one in bare("doctor", "--json", **environment(wrong)).json}
    assert findings["thresholds"] == {"check": "thresholds", "ok": False, "found": message} | {"remedy": findings["thresholds"]["remedy"]}
    assert "where none are known, the defaults" in findings["thresholds"]["remedy"]


@pytest.mark.row(42)
def test_a_typo_in_the_limits_fails_no_run_and_doctor_finds_it(settings: Settings, bare: Run) -> None:
    """A new process uses the limits last in force, and `doctor` names the line and the remedy."""
    path = settings.archive.parent / "limits.toml"
    settings = settings.model_copy(update={"thresholds": path})
    path.write_text(SMALL_DISK.read_text())
    process(settings, through="source_catalog")
    path.write_text(f"max_flag_fraction = 7\n{SMALL_DISK.read_text()}")
    code = "import sys; from dsa110_assets.cli import main; sys.exit(main(['process', '--through', 'measurement_set']))"
    variables = {name: str(value) for name, value in environment(settings).items()}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    findings = {one["check"]: one for one in bare("doctor", "--json", **environment(settings)).json}
    assert not findings["thresholds"]["ok"]
    assert "max_flag_fraction = 7" in findings["thresholds"]["found"]
    path.write_text("[retention_days]\nmeasurment_set = 7\n")
    findings = {one["check"]: one for one in bare("doctor", "--json", **environment(settings)).json}
    assert "retention_days names no asset: measurment_set" in findings["thresholds"]["found"]
    assert "measurement_set" in findings["thresholds"]["remedy"]
    path.write_text("max_flag_fraction = 0.7\n")
    findings = {one["check"]: one for one in bare("doctor", "--json", **environment(settings)).json}
    assert findings["thresholds"]["ok"]


def states(bare: Run, settings: Settings) -> dict[str, tuple[str, str]]:
    groups = bare("groups", "--json", **environment(settings)).json
    return {Path(row["path"]).name: (row["state"], row["reason"]) for row in groups["files"] + groups["ignored"]}


@pytest.mark.row(43, cases="ways on which what failed or waits is told")
def test_every_unread_data_file_of_the_inbox_is_reported(settings: Settings, bare: Run) -> None:
    """Files that look like data make `process` incomplete and fail a check of `doctor`; a note or a folder does not."""
    for path in settings.inbox.glob("*.hdf5"):
        path.rename(path.with_suffix(".uvh5"))
    (settings.inbox / "truth.json").write_text("{}")
    (settings.inbox / "2026-01-25").mkdir()
    (settings.inbox / ".2026-01-25T22:45:00_sb00.hdf5.Xy12ab").write_bytes(b"x")
    files = states(bare, settings)
    assert len(files) == 3 * SUBBANDS + 3
    assert {name: state for name, (state, _) in files.items() if state == "ignored"} == {"truth.json": "ignored", "2026-01-25": "ignored"}
    assert {reason for _, reason in files.values()} == {
        "is no subband file and is not read; those are named YYYY-MM-DDTHH:MM:SS_sb00.hdf5 .. _sb15.hdf5"
    }
    done = bare("process", "--through", "subband_group", **environment(settings))
    assert done.status == 1
    assert done.out.count("waiting: 2026-01-25T22:2") >= 2 * SUBBANDS
    findings = {one["check"]: one for one in bare("doctor", "--json", **environment(settings)).json}
    assert not findings["inbox"]["ok"]
    assert "that looks like data" in findings["inbox"]["found"]
    for path in settings.inbox.glob("*2026-01-25T*"):
        path.unlink()
    findings = {one["check"]: one for one in bare("doctor", "--json", **environment(settings)).json}
    assert findings["inbox"]["ok"]
    assert "0 subband files, 2 others that are not read" in findings["inbox"]["found"]


@pytest.mark.row(43, cases="ways on which what failed or waits is told")
def test_an_unfinished_file_of_hours_ago_is_not_being_written(settings: Settings, bare: Run) -> None:
    """It is quarantined, and renaming releases it. A file that changed recently, or is named for a recent time, is being written."""
    now = time.time()
    old, young = (min(settings.inbox.glob(f"2026-01-25T22:{minute}*")) for minute in (20, 25))
    abandoned, growing = (path.rename(path.with_name(f"{path.stem}_incomplete.hdf5")) for path in (old, young))
    named_now = settings.inbox / f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}_sb00_incomplete.hdf5"
    named_now.write_bytes(b"x")
    os.utime(abandoned, (now - 5 * 3600, now - 5 * 3600))
    os.utime(growing, (now - 60, now - 60))
    os.utime(named_now, (now - 5 * 3600, now - 5 * 3600))  # the clock of the file server is behind
    files = states(bare, settings)
    assert files[abandoned.name][0] == "quarantined"
    assert "was never finished, unchanged since" in files[abandoned.name][1]
    assert files[growing.name] == files[named_now.name] == ("waiting", "is still being written")
    report = process(settings, through="subband_group")
    assert [name.partition(":")[0] for name in report.quarantined if "finished" in name] == [abandoned.name.partition(":")[0]]
    final = abandoned.rename(abandoned.with_name(abandoned.name.replace("_incomplete", "")))
    assert final.name not in states(bare, settings)
