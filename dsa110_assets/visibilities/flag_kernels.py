"""Compiled loops over flags, in place. Arrays are (time, baseline, channel, pol)."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

MAD_TO_SIGMA = 1.4826
BLOCK = 8
SAMPLES = 16384
SIGMA_FLOOR = 0.1
"""Robust sigma is at least this fraction of a channel's median: in data without noise the spread of gains is not RFI."""


def _flat(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The same memory as (time, baseline, channel x pol) bytes: loops over a whole row compile to vector instructions."""
    return flags.reshape(*flags.shape[:2], -1).view(np.uint8)


def screen(
    data: NDArray[np.complex64], flags: NDArray[np.bool_], delivered: NDArray[np.bool_], cross: NDArray[np.bool_], limit: float
) -> NDArray[np.int64]:
    """Flag exact zeros, cross-correlations (baseline,) of an amplitude above `limit`, and all autocorrelations.

    Returns (baseline, 3): numbers of samples of delivered channels that were flagged before, are zero, are too high;
    each counted once.
    """
    counts = np.zeros((data.shape[1], 3), np.int64)
    parts = data.reshape(*data.shape[:2], -1).view(np.float32)
    _screen(parts, _flat(flags), np.repeat(delivered, data.shape[3]).view(np.uint8), cross, np.float32(limit) ** 2, counts)
    return counts


@numba.njit(cache=True, parallel=True)
def _screen(parts, flags, delivered, cross, most, counts):  # type: ignore[no-untyped-def]
    n_times, n_baselines, n = flags.shape
    for b in numba.prange(n_baselines):
        limit, auto = (most, np.uint8(0)) if cross[b] else (np.float32(np.inf), np.uint8(1))
        number = np.zeros((3, n), np.uint32)
        for t in range(n_times):
            for i in range(n):
                real, imaginary = parts[t, b, 2 * i], parts[t, b, 2 * i + 1]
                zero = np.uint8((real == 0) & (imaginary == 0))
                high = np.uint8(real * real + imaginary * imaginary > limit)
                flagged_before = flags[t, b, i]
                number[0, i] += np.uint32(flagged_before)
                number[1, i] += np.uint32(zero & (flagged_before ^ 1))
                number[2, i] += np.uint32(high & (flagged_before ^ 1))
                flags[t, b, i] = flagged_before | zero | high | auto
        for cause in range(3):
            for i in range(n):
                counts[b, cause] += number[cause, i] * delivered[i]


def baseline_counts(flags: NDArray[np.bool_], delivered: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(baseline, pol) flagged samples in delivered channels."""
    out = np.zeros((flags.shape[1], flags.shape[3]), np.int64)
    _baseline_counts(_flat(flags), delivered, out)
    return out


@numba.njit(cache=True, parallel=True)
def _baseline_counts(flags, delivered, out):  # type: ignore[no-untyped-def]
    n_pols = out.shape[1]
    for b in numba.prange(flags.shape[1]):
        number = _over_time(flags, b)
        for i in range(number.size):
            out[b, i % n_pols] += number[i] * delivered[i // n_pols]


@numba.njit(cache=True)
def _over_time(flags, b):  # type: ignore[no-untyped-def]
    """(channel x pol,) flagged integrations of one baseline."""
    number = np.zeros(flags.shape[2], np.uint16)
    for t in range(flags.shape[0]):
        for i in range(number.size):
            number[i] += np.uint16(flags[t, b, i])
    return number


@numba.njit(cache=True, parallel=True)
def delivered_channels(weights, cross):  # type: ignore[no-untyped-def]
    """(channel,) True where any cross-correlation has weight; False in absent subbands."""
    n_times, n_baselines, n_channels, n_pols = weights.shape
    found = np.zeros((n_baselines, n_channels), np.bool_)
    for b in numba.prange(n_baselines):
        if cross[b]:
            for t in range(n_times):
                for k in range(n_channels):
                    for p in range(n_pols):
                        if weights[t, b, k, p] > 0:
                            found[b, k] = True
    out = np.zeros(n_channels, np.bool_)
    for b in range(n_baselines):
        out |= found[b]
    return out


def median_clip(data: NDArray[np.complex64], flags: NDArray[np.bool_], sigmas: float) -> None:
    """Flag amplitudes above median + sigmas x robust sigma, both per channel and pol over times and baselines.

    Median and MAD come from up to SAMPLES evenly spread rows (time, baseline): good to 1.25 / sqrt(16384) = 1 % of
    sigma.
    """
    rows, n_baselines = data.shape[0] * data.shape[1], data.shape[1]
    step = max(rows // SAMPLES, 1)
    while step > 1 and math.gcd(step, n_baselines) > 1:  # otherwise the same baselines would be sampled again and again
        step += 1
    _median_clip(data, flags, sigmas, step)


@numba.njit(cache=True, parallel=True)
def _median_clip(data, flags, sigmas, step):  # type: ignore[no-untyped-def]
    """Channels are processed in blocks, so that a cache line of data is fetched once for all the channels in it."""
    n_times, n_baselines, n_channels, n_pols = data.shape
    n_rows = n_times * n_baselines
    for block in numba.prange((n_channels + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        width = min(BLOCK, n_channels - first)
        amplitude = np.empty((BLOCK, n_pols, n_rows // step + 1), np.float32)
        number = np.zeros((BLOCK, n_pols), np.int64)
        for row in range(0, n_rows, step):
            t, b = row // n_baselines, row % n_baselines
            for k in range(width):
                for p in range(n_pols):
                    if not flags[t, b, first + k, p]:
                        amplitude[k, p, number[k, p]] = abs(data[t, b, first + k, p])
                        number[k, p] += 1
        limit = np.full((BLOCK, n_pols), np.inf)
        for k in range(width):
            for p in range(n_pols):
                if number[k, p]:
                    values = amplitude[k, p, : number[k, p]]
                    middle = np.median(values)
                    spread = MAD_TO_SIGMA * np.median(np.abs(values - middle))
                    limit[k, p] = (middle + sigmas * max(spread, SIGMA_FLOOR * middle)) ** 2
        for t in range(n_times):
            for b in range(n_baselines):
                for k in range(width):
                    for p in range(n_pols):
                        value = data[t, b, first + k, p]
                        if value.real * value.real + value.imag * value.imag > limit[k, p]:
                            flags[t, b, first + k, p] = True


def extend(
    flags: NDArray[np.bool_], cross: NDArray[np.bool_], delivered: NDArray[Any], fraction: float,
    wide: NDArray[np.bool_] | None = None,
) -> None:  # fmt: skip
    """Flag spectra, time series and, over all live baselines, channels of which more than `fraction` is flagged.

    All three are judged on the flags as passed in, so the order does not matter. Channels of absent subbands and wholly
    flagged baselines are not counted. Neither is `wide` (time, channel), where all baselines were flagged, because it
    does not make the rest of those channels and integrations worse.
    """
    if not delivered.any():
        return
    counts = baseline_counts(flags, delivered)
    live = cross[:, None] & (counts < flags.shape[0] * int(delivered.sum()))
    rows, n_channels, n_pols = _flat(flags), flags.shape[2], flags.shape[3]
    counted = np.broadcast_to(delivered, (flags.shape[0], n_channels)) & (~wide if wide is not None else True)
    judged = np.repeat(counted, n_pols, axis=1).view(np.uint8)
    channel = (_channel_counts(rows, np.tile(live.view(np.uint8), n_channels)) * judged).sum(axis=0).reshape(n_channels, n_pols)
    bad_channel = channel > fraction * np.maximum(live.sum(axis=0) * counted.sum(axis=0)[:, None], 1)
    _extend_rows(rows, judged, n_pols, fraction, bad_channel.ravel().view(np.uint8))


@numba.njit(cache=True, parallel=True)
def _channel_counts(flags, live):  # type: ignore[no-untyped-def]
    """(time, channel x pol) flagged samples over the live (baseline, channel x pol)."""
    n_times, n_baselines, n = flags.shape
    out = np.zeros((n_times, n), np.uint32)
    for t in numba.prange(n_times):
        for b in range(n_baselines):
            for i in range(n):
                out[t, i] += np.uint32(flags[t, b, i] & live[b, i])
    return out


@numba.njit(cache=True, parallel=True)
def _extend_rows(flags, judged, n_pols, fraction, bad_channel):  # type: ignore[no-untyped-def]
    n_times, n_baselines, n = flags.shape
    in_time, in_band = np.zeros(n, np.float32), np.zeros(n_times, np.float32)
    for t in range(n_times):
        for i in range(n):
            in_time[i] += judged[t, i]
            in_band[t] += judged[t, i] / n_pols
    for b in numba.prange(n_baselines):
        number = np.zeros(n, np.uint16)
        for t in range(n_times):
            for i in range(n):
                number[i] += np.uint16(flags[t, b, i] & judged[t, i])
        column = np.empty(n, np.uint8)
        for i in range(n):
            column[i] = bad_channel[i] | np.uint8(number[i] > fraction * in_time[i])
        for t in range(n_times):
            if _number(flags[t, b], judged[t]) > fraction * in_band[t]:  # over all polarisations together, so possibly in one
                for p in range(n_pols):
                    if _number(flags[t, b, p::n_pols], judged[t, p::n_pols]) > fraction * in_band[t]:
                        flags[t, b, p::n_pols] = 1
            for i in range(n):
                flags[t, b, i] |= column[i]


@numba.njit(cache=True)
def _number(flags, judged):  # type: ignore[no-untyped-def]
    number = np.uint32(0)
    for i in range(flags.size):
        number += np.uint32(flags[i] & judged[i])
    return number
