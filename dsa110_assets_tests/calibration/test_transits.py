"""Transit times against astropy's own horizon frame, and which calibrators may be chosen."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from scipy.optimize import brentq

from dsa110_assets.calibration.transits import Transit, most_trusted, rank, transit_mjd, transits
from dsa110_assets.sky import calibrators
from dsa110_assets.telescope import astrometry, beam, site

NEAR_MJD = 61065.5
SECOND = 1 / 86400


def azimuth_crossing_mjd(ra_deg, dec_deg, guess_mjd):
    """The time at which the source crosses due south (or north) in astropy's AltAz: computed without hour angles."""

    location = EarthLocation.from_geodetic(site.LONGITUDE_DEG, site.LATITUDE_DEG, site.ALTITUDE_M)

    def east(mjd):
        frame = AltAz(obstime=Time(mjd, format="mjd"), location=location, pressure=0 * u.hPa)
        return np.sin(SkyCoord(ra_deg * u.deg, dec_deg * u.deg).transform_to(frame).az.rad)

    return brentq(east, guess_mjd - 0.01, guess_mjd + 0.01, xtol=1e-9)


@pytest.mark.parametrize("name", ["3C286", "3C48", "3C138", "3C454.3", "0834+555"])
def test_transit_within_a_second_of_astropy(name):
    """Trap 7. AltAz's meridian differs from ours by polar motion alone (0.3 arcsec x tan dec, < 0.1 s)."""
    calibrator = calibrators.find(name)
    mjd = transit_mjd(calibrator.ra_deg, calibrator.dec_deg, NEAR_MJD)
    assert abs(mjd - NEAR_MJD) < 0.5
    assert abs(mjd - azimuth_crossing_mjd(calibrator.ra_deg, calibrator.dec_deg, mjd)) < 0.1 * SECOND


def test_the_j2000_error_is_absent():
    """With J2000 right ascension against sidereal time, 3C286 would be 74 s off (facts 4.1)."""
    source = calibrators.find("3C286")
    mjd = transit_mjd(source.ra_deg, source.dec_deg, NEAR_MJD)
    wrong_rad = astrometry.apparent_lst_rad(mjd) - np.deg2rad(source.ra_deg)
    wrong_s = np.rad2deg((wrong_rad + np.pi) % (2 * np.pi) - np.pi) * 240 / 1.0027379
    assert wrong_s == pytest.approx(74, abs=4)


def test_transits_of_a_night_are_complete_and_in_order():
    """One transit per sidereal day, two in a UTC day that holds both; declination offsets are apparent."""
    night_transits = transits(calibrators.load(), 61065.0, 61068.0, 16.27, max_dec_offset_deg=1.0, min_flux_jy=5.0)
    assert [t.mjd for t in night_transits] == sorted(t.mjd for t in night_transits)
    assert all(61065.0 <= t.mjd < 61068.0 for t in night_transits)
    blazar = [t for t in night_transits if t.calibrator.name == calibrators.find("3C454.3").name]
    assert len(blazar) == 3
    np.testing.assert_allclose(np.diff([t.mjd for t in blazar]), 1 / 1.002737909350795, atol=0.05 * SECOND)
    source = blazar[0].calibrator
    _, dec = astrometry.icrs_to_apparent_rad(np.deg2rad(source.ra_deg), np.deg2rad(source.dec_deg), blazar[0].mjd)
    assert blazar[0].dec_offset_deg == pytest.approx(np.rad2deg(float(dec)) - 16.27, abs=1e-9)
    assert blazar[0].primary_beam == pytest.approx(float(beam.power(abs(blazar[0].dec_offset_deg), 1.4e9)))
    for transit in night_transits:
        assert abs(transit.dec_offset_deg) <= 1.0
        again = transit_mjd(transit.calibrator.ra_deg, transit.calibrator.dec_deg, transit.mjd)
        assert abs(again - transit.mjd) < 0.01 * SECOND


def test_a_window_edge_belongs_to_one_window():
    """A transit is in exactly one of two adjoining windows, also where they meet."""
    source = calibrators.find("3C454.3")
    mjd = transit_mjd(source.ra_deg, source.dec_deg, NEAR_MJD)
    for edge in (mjd, mjd + SECOND, mjd - SECOND):
        windows = [transits([source], a, b, 16.27) for a, b in ((edge - 0.4, edge), (edge, edge + 0.4))]
        assert sum(len(w) for w in windows) == 1
    assert transits([source], mjd, mjd, 16.27) == []


def made(name, flux, *, standard=None, variable=False, catalogue="VLA"):
    return calibrators.Calibrator(name, None, 100.0, 16.0, flux, "A", "P", standard, variable, catalogue)


def test_no_flux_never_calibrates():
    """Trap 40: a calibrator without a 20 cm flux is neither found nor ranked; it does not count as 1 Jy."""
    unknown = made("0640+160", None)
    assert transits([unknown], 61065.0, 61067.0, 16.0, min_flux_jy=0.0) == []
    assert rank([Transit(unknown, 61065.5, 0.0, 1.0)]) == []
    listed = [c for c in calibrators.load() if c.flux_20cm_jy is None and c.standard is None]
    assert len(listed) > 500
    assert transits(listed, 61065.0, 61066.0, 16.27, max_dec_offset_deg=90.0, min_flux_jy=0.0) == []


def test_trusted_calibrators_rank_above_brighter_ones():
    """Rank: standards, list calibrators by apparent flux, other catalogues, and variables last, however bright."""
    standard = Transit(made("3C138", 8.5, standard="3C138"), 61065.5, 0.5, 0.7)
    bright = Transit(made("0700+160", 9.0), 61065.6, 0.0, 1.0)
    offset = Transit(made("0800+160", 12.0), 61065.6, 1.0, 0.6)
    blazar = Transit(made("2253+161", 12.6, variable=True), 61065.9, 0.0, 1.0)
    survey = Transit(made("NVSS J070000+160000", 11.0, catalogue="NVSS"), 61065.7, 0.0, 1.0)
    assert rank([blazar, survey, offset, bright, standard]) == [standard, bright, offset, survey, blazar]
    assert rank([blazar]) == [blazar]
    assert most_trusted([blazar, survey, offset, standard]) == [offset, standard]
    assert most_trusted([blazar, survey]) == [survey]
    assert most_trusted([blazar]) == [blazar]
    assert most_trusted([]) == []
