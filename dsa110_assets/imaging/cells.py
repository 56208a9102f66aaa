"""How far each baseline's samples can be averaged before the edge of the field smears.

Averaging N samples whose phases step by d for a source lowers its amplitude by d^2 (N^2 - 1) / 24 (to second
order; Bridle & Schwab 1999). The step grows with the baseline, so short baselines need few samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.visibilities.types import Visibilities

_MOST_TIMES = 6
"""Integrations in one cell at most: the sky drifts through the beam meanwhile, and a source's brightness may
change by a fifth in 77 s. With a phase range of half a radian that leaves 1 % of it on the shortest baselines."""


def cells_per_baseline(
    vis: Visibilities, baselines: NDArray[np.intp], reach_rad: float, loss: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(cells along time, cells along frequency) of each of `baselines`, the fewest that keep the loss.

    A source `reach_rad` from the phase centre, in the worst direction, loses at most `loss` (0 to 1) of its
    amplitude on any baseline. No averaging (as many cells as samples) for loss 0.
    """
    n_times, n_channels = vis.times_mjd.size, vis.frequencies_hz.size
    if loss <= 0:
        return np.full(baselines.size, n_times), np.full(baselines.size, n_channels)
    uvw_m = vis.uvw_m[:, baselines]
    turn = 2 * np.pi * reach_rad / speed_of_light
    across = turn * vis.channel_width_hz * np.linalg.norm(uvw_m, axis=-1).max(axis=0)
    along = turn * vis.frequencies_hz.max() * _longest_step(uvw_m)
    times = np.arange(1, min(n_times, _MOST_TIMES) + 1)[:, None]
    left = 24 * loss - along**2 * (times**2 - 1)
    channels = np.sqrt(1 + np.maximum(left, 0) / np.maximum(across, 1e-12) ** 2)
    cells_t = -(-n_times // times)
    cells_c = np.ceil(n_channels / np.floor(np.minimum(channels, n_channels)))
    total = np.where(left >= 0, cells_t * cells_c, np.inf)
    best = np.argmin(total, axis=0)
    return cells_t[best, 0].astype(np.int64), cells_c[best, np.arange(best.size)].astype(np.int64)


def _longest_step(uvw_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(baseline,) largest change of uvw [m] from one integration to the next."""
    if uvw_m.shape[0] < 2:
        return np.zeros(uvw_m.shape[1])
    return np.asarray(np.linalg.norm(np.diff(uvw_m, axis=0), axis=-1).max(axis=0))
