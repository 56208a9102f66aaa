"""The live platform on a night with holes: what is requested, in which order, what is waited for, and what is ignored.

Products are records with the figures that downstream steps read. The real planner decides the requests, from a real archive and the
runs of a real Dagster instance.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from dsa110_assets.archive import caltable_registry
from dsa110_assets.archive.product import HELD, Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import BadDataError, TransientError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.calibrating import calibrators
from dsa110_assets.orchestration.graph import PHASES, specifications
from dsa110_assets.orchestration.ingest import inbox, sensor
from dsa110_assets.orchestration.planning import plan, planner, requests
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import backfill, policy
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.partition_run import QUIET
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.settings import Settings
from dsa110_assets.telescope import timegrid

NIGHT, HOUR = "2026-03-10", "2026-03-10T10:00"
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
PRESENT = [f"2026-03-10T10:{minute:02d}" for minute in (0, 10, 25, 40, 55)]
"""Five of the hour's twelve windows have data."""
CATALOGUES = PHASES[0][1]
FLAGGED, IMAGED = PHASES[1][1], PHASES[3][1]
Asked = dict[str, set[str | None]]


class Scene:
    """An archive and a Dagster instance in which tests publish and run, and ticks of the planner that keep its cursor."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, patch: pytest.MonkeyPatch) -> None:
        self.settings, self.instance, self.now, self.cursor, self.skip_message = settings, instance, NOON, "", ""
        self.archive, self.requests = Archive.create(settings.archive), list[dg.RunRequest]()
        patch.setattr(inbox, "now_s", lambda: self.now.timestamp())
        patch.setattr(calibrators, "known", lambda archive: ())

    def make(self, asset: str, *partitions: str | None, run_id: str = "r", **figures: Any) -> Product:
        """Publish these partitions as the asset would make them now. Return the last product."""
        for partition in partitions:
            specification = specifications()[asset]
            found = recipes.Ingredients(facts={"files": ["f"]}) if asset == "subband_group" else self._found(asset, partition)
            with self.archive.publish(
                asset, partition, found.ids, settings=specification.settings(self.settings, found), code_version=specification.code_version,
                run_id=run_id,
            ) as draft:  # fmt: skip
                (draft.path / "data").write_text(str(figures.pop("text", "x")))
                draft.metadata.update(_figures(partition) | figures)
                if asset == "caltables":
                    caltable_registry.register(
                        draft, "C-1", ["data"], mid_mjd=_mjd(str(partition)) + 0.45, valid_start_mjd=_mjd(NIGHT) - 99,
                        valid_end_mjd=_mjd(NIGHT) + 1, dec_deg=16.0, antennas=["1"], calibrator="C", anchor="C",
                    )  # fmt: skip
        return draft.product

    def _found(self, asset: str, partition: str | None) -> recipes.Ingredients:
        find = specifications()[asset].find
        found = recipes.Ingredients() if asset == "caltables" else find(self.archive, self.settings, partition or "")
        assert found is not None, f"{asset} {partition} has nothing to be made from"
        return found

    def tick(self, minutes: float = 1.0) -> Asked:
        """The requested partitions, by the first asset of each run."""
        self.now += timedelta(minutes=minutes)
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = planner.planner_sensor(context, platform=Platform(self.settings))
        assert isinstance(result, dg.SensorResult)
        self.cursor, self.requests = str(result.cursor), list(result.run_requests or ())
        self.skip_message = str(result.skip_reason.skip_message if result.skip_reason else "")
        requested: Asked = {}
        for request in self.requests:
            assert request.asset_selection
            requested.setdefault(request.asset_selection[0].to_user_string(), set()).add(request.partition_key)
        return requested

    def run(
        self, *assets: str, partition: str | None, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED, **tags: str
    ) -> dg.DagsterRun:
        """A run of these assets, as the daemon or a person starts one."""
        tags |= {requests.PARTITION_TAG: partition} if partition else {}
        run = dg.DagsterRun(
            job_name="observations", run_id=str(uuid.uuid4()), status=status, tags=tags, asset_selection=frozenset(map(dg.AssetKey, assets))
        )
        return self.instance.add_run(run)

    def launch(self, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED, **tags: str) -> None:
        """Launch the runs that the last tick requested."""
        for request in self.requests:
            names = [key.to_user_string() for key in request.asset_selection or ()]
            self.run(*names, partition=request.partition_key, status=status, **request.tags, **tags)

    def end(self) -> None:
        """Let every unfinished run succeed."""
        for run in instances.unfinished(self.instance):
            self.instance.report_engine_event("ended", run)
            self.instance.run_storage.handle_run_event(run.run_id, dg.DagsterEvent("PIPELINE_SUCCESS", run.job_name), datetime.now(UTC))


def _mjd(key: str) -> float:
    return timegrid.datetime_to_mjd(timegrid.parse_key(key))


def _figures(partition: str | None) -> Mapping[str, Any]:
    if partition is None:
        return {}
    start = _mjd(partition)
    return {"mjd_start": start, "mjd_end": start + 0.0035, "pointing_dec_deg": 16.0, "antennas": ["1"], "caltable_set": "C-1"}


@pytest.fixture
def scene(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with dg.DagsterInstance.ephemeral() as instance:
        new_scene = Scene(settings, instance, monkeypatch)
        assert new_scene.tick() == {"source_catalog": {None}}
        for name in CATALOGUES:
            new_scene.make(name, None)
        assert new_scene.tick() == {}
        yield new_scene


@pytest.fixture
def calibrated(scene: Scene) -> Scene:
    """The scene with all observations imaged but the last, which has only its group."""
    scene.make("subband_group", *PRESENT)
    scene.make("measurement_set", *PRESENT[:-1])
    scene.make("caltables", NIGHT)
    scene.make("calibrated_ms", *PRESENT[:-1])
    scene.make("tile_image", *PRESENT[:-1])
    return scene


def test_late_observations_are_continued_once_tables_exist(scene: Scene) -> None:
    late = "2026-03-09T03:15"
    for key in (PRESENT[0], late):
        scene.make("subband_group", key)
        scene.make("measurement_set", key)
    assert scene.tick() == {}
    assert f"2 wait; calibrated_ms {late}: no calibration for declination 16.00 deg" in scene.skip_message
    scene.make("caltables", NIGHT)
    assert scene.tick() == {"calibrated_ms": {PRESENT[0], late}}
    assert [key.to_user_string() for key in scene.requests[0].asset_selection or ()] == list(IMAGED)
    assert {r.partition_key: r.tags[instances.LANE_TAG] for r in scene.requests} == {PRESENT[0]: "live", late: "backfill"}


def test_nothing_in_progress_is_requested_again(scene: Scene) -> None:
    scene.make("subband_group", *PRESENT[:2])
    scene.make("measurement_set", *PRESENT[:2])
    scene.make("caltables", NIGHT)
    scene.run("tile_image", partition=PRESENT[0])
    assert scene.tick() == {"calibrated_ms": {PRESENT[1]}}
    scene.launch(dg.DagsterRunStatus.STARTING)
    assert scene.tick() == {}


def test_old_observations_are_continued_only_after_manual_work_on_them(scene: Scene) -> None:
    """A backfill, or a step started by hand, is followed up; `dsa110 process` makes what follows by itself."""
    old = "2026-01-25T22:25"
    scene.make("subband_group", old)
    assert scene.tick() == {}
    by_process = scene.run("subband_group", partition=old, status=dg.DagsterRunStatus.SUCCESS, **{instances.LANE_TAG: "process"})
    scene.make("subband_group", old, run_id=by_process.run_id)
    assert scene.tick() == {}
    by_hand = scene.run("subband_group", partition=old, status=dg.DagsterRunStatus.SUCCESS)
    scene.make("subband_group", old, run_id=by_hand.run_id)
    assert scene.tick() == {"measurement_set": {old}}
    tags = scene.requests[0].tags
    assert tags[instances.LANE_TAG] == instances.BACKFILL
    assert int(backfill.TAGS["dagster/priority"]) < int(tags["dagster/priority"]) < 0  # before further backfilling, after live runs
    scene.launch()
    assert scene.tick() == {}
    scene.make("measurement_set", old)
    scene.end()
    scene.make("caltables", old[:10])
    assert scene.tick(2) == {"calibrated_ms": {old}}


def test_windows_without_data_do_not_hold_up_their_hour(calibrated: Scene) -> None:
    scene = calibrated
    scene.make("measurement_set", PRESENT[-1])
    assert scene.tick() == {"calibrated_ms": {PRESENT[-1]}}, "its tile will be in the hour"
    scene.make("calibrated_ms", PRESENT[-1])
    assert scene.tick() == {"tile_image": {PRESENT[-1]}}
    scene.make("tile_image", PRESENT[-1])
    assert scene.tick() == {"hour_mosaic": {HOUR}}
    scene.launch()
    scene.make("hour_mosaic", HOUR)
    assert scene.tick() == {}
    scene.make("source_measurements", HOUR)
    scene.end()
    assert scene.tick(60) == {}


def test_an_hour_is_requested_once_late_tiles_have_arrived(calibrated: Scene) -> None:
    calibrated.make("measurement_set", PRESENT[-1])
    calibrated.make("calibrated_ms", PRESENT[-1])
    calibrated.make("tile_image", PRESENT[-1])
    calibrated.now = datetime(2026, 3, 10, 11, 18, tzinfo=UTC)
    assert calibrated.tick() == {}
    assert calibrated.tick() == {"hour_mosaic": {HOUR}}
    assert calibrated.requests[0].tags[instances.LANE_TAG] == "live"


@pytest.mark.parametrize("upstream", FLAGGED[1:])
def test_a_tile_that_is_still_to_come_is_waited_for(calibrated: Scene, upstream: str) -> None:
    assert calibrated.tick() == {upstream: {PRESENT[-1]}}
    calibrated.launch()
    assert calibrated.tick(20) == {}


def test_a_tile_of_the_next_hour_is_waited_for_if_it_is_among_the_first(calibrated: Scene) -> None:
    """An hour's mosaic includes two tiles of each neighbouring hour."""
    scene = calibrated
    for asset in ("measurement_set", "calibrated_ms", "tile_image"):
        scene.make(asset, PRESENT[-1])
    for key, waits in (("2026-03-10T11:05", True), ("2026-03-10T11:15", False)):
        scene.make("subband_group", key)
        assert scene.tick() == {"measurement_set": {key}} | ({} if waits else {"hour_mosaic": {HOUR}})
        for asset in ("measurement_set", "calibrated_ms", "tile_image"):
            scene.make(asset, key)


