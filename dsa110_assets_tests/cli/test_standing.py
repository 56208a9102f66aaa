"""How things stand: what failed, what nobody took up, and what checks said reaches whoever asks, on every way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.cli.app import EXIT_CHECKS
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration import instance as instances
from dsa110_assets.orchestration.process import QUIET, process
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.settings import Settings
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.tiny import OBSERVATIONS, SMALL_DISK, SUBBANDS, tiny_settings


def environment(settings: Settings) -> dict[str, object]:
    return {
        "DSA110_INBOX": settings.inbox, "DSA110_ARCHIVE": settings.archive, "DAGSTER_HOME": settings.dagster_home,
        "DSA110_SUBBANDS": SUBBANDS, "DSA110_MIN_SUBBANDS": SUBBANDS - 1, "DSA110_STILL_S": 0,
        "DSA110_THRESHOLDS": settings.thresholds_path,
    }  # fmt: skip


def strict(settings: Settings) -> Settings:
    """With limits that no flagged data pass, which is told and stops nothing."""
    path = settings.archive.parent / "strict.toml"
    path.write_text(f"max_flag_fraction = 0.0\n{SMALL_DISK.read_text()}")
    return settings.model_copy(update={"thresholds": path})


def run(settings: Settings, partition: str, *assets: str) -> dg.ExecuteInProcessResult:
    """A run of a job as sensors launch them: it names no assets of its own."""
    job = dg.define_asset_job("of_assets", selection=dg.AssetSelection.assets(*assets))
    whole = dg.Definitions(graph.ASSETS, jobs=[job], resources={"platform": Platform(settings)}, executor=dg.in_process_executor)
    with instances.open_instance(settings.dagster_home) as instance:
        return whole.resolve_job_def("of_assets").execute_in_process(
            run_config=QUIET, instance=instance, partition_key=partition, raise_on_error=False
        )


def test_what_failed_and_what_nobody_took_up_is_told(settings: Settings, bare: Run, tmp_path: Path) -> None:
    """The runs' own limits are wrong: every one fails. Two subbands of another observation wait, a third file is foreign."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("max_flag_fraction = 7\n")
    result = run(settings.model_copy(update={"thresholds": wrong}), OBSERVATIONS[0], "subband_group", "measurement_set")
    assert not result.success
    assert not result.dagster_run.asset_selection
    for path in sorted(settings.inbox.glob("2026-01-25T22:30*"))[2:]:
        path.unlink()
    (settings.inbox / "2026-01-25T22:40:00_sb00.uvh5").write_bytes(b"x")
    told = bare("status", "--json", **environment(settings)).json
    (failed,) = told["failed_runs"]
    assert failed["assets"] == ["measurement_set", "subband_group"]
    assert failed["partition"] == OBSERVATIONS[0]
    assert "max_flag_fraction = 7" in failed["reason"]
    waiting = {row["observation"]: row for row in told["waiting"]}
    assert waiting.keys() == set(OBSERVATIONS)
    assert {row["next"] for row in waiting.values()} == {"subband_group"}
    assert waiting[OBSERVATIONS[0]]["reason"] == "all 4 subbands; not taken up yet"
    assert told["inbox_groups"] == {"ready": 2, "waiting": 0, "unusable": 1}
    assert ["uvh5" in row["path"] for row in told["inbox_files"]] == [True]
    plain = bare("status", **environment(settings))
    assert plain.status == 0
    assert plain.out.splitlines()[-1].startswith("1 runs failed, 2 observations in the inbox not taken up, no check of")


def test_what_waits_for_calibration_has_not_failed(settings: Settings, bare: Run) -> None:
    process(settings, through="measurement_set")
    assert not run(settings, OBSERVATIONS[0], "calibrated_ms").success
    told = bare("status", "--json", **environment(settings)).json
    assert told["failed_runs"] == []
    assert {(row["observation"], row["next"]) for row in told["waiting"]} == {(key, "calibrated_ms") for key in OBSERVATIONS}


