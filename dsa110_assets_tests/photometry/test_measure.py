"""From one mosaic on disk to rows: known, new, undetected, missing; the same names the next night."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from dsa110_assets.errors import BadDataError, NotFoundError
from dsa110_assets.photometry.measure import (
    MEASUREMENT_COLUMNS,
    catalogue_flux_jy,
    frequency_hz,
    measure_mosaic,
)
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality

OPTIONS = PhotometryOptions()


@pytest.fixture
def night(make_sky, tmp_path):
    """Writes a mosaic of a field across 0 h: 12 catalogue sources, one of them absent, two unknown ones."""
    sky = make_sky((512, 512), ra_deg=0.0)
    x, y = (a.ravel().astype(float) for a in np.meshgrid(60 + 120 * np.arange(4), 80 + 150 * np.arange(3)))
    new_x, new_y, new_flux = np.array([250.4, 119.7]), np.array([151.8, 300.2]), np.array([0.06, 0.03])

    def write(seed):
        image = sky.correlated_noise(np.random.default_rng(seed), 1e-3)
        for k, place in enumerate(zip(x, y, strict=True)):
            sky.add(image, *place, 0.0 if k == 3 else 0.05)
        for place in zip(new_x, new_y, new_flux, strict=True):
            sky.add(image, *place)
        image[:, :30] = np.nan
        header = sky.header
        header["RESTFRQ"], header["NTILES"] = 1.405e9, 3
        paths = tmp_path / f"mosaic{seed}.fits", tmp_path / f"noise{seed}.fits"
        fits.writeto(paths[0], image.astype(np.float32)[None, None], header)
        fits.writeto(paths[1], np.where(np.isfinite(image), 1e-3, np.nan).astype(np.float32), header)
        return paths

    ra, dec = sky.world(np.r_[x, 10.0], np.r_[y, 256.0])
    catalogue = pd.DataFrame(
        {
            "source_id": [f"NVSS_{k}" for k in range(13)],
            "ra_deg": ra,
            "dec_deg": dec,
            "flux_jy": 0.05,
            "frequency_hz": 1.4e9,
            "spectral_index": np.nan,
        }
    )
    far = catalogue.iloc[:1].assign(source_id="FAR", ra_deg=120.0)
    return write, pd.concat([catalogue, far], ignore_index=True), (new_x, new_y, new_flux), sky


def test_rows_of_a_mosaic(night) -> None:
    write, catalogue, (new_x, new_y, new_flux), sky = night
    out = measure_mosaic(*write(1), catalogue, OPTIONS, "2026-01-25T22:00", 61065.9, "hour_mosaic-1")
    assert tuple(out.columns) == MEASUREMENT_COLUMNS
    forced = out[out["kind"] == "forced"].set_index("source_id")
    # No row outside the mosaic, and none in its missing margin, which is more than a beam from any data.
    assert set(forced.index) == {f"NVSS_{k}" for k in range(12)}
    present = forced.drop(index="NVSS_3")
    assert present["detected"].all()
    np.testing.assert_allclose(present["flux_jy"], 0.05, atol=5 * 1.2e-3)
    assert present["limit_jy"].isna().all()
    assert present["integrated_jy"].notna().all()
    assert (present["ra_offset_arcsec"].abs() < 5).all()
    absent = forced.loc["NVSS_3"]
    assert not absent["detected"]
    assert absent["limit_jy"] == pytest.approx(5 * absent["flux_err_jy"])
    assert np.isnan(absent["integrated_jy"])
    new = out[out["kind"] == "blind"].sort_values("flux_jy", ascending=False)
    np.testing.assert_allclose(new["flux_jy"], new_flux, atol=5 * 1.2e-3)
    _, dec = sky.world(new_x, new_y)
    np.testing.assert_allclose(new["dec_deg"], dec, atol=5 / 3600)
    assert new["source_id"].str.startswith("DSA_J").all()
    assert new["catalogue_flux_jy"].isna().all()
    assert (out["frequency_hz"] == 1.405e9).all()
    assert (out["n_tiles"] == 3).all()
    assert forced["catalogue_flux_jy"].iloc[0] == pytest.approx(0.05 * (1.405 / 1.4) ** -0.7, rel=1e-12)


def test_names_of_passed_on_discoveries_are_stable(night) -> None:
    """In ten nights, each with the earlier discoveries, there are two new sources, not twenty."""
    write, catalogue, _, _ = night
    known, names = catalogue, set()
    for seed in range(2, 12):
        out = measure_mosaic(*write(seed), known, OPTIONS, f"n{seed}", 61000.0 + seed, f"m{seed}")
        fresh = out[out["kind"] == "blind"]
        names |= set(out["source_id"][out["source_id"].str.startswith("DSA_J")])
        known = pd.concat([known, fresh[["source_id", "ra_deg", "dec_deg", "ra_err_arcsec", "dec_err_arcsec"]]])
    assert len(names) == 2


def test_a_source_on_blank_pixels_is_a_row_without_a_flux(night) -> None:
    write, catalogue, _, _ = night
    mosaic, noise = write(20)
    with fits.open(mosaic, mode="update") as hdus:
        hdus[0].data[0, 0, 75:86, 175:186] = np.nan
    out = measure_mosaic(mosaic, noise, catalogue, OPTIONS, "e", 61000.0, "m").set_index("source_id")
    assert np.isnan(out.loc["NVSS_1", "flux_jy"])
    assert np.isnan(out.loc["NVSS_1", "limit_jy"])
    assert out.loc["NVSS_1", "quality"] & Quality.NAN


def test_empty_catalogue_and_empty_mosaic(night, make_sky, tmp_path) -> None:
    write, catalogue, _, _ = night
    out = measure_mosaic(*write(30), catalogue.iloc[:0], OPTIONS, "e", 61000.0, "m")
    assert (out["kind"] == "blind").all()
    assert len(out) == 13
    blank = np.full((64, 64), np.nan, np.float32)
    fits.writeto(tmp_path / "blank.fits", blank, make_sky((64, 64)).header)
    with pytest.raises(BadDataError, match=r"blank\.fits: no pixel is finite"):
        measure_mosaic(tmp_path / "blank.fits", tmp_path / "blank.fits", catalogue, OPTIONS, "e", 61000.0, "m")


def test_unreadable_files_are_bad_data(night, tmp_path) -> None:
    write, catalogue, _, _ = night
    mosaic, noise = write(40)
    short = tmp_path / "short.fits"
    short.write_bytes(mosaic.read_bytes()[:1000])
    for first, second in ((short, noise), (mosaic, tmp_path / "none.fits")):
        with pytest.raises((BadDataError, NotFoundError), match="fits"):
            measure_mosaic(first, second, catalogue, OPTIONS, "e", 61000.0, "m")


def test_frequency_and_catalogue_flux() -> None:
    header = fits.Header({"NAXIS": 4, "CTYPE3": "FREQ", "CRVAL3": 1.4e9, "RESTFRQ": 1.3e9})
    assert frequency_hz(header) == 1.4e9
    table = pd.DataFrame({"flux_jy": [1.0, 2.0, np.nan], "frequency_hz": [0.7e9, np.nan, 1e9], "spectral_index": [-1.0, 0, 0]})
    np.testing.assert_allclose(catalogue_flux_jy(table, 1.4e9), [0.5, 2.0, np.nan])
