"""Apply calibration tables: V / (g_i conj g_j), weights 1 / sigma^2 from the autocorrelations. Flagged solutions flag data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.calibration.delays import phasor
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities.types import Visibilities

Interpolation = Literal["linear", "nearest"]
AUTO_INTEGRATIONS = 8
"""Integrations from which the system's power is taken: 8 of 12.9 s and 0.24 MHz give it to 0.02 %, and a burst does not matter."""


def apply(vis: Visibilities, tables: Sequence[Gains], *, interpolation: Interpolation = "linear") -> Visibilities:
    """Return `vis` corrected by all `tables`: V / (g_i conj g_j), weights times the `weight_factors` of both antennas.

    Between solutions, amplitude and phase are interpolated (or the nearest is taken), skipping flagged ones;
    outside their range the nearest is used. Samples without a solution are flagged, zero and of weight 0;
    antennas are matched by name. Raises BadDataError if a bandpass does not have the data's channels.
    """
    gains, good = total_gains(vis, tables, interpolation)
    inverse = np.where(good, 1 / gains, 0).astype(np.complex64)
    power = weight_factors(vis, system_power(vis, vis.data[:AUTO_INTEGRATIONS, vis.is_auto], gains, good), gains, good)
    data, flags, weights = np.empty_like(vis.data), np.empty_like(vis.flags), np.empty_like(vis.weights)
    _apply(vis.data, vis.flags, vis.weights, vis.ant1, vis.ant2, inverse, power, data, flags, weights)
    return replace(vis, data=data, flags=flags, weights=weights)


