"""A whole night: files arrive, and sensors under a real daemon start everything that follows.

The files of the tiny telescope arrive one observation after the other. Only the schedule's clock is moved (see clock/), from
one time at which something is due to the next; no step is started by hand.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.live.platform import STEP_S, LivePlatform
from dsa110_assets_tests.tiny import OPTIONS, SUBBANDS

pytestmark = [pytest.mark.slow, pytest.mark.live]
NIGHT, HOUR = "2026-01-25", "2026-01-25T22:00"
ARRIVALS = {"2026-01-25T22:20": "22:25:15", "2026-01-25T22:25": "22:30:25", "2026-01-25T22:30": "22:35:35"}
"""Each observation, and the time at which its last file arrives. 3C454.3 transits in the second."""
TINY = {
    "DSA110_SUBBANDS": str(SUBBANDS), "DSA110_MIN_SUBBANDS": str(SUBBANDS - 1), "DSA110_IMAGING__FIELD_DEG": "2.0",
    "DSA110_IMAGING__PIXELS_PER_BEAM": "2.5", "DSA110_IMAGING__MAX_MAJOR_CYCLES": "2", "DSA110_IMAGING__CLEAN_ITERATIONS": "100",
    "DSA110_IMAGING__THREADS": "1",
}  # fmt: skip
OLD = {**OPTIONS, "start": "2026-01-19T22:43:40", "groups": 2}
"""A night of the week before, which the planner considers only because the backfill makes something there."""
OLD_NIGHTS = ("2026-01-19",)


MADE = {name: specification for name, specification in specifications().items() if specification.grain != "request"}
"""The assets that every night makes; requested mosaics are not among them."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePlatform]:
    """The platform after its night. The fixture fails if any asset of the night has not been made."""
    place = tmp_path_factory.mktemp("live")
    simulate(place / "scene", SimulationOptions(**OPTIONS))
    groups = json.loads((place / "scene" / "truth.json").read_text())["groups"]
    live = LivePlatform(place, **TINY)
    live.clock(f"{NIGHT}T22:20:00")
    live.start()
    try:
        for (key, arrival), group in zip(ARRIVALS.items(), groups, strict=True):
            live.clock(f"{NIGHT}T{arrival}")
            live.drop(place / "scene", group["files"])
            live.until(lambda key=key: live.made("measurement_set", key), f"the measurement set of {key}")
        live.until(lambda: live.made("caltables", NIGHT), "calibration tables once the transit is in")
        live.until(lambda: live.made("tile_image", *ARRIVALS), "a tile of every observation")
        live.clock(f"{NIGHT}T23:20:05")
        live.until(lambda: live.made("source_measurements", HOUR), "the hour's mosaic and measurements")
        live.clock("2026-01-26T00:20:05")
        live.until(lambda: live.made("night_report", NIGHT), "the night's report")
        live.until(live.idle, "every run has ended")
        yield live
    finally:
        live.stop()


def test_every_asset_is_made_and_dagster_knows_it(platform: LivePlatform) -> None:
    with platform.instance() as instance, Archive(platform.root) as archive:
        for name, specification in MADE.items():
            keys = {"observation": set(ARRIVALS), "hour": {HOUR}, "night": {NIGHT}}.get(specification.grain)
            asset = dg.AssetKey(name)
            if keys is None:
                assert instance.get_latest_materialization_event(asset) is not None
            else:
                assert set(instance.get_materialized_partitions(asset)) == keys
            assert {p.partition for p in archive.products(name)} == (keys or {None})


def test_nothing_is_made_twice(platform: LivePlatform) -> None:
    """One version of every product, and one run that succeeded for every partition of an asset."""
    with Archive(platform.root) as archive:
        assert [p.id for p in archive.products(state=None) if not p.id.endswith("-v1")] == []
    with platform.instance() as instance:
        runs = Counter(
            (key.to_user_string(), run.tags.get("dagster/partition"))
            for run in instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
            for key in run.asset_selection or ()
        )
    assert {one: number for one, number in runs.items() if number > 1} == {}


def test_checks_are_recorded_and_failures_reach_the_webhook(platform: LivePlatform) -> None:
    status, failed = AssetCheckExecutionRecordStatus, set()
    with platform.instance() as instance:
        for asset, specification in MADE.items():
            for rule in specification.rules:
                key = dg.AssetCheckKey(dg.AssetKey(asset), rule.check)
                records = instance.event_log_storage.get_asset_check_execution_history(
                    key, limit=50, status={status.SUCCEEDED, status.FAILED}
                )
                assert records, f"{asset}:{rule.check} was never evaluated"
                if any(record.status == status.FAILED for record in records):
                    failed.add(f"check {asset}:{rule.check} failed")
    assert "check tile_image:rms failed" in failed  # the noise of eight antennas is too high

    def alerted() -> set[str]:
        return {
            f"check {subject} failed" for one in platform.webhook.taken if one["condition"] == "check_failed" for subject in one["subjects"]
        }

    group_s = 60 * Thresholds().group_min  # alerts after the first are held back for this long, to be sent together
    platform.until(lambda: failed <= alerted(), f"alerts about {failed}", group_s + STEP_S)


