"""From (XX, YY) visibilities to the rows of Stokes I that are gridded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, SilentWrongnessError
from dsa110_assets.visibilities.types import Visibilities

_NOISE_SAMPLES = 200_000
"""The median of so many differences is known to 0.3 %."""


@dataclass(frozen=True)
class StokesI:
    """Cross-correlation rows of Stokes I, time-major.

    data (row, channel) complex64 [Jy]; weights (row, channel) float32, 1/sigma^2 up to a common factor, 0
    where nothing is usable; uvw_m (row, 3) float64; frequencies_hz (channel,); n_times integrations of
    row/n_times baselines each; variance_scale: sigma^2 of a real part [Jy^2] = variance_scale / weight
    (NaN if no sample has both polarisations).
    """

    data: NDArray[np.complex64]
    weights: NDArray[np.float32]
    uvw_m: NDArray[np.float64]
    frequencies_hz: NDArray[np.float64]
    n_times: int
    variance_scale: float


def stokes_i(vis: Visibilities) -> StokesI:
    """Stokes I of all cross-correlations: the weighted mean of XX and YY, each of which measures I.

    Where one polarisation is flagged the other one stands alone, with its own weight. Autocorrelations are
    left out. Raises SilentWrongnessError unless the data share one phase centre, BadDataError if nothing is
    usable.
    """
    if not vis.common_phase_centre:
        raise SilentWrongnessError(
            "imaging needs one common phase centre for all integrations; phasing.to_common_centre makes one"
        )
    cross = np.flatnonzero(~vis.is_auto)
    n_times, _, n_channels, _ = vis.data.shape
    data = np.empty((n_times, cross.size, n_channels), dtype=np.complex64)
    weights = np.empty(data.shape, dtype=np.float32)
    _combine(vis.data, vis.flags, vis.weights, cross, data, weights)
    if not np.any(weights > 0):
        raise BadDataError("no unflagged cross-correlation has a positive weight: there is nothing to image")
    rows = n_times * cross.size
    return StokesI(
        data=data.reshape(rows, n_channels),
        weights=weights.reshape(rows, n_channels),
        uvw_m=np.ascontiguousarray(vis.uvw_m[:, cross].reshape(rows, 3)),
        frequencies_hz=np.asarray(vis.frequencies_hz, dtype=np.float64),
        n_times=n_times,
        variance_scale=_variance_scale(vis, cross),
    )


@njit(cache=True, parallel=True)
def _combine(data, flags, weights, cross, out, out_weights):  # type: ignore[no-untyped-def]
    n_times, _, n_channels, _ = data.shape
    for row in prange(n_times * cross.size):
        time = row // cross.size
        index = row % cross.size
        baseline = cross[index]
        for channel in range(n_channels):
            total = np.float32(0)
            value = np.complex64(0)
            for pol in range(2):
                weight = weights[time, baseline, channel, pol]
                if not flags[time, baseline, channel, pol] and weight > 0:
                    total += weight
                    value += weight * data[time, baseline, channel, pol]
            out_weights[time, index, channel] = total
            out[time, index, channel] = value / total if total > 0 else np.complex64(0)


def _variance_scale(vis: Visibilities, cross: NDArray[np.intp]) -> float:
    """Noise variance per unit inverse weight, from XX - YY, in which an unpolarised sky cancels.

    |XX - YY|^2 is exponential with mean 2 k (1/w_xx + 1/w_yy); its median, ln 2 of that, ignores
    interference.
    """
    n_times, _, n_channels, _ = vis.data.shape
    count = n_times * cross.size * n_channels
    # A stride coprime to the axes would alias with none of them; a fixed-seed draw is simpler and as
    # repeatable.
    chosen = np.random.default_rng(110).integers(0, count, size=min(count, _NOISE_SAMPLES))
    index = np.unravel_index(chosen, (n_times, cross.size, n_channels))
    at = (index[0], cross[index[1]], index[2])
    weight = vis.weights[at]
    both = ~vis.flags[at].any(axis=-1) & (weight > 0).all(axis=-1)
    if not both.any():
        return float("nan")
    difference = vis.data[at][both].astype(np.complex128)
    inverse = np.sum(1 / weight[both].astype(np.float64), axis=-1)
    power = np.abs(difference[:, 0] - difference[:, 1]) ** 2 / inverse
    return float(np.median(power) / (2 * np.log(2)))
