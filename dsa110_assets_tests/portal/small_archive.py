"""A small archive of two nights, published through `Archive.publish` with real files of known content.

Positions, fluxes and times are chosen here, so tests compare what comes out with what went in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS

from dsa110_assets.archive import caltable_registry, quarantine
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.imaging.fits import write_image
from dsa110_assets.imaging.preview import preview_png
from dsa110_assets.mosaics import sky_tiles
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.telescope import timegrid
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.photometry.nightly import stored

NIGHTS = ("2026-01-25", "2026-01-26")
OBSERVATIONS = ("T22:05", "T22:10")
HOUR = "T22:00"
RA_DEG, DEC_DEG, PIXEL_DEG, SIDE = 40.0, 16.27, 0.01, 64
RMS_JY, PEAK_JY, FLAGGED, FLAGGED_CALIBRATED = 0.002, 0.5, 0.1, 0.12
BEAM_DEG = (0.03, 0.02, 30.0)
SOURCES = {"NVSS J024000+161612": (40.0, 16.27, 0.5), "NVSS J024100+162000": (40.25, 16.3333, 0.1)}
FAINT = "NVSS J024100+162000"
SETTINGS: dict[str, Any] = {"imaging": {"robust": 0.5}}


@dataclass(frozen=True)
class SmallArchive:
    """The archive's root, its inbox, and its products by id."""

    root: Path
    inbox: Path
    products: dict[str, Product]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which commands find the archive."""
        return {"DSA110_ARCHIVE": str(self.root), "DSA110_INBOX": str(self.inbox)}


def build(directory: Path, url: str | None = None) -> SmallArchive:
    """Make the archive and its inbox below `directory`, with its index in the database `url` or in SQLite."""
    inbox, root = directory / "inbox", directory / "archive"
    inbox.mkdir()
    made: dict[str, Product] = {}
    with Archive.create(root, url) as archive:
        publisher = _Publisher(archive, made)
        catalogue = publisher.table("source_catalog", None, (), _catalogue())
        past: tuple[Product, ...] = ()
        for night in NIGHTS:
            hour = _observations(publisher, inbox, night)
            measured = publisher.table("source_measurements", night + HOUR, (hour, catalogue), _points(night))
            curves = publisher.light_curves(night, (*past, measured), _points(night))
            past = (curves,)
            publisher.table("variability", night, (curves,), _candidates())
            _report(publisher, night, curves)
        broken = inbox / "2026-01-26T23:00:00_sb00.hdf5"
        broken.write_bytes(b"")
        quarantine.quarantine(archive, broken, "the file is empty", None)
    return SmallArchive(root, inbox, made)


@dataclass
class _Publisher:
    archive: Archive
    made: dict[str, Product]

    def publish(self, asset: str, partition: str | None, inputs: Any, write: Any, **metadata: Any) -> Product:
        with self.archive.publish(
            asset, partition, [product.id for product in inputs], settings=SETTINGS, code_version="1",
            run_id="test", engines={"numpy": np.__version__},
        ) as draft:  # fmt: skip
            draft.metadata.update(metadata)
            write(draft)
        self.made[draft.product.id] = draft.product
        return draft.product

    def table(self, asset: str, partition: str | None, inputs: Any, frame: pd.DataFrame) -> Product:
        def write(draft: Any) -> None:
            frame.to_parquet(draft.path / f"{asset}.parquet", index=False)

        return self.publish(asset, partition, inputs, write, n_rows=len(frame))

    def light_curves(self, night: str, inputs: Any, frame: pd.DataFrame) -> Product:
        return self.publish("light_curves", night, inputs, lambda draft: stored(frame, draft.path), n_rows=len(frame))


def light_curves_again(archive: Archive, night: str) -> Product:
    """Publish a night's light curves again, as a new version with other fluxes."""
    frame = _points(night).assign(flux_jy=0.2)
    (before,) = [product for product in archive.products("light_curves") if product.partition == night]
    inputs = [archive.find(one) for one in before.inputs]
    return _Publisher(archive, {}).light_curves(night, inputs, frame)


