"""A run that makes nothing states the reason where a person looks; an observation accepted by hand is processed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.planning import planner, requests
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import reporting
from dsa110_assets.orchestration.running.partition_run import QUIET
from dsa110_assets.orchestration.running.process import process
from dsa110_assets_tests.tiny import OBSERVATIONS

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings

NIGHT, HOUR = "2026-01-25", "2026-01-25T22:00"


@pytest.mark.parametrize(
    ("asset", "key", "reason"),
    [
        ("subband_group", "2026-01-25T10:00", "no group of its subband files is in DSA110_INBOX="),
        ("measurement_set", OBSERVATIONS[0], f"there is no subband_group {OBSERVATIONS[0]}"),
        ("caltables", NIGHT, "there is no measurement_set; there is no sky_model; there is no calibrator_catalog"),
        ("tile_image", OBSERVATIONS[0], f"there is no calibrated_ms {OBSERVATIONS[0]}; there is no sky_model"),
        ("hour_mosaic", HOUR, "there is no tile_image"),
        ("light_curves", NIGHT, "there is no source_measurements"),
        ("sky_model", None, "there is no source_catalog"),
    ],
)
@pytest.mark.row(53, cases="told or taken up")
def test_reasons_for_making_nothing_are_shown_with_asset_and_run(settings: Settings, asset: str, key: str | None, reason: str) -> None:
    with dg.DagsterInstance.ephemeral() as dagster:
        job = graph.over(Platform(settings)).resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(run_config=QUIET, instance=dagster, partition_key=key, asset_selection=[dg.AssetKey(asset)])
        assert done.success  # nothing to do is no failure
        (observation,) = [e.asset_observation_data.asset_observation for e in done.all_events if e.event_type_value == "ASSET_OBSERVATION"]
        assert (observation.asset_key, observation.partition) == (dg.AssetKey(asset), key)
        assert observation.description is not None
        assert reason in observation.description
        run = dagster.get_run_by_id(done.run_id)
        assert run is not None
        assert reason[:60] in run.tags[reporting.NOTHING_TAG]
        assert dagster.get_latest_materialization_event(dg.AssetKey(asset)) is None


@pytest.mark.row(53, cases="told or taken up")
def test_a_held_input_is_named_with_its_reason(processed: Settings) -> None:
    from dsa110_assets.orchestration.planning import plan

    with Archive(processed.archive) as archive:
        made = archive.current("hour_mosaic", HOUR)
        assert made is not None
        with archive.publish("hour_mosaic", HOUR, made.inputs, settings={}, code_version="2", run_id="r") as draft:
            (draft.path / "x").write_text("x")
            draft.metadata["held"] = "noise_map: off by 2"
        reason = plan.lacking(archive, processed, "source_measurements", HOUR)
    assert reason == "hour_mosaic-20260125T2200-v2 is held (noise_map: off by 2)"


@pytest.mark.row(53, cases="told or taken up")
def test_an_observation_accepted_by_hand_is_taken_up_however_old_it_is(settings: Settings) -> None:
    """The inbox sensor considers it done, because a manifest names its files."""
    process(settings, through="sky_model")
    platform, key = Platform(settings), OBSERVATIONS[0]
    job = graph.over(platform).resolve_implicit_global_asset_job_def()
    with instances.open_instance(settings.dagster_home) as dagster:

        def tick(cursor: str | None) -> dg.SensorResult:
            result = planner.planner_sensor(dg.build_sensor_context(instance=dagster, cursor=cursor), platform=platform)
            assert isinstance(result, dg.SensorResult)
            return result

        first = tick(None)
        assert first.run_requests == []
        assert job.execute_in_process(
            run_config=QUIET, instance=dagster, partition_key=key, asset_selection=[dg.AssetKey("subband_group")]
        ).success
        second = tick(first.cursor)
        (request,) = second.run_requests or ()
        assert (request.partition_key, request.job_name) == (key, "observations")
        assert request.asset_selection == [dg.AssetKey("measurement_set")]
        run = dg.DagsterRun(
            job_name="observations", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED,
            tags={**request.tags, requests.PARTITION_TAG: key}, asset_selection=frozenset(request.asset_selection),
        )  # fmt: skip
        dagster.add_run(run)
        third = tick(second.cursor)
        assert third.run_requests == []
        dagster.report_run_failed(run, "for good")
        assert tick(third.cursor).run_requests == [], "what failed rests"
