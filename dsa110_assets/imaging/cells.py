"""How many samples of each baseline can be averaged before the edge of the field is smeared.

Averaging N samples whose phases step by d for a source lowers its amplitude by d^2 (N^2 - 1) / 24 (to second order; Bridle &
Schwab 1999). The step grows with the baseline, so short baselines need few samples. Between channels it depends on the source's
offset along the baseline, between integrations on its offset along the baseline's motion. No direction is the worst for both
unless the two are parallel; the loss in the worst direction is the larger eigenvalue of the sum of both squares.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.visibilities.types import Visibilities

_MOST_TIMES = 6
"""The largest number of integrations in one cell: the sky drifts through the beam meanwhile, and a source's brightness may change
by a fifth in 77 s. With a phase range of half a radian this leaves an error of 1 % of the brightness on the shortest baselines."""


def cells_per_baseline(
    vis: Visibilities, baselines: NDArray[np.intp], reach_rad: float, loss: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (cells along time, cells along frequency) of each of `baselines`, the fewest that stay within the loss.

    A source `reach_rad` from the phase centre, in the worst direction, loses at most `loss` (0 to 1) of its amplitude on any
    baseline. For loss 0 nothing is averaged: there are as many cells as samples.
    """
    n_times, n_channels = vis.times_mjd.size, vis.frequencies_hz.size
    if loss <= 0:
        return np.full(baselines.size, n_times), np.full(baselines.size, n_channels)
    uvw_m = vis.uvw_m[:, baselines]
    phase_per_hz_metre = 2 * np.pi * reach_rad / speed_of_light
    across = phase_per_hz_metre * vis.channel_width_hz * np.linalg.norm(uvw_m, axis=-1).max(axis=0)
    step, sine_squared = _steps(uvw_m)
    along = phase_per_hz_metre * vis.frequencies_hz.max() * step
    times = np.arange(1, min(n_times, _MOST_TIMES) + 1)[:, None]
    taken = along**2 * (times**2 - 1)
    allowed = 24 * loss - taken
    # the largest x = across^2 (channels^2 - 1) whose quadratic form, with `taken`, has no eigenvalue above 24 loss
    most = 24 * loss * np.maximum(allowed, 0) / np.maximum(24 * loss - taken * sine_squared, 1e-12)
    channels = np.sqrt(1 + most / np.maximum(across, 1e-12) ** 2)
    cells_t = -(-n_times // times)
    cells_c = np.ceil(n_channels / np.floor(np.minimum(channels, n_channels)))
    total = np.where(allowed >= 0, cells_t * cells_c, np.inf)
    best = np.argmin(total, axis=0)
    return cells_t[best, 0].astype(np.int64), cells_c[best, np.arange(best.size)].astype(np.int64)


def _steps(uvw_m: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (baseline,): the longest change of uvw [m] between adjacent integrations, and the least sin^2 of its angle to uvw."""
    if uvw_m.shape[0] < 2:
        return np.zeros(uvw_m.shape[1]), np.ones(uvw_m.shape[1])
    change, before = np.diff(uvw_m, axis=0), uvw_m[:-1]
    squares = np.sum(change**2, axis=-1), np.sum(before**2, axis=-1)
    cosine_squared = np.sum(change * before, axis=-1) ** 2 / np.maximum(squares[0] * squares[1], 1e-30)
    return np.sqrt(squares[0].max(axis=0)), np.clip(1 - cosine_squared, 0, 1).min(axis=0)