@pytest.mark.parametrize(("error", "again_s"), [(BadDataError, 86400.0), (TransientError, 60.0), (ValueError, 86400.0)])
def test_a_failed_observation_blocks_no_other_and_pauses_by_its_error(calibrated: Scene, error: type[Exception], again_s: float) -> None:
    """The pause doubles with each further failure, up to the greater of half an hour and the first pause."""
    scene = calibrated
    assert scene.tick() == {"measurement_set": {PRESENT[-1]}}
    name, steps = (
        scene.requests[0].tags[requests.REQUEST_TAG],
        plan.missing(scene.archive, scene.settings, planner.last_nights(scene.now))[0],
    )
    for pause_s in (again_s, max(again_s, 120.0)):
        scene.run(
            "measurement_set",
            partition=PRESENT[-1],
            status=dg.DagsterRunStatus.FAILURE,
            **{requests.FAILED_TAG: name, requests.ERROR_TAG: error.__name__},
        )
        ended_s = datetime.now(UTC).timestamp()  # by Dagster's own clock
        for later_s, expected in ((-30.0, "hour_mosaic"), (30.0, "measurement_set")):
            past = requests.past(scene.instance, [name], ended_s + pause_s + later_s)
            assert [step.asset for step in planner.ready(steps, past, set(), scene.now)] == [expected]


