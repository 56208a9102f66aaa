"""From a measurement set to its calibrated, averaged one with one phase centre, in one pass over the samples.

Some integrations at a time are read, corrected, averaged over channels, rotated to the common centre, averaged over
time and written: the arithmetic of apply, averaging and phasing, with no array of the whole observation between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.calibration import apply
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.visibilities import averaging, measurement_set, phasing
from dsa110_assets.visibilities.types import Visibilities

_RESTART = 64
"""Channels after which the phase recurrence starts anew, as in phasing."""


@dataclass(frozen=True)
class Calibrated:
    """frame: the new set's Visibilities, of which the geometry counts. flag_fraction: of its cross-correlations."""

    frame: Visibilities
    flag_fraction: float


def calibrate_set(
    source: Path, tables: Sequence[Gains], path: Path, *, channels: int = 1, times: int = 1, observer_note: str = ""
) -> Calibrated:
    """Write the measurement set `path` from the one at `source`, corrected by all `tables`.

    Every `channels` channels and `times` integrations are averaged into one (see averaging.average), all phased to the
    middle of the meridian track. Raises what measurement_set.read, apply.apply and averaging.average raise.
    """
    with measurement_set.opened(source) as stored:
        frame = stored.frame
        gains, good = apply.total_gains(frame, tables)
        inverse = np.where(good, 1 / gains, 0).astype(np.complex64)
        averaged, delay_s = _geometry(frame, channels, times)
        new = measurement_set.NewSet(averaged, path, None)
        flags = np.empty(averaged.data.shape, np.bool_)
        step = math.lcm(times, 8 // math.gcd(frame.ant1.size, 8))  # so that every reading of bits begins with a byte
        shape = (min(step, frame.times_mjd.size), *frame.data.shape[1:])
        data, marks, weights = np.empty(shape, np.complex64), np.empty(shape, np.bool_), np.empty(shape, np.float32)
        outs = -(-shape[0] // times), *averaged.data.shape[1:]
        out, out_weights = np.empty(outs, np.complex64), np.empty(outs, np.float32)
        weight = np.empty((averaged.times_mjd.size, frame.ant1.size, 2), np.float32)
        with new.column("DATA") as data_column, new.column("WEIGHT_SPECTRUM") as weight_column:
            for t in range(0, frame.times_mjd.size, step):
                n = min(step, frame.times_mjd.size - t)
                first, n_out = t // times, -(-n // times)
                stored.load(t, data[:n], marks[:n], weights[:n])
                if t == 0:
                    power = apply.weight_factors(frame, data[:n], gains, good)
                _calibrate(
                    data[:n], marks[:n], weights[:n], frame.ant1, frame.ant2,
                    inverse[t : t + n] if len(inverse) > 1 else inverse, power[t : t + n] if len(power) > 1 else power,
                    delay_s[t : t + n], averaged.frequencies_hz, channels, times,
                    out[:n_out], flags[first : first + n_out], out_weights[:n_out],
                )  # fmt: skip
                data_column.put(first * frame.ant1.size, out[:n_out])
                weight_column.put(first * frame.ant1.size, out_weights[:n_out])
                weight[first : first + n_out] = measurement_set.mean_weights(out_weights[:n_out], flags[first : first + n_out])
    new.finish(flags, weight, observer_note)
    return Calibrated(averaged, float(flags[:, ~frame.is_auto].mean()))


def write_averaged(vis: Visibilities, path: Path, *, channels: int = 1, times: int = 1, observer_note: str = "") -> Calibrated:
    """The same of visibilities that another engine corrected, stage by stage."""
    averaged = averaging.average(phasing.to_common_centre(averaging.average(vis, channels)), 1, times)
    measurement_set.write(averaged, path, observer_note=observer_note)
    return Calibrated(averaged, float(averaged.flags[:, ~averaged.is_auto].mean()))


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


@njit(cache=True, parallel=True)
def _calibrate(  # type: ignore[no-untyped-def]
    data, flags, weights, ant1, ant2, inverse, power, delay_s, frequencies_hz, channels, times, out, out_flags, out_weights
):
    """Integrations into `out` (of the set's own sign: conjugated), `out_flags` and `out_weights`, every sample of them.

    inverse 1/g and power, the weight factors (time or 1, antenna, channel or 1, pol), both 0 without a solution.
    """
    n_times, n_baselines = data.shape[:2]
    n_out_times, _, n_out, n_pols = out.shape
    time_step, channel_step = int(power.shape[0] > 1), int(power.shape[2] > 1)
    step_hz = frequencies_hz[1] - frequencies_hz[0] if n_out > 1 else 0.0
    for row in prange(n_out_times * n_baselines):
        o, b = row // n_baselines, row % n_baselines
        i, j = ant1[b], ant2[b]
        total, weight = np.zeros((n_out, n_pols), np.complex128), np.zeros((n_out, n_pols))
        for t in range(o * times, min((o + 1) * times, n_times)):
            s, turn = t * time_step, 2 * np.pi * delay_s[t, b]
            step = complex(np.cos(turn * step_hz), np.sin(turn * step_hz))
            phasor = complex(1.0, 0.0)
            for c in range(n_out):
                if c % _RESTART == 0:
                    phasor = complex(np.cos(turn * frequencies_hz[c]), np.sin(turn * frequencies_hz[c]))
                for p in range(n_pols):
                    part, share = 0j, 0.0
                    for k in range(c * channels, (c + 1) * channels):
                        f = k * channel_step
                        scale = power[s, i, f, p] * power[s, j, f, p]
                        if scale > 0 and not flags[t, b, k, p]:
                            w = weights[t, b, k, p] * scale
                            part += w * (data[t, b, k, p] * (inverse[s, i, f, p] * np.conj(inverse[s, j, f, p])))
                            share += w
                    total[c, p] += part * phasor
                    weight[c, p] += share
                phasor *= step
        for c in range(n_out):
            for p in range(n_pols):
                good = weight[c, p] > 0
                out[o, b, c, p] = np.conj(total[c, p] / weight[c, p]) if good else 0j
                out_flags[o, b, c, p] = not good
                out_weights[o, b, c, p] = weight[c, p]
