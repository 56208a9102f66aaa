"""Where the dishes pointed, from everything in a header that tells it: declinations, phase centres, uvw.

The correlator stops fringes on the meridian (hour angle 0) at the apparent pointing declination, and writes that as
phase_center_app_dec, as extra_keywords/phase_center_dec, and into uvw_array. A file that went through pyuvdata has
another phase_center_app_dec: of data that it takes for unprojected, the zenith's, which is the site's latitude and
says nothing. What is told must agree; what was phased elsewhere afterwards is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.telescope import astrometry, site
from dsa110_assets.visibilities import hdf5
from dsa110_assets.visibilities.uvh5_rows import MAX_ROWS, Rows

SAME_DEC_RAD = np.deg2rad(0.01)
ZENITH_RAD = np.deg2rad(2e-4)
"""What is as near to the latitude is the zenith of a file's own site, which may be SITE_TOLERANCE_M from ours."""
SAME_UVW_M = 0.05
SAME_DIRECTION_RAD = np.deg2rad(0.1)
"""uvw belong to one fixed date: aberration and the motion of the pole turn them by up to an arcminute."""
SAME_LST_RAD = np.deg2rad(10 / 240)
"""Ten seconds: UT1 - UTC is below one, a time scale mistaken for another (TAI for UTC) is 37."""
_SHORT_M = 1.0
_UNPROJECTED = frozenset({"unprojected", "driftscan"})
_REPAIR = "write the right value into both with h5py, or take the correlator's own file"
_UNPHASE = "undo it (UVData.unproject_phase) and write it again, or take the correlator's own file"


def declination(header: Any, rows: Rows, positions_m: NDArray[np.float64], path: Path) -> float:
    """Apparent pointing declination [rad]. BadDataError if nothing tells it, or what tells it disagrees."""
    _check_phase_centres(header, path)
    _check_hour_angle(header, rows, path)
    told = {
        "phase_center_app_dec": _told(header, "phase_center_app_dec", path),
        "extra_keywords/phase_center_dec": _told(header, "extra_keywords/phase_center_dec", path),
        "uvw_array": _of_uvw(header, rows, positions_m, path),
    }
    there = {name: value for name, value in told.items() if value is not None}
    zenith = {name for name, value in there.items() if abs(value - site.LATITUDE_RAD) < ZENITH_RAD}
    if zenith != there.keys():  # what tells the zenith is what nobody told
        there = {name: value for name, value in there.items() if name not in zenith or name.startswith("extra")}
    elif "extra_keywords/phase_center_dec" not in zenith and _rewritten(header, path):
        there = {}
    hdf5.require(
        bool(there), path, "nothing in it tells where the dishes pointed",
        "write the apparent declination [rad] as Header/extra_keywords/phase_center_dec",
    )  # fmt: skip
    (first, value), *others = there.items()
    for name, other in others:
        limit = SAME_DIRECTION_RAD if name == "uvw_array" else SAME_DEC_RAD
        said = f"{first} says declination {np.rad2deg(value):.4f} deg, {name} {np.rad2deg(other):.4f}"
        hdf5.require(abs(value - other) < limit, path, said, _REPAIR)
    return value


def _rewritten(header: Any, path: Path) -> bool:
    """Whether pyuvdata wrote the header, which repeats the declination for each row: the correlator writes it once."""
    per_row = hdf5.has(header, "phase_center_app_dec", path) and header["phase_center_app_dec"].size != 1
    return per_row or hdf5.has(header, "phase_center_catalog", path)


def _told(header: Any, name: str, path: Path) -> float | None:
    """A declination [rad], a scalar or one of all rows; None if it is not there."""
    if not hdf5.has(header, name, path):
        return None
    values = hdf5.vector(header, name, MAX_ROWS, path)
    steady = bool(np.ptp(values) < SAME_DEC_RAD / 10 and abs(values[0]) <= np.pi / 2)
    hdf5.require(steady, path, f"{name} is {values.min()} to {values.max()} rad, which is no declination of a drifting array", _REPAIR)
    return float(values[0])


def _check_phase_centres(header: Any, path: Path) -> None:
    """Refuse visibilities that were phased to a place in the sky since the correlator wrote them."""
    phased = hdf5.text(header, "phase_type", path)
    hdf5.require(phased != "phased", path, "its phase_type is phased: its visibilities were phased after the correlator", _UNPHASE)
    epoch = hdf5.text(header, "extra_keywords/phase_center_epoch", path)
    hdf5.require(epoch in (None, "", "HADEC"), path, f"its phase centre is of epoch {epoch}, not HADEC, the meridian of date")
    if not hdf5.has(header, "phase_center_catalog", path):
        return
    catalogue = hdf5.member(header, "phase_center_catalog", h5py.Group, path)
    for name in list(catalogue)[:MAX_ROWS]:
        kind = hdf5.text(catalogue, f"{name}/cat_type", path)
        what = hdf5.text(catalogue, f"{name}/cat_name", path)
        told = f"its visibilities were phased to {what!r} ({kind}) after the correlator"
        hdf5.require(kind in _UNPROJECTED, path, told, _UNPHASE)