def test_a_failed_step_is_requested_at_once_when_its_inputs_change(calibrated: Scene) -> None:
    def at(moment: datetime) -> list[str]:
        found = planner.examine(Platform(calibrated.settings), calibrated.instance, planner.night_span(NIGHT), set(), moment)
        return [step.asset for step in found.ready]

    calibrated.tick()
    calibrated.launch(dg.DagsterRunStatus.FAILURE, **{requests.ERROR_TAG: "BadDataError"})
    assert at(datetime.now(UTC)) == ["hour_mosaic"]
    calibrated.make("subband_group", PRESENT[-1], text="another file")
    assert at(datetime.now(UTC)) == ["measurement_set"]


def test_held_mosaics_are_not_measured(calibrated: Scene) -> None:
    scene = calibrated
    for asset in ("measurement_set", "calibrated_ms", "tile_image"):
        scene.make(asset, PRESENT[-1])
    scene.make("hour_mosaic", HOUR, **{HELD: "noise_map: off by 2"})
    assert scene.tick() == {}
    scene.make("hour_mosaic", HOUR)
    assert scene.tick() == {"source_measurements": {HOUR}}


def test_a_late_tile_makes_the_hour_again_and_the_night_waits_for_it(calibrated: Scene) -> None:
    scene = calibrated
    for asset in ("hour_mosaic", "source_measurements"):
        scene.make(asset, HOUR)
    scene.now = datetime(2026, 3, 11, 0, 30, tzinfo=UTC)
    assert scene.tick() == {"measurement_set": {PRESENT[-1]}}
    for asset in ("measurement_set", "calibrated_ms", "tile_image"):
        scene.make(asset, PRESENT[-1])
    assert scene.tick() == {"hour_mosaic": {HOUR}}
    assert scene.requests[0].tags[instances.LANE_TAG] == sensor.LATER[instances.LANE_TAG], "it is made anew, beside the present"
    for asset in ("hour_mosaic", "source_measurements"):
        scene.make(asset, HOUR)
    assert scene.tick() == {"night_mosaic": {NIGHT}}
    assert [key.to_user_string() for key in scene.requests[0].asset_selection or ()] == list(PHASES[-1][1])


