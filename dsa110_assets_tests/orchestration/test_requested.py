"""Requested mosaics: as good as the hour's; kept, renewed, deleted or refused; never an input of science products."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import dsa110_assets as dsa
from dsa110_assets.archive import backup, integrity, naming, requested
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import main
from dsa110_assets.errors import ConfigurationError, DsaError, NotFoundError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.requested import requested_mosaics, requesting
from dsa110_assets.orchestration.requested.requesting import MosaicSelection
from dsa110_assets.orchestration.running import backfill, instance, trial_runs
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.specification import partitions, spec
from dsa110_assets.settings import Settings
from dsa110_assets.sky import calibrators
from dsa110_assets.telescope import timegrid
from dsa110_assets.tools.photometry import Sources, photometry
from dsa110_assets_tests.orchestration.test_trials import by_hand, science, some_tile

NIGHT, HOUR = "2026-01-25", "2026-01-25T22:00"
SINCE = timegrid.parse_key(HOUR)
ALL = MosaicSelection(since=SINCE, until=SINCE + timegrid.HOUR)


def known_to_dagster(settings: Settings) -> list[str]:
    with instance.open_instance(settings.dagster_home) as dagster:
        return list(dagster.get_dynamic_partitions(str(partitions.REQUESTS.name)))


def mosaic_of(settings: Settings, name: str) -> Any:
    with Archive(settings.archive) as archive:
        found = archive.current(requested.ASSET, naming.named(name))
        assert found is not None
        return found


def fluxes(path: Path, where: list[tuple[float, float]], work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Fitted fluxes and errors [Jy] at these places [deg] in a mosaic."""
    table = work / "positions.csv"
    table.write_text("name,ra_deg,dec_deg\n" + "".join(f"s{n},{ra},{dec}\n" for n, (ra, dec) in enumerate(where)))
    made = photometry([path], work / f"{path.parent.parent.name}.csv", Sources(positions=table), force=True).table
    return made["flux_jy"].to_numpy(), made["flux_err_jy"].to_numpy()


def test_a_mosaic_of_an_hours_tiles_equals_the_hours_mosaic(processed: Settings) -> None:
    request, tiles, made = requested_mosaics.request(processed, "the_hour", ALL, "ann")
    with Archive(processed.archive) as archive:
        hour = archive.current("hour_mosaic", HOUR)
        assert hour is not None
        assert made is not None
        assert (made.id, made.inputs) == ("requested_mosaic-@the_hour-v1", hour.inputs)
        assert [one.id for one in tiles] == list(hour.inputs)
        assert made.path == archive.root / "requested_mosaic" / "name=the_hour" / "v0001"
        for name in ("mosaic.fits", "noise.fits", "weights.fits"):
            np.testing.assert_array_equal(fits.getdata(made.path / name), fits.getdata(hour.path / name))
        of_mosaics = {"same_settings", "noise_map", "overlap", "neighbours", "one_scale"}
        assert made.metadata["checks"].keys() == of_mosaics
        assert {k: hour.metadata["checks"][k] for k in of_mosaics} == made.metadata["checks"]
        assert archive.lineage(made.id).files() == archive.lineage(hour.id).files()
        assert archive.find(made.path / "mosaic.fits").id == made.id
        assert (request.by, made.metadata["requested_by"]) == ("ann", "ann")