def weight_factors(
    frame: Visibilities, system_jy: NDArray[np.float64], gains: NDArray[np.complex128], good: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return each antenna's factor in the weights of corrected data: (time or 1, antenna, channel or 1, pol), 0 where not `good`.

    sigma^2 of a real part is A_i A_j / (2 dnu t), A being the corrected autocorrelation, that is, the system's flux density
    (the radiometer equation for a correlation, Thompson, Moran & Swenson 2017, section 6.2). An antenna of high gain amplifies
    noise together with the sky, so its noise is no smaller; weights |g|^2 alone would favour it. `system_jy` is the result of
    `system_power` for the frame's first AUTO_INTEGRATIONS. An antenna without a value gets the median of the others; without
    any value the factors are |g|^2.
    """
    power = np.where(good, gains.real**2 + gains.imag**2, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an empty median is to be NaN
        system_jy = np.where(np.isfinite(system_jy), system_jy, np.nanmedian(system_jy, axis=(0, 1, 2)))
    if not np.isfinite(system_jy).all():
        return power.astype(np.float32)
    samples = 2 * frame.channel_width_hz * frame.interval_s
    return np.where(power > 0, np.sqrt(samples) / system_jy, 0).astype(np.float32)


def system_power(
    frame: Visibilities, autos: NDArray[np.complex64], gains: NDArray[np.complex128], good: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the receptors' power as a flux density [Jy], the median over time of autocorrelations (time, autocorrelation, channel, pol):
    (time or 1 of the gains, antenna, channel, pol); NaN without autocorrelation or solution."""
    measured = autos.real
    raw = np.full((len(frame.antennas.names), *autos.shape[2:]), np.nan)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        raw[frame.ant1[frame.is_auto]] = np.nanmedian(np.where(measured > 0, measured, np.nan), axis=0)
        return np.where(good, raw / (gains.real**2 + gains.imag**2), np.nan)


def total_gains(
    vis: Visibilities, tables: Sequence[Gains], interpolation: Interpolation = "linear"
) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """Return the product of `tables` on vis's grid: (time or 1, antenna, channel or 1, pol), and where all are good.

    Axes along which no table varies have length 1.
    """
    gains = np.ones((1, len(vis.antennas.names), 1, 2), dtype=np.complex128)
    good = np.ones(gains.shape, dtype=np.bool_)
    for table in tables:
        values, ok = _on_antennas(vis, table)
        values, ok = _at_times(values, ok, table, vis.times_mjd, interpolation)
        if table.kind == "B":
            channels = _channels(vis, table)
            values, ok = values[:, :, channels], ok[:, :, channels]
        elif table.kind == "K":
            slopes = phasor(values[:, :, 0].real, vis.frequencies_hz, float(table.frequencies_hz[0]))
            values = np.moveaxis(slopes, -1, 2)
        gains, good = gains * values, good & ok
    return gains, good


def _on_antennas(vis: Visibilities, table: Gains) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """Return the table's values in vis's antenna numbering; antennas that it lacks have no solution."""
    index = {name: i for i, name in enumerate(table.antenna_names)}
    rows = np.array([index.get(name, -1) for name in vis.antennas.names])
    ok = ~table.flags[:, rows]
    ok[:, rows < 0] = False
    return table.values[:, rows], ok


def _channels(vis: Visibilities, table: Gains) -> NDArray[np.int64]:
    """Return the index of the table's channel for each of vis's. Raises BadDataError if one differs by > 1 % of a width."""
    nearest = np.abs(vis.frequencies_hz[:, None] - table.frequencies_hz).argmin(axis=1)
    difference_hz = np.abs(vis.frequencies_hz - table.frequencies_hz[nearest]).max()
    if difference_hz > 0.01 * vis.channel_width_hz:
        raise BadDataError(
            f"the bandpass of {table.field_name or 'unknown field'} has other channels than the data "
            f"({difference_hz:.0f} Hz off); solve one on the same grid"
        )
    return np.asarray(nearest)


def _at_times(
    values: NDArray[np.complex128],
    ok: NDArray[np.bool_],
    table: Gains,
    times_mjd: NDArray[np.float64],
    interpolation: Interpolation,
) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """Return values at `times_mjd`; tables with one time keep length 1."""
    if values.shape[0] == 1:
        return values, ok
    out = np.ones((times_mjd.size, *values.shape[1:]), dtype=np.complex128)
    out_ok = np.zeros(out.shape, dtype=np.bool_)
    order = np.argsort(table.times_mjd)
    _interpolate(
        values[order],
        ok[order],
        table.times_mjd[order],
        times_mjd,
        interpolation == "linear",
        table.kind == "K",
        out,
        out_ok,
    )
    return out, out_ok


@njit(cache=True)
def _interpolate(values, ok, times, target_times, linear, real, out, out_ok):  # type: ignore[no-untyped-def]
    for a in range(values.shape[1]):
        for c in range(values.shape[2]):
            for p in range(values.shape[3]):
                for k in range(target_times.size):
                    before, after = -1, -1
                    for t in range(times.size):
                        if ok[t, a, c, p]:
                            if times[t] <= target_times[k]:
                                before = t
                            elif after < 0:
                                after = t
                    if before < 0 and after < 0:
                        continue
                    out_ok[k, a, c, p] = True
                    if before < 0 or after < 0:
                        out[k, a, c, p] = values[max(before, after), a, c, p]
                        continue
                    share = (target_times[k] - times[before]) / (times[after] - times[before])
                    first, second = values[before, a, c, p], values[after, a, c, p]
                    if not linear:
                        out[k, a, c, p] = first if share <= 0.5 else second
                    elif real:
                        out[k, a, c, p] = first + share * (second - first)
                    else:
                        amplitude = abs(first) + share * (abs(second) - abs(first))
                        phase_step = np.angle(second * np.conj(first))
                        out[k, a, c, p] = amplitude * np.exp(1j * (np.angle(first) + share * phase_step))


@njit(cache=True, parallel=True)
def _apply(  # type: ignore[no-untyped-def]
    data, flags, weights, ant1, ant2, inverse, power, out, out_flags, out_weights
):
    """Correct every sample by `inverse` 1/g and its weight by `power`, the weight factors (time or 1, antenna, channel or 1, pol); both
    are 0 without a solution."""
    n_time, n_base, n_chan, n_pol = data.shape
    time_step = 1 if power.shape[0] > 1 else 0
    channel_step = 1 if power.shape[2] > 1 else 0
    for k in prange(n_time * n_base):
        t, b = k // n_base, k % n_base
        i, j, s = ant1[b], ant2[b], t * time_step
        for c in range(n_chan):
            f = c * channel_step
            for p in range(n_pol):
                scale = power[s, i, f, p] * power[s, j, f, p]
                out[t, b, c, p] = data[t, b, c, p] * (inverse[s, i, f, p] * np.conj(inverse[s, j, f, p]))
                out_weights[t, b, c, p] = weights[t, b, c, p] * scale
                out_flags[t, b, c, p] = flags[t, b, c, p] or scale == 0
