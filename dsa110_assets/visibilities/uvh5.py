"""The header of one subband file: read and checked against what the telescope writes, or refused with the reason.

No memory is allocated for a size that the file states before that size is found plausible, links out of the file are
refused, and only named datasets are visited, so neither a hostile nor a half-written file does harm.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, TransientError
from dsa110_assets.telescope import band, site, stations, timegrid
from dsa110_assets.visibilities import hdf5, uvh5_payload, uvh5_pointing, uvh5_rows
from dsa110_assets.visibilities.uvh5_rows import MAX_ANTENNAS, MAX_INTEGRATIONS, MAX_ROWS, Rows

NAME = re.compile(r"(?P<stamp>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)_sb(?P<subband>\d\d)\.hdf5")
XX, YY = -5, -6
FREQUENCY_TOLERANCE_HZ = band.FINE_CHANNEL_HZ / 10
"""A frequency axis half a fine channel off (a known simulator fault) is refused; float rounding is not."""
RELATIVE_TOLERANCE = 1e-3
"""Relative tolerance of widths and durations that are stated twice: the correlator rounds them through float32."""
SITE_TOLERANCE_M = 20.0
NAME_TOLERANCE_D = 1.0
"""Names precede the data by up to minutes; a correlator that has lost its armed time falls back to the year 2009."""


@dataclass(frozen=True, eq=False)
class SubbandHeader:
    """The checked contents of one subband file's header.

    mjd_start is the centre of the first integration [MJD UTC, d]; times_mjd (time,) ascend, and may have gaps. ant1 and
    ant2 (baseline,) int32 index `antenna_names`, in the file's row order within one integration; ant1 > ant2 occurs.
    rows (time, baseline) int32 are the positions on the file's row axis. frequencies_hz (channel,) float64 in file
    order. antenna_positions_m (antenna, 3) float64, ITRF minus the site's. pointing_dec_rad is apparent. n_pols is the
    length of the polarisation axis, pol_index are the positions of XX and YY on it.
    """

    path: Path
    size_bytes: int
    name_stamp: str
    subband: int
    mjd_start: float
    times_mjd: NDArray[np.float64]
    interval_s: float
    frequencies_hz: NDArray[np.float64]
    ant1: NDArray[np.int32]
    ant2: NDArray[np.int32]
    rows: NDArray[np.int32]
    pointing_dec_rad: float
    antenna_names: tuple[str, ...]
    antenna_positions_m: NDArray[np.float64]
    antenna_diameters_m: NDArray[np.float64]
    n_pols: int
    pol_index: tuple[int, int]
    applied_delays_ns: NDArray[np.int64] | None
    has_fs_table: bool

    @property
    def n_channels(self) -> int:
        """Channels in this subband."""
        return int(self.frequencies_hz.size)

    @property
    def n_antennas(self) -> int:
        """Antennas that have data."""
        return int(np.unique(np.concatenate([self.ant1, self.ant2])).size)

    @property
    def active_antennas(self) -> tuple[str, ...]:
        """Names of the antennas that have data, in file numbering order."""
        return tuple(self.antenna_names[i] for i in np.unique(np.concatenate([self.ant1, self.ant2])))


def parse_name(path: Path) -> tuple[str, int]:
    """Return the (UTC stamp, subband number) stated in a file's name. BadDataError unless it is the name of a finished subband file."""
    match = NAME.fullmatch(path.name)
    if match is None or int(match["subband"]) >= band.N_SUBBANDS:
        reason = "is still being written" if "_incomplete" in path.name else "is not a subband file name"
        printable = ascii(path.name)[:80]  # a name may contain line breaks, and control characters that must not reach a terminal or log
        raise BadDataError(f"the name {printable} {reason}; expected YYYY-MM-DDTHH:MM:SS_sb00.hdf5 .. _sb15.hdf5", path)
    stamp_time(match["stamp"], path)
    return match["stamp"], int(match["subband"])