def _observations(publisher: _Publisher, inbox: Path, night: str) -> Product:
    tiles, tables = [], None
    for suffix in OBSERVATIONS:
        key = night + suffix
        group = publisher.publish("subband_group", key, (), _manifest(inbox, key), pointing_dec_deg=DEC_DEG)
        ms = publisher.publish("measurement_set", key, (group,), _directory("measurement_set.ms"), flag_fraction=FLAGGED)
        if tables is None:
            tables = publisher.publish("caltables", night, (ms,), _tables(key))
        calibrated = publisher.publish(
            "calibrated_ms",
            key,
            (ms, tables),
            _directory("calibrated.ms"),
            caltable_set=f"{tables.id}/3C138",
            flag_fraction_calibrated=FLAGGED_CALIBRATED,
            **_span(key),
        )
        of_tile = {"rms_jy": RMS_JY, "pointing_dec_deg": DEC_DEG, "field_deg": 4.0, **_span(key)}
        tiles.append(publisher.publish("tile_image", key, (calibrated,), _image("image.fits"), **of_tile))
    return publisher.publish("hour_mosaic", night + HOUR, tiles, _image("mosaic.fits"))


def _span(key: str) -> dict[str, float]:
    """Start and end of an observation [MJD]."""
    start = timegrid.datetime_to_mjd(timegrid.parse_key(key))
    return {"mjd_start": start, "mjd_end": start + timegrid.GROUP_S / 86400}


def _manifest(inbox: Path, key: str) -> Any:
    def write(draft: Any) -> None:
        entries = []
        for subband in range(2):
            path = inbox / f"{key}:00_sb{subband:02d}.hdf5"
            path.write_bytes(f"{key} {subband}".encode())
            entries.append({"path": str(path), "size_bytes": path.stat().st_size, "digest": f"{subband:032x}",
                            "subband": subband})  # fmt: skip
        (draft.path / "manifest.json").write_text(json.dumps({"files": entries}))

    return write


def _directory(name: str) -> Any:
    def write(draft: Any) -> None:
        (draft.path / name).mkdir()
        (draft.path / name / "table.dat").write_bytes(b"casacore")

    return write


def later_transit(small: SmallArchive) -> str:
    """Publish tables of a transit 6 h after the last observation, which is 6 h 5 min after the transit before it; return their set id."""
    with Archive(small.root) as archive:
        publisher = _Publisher(archive, small.products)
        tables = publisher.publish("caltables", "2026-01-27", (), _tables(NIGHTS[-1] + OBSERVATIONS[-1], 0.25))
    return f"{tables.id}/3C138"


def failed_check(small: SmallArchive, key: str = NIGHTS[-1] + OBSERVATIONS[0]) -> str:
    """Publish a tile nine times as noisy as the radiometer, which fails a check of severity ERROR but is not held; return its id."""
    figures = {"rms_jy": 9 * RMS_JY, "rms_over_radiometer": 8.8, "n_bright": 0, **_span(key)}
    judged = rules.to_metadata(rules.judge("tile_image", figures, Thresholds()))

    with Archive(small.root) as archive:
        calibrated = archive.current("calibrated_ms", key)
        publisher = _Publisher(archive, small.products)
        return publisher.publish("tile_image", key, (calibrated,), _image("image.fits"), **figures, **judged).id


def sky_of(small: SmallArchive, night: str = NIGHTS[0]) -> str:
    """Publish the night's mosaic with HiPS and coverage, and return its product id."""

    def write(draft: Any) -> None:
        _image("mosaic.fits")(draft)
        draft.metadata.update(sky_tiles.write_sky_tiles(draft.path / "mosaic.fits", draft.path, f"continuum/{night}"))

    with Archive(small.root) as archive:
        hour = archive.current("hour_mosaic", night + HOUR)
        return _Publisher(archive, small.products).publish("night_mosaic", night, (hour,), write, rms_jy=RMS_JY).id


