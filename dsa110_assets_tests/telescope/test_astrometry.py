"""Apparent places, the meridian frame and uvw, against ERFA's CIO-based chain, astropy's AltAz and pyuvdata.

The package uses astropy's equinox-based TETE frame. ERFA's apco13/atciqz (CIRS and the earth rotation angle)
reach the same directions in another way. They are called here without polar motion, which TETE does not include
either.
"""

import astropy.units as u
import erfa
import numpy as np
import pytest
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from pyuvdata.utils import phasing

from dsa110_assets.telescope import astrometry, site, stations

MJD = 61065.934 + np.arange(24) * 12.884901888 / 86400
HEADER = EarthLocation.from_geodetic(-118.2830, 37.2334051, 1188.0519)
ARCSEC = np.deg2rad(1 / 3600)
POLAR_MOTION = 0.6 * ARCSEC
"""The pole has stayed within this of its reference since 1962 (IERS C04); pyuvdata and AltAz include it."""
C3286 = (np.deg2rad(202.78453), np.deg2rad(30.50915))


def wrapped(angle: np.ndarray) -> np.ndarray:
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


def erfa_hour_angle_dec(ra: float, dec: float, mjd: float) -> tuple[float, float]:
    time = Time(mjd, format="mjd", scale="utc")
    astrom = erfa.apco13(
        time.jd1,
        time.jd2,
        float(time.delta_ut1_utc),
        HEADER.lon.rad,
        HEADER.lat.rad,
        1188.0519,
        0,
        0,
        0,
        0,
        0,
        1,
    )[0]
    ri, di = erfa.atciqz(ra, dec, astrom)
    return float(astrom["eral"] - ri), float(di)


def test_lst_is_of_the_headers_location() -> None:
    """Trap 6: site positions used elsewhere are off by 1.8 and 4.7 arcsec of LST; 1e-9 rad is 0.0002 arcsec."""
    time = Time(MJD, format="mjd", scale="utc", location=HEADER)
    np.testing.assert_allclose(wrapped(astrometry.apparent_lst_rad(MJD) - time.sidereal_time("apparent").rad), 0, atol=1e-9)
    for lon in (-118.2817, -118.2825):
        wrong = Time(MJD, format="mjd", scale="utc", location=EarthLocation.from_geodetic(lon, 37.23, 1222))
        assert np.min(np.abs(wrapped(astrometry.apparent_lst_rad(MJD) - wrong.sidereal_time("apparent").rad))) > 1.5 * ARCSEC


@pytest.mark.parametrize("dec_deg", [-20.0, 16.27, 54.573, 71.6])
def test_apparent_places_agree_with_erfa(dec_deg: float) -> None:
    """Trap 5. 1e-9 rad allows for rounding of Julian dates and of the two formulations of precession-nutation."""
    ra, dec = 1.234, np.deg2rad(dec_deg)
    expected = [erfa_hour_angle_dec(ra, dec, mjd) for mjd in MJD[:3]]
    hour_angle = astrometry.hour_angle_rad(ra, dec, MJD[:3])
    _, apparent_dec = astrometry.icrs_to_apparent_rad(ra, dec, MJD[:3])
    np.testing.assert_allclose(wrapped(hour_angle - [e[0] for e in expected]), 0, atol=1e-9)
    np.testing.assert_allclose(apparent_dec, [e[1] for e in expected], atol=1e-9)


def test_of_date_differs_from_icrs_by_arcminutes() -> None:
    """Trap 5: calling the pointing declination ICRS is wrong by up to 8.4 arcmin in 2026."""
    ra = np.linspace(0, 2 * np.pi, 25)
    dec = np.deg2rad(16.27)
    _, of_date = astrometry.icrs_to_apparent_rad(ra, dec, MJD[0])
    largest_arcmin = np.max(np.abs(np.rad2deg(of_date - dec))) * 60
    assert 8.0 < largest_arcmin < 9.0


def test_apparent_places_are_inverted() -> None:
    ra, dec = astrometry.icrs_to_apparent_rad(*C3286, MJD)
    back = astrometry.apparent_to_icrs_rad(ra, dec, MJD)
    np.testing.assert_allclose(back[0], C3286[0], atol=1e-10)
    np.testing.assert_allclose(back[1], C3286[1], atol=1e-10)


@pytest.mark.parametrize("dec_deg", [16.27, 54.573])
def test_meridian_frame(dec_deg: float) -> None:
    """The meridian direction has hour angle 0 and the pointing declination, by ERFA, within 1e-9 rad."""
    centres = astrometry.meridian_icrs_rad(MJD, np.deg2rad(dec_deg))
    assert centres.shape == (24, 2)
    for (ra, dec), mjd in zip(centres, MJD, strict=True):
        hour_angle, apparent = erfa_hour_angle_dec(ra, dec, mjd)
        assert abs(wrapped(hour_angle)) < 1e-9
        assert abs(apparent - np.deg2rad(dec_deg)) < 1e-9


def test_meridian_frame_agrees_with_pyuvdata() -> None:
    """pyuvdata includes polar motion and the correlator's frame does not: they agree within the pole's excursion."""
    centres = astrometry.meridian_icrs_rad(MJD, np.deg2rad(16.27))
    for (ra, dec), mjd in zip(centres[::8], MJD[::8], strict=True):
        app_ra, app_dec = phasing.calc_app_coords(
            lon_coord=ra,
            lat_coord=dec,
            coord_frame="icrs",
            coord_epoch=2000.0,
            time_array=np.array([mjd + 2400000.5]),
            telescope_loc=HEADER,
        )
        lst = astrometry.apparent_lst_rad(mjd)
        assert abs(wrapped(app_ra - lst)) * np.cos(dec) < POLAR_MOTION
        assert abs(app_dec - np.deg2rad(16.27)) < POLAR_MOTION


