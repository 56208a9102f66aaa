"""Subband files of one observation into one `Visibilities`: ascending band, canonical baselines, meridian
frame.

The correlator stopped the fringes of each integration on (hour angle 0, apparent pointing declination), so
the data are taken as they are; phase centres and uvw are computed for that direction, as the file's uvw are
float32 and belong to one fixed date.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numba
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, DsaError
from dsa110_assets.telescope import astrometry, band
from dsa110_assets.visibilities.grouping import SAME_TIME_S, baseline_set
from dsa110_assets.visibilities.types import Antennas, Visibilities
from dsa110_assets.visibilities.uvh5 import SubbandHeader, read_header

Engine = Literal["direct", "pyuvdata"]


def read_group(
    files: Mapping[int, Path], n_subbands: int = band.N_SUBBANDS, engine: Engine = "direct"
) -> Visibilities:
    """Read an observation's subband files {subband: path} onto the band of subbands 0..n_subbands-1.

    Baselines are sorted by (ant1, ant2) with ant1 <= ant2, data conjugated where the file has them reversed.
    Absent subbands are zeros, flagged, of weight 0. A NaN or infinite sample becomes 0, flagged, of weight 0.
    Weights of good samples are 1: the file's nsamples are a constant whatever was lost. `engine="pyuvdata"`
    reads through pyuvdata, for comparison. Raises BadDataError when there is no file or files disagree.
    """
    headers = {subband: read_header(Path(path)) for subband, path in sorted(files.items())}
    _check(headers, n_subbands)
    first = next(iter(headers.values()))
    n_channels, n_times = first.n_channels, first.times_mjd.size
    ant1, ant2, _, _ = _canonical(first)
    shape = (n_times, ant1.size, n_subbands * n_channels, 2)
    data = np.empty(shape, np.complex64)
    flags = np.empty(shape, np.bool_)
    weights = np.empty(shape, np.float32)
    load = _load_direct if engine == "direct" else _load_pyuvdata
    for subband in range(n_subbands):
        low = (n_subbands - 1 - subband) * n_channels
        part = np.s_[:, :, low : low + n_channels]
        if subband in headers:
            load(headers[subband], data[part], flags[part], weights[part])
        else:
            data[part], flags[part], weights[part] = 0, True, 0
    dec = first.pointing_dec_rad
    centres = astrometry.meridian_icrs_rad(first.times_mjd, dec)
    antenna_uvw = astrometry.icrs_uvw_m(first.antenna_positions_m, centres, first.times_mjd)
    return Visibilities(
        data=data,
        flags=flags,
        weights=weights,
        ant1=ant1,
        ant2=ant2,
        times_mjd=first.times_mjd,
        interval_s=first.interval_s,
        frequencies_hz=band.band_frequencies_hz(n_subbands, n_channels),
        channel_width_hz=band.channel_width_hz(n_channels),
        uvw_m=antenna_uvw[:, ant2] - antenna_uvw[:, ant1],
        phase_centres_rad=centres,
        pointing_dec_rad=dec,
        antennas=Antennas(first.antenna_names, first.antenna_positions_m, first.antenna_diameters_m),
        subbands_missing=tuple(s for s in range(n_subbands) if s not in headers),
    )


def _check(headers: Mapping[int, SubbandHeader], n_subbands: int) -> None:
    if not headers:
        raise BadDataError("no subband files to read")
    first = next(iter(headers.values()))
    for subband, header in headers.items():
        same_axes = (
            header.times_mjd.shape == first.times_mjd.shape
            and header.n_channels == first.n_channels
            and baseline_set(header) == baseline_set(first)
            and bool(np.all(np.abs(header.times_mjd - first.times_mjd) * 86400 < SAME_TIME_S))
        )
        if header.subband != subband or subband >= n_subbands:
            raise BadDataError(
                f"{header.path}: holds subband {header.subband}, wanted {subband} of {n_subbands}"
            )
        if not same_axes:
            raise BadDataError(f"{header.path}: times, channels or baselines differ from {first.path.name}")


def _canonical(
    header: SubbandHeader,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """(ant1, ant2) sorted with ant1 <= ant2, where each file row goes, and whether it is conjugated."""
    reversed_ = header.ant1 > header.ant2
    low, high = np.minimum(header.ant1, header.ant2), np.maximum(header.ant1, header.ant2)
    order = np.lexsort((high, low))
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    return low[order], high[order], place, reversed_


def _load_direct(
    header: SubbandHeader, data: NDArray[Any], flags: NDArray[Any], weights: NDArray[Any]
) -> None:
    _, _, place, reversed_ = _canonical(header)
    descending = _descending(header)
    n_baselines = place.size
    try:
        with h5py.File(header.path, "r", rdcc_nbytes=64 << 20, rdcc_nslots=20011) as file:
            visdata, file_flags = file["Data/visdata"], file["Data/flags"]
            raw = np.empty((n_baselines, 1, header.n_channels, visdata.shape[3]), np.complex64)
            raw_flags = np.empty(raw.shape, np.bool_)
            for t in range(header.times_mjd.size):
                rows = np.s_[t * n_baselines : (t + 1) * n_baselines]
                visdata.read_direct(raw, rows)
                file_flags.read_direct(raw_flags, rows)
                _scatter(
                    raw[:, 0],
                    raw_flags[:, 0],
                    place,
                    reversed_,
                    descending,
                    *header.pol_index,
                    data[t],
                    flags[t],
                    weights[t],
                )
    except OSError as error:
        raise BadDataError(f"{header.path}: data cannot be read ({error}); copy it again", header.path) from error


@numba.njit(cache=True)
def _scatter(raw, raw_flags, place, reversed_, descending, pol_x, pol_y, data, flags, weights):  # type: ignore[no-untyped-def]
    """Put one integration's rows (baseline, channel, pol) in place: order, direction, conjugation, NaN."""
    n_rows, n_channels = raw.shape[0], raw.shape[1]
    for row in range(n_rows):
        to = place[row]
        for k in range(n_channels):
            channel = n_channels - 1 - k if descending else k
            for p in range(2):
                pol = pol_x if p == 0 else pol_y
                value = raw[row, k, pol]
                bad = not (np.isfinite(value.real) and np.isfinite(value.imag))
                if bad:
                    value = np.complex64(0)
                elif reversed_[row]:
                    value = np.conj(value)
                data[to, channel, p] = value
                flags[to, channel, p] = bad or raw_flags[row, k, pol]
                weights[to, channel, p] = 0.0 if bad else 1.0


