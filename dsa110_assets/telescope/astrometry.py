"""Apparent places, the meridian frame and uvw.

The correlator stops the fringes of each integration on the apparent direction (hour angle 0, pointing declination of date).
"Apparent" refers to the true equator and equinox (IAU 2006/2000A), topocentric, without refraction: astropy's TETE frame, here
computed with ERFA directly; hour angles use apparent local sidereal time. uvw follow the telescope's convention: position(ant2) -
position(ant1), u towards east, and V = sum S exp[+2 pi i nu/c (u l + v m + w (n - 1))] with l, m, n about the phase centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import erfa
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.telescope import earth, site

_NORTH_STEP_RAD = 1e-4
"""Step towards ICRS north for measuring the frame's position angle: 20 arcsec, so that curvature is below 1e-8."""
_EARTH_RAD_S = 7.292115855306589e-5
"""The Earth's rotation per second of UT1 (the same value as in ERFA's apco13)."""
_MJD_ZERO = 2400000.5


@dataclass(frozen=True)
class _Moments:
    """For each time: `star`, ERFA's context for ICRS to GCRS; `turn` (..., 3, 3), the rotation from GCRS to the true equator and equinox
    of date; `lst_rad`, apparent local sidereal time."""

    star: NDArray[Any]
    turn: NDArray[np.float64]
    lst_rad: NDArray[np.float64]


def _moments(times_mjd: ArrayLike) -> _Moments:
    """The quantities for times [MJD UTC, d], in their shape; equal times are computed only once."""
    mjd = np.asarray(times_mjd, dtype=np.float64)
    unique, which = np.unique(mjd, return_inverse=True)
    which = which.reshape(mjd.shape)
    day = np.floor(unique)
    utc = _MJD_ZERO + day, unique - day
    dut1_s, pole_x, pole_y = earth.orientation(unique)
    tt = erfa.taitt(*erfa.utctai(*utc))
    turn = erfa.pnm06a(*tt)
    gast, locator = erfa.gst06(*erfa.utcut1(*utc, dut1_s), *tt, turn), erfa.sp00(*tt)
    to_earth = erfa.c2tcio(turn, gast, erfa.pom00(pole_x, pole_y, locator))
    observer = np.empty(unique.shape, erfa.dt_pv)
    observer["p"] = np.einsum("tji,j->ti", to_earth, site.location_itrf_m())
    observer["v"] = np.cross(_EARTH_RAD_S * turn[:, 2], observer["p"])
    about_sun, about_barycentre = erfa.epv00(*tt)  # TT in place of TDB: 2 ms of the Earth's motion move no star by 1e-13
    star = erfa.apcs(*tt, observer, about_barycentre, about_sun["p"])
    local = erfa.apio(locator, gast, site.LONGITUDE_RAD, site.LATITUDE_RAD, site.ALTITUDE_M, pole_x, pole_y, 0.0, 0.0)
    return _Moments(star[which], turn[which], erfa.anp(local["eral"])[which])


def apparent_lst_rad(times_mjd: ArrayLike) -> NDArray[np.float64]:
    """Apparent local sidereal time [rad], same shape as the times [MJD UTC, d]."""
    return np.asarray(_moments(times_mjd).lst_rad)


def icrs_to_apparent_rad(ra_rad: ArrayLike, dec_rad: ArrayLike, times_mjd: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apparent (RA, Dec) of date [rad] of ICRS directions [rad] at times [MJD UTC]; the arguments broadcast."""
    at = _moments(times_mjd)
    direct = erfa.s2c(*erfa.atciqz(np.asarray(ra_rad, float), np.asarray(dec_rad, float), at.star))
    ra, dec = erfa.c2s(erfa.rxp(at.turn, direct))
    return np.asarray(erfa.anp(ra)), np.asarray(dec)


def apparent_to_icrs_rad(ra_rad: ArrayLike, dec_rad: ArrayLike, times_mjd: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS (RA, Dec) [rad] of apparent directions of date [rad] at times [MJD UTC]; the arguments broadcast."""
    at = _moments(times_mjd)
    direct = erfa.trxp(at.turn, erfa.s2c(np.asarray(ra_rad, float), np.asarray(dec_rad, float)))
    ra, dec = erfa.aticq(*erfa.c2s(direct), at.star)
    return np.asarray(erfa.anp(ra)), np.asarray(dec)


def hour_angle_rad(ra_rad: ArrayLike, dec_rad: ArrayLike, times_mjd: ArrayLike) -> NDArray[np.float64]:
    """Apparent hour angle [rad, -pi..pi] of ICRS directions [rad] at times [MJD UTC]."""
    apparent_ra, _ = icrs_to_apparent_rad(ra_rad, dec_rad, times_mjd)
    angle = apparent_lst_rad(times_mjd) - apparent_ra
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)


def meridian_icrs_rad(times_mjd: ArrayLike, apparent_dec_rad: float) -> NDArray[np.float64]:
    """ICRS direction of (hour angle 0, apparent declination) at each time. Shape (n_times, 2) [rad]."""
    mjd = np.atleast_1d(np.asarray(times_mjd, dtype=np.float64))
    ra, dec = apparent_to_icrs_rad(apparent_lst_rad(mjd), apparent_dec_rad, mjd)
    return np.stack([ra, dec], axis=-1)


