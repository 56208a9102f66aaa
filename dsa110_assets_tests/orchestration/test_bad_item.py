"""One bad item in a loop: the others are processed and reported; the bad one waits or is quarantined with its reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dsa110_assets.archive import files, integrity, quarantine, retention
from dsa110_assets.archive.store import Archive
from dsa110_assets.definitions import defs
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.ingest import inbox as looking
from dsa110_assets.orchestration.ingest import sensor
from dsa110_assets.orchestration.planning import plan, planner
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import backfill as backfills
from dsa110_assets.orchestration.running import capacity
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.specification import season
from dsa110_assets.orchestration.specification.spec import consumers
from dsa110_assets.settings import Settings
from dsa110_assets.thresholds import Thresholds
from dsa110_assets.visibilities import grouping
from dsa110_assets_tests.tiny import OBSERVATIONS, simulate_tiny

pytestmark = pytest.mark.row(41, cases="bad items that stop no other")

KEYS = list(OBSERVATIONS)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture(autouse=True)
def _roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small test disk is not an emergency."""
    monkeypatch.setattr(capacity, "require_disk", lambda platform: None)


def at(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    moment_s = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    monkeypatch.setattr(looking, "now_s", lambda: moment_s)


def requested(settings: Settings, instance: dg.DagsterInstance) -> tuple[list[str], str]:
    """(requested partitions, skip message) of a whole tick of the inbox sensor, evaluated as by the daemon."""
    repository = defs.get_repository_def()
    with dg.build_sensor_context(
        instance=instance, repository_def=repository, resources={"platform": Platform(settings)}
    ) as context:  # fmt: skip
        result = repository.get_sensor_def("inbox").evaluate_tick(context)
    return [str(request.partition_key) for request in result.run_requests or ()], str(result.skip_message or "")


@pytest.mark.parametrize(
    ("grain", "key", "words"),
    [
        ("observation", "2024-12-31T23:55", "set that to 2024-12-31 or earlier"),
        ("hour", "2009-06-01T22:00", "DSA110_START=2025-01-01"),
        ("night", "2024-12-31", "DSA110_START=2025-01-01"),
        ("observation", "2026-01-25T22:30", "waits until then, or a clock is wrong"),
        ("hour", "2026-01-25T22:00", "its window ends at 2026-01-25T23:00"),
        ("night", "2026-01-26", "clock"),
        ("observation", "2026-01-25T22:25", None),
        ("hour", "2026-01-25T21:00", None),
        ("night", "2026-01-25", None),
        ("night", "2025-01-01", None),
        ("catalogue", None, None),
    ],
)
def test_the_windows_with_a_partition_are_those_of_dagster(grain: Any, key: str | None, words: str | None) -> None:
    from dsa110_assets.orchestration.specification.dagster_assets import _GRIDS

    now = datetime(2026, 1, 25, 22, 31, 7, tzinfo=UTC)
    reason = season.outside(grain, key, now.timestamp())
    assert (reason is None) if words is None else words in (reason or "")
    grid = _GRIDS[grain]
    if grid is not None and key is not None:
        from dagster._core.definitions.partitions.context import partition_loading_context

        with partition_loading_context(effective_dt=now):
            assert grid.has_partition_key(key) == (reason is None)


@pytest.mark.parametrize(("name", "text"), [("DSA110_START", "soon"), ("dsa110_start", "2026-02-30")])
def test_an_invalid_season_start_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError, match=f"DSA110_START='{text}' is no date; write the first night as 2025-01-01"):
        season.season_start()