def _load_pyuvdata(
    header: SubbandHeader, data: NDArray[Any], flags: NDArray[Any], weights: NDArray[Any]
) -> None:
    """The same through pyuvdata, as it stands: unprojected, unchecked; only its arrays are used."""
    from pyuvdata import UVData

    uvd = UVData()
    uvd.read(str(header.path), file_type="uvh5", run_check=False)
    shape = (header.times_mjd.size, -1, header.n_channels, uvd.Npols)
    values = uvd.data_array.reshape(shape)
    marks = uvd.flag_array.reshape(shape)
    if not np.array_equal(uvd.freq_array.ravel(), header.frequencies_hz):
        raise DsaError(f"{header.path}: pyuvdata and the direct reader disagree on the frequencies")
    low, high, place, _ = _canonical(header)
    number = {n: i for i, n in enumerate(uvd.telescope.antenna_numbers)}
    file_ant1 = np.array([number[n] for n in uvd.ant_1_array[: place.size]])
    file_ant2 = np.array([number[n] for n in uvd.ant_2_array[: place.size]])
    pols = list(uvd.polarization_array)
    step = -1 if _descending(header) else 1
    for row in range(place.size):
        to = int(
            np.flatnonzero(
                (low == min(file_ant1[row], file_ant2[row])) & (high == max(file_ant1[row], file_ant2[row]))
            )[0]
        )
        for p, code in enumerate((-5, -6)):
            value = values[:, row, ::step, pols.index(code)]
            bad = ~np.isfinite(value)
            value = np.where(bad, 0, value)
            data[:, to, :, p] = value.conj() if file_ant1[row] > file_ant2[row] else value
            flags[:, to, :, p] = marks[:, row, ::step, pols.index(code)] | bad
            weights[:, to, :, p] = ~bad


def _descending(header: SubbandHeader) -> bool:
    return header.n_channels > 1 and bool(header.frequencies_hz[1] < header.frequencies_hz[0])
