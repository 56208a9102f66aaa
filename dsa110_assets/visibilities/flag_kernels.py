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
"""Robust sigma is at least this part of a channel's median: without noise the spread of gains is not RFI."""


@numba.njit(cache=True, parallel=True)
def screen(data, flags, delivered, cross, limit):  # type: ignore[no-untyped-def]
    """Flag exact zeros, cross-correlations (baseline,) of an amplitude above `limit`, and all autocorrelations.

    Returns (baseline, 3): samples of delivered channels that were flagged, are zero, are too high; each counted once.
    """
    n_times, n_baselines, n_channels, n_pols = data.shape
    counts = np.zeros((n_baselines, 3), np.int64)
    most = np.float32(limit) * np.float32(limit)
    for b in numba.prange(n_baselines):
        for t in range(n_times):
            for k in range(n_channels):
                for p in range(n_pols):
                    value = data[t, b, k, p]
                    power = value.real * value.real + value.imag * value.imag
                    zero, high = value == 0, power > most and cross[b]
                    if delivered[k]:
                        given = flags[t, b, k, p]
                        counts[b, 0] += given
                        counts[b, 1] += zero and not given
                        counts[b, 2] += high and not given
                    if zero or high or not cross[b]:
                        flags[t, b, k, p] = True
    return counts


@numba.njit(cache=True, parallel=True)
def baseline_counts(flags, delivered):  # type: ignore[no-untyped-def]
    """(baseline, pol) flagged samples in delivered channels."""
    n_times, n_baselines, n_channels, n_pols = flags.shape
    out = np.zeros((n_baselines, n_pols), np.int64)
    for b in numba.prange(n_baselines):
        for t in range(n_times):
            for k in range(n_channels):
                if delivered[k]:
                    for p in range(n_pols):
                        out[b, p] += flags[t, b, k, p]
    return out


@numba.njit(cache=True, parallel=True)
def delivered_channels(weights, cross):  # type: ignore[no-untyped-def]
    """(channel,) True where any cross-correlation has weight: false for subbands that are absent."""
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


@numba.njit(cache=True, parallel=True)
def channel_counts(flags, live):  # type: ignore[no-untyped-def]
    """(time, channel, pol) flagged samples over the live (baseline, pol) pairs."""
    n_times, n_baselines, n_channels, n_pols = flags.shape
    out = np.zeros((n_times, n_channels, n_pols), np.int64)
    for t in numba.prange(n_times):
        for b in range(n_baselines):
            for p in range(n_pols):
                if live[b, p]:
                    for k in range(n_channels):
                        out[t, k, p] += flags[t, b, k, p]
    return out


def median_clip(data: NDArray[np.complex64], flags: NDArray[np.bool_], sigmas: float) -> None:
    """Per channel and pol, over times and baselines: flag amplitudes above median + sigmas x robust sigma.

    Median and MAD come from up to SAMPLES evenly spread rows (time, baseline): good to 1.25 / sqrt(16384) =
    1 % of sigma.
    """
    rows, n_baselines = data.shape[0] * data.shape[1], data.shape[1]
    step = max(rows // SAMPLES, 1)
    while step > 1 and math.gcd(step, n_baselines) > 1:  # or the same baselines would come again and again
        step += 1
    _median_clip(data, flags, sigmas, step)


@numba.njit(cache=True, parallel=True)
def _median_clip(data, flags, sigmas, step):  # type: ignore[no-untyped-def]
    """Channels go in blocks, so that a cache line of data is fetched once for all the channels in it."""
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
    flags: NDArray[np.bool_], cross: NDArray[np.bool_], delivered: NDArray[Any], fraction: float
) -> None:
    """Flag spectra, time series and, over all live baselines, channels of which more than `fraction` is
    flagged.

    All three are judged on the flags as they came, so the order does not matter; channels of absent subbands
    and wholly flagged baselines are not counted.
    """
    if not delivered.any():
        return
    counts = baseline_counts(flags, delivered)
    live = cross[:, None] & (counts < flags.shape[0] * int(delivered.sum()))
    channel = channel_counts(flags, live).sum(axis=0) / np.maximum(live.sum(axis=0) * flags.shape[0], 1)
    _extend_rows(flags, delivered, int(delivered.sum()), fraction, channel > fraction)


@numba.njit(cache=True, parallel=True)
def _extend_rows(flags, delivered, n_delivered, fraction, bad_channel):  # type: ignore[no-untyped-def]
    n_times, n_baselines, n_channels, n_pols = flags.shape
    for b in numba.prange(n_baselines):
        for p in range(n_pols):
            per_time = np.zeros(n_times, np.int64)
            per_channel = np.zeros(n_channels, np.int64)
            for t in range(n_times):
                for k in range(n_channels):
                    if delivered[k] and flags[t, b, k, p]:
                        per_time[t] += 1
                        per_channel[k] += 1
            for t in range(n_times):
                whole = per_time[t] > fraction * n_delivered
                for k in range(n_channels):
                    if whole or bad_channel[k, p] or per_channel[k] > fraction * n_times:
                        flags[t, b, k, p] = True