def stamp_time(stamp: str, path: Path) -> datetime:
    """UTC of a name's stamp; a leap second's 60 is the next minute's 0. BadDataError if it is not a time."""
    leap = stamp.endswith(":60")
    try:
        return datetime.fromisoformat(f"{stamp[:-2]}59" if leap else stamp).replace(tzinfo=UTC) + timedelta(seconds=leap)
    except (ValueError, OverflowError) as error:
        raise BadDataError(f"{path}: {stamp!r} is no time", path) from error


def read_header(path: Path) -> SubbandHeader:
    """Read and check one subband file's header.

    Raises BadDataError with the reason when the file is not usable (truncated, empty, `_incomplete`, wrong
    frequencies for its name, implausible sizes, links out of the file), TransientError when it cannot be
    opened.
    """
    path = Path(path)
    stamp, subband = parse_name(path)
    size = _size(path)
    try:
        with hdf5.opened(path) as file:
            return _read(file, path, size, stamp, subband)
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        if hdf5.is_temporary(error):
            raise TransientError(f"{path}: cannot be read now ({error})") from error
        raise BadDataError(f"{path}: not a readable UVH5 file of {size} bytes ({error}); copy it again", path) from error


def _size(path: Path) -> int:
    """Size of a plain file [bytes]. Links are refused because they could lead out of the inbox, pipes because reading
    would block forever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise BadDataError(f"{path}: a link or a device; only plain files are read", path) from error
        raise TransientError(f"{path}: cannot be opened ({error})") from error
    try:
        facts = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise BadDataError(f"{path}: not a plain file", path)
    if facts.st_size == 0:
        raise BadDataError(f"{path}: 0 bytes; the correlator never wrote it", path)
    return facts.st_size


def _read(file: Any, path: Path, size: int, stamp: str, subband: int) -> SubbandHeader:
    header = hdf5.member(file, "Header", h5py.Group, path)
    numbers = hdf5.vector(header, "antenna_numbers", MAX_ANTENNAS, path)
    n_antennas = numbers.size
    hdf5.require(np.unique(numbers).size == n_antennas, path, "two antennas share a number")
    rows = uvh5_rows.read(header, numbers, path)
    frequencies = hdf5.vector(header, "freq_array", band.FINE_PER_SUBBAND, path)
    _check_frequencies(frequencies, subband, path)
    _check_clock(header, float(rows.times_mjd[0]), stamp, path)
    _check_site(header, path)
    _check_uncalibrated(header, path)
    pols = [int(p) for p in hdf5.vector(header, "polarization_array", 4, path)]
    hdf5.require(XX in pols and YY in pols, path, f"polarisations {pols} lack XX (-5) or YY (-6)")
    hdf5.require(len(set(pols)) == len(pols), path, f"polarisations {pols} repeat")
    uvh5_payload.check(file, rows.rows.size, frequencies.size, len(pols), path)
    positions = hdf5.dataset(header, "antenna_positions", path, (n_antennas, 3))[()].astype(np.float64)
    hdf5.require(bool(np.all(np.isfinite(positions)) and np.all(np.abs(positions) < 1e5)), path, "antenna positions")
    _check_counts(header, rows, n_antennas, frequencies.size, len(pols), path)
    _check_widths(header, frequencies, path)
    return SubbandHeader(
        path=path,
        size_bytes=size,
        name_stamp=stamp,
        subband=subband,
        mjd_start=float(rows.times_mjd[0]),
        times_mjd=rows.times_mjd,
        interval_s=_interval(header, rows, path),
        frequencies_hz=frequencies,
        ant1=rows.ant1,
        ant2=rows.ant2,
        rows=rows.rows,
        pointing_dec_rad=uvh5_pointing.declination(header, rows, positions, path),
        antenna_names=_names(header, numbers, path),
        antenna_positions_m=positions,
        antenna_diameters_m=_diameters(header, n_antennas, path),
        n_pols=len(pols),
        pol_index=(pols.index(XX), pols.index(YY)),
        applied_delays_ns=_delays(header, path),
        has_fs_table=hdf5.has(header, "extra_keywords/fs_table", path),
    )


def _check_counts(header: Any, rows: Rows, n_antennas: int, n_channels: int, n_pols: int, path: Path) -> None:
    """Check that counts in the header agree with its arrays; a missing count is allowed."""
    n_times, n_baselines = rows.rows.shape
    for name, listed in (
        ("Nblts", rows.rows.size),
        ("Ntimes", n_times),
        ("Nbls", n_baselines),
        ("Nants_data", np.unique(np.concatenate([rows.ant1, rows.ant2])).size),
        ("Nants_telescope", n_antennas),
        ("Nfreqs", n_channels),
        ("Npols", n_pols),
        ("Nspws", 1),
    ):
        counted = hdf5.number(header, name, path)
        hdf5.require(counted in (None, listed), path, f"{name} is {counted}, but its arrays hold {listed}")
    hdf5.require(not hdf5.has(header, "spw_array", path) or header["spw_array"].size == 1, path, "spw_array has more than one window")


def _check_widths(header: Any, frequencies_hz: NDArray[np.float64], path: Path) -> None:
    """Check that channel_width, of either sign, for all channels at once or for each, is the spacing of the frequencies."""
    if not hdf5.has(header, "channel_width", path):
        return
    n = frequencies_hz.size
    widths = hdf5.vector(header, "channel_width", band.FINE_PER_SUBBAND, path)
    hdf5.require(widths.size in (1, n), path, f"channel_width has {widths.size} values for {n} channels")
    spacing = band.channel_width_hz(n)
    worst = float(widths[np.argmax(np.abs(np.abs(widths) - spacing))])
    message = f"channel_width is {abs(worst):.3f} Hz, but its {n} channels are {spacing:.3f} Hz apart"
    hdf5.require(abs(abs(worst) - spacing) < RELATIVE_TOLERANCE * spacing, path, message)


def _interval(header: Any, rows: Rows, path: Path) -> float:
    """Length of an integration [s]. It must be the same in all rows, and the times must be whole multiples of it apart."""
    stated_s = hdf5.vector(header, "integration_time", MAX_ROWS, path)
    hdf5.require(stated_s.size in (1, rows.rows.size), path, f"integration_time has {stated_s.size} rows, time_array {rows.rows.size}")
    interval_s = float(stated_s[0])
    hdf5.require(0 < interval_s < timegrid.GROUP_S, path, f"integration time {interval_s} s")
    hdf5.require(
        bool(np.ptp(stated_s) < RELATIVE_TOLERANCE * interval_s), path, f"integration_time is {stated_s.min()} to {stated_s.max()} s"
    )
    numbers = (rows.times_mjd - rows.times_mjd[0]) * (86400 / interval_s)
    steps = np.diff(numbers)
    hdf5.require(
        bool(np.all(np.abs(steps - np.rint(steps)) < 0.01) and np.all(steps > 0.5)),
        path,
        f"integrations are not contiguous: of {interval_s} s, but {steps.min(initial=1) * interval_s:.6f} to "
        f"{steps.max(initial=1) * interval_s:.6f} s apart",
    )
    least = float(steps.min()) if steps.size > 1 else 1.0
    message = f"integration_time is {interval_s:.3f} s, but its integrations are all {least * interval_s:.3f} s or more apart"
    hdf5.require(least < 1.5, path, message)
    hdf5.require(numbers[-1] < MAX_INTEGRATIONS, path, f"its integrations span {numbers[-1] * interval_s:.0f} s")
    return interval_s


def _check_frequencies(frequencies_hz: NDArray[np.float64], subband: int, path: Path) -> None:
    """Check that the frequency axis is that of the named subband. channel_width is not used, because its sign differs between writers."""
    n = frequencies_hz.size
    hdf5.require(
        band.FINE_PER_SUBBAND % n == 0,
        path,
        f"{n} channels do not divide a subband's {band.FINE_PER_SUBBAND}",
    )
    expected = band.subband_frequencies_hz(subband, n)
    ascending = n > 1 and frequencies_hz[1] > frequencies_hz[0]
    offset = np.max(np.abs(frequencies_hz - (expected[::-1] if ascending else expected)))
    hdf5.require(
        bool(offset < FREQUENCY_TOLERANCE_HZ),
        path,
        f"named sb{subband:02d} ({expected[0] / 1e6:.6f} MHz) but its frequencies start at "
        f"{frequencies_hz[0] / 1e6:.6f} MHz, up to {offset / 1e3:.3f} kHz off",
    )


def _check_clock(header: Any, mjd: float, stamp: str, path: Path) -> None:
    scale = hdf5.text(header, "timesys", path)
    hdf5.require(
        scale in (None, "", "UTC"), path, f"its times are {scale}, not UTC", "bring time_array to UTC, or take the correlator's own file"
    )
    named = timegrid.datetime_to_mjd(stamp_time(stamp, path))
    hdf5.require(
        abs(mjd - named) < NAME_TOLERANCE_D,
        path,
        f"its data time MJD {mjd:.5f} is far from its name's {named:.5f}",
    )


def _check_site(header: Any, path: Path) -> None:
    """Check the site: uvw and sidereal times are computed for ours, and a file from another would be wrong without any sign of it."""
    latitude, longitude, altitude = (float(hdf5.vector(header, name, 1, path)[0]) for name in ("latitude", "longitude", "altitude"))
    east = np.deg2rad((longitude - site.LONGITUDE_DEG + 180) % 360 - 180) * np.cos(site.LATITUDE_RAD) * 6.4e6
    north = np.deg2rad(latitude - site.LATITUDE_DEG) * 6.4e6
    offset = float(np.hypot(np.hypot(east, north), altitude - site.ALTITUDE_M))
    hdf5.require(offset < SITE_TOLERANCE_M, path, f"its site lies {offset:.1f} m from {site.TELESCOPE_NAME}")


def _check_uncalibrated(header: Any, path: Path) -> None:
    """Refuse calibrated visibilities: gains are solved on the correlator's scale, so these would be calibrated twice."""
    units = hdf5.text(header, "vis_units", path)
    message = f"its visibilities are in {units}: they were calibrated after the correlator"
    hdf5.require(units in (None, "", "uncalib"), path, message, "take the correlator's own file")


