"""The Earth's orientation against astropy's, which reads the same bulletins with separate code."""

import numpy as np
import pytest
from astropy.coordinates import ICRS, TETE, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers

from dsa110_assets.telescope import astrometry, earth, site

pytestmark = pytest.mark.row(52, cases="times in and outside the bulletins")

SPAN_MJD = {
    "all years": np.random.default_rng(1).uniform(41700, 61600, 500),
    "across a leap second": np.linspace(57753, 57755, 97),
    "where final values end": np.linspace(61290, 61330, 161),
    "one time": np.array(61066.25),
    "at 0 h": np.array([61066.0, 61067.0]),
}


@pytest.mark.parametrize("mjd", SPAN_MJD.values(), ids=SPAN_MJD)
def test_orientation_is_astropys(mjd: np.ndarray) -> None:
    """The same numbers are interpolated by the same formula, so only the rounding of a second remains."""
    table, time = iers.earth_orientation_table.get(), Time(mjd, format="mjd", scale="utc")
    dut1_s, x, y = earth.orientation(mjd)
    their_x, their_y, _ = table.pm_xy(time, return_status=True)
    np.testing.assert_allclose(dut1_s, table.ut1_utc(time).to_value("s"), atol=1e-12)
    np.testing.assert_allclose(x, their_x.to_value("rad"), atol=1e-17)
    np.testing.assert_allclose(y, their_y.to_value("rad"), atol=1e-17)
    assert dut1_s.shape == x.shape == y.shape == mjd.shape


@pytest.mark.parametrize("mjd", [30000.0, 90000.0])
def test_outside_the_bulletins_it_warns_and_holds(mjd: float) -> None:
    with pytest.warns(UserWarning, match="astropy-iers-data"):
        dut1_s, _, _ = earth.orientation(mjd)
    assert abs(dut1_s) < 1


def test_apparent_places_are_astropys_tete() -> None:
    """Many stars all over the sky at many times, in both directions, to 1e-11 rad: two rotations and an aberration of 1e-4 in double
    precision."""
    rng = np.random.default_rng(2)
    mjd, location = rng.uniform(58000, 61300, 7), EarthLocation.from_geodetic(site.LONGITUDE_DEG, site.LATITUDE_DEG, site.ALTITUDE_M)
    ra, dec = rng.uniform(0, 2 * np.pi, (30, 1)), np.arcsin(rng.uniform(-1, 1, (30, 1)))
    frame = TETE(obstime=Time(np.broadcast_to(mjd, (30, 7)), format="mjd"), location=location)
    expected = SkyCoord(*np.broadcast_arrays(ra, dec, mjd)[:2], unit="rad", frame=ICRS()).transform_to(frame)
    apparent = astrometry.icrs_to_apparent_rad(ra, dec, mjd)
    np.testing.assert_allclose(np.exp(1j * apparent[0]), np.exp(1j * expected.ra.rad), atol=1e-11 / np.cos(apparent[1]).min())
    np.testing.assert_allclose(apparent[1], expected.dec.rad, atol=1e-11)
    back = astrometry.apparent_to_icrs_rad(*apparent, mjd)
    np.testing.assert_allclose(np.exp(1j * back[0]), np.exp(1j * np.broadcast_to(ra, (30, 7))), atol=1e-11 / np.cos(dec).min())
    np.testing.assert_allclose(back[1], np.broadcast_to(dec, (30, 7)), atol=1e-11)


def test_astropy_takes_times_after_the_bulletins_as_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and with an installation that is years old, other libraries' code would otherwise raise or access the network. The previous
    settings are restored."""
    downloads: list[str] = []
    monkeypatch.setattr(iers.iers, "download_file", lambda url, *_, **__: downloads.append(url))
    monkeypatch.setattr(iers.conf, "auto_download", True)
    monkeypatch.setattr(iers.conf, "auto_max_age", 30.0)
    later = Time(earth.last_day_mjd() + 400.0, format="mjd", scale="utc")
    before = (iers.conf.auto_download, iers.conf.auto_max_age, iers.conf.iers_degraded_accuracy)
    with earth.bulletins_as_installed():
        turned = later.ut1
    assert downloads == []
    assert before == (iers.conf.auto_download, iers.conf.auto_max_age, iers.conf.iers_degraded_accuracy)
    with pytest.warns(UserWarning, match="not within the IERS bulletins"):
        dut1_s, _, _ = earth.orientation(later.mjd)
    assert abs(turned.mjd - later.mjd) * 86400 == pytest.approx(abs(float(dut1_s)), abs=0.2)
