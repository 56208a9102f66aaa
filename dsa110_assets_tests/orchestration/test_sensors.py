"""The inbox sensor requests each ready observation once, waits for incomplete ones, and quarantines those that never will be ready."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive import quarantine
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ResourceError
from dsa110_assets.orchestration.ingest import inbox as looking
from dsa110_assets.orchestration.ingest import sensor
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import backfill as backfills
from dsa110_assets.orchestration.running import capacity, policy
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.settings import Settings
from dsa110_assets_tests.tiny import SUBBANDS, cut_short, tiny_settings

KEYS = ["2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30"]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture(autouse=True)
def _roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small test disk is not an emergency."""
    monkeypatch.setattr(capacity, "require_disk", lambda platform: None)


def tick(settings: Settings, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    result = sensor.inbox_sensor(context, platform=Platform(settings))
    assert isinstance(result, dg.SensorResult)
    return result


def launched(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> None:
    """Add the run that Dagster's daemon makes from a request."""
    tags = {**request.tags, "dagster/run_key": str(request.run_key), "dagster/partition": str(request.partition_key)}
    run = dg.DagsterRun(job_name="ingest", tags=tags, status=status)
    instance.add_run(run)


def launch(instance: dg.DagsterInstance, result: dg.SensorResult) -> dg.SensorResult:
    """Launch the requests of a tick, as the daemon does; the runs have not finished. Return the tick's result."""
    for request in result.run_requests or ():
        launched(instance, request)
    return result


def requested(result: dg.SensorResult) -> list[str]:
    return [str(request.partition_key) for request in result.run_requests or ()]


def at(monkeypatch: pytest.MonkeyPatch, seconds_later: float) -> None:
    began = looking.now_s()
    monkeypatch.setattr(looking, "now_s", lambda: began + seconds_later)


def test_complete_observations_are_requested_once_oldest_first(settings: Settings, instance: dg.DagsterInstance) -> None:
    first = tick(settings, instance)
    assert requested(first) == KEYS
    assert len({request.run_key for request in first.run_requests or ()}) == len(KEYS)
    assert set(json.loads(first.cursor or "")["open"]) == set(KEYS)
    launch(instance, first)
    second = tick(settings, instance, first.cursor)
    assert requested(second) == []
    assert set(json.loads(second.cursor or "")["open"]) == set(KEYS)
    assert requested(tick(settings, instance)) == []  # not even when the cursor is lost


def test_a_backlog_leaves_live_places_to_current_observations(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of a backlog use the backfill lane, ahead of ordered backfills; only within the first hour are they live."""
    last_s = datetime.fromisoformat(KEYS[-1]).replace(tzinfo=UTC).timestamp()
    for now_s, lane in ((last_s + 600, "live"), (last_s + 86400, "backfill")):
        monkeypatch.setattr(looking, "now_s", lambda now_s=now_s: now_s)
        requests = tick(settings, instance).run_requests or []
        assert [request.partition_key for request in requests] == KEYS
        assert {request.tags["dsa110/lane"] for request in requests} == {lane}
        priorities = {int(request.tags["dagster/priority"]) for request in requests}
        assert min(priorities) > int(backfills.TAGS["dagster/priority"])
        assert lane == "backfill" or min(priorities) > int(sensor.FOLLOWING["dagster/priority"])


def test_a_lost_cursor_repeats_requests_with_the_same_run_keys(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Dagster drops a request whose run key it has seen: nothing runs twice."""
    keys = [[r.run_key for r in tick(settings, instance).run_requests or ()] for _ in range(2)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.SUCCESS])
def test_a_run_without_manifest_is_requested_again_at_growing_intervals(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    """A used run key does not block further requests, whether the run was killed, failed or cancelled, with or without the cursor."""
    keys, began_s, result = set(), looking.now_s(), tick(settings, instance)
    for attempt in range(3):
        assert requested(result) == KEYS
        for request in result.run_requests or ():
            launched(instance, request, status)
        keys |= {request.run_key for request in result.run_requests or ()}
        cursor = result.cursor if attempt else None
        pause_s = policy.FIRST_PAUSE_S * 2**attempt
        monkeypatch.setattr(looking, "now_s", lambda now_s=began_s + pause_s * 0.8: now_s)
        early = tick(settings, instance, cursor)
        assert requested(early) == []
        assert early.skip_reason is not None
        assert "requested again in" in str(early.skip_reason.skip_message)
        monkeypatch.setattr(looking, "now_s", lambda now_s=began_s + pause_s + 60: now_s)  # 60 s is longer than the loop has taken so far
        result = tick(settings, instance, cursor)
    assert len(keys) == 3 * len(KEYS)


def test_observations_already_made_are_not_requested(processed: Settings, instance: dg.DagsterInstance) -> None:
    assert requested(tick(processed, instance)) == []


def test_a_missing_subband_is_waited_for_and_then_left_out(
    settings: Settings, inbox: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    min(inbox.glob("2026-01-25T22:25*_sb02.hdf5")).unlink()
    early = launch(instance, tick(settings, instance))
    assert requested(early) == [KEYS[0], KEYS[2]]
    at(monkeypatch, settings.group_wait_s + 1)
    late = tick(settings, instance, early.cursor)
    assert requested(late) == [KEYS[1]]
    assert quarantine.quarantined(Archive(settings.archive)) == []


def test_a_subband_that_comes_later_requests_another_run(
    settings: Settings, inbox: Path, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = min(inbox.glob("2026-01-25T22:25*_sb02.hdf5"))
    aside = tmp_path / late.name
    late.rename(aside)
    at(monkeypatch, settings.group_wait_s + 1)
    first = launch(instance, tick(settings, instance))
    (partial,) = [r for r in first.run_requests or () if r.partition_key == KEYS[1]]
    aside.rename(late)
    second = tick(settings, instance, first.cursor)
    assert requested(second) == [KEYS[1]]
    assert (second.run_requests or ())[0].run_key != partial.run_key


def test_too_few_subbands_are_quarantined_once_with_the_reason(
    settings: Settings, inbox: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in list(inbox.glob("2026-01-25T22:25*"))[: SUBBANDS - 1]:
        path.unlink()
    waiting = tick(settings, instance)
    assert quarantine.quarantined(Archive(settings.archive)) == []
    at(monkeypatch, settings.group_wait_s + 1)
    cursor = tick(settings, instance, waiting.cursor).cursor
    (record,) = quarantine.quarantined(Archive(settings.archive))
    assert record.observation == KEYS[1]
    assert "1 of 4 subbands" in record.reason
    tick(settings, instance, cursor)
    assert quarantine.quarantined(Archive(settings.archive)) == [record]


def test_a_truncated_file_may_still_be_growing_then_it_is_quarantined(
    settings: Settings, inbox: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = min(inbox.glob("2026-01-25T22:25*_sb01.hdf5"))
    cut_short(broken, 5000)
    early = launch(instance, tick(settings, instance))
    assert KEYS[1] not in requested(early)
    assert quarantine.quarantined(Archive(settings.archive)) == []
    at(monkeypatch, settings.group_wait_s + 400)  # the length of a group, and the wait
    late = tick(settings, instance, early.cursor)
    assert requested(late) == [KEYS[1]]
    (record,) = quarantine.quarantined(Archive(settings.archive))
    assert record.paths == (broken,)


def test_an_unfinished_name_is_never_opened(settings: Settings, inbox: Path, instance: dg.DagsterInstance) -> None:
    path = min(inbox.glob("2026-01-25T22:25*_sb01.hdf5"))
    path.rename(path.with_name(path.stem + "_incomplete.hdf5"))
    assert requested(tick(settings, instance)) == [KEYS[0], KEYS[2]]


def test_names_an_hour_off_do_not_matter_header_time_does(settings: Settings, inbox: Path, instance: dg.DagsterInstance) -> None:
    for path in list(inbox.glob("2026-01-25T22:30*")):
        path.rename(path.with_name(path.name.replace("T22:30", "T21:34")))
    result = tick(settings, instance)
    assert requested(result) == KEYS


def test_a_tick_asks_for_a_bounded_number_and_the_next_for_the_rest(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor, "REQUESTS_PER_TICK", 2)
    first = tick(settings, instance)
    assert requested(first) == KEYS[:2]
    launch(instance, first)
    assert requested(tick(settings, instance, first.cursor)) == KEYS[2:]


def test_known_headers_are_not_opened_again(
    settings: Settings, inbox: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    min(inbox.glob("2026-01-25T22:25*_sb02.hdf5")).unlink()  # one group stays open
    opened: list[Path] = []
    from dsa110_assets.visibilities import uvh5

    original = uvh5.read_header
    monkeypatch.setattr(uvh5, "read_header", lambda path: opened.append(path) or original(path))
    cursor = tick(settings, instance).cursor
    assert len(opened) == len(list(inbox.glob("*.hdf5")))
    opened.clear()
    tick(settings, instance, cursor)
    assert opened == []


def test_a_second_copy_of_a_subband_is_quarantined(
    processed: Settings, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other files of the settled group are opened again, because the new file may belong to it."""
    place = tmp_path / "inbox"
    shutil.copytree(processed.inbox, place)
    settings = tiny_settings(place, tmp_path)
    process(settings, through="subband_group")
    extra = min(place.glob("2026-01-25T22:25*_sb02.hdf5"))
    shutil.copy2(extra, extra.with_name(extra.name.replace("T22:25", "T22:26")))
    at(monkeypatch, settings.group_wait_s + 400)
    assert requested(tick(settings, instance)) == []
    assert [one.paths[0].name for one in quarantine.quarantined(Archive(settings.archive))] == [extra.name.replace("T22:25", "T22:26")]


class Usage:
    """The result of shutil.disk_usage for a disk with 0.1 of 10,000 GB free, less than the threshold of the tests."""

    total, used, free = 10**13, 10**13 - 10**8, 10**8


def test_ingest_pauses_while_the_disk_is_full_and_resumes(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with monkeypatch.context() as full:
        full.setattr(capacity.shutil, "disk_usage", lambda path: Usage)
        with pytest.raises(ResourceError, match="ingest waits"):
            tick(settings, instance)
    monkeypatch.setattr(capacity, "disk_shortage", lambda platform: None)
    assert requested(tick(settings, instance)) == KEYS