def apparent_uvw_m(positions_m: NDArray[np.float64], hour_angle: ArrayLike, dec_rad: ArrayLike) -> NDArray[np.float64]:
    """Antenna coordinates [m] along (u, v, w) for apparent directions (hour angle, declination) [rad].

    `positions_m` (n_ant, 3) are ITRF differences from the site; result (n_directions, n_ant, 3) float64.
    Thompson, Moran & Swenson (2017), eq. 4.1, with the hour angle measured at the site's meridian.
    """
    ha = np.atleast_1d(np.asarray(hour_angle, dtype=np.float64))[:, None]
    dec = np.broadcast_to(np.asarray(dec_rad, dtype=np.float64), (ha.shape[0],))[:, None]
    cos_lon, sin_lon = np.cos(site.LONGITUDE_RAD), np.sin(site.LONGITUDE_RAD)
    x = cos_lon * positions_m[:, 0] + sin_lon * positions_m[:, 1]
    y = -sin_lon * positions_m[:, 0] + cos_lon * positions_m[:, 1]
    z = positions_m[:, 2]
    radial = np.cos(ha) * x - np.sin(ha) * y
    return np.stack(
        [
            np.sin(ha) * x + np.cos(ha) * y,
            -np.sin(dec) * radial + np.cos(dec) * z,
            np.cos(dec) * radial + np.sin(dec) * z,
        ],
        axis=-1,
    )


def frame_angle_rad(ra_rad: ArrayLike, dec_rad: ArrayLike, times_mjd: ArrayLike) -> NDArray[np.float64]:
    """Position angle [rad], east of apparent north, of ICRS north at ICRS directions and times [MJD UTC]."""
    ra, dec = np.asarray(ra_rad, float), np.asarray(dec_rad, float)
    here_ra, here_dec = icrs_to_apparent_rad(ra, dec, times_mjd)
    there_ra, there_dec = icrs_to_apparent_rad(ra, dec + _NORTH_STEP_RAD, times_mjd)
    delta = there_ra - here_ra
    east = np.cos(there_dec) * np.sin(delta)
    north = np.cos(here_dec) * np.sin(there_dec) - np.sin(here_dec) * np.cos(there_dec) * np.cos(delta)
    return np.asarray(np.arctan2(east, north))


def icrs_uvw_m(positions_m: NDArray[np.float64], phase_centre_rad: ArrayLike, times_mjd: ArrayLike) -> NDArray[np.float64]:
    """Antenna coordinates [m] along (u, v, w) with v towards ICRS north at the phase centre.

    `positions_m` (n_ant, 3): ITRF minus site. `phase_centre_rad`: ICRS (ra, dec), shape (2,) for one common
    centre or (n_times, 2) for one per time. `times_mjd` (n_times,) UTC. Result (n_times, n_ant, 3) float64.
    A baseline's uvw is row(ant2) - row(ant1).
    """
    mjd = np.atleast_1d(np.asarray(times_mjd, dtype=np.float64))
    centre = np.broadcast_to(np.asarray(phase_centre_rad, dtype=np.float64), (mjd.size, 2))
    apparent_ra, apparent_dec = icrs_to_apparent_rad(centre[:, 0], centre[:, 1], mjd)
    uvw = apparent_uvw_m(positions_m, apparent_lst_rad(mjd) - apparent_ra, apparent_dec)
    angle = frame_angle_rad(centre[:, 0], centre[:, 1], mjd)[:, None]
    u_app, v_app = uvw[..., 0].copy(), uvw[..., 1].copy()
    uvw[..., 0] = np.cos(angle) * u_app - np.sin(angle) * v_app
    uvw[..., 1] = np.sin(angle) * u_app + np.cos(angle) * v_app
    return uvw


def lmn(
    ra_rad: ArrayLike, dec_rad: ArrayLike, centre_rad: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Direction cosines (l east, m north, n) of directions about a centre (ra, dec), all in the same frame [rad]."""
    ra, dec = np.asarray(ra_rad, dtype=np.float64), np.asarray(dec_rad, dtype=np.float64)
    centre = np.asarray(centre_rad, dtype=np.float64)
    ra0, dec0 = centre[..., 0], centre[..., 1]
    l = np.cos(dec) * np.sin(ra - ra0)
    m = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra - ra0)
    n = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0)
    return l, m, n


def separation_deg(ra1_rad: ArrayLike, dec1_rad: ArrayLike, ra2_rad: ArrayLike, dec2_rad: ArrayLike) -> NDArray[np.float64]:
    """Angle [deg] between directions [rad]; stable at all separations (Vincenty)."""
    ra1, dec1, ra2, dec2 = (np.asarray(value, dtype=np.float64) for value in (ra1_rad, dec1_rad, ra2_rad, dec2_rad))
    delta = ra2 - ra1
    across = np.hypot(
        np.cos(dec2) * np.sin(delta),
        np.cos(dec1) * np.sin(dec2) - np.sin(dec1) * np.cos(dec2) * np.cos(delta),
    )
    along = np.sin(dec1) * np.sin(dec2) + np.cos(dec1) * np.cos(dec2) * np.cos(delta)
    return np.asarray(np.rad2deg(np.arctan2(across, along)))


def circular_mean_rad(angles_rad: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean direction [rad, 0..2 pi) of angles; correct across 0 h, unlike an arithmetic mean."""
    angles = np.asarray(angles_rad, dtype=np.float64)
    weight = np.ones_like(angles) if weights is None else np.asarray(weights, dtype=np.float64)
    return float(np.arctan2(np.sum(weight * np.sin(angles)), np.sum(weight * np.cos(angles))) % (2 * np.pi))


def sexagesimal(ra_deg: float, dec_deg: float) -> str:
    """An ICRS position to 0.1 arcsec: 05h21m09.89s +16d38m22.1s."""
    from astropy.coordinates import Angle

    ra, dec = Angle(ra_deg % 360, "deg"), Angle(dec_deg, "deg")
    return f"{ra.to_string('hour', precision=2, pad=True)}\N{NO-BREAK SPACE}{dec.to_string('deg', precision=1, pad=True, alwayssign=True)}"
