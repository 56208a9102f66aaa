"""Small observations from the measurement equation, independent of the simulator and `predict`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.telescope import astrometry, band, stations, timegrid
from dsa110_assets.visibilities.types import Antennas, Visibilities

START_MJD = 61065.93
DEC_RAD = np.deg2rad(16.27)


@dataclass(frozen=True)
class Observation:
    """Corrupted visibilities, the model they were made from, and the gains (time, antenna, channel, pol)."""

    vis: Visibilities
    model: NDArray[np.complex64]
    gains: NDArray[np.complex128]


def _observation(
    *,
    station_numbers: tuple[int, ...] = (1, 9, 20, 35, 47, 70, 85, 101, 103, 104, 108, 113),
    n_times: int = 6,
    n_subbands: int = 2,
    n_channels: int = 4,
    sources: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 10.0),),
    noise: float = 0.0,
    drift: float = 0.0,
    max_delay_ns: float = 3.0,
    seed: int = 1,
) -> Observation:
    """`sources` are (east offset deg at the first integration's centre, north offset deg, Jy); the sky drifts
    through the meridian frame. Gains are near 0.068: bandpass times (if `drift`) time-dependent gain.
    `noise` is the rms per real and imaginary part in data units at unit weight."""
    rng = np.random.default_rng(seed)
    survey = stations.surveyed()
    used = [survey.names.index(str(n)) for n in station_numbers]
    antennas = Antennas(survey.names, survey.relative_m, np.full(117, 4.65))
    pairs = [(used[j], used[i]) for i in range(len(used)) for j in range(i + 1)]
    ant1, ant2 = np.array(pairs, dtype=np.int32).T
    times = START_MJD + np.arange(n_times) * timegrid.INTEGRATION_S / 86400
    frequencies = band.band_frequencies_hz(n_subbands, n_channels)
    centres = astrometry.meridian_icrs_rad(times, DEC_RAD)
    uvw = astrometry.icrs_uvw_m(survey.relative_m, centres, times)
    baselines = uvw[:, ant2] - uvw[:, ant1]
    model = np.zeros((n_times, ant1.size, frequencies.size), dtype=np.complex128)
    for east, north, jy in sources:
        ra = centres[0, 0] + np.deg2rad(east) / np.cos(DEC_RAD)
        dec = centres[0, 1] + np.deg2rad(north)
        for t in range(n_times):
            l, m, n = astrometry.lmn(ra, dec, centres[t])
            delay = (baselines[t] @ np.array([l, m, n - 1])) / speed_of_light
            flux = jy * (frequencies / 1.4e9) ** -0.7 * np.exp(-((l**2 + m**2) / np.deg2rad(1.7) ** 2))
            model[t] += flux * np.exp(2j * np.pi * delay[:, None] * frequencies)
    model = model.astype(np.complex64)
    gains = _gains(rng, n_times, frequencies, drift, max_delay_ns)
    data = model[..., None] * gains[:, ant1] * gains[:, ant2].conj()
    data += noise * (rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape))
    vis = Visibilities(
        data.astype(np.complex64), np.zeros(data.shape, bool), np.ones(data.shape, np.float32), ant1, ant2,
        times, timegrid.INTEGRATION_S, frequencies, band.channel_width_hz(n_channels), baselines, centres,
        DEC_RAD, antennas,
    )  # fmt: skip
    return Observation(vis, model, gains)


def _gains(rng, n_times, frequencies, drift, max_delay_ns) -> NDArray[np.complex128]:  # type: ignore[no-untyped-def]
    x = np.linspace(-1, 1, frequencies.size)
    amplitude = 0.068 * rng.uniform(0.7, 1.3, (1, 117, 1, 2)) * (1 + 0.2 * rng.normal(size=(1, 117, 1, 2)) * x[:, None])
    delay = rng.uniform(-max_delay_ns, max_delay_ns, (1, 117, 1, 2)) * 1e-9
    phase = rng.uniform(-np.pi, np.pi, (1, 117, 1, 2)) + 2 * np.pi * delay * (frequencies - frequencies.mean())[:, None]
    t = np.arange(n_times)[:, None, None, None]
    turning = drift * rng.normal(size=(1, 117, 1, 2)) * t
    swelling = 1 + 0.2 * drift * rng.normal(size=(1, 117, 1, 2)) * t
    return amplitude * np.exp(1j * phase) * swelling * np.exp(1j * turning)


@pytest.fixture(scope="session")
def observation() -> Callable[..., Observation]:
    """Factory of small observations."""
    return _observation


@pytest.fixture(scope="session")
def shuffled() -> Callable[[Observation], Observation]:
    """The same observation with baselines in random order and half of them reversed (ant1 > ant2)."""

    def shuffle(obs: Observation) -> Observation:
        rng = np.random.default_rng(5)
        vis = obs.vis
        order = rng.permutation(vis.ant1.size)
        turn = rng.random(order.size) < 0.5

        def turned(array):  # type: ignore[no-untyped-def]
            out = array[:, order].copy()
            out[:, turn] = out[:, turn].conj()
            return out

        ant1, ant2 = vis.ant1[order], vis.ant2[order]
        uvw = vis.uvw_m[:, order].copy()
        uvw[:, turn] *= -1
        return replace(obs, model=turned(obs.model), vis=replace(
            vis, data=turned(vis.data), flags=vis.flags[:, order], weights=vis.weights[:, order], uvw_m=uvw,
            ant1=np.where(turn, ant2, ant1), ant2=np.where(turn, ant1, ant2)))  # fmt: skip

    return shuffle
