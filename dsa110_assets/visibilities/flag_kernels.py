"""Compiled loops over flags, in place. Arrays are (time, baseline, channel, pol)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

MAD_TO_SIGMA = 1.4826
SIGMA_FLOOR = 0.1
"""Robust sigma is at least this part of a channel's median: without noise the spread of gains is not RFI."""


@numba.njit(cache=True, parallel=True)
def flag_zeros(data, flags):  # type: ignore[no-untyped-def]
    """Flag samples that are exactly zero."""
    n_times, n_baselines, n_channels, n_pols = data.shape
    for row in numba.prange(n_times * n_baselines):
        t, b = row // n_baselines, row % n_baselines
        for k in range(n_channels):
            for p in range(n_pols):
                if data[t, b, k, p] == 0:
                    flags[t, b, k, p] = True


@numba.njit(cache=True, parallel=True)
def clip(data, flags, limit):  # type: ignore[no-untyped-def]
    """Flag samples of larger amplitude than `limit`."""
    n_times, n_baselines, n_channels, n_pols = data.shape
    for row in numba.prange(n_times * n_baselines):
        t, b = row // n_baselines, row % n_baselines
        for k in range(n_channels):
            for p in range(n_pols):
                value = data[t, b, k, p]
                if value.real**2 + value.imag**2 > limit * limit:
                    flags[t, b, k, p] = True


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
def median_clip(data, flags, sigmas):  # type: ignore[no-untyped-def]
    """Per channel and pol, over times and baselines: flag amplitudes above median + sigmas x robust sigma."""
    n_times, n_baselines, n_channels, n_pols = data.shape
    for k in numba.prange(n_channels):
        for p in range(n_pols):
            amplitude = np.empty(n_times * n_baselines, np.float32)
            n = 0
            for t in range(n_times):
                for b in range(n_baselines):
                    if not flags[t, b, k, p]:
                        amplitude[n] = abs(data[t, b, k, p])
                        n += 1
            if n == 0:
                continue
            middle = np.median(amplitude[:n])
            spread = MAD_TO_SIGMA * np.median(np.abs(amplitude[:n] - middle))
            limit = middle + sigmas * max(spread, SIGMA_FLOOR * middle)
            for t in range(n_times):
                for b in range(n_baselines):
                    if not flags[t, b, k, p] and abs(data[t, b, k, p]) > limit:
                        flags[t, b, k, p] = True


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
    channel = np.stack(
        [
            flags[:, live[:, p], :, p].mean(axis=(0, 1)) if live[:, p].any() else np.zeros(delivered.size)
            for p in range(2)
        ],
        axis=-1,
    )
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
