"""One subband file's header: read, checked against what the telescope writes, or refused with the reason.

Nothing is allocated from a size the file claims before that size is found plausible, links out of the file
are refused, and only named datasets are visited, so neither a hostile nor a half-written file does harm.
"""

from __future__ import annotations

import errno
import math
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
from dsa110_assets.visibilities import hdf5

NAME = re.compile(r"(?P<stamp>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)_sb(?P<subband>\d\d)\.hdf5")
XX, YY = -5, -6
JD_MJD = 2400000.5
MAX_ANTENNAS = 256
MAX_INTEGRATIONS = 4 * timegrid.INTEGRATIONS_PER_FILE
MAX_ROWS = MAX_ANTENNAS * (MAX_ANTENNAS + 1) // 2 * timegrid.INTEGRATIONS_PER_FILE
MAX_SAMPLES = 2 * MAX_ROWS * 48
"""Of one subband: 256 antennas, the correlator's 48 channels, two polarisations: 606 MB."""
FREQUENCY_TOLERANCE_HZ = band.FINE_CHANNEL_HZ / 10
"""A frequency axis half a fine channel off (a known simulator fault) is refused; float rounding is not."""
SITE_TOLERANCE_M = 20.0
NAME_TOLERANCE_D = 1.0
"""Names precede the data by up to minutes; a correlator without its armed time falls back to the year
2009.
"""


@dataclass(frozen=True, eq=False)
class SubbandHeader:
    """What one subband file says about itself, checked.

    mjd_start is the centre of the first integration [MJD UTC, d]. ant1 and ant2 (baseline,) int32 index
    `antenna_names` in the file's row order of one integration; ant1 > ant2 occurs. frequencies_hz (channel,)
    float64 in file order. antenna_positions_m (antenna, 3) float64, ITRF minus the site's. pointing_dec_rad
    is apparent. n_pols is the length of the polarisation axis, pol_index are the places of XX and YY on the polarisation axis.
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
    """(UTC stamp, subband number) a file's name claims. BadDataError if it is not a finished subband's
    name.
    """
    match = NAME.fullmatch(path.name)
    if match is None or int(match["subband"]) >= band.N_SUBBANDS:
        reason = "is still being written" if "_incomplete" in path.name else "is no subband file name"
        told = ascii(path.name)[:80]  # a name may hold line breaks, and what no terminal or log should see
        raise BadDataError(f"the name {told} {reason}; expected YYYY-MM-DDTHH:MM:SS_sb00.hdf5 .. _sb15.hdf5", path)
    stamp_time(match["stamp"], path)
    return match["stamp"], int(match["subband"])


def stamp_time(stamp: str, path: Path) -> datetime:
    """UTC of a name's stamp; a leap second's 60 is the next minute's 0. BadDataError if it is no time."""
    leap = stamp.endswith(":60")
    try:
        moment = datetime.fromisoformat(f"{stamp[:-2]}59" if leap else stamp).replace(tzinfo=UTC)
    except ValueError as error:
        raise BadDataError(f"{path}: {stamp!r} is no time", path) from error
    return moment + timedelta(seconds=leap)


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
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        if hdf5.is_passing(error):
            raise TransientError(f"{path}: cannot be read now ({error})") from error
        raise BadDataError(f"{path}: not a readable UVH5 file of {size} bytes ({error}); copy it again", path) from error


