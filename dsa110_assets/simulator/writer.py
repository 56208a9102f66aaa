"""UVH5 files as the correlator writes them, with the same types, chunks and names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.simulator.array import Array
from dsa110_assets.simulator.schedule import JD_MINUS_MJD
from dsa110_assets.telescope import band, site, stations, timegrid

_CHUNK_SAMPLES = 1536
"""complex64 values in a 12 KB chunk: 16 rows of 48 channels and 2 polarisations."""
HEADER_INTEGRATION_S = float(np.float32(timegrid.INTEGRATION_S))
"""The writer passes the integration time through float32."""
SAMPLES_PER_INTEGRATION = 96.0


@dataclass(frozen=True)
class HeaderVariant:
    """Variations that occur in real headers."""

    negative_channel_width: bool = False
    fs_table: bool = True


def file_name(stamp: str, subband: int, *, incomplete: bool = False) -> str:
    """'2026-01-25T22:26:05_sb03.hdf5', or '..._sb03_incomplete.hdf5' while it is being written."""
    return f"{stamp}_sb{subband:02d}{'_incomplete' if incomplete else ''}.hdf5"


def write_subband(
    path: Path, data: NDArray[np.complex64], array: Array, times_mjd: NDArray[np.float64], dec_rad: float,
    subband: int, applied_delays_ns: NDArray[np.int64], variant: HeaderVariant,
) -> None:  # fmt: skip
    """Write one subband file at `path` (replacing it) and fsync it.

    `data` (time x row, 1, channel, 2) complex64 in raw units, time-major; flags are all False, nsamples 96.
    """
    n_rows, n_channels = data.shape[0], data.shape[2]
    chunk = (min(n_rows, max(1, _CHUNK_SAMPLES // (n_channels * 2))), 1, n_channels, 2)
    with h5py.File(path, "w") as file:
        header = file.create_group("Header")
        for key, value in _header(array, times_mjd, dec_rad, subband, n_channels, variant).items():
            header.create_dataset(key, data=value, track_times=False)
        extra = header.create_group("extra_keywords")
        for key, value in _extra_keywords(dec_rad, applied_delays_ns, variant).items():
            extra.create_dataset(key, data=value, track_times=False)
        group = file.create_group("Data")
        for key, value in (
            ("visdata", data),
            ("flags", np.zeros(data.shape, dtype=bool)),
            ("nsamples", np.full(data.shape, SAMPLES_PER_INTEGRATION, dtype=np.float32)),
        ):
            maximum = (None, *data.shape[1:])
            group.create_dataset(key, data=value, chunks=chunk, maxshape=maximum, track_times=False)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _header(
    array: Array,
    times_mjd: NDArray[np.float64],
    dec_rad: float,
    subband: int,
    n_channels: int,
    variant: HeaderVariant,
) -> dict[str, Any]:
    ant1, ant2 = array.baselines
    n_times, n_baselines = times_mjd.size, ant1.size
    width = band.channel_width_hz(n_channels)
    uvw = array.static_uvw_m(dec_rad).astype(np.float32)
    return {
        "latitude": site.LATITUDE_DEG,
        "longitude": site.LONGITUDE_DEG,
        "altitude": site.ALTITUDE_M,
        "telescope_name": np.bytes_(site.TELESCOPE_NAME),
        "instrument": np.bytes_("DSA"),
        "object_name": np.bytes_("search"),
        "phase_type": np.bytes_("drift"),
        "phase_center_app_dec": dec_rad,
        "Nants_data": np.int64(array.numbers.size),
        "Nants_telescope": np.int64(stations.N_STATIONS),
        "antenna_names": np.array(stations.surveyed().names, dtype="S4"),
        "antenna_numbers": np.arange(stations.N_STATIONS, dtype=np.int64),
        "antenna_diameters": np.full(stations.N_STATIONS, stations.DISH_DIAMETER_M),
        "antenna_positions": array.relative_m,
        "ant_1_array": np.tile(ant1, n_times),
        "ant_2_array": np.tile(ant2, n_times),
        "Nbls": np.int64(n_baselines),
        "Nblts": np.int64(n_baselines * n_times),
        "Nfreqs": np.int64(n_channels),
        "Npols": np.int64(2),
        "Ntimes": np.int64(n_times),
        "Nspws": np.int64(1),
        "uvw_array": np.tile(uvw, (n_times, 1)),
        "time_array": np.repeat(times_mjd + JD_MINUS_MJD, n_baselines),
        "integration_time": np.full(n_baselines * n_times, HEADER_INTEGRATION_S),
        "freq_array": band.subband_frequencies_hz(subband, n_channels)[None, :],
        "channel_width": -width if variant.negative_channel_width else width,
        "spw_array": np.array([1], dtype=np.int64),
        "polarization_array": np.array([-5, -6], dtype=np.int64),
        "history": np.bytes_(
            f"written by dsa110-meridian-fringestopping on {timegrid.mjd_to_datetime(float(times_mjd[0])):%Y-%m-%dT%H:%M:%S}"
        ),
    }


def _extra_keywords(dec_rad: float, applied_delays_ns: NDArray[np.int64], variant: HeaderVariant) -> dict[str, Any]:
    keywords: dict[str, Any] = {
        "phase_center_dec": dec_rad,
        "ha_phase_center": 0.0,
        "phase_center_epoch": "HADEC",
        "applied_delays_ns": np.bytes_(" ".join(str(delay) for delay in applied_delays_ns.ravel())),
    }
    if variant.fs_table:
        keywords["fs_table"] = np.bytes_(f"fringestopping_table_dec{np.rad2deg(dec_rad):.1f}deg_96ant.npz")
    return keywords
