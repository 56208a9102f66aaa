"""From a measurement set to its calibrated, averaged one with one phase centre, compared with the sky on the way.

Some integrations at a time are read, corrected, averaged over channels, rotated to the common centre and averaged over
time: the arithmetic of apply, averaging and phasing in one pass over the samples. What is left, a fraction of them, is
compared with the sky in memory, corrected by what its antennas show, and written.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.calibration import antennas, apply
from dsa110_assets.calibration.antennas import Observed
from dsa110_assets.calibration.epoch_options import EpochOptions
from dsa110_assets.calibration.field import Search
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities import averaging, measurement_set, phasing
from dsa110_assets.visibilities.types import Visibilities

_RESTART = 64
"""Channels after which the phase recurrence starts anew, as in phasing."""


@dataclass(frozen=True)
class Calibrated:
    """frame: the new set's Visibilities, of which the geometry counts. flag_fraction: of its cross-correlations. observed: what
    its antennas were found to be against the sky; None where there was no sky to compare with. system_jy (antenna, pol): power
    of the receptors by the tables, the median over the band; NaN where unknown."""

    frame: Visibilities
    flag_fraction: float
    observed: Observed | None
    system_jy: NDArray[np.float64]


@dataclass(frozen=True)
class Against:
    """What an observation is compared with: the known sky, how, and what finds sources that it lacks."""

    sky: SkyModel
    options: EpochOptions
    search: Search | None = None


def calibrate_set(
    source: Path, tables: Sequence[Gains], path: Path, *, channels: int = 1, times: int = 1, against: Against | None = None,
    observer_note: str = "",
) -> Calibrated:  # fmt: skip
    """Write the measurement set `path` from the one at `source`, corrected by all `tables`, and by itself `against` the sky.

    Every `channels` channels and `times` integrations are averaged into one (see averaging.average), all phased to the
    middle of the meridian track. Raises what measurement_set.read, apply.apply and averaging.average raise.
    """
    vis, system_jy = _corrected(source, tables, channels, times)
    return _compared(vis, system_jy, path, against, observer_note)


def write_averaged(
    vis: Visibilities, path: Path, *, channels: int = 1, times: int = 1, against: Against | None = None, observer_note: str = ""
) -> Calibrated:
    """The same of visibilities that another engine corrected, stage by stage."""
    averaged = averaging.average(phasing.to_common_centre(averaging.average(vis, channels)), 1, times)
    gains, good = np.ones((1, len(vis.antennas.names), 1, 2), np.complex128), np.ones((1, 1, 1, 1), np.bool_)
    power = apply.system_power(vis, vis.data[: apply.AUTO_INTEGRATIONS, vis.is_auto], gains, good)
    return _compared(averaged, _over_band(power), path, against, observer_note)


def _over_band(power_jy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(antenna, pol) medians of (time, antenna, channel, pol); NaN of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(power_jy, axis=(0, 2)))


def _compared(vis: Visibilities, system_jy: NDArray[np.float64], path: Path, against: Against | None, observer_note: str) -> Calibrated:
    """Write calibrated visibilities, whose arrays are overwritten by what their antennas need."""
    observed = None
    if against is not None and len(against.sky):
        observed = antennas.observe(vis, against.sky, against.options, against.search)
        antennas.correct(vis, observed.sums, observed.epoch, observed.scale_applied, observed.noise)
    measurement_set.write(vis, path, observer_note=observer_note, unit="Jy")
    return Calibrated(vis, float(vis.flags[:, ~vis.is_auto].mean()), observed, system_jy)


def _corrected(source: Path, tables: Sequence[Gains], channels: int, times: int) -> tuple[Visibilities, NDArray[np.float64]]:
    """The measurement set at `source`, calibrated, averaged and phased; and the receptors' power [Jy] (antenna, pol)."""
    with measurement_set.opened(source) as stored:
        frame = stored.frame
        gains, good = apply.total_gains(frame, tables)
        averaged, delay_s = _geometry(frame, channels, times)
        autos = stored.autocorrelations(apply.AUTO_INTEGRATIONS)
        power_jy = apply.system_power(frame, autos, gains, good)
        power, system_jy = apply.weight_factors(frame, power_jy, gains, good), _over_band(power_jy)
        correction = _Correction(np.where(good, 1 / gains, 0).astype(np.complex64), power, delay_s, channels, times)
        shape = averaged.data.shape
        data, flags, weights = np.empty(shape, np.complex64), np.empty(shape, np.bool_), np.empty(shape, np.float32)
        step = math.lcm(times, 8 // math.gcd(frame.ant1.size, 8))  # so that every reading of bits begins with a byte
        parts = [(t, min(step, frame.times_mjd.size - t)) for t in range(0, frame.times_mjd.size, step)]
        slots = [_Slot(frame, parts[0][1]) for _ in parts[:2]]
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(slots[0].load, stored, *parts[0])
            for number, (t, n) in enumerate(parts):
                slot = slots[number % 2]
                reading.result()
                if number + 1 < len(parts):
                    reading = reader.submit(slots[(number + 1) % 2].load, stored, *parts[number + 1])
                out = slice(t // times, t // times - (-n // times))
                correction.run(averaged, slot, t, n, data[out], flags[out], weights[out])
    return replace(averaged, data=data, flags=flags, weights=weights), system_jy


class _Slot:
    """Memory for some integrations: while those of one slot are computed, another is read into."""

    def __init__(self, frame: Visibilities, n_times: int) -> None:
        shape = (n_times, *frame.data.shape[1:])
        self.data, self.flags, self.weights = np.empty(shape, np.complex64), np.empty(shape, np.bool_), np.empty(shape, np.float32)

    def load(self, stored: measurement_set.StoredSet, first_time: int, n_times: int) -> None:
        stored.load(first_time, self.data[:n_times], self.flags[:n_times], self.weights[:n_times])


class _Correction:
    """What all integrations are corrected by: `inverse` 1/g and `power`, the weight factors (time or 1, antenna, channel or
    1, pol), both 0 without a solution; delays (time, baseline)."""

    def __init__(
        self, inverse: NDArray[np.complex64], power: NDArray[np.float32], delay_s: NDArray[np.float64], channels: int, times: int
    ) -> None:
        self._inverse, self._power, self._delay_s, self._channels, self._times = inverse, power, delay_s, channels, times

    def run(
        self, averaged: Visibilities, slot: _Slot, first_time: int, n_times: int, data: NDArray[np.complex64],
        flags: NDArray[np.bool_], weights: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """Fill data, flags and weights of averaged integrations from the slot's first `n_times`."""
        here, shape = slice(first_time, first_time + n_times), (slice(None), *slot.data.shape[2:])
        inverse, power = (
            np.ascontiguousarray(np.broadcast_to(part, (*part.shape[:2], *shape[1:]))).reshape(*part.shape[:2], -1)
            for part in (values[here] if len(values) > 1 else values for values in (self._inverse, self._power))
        )
        _calibrate(
            _rows(slot.data[:n_times]).view(np.float32), _rows(slot.flags[:n_times]).view(np.uint8), _rows(slot.weights[:n_times]),
            averaged.ant1, averaged.ant2, inverse.view(np.float32), power, self._delay_s[here], averaged.frequencies_hz,
            self._channels, self._times,
            _rows(data).view(np.float32), _rows(flags).view(np.uint8), _rows(weights),
        )  # fmt: skip


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    """The same memory as (time, baseline, channel x pol)."""
    return values.reshape(*values.shape[:2], -1)


def _geometry(frame: Visibilities, channels: int, times: int) -> tuple[Visibilities, NDArray[np.float64]]:
    """(frame of the averaged set, w_old - w_new [s] (time, baseline)), from the stages themselves on no channels."""
    shape = (*frame.data.shape[:2], 0, 2)
    empty = replace(frame, data=np.empty(shape, np.complex64), flags=np.empty(shape, np.bool_), weights=np.empty(shape, np.float32))
    averaged = averaging.average(phasing.to_common_centre(averaging.average(empty, channels)), 1, times)
    full = (*averaged.data.shape[:2], averaged.frequencies_hz.size, 2)
    made = replace(
        averaged,
        data=np.broadcast_to(np.complex64(0), full),
        flags=np.broadcast_to(np.bool_(False), full),
        weights=np.broadcast_to(np.float32(1), full),
    )
    delay_s = (frame.uvw_m[..., 2] - phasing.to_common_centre(empty).uvw_m[..., 2]) / speed_of_light
    return made, delay_s


@njit(cache=True, parallel=True, error_model="numpy")
def _calibrate(  # type: ignore[no-untyped-def]
    data, flags, weights, ant1, ant2, inverse, power, delay_s, frequencies_hz, channels, times, out, out_flags, out_weights
):
    """Integrations into `out`, `out_flags` and `out_weights`, every sample of them.

    Rows are of channel x pol; data, inverse and out have real and imaginary parts as float32 there.
    """
    n_times, n_baselines, n_in = flags.shape
    n_out = frequencies_hz.size
    s_inverse, s_power = int(inverse.shape[0] > 1), int(power.shape[0] > 1)
    for row in prange(out_flags.shape[0] * n_baselines):
        o, b = row // n_baselines, row % n_baselines
        i, j = ant1[b], ant2[b]
        real, imaginary, share = np.empty(n_in, np.float32), np.empty(n_in, np.float32), np.empty(n_in, np.float32)
        turn = np.empty((n_out, 2))
        total, weight = np.zeros((n_out, 2, 2)), np.zeros((n_out, 2))
        for t in range(o * times, min((o + 1) * times, n_times)):
            s, q = t * s_inverse, t * s_power
            _correct(data[t, b], flags[t, b], weights[t, b], inverse[s, i], inverse[s, j], power[q, i], power[q, j],
                     real, imaginary, share)  # fmt: skip
            _turns(2 * np.pi * delay_s[t, b], frequencies_hz, turn)
            for c in range(n_out):
                for p in range(2):
                    x, y, w = 0.0, 0.0, 0.0
                    for k in range(2 * c * channels + p, 2 * (c + 1) * channels, 2):
                        x += real[k]
                        y += imaginary[k]
                        w += share[k]
                    total[c, p, 0] += x * turn[c, 0] - y * turn[c, 1]
                    total[c, p, 1] += x * turn[c, 1] + y * turn[c, 0]
                    weight[c, p] += w
        for c in range(n_out):
            for p in range(2):
                k, good = 2 * c + p, weight[c, p] > 0
                scale = 1 / weight[c, p] if good else 0.0
                out[o, b, 2 * k] = total[c, p, 0] * scale
                out[o, b, 2 * k + 1] = total[c, p, 1] * scale
                out_flags[o, b, k] = not good
                out_weights[o, b, k] = weight[c, p]


@njit(cache=True)
def _correct(data, flags, weights, inverse_i, inverse_j, power_i, power_j, real, imaginary, share):  # type: ignore[no-untyped-def]
    """One row's samples divided by the gains, times their weights, and the weights; 0 where flagged."""
    for k in range(flags.size):
        w = weights[k] * (power_i[k] * power_j[k]) if flags[k] == 0 else np.float32(0)
        a, b, c, d = inverse_i[2 * k], inverse_i[2 * k + 1], inverse_j[2 * k], inverse_j[2 * k + 1]
        x, y = a * c + b * d, b * c - a * d
        real[k] = w * (data[2 * k] * x - data[2 * k + 1] * y)
        imaginary[k] = w * (data[2 * k] * y + data[2 * k + 1] * x)
        share[k] = w


@njit(cache=True)
def _turns(angle_s, frequencies_hz, turn):  # type: ignore[no-untyped-def]
    """cos and sin of angle_s x frequency (channel, 2), of evenly spaced channels."""
    step_hz = frequencies_hz[1] - frequencies_hz[0] if frequencies_hz.size > 1 else 0.0
    across, along = np.cos(angle_s * step_hz), np.sin(angle_s * step_hz)
    for c in range(frequencies_hz.size):
        if c % _RESTART == 0:
            turn[c, 0], turn[c, 1] = np.cos(angle_s * frequencies_hz[c]), np.sin(angle_s * frequencies_hz[c])
        else:
            turn[c, 0] = turn[c - 1, 0] * across - turn[c - 1, 1] * along
            turn[c, 1] = turn[c - 1, 0] * along + turn[c - 1, 1] * across