def _size(path: Path) -> int:
    """Size of a plain file [bytes]. A link could lead out of the inbox, a pipe would never answer."""
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
    jd = hdf5.vector(header, "time_array", MAX_ROWS, path)
    n_rows = jd.size
    times, n_baselines = _time_axis(jd, path)
    numbers = hdf5.vector(header, "antenna_numbers", MAX_ANTENNAS, path)
    ant1 = _baseline_axis(header, "ant_1_array", n_rows, n_baselines, numbers, path)
    ant2 = _baseline_axis(header, "ant_2_array", n_rows, n_baselines, numbers, path)
    pairs = np.unique(np.minimum(ant1, ant2).astype(np.int64) * MAX_ANTENNAS + np.maximum(ant1, ant2))
    hdf5.require(pairs.size == n_baselines, path, "a baseline occurs twice in one integration")
    frequencies = hdf5.vector(header, "freq_array", band.FINE_PER_SUBBAND, path)
    _check_frequencies(frequencies, subband, path)
    interval_s = float(hdf5.vector(header, "integration_time", MAX_ROWS, path)[0])
    hdf5.require(0 < interval_s < timegrid.GROUP_S, path, f"integration time {interval_s} s")
    if times.size > 1:
        steps = np.diff(times) * 86400
        hdf5.require(
            bool(np.all(np.abs(steps - interval_s) < 0.01 * interval_s)),
            path,
            "integrations are not contiguous",
        )
    _check_clock(times[0], stamp, path)
    _check_site(header, path)
    n_antennas = numbers.size
    pols = [int(p) for p in hdf5.vector(header, "polarization_array", 4, path)]
    hdf5.require(XX in pols and YY in pols, path, f"polarisations {pols} lack XX (-5) or YY (-6)")
    _check_payload(file, (n_rows, 1, frequencies.size, len(pols)), path)
    positions = hdf5.dataset(header, "antenna_positions", path, (n_antennas, 3))[()].astype(np.float64)
    hdf5.require(
        bool(np.all(np.isfinite(positions)) and np.all(np.abs(positions) < 1e5)), path, "antenna positions"
    )
    return SubbandHeader(
        path=path,
        size_bytes=size,
        name_stamp=stamp,
        subband=subband,
        mjd_start=float(times[0]),
        times_mjd=times,
        interval_s=interval_s,
        frequencies_hz=frequencies,
        ant1=ant1,
        ant2=ant2,
        pointing_dec_rad=_pointing(header, n_rows, path),
        antenna_names=_names(header, n_antennas, path),
        antenna_positions_m=positions,
        antenna_diameters_m=_diameters(header, n_antennas, path),
        n_pols=len(pols),
        pol_index=(pols.index(XX), pols.index(YY)),
        applied_delays_ns=_delays(header, path),
        has_fs_table=hdf5.has(header, "extra_keywords/fs_table", path),
    )


def _time_axis(jd: NDArray[np.float64], path: Path) -> tuple[NDArray[np.float64], int]:
    """(integration centres MJD, baselines per integration) of a time-major row axis."""
    change = np.flatnonzero(jd != jd[0])
    n_baselines = int(change[0]) if change.size else jd.size
    hdf5.require(
        jd.size % n_baselines == 0,
        path,
        f"{jd.size} rows are not whole integrations of {n_baselines} baselines",
    )
    grid = jd.reshape(-1, n_baselines)
    hdf5.require(bool(np.all(grid == grid[:, :1])), path, "rows are not ordered by time")
    hdf5.require(
        grid.shape[0] <= MAX_INTEGRATIONS, path, f"{grid.shape[0]} integrations, limit {MAX_INTEGRATIONS}"
    )
    return grid[:, 0] - JD_MJD, n_baselines


def _baseline_axis(
    header: Any, name: str, n_rows: int, n_baselines: int, numbers: NDArray[Any], path: Path
) -> NDArray[np.int32]:
    """Antenna indices of one integration's rows; the same in every integration or the file is refused."""
    rows = hdf5.vector(header, name, MAX_ROWS, path)
    hdf5.require(rows.size == n_rows, path, f"{name} has {rows.size} rows, time_array {n_rows}")
    grid = rows.reshape(-1, n_baselines)
    hdf5.require(bool(np.all(grid == grid[:1])), path, f"{name} differs between integrations")
    order = np.argsort(numbers)
    place = np.searchsorted(numbers, grid[0], sorter=order).clip(max=numbers.size - 1)
    index = order[place]
    hdf5.require(
        bool(np.all(numbers[index] == grid[0])), path, f"{name} names an antenna that antenna_numbers lacks"
    )
    return np.asarray(index, dtype=np.int32)


