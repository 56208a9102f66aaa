"""Pointing declination, from everything in a header that determines it: declinations, phase centres, uvw.

The correlator stops fringes on the meridian (hour angle 0) at the apparent pointing declination, and writes that as
phase_center_app_dec, as extra_keywords/phase_center_dec, and into uvw_array. pyuvdata changes phase_center_app_dec when
it rewrites a file: for data that it considers unprojected it writes the zenith, which is the site's latitude and does
not determine the pointing. The declinations must agree. Data that were later phased elsewhere are refused.
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
"""A declination this close to the latitude is the zenith of the file's own site, which may be SITE_TOLERANCE_M from ours."""
SAME_UVW_M = 0.05
SAME_DIRECTION_RAD = np.deg2rad(0.1)
"""uvw belong to one fixed date: aberration and the motion of the pole rotate them by up to an arcminute."""
SAME_LST_RAD = np.deg2rad(10 / 240)
"""Ten seconds: UT1 - UTC is below one; a confusion of time scales (TAI for UTC) is 37."""
_SHORT_M = 1.0
_UNPROJECTED = frozenset({"unprojected", "driftscan"})
_REPAIR = "write the right value into both with h5py, or take the correlator's own file"
_UNPHASE = "undo it (UVData.unproject_phase) and write it again, or take the correlator's own file"


def declination(header: Any, rows: Rows, positions_m: NDArray[np.float64], path: Path) -> float:
    """Apparent pointing declination [rad]. BadDataError if it is not recorded, or if the records disagree."""
    _check_phase_centres(header, path)
    _check_hour_angle(header, rows, path)
    recorded = {
        "phase_center_app_dec": _stated(header, "phase_center_app_dec", path),
        "extra_keywords/phase_center_dec": _stated(header, "extra_keywords/phase_center_dec", path),
        "uvw_array": _of_uvw(header, rows, positions_m, path),
    }
    usable = {name: value for name, value in recorded.items() if value is not None}
    zenith = {name for name, value in usable.items() if abs(value - site.LATITUDE_RAD) < ZENITH_RAD}
    if zenith != usable.keys():  # a zenith is a default, not a record of the pointing
        usable = {name: value for name, value in usable.items() if name not in zenith or name.startswith("extra")}
    elif "extra_keywords/phase_center_dec" not in zenith and _rewritten(header, path):
        usable = {}
    hdf5.require(
        bool(usable), path, "nothing in it tells where the dishes pointed",
        "write the apparent declination [rad] as Header/extra_keywords/phase_center_dec",
    )  # fmt: skip
    (first, value), *others = usable.items()
    for name, other in others:
        limit = SAME_DIRECTION_RAD if name == "uvw_array" else SAME_DEC_RAD
        message = f"{first} says declination {np.rad2deg(value):.4f} deg, {name} {np.rad2deg(other):.4f}"
        hdf5.require(abs(value - other) < limit, path, message, _REPAIR)
    return value


def _rewritten(header: Any, path: Path) -> bool:
    """Whether pyuvdata wrote the header. It repeats the declination for each row, whereas the correlator writes it once."""
    per_row = hdf5.has(header, "phase_center_app_dec", path) and header["phase_center_app_dec"].size != 1
    return per_row or hdf5.has(header, "phase_center_catalog", path)


def _stated(header: Any, name: str, path: Path) -> float | None:
    """A declination [rad], stored as a scalar or one per row; None if it is missing."""
    if not hdf5.has(header, name, path):
        return None
    values = hdf5.vector(header, name, MAX_ROWS, path)
    steady = bool(np.ptp(values) < SAME_DEC_RAD / 10 and abs(values[0]) <= np.pi / 2)
    hdf5.require(steady, path, f"{name} is {values.min()} to {values.max()} rad, not the constant declination of a drifting array", _REPAIR)
    return float(values[0])


def _check_phase_centres(header: Any, path: Path) -> None:
    """Refuse visibilities that were phased to a position on the sky after the correlator wrote them."""
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
        message = f"its visibilities were phased to {what!r} ({kind}) after the correlator"
        hdf5.require(kind in _UNPROJECTED, path, message, _UNPHASE)


def _check_hour_angle(header: Any, rows: Rows, path: Path) -> None:
    """Refuse fringes stopped off the meridian, and sidereal times that do not match the times at this site."""
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
        message = f"{name} is {np.rad2deg(worst) * 240:.1f} s of sidereal time off the meridian at its time_array"
        hdf5.require(abs(worst) < SAME_LST_RAD, path, message, _REPAIR)


def _of_uvw(header: Any, rows: Rows, positions_m: NDArray[np.float64], path: Path) -> float | None:
    """The declination [rad] of uvw_array; None if it cannot be determined: the array is absent, zeros, not rotated to
    the sky, or of baselines along one line. BadDataError if uvw are not those of these antennas on the meridian."""
    if not hdf5.has(header, "uvw_array", path):
        return None
    data = hdf5.dataset(header, "uvw_array", path, (rows.rows.size, 3))
    hdf5.require(data.dtype.kind == "f", path, f"uvw_array has type {data.dtype}")
    uvw_m = data[()].astype(np.float64)
    hdf5.require(bool(np.all(np.isfinite(uvw_m))), path, "uvw_array is not finite")
    if not uvw_m.any():
        return None
    baselines_m = positions_m[rows.ant2] - positions_m[rows.ant1]
    declination_rad = None
    for of_time in (rows.rows[0], rows.rows[-1]):
        direction = _direction(uvw_m[of_time], baselines_m, path)
        if direction is None:
            return None
        hour_angle, declination_rad = direction
        message = f"uvw_array is of hour angle {np.rad2deg(hour_angle):.3f} deg, not of the meridian"
        hdf5.require(abs(hour_angle) * np.cos(declination_rad) < SAME_DIRECTION_RAD, path, message, _UNPHASE)
    return declination_rad


def _direction(uvw_m: NDArray[np.float64], baselines_m: NDArray[np.float64], path: Path) -> tuple[float, float] | None:
    """(hour angle, declination) [rad] of the w axis: the rotation that turns baselines into uvw (Kabsch 1976)."""
    if np.max(np.abs(uvw_m - baselines_m)) < SAME_UVW_M:
        return None  # not rotated to the sky: as on the ground
    length_error = float(np.max(np.abs(np.linalg.norm(uvw_m, axis=1) - np.linalg.norm(baselines_m, axis=1))))
    message = f"uvw_array and antenna_positions differ by up to {length_error:.3g} m in the lengths of baselines"
    hdf5.require(length_error < SAME_UVW_M, path, message, _REPAIR)
    left, strengths, right = np.linalg.svd(uvw_m.T @ baselines_m)
    if strengths[1] < _SHORT_M**2:
        return None
    left[:, 2] *= np.sign(np.linalg.det(left) * np.linalg.det(right))
    turn = left @ right
    off = float(np.max(np.abs(uvw_m - baselines_m @ turn.T)))
    message = f"uvw_array is up to {off:.3g} m from antenna_positions, however they are turned"
    hdf5.require(off < SAME_UVW_M, path, message, _REPAIR)
    x, y, z = turn[2]
    hour_angle = np.angle(np.exp(1j * (site.LONGITUDE_RAD - np.arctan2(y, x))))
    return float(hour_angle), float(np.arcsin(np.clip(z, -1, 1)))
