"""Figures and marks of an hour's measurements: their tiles, doubts, history and times."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.photometry import hourfigures, hourrows
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.photometry.transits import one_per_transit, transit_mjd
from dsa110_assets.telescope import astrometry
from dsa110_assets_tests.mosaics.tiles import make_tiles


def measured(n: int = 30, **columns: Any) -> pd.DataFrame:
    flux = np.linspace(0.2, 2.0, n)
    defaults: dict[str, Any] = {
        "source_id": [f"s{k}" for k in range(n)], "kind": "forced", "flux_jy": flux, "flux_err_jy": 0.004, "rms_jy": 0.004,
        "detected": True, "quality": 0, "catalogue_flux_jy": flux, "frequency_hz": 1.405e9, "ra_deg": 150.0, "dec_deg": 16.0,
    }  # fmt: skip
    return pd.DataFrame(defaults | columns)


def test_the_hours_flux_ratio_has_an_error_and_uses_expected_sources() -> None:
    """All fluxes are 12 % low, which puts half of them below 20 sigma. These are compared too, because the catalogue lists them."""
    rows = measured()
    rows = rows.assign(flux_jy=0.88 * rows["flux_jy"], rms_jy=0.05)
    figures = hourfigures.measurement_figures(rows, 0)
    assert figures["n_compared"] == (rows["catalogue_flux_jy"] > 20 * 0.05).sum()
    assert figures["flux_ratio"] == pytest.approx(0.88, abs=1e-9)
    assert 0 < figures["flux_ratio_error"] < 0.01
    suspect = rows.assign(quality=int(Quality.TILE_SUSPECT))
    assert hourfigures.measurement_figures(suspect, 0)["n_compared"] == figures["n_compared"]
    assert hourfigures.measurement_figures(rows.assign(quality=int(Quality.BLENDED)), 0)["n_compared"] == 0


def test_an_hour_is_compared_with_its_history(tmp_path: Path) -> None:
    """Of three earlier hours one is 20 % off: their median counts, and this hour is 6 % high. Marked rows and other
    frequencies are not compared."""
    hours = []
    for k, factor in enumerate((1.0, 1.2, 1.001)):
        hours.append(tmp_path / f"{k}.parquet")
        rows = measured()
        rows.assign(flux_jy=factor * rows["flux_jy"]).to_parquet(hours[-1])
    now = measured()
    now = now.assign(flux_jy=1.06 * now["flux_jy"])
    figures = hourfigures.history_figures(now, hours)
    assert figures["history_count"] == 30
    assert figures["history_flux_ratio"] == pytest.approx(1.06 / 1.001, abs=3 * figures["history_flux_ratio_error"])
    assert figures["history_flux_ratio_error"] < 0.01
    assert hourfigures.history_figures(now.assign(frequency_hz=1.3e9), hours)["history_count"] == 0
    assert hourfigures.history_figures(now.assign(quality=int(Quality.EDGE)), hours)["history_count"] == 0
    without_history = hourfigures.history_figures(now, [])
    assert without_history["history_count"] == 0
    assert math.isnan(without_history["history_flux_ratio"])
    assert math.isnan(without_history["history_flux_ratio_error"])


def test_rows_know_their_tiles_and_which_are_suspect(tmp_path: Path) -> None:
    """Of three tiles along a strip the last is suspect. Rows near the first tile do not touch it, and rows near it are marked; if its
    files are gone, every row is marked."""
    tiles = make_tiles(tmp_path, [(150.0, 16.0), (150.4, 16.0), (150.8, 16.0)], [], noise_jy=[0.002] * 3, n_pixels=384)
    table = pd.DataFrame({"product_id": [t.product_id for t in tiles], "suspicion": ["", "", "rms: 1.9"]})
    rows = measured(3, ra_deg=[149.8, 150.4, 151.0], flux_jy=1.0)
    out = hourrows.with_tiles(rows, tiles, table, 0.2)
    assert out["tiles"].tolist() == [0b001, 0b111, 0b100]
    assert (out["quality"] == int(Quality.TILE_SUSPECT)).tolist() == [False, True, True]
    figures = hourfigures.suspect_figures(out, table)
    assert figures["suspect_tiles"] == ["tile-2: rms: 1.9"]
    assert (figures["n_suspect_tiles"], figures["n_suspect_rows"], figures["n_doubtful_new"]) == (1, 2, 0)
    tiles[2].primary_beam_path.unlink()
    gone = hourrows.with_tiles(rows, tiles, table, 0.2)
    assert (gone["quality"] == int(Quality.TILE_SUSPECT)).all()
    assert hourrows.with_tiles(rows, tiles, table.assign(suspicion=""), 0.2)["quality"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("negative", "doubtful"), [([], []), ([6.0], []), ([6.0, 5.5], [0, 1]), ([20.0, 6.0, 5.0], [0, 1, 2]), ([5.1, 5.0], [0])]
)
def test_discoveries_as_faint_as_negative_detections_are_doubtful(negative: list[float], doubtful: list[int]) -> None:
    """Three new sources at 7, 9 and 30 sigma. A single negative detection may be noise; with more of them, new sources up to 1.5 times
    the brightest are doubtful. Known sources are not affected."""
    rows = measured(kind=["blind"] * 3 + ["forced"] * 27, snr=[7.0, 9.0, 30.0] + [5.5] * 27)
    out = hourrows.with_doubts(rows, np.array(negative), 0.05)
    assert np.flatnonzero(out["quality"] & int(Quality.DOUBTFUL_NEW)).tolist() == doubtful
    many = measured(100, kind="blind", snr=5.5)
    assert (hourrows.with_doubts(many, np.array(negative), 0.05)["quality"] == 0).all()


def test_a_points_time_is_its_sources_transit() -> None:
    """Sources that cross the meridian during the hour get the time of hour angle 0, to a millisecond; those before and after get the
    hour's ends. Successive nights differ by a sidereal day."""
    first, last = 61066.20, 61066.25
    ra = np.rad2deg(astrometry.apparent_lst_rad(np.array([61066.21, 61066.24]))) - 0.3
    mjd = transit_mjd(ra, np.array([16.0, 17.0]), first, last)
    assert ((mjd > first) & (mjd < last)).all()
    hour_angle = [float(astrometry.hour_angle_rad(np.deg2rad(ra[k : k + 1]), np.deg2rad([16.0 + k]), mjd[k : k + 1])[0]) for k in (0, 1)]
    np.testing.assert_allclose(hour_angle, 0, atol=2 * np.pi * 1e-3 / 86164)
    next_day = transit_mjd(ra, np.array([16.0, 17.0]), first + 1, last + 1)
    np.testing.assert_allclose(next_day - mjd, 0.997269566, atol=1e-6)
    assert transit_mjd(ra[:1] - 10, [16.0], first, last)[0] == first
    assert transit_mjd(ra[:1] + 20, [16.0], first, last)[0] == last
    assert transit_mjd([], [], first, last).size == 0


def test_rows_without_suspect_tiles_are_preferred_within_a_transit() -> None:
    rows = measured(2, source_id=["a", "a"], mjd=[61066.2, 61066.21], flux_err_jy=[0.001, 0.002], mosaic_id=["m", "n"])
    assert one_per_transit(rows)["mosaic_id"].tolist() == ["m"]
    rows["quality"] = [int(Quality.TILE_SUSPECT), 0]
    assert one_per_transit(rows)["mosaic_id"].tolist() == ["n"]
