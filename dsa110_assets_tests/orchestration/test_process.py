"""`process` makes everything, makes nothing in a second run, and confines a fault to its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from astropy.io import fits

from dsa110_assets.archive import caltable_registry, quarantine, stale
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running.process import ProcessReport, process
from dsa110_assets.settings import Settings
from dsa110_assets_tests.tiny import SUBBANDS, cut_short, regular_assets, tiny_settings

OBSERVATIONS = ["2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30"]
EARLY = {"source_catalog", "calibrator_catalog", "sky_model", "subband_group", "measurement_set"}
AFTER_CALIBRATION = {
    "calibrated_ms", "tile_image", "hour_mosaic", "source_measurements", "night_mosaic", "light_curves",
    "variability", "night_report",
}  # fmt: skip


def made(report: ProcessReport) -> set[tuple[str, str | None]]:
    return {(one.asset, one.partition) for one in report.made}


def contents(archive: Archive) -> dict[tuple[str, str | None], tuple[int, tuple[str, ...]]]:
    """Version and inputs of every current product, by asset and partition."""
    return {(p.asset, p.partition): (p.version, p.inputs) for p in archive.products()}


def test_everything_is_made_and_dagster_knows_it(finished_run: tuple[Settings, ProcessReport]) -> None:
    settings, report = finished_run
    assert (report.failed, report.waiting, report.quarantined) == ((), (), ())
    assert {asset for asset, _ in made(report)} == regular_assets()
    assert [key for asset, key in sorted(made(report), key=str) if asset == "tile_image"] == OBSERVATIONS
    with instances.open_instance(settings.dagster_home) as dagster:
        assert dagster.get_materialized_partitions(dg.AssetKey("tile_image")) == set(OBSERVATIONS)
        event = dagster.get_latest_materialization_event(dg.AssetKey("tile_image"))
        assert event is not None
        assert event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
        assert {"rms_jy", "seconds", "caltable_age_h", "path", "inputs", "preview", "product"} <= set(metadata)
        assert float(metadata["rms_jy"].value) > 0  # type: ignore[arg-type]


def test_fits_headers_say_where_an_image_is_from(finished_run: tuple[Settings, ProcessReport]) -> None:
    """A file taken out of the archive still names its product, inputs, run and flux scale."""
    archive = Archive(finished_run[0].archive)
    for asset, name in (("tile_image", "image.fits"), ("hour_mosaic", "mosaic.fits"), ("night_mosaic", "weights.fits")):
        product = archive.products(asset)[0]
        header = fits.getheader(product.path / name)
        assert product.id.startswith(f"{header['PRODUCT']}-v")
        assert (header["RUNID"], header["CODEVER"], header["ANCHOR"]) == (product.run_id, product.code_version, "VLA:2253+161")
        assert tuple(header["INPUT*"].values()) == product.inputs


def test_a_second_run_makes_nothing(processed: Settings) -> None:
    archive = Archive(processed.archive)
    before = contents(archive)
    again = process(processed)
    assert again.ok
    assert again.made == ()
    assert again.up_to_date == len(before)
    assert contents(archive) == before


def test_lineage_reaches_the_subband_files(processed: Settings, tiny_run: Path) -> None:
    archive = Archive(processed.archive)
    variability = archive.current("variability", "2026-01-25")
    assert variability is not None
    leaves = archive.lineage(variability.id).files()
    assert {Path(leaf.path) for leaf in leaves} == set(tiny_run.glob("*.hdf5"))
    assert all(leaf.digest for leaf in leaves)


def test_a_dry_run_predicts_what_is_made_and_changes_nothing(settings: Settings, finished_run: tuple[Settings, ProcessReport]) -> None:
    foreseen = process(settings, dry_run=True)
    assert {(step.asset, step.partition) for step in foreseen.planned} == made(finished_run[1])
    assert not settings.archive.exists()


def test_through_and_since_limit_the_work(settings: Settings) -> None:
    from datetime import UTC, datetime

    report = process(settings, since=datetime(2026, 1, 25, 22, 30, tzinfo=UTC), through="measurement_set")
    observed = {key for asset, key in made(report) if asset == "measurement_set"}
    assert observed == {"2026-01-25T22:30"}
    assert not {asset for asset, _ in made(report)} & AFTER_CALIBRATION


@pytest.mark.slow
def test_a_rejected_table_makes_only_its_dependents_stale(processed: Settings) -> None:
    archive = Archive(processed.archive)
    before = contents(archive)
    (only,) = caltable_registry.sets(archive, "active")
    caltable_registry.reject(archive, only.set_id, "swapped antennas")
    assert {one.product.asset for one in stale.stale(archive)} == AFTER_CALIBRATION

    waiting = process(processed)
    assert not waiting.ok  # there are no other tables: the observations visibly wait, and nothing wrong is made
    assert {item.what for item in waiting.waiting} == {f"calibrated_ms {key}" for key in OBSERVATIONS}
    assert not {asset for asset, _ in made(waiting)} & {"caltables", "calibrated_ms", "tile_image"}

    caltable_registry.restore(archive, only.set_id)
    solved_again = tiny_settings(processed.inbox, processed.archive.parent, solve={"gain_solint_s": 120.0})
    report = process(solved_again)
    assert report.ok
    assert {asset for asset, _ in made(report)} == AFTER_CALIBRATION | {"caltables"}
    after = contents(archive)
    assert {k for k in before if after[k] == before[k]} == {k for k in before if k[0] not in AFTER_CALIBRATION | {"caltables"}}
    assert stale.stale(archive) == []


@pytest.mark.slow
def test_a_truncated_group_is_put_aside_and_the_others_are_made(settings: Settings, inbox: Path) -> None:
    """Two of four subbands of the first group are cut short: two are left, three are needed."""
    broken = sorted(inbox.glob("2026-01-25T22:20*"))[:2]
    assert len(broken) == 2
    for path in broken:
        cut_short(path, 1000)
    report = process(settings, through="tile_image")
    assert report.failed == ()
    assert {key for asset, key in made(report) if asset == "tile_image"} == set(OBSERVATIONS[1:])
    archive = Archive(settings.archive)
    records = quarantine.quarantined(archive)
    assert set(broken) <= {path for one in records for path in one.paths}
    assert all(one.reason for one in records)
    assert len(report.quarantined) == 3  # two files, and the group, which has too few left
    again = process(settings, through="tile_image")
    assert (again.quarantined, again.made) == ((), ())


def test_a_late_subband_makes_a_new_version_and_its_dependents(settings: Settings, inbox: Path, tmp_path: Path) -> None:
    late = min(inbox.glob("2026-01-25T22:30*_sb03.hdf5"))
    aside = tmp_path / late.name
    late.rename(aside)
    first = process(settings, through="measurement_set")
    assert ("measurement_set", "2026-01-25T22:30") in made(first)
    archive = Archive(settings.archive)
    partial = archive.current("subband_group", "2026-01-25T22:30")
    assert partial is not None
    assert partial.metadata["n_subbands"] == SUBBANDS - 1
    aside.rename(late)
    second = process(settings, through="measurement_set")
    assert made(second) == {("subband_group", "2026-01-25T22:30"), ("measurement_set", "2026-01-25T22:30")}
    complete = archive.current("subband_group", "2026-01-25T22:30")
    assert complete is not None
    assert (complete.version, complete.metadata["n_subbands"]) == (2, SUBBANDS)


KILLS = [
    ("subband_group/indexed", "measurement_set"),
    ("measurement_set/renamed", "measurement_set"),
    ("caltables/written", "caltables"),
    ("tile_image/indexed", "tile_image"),
    ("light_curves/sealed", "night_report"),
]


@pytest.mark.parametrize(("point", "through"), KILLS)
def test_a_run_killed_anywhere_is_completed_by_a_second_run(
    point: str, through: str, request: pytest.FixtureRequest, finished_run: tuple[Settings, ProcessReport]
) -> None:
    """SIGKILL at a named point of publishing, in a separate process; then a second, undisturbed run.

    To be quick, the later points start from a finished archive in which only that product was rejected.
    """
    asset = point.partition("/")[0]
    early = through == "measurement_set"
    settings: Settings = request.getfixturevalue("settings" if early else "processed")
    if not early:
        rejected = Archive(settings.archive).products(asset)[0]
        Archive(settings.archive).reject(rejected.id, "to be made again")
    script = (
        "import sys; from pathlib import Path; "
        "from dsa110_assets_tests.tiny import tiny_settings; "
        "from dsa110_assets.orchestration.running.process import process; "
        "process(tiny_settings(Path(sys.argv[1]), Path(sys.argv[2])), through=sys.argv[3])"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(settings.inbox), str(settings.archive.parent), through]
    root = str(Path(__file__).parents[2])
    killed = subprocess.run(command, env={**os.environ, "DSA110_CRASH_AT": point}, cwd=root, capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert process(settings, through=through).ok
    archive = Archive(settings.archive)
    expected = {k for k in contents(Archive(finished_run[0].archive)) if not early or k[0] in EARLY}
    assert set(contents(archive)) == expected
    assert all(archive.verify(product) == [] for product in archive.products(asset))
    assert process(settings, through=through).made == ()
    with instances.open_instance(settings.dagster_home) as dagster:
        unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
        assert dagster.get_runs(filters=unfinished) == []
        for name, key in expected:
            event = dagster.get_latest_materialization_event(dg.AssetKey(name))
            assert event is not None
            assert key is None or key in dagster.get_materialized_partitions(dg.AssetKey(name))


def test_a_background_process_ends_on_sigterm(settings: Settings) -> None:
    """A shell starts background jobs with SIGINT ignored, and Dagster then gives SIGTERM the same handler as SIGINT."""
    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert process(settings, through="source_catalog").made
        assert signal.getsignal(signal.SIGTERM) == before[0]
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_two_at_once_are_refused_with_one_sentence(processed: Settings) -> None:
    import fcntl

    with (processed.archive / ".process.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="already runs on"):
            process(processed)


def test_a_wrong_inbox_or_asset_is_refused_in_one_sentence(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"DSA110_INBOX=.*no such directory"):
        process(tiny_settings(tmp_path / "nowhere", tmp_path))
    with pytest.raises(ConfigurationError, match="no such asset"):
        process(settings, through="tiles")
