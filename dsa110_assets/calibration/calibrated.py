"""Make a calibrated, averaged measurement set with one phase centre from an observed one, and compare it with the sky.

A few integrations at a time are read, corrected, averaged over channels, rotated to the common centre and averaged over
time: the arithmetic of apply, averaging and phasing in one pass over the samples. The averaged data, a fraction of the
input, are compared with the sky in memory, corrected for their antennas' gains, and written.
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
"""Channels after which the phase recurrence restarts, as in phasing."""


@dataclass(frozen=True)
class Calibrated:
    """A calibrated set. frame: its Visibilities, of which the geometry is used. flag_fraction: that of its cross-correlations.
    observed: the result of comparing it with the sky; None without a sky to compare with. system_jy (antenna, pol): power
    of the receptors according to the tables, the median over the band; NaN where unknown."""

    frame: Visibilities
    flag_fraction: float
    observed: Observed | None
    system_jy: NDArray[np.float64]


@dataclass(frozen=True)
class SkyComparison:
    """What an observation is compared with: the known sky, the options, and the search for sources that it lacks."""

    sky: SkyModel
    options: EpochOptions
    search: Search | None = None


def calibrate_set(
    source: Path, tables: Sequence[Gains], path: Path, *, channels: int = 1, times: int = 1, against: SkyComparison | None = None,
    observer_note: str = "",
) -> Calibrated:  # fmt: skip
    """Write the measurement set `path` from the one at `source`, corrected by all `tables`, and by comparison `against` the sky.

    Every `channels` channels and `times` integrations are averaged into one (see averaging.average), all phased to the
    middle of the meridian track. Raises what measurement_set.read, apply.apply and averaging.average raise.
    """
    vis, system_jy = _corrected(source, tables, channels, times)
    return _compared(vis, system_jy, path, against, observer_note)


def write_averaged(
    vis: Visibilities, path: Path, *, channels: int = 1, times: int = 1, against: SkyComparison | None = None, observer_note: str = ""
) -> Calibrated:
    """Do the same as `calibrate_set`, stage by stage, for visibilities that another engine corrected."""
    averaged = averaging.average(phasing.to_common_centre(averaging.average(vis, channels)), 1, times)
    gains, good = np.ones((1, len(vis.antennas.names), 1, 2), np.complex128), np.ones((1, 1, 1, 1), np.bool_)
    power = apply.system_power(vis, vis.data[: apply.AUTO_INTEGRATIONS, vis.is_auto], gains, good)
    return _compared(averaged, _over_band(power), path, against, observer_note)


def _over_band(power_jy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return medians (antenna, pol) of (time, antenna, channel, pol); NaN where there are no values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(power_jy, axis=(0, 2)))


def _compared(
    vis: Visibilities, system_jy: NDArray[np.float64], path: Path, against: SkyComparison | None, observer_note: str
) -> Calibrated:
    """Compare calibrated visibilities with the sky, correct them in place, and write them."""
    observed = None
    if against is not None and len(against.sky):
        observed = antennas.observe(vis, against.sky, against.options, against.search)
        antennas.correct(vis, observed.sums, observed.epoch, observed.scale_applied, observed.noise)
    measurement_set.write(vis, path, observer_note=observer_note, unit="Jy")
    return Calibrated(vis, float(vis.flags[:, ~vis.is_auto].mean()), observed, system_jy)


def _corrected(source: Path, tables: Sequence[Gains], channels: int, times: int) -> tuple[Visibilities, NDArray[np.float64]]:
    """Return the measurement set at `source`, calibrated, averaged and phased, and the receptors' power [Jy] (antenna, pol)."""
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
        step = math.lcm(times, 8 // math.gcd(frame.ant1.size, 8))  # so that every read of flag bits begins at a byte
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
    """Memory for some integrations: while those of one slot are corrected, the next are read into the other."""

    def __init__(self, frame: Visibilities, n_times: int) -> None:
        shape = (n_times, *frame.data.shape[1:])
        self.data, self.flags, self.weights = np.empty(shape, np.complex64), np.empty(shape, np.bool_), np.empty(shape, np.float32)

    def load(self, stored: measurement_set.StoredSet, first_time: int, n_times: int) -> None:
        stored.load(first_time, self.data[:n_times], self.flags[:n_times], self.weights[:n_times])


class _Correction:
    """The correction of all integrations: `inverse` 1/g and `power`, the weight factors (time or 1, antenna, channel or
    1, pol), both 0 without a solution; delays (time, baseline)."""

    def __init__(
        self, inverse: NDArray[np.complex64], power: NDArray[np.float32], delay_s: NDArray[np.float64], channels: int, times: int
    ) -> None:
        self._inverse, self._power, self._delay_s, self._channels, self._times = inverse, power, delay_s, channels, times

    def run(
        self, averaged: Visibilities, slot: _Slot, first_time: int, n_times: int, data: NDArray[np.complex64],
        flags: NDArray[np.bool_], weights: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """Fill data, flags and weights of averaged integrations from the slot's first `n_times` integrations."""
        span, shape = slice(first_time, first_time + n_times), (slice(None), *slot.data.shape[2:])
        inverse, power = (
            np.ascontiguousarray(np.broadcast_to(part, (*part.shape[:2], *shape[1:]))).reshape(*part.shape[:2], -1)
            for part in (values[span] if len(values) > 1 else values for values in (self._inverse, self._power))
        )
        _calibrate(
            _rows(slot.data[:n_times]).view(np.float32), _rows(slot.flags[:n_times]).view(np.uint8), _rows(slot.weights[:n_times]),
            averaged.ant1, averaged.ant2, inverse.view(np.float32), power, self._delay_s[span], averaged.frequencies_hz,
            self._channels, self._times,
            _rows(data).view(np.float32), _rows(flags).view(np.uint8), _rows(weights),
        )  # fmt: skip


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    """Return the same memory as (time, baseline, channel x pol)."""
    return values.reshape(*values.shape[:2], -1)


def _geometry(frame: Visibilities, channels: int, times: int) -> tuple[Visibilities, NDArray[np.float64]]:
    """Return the frame of the averaged set and w_old - w_new [s] (time, baseline), by running the stages on data without channels."""
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
    """Calibrate and average integrations into `out`, `out_flags` and `out_weights`; every sample of these is set.

    The last axis is channel x pol; in data, inverse and out it has real and imaginary parts as float32.
    """
    n_times, n_baselines, n_in = flags.shape
    n_out = frequencies_hz.size
    s_inverse, s_power = int(inverse.shape[0] > 1), int(power.shape[0] > 1)
    for row in prange(out_flags.shape[0] * n_baselines):
        o, b = row // n_baselines, row % n_baselines
        i, j = ant1[b], ant2[b]
        real, imaginary, share = np.empty(n_in, np.float32), np.empty(n_in, np.float32), np.empty(n_in, np.float32)
        rotation = np.empty((n_out, 2))
        total, weight = np.zeros((n_out, 2, 2)), np.zeros((n_out, 2))
        for t in range(o * times, min((o + 1) * times, n_times)):
            s, q = t * s_inverse, t * s_power
            _correct(data[t, b], flags[t, b], weights[t, b], inverse[s, i], inverse[s, j], power[q, i], power[q, j],
                     real, imaginary, share)  # fmt: skip
            _rotations(2 * np.pi * delay_s[t, b], frequencies_hz, rotation)
            for c in range(n_out):
                for p in range(2):
                    x, y, w = 0.0, 0.0, 0.0
                    for k in range(2 * c * channels + p, 2 * (c + 1) * channels, 2):
                        x += real[k]
                        y += imaginary[k]
                        w += share[k]
                    total[c, p, 0] += x * rotation[c, 0] - y * rotation[c, 1]
                    total[c, p, 1] += x * rotation[c, 1] + y * rotation[c, 0]
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
    """Divide one row's samples by the gains and multiply them by their weights; also set the weights. Both are 0 where flagged."""
    for k in range(flags.size):
        w = weights[k] * (power_i[k] * power_j[k]) if flags[k] == 0 else np.float32(0)
        a, b, c, d = inverse_i[2 * k], inverse_i[2 * k + 1], inverse_j[2 * k], inverse_j[2 * k + 1]
        x, y = a * c + b * d, b * c - a * d
        real[k] = w * (data[2 * k] * x - data[2 * k + 1] * y)
        imaginary[k] = w * (data[2 * k] * y + data[2 * k + 1] * x)
        share[k] = w


@njit(cache=True)
def _rotations(angle_s, frequencies_hz, rotation):  # type: ignore[no-untyped-def]
    """Set `rotation` (channel, 2) to cos and sin of angle_s x frequency, for evenly spaced channels."""
    step_hz = frequencies_hz[1] - frequencies_hz[0] if frequencies_hz.size > 1 else 0.0
    step_cos, step_sin = np.cos(angle_s * step_hz), np.sin(angle_s * step_hz)
    for c in range(frequencies_hz.size):
        if c % _RESTART == 0:
            rotation[c, 0], rotation[c, 1] = np.cos(angle_s * frequencies_hz[c]), np.sin(angle_s * frequencies_hz[c])
        else:
            rotation[c, 0] = rotation[c - 1, 0] * step_cos - rotation[c - 1, 1] * step_sin
            rotation[c, 1] = rotation[c - 1, 0] * step_sin + rotation[c - 1, 1] * step_cos
