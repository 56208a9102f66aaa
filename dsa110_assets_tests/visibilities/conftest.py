"""Subband files written directly from the description of the telescope's writer, as an independent truth.

Nothing of dsa110_assets is used: frequencies come from the fine-channel formula, directions from ERFA's
CIO-based chain (the package uses astropy's equinox-based one), so agreement means both are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import erfa
import h5py
import numpy as np
import pytest
from astropy.coordinates import EarthLocation
from astropy.time import Time

LATITUDE_DEG, LONGITUDE_DEG, ALTITUDE_M = 37.2334051, -118.2830, 1188.0519
C_M_S = 299792458.0
INTEGRATION_S = 96 * 0.134217728


def frequencies_hz(subband: int, n_channels: int) -> np.ndarray:
    """The writer's channel frequencies: 1530 MHz - (1024 + 384 s + per k + (per - 1)/2) x 30.517578125 kHz."""
    per = 384 // n_channels
    return 1530e6 - (1024 + 384 * subband + per * np.arange(n_channels) + (per - 1) / 2) * 30517.578125


def hour_angle_dec(ra_rad: float, dec_rad: float, mjd: float) -> tuple[float, float]:
    """Apparent (hour angle from the site's meridian, declination) by ERFA, without polar motion."""
    time = Time(mjd, format="mjd", scale="utc")
    dut1 = float(time.delta_ut1_utc)
    astrom, _ = erfa.apco13(
        time.jd1,
        time.jd2,
        dut1,
        np.radians(LONGITUDE_DEG),
        np.radians(LATITUDE_DEG),
        ALTITUDE_M,
        0,
        0,
        0,
        0,
        0,
        1,
    )[:2]
    ri, di = erfa.atciqz(ra_rad, dec_rad, astrom)
    return float(astrom["eral"] - ri), float(di)


def direction(hour_angle: float, dec: float) -> np.ndarray:
    """Unit vector in the earth-fixed frame (x to Greenwich) of a local hour angle and declination."""
    east_longitude = np.radians(LONGITUDE_DEG) - hour_angle
    return np.array([np.cos(dec) * np.cos(east_longitude), np.cos(dec) * np.sin(east_longitude), np.sin(dec)])