def test_a_mosaic_around_a_calibrator_is_centred_with_correct_fluxes(processed: Settings, tiny_run: Path, tmp_path: Path) -> None:
    _, tiles, made = requested_mosaics.request(
        processed, "near", MosaicSelection(calibrator="3C454.3", timespan_min=12, radius_deg=0.9), "ann"
    )
    calibrator = calibrators.find("3C454.3")
    assert [tile.partition for tile in tiles] == ["2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30"]
    assert made is not None
    header = fits.getheader(made.path / "mosaic.fits")
    # the grid's middle pixel is the calibrator, which is the brightest there by far
    assert header["NAXIS1"] == header["NAXIS2"] == 2 * (int(header["CRPIX1"]) - 1) + 1
    centre = WCS(header).celestial.wcs_pix2world(header["CRPIX1"], header["CRPIX2"], 1)
    np.testing.assert_allclose(centre, [calibrator.ra_deg, calibrator.dec_deg], atol=1e-9)
    image = fits.getdata(made.path / "mosaic.fits").squeeze()
    row, column = np.unravel_index(np.nanargmax(image), image.shape)
    assert max(abs(row + 1 - header["CRPIX2"]), abs(column + 1 - header["CRPIX1"])) <= 1

    truth = json.loads((tiny_run / "truth.json").read_text())["sources"]
    near = [
        s
        for s in truth
        if np.hypot((s["ra_deg"] - calibrator.ra_deg) * np.cos(np.deg2rad(calibrator.dec_deg)), s["dec_deg"] - calibrator.dec_deg) < 0.8
    ]
    bright = sorted(near, key=lambda s: -s["flux_jy"])[:4]
    positions = [(s["ra_deg"], s["dec_deg"]) for s in bright]
    with Archive(processed.archive) as archive:
        hour = archive.current("hour_mosaic", HOUR)
        assert hour is not None
        hour_fluxes, errors = fluxes(hour.path, positions, tmp_path)
    made_fluxes, _ = fluxes(made.path, positions, tmp_path)
    # the same tiles on another grid: the resampler is accurate to 0.5 %, and the noise is common to both
    np.testing.assert_allclose(made_fluxes, hour_fluxes, atol=float(errors.max()), rtol=0.005)
    off_hour, off_ours = (np.abs(f - [s["flux_jy"] for s in bright]) for f in (hour_fluxes, made_fluxes))
    assert np.all(off_ours <= off_hour + 0.005 * np.abs(hour_fluxes) + errors)


def test_the_quick_tier_has_coarser_pixels_and_the_same_sky(processed: Settings) -> None:
    tile = some_tile(processed)
    first = requested_mosaics.request(processed, "fine", MosaicSelection(tiles=(tile,)), "ann")[2]
    second = (
        requested_mosaics.request(processed, "quick", MosaicSelection(tiles=(f"{first.inputs[0]}",), tier="quick"), "ann")[2]
        if first
        else None
    )
    assert first is not None
    assert second is not None
    pixels = [abs(fits.getheader(one.path / "mosaic.fits")["CDELT1"]) * 3600 for one in (first, second)]
    assert pixels[1] == pytest.approx(first.metadata["beam_minor_arcsec"] / 3)
    assert pixels[1] > pixels[0]
    # with three pixels per beam a peak between pixels is at most 15 % low, and high only by noise
    assert 0.85 < second.metadata["peak_jy"] / first.metadata["peak_jy"] < 1.02


@pytest.mark.slow
def test_a_request_survives_the_loss_of_index_and_dagster(processed: Settings, tmp_path: Path) -> None:
    before = science(processed)
    requested_mosaics.request(processed, "week", ALL, "ann")
    assert process(processed).made == ()
    made = mosaic_of(processed, "week")
    assert processed.dagster_home is not None
    shutil.rmtree(processed.dagster_home)
    found = integrity.reindex(processed.archive)
    assert not found.refused
    assert mosaic_of(processed, "week") == made
    with Archive(processed.archive) as archive:
        saved = backup.backup(archive, tmp_path / "backups", keep=1)
        assert (saved.path / "files" / "requested_mosaic" / "name=week" / requested.FILE).is_file()
        archive.reject(made.inputs[0], "to be made again")
    planned = {(step.asset, step.partition) for step in process(processed, dry_run=True).planned}
    assert {("tile_image", naming.parse_id(made.inputs[0]).partition), ("requested_mosaic", "@week")} <= planned
    report = process(processed)
    assert report.ok
    assert known_to_dagster(processed) == ["@week"]
    renewed = mosaic_of(processed, "week")
    assert (renewed.version, renewed.inputs != made.inputs) == (2, True)
    with instance.open_instance(processed.dagster_home) as dagster:
        assert dagster.get_materialized_partitions(dg.AssetKey("requested_mosaic")) == {"@week"}
    # nothing of science is made from it
    with Archive(processed.archive) as archive:
        assert archive.dependents(made.id) == archive.dependents(renewed.id) == []
        assert {p.id for p in archive.products(state=None)} - {made.id, renewed.id} >= before["products"].keys()
    assert not [asset.name for asset in spec.assets().values() if requested.ASSET in asset.inputs]