def test_transit_is_where_astropy_sees_it() -> None:
    """Trap 7: hour angle 0 is azimuth 180 (azimuth 0 north of the zenith) within 1 s of time; J2000 RA is
    74 s off.
    """
    start = 61065.5
    hour_angle = astrometry.hour_angle_rad(*C3286, start)
    transit = float(start - hour_angle / (2 * np.pi) / 1.00273790935)
    assert abs(astrometry.hour_angle_rad(*C3286, transit)) < 1e-6
    azimuth = SkyCoord(*C3286, unit="rad").transform_to(AltAz(obstime=Time(transit, format="mjd"), location=HEADER)).az
    rate = 360 / 86164 * np.cos(C3286[1]) / np.sin(np.deg2rad(37.2334) - C3286[1])  # d(az)/dt at transit [deg/s]
    assert abs(azimuth.wrap_at(360 * u.deg).deg - 180) < rate * 1.0
    by_j2000 = wrapped(astrometry.apparent_lst_rad(transit) - C3286[0]) * 86164 / (2 * np.pi)
    assert 70 < abs(by_j2000) < 80


def test_uvw_is_the_baseline_projected_on_the_apparent_sky() -> None:
    """Trap 8: uvw against unit vectors found by ERFA; 1e-5 m is 4e-9 rad of a 2.6 km baseline."""
    centres = astrometry.meridian_icrs_rad(MJD, np.deg2rad(16.27))
    relative = stations.surveyed().relative_m
    antenna = astrometry.icrs_uvw_m(relative, centres, MJD)

    def unit(ra: float, dec: float, mjd: float) -> np.ndarray:
        hour_angle, declination = erfa_hour_angle_dec(ra, dec, mjd)
        lon = HEADER.lon.rad - hour_angle
        return np.array([np.cos(declination) * np.cos(lon), np.cos(declination) * np.sin(lon), np.sin(declination)])

    for i in (0, 11, 23):
        ra, dec = centres[i]
        w = unit(ra, dec, MJD[i])
        np.testing.assert_allclose(antenna[i, :, 2], relative @ w, atol=1e-5)
        # North at the phase centre, from a pair of places 0.2 arcsec apart: curvature 5e-7, rounding 1e-9.
        step = 1e-3
        north = unit(ra, dec + step, MJD[i]) - unit(ra, dec - step, MJD[i])
        north /= np.linalg.norm(north)
        # Aberration's second derivative over 1e-3 rad turns north by up to 1e-7 rad: 0.3 mm on 2.6 km.
        np.testing.assert_allclose(antenna[i, :, 1], relative @ north, atol=1e-3)
        np.testing.assert_allclose(antenna[i, :, 0], relative @ np.cross(north, w), atol=1e-3)


def test_uvw_length_is_the_baselines_and_source_of_phase_is_w() -> None:
    """uvw are rotated positions: norms and scalar products are those of the positions, to rounding of 2.7 km."""
    relative = stations.surveyed().relative_m
    antenna = astrometry.icrs_uvw_m(relative, C3286, MJD)
    gram = np.einsum("tic,tjc->tij", antenna, antenna)
    np.testing.assert_allclose(gram, np.broadcast_to(relative @ relative.T, gram.shape), atol=1e-6)


def test_east_is_positive_u_and_north_positive_v() -> None:
    """At the meridian an eastward baseline is along u; seen from the equator, one towards the pole is along v."""
    east = np.array([[-np.sin(site.LONGITUDE_RAD), np.cos(site.LONGITUDE_RAD), 0.0], [0.0, 0.0, 1.0]])
    uvw = astrometry.apparent_uvw_m(east, 0.0, 0.0)[0]
    np.testing.assert_allclose(uvw, [[1, 0, 0], [0, 1, 0]], atol=1e-15)


def test_lmn_is_a_unit_vector_and_zero_at_the_centre() -> None:
    rng = np.random.default_rng(3)
    centre = np.array([6.28, 0.3])
    l, m, n = astrometry.lmn(centre[0] + rng.normal(0, 0.1, 50), centre[1] + rng.normal(0, 0.1, 50), centre)
    np.testing.assert_allclose(l**2 + m**2 + n**2, 1, atol=1e-14)
    assert astrometry.lmn(*centre, centre)[2] == pytest.approx(1, abs=1e-15)
    east, north = (
        astrometry.lmn(centre[0] + 1e-3, centre[1], centre),
        astrometry.lmn(centre[0], centre[1] + 1e-3, centre),
    )
    assert east[0] > 0
    assert abs(north[1] - np.sin(1e-3)) < 1e-15


def test_separations_are_accurate_at_all_scales() -> None:
    assert astrometry.separation_deg(0.0, 0.0, np.pi, 0.0) == pytest.approx(180)
    assert astrometry.separation_deg(6.283185, 0.1, 0.0000003, 0.1) < 1e-4
    tiny = astrometry.separation_deg(1.0, 0.5, 1.0, 0.5 + 1e-9)
    assert tiny == pytest.approx(np.rad2deg(1e-9), rel=1e-6)


def test_circular_mean_across_zero_hours() -> None:
    """Trap 27: the mean of 359.9 and 0.1 degrees is 0, not 180."""
    assert wrapped(astrometry.circular_mean_rad(np.deg2rad([359.9, 0.1]))) == pytest.approx(0, abs=1e-12)
    assert np.rad2deg(astrometry.circular_mean_rad(np.deg2rad([359.0, 1.0]), [3, 1])) == pytest.approx(359.5, abs=1e-3)
    assert 0 <= astrometry.circular_mean_rad([-0.1]) < 2 * np.pi
