"""HARD rules stop everything after them: for observations before publishing, for hours and nights by holding the product."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive import counters
from dsa110_assets.archive.product import HELD
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.settings import Settings
from dsa110_assets_tests.tiny import SMALL_DISK

BAD, GOOD = "2026-01-25T22:25", ["2026-01-25T22:20", "2026-01-25T22:30"]


def test_an_observation_that_breaks_a_hard_rule_is_never_visible(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement sets really written are judged; only the problems reported for one of them are changed."""
    from dsa110_assets.visibilities import measurement_set as ms

    original = ms.problems

    def problems(path: Path) -> list[str]:
        found = original(path)
        return [*found, "FIELD: REFERENCE_DIR differs from PHASE_DIR"] if "T2225" in str(path) else found

    monkeypatch.setattr(ms, "problems", problems)
    report = process(settings, through="measurement_set")
    (failure,) = report.failed
    assert (failure.asset, failure.partition, failure.error_class) == ("measurement_set", BAD, "SilentWrongnessError")
    assert "hard_four: FIELD: REFERENCE_DIR differs from PHASE_DIR" in failure.reason
    archive = Archive(settings.archive)
    assert [p.partition for p in archive.products("measurement_set", state=None)] == GOOD
    counted = archive.index.read(counters.read)
    assert counted[counters.REFUSALS] == {("measurement_set", "hard_four"): {"": 1.0}}
    assert counted[counters.FAILURES] == {("measurement_set", "SilentWrongnessError"): {"": 1.0}}
    with instances.open_instance(settings.dagster_home) as dagster:
        records = dagster.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("measurement_set"), "hard_four"), limit=20
        )
        evaluations = [
            (e.passed, e.metadata["partition"].value)
            for r in records
            if r.status.value != "PLANNED" and r.event and r.event.dagster_event
            for e in [r.event.dagster_event.asset_check_evaluation_data]
        ]
        assert sorted(evaluations, key=str) == [(False, BAD), *((True, key) for key in GOOD)]
        assert BAD not in dagster.get_materialized_partitions(dg.AssetKey("measurement_set"))
    monkeypatch.undo()
    assert process(settings, through="measurement_set").ok


def test_an_hour_that_breaks_a_blocking_rule_is_held_and_used_for_nothing(processed: Settings) -> None:
    archive, hour = Archive(processed.archive), "2026-01-25T22:00"
    mosaic, measured = archive.current("hour_mosaic", hour), archive.current("source_measurements", hour)
    assert mosaic is not None
    assert measured is not None
    strict = processed.archive / "thresholds.toml"
    strict.write_text(SMALL_DISK.read_text() + "max_noise_ratio_error = 1e-6\n")
    processed = processed.model_copy(update={"thresholds": strict})
    archive.reject(mosaic.id, "to be made again, under a threshold nothing meets")
    report = process(processed, through="source_measurements")
    (failure,) = report.failed
    assert (failure.asset, failure.error_class) == ("hour_mosaic", "Held")
    assert "noise_map: measured_over_noise" in failure.reason
    held = archive.current("hour_mosaic", hour)
    assert held is not None
    assert held.metadata[HELD]
    assert recipes.usable(archive, "hour_mosaic", hour) is None
    assert archive.current("source_measurements", hour) == measured
    with instances.open_instance(processed.dagster_home) as dagster:
        records = dagster.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("hour_mosaic"), "noise_map"), limit=1
        )
        assert (records[0].partition, records[0].status.value) == (hour, "FAILED")
    again = process(processed, through="source_measurements")
    assert again.made == ()
    assert [one.error_class for one in again.failed] == ["Held"]  # reported each time, because it is still not made


def test_only_manual_runs_remake_up_to_date_products(processed: Settings) -> None:
    from dsa110_assets.orchestration import graph
    from dsa110_assets.orchestration.resources import Platform
    from dsa110_assets.orchestration.running.partition_run import QUIET

    archive = Archive(processed.archive)
    job = graph.over(Platform(processed)).resolve_implicit_global_asset_job_def()

    def run(**tags: str) -> int:
        with instances.open_instance(processed.dagster_home) as dagster:
            result = job.execute_in_process(
                run_config=QUIET, instance=dagster, partition_key=BAD, tags=tags,
                asset_selection=[dg.AssetKey("calibrated_ms")],
            )  # fmt: skip
        assert len(result.asset_materializations_for_node("calibrated_ms")) == 1
        current = archive.current("calibrated_ms", BAD)
        assert current is not None
        return current.version

    assert run(**{instances.LANE_TAG: "live"}) == 1
    assert run() == 2


def test_runs_of_windows_without_data_succeed_and_make_nothing(processed: Settings) -> None:
    from dsa110_assets.orchestration import graph
    from dsa110_assets.orchestration.resources import Platform
    from dsa110_assets.orchestration.running.partition_run import QUIET

    job = graph.over(Platform(processed)).resolve_implicit_global_asset_job_def()
    for key, assets in (
        ("2026-01-25T10:00", ("subband_group", "measurement_set")),
        ("2026-01-24", ("caltables",)),
        ("2026-01-24", ("night_mosaic", "light_curves", "variability", "night_report")),
    ):
        with instances.open_instance(processed.dagster_home) as dagster:
            result = job.execute_in_process(
                run_config=QUIET, instance=dagster, partition_key=key, asset_selection=[dg.AssetKey(a) for a in assets]
            )
        assert result.success
        assert [e for e in result.all_events if e.is_step_materialization] == []


def test_the_night_report_is_self_contained_and_lists_observations(processed: Settings) -> None:
    product = Archive(processed.archive).current("night_report", "2026-01-25")
    assert product is not None
    page = (product.path / "night_report.html").read_text()
    assert "3 observations, 3 imaged" in page
    for key in (BAD, *GOOD):
        assert key in page
    assert page.count("data:image/png;base64,") >= 5  # three tiles, the hour and the night
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert product.metadata["n_failures"] == 0