def _check_hour_angle(header: Any, rows: Rows, path: Path) -> None:
    """Refuse what was stopped off the meridian, and sidereal times that are not those of the times at this site."""
    angle = hdf5.number(header, "extra_keywords/ha_phase_center", path) or 0.0
    hdf5.require(abs(angle) < SAME_DIRECTION_RAD, path, f"its fringes were stopped at hour angle {np.rad2deg(angle):.3f} deg")
    expected: NDArray[np.float64] | None = None
    for name in ("lst_array", "phase_center_app_ra"):
        if not hdf5.has(header, name, path):
            continue
        values = hdf5.vector(header, name, MAX_ROWS, path)
        hdf5.require(values.size in (1, rows.rows.size), path, f"{name} has {values.size} rows, time_array {rows.rows.size}")
        if values.size == 1:
            continue
        expected = astrometry.apparent_lst_rad(rows.times_mjd) if expected is None else expected
        off = np.angle(np.exp(1j * (values[rows.rows] - expected[:, None])))
        worst = float(off.flat[np.argmax(np.abs(off))])
        told = f"{name} is {np.rad2deg(worst) * 240:.1f} s of sidereal time off the meridian at its time_array"
        hdf5.require(abs(worst) < SAME_LST_RAD, path, told, _REPAIR)


def _of_uvw(header: Any, rows: Rows, positions_m: NDArray[np.float64], path: Path) -> float | None:
    """The declination [rad] that uvw_array belongs to; None if it tells none: absent, zeros, not turned to the sky, or
    of baselines along one line. BadDataError if it is not that of these antennas on the meridian.
    """
    if not hdf5.has(header, "uvw_array", path):
        return None
    data = hdf5.dataset(header, "uvw_array", path, (rows.rows.size, 3))
    hdf5.require(data.dtype.kind == "f", path, f"uvw_array has type {data.dtype}")
    uvw_m = data[()].astype(np.float64)
    hdf5.require(bool(np.all(np.isfinite(uvw_m))), path, "uvw_array is not finite")
    if not uvw_m.any():
        return None
    baselines_m = positions_m[rows.ant2] - positions_m[rows.ant1]
    found = None
    for of_time in (rows.rows[0], rows.rows[-1]):
        seen = _direction(uvw_m[of_time], baselines_m, path)
        if seen is None:
            return None
        hour_angle, found = seen
        told = f"uvw_array is of hour angle {np.rad2deg(hour_angle):.3f} deg, not of the meridian"
        hdf5.require(abs(hour_angle) * np.cos(found) < SAME_DIRECTION_RAD, path, told, _UNPHASE)
    return found


def _direction(uvw_m: NDArray[np.float64], baselines_m: NDArray[np.float64], path: Path) -> tuple[float, float] | None:
    """(hour angle, declination) [rad] of the w axis: the rotation that turns baselines into uvw (Kabsch 1976)."""
    if np.max(np.abs(uvw_m - baselines_m)) < SAME_UVW_M:
        return None  # as they are on the ground
    longer = float(np.max(np.abs(np.linalg.norm(uvw_m, axis=1) - np.linalg.norm(baselines_m, axis=1))))
    told = f"uvw_array and antenna_positions differ by up to {longer:.3g} m in the lengths of baselines"
    hdf5.require(longer < SAME_UVW_M, path, told, _REPAIR)
    left, strengths, right = np.linalg.svd(uvw_m.T @ baselines_m)
    if strengths[1] < _SHORT_M**2:
        return None
    left[:, 2] *= np.sign(np.linalg.det(left) * np.linalg.det(right))
    turn = left @ right
    off = float(np.max(np.abs(uvw_m - baselines_m @ turn.T)))
    told = f"uvw_array is up to {off:.3g} m from antenna_positions, however they are turned"
    hdf5.require(off < SAME_UVW_M, path, told, _REPAIR)
    x, y, z = turn[2]
    hour_angle = np.angle(np.exp(1j * (site.LONGITUDE_RAD - np.arctan2(y, x))))
    return float(hour_angle), float(np.arcsin(np.clip(z, -1, 1)))
