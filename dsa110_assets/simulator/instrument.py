"""The instrument: complex gains and bandpasses, dead receptors, applied delays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.simulator.array import Array
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.telescope import band, stations

_STREAM_ANTENNA, _STREAM_NIGHT, _STREAM_DEAD = 4, 5, 6
_REFANT_NUMBER = 102
_AMPLITUDE_SCATTER = 0.15
_RESIDUAL_DELAY_S = 1e-9
"""Delays are applied in steps of 2 ns; the residual is about half of that."""
_RIPPLES = 3
_RIPPLE_AMPLITUDE = 0.06
_NIGHT_PHASE_FACTOR = 3.0
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Instrument:
    """`dead_antennas` (0-based numbers) write zeros; `dead_receptors` (number, pol) record noise without any sky."""

    array: Array
    options: SimulationOptions
    dead_antennas: tuple[int, ...]
    dead_receptors: tuple[tuple[int, int], ...]

    def gains(self, night: str, times_mjd: Float, frequencies_hz: Float) -> NDArray[np.complex128]:
        """Gains (time, antenna as in `array.numbers`, channel, pol): V_observed = g_1 conj(g_2) V_true.

        They are a static part per receptor (amplitude, phase, delay, smooth ripples), a new draw per night, and a daily
        sinusoid. Dead receptors have gains here too: what they lack is the sky.
        """
        shape = (times_mjd.size, self.array.numbers.size, frequencies_hz.size, 2)
        gains = np.empty(shape, dtype=np.complex128)
        for i, number in enumerate(self.array.numbers):
            for pol in range(2):
                gains[:, i, :, pol] = self._receptor(int(number), pol, night, times_mjd, frequencies_hz)
        return gains

    def sky_response(self) -> Float:
        """(antenna, pol): 1 where a receptor sees the sky, 0 where it is dead."""
        response = np.ones((self.array.numbers.size, 2))
        for number, pol in [*self.dead_receptors, *((n, p) for n in self.dead_antennas for p in (0, 1))]:
            response[np.searchsorted(self.array.numbers, number), pol] = 0
        return response

    def applied_delays_ns(self) -> NDArray[np.int64]:
        """(117, 2): multiples of 2 ns near 15,000, 0 for inputs that are not connected."""
        rng = np.random.default_rng([self.options.seed, _STREAM_DEAD, 1])
        delays = 15_000 + 2 * rng.integers(-250, 250, size=(stations.N_STATIONS, 2))
        connected = np.zeros(stations.N_STATIONS, dtype=bool)
        connected[self.array.numbers] = True
        connected[list(self.dead_antennas)] = False
        return np.where(connected[:, None], delays, 0)

    def _receptor(self, number: int, pol: int, night: str, times_mjd: Float, frequencies_hz: Float) -> NDArray[np.complex128]:
        """(time, channel) gain of one receptor; a function of seed, antenna number, pol and night."""
        o = self.options
        rng = np.random.default_rng([o.seed, _STREAM_ANTENNA, number, pol])
        amplitude = o.gain_amplitude * np.exp(o.gain_scatter * _AMPLITUDE_SCATTER * np.clip(rng.normal(), -2.5, 2.5))
        phase = o.gain_scatter * rng.uniform(0, 2 * np.pi)
        delay = o.gain_scatter * np.clip(rng.normal(), -2.5, 2.5) * _RESIDUAL_DELAY_S
        low, high = (
            band.BAND_TOP_HZ - (band.FIRST_FINE_CHANNEL + 16 * band.FINE_PER_SUBBAND) * band.FINE_CHANNEL_HZ,
            band.BAND_TOP_HZ,
        )
        x = (frequencies_hz - low) / (high - low)
        log_bandpass = 2j * np.pi * (frequencies_hz - (low + high) / 2) * delay
        for k in range(1, _RIPPLES + 1):
            size, turn = (
                rng.normal(size=2) * _RIPPLE_AMPLITUDE / k * o.gain_scatter,
                rng.uniform(0, 2 * np.pi, size=2),
            )
            log_bandpass = log_bandpass + size[0] * np.cos(2 * np.pi * k * x + turn[0])
            log_bandpass = log_bandpass + 1j * size[1] * np.cos(2 * np.pi * k * x + turn[1])
        draw = np.random.default_rng([o.seed, _STREAM_NIGHT, int(night.replace("-", "")), number, pol])
        night_step = o.gain_night_scatter * (draw.normal() + 1j * _NIGHT_PHASE_FACTOR * draw.normal())
        angle = 2 * np.pi * ((times_mjd % 1.0)[:, None] + rng.uniform(size=2))
        drift = o.gain_drift * (np.sin(angle[:, 0]) + 1j * np.sin(angle[:, 1]))
        return np.asarray(amplitude * np.exp(1j * phase + night_step + log_bandpass[None, :] + drift[:, None]))


def build(options: SimulationOptions, array: Array) -> Instrument:
    """Build the instrument of a run. The first reference antenna, if present, is never dead."""
    rng = np.random.default_rng([options.seed, _STREAM_DEAD])
    candidates = rng.permutation(array.numbers[array.numbers != _REFANT_NUMBER])
    automatic = round(array.numbers.size / 24)
    n_antennas = automatic if options.dead_antennas < 0 else options.dead_antennas
    n_receptors = automatic if options.dead_receptors < 0 else options.dead_receptors
    dead_antennas = tuple(sorted(int(n) for n in candidates[:n_antennas]))
    dead_receptors = tuple((int(n), int(rng.integers(2))) for n in candidates[n_antennas : n_antennas + n_receptors])
    return Instrument(array, options, dead_antennas, dead_receptors)
