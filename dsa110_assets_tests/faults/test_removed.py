"""Row 32: products that retention removed are not made again by `process` or the clock, unless another product is made from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from dsa110_assets.archive import retention
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import WaitingError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.process import ProcessReport, process
from dsa110_assets.orchestration.specification.spec import consumers
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.tiny import OBSERVATIONS, tiny_settings

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings

HOUR, NIGHT = "2026-01-25T22:00", "2026-01-25"
TAKEN = ("measurement_set", "calibrated_ms", "tile_image")
AT_ONCE = Thresholds(superseded_days=0, retention_days=dict.fromkeys(TAKEN, 0.0))
EVERYTHING = plan.Span(datetime(2026, 1, 25, tzinfo=UTC), datetime(2026, 1, 27, tzinfo=UTC))


def take(settings: Settings, thresholds: Thresholds = AT_ONCE) -> Archive:
    """Run retention a minute from now. Return the archive afterwards."""
    archive = Archive(settings.archive)
    later = datetime.now(UTC) + timedelta(minutes=1)
    taken = [d.product for d in retention.retain(archive, thresholds, consumers(specifications()), dry_run=False, now=later) if d.remove]
    assert {p.asset for p in taken} == set(TAKEN)
    assert not any(p.path.exists() for p in taken)
    return archive


def made(report: ProcessReport) -> set[str]:
    return {one.asset for one in report.made}


@pytest.mark.row(32)
def test_nothing_that_was_removed_is_made_again(processed: Settings) -> None:
    archive = take(processed)
    again = process(processed)
    record_figure(32, "products made again after retention took them", len(again.made))
    assert (again.ok, again.made) == (True, ())
    assert again.up_to_date == len(archive.products(removed=True))
    assert archive.current("measurement_set", OBSERVATIONS[0]) is None
    assert process(processed, dry_run=True).planned == ()
    assert plan.missing(archive, processed, EVERYTHING) == ([], [])


@pytest.mark.row(32)
def test_a_mosaic_of_which_some_tiles_are_removed_stays_as_it_is(processed: Settings) -> None:
    """Retention removes an hour's tiles at different times, because they were published at different times."""
    archive = Archive(processed.archive)
    for asset, key in (("tile_image", OBSERVATIONS[0]), ("measurement_set", OBSERVATIONS[1]), ("caltables", NIGHT)):
        product = archive.current(asset, key)
        assert product is not None
        assert retention.remove(archive, product)
    again = process(processed)
    assert (again.ok, again.made) == (True, ())


@pytest.mark.slow
def test_removed_inputs_are_made_again_only_where_needed(processed: Settings) -> None:
    """With other imaging settings, calibrated data are made again for the images, and measurement sets for the calibrated data."""
    archive = take(processed)
    sharper = tiny_settings(processed.inbox, processed.archive.parent, imaging={**processed.imaging.__dict__, "robust": 0.0})
    foreseen = {step.asset for step in process(sharper, dry_run=True).planned}
    report = process(sharper)
    assert report.ok
    # a measurement set made again has the same bytes, so that its night's tables stay: a dry run cannot foresee this
    assert {"measurement_set", "calibrated_ms", "tile_image", "hour_mosaic"} <= made(report) == foreseen - {"caltables"}
    assert not made(report) & {"subband_group", "source_catalog"}
    assert process(sharper).made == ()
    assert {p.version for p in archive.products("tile_image")} == {2}


def test_a_night_mosaic_that_is_to_be_made_needs_the_tiles_of_its_hours(processed: Settings) -> None:
    archive = take(processed)
    night = archive.current("night_mosaic", NIGHT)
    assert night is not None
    archive.reject(night.id, "to be made again")
    for asset in TAKEN:
        product = archive.current(asset, OBSERVATIONS[0], removed=True)
        assert product is not None
        reason = plan.needed_again(archive, processed, product)
        assert reason is not None
        assert f"night_mosaic {NIGHT} is to be made: missing" in reason
    step = plan.next_step(archive, processed, ["subband_group", "measurement_set"], OBSERVATIONS[0])
    assert step is not None
    assert (step.asset, step.reason) == (
        "measurement_set",
        f"its data were removed, and calibrated_ms {OBSERVATIONS[0]} is to be made: its data were removed, and tile_image "
        f"{OBSERVATIONS[0]} is to be made: its data were removed, and night_mosaic {NIGHT} is to be made: missing",
    )
    with pytest.raises(WaitingError, match="night_mosaic 2026-01-25 waits for the data of tile_image"):
        plan.reason_to_make(archive, processed, "night_mosaic", NIGHT)


@pytest.mark.slow
@pytest.mark.row(32)
def test_products_stay_when_their_raw_files_are_deleted(settings: Settings, inbox: Path) -> None:
    assert process(settings).ok
    archive = take(settings)
    for path in inbox.glob("*.hdf5"):
        path.unlink()
    again = process(settings)
    assert (again.failed, again.waiting, again.made) == ((), (), ())
    sharper = tiny_settings(inbox, settings.archive.parent, imaging={**settings.imaging.__dict__, "robust": 0.0})
    again = process(sharper)
    assert (again.failed, again.waiting, again.made) == ((), (), ())

    tile = archive.current("tile_image", OBSERVATIONS[0], removed=True)
    assert tile is not None
    archive.reject(tile.id, "bad")
    with pytest.raises(WaitingError, match=r"waits for the data of calibrated_ms-20260125T2220-v1, which retention has removed"):
        plan.reason_to_make(archive, settings, "tile_image", OBSERVATIONS[0])


@pytest.mark.parametrize(("tags", "again"), [({}, True), ({instances.LANE_TAG: "backfill"}, False)])
def test_removed_products_are_remade_by_hand_but_not_by_a_backfill(processed: Settings, tags: dict[str, str], again: bool) -> None:
    archive = take(processed)
    job = graph.over(Platform(processed)).resolve_implicit_global_asset_job_def()
    with instances.open_instance(processed.dagster_home) as dagster:
        result = job.execute_in_process(
            instance=dagster, partition_key=OBSERVATIONS[0], asset_selection=[dg.AssetKey("measurement_set")], tags=tags
        )
    assert result.success
    assert (archive.current("measurement_set", OBSERVATIONS[0]) is not None) is again