def _tables(key: str, after_d: float = -0.25) -> Any:
    def write(draft: Any) -> None:
        mjd = timegrid.datetime_to_mjd(timegrid.parse_key(key)) + after_d
        (draft.path / "3C138.B").mkdir()
        (draft.path / "3C138.B" / "table.dat").write_bytes(b"casacore")
        caltable_registry.register(
            draft, "3C138", [draft.path / "3C138.B"], mid_mjd=mjd, valid_start_mjd=mjd - 0.5,
            valid_end_mjd=mjd + 0.5, dec_deg=DEC_DEG, antennas=["1", "2"], calibrator="0521+166",
            anchor="PB17:3C138", figures={"snr": 120.0},
        )  # fmt: skip

    return write


def header() -> fits.Header:
    """Header of a SIN projection centred on the first source, with a beam."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval, wcs.wcs.crpix = [RA_DEG, DEC_DEG], [SIDE / 2 + 1, SIDE / 2 + 1]
    wcs.wcs.cdelt = [-PIXEL_DEG, PIXEL_DEG]
    made = wcs.to_header()
    made["BMAJ"], made["BMIN"], made["BPA"] = BEAM_DEG
    made["BUNIT"] = "Jy/beam"
    return made


def pixels() -> np.ndarray:
    """An image with a point of PEAK_JY at the reference pixel on noise of RMS_JY, and one blank corner."""
    image = np.random.default_rng(110).normal(0, RMS_JY, (SIDE, SIDE)).astype(np.float32)
    image[SIDE // 2, SIDE // 2] = PEAK_JY
    image[:4, :4] = np.nan
    return image


def _image(name: str) -> Any:
    def write(draft: Any) -> None:
        image = pixels()
        write_image(image, header(), draft.path / name)
        companion = "image-pb.fits" if name == "image.fits" else "noise.fits"
        other = image * 2 if name == "image.fits" else np.full_like(image, RMS_JY)
        write_image(other, header(), draft.path / companion)
        preview_png(image, draft.path / "preview.png")

    return write


def _catalogue() -> pd.DataFrame:
    rows = [{"source_id": name, "ra_deg": ra, "dec_deg": dec, "flux_jy": flux} for name, (ra, dec, flux) in SOURCES.items()]
    return pd.DataFrame(rows)


def _points(night: str) -> pd.DataFrame:
    """Two points of each source; the faint source is not detected in the second."""
    rows = []
    for number, suffix in enumerate(OBSERVATIONS):
        mjd = timegrid.datetime_to_mjd(timegrid.parse_key(night + suffix))
        for name, (ra, dec, flux) in SOURCES.items():
            detected = not (name == FAINT and number)
            rows.append({
                "source_id": name, "ra_deg": ra, "dec_deg": dec, "epoch": night + suffix, "mjd": mjd,
                "flux_jy": flux if detected else 0.001, "flux_err_jy": RMS_JY, "raw_flux_jy": 1.02 * flux,
                "raw_flux_err_jy": RMS_JY, "rms_jy": RMS_JY,
                "limit_jy": np.nan if detected else 5 * RMS_JY,
                "detected": detected, "correction": 1.02, "correction_err": 0.001, "n_references": 12,
                "quality": 0, "mosaic_id": f"hour_mosaic-{night.replace('-', '')}T2200-v1",
            })  # fmt: skip
    return pd.DataFrame(rows)


def _candidates() -> pd.DataFrame:
    rows = []
    for (name, (ra, dec, flux)), q_value in zip(SOURCES.items(), (0.4, 1e-6), strict=True):
        rows.append({
            "source_id": name, "ra_deg": ra, "dec_deg": dec, "n_epochs": 4, "mean_flux_jy": flux, "eta": 40.0,
            "v": 0.6, "vs_max": 8.0, "m_max": 1.2, "p_eta": q_value, "p_pair": q_value, "q_value": q_value,
            "kind": "flare" if q_value < 0.01 else "", "first_mjd": 61065.9, "last_mjd": 61066.9,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _report(publisher: _Publisher, night: str, curves: Product) -> None:
    def write(draft: Any) -> None:
        (draft.path / "report.html").write_text(f"<!doctype html><title>{night}</title><h1>Night {night}</h1>")

    publisher.publish("night_report", night, (curves,), write)