def test_the_planner_requests_a_mosaic_once_its_tiles_are_made(processed: Settings) -> None:
    from dsa110_assets.orchestration.planning import planner

    with Archive(processed.archive) as archive:
        requested.keep(archive, requesting.resolve(archive, "live", ALL, "ann"))
        span = plan.Span(SINCE, SINCE + timegrid.NIGHT)
        (step,) = [one for one in plan.missing(archive, processed, span)[0] if one.asset == "requested_mosaic"]
        assert (step.partition, step.reason, step.of) == ("@live", plan.MISSING, plan.Span(ALL.since, ALL.until))
        other = plan.Span(SINCE + timegrid.NIGHT, None)
        assert not [one for one in plan.missing(archive, processed, other)[0] if one.asset == "requested_mosaic"]
        end = SINCE + timegrid.HOUR
        assert planner.ready([step], {}, set(), end + planner.LATE) == [step]
        assert planner.ready([step], {}, set(), end + planner.LATE - timedelta(seconds=1)) == []
        assert planner.ready([step], {}, {("tile_image", some_tile(processed))}, end + planner.LATE) == []
        assert planner.ready([step], {}, {("tile_image", "2026-01-25T21:55")}, end + planner.LATE) == [step]
        assert not planner.still_open(NIGHT, planner.Examined(), {("requested_mosaic", "@live")})


def test_a_deleted_mosaic_leaves_no_data_and_can_be_requested_again(processed: Settings) -> None:
    requested_mosaics.request(processed, "brief", ALL, "ann")
    made = mosaic_of(processed, "brief")
    with Archive(processed.archive) as archive, archive.hold(made.id), pytest.raises(ConfigurationError, match="is being read"):
        requested_mosaics.delete(processed, "brief")
    assert [one.id for one in requested_mosaics.delete(processed, "brief")] == [made.id]
    place = processed.archive / "requested_mosaic" / "name=brief"
    assert [path.name for path in place.iterdir() if path.name != ".lock"] == ["v0001.state.json"]  # the record of the deleted product
    assert known_to_dagster(processed) == []
    with Archive(processed.archive) as archive:
        assert requested.requests(archive) == []
        assert archive.products(requested.ASSET) == []
    assert process(processed).made == ()
    with pytest.raises(NotFoundError, match=r"no mosaic 'brief' was requested; there is none yet"):
        requested_mosaics.delete(processed, "brief")
    assert requested_mosaics.request(processed, "brief", ALL, "ann")[2] == mosaic_of(processed, "brief")
    assert mosaic_of(processed, "brief").version == 2


@pytest.mark.parametrize(
    ("name", "selection", "words"),
    [
        ("Virgo", ALL, "'Virgo' is not a valid name of a requested mosaic: use up to 31 lower-case letters"),
        ("../x", ALL, "is not a valid name of a requested mosaic"),
        ("x", MosaicSelection(), "given is none"),
        ("x", MosaicSelection(since=SINCE), "give both since and until"),
        ("x", MosaicSelection(since=SINCE, until=SINCE), "until 2026-01-25T22:00 is not after since 2026-01-25T22:00"),
        ("x", MosaicSelection(since=SINCE, until=SINCE + timegrid.HOUR, tiles=("2026-01-25T22:20",)), "given is a time and tiles"),
        ("x", MosaicSelection(tiles=("2026-01-25T23:20",)), "no tile_image 2026-01-25T23:20: there is none that may be used"),
        ("x", MosaicSelection(tiles=("hour_mosaic-20260125T2200-v1",)), "hour_mosaic-20260125T2200-v1 is no tile_image of science"),
        ("x", MosaicSelection(calibrator="3C0"), "'3C0'"),
        ("x", MosaicSelection(calibrator="3C286"), "within 1 deg of 202.7845,+30.5092 (1331+305), science: tiles are of"),
        ("x", MosaicSelection(calibrator="3C454.3", centre_deg=(1.0, 2.0)), "is centred on it; leave the centre"),
        (
            "x",
            MosaicSelection(since=SINCE, until=SINCE + timegrid.HOUR, centre_deg=(10.0, 95.0)),
            r"the centre (10.0, 95.0) is outside the sky",
        ),
        ("x", MosaicSelection(since=SINCE, until=SINCE + timegrid.HOUR, centre_deg=(10.0, 16.0)), "within 1 deg of 10.0000,+16.0000"),
        ("x", MosaicSelection(calibrator="3C454.3", radius_deg=0.0), "the radius 0 deg is not in 0 to 30 deg"),
        ("x", MosaicSelection(calibrator="3C454.3", timespan_min=-1.0), "the timespan -1 min is not in 0 to 1440 min"),
        (
            "x",
            MosaicSelection(since=SINCE + timegrid.NIGHT, until=SINCE + 2 * timegrid.NIGHT),
            "tiles are of 2026-01-25T22:20 to 2026-01-25T22:30",
        ),
    ],
)
def test_a_bad_request_is_refused_in_a_sentence_and_leaves_nothing(
    processed: Settings, name: str, selection: MosaicSelection, words: str
) -> None:
    with pytest.raises(DsaError) as refused:
        requested_mosaics.request(processed, name, selection, "ann")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (processed.archive / "requested_mosaic").exists()