@pytest.mark.parametrize("text", ["", " "])
def test_a_blank_season_is_the_default(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DSA110_START", text)
    assert season.season_start() == season.DEFAULT_START


def test_observations_ahead_of_the_clock_wait_and_others_are_requested(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, "2026-01-25T22:31:00")
    assert requested(settings, instance)[0] == KEYS[:2]
    at(monkeypatch, "2026-01-25T22:19:00")
    requests, message = requested(settings, instance)
    assert requests == []
    assert message.count("or a clock is wrong") == 3
    at(monkeypatch, "2026-01-25T22:35:00")
    assert requested(settings, instance)[0] == KEYS


@pytest.fixture
def last_season(settings: Settings) -> Settings:
    """Adds an observation of the day before the first partition to the three."""
    simulate_tiny(settings.inbox, start="2024-12-31T05:00:00", groups=1)
    return settings


def test_data_before_the_season_wait_and_name_the_setting(last_season: Settings, instance: dg.DagsterInstance) -> None:
    assert requested(last_season, instance)[0] == KEYS
    report = process(last_season, through="subband_group")
    assert [one.partition for one in report.made if one.asset == "subband_group"] == KEYS
    assert report.failed == ()
    ((what, reason),) = [(one.what, one.reason) for one in report.waiting]
    assert what == "2024-12-31T05:00"
    assert "DSA110_START=2025-01-01; set that to 2024-12-31" in reason
    assert quarantine.quarantined(Archive(last_season.archive)) == []
    foreseen = process(last_season, dry_run=True)
    assert {step.partition for step in foreseen.planned if step.asset == "measurement_set"} == set(KEYS)


def test_data_before_the_season_are_left_out_of_a_backfill(last_season: Settings, instance: dg.DagsterInstance) -> None:
    (launch,) = backfills.backfill(last_season, "2024-12-31", "2026-01-26", instance=instance)
    assert launch.partitions == tuple(KEYS)
    assert len(launch.left_out) == 1
    assert launch.left_out[0].startswith("2024-12-31T05:00: is before DSA110_START")
    with pytest.raises(NotFoundError, match=r"has a partition: 2024-12-31T05:00: is before DSA110_START"):
        backfills.backfill(last_season, "2024-12-31", "2024-12-31", instance=instance)


def test_an_hour_that_is_not_over_waits(processed: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """`process` in the middle of an hour: its mosaic is made when the hour is over, and nothing fails before."""
    archive = Archive(processed.archive)
    archive.reject(archive.products("hour_mosaic")[0].id, "to be made again")
    at(monkeypatch, "2026-01-25T22:45:00")
    report = process(processed)
    assert report.failed == ()
    assert {one.what for one in report.waiting} == {"hour_mosaic 2026-01-25T22:00"}
    assert not any(step.asset == "hour_mosaic" for step in process(processed, dry_run=True).planned)
    now = datetime.fromtimestamp(looking.now_s(), UTC)
    found = planner.examine(Platform(processed), instance, planner.night_span("2026-01-25"), set(), now)
    assert {step.asset for step in found.steps} <= {"night_report"}
    assert found.ready == (), "the night is not over either"
    at(monkeypatch, "2026-01-25T23:00:00")
    assert process(processed).failed == ()


ABSURD = (
    "9999-12-31T23:59:59_sb00.hdf5",
    "0001-01-01T00:00:00_sb01.hdf5",
    "9999-12-31T23:59:60_sb02.hdf5",
    "2026-13-45T99:00:00_sb03.hdf5",
)


def test_files_with_absurd_names_and_times_stop_nothing(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Names at the ends of the calendar and modification times beyond it stop nothing. The faults of these files are reported."""
    for name in ABSURD:
        (settings.inbox / name).write_bytes(b"")
    for name, mtime in (("2026-01-20T00:00:00_sb00.hdf5", 10**12), ("2026-01-20T00:00:00_sb01.hdf5", -(10**11))):
        (settings.inbox / name).write_bytes(b"")
        os.utime(settings.inbox / name, (mtime, mtime))
    assert requested(settings, instance)[0] == KEYS
    report = process(settings, through="subband_group")
    assert [one.partition for one in report.made if one.asset == "subband_group"] == KEYS
    reported = " ".join([*report.quarantined, *(f"{one.what}: {one.reason}" for one in report.waiting)])
    for name in ABSURD:
        assert name in reported


def test_two_copies_that_cannot_be_compared_stop_only_their_own_window(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = min(settings.inbox.glob("2026-01-25T22:25*_sb02.hdf5"))
    shutil.copy2(copied, copied.with_name(copied.name.replace("T22:25", "T22:26")))

    def cannot(*_: object, **__: object) -> bool:
        raise PermissionError("not now")

    monkeypatch.setattr(grouping.filecmp, "cmp", cannot)
    assert requested(settings, instance)[0] == [KEYS[0], KEYS[2]]
    report = process(settings, through="subband_group")
    assert [one.partition for one in report.made if one.asset == "subband_group"] == [KEYS[0], KEYS[2]]
    assert any("cannot be compared" in one.reason for one in report.waiting)
    monkeypatch.undo()
    monkeypatch.setattr(capacity, "require_disk", lambda platform: None)
    assert requested(settings, instance)[0] == [KEYS[1]]


def test_a_file_without_status_is_reported_and_the_others_are_taken(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stale:
        name = "2026-01-25T22:25:00_sb99.hdf5"

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise OSError(116, "Stale file handle")

    entries = looking._entries
    monkeypatch.setattr(looking, "_entries", lambda inbox: [*entries(inbox), Stale()])
    assert requested(settings, instance)[0] == KEYS
    seen = plan.scan_without_archive(settings)
    assert [(path.name, reason) for path, reason in seen.waiting] == [(Stale.name, "its status cannot be read now (Stale file handle)")]


def test_files_outside_the_season_do_not_delay_current_ones(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the number of files opened in one tick, those named for the season come first, whatever else arrived."""
    for number in range(40):
        for year in ("2019", "2031"):
            (settings.inbox / f"{year}-06-01T00:{number:02d}:00_sb00.hdf5").write_bytes(b"")
    monkeypatch.setattr(sensor, "HEADERS_PER_TICK", 12)
    assert requested(settings, instance)[0] == KEYS


def test_a_product_that_cannot_be_removed_blocks_no_other(processed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(processed.archive)
    stuck = archive.current("measurement_set", KEYS[0])
    assert stuck is not None
    remove_tree = files.remove_tree

    def not_that(path: Path) -> None:
        if path == stuck.path:
            raise PermissionError(1, "Operation not permitted", str(path))
        remove_tree(path)

    monkeypatch.setattr(files, "remove_tree", not_that)
    limits = Thresholds(retention_days={"measurement_set": 0.0})
    removed = {one.product.id for one in retention.retain(archive, limits, consumers(specifications()), dry_run=False) if one.remove}
    assert {p.partition for p in archive.products("measurement_set")} == set()
    assert stuck.id not in removed
    assert stuck.path.is_dir()
    assert not any(p.path.exists() for p in archive.products("measurement_set", state=None) if p.id != stuck.id)
    assert stuck.path.parent in integrity.sweep(archive, everywhere=True).left
    monkeypatch.undo()
    integrity.sweep(archive, everywhere=True)
    assert not stuck.path.exists()