def test_logs_are_outside_the_reach_of_dagsters_telemetry(platform: LivePlatform) -> None:
    """Dagster's telemetry uploads and deletes files in DAGSTER_HOME/logs, even if it is switched off."""
    names = {path.name for path in (platform.home / "service-logs").iterdir()}
    assert names == {"code-server.log", "webserver.log", "daemon.log", "portal.log"}
    assert list(platform.home.glob("logs/*")) + list(platform.home.glob(".logs_queue/*")) == []


LAUNCH = """mutation ($given: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $given) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
STATUS = "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
STOP = """mutation ($id: String!) { stopSensor(id: $id) { __typename } }"""
SENSORS = """{ sensorsOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "dsa110_assets"}) {
  ... on Sensors { results { id name } } } }"""


def test_a_night_of_history_is_backfilled_to_its_end(platform: LivePlatform) -> None:
    """The operator stops the inbox sensor, which would otherwise request all these observations as new, and requests the night."""
    sensors = platform.graphql(SENSORS)["sensorsOrError"]["results"]
    (inbox,) = [one["id"] for one in sensors if one["name"] == "inbox"]
    platform.graphql(STOP, id=inbox)
    old = platform.place / "old"
    simulate(old, SimulationOptions(**OLD))
    platform.drop(old, sorted(path.name for path in old.glob("*.hdf5")))
    done = platform.command("backfill", "--nights", f"{OLD_NIGHTS[0]}..{OLD_NIGHTS[-1]}", "--json")
    assert done.returncode == 0, done.stderr
    (launch,) = json.loads(done.stdout)
    keys = launch["partitions"]
    assert len(keys) == OLD["groups"]
    platform.until(lambda: platform.made("measurement_set", *keys), "ingest of the backfilled nights")
    platform.until(lambda: ended(platform, launch["backfill_id"]), "the backfill ends")
    for asset, partitions in (("caltables", OLD_NIGHTS), ("tile_image", keys), ("night_report", OLD_NIGHTS)):
        platform.until(lambda: platform.made(asset, *partitions) or minutes_pass(platform), f"{asset} of the nights")  # noqa: B023
    platform.until(platform.idle, "every run has ended")
    with Archive(platform.root) as archive:
        for asset in ("hour_mosaic", "source_measurements", "night_mosaic", "light_curves", "variability"):
            nights = {str(p.partition)[:10] for p in archive.products(asset)}
            assert nights >= set(OLD_NIGHTS), asset


def test_the_web_uis_backfill_ends_with_every_partition(platform: LivePlatform) -> None:
    keys = list(ARRIVALS)
    before = materializations(platform, "tile_image")
    given: dict[str, Any] = {
        "partitionNames": keys, "assetSelection": [{"path": ["calibrated_ms"]}, {"path": ["tile_image"]}],
        "fromFailure": False, "tags": [], "title": "from the page",
    }  # fmt: skip
    answer = platform.graphql(LAUNCH, given=given)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    platform.until(lambda: ended(platform, answer["backfillId"]), "the page's backfill ends")
    after = materializations(platform, "tile_image")
    assert {key: after[key] - before[key] for key in keys} == dict.fromkeys(keys, 1)


def minutes_pass(platform: LivePlatform) -> bool:
    """Move the clock forward if nothing runs, so that sensors that look once a minute look again. Always return False."""
    if platform.idle():
        platform.pass_s(61.0)
    return False


def ended(platform: LivePlatform, backfill_id: str) -> bool:
    """Whether the daemon has finished this backfill. Fails at once if the backfill failed or was cancelled."""
    status = platform.graphql(STATUS, id=backfill_id)["partitionBackfillOrError"]["status"]
    assert "FAIL" not in status, platform.recent_logs()
    assert "CANCEL" not in status
    return bool(status == "COMPLETED_SUCCESS")


def materializations(platform: LivePlatform, asset: str) -> Counter[str | None]:
    """The number of materialization events that Dagster has for each partition."""
    with platform.instance() as instance:
        records = instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records
    return Counter(record.partition_key for record in records)