def test_a_name_belongs_to_one_request(processed: Settings) -> None:
    tile = some_tile(processed)
    first = requested_mosaics.request(processed, "mine", MosaicSelection(tiles=(tile,)), "ann")
    again = requested_mosaics.request(processed, "mine", MosaicSelection(tiles=(tile,)), "bob")
    assert (again[0], again[2]) == (first[0], first[2])  # up to date, and still the request of ann
    with pytest.raises(ConfigurationError, match=r"the requested mosaic mine is of 1 tiles, science; choose another name for"):
        requested_mosaics.request(processed, "mine", ALL, "bob")


def test_mosaics_and_their_trials_are_requested_on_the_launchpad(processed: Settings) -> None:
    with instance.open_instance(processed.dagster_home) as dagster:
        partitions.tell(dagster, "@from_web", "@unknown", "from_web")
    config_of_request = {"request": {"since": HOUR, "until": "2026-01-25T23:00", "by": "ann"}}
    assert by_hand(processed, requested.ASSET, "@from_web", config_of_request).success
    made = mosaic_of(processed, "from_web")
    assert by_hand(processed, requested.ASSET, "@from_web", {}).success  # made again, as the button says
    assert mosaic_of(processed, "from_web").version == made.version + 1
    assert by_hand(processed, requested.ASSET, "@from_web", {"trial": "coarse", "coadd": {"pixel_arcsec": 60.0}}).success
    assert mosaic_of(processed, "from_web").version == made.version + 1
    found = requested_by(processed)
    assert found == {"from_web": "ann"}
    for partition, config, message in (
        ("@unknown", {}, "no mosaic 'unknown' was requested; there is from_web"),
        ("@unknown", {"request": {"since": "noon", "until": "2026-01-25T23:00"}}, "since='noon' is no time"),
        ("@unknown", {"request": {"calibrator": "3C454.3", "centre_deg": [1.0]}}, "centre_deg=[1.0]: write right ascension"),
        ("@from_web", {"request": {"since": HOUR, "until": "2026-01-25T22:30"}}, "choose another name"),
    ):
        done = by_hand(processed, requested.ASSET, partition, config)
        (failure,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
        assert failure.user_failure_data is not None
        assert message in str(failure.user_failure_data.description)
    assert requested_by(processed) == found


def requested_by(settings: Settings) -> dict[str, str]:
    with Archive(settings.archive) as archive:
        return {one.name: one.by for one in requested.requests(archive)}


def test_the_shell_and_python_make_list_show_and_delete(
    processed: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("DSA110_INBOX", processed.inbox), ("DSA110_ARCHIVE", processed.archive), ("DAGSTER_HOME", processed.dagster_home)):
        monkeypatch.setenv(name, str(value))
    batch = ["--calibrator", "3C454.3", "--calibrator", "3C286", "--at", "2026-01-26", "--timespan", "20", "--by", "ann"]
    assert main(["requested", "make", "std", *batch, "--dry-run", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)[0]["tiles"]) == 3
    assert not (processed.archive / "requested_mosaic").exists()
    assert main(["requested", "make", "std", *batch, "--json"]) == 1  # 3C286 was not seen that night; the other one is made
    captured = capsys.readouterr()
    (made,) = json.loads(captured.out)
    assert made["product"]["id"] == "requested_mosaic-@std_3c454_3-v1"
    assert "1 made; not made: std_3c286: no usable tile_image" in captured.err
    assert main(["requested", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["request"]["name"], row["request"]["by"]) == ("std_3c454_3", "ann")
    assert main(["requested", "show", "std_3c454_3"]) == 0
    assert "std_3c454_3" in capsys.readouterr().out
    assert main(["products", "--asset", "requested_mosaic", "--json"]) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == [made["product"]["id"]]
    assert main(["products", "--since", "2026-01-01", "--json"]) == 0
    assert "@" not in {one["id"][:1] for one in json.loads(capsys.readouterr().out)}
    archive = dsa.open_archive(processed.archive)
    image = archive.requested_mosaic("std_3c454_3")
    assert (image.product_id, image.noise is not None) == (made["product"]["id"], True)
    assert list(archive.requested_mosaics()["product_id"]) == [image.product_id]
    with pytest.raises(NotFoundError, match=r"no mosaic 'other' was requested; there is std_3c454_3"):
        archive.requested_mosaic("other")
    assert main(["requested", "delete", "std_3c454_3"]) == 0
    capsys.readouterr()
    assert main(["requested", "show", "std_3c454_3"]) == 1
    assert "was requested; there is none yet" in capsys.readouterr().err


def test_a_time_selects_between_two_transits_of_one_day(processed: Settings) -> None:
    """A calibrator that transits just after midnight transits again just before the end of the day: `at` chooses the transit."""
    with Archive(processed.archive) as archive:
        day = timegrid.parse_key("2026-03-01")
        calibrator = calibrators.find(_just_after(day))
        early, late = (
            requesting._when(archive, MosaicSelection(calibrator=calibrator.name, at=day + timedelta(hours=hour), timespan_min=2))
            for hour in (1, 23)
        )
        middles = [since + (until - since) / 2 + timedelta(seconds=timegrid.GROUP_S / 2) for since, until in (early, late)]
        assert [f"{middle:%Y-%m-%d}" for middle in middles] == ["2026-03-01", "2026-03-01"]
        sidereal_s = 86400 / timegrid.SIDEREAL_RATIO
        assert (middles[1] - middles[0]).total_seconds() == pytest.approx(sidereal_s, abs=1.0)


MOST_D = 1 - 1 / timegrid.SIDEREAL_RATIO
"""The difference of a UTC day and a sidereal day [d]."""


def _just_after(day: Any) -> str:
    """A calibrator that transits at the beginning of a UTC day and therefore again at its end."""
    from dsa110_assets.calibration.transits import transits

    start = timegrid.datetime_to_mjd(day)
    found = [t for dec in range(-20, 80, 10) for t in transits(calibrators.load(), start, start + MOST_D, dec, max_dec_offset_deg=6)]
    return found[0].calibrator.name


def test_backfills_and_trials_by_window_refuse_requested_mosaics(processed: Settings) -> None:
    with pytest.raises(ConfigurationError, match="--asset requested_mosaic: has no nights"):
        backfill.backfill(processed, NIGHT, NIGHT, requested.ASSET, dry_run=True)
    with pytest.raises(ConfigurationError, match="its trial is made by itself: --asset requested_mosaic"):
        trial_runs.make(processed, "t", {"imaging.robust": 0.0}, "tile_image", requested.ASSET)


def test_paths_and_ids_of_requested_mosaics_are_parsed() -> None:
    for text in ("requested_mosaic-@virgo_2026-v1", "requested_mosaic~t1-@a-v12"):
        name = naming.parse_id(text)
        assert (name.id, naming.parse_directory(name.directory)) == (text, name)
        assert naming.parse_family(name.directory.parent) == (name.asset, name.partition)
    for wrong in ("requested_mosaic-@-v1", "requested_mosaic-@Virgo-v1", "requested_mosaic-@_x-v1", f"requested_mosaic-@{'x' * 32}-v1"):
        with pytest.raises(NotFoundError):
            naming.parse_id(wrong)
    assert graph.specifications()[requested.ASSET].grain == "request"