@dataclass
class Observation:
    """The observation to write. Sources are (ra_rad, dec_rad, flux_jy) ICRS, without primary beam or smearing."""

    mjd_start: float = 61065.9345
    n_antennas: int = 8
    n_telescope: int = 12
    n_channels: int = 4
    n_times: int = 3
    subbands: tuple[int, ...] = (0, 1)
    dec_deg: float = 16.27
    sources: list[tuple[float, float, float]] = field(default_factory=list)
    noise: float = 0.0
    antenna_order: list[int] | None = None
    stamp_offset_s: float = -3.0
    channel_width_sign: float = 1.0
    fs_table: bool = True
    pols: tuple[int, ...] = (-5, -6)
    seed: int = 1

    @property
    def stamp(self) -> str:
        moment = datetime(1858, 11, 17) + timedelta(days=self.mjd_start, seconds=self.stamp_offset_s)
        return moment.strftime("%Y-%m-%dT%H:%M:%S")

    def positions(self) -> np.ndarray:
        """Antenna positions spread over a kilometre east-west and north-south: ECEF minus the site's."""
        rng = np.random.default_rng(12)
        east, north = rng.normal(0, 400, (2, self.n_telescope))
        up = rng.normal(0, 3, self.n_telescope)
        lat, lon = np.radians(LATITUDE_DEG), np.radians(LONGITUDE_DEG)
        e = np.array([-np.sin(lon), np.cos(lon), 0])
        n = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
        u = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
        return np.outer(east, e) + np.outer(north, n) + np.outer(up, u)

    def times_mjd(self) -> np.ndarray:
        return np.array([self.jd(t) - 2400000.5 for t in range(self.n_times)])

    def jd(self, t: int) -> float:
        return 2400000.5 + self.mjd_start + t * INTEGRATION_S / 86400

    def active(self) -> list[int]:
        """0-based numbers of the antennas with data; the others are not connected."""
        return self.antenna_order or list(range(1, self.n_antennas + 1))

    def baselines(self) -> tuple[np.ndarray, np.ndarray]:
        order = self.active()
        pairs = [(order[j], order[i]) for i in range(len(order)) for j in range(i + 1)]
        return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])

    def uvw(self, ant1: np.ndarray, ant2: np.ndarray) -> np.ndarray:
        """(baseline, 3) at hour angle 0: u to the east, w to the pointing, v to the north of it."""
        w = direction(0.0, np.radians(self.dec_deg))
        u = direction(-np.pi / 2, 0.0)
        positions = self.positions()
        return (positions[ant2] - positions[ant1]) @ np.stack([u, np.cross(w, u), w]).T

    def visibilities(self, subband: int) -> np.ndarray:
        """(time, baseline, channel) complex128 in file row order; noise belongs to the unordered pair."""
        ant1, ant2 = self.baselines()
        positions, freq = self.positions(), frequencies_hz(subband, self.n_channels)
        out = np.zeros((self.n_times, ant1.size, freq.size), complex)
        stopped = direction(0.0, np.radians(self.dec_deg))
        for t, mjd in enumerate(self.times_mjd()):
            for ra, dec, flux in self.sources:
                s = direction(*hour_angle_dec(ra, dec, mjd))
                turns = ((positions[ant2] - positions[ant1]) @ (s - stopped))[:, None] * freq / C_M_S
                out[t] += flux * np.exp(2j * np.pi * turns)
        if self.noise:
            n = self.n_telescope
            rng = np.random.default_rng([self.seed, subband])
            cube = rng.normal(0, self.noise, (2, self.n_times, n, n, freq.size))
            cube = cube[0] + 1j * cube[1]
            forward = cube[:, np.minimum(ant1, ant2), np.maximum(ant1, ant2)]
            forward = np.where((ant1 == ant2)[None, :, None], forward.real, forward)
            out += np.where((ant1 > ant2)[None, :, None], forward.conj(), forward)
        return out

    def write(self, directory: Path, subband: int, name: str | None = None) -> Path:
        path = directory / (name or f"{self.stamp}_sb{subband:02d}.hdf5")
        ant1, ant2 = self.baselines()
        n_bls, freq = ant1.size, frequencies_hz(subband, self.n_channels)
        n_blts, n_pols = n_bls * self.n_times, len(self.pols)
        positions = self.positions()
        with h5py.File(path, "w") as file:
            header = file.create_group("Header")
            scalars = {
                "latitude": LATITUDE_DEG,
                "longitude": LONGITUDE_DEG,
                "altitude": ALTITUDE_M,
                "telescope_name": b"OVRO_MMA",
                "instrument": b"DSA",
                "object_name": b"search",
                "phase_type": b"drift",
                "phase_center_app_dec": np.radians(self.dec_deg),
                "history": b"written by a test",
                "Nants_data": len(self.active()),
                "Nants_telescope": self.n_telescope,
                "Nbls": n_bls,
                "Nblts": n_blts,
                "Nfreqs": freq.size,
                "Npols": n_pols,
                "Ntimes": self.n_times,
                "Nspws": 1,
                "channel_width": self.channel_width_sign * 93.75e6 / 8 / freq.size,
            }
            for key, value in scalars.items():
                header[key] = value
            header["antenna_names"] = np.array([str(i + 1) for i in range(self.n_telescope)], "S4")
            header["antenna_numbers"] = np.arange(self.n_telescope)
            header["antenna_diameters"] = np.full(self.n_telescope, 4.65)
            header["antenna_positions"] = positions
            header["ant_1_array"], header["ant_2_array"] = (
                np.tile(ant1, self.n_times),
                np.tile(ant2, self.n_times),
            )
            header["time_array"] = np.repeat([self.jd(t) for t in range(self.n_times)], n_bls)
            header["integration_time"] = np.full(n_blts, np.float64(np.float32(INTEGRATION_S)))
            header["uvw_array"] = np.tile(self.uvw(ant1, ant2), (self.n_times, 1)).astype("f4")
            header["freq_array"], header["spw_array"] = freq[None, :], np.array([1])
            header["polarization_array"] = np.array(self.pols)
            extra = header.create_group("extra_keywords")
            extra["phase_center_dec"], extra["ha_phase_center"] = np.radians(self.dec_deg), 0.0
            extra["phase_center_epoch"] = "HADEC"
            extra["applied_delays_ns"] = " ".join(["15002"] * (2 * self.n_telescope)).encode()
            if self.fs_table:
                extra["fs_table"] = b"/somewhere/fs.npz"
            values = np.zeros((n_blts, 1, freq.size, n_pols), np.complex64)
            stokes_i = self.visibilities(subband).reshape(n_blts, freq.size)
            for p, code in enumerate(self.pols):
                if code in (-5, -6):
                    # XX and YY differ by a factor that a test can look for; both are I in the end.
                    values[:, 0, :, p] = stokes_i * (1 if code == -5 else self.yy_over_xx)
            data = file.create_group("Data")
            data.create_dataset("visdata", data=values, chunks=True)
            data.create_dataset("flags", data=np.zeros(values.shape, bool), chunks=True)
            data.create_dataset("nsamples", data=np.full(values.shape, 96, "f4"), chunks=True)
        return path

    yy_over_xx: float = 1.0

    def write_all(self, directory: Path) -> dict[int, Path]:
        return {s: self.write(directory, s) for s in self.subbands}


@pytest.fixture
def observe() -> Callable[..., Observation]:
    """Make an Observation: observe(n_times=2, sources=[...])."""
    return Observation


@pytest.fixture
def meridian_radec() -> Callable[[Observation, float], tuple[float, float]]:
    """ICRS (ra, dec) [rad] of the meridian direction at a time, found by iterating ERFA's forward chain."""

    def find(observation: Observation, mjd: float) -> tuple[float, float]:
        ra, dec = 0.0, np.radians(observation.dec_deg)
        for _ in range(8):
            hour_angle, apparent = hour_angle_dec(ra, dec, mjd)
            ra, dec = ra + hour_angle, dec + np.radians(observation.dec_deg) - apparent
        return ra % (2 * np.pi), dec

    return find


@pytest.fixture(scope="session")
def location() -> EarthLocation:
    return EarthLocation.from_geodetic(LONGITUDE_DEG, LATITUDE_DEG, ALTITUDE_M)