def test_only_calibration_is_made_for_the_running_night(calibrated: Scene) -> None:
    scene = calibrated
    for asset in ("measurement_set", "calibrated_ms", "tile_image"):
        scene.make(asset, PRESENT[-1])
    for asset in ("hour_mosaic", "source_measurements"):
        scene.make(asset, HOUR)
    assert scene.tick() == {}
    scene.now = datetime(2026, 3, 11, 0, 18, tzinfo=UTC)
    assert scene.tick() == {}
    assert scene.tick() == {"night_mosaic": {NIGHT}}


def test_a_new_hour_does_not_wait_for_stale_tiles(calibrated: Scene) -> None:
    """Tables that are made again make observations stale. These are calibrated again, and the present hour comes first."""
    scene = calibrated
    for asset in ("measurement_set", "calibrated_ms", "tile_image"):
        scene.make(asset, PRESENT[-1])
    scene.make("caltables", NIGHT, text="with another transit")
    requested = scene.tick()
    assert requested == {"calibrated_ms": set(PRESENT), "hour_mosaic": {HOUR}}
    assert [request.tags[instances.LANE_TAG] for request in scene.requests] == ["live"] + ["backfill"] * len(PRESENT)
    assert scene.requests[0].asset_selection == [dg.AssetKey(asset) for asset in PHASES[4][1]]


def test_a_tick_without_events_examines_nothing(calibrated: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated.tick()
    looked: list[object] = []
    monkeypatch.setattr(planner, "examine", lambda *given: looked.append(given) or planner.Examined())
    calibrated.tick(0.5)
    assert looked == []
    calibrated.tick(0.6)
    assert len(looked) == 1, "after a minute it looks: hours end by themselves"
    calibrated.make("measurement_set", PRESENT[-1])
    calibrated.tick(0.1)
    assert len(looked) == 2
    calibrated.tick(0.1)
    assert len(looked) == 2


def test_a_product_indexed_late_with_an_earlier_time_stamp_is_seen(calibrated: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated.tick()
    newest = max(calibrated.archive.published("2000"))
    before = planner.Cursor(stamps=(newest[0],))
    earlier = (datetime.fromisoformat(newest[0]) - timedelta(seconds=5)).isoformat(timespec="microseconds")
    monkeypatch.setattr(Archive, "published", lambda self, since: [(earlier, "tile_image", PRESENT[0], "r"), newest])
    fresh, stamps = planner.published_since(calibrated.archive, before)
    assert [one[:2] for one in fresh] == [("tile_image", PRESENT[0])]
    assert set(stamps) == {earlier, newest[0]}
    assert planner.published_since(calibrated.archive, planner.Cursor(stamps=stamps))[0] == []


def test_a_failed_run_records_its_request_and_error(settings: Settings) -> None:
    """Later requests use this: the same request pauses, any other does not."""
    (settings.inbox / "sources.csv").write_text("this is no catalogue")
    broken = settings.model_copy(update={"catalogues": (settings.inbox / "sources.csv",)})
    archive = Archive.create(settings.archive)
    found = specifications()["source_catalog"].find(archive, broken, "")
    assert found is not None
    name = specifications()["source_catalog"].request(broken, None, found)
    with dg.DagsterInstance.ephemeral() as instance:
        job = graph.over(Platform(broken)).resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(
            run_config=QUIET, instance=instance, asset_selection=[dg.AssetKey("source_catalog")], raise_on_error=False
        )
        assert not done.success
        run = instance.get_run_by_id(done.run_id)
        assert run is not None
        assert (run.tags[requests.FAILED_TAG], run.tags[requests.ERROR_TAG]) == (name, "ConfigurationError")
        past = requests.past(instance, [name, "source_catalog :another"], datetime.now(UTC).timestamp())
        assert list(past) == [name]
        assert 0 < past[name].rests_s <= policy.FIRST_PAUSE_S