def _names(header: Any, numbers: NDArray[np.int64], path: Path) -> tuple[str, ...]:
    """Station names, which are the correlator's numbers plus one. If most are, no other antenna may have the name of another's number."""
    data = hdf5.dataset(header, "antenna_names", path, (numbers.size,))
    names = tuple(hdf5.decoded(value).strip() for value in data[()])
    hdf5.require(len(set(names)) == numbers.size, path, "two antennas share a name")
    expected_names = [str(number + 1) for number in numbers]
    wrong = [i for i, name in enumerate(names) if name != expected_names[i] and name in expected_names]
    if wrong and len(wrong) < numbers.size / 2:
        message = (
            f"antenna_numbers {numbers[wrong[0]]} has the name {names[wrong[0]]!r} of another antenna; most names are the number plus one"
        )
        hdf5.require(False, path, message, "give each antenna its own name, or take the correlator's own file")
    return names


def _diameters(header: Any, n_antennas: int, path: Path) -> NDArray[np.float64]:
    if not hdf5.has(header, "antenna_diameters", path):
        return np.full(n_antennas, stations.DISH_DIAMETER_M)
    return np.broadcast_to(hdf5.vector(header, "antenna_diameters", n_antennas, path), (n_antennas,)).astype(np.float64)


def _delays(header: Any, path: Path) -> NDArray[np.int64] | None:
    """Cable delays (antenna, 2) [ns]; 0 marks an inactive input. None if absent or of an unknown form."""
    text = hdf5.text(header, "extra_keywords/applied_delays_ns", path) or ""
    words = text.split()
    if not words or len(words) % 2 or not all(re.fullmatch(r"-?\d{1,9}", word) for word in words):
        return None
    return np.array([int(word) for word in words], dtype=np.int64).reshape(-1, 2)