def test_failed_checks_are_named_and_are_an_exit_status(settings: Settings, bare: Run) -> None:
    """On what is made and on what was made before; in the last line, in JSON, in the status and in its last line."""
    settings = strict(settings)
    ids = [f"measurement_set-{key.replace('-', '').replace(':', '')}-v1" for key in OBSERVATIONS]
    for _ in range(2):
        done = bare("process", "--through", "measurement_set", **environment(settings))
        assert done.status == EXIT_CHECKS
        last = done.out.splitlines()[-1]
        assert "0 failed" in last
        assert "3 checks of severity ERROR failed" in last
        assert all(f"{name} flag_fraction" in last for name in ids)
        assert f"check failed: {ids[0]}: flag_fraction: " in done.out
    again = bare("process", "--through", "measurement_set", "--json", **environment(settings))
    assert again.status == EXIT_CHECKS
    assert [one["product_id"] for one in again.json["failed_checks"]] == ids
    told = bare("status", "--json", **environment(settings)).json
    assert [(one["product_id"], one["check"]) for one in told["failed_checks"]] == [(name, "flag_fraction") for name in ids]
    assert "3 checks of severity ERROR failed" in bare("status", **environment(settings)).out.splitlines()[-1]


def test_a_part_that_cannot_be_found_out_hides_no_other(settings: Settings, bare: Run) -> None:
    """An inbox that is away, a calibrator catalogue that cannot be read: told, and all else with it."""
    process(settings, through="measurement_set")
    for path in settings.archive.glob("calibrator_catalog/v0001/*.parquet"):
        path.write_bytes(b"no parquet")
    told = bare("status", "--json", **environment(settings) | {"DSA110_INBOX": settings.inbox / "away"}).json
    assert told["products"]["measurement_set"] == 3
    assert told["next_transit"] is None
    assert told["inbox_groups"] is None
    troubles = "; ".join(told["troubles"])
    assert "the inbox: DSA110_INBOX=" in troubles
    assert "the next transit: " in troubles


@pytest.mark.slow
def test_the_night_report_names_checks_and_what_failed(settings: Settings) -> None:
    """Checks of severity ERROR at its head; an hour whose run failed, though its observations are all there."""
    settings = tiny_settings(settings.inbox, settings.archive.parent, thresholds=strict(settings).thresholds)
    process(settings, through="tile_image")
    broken = settings.model_copy(update={"thresholds": settings.archive.parent / "none.toml"})
    (settings.archive.parent / "none.toml").write_text("max_flag_fraction = 7\n")
    assert not run(broken, "2026-01-25T22:00", "hour_mosaic").success
    assert run(settings, "2026-01-25", "night_report").success
    (page,) = settings.archive.glob("night_report/night=2026-01-25/*/v0001/night_report.html")
    text = page.read_text()
    assert "of severity ERROR:" in text
    assert "measurement_set-20260125T2220-v1</code> flag_fraction" in text
    assert "<td>hour_mosaic</td><td>2026-01-25T22:00</td><td>ConfigurationError: thresholds" in text


def test_a_typo_in_the_limits_fails_no_run_and_is_found(settings: Settings, bare: Run) -> None:
    """A new process each time: the limits last in force hold, `doctor` names line and remedy, an alert goes out."""
    path = settings.archive.parent / "limits.toml"
    settings = settings.model_copy(update={"thresholds": path})
    path.write_text(SMALL_DISK.read_text())
    process(settings, through="source_catalog")
    path.write_text(f"max_flag_fraction = 7\n{SMALL_DISK.read_text()}")
    code = "import sys; from dsa110_assets.cli import main; sys.exit(main(['process', '--through', 'measurement_set']))"
    told = {name: str(value) for name, value in environment(settings).items()}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, **told}, capture_output=True, text=True)
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
