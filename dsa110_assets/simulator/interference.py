"""Interference: narrow-band transmitters that are always on, and broadband bursts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.simulator.array import Array
from dsa110_assets.simulator.measurement import uvw_rate_m_s
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.schedule import ScheduledGroup, group_seed
from dsa110_assets.telescope import band, timegrid

_STREAM_TONES, _STREAM_BURSTS = 7, 9
_TONE_WIDTH_HZ = band.channel_width_hz()
_TONE_JY, _BURST_JY = (200.0, 3000.0), (30.0, 300.0)
_BURST_WIDTH_HZ = (10e6, 60e6)
_BURST_ANTENNAS = 0.6
_SIDELOBE_SCATTER = 0.5
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Tone:
    """A persistent transmitter within one 244 kHz channel: `power_jy` is its flux density over that width."""

    frequency_hz: float
    power_jy: float
    azimuth_rad: float


@dataclass(frozen=True)
class Burst:
    """A broadband burst over whole integrations and a frequency range, received by some antennas (0-based numbers)."""

    integration: int
    integrations: int
    low_hz: float
    high_hz: float
    power_jy: float
    azimuth_rad: float
    antennas: tuple[int, ...]


def tones(options: SimulationOptions) -> tuple[Tone, ...]:
    """The transmitters around the site; they depend only on the seed."""
    rng = np.random.default_rng([options.seed, _STREAM_TONES])
    low, high = band.band_frequencies_hz()[[0, -1]]
    return tuple(
        Tone(float(rng.uniform(low, high)), _log_uniform(rng, *_TONE_JY), float(rng.uniform(0, 2 * np.pi)))
        for _ in range(options.rfi_tones)
    )


def bursts(options: SimulationOptions, group: ScheduledGroup, array: Array) -> tuple[Burst, ...]:
    """The bursts of one group."""
    rng = group_seed(options, group.times_mjd, _STREAM_BURSTS)
    low, high = band.band_frequencies_hz()[[0, -1]]
    drawn = []
    for _ in range(int(rng.poisson(options.rfi_bursts))):
        width, centre = rng.uniform(*_BURST_WIDTH_HZ), rng.uniform(low, high)
        affected = array.numbers[rng.uniform(size=array.numbers.size) < _BURST_ANTENNAS]
        drawn.append(
            Burst(
                integration=int(rng.integers(group.times_mjd.size)),
                integrations=int(rng.integers(1, 3)),
                low_hz=float(centre - width / 2),
                high_hz=float(centre + width / 2),
                power_jy=_log_uniform(rng, *_BURST_JY),
                azimuth_rad=float(rng.uniform(0, 2 * np.pi)),
                antennas=tuple(int(n) for n in affected),
            )
        )
    return tuple(drawn)


def add(
    true: NDArray[np.complex128], array: Array, transmitters: tuple[Tone, ...], flashes: tuple[Burst, ...],
    dec_rad: float, frequencies_hz: Float, width_hz: float, seed: int,
) -> NDArray[np.bool_]:  # fmt: skip
    """Add interference [Jy] to true visibilities (time, row, channel) in place; return the (time, channel) it touches."""
    ant1, ant2 = array.baselines
    sidelobe = np.exp(_SIDELOBE_SCATTER * np.random.default_rng([seed, _STREAM_TONES, 1]).normal(size=len(array.relative_m)))
    pair = sidelobe[ant1] * sidelobe[ant2]
    touched = np.zeros((true.shape[0], frequencies_hz.size), dtype=bool)
    for tone in transmitters:
        for k in np.flatnonzero(np.abs(frequencies_hz - tone.frequency_hz) <= width_hz / 2):
            power = tone.power_jy * min(1.0, _TONE_WIDTH_HZ / width_hz)
            fringe = _fringe(array, tone.azimuth_rad, dec_rad, np.array([tone.frequency_hz]))[:, 0]
            true[:, :, k] += power * pair * fringe
            touched[:, k] = True
    for burst in flashes:
        channels = np.flatnonzero((frequencies_hz >= burst.low_hz) & (frequencies_hz <= burst.high_hz))
        rows = np.isin(ant1, burst.antennas) & np.isin(ant2, burst.antennas)
        when = slice(burst.integration, burst.integration + burst.integrations)
        if channels.size:
            fringe = _fringe(array, burst.azimuth_rad, dec_rad, frequencies_hz[channels])
            true[when, :, channels[0] : channels[-1] + 1] += burst.power_jy * (pair * rows)[:, None] * fringe
            touched[when, channels] = True
    return touched


def record(item: Tone | Burst) -> dict[str, Any]:
    """The entry in truth.json."""
    return asdict(item)


def _fringe(array: Array, azimuth_rad: float, dec_rad: float, frequencies_hz: Float) -> NDArray[np.complex128]:
    """(row, channel) response to a transmitter on the horizon.

    The correlator removes the delay w of the meridian direction, which is fixed to the ground. So the fringe is the
    same at every integration, but smeared within each because the correlator follows the sky.
    """
    uvw = array.static_uvw_m(dec_rad)
    ground = array.static_uvw_m(0.0)  # at declination 0 the axes are east, north celestial pole, equator
    horizon = np.array([np.sin(azimuth_rad), np.cos(azimuth_rad) * 0.796, -np.cos(azimuth_rad) * 0.605])
    delay = (ground @ horizon - uvw[:, 2]) / speed_of_light
    rate = -uvw_rate_m_s(uvw, dec_rad)[:, 2] / speed_of_light
    phase = np.exp(2j * np.pi * delay[:, None] * frequencies_hz)
    return np.asarray(phase * np.sinc(rate[:, None] * frequencies_hz * timegrid.INTEGRATION_S))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
