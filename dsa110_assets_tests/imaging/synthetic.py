"""Visibilities by direct evaluation of the measurement equation: the truth for the imaging tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.telescope import astrometry, band, beam, stations, timegrid
from dsa110_assets.visibilities.types import Antennas, Visibilities

START_MJD = 61065.934


def observe(
    sources: list[tuple[float, float, float]],
    *,
    n_antennas: int = 24,
    n_times: int = 24,
    n_subbands: int = 16,
    n_channels: int = 1,
    dec_deg: float = 37.0,
    start_mjd: float = START_MJD,
    primary_beam: bool = False,
    noise_jy: float = 0.0,
    autos: bool = True,
    seed: int = 1,
    core_only: bool = True,
    smeared: bool = False,
) -> Visibilities:
    """Calibrated visibilities about a common phase centre, the middle pointing.

    `sources`: (l east, m north [deg about the phase centre], Jy). `noise_jy`: sigma of a real or imaginary
    part of one polarisation. Every sample is evaluated at its centre or, `smeared`, averaged over its channel and
    integration about the meridian, which the correlator tracks.
    """
    rng = np.random.default_rng(seed)
    chosen = _antennas(n_antennas, core_only)
    positions = stations.surveyed().relative_m[chosen]
    ant1, ant2 = np.triu_indices(n_antennas, 0 if autos else 1)
    times = start_mjd + np.arange(n_times) * timegrid.INTEGRATION_S / 86400
    pointings = astrometry.meridian_icrs_rad(times, np.deg2rad(dec_deg))
    centre = np.array([astrometry.circular_mean_rad(pointings[:, 0]), pointings[:, 1].mean()])
    uvw = astrometry.icrs_uvw_m(positions, centre, times)
    uvw = uvw[:, ant2] - uvw[:, ant1]
    frequencies = band.band_frequencies_hz(n_subbands, n_channels)
    data = np.zeros((n_times, ant1.size, frequencies.size), dtype=np.complex128)
    for east_deg, north_deg, flux in sources:
        ra, dec = position_rad(centre, east_deg, north_deg)
        gain = np.ones((n_times, frequencies.size))
        if primary_beam:
            away = astrometry.separation_deg(ra, dec, pointings[:, 0], pointings[:, 1])
            gain = beam.power(away[:, None], frequencies[None, :])
        place = np.array(astrometry.lmn(ra, dec, centre))
        phase = direct_phase(uvw, frequencies, *place)
        if smeared:
            phase = _averaged_phase(positions, ant1, ant2, centre, times, pointings, frequencies, band.channel_width_hz(n_channels), place)
        data += flux * gain[:, None, :] * phase
    both = np.repeat(data[..., None], 2, axis=-1)
    both += noise_jy * (rng.standard_normal(both.shape) + 1j * rng.standard_normal(both.shape))
    return Visibilities(
        data=both.astype(np.complex64),
        flags=np.zeros(both.shape, dtype=bool),
        weights=np.ones(both.shape, dtype=np.float32),
        ant1=ant1.astype(np.int32),
        ant2=ant2.astype(np.int32),
        times_mjd=times,
        interval_s=timegrid.INTEGRATION_S,
        frequencies_hz=frequencies,
        channel_width_hz=band.channel_width_hz(n_channels),
        uvw_m=uvw,
        phase_centres_rad=np.tile(centre, (n_times, 1)),
        pointing_dec_rad=float(np.deg2rad(dec_deg)),
        antennas=Antennas(tuple(str(i + 1) for i in chosen), positions, np.full(n_antennas, 4.65)),
    )


def direct_phase(uvw_m: NDArray[np.float64], frequencies_hz: NDArray[np.float64], l: float, m: float, n: float) -> NDArray[np.complex128]:
    """exp[+2 pi i nu/c (u l + v m + w (n - 1))] for uvw (..., 3): shape (..., channel)."""
    path = uvw_m @ np.array([l, m, n - 1])
    return np.exp(2j * np.pi * path[..., None] * frequencies_hz / speed_of_light)


def _averaged_phase(positions, ant1, ant2, centre, times, pointings, frequencies, width_hz, place):  # type: ignore[no-untyped-def]
    """`direct_phase` averaged over channels and integrations (Gauss-Legendre, 3 nodes each), in a frame in which the direction tracked
    at each integration's middle has a constant phase."""
    nodes, shares = np.polynomial.legendre.leggauss(3)
    tracked = np.stack(astrometry.lmn(pointings[:, 0], pointings[:, 1], centre), axis=-1)

    def path(mjd: NDArray[np.float64], direction: NDArray[np.float64]) -> NDArray[np.float64]:
        uvw = astrometry.icrs_uvw_m(positions, centre, mjd)
        return np.einsum("tbk,tk->tb", uvw[:, ant2] - uvw[:, ant1], np.broadcast_to(direction, (mjd.size, 3)) - [0, 0, 1])

    total = np.zeros((times.size, ant1.size, frequencies.size), dtype=np.complex128)
    for time_node, share in zip(nodes, shares, strict=True):
        mjd = times + time_node / 2 * timegrid.INTEGRATION_S / 86400
        away = (path(mjd, place) - path(mjd, tracked))[..., None]
        for frequency_node, part in zip(nodes, shares, strict=True):
            total += share * part / 4 * np.exp(2j * np.pi * away * (frequencies + frequency_node / 2 * width_hz) / speed_of_light)
    return total * np.exp(2j * np.pi * path(times, tracked)[..., None] * frequencies / speed_of_light)


def position_rad(centre: NDArray[np.float64], east_deg: float, north_deg: float) -> tuple[float, float]:
    """ICRS (ra, dec) of direction cosines (l, m) = sin of the offsets, about a centre."""
    l, m = np.sin(np.deg2rad([east_deg, north_deg]))
    n = np.sqrt(1 - l * l - m * m)
    ra0, dec0 = centre
    return (
        float(ra0 + np.arctan2(l, n * np.cos(dec0) - m * np.sin(dec0))),
        float(np.arcsin(m * np.cos(dec0) + n * np.sin(dec0))),
    )


def _antennas(count: int, core_only: bool) -> NDArray[np.intp]:
    """Antennas spread over both arms (1-51 east-west, 68-102 north-south), and over the outriggers unless `core_only`."""
    numbers = [n for n in stations.active_stations() if n <= (102 if core_only else 116)]
    return np.array(numbers)[np.unique(np.linspace(0, len(numbers) - 1, count).astype(int))] - 1