def _check_frequencies(frequencies_hz: NDArray[np.float64], subband: int, path: Path) -> None:
    """The frequency axis, not channel_width (its sign differs between writers), must be the named
    subband's.
    """
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


def _check_clock(mjd: float, stamp: str, path: Path) -> None:
    named = timegrid.datetime_to_mjd(stamp_time(stamp, path))
    hdf5.require(
        abs(mjd - named) < NAME_TOLERANCE_D,
        path,
        f"its data time MJD {mjd:.5f} is far from its name's {named:.5f}",
    )


def _check_site(header: Any, path: Path) -> None:
    """uvw and sidereal times are computed for one site; a file from another would be wrong without looking
    so.
    """
    latitude, longitude, altitude = (
        float(hdf5.vector(header, name, 1, path)[0]) for name in ("latitude", "longitude", "altitude")
    )
    east = np.deg2rad(longitude - site.LONGITUDE_DEG) * np.cos(site.LATITUDE_RAD) * 6.4e6
    north = np.deg2rad(latitude - site.LATITUDE_DEG) * 6.4e6
    offset = float(np.hypot(np.hypot(east, north), altitude - site.ALTITUDE_M))
    hdf5.require(offset < SITE_TOLERANCE_M, path, f"its site lies {offset:.1f} m from {site.TELESCOPE_NAME}")


def _check_payload(file: Any, shape: tuple[int, ...], path: Path) -> None:
    data = hdf5.member(file, "Data", h5py.Group, path)
    samples = math.prod(shape)
    hdf5.require(samples <= MAX_SAMPLES, path, f"its shape {shape} claims {samples} samples, limit {MAX_SAMPLES}")
    for name, kinds in (("visdata", "c"), ("flags", "b"), ("nsamples", "f")):
        dataset = hdf5.dataset(data, name, path, shape)
        hdf5.require(
            dataset.dtype.kind in kinds and dataset.dtype.itemsize <= 8,
            path,
            f"{name} has type {dataset.dtype}",
        )
        absent = hdf5.missing_bytes(dataset)
        hdf5.require(not absent, path, f"{name} lacks {absent} bytes of its data: not completely written")


def _pointing(header: Any, n_rows: int, path: Path) -> float:
    """Apparent pointing declination: a scalar as written, or one value per row as newer pyuvdata writes."""
    where = (
        "phase_center_app_dec"
        if hdf5.has(header, "phase_center_app_dec", path)
        else "extra_keywords/phase_center_dec"
    )
    values = hdf5.vector(header, where, n_rows, path)
    hdf5.require(
        bool(np.all(values == values[0]) and abs(values[0]) <= np.pi / 2), path, f"{where} {values[0]} rad"
    )
    return float(values[0])


def _names(header: Any, n_antennas: int, path: Path) -> tuple[str, ...]:
    data = hdf5.dataset(header, "antenna_names", path, (n_antennas,))
    names = tuple(
        value.decode("ascii").strip() if isinstance(value, bytes) else str(value) for value in data[()]
    )
    hdf5.require(len(set(names)) == n_antennas, path, "two antennas share a name")
    return names


def _diameters(header: Any, n_antennas: int, path: Path) -> NDArray[np.float64]:
    if not hdf5.has(header, "antenna_diameters", path):
        return np.full(n_antennas, stations.DISH_DIAMETER_M)
    return np.broadcast_to(hdf5.vector(header, "antenna_diameters", n_antennas, path), (n_antennas,)).astype(
        np.float64
    )


def _delays(header: Any, path: Path) -> NDArray[np.int64] | None:
    """Cable delays (antenna, 2) [ns]; 0 marks an inactive input. None if absent or of an unknown form."""
    if not hdf5.has(header, "extra_keywords/applied_delays_ns", path):
        return None
    value = hdf5.dataset(header, "extra_keywords/applied_delays_ns", path, ())[()]
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    words = text.split()
    if len(words) % 2 or not all(re.fullmatch(r"-?\d{1,9}", word) for word in words):
        return None
    return np.array([int(word) for word in words], dtype=np.int64).reshape(-1, 2)
