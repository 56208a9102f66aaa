"""The noise of receptors, from what is left of calibrated data when the model is taken out."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.calibration import delays
from dsa110_assets.calibration.comparison import Comparison
from dsa110_assets.calibration.epoch import EpochGains

Float = NDArray[np.float64]
_ROUNDS = 30
_LEAST_SAMPLES = 32


def noise_factors(sums: Comparison, found: EpochGains) -> Float:
    """Variance of each receptor's share of the noise over what the weights say, (antenna, block, pol) about a median of 1.

    A baseline's mean w |V - g_i conj(g_j) M|^2 is proportional to s_i s_j where the noise is the receptors' own; s is the
    least-squares fit of rank one, in every slot of time, and the median over slots, so that a burst does not count. V is
    corrected first, so a receptor that lost signal has the noise its correction leaves it with. NaN for lost receptors and
    where there are too few samples.
    """
    z = _pairs(sums, found)
    power = np.abs(z) ** 2
    size = np.maximum(power, 1e-12)
    # of corrected data, V / z with weight w: energy / |z|^2 and so on
    residual = (sums.energy - 2 * (np.conj(z) * sums.r).real * found.common**2 + power * found.common**4 * sums.d) / size
    good = (sums.count >= 1) & ~(found.lost.T[:, None, sums.ant1] | found.lost.T[:, None, sums.ant2])
    count = np.where(good, sums.count, 0.0)
    each = np.stack([_rank_one(residual[i, h], count[i, h], sums) for i in range(z.shape[0]) for h in range(2)])
    enough = np.isfinite(each).any(axis=0)
    s = np.where(enough, np.nanmedian(np.where(enough, each, 0.0), axis=0), np.nan)
    middle = np.nanmedian(s) if np.isfinite(s).any() else 1.0
    return np.asarray(np.moveaxis(s / middle, -1, 0).swapaxes(1, 2))


def _pairs(sums: Comparison, found: EpochGains) -> NDArray[np.complex128]:
    """g_i conj(g_j) of what is applied: (interval, 1, pol, block, baseline)."""
    turn = delays.phasor(found.delay_ns, sums.block_hz, float(sums.block_hz.mean())).transpose(0, 2, 1)  # antenna, block, pol
    g = (found.gains * turn[None]).transpose(0, 3, 2, 1)
    return np.asarray((g[..., sums.ant1] * np.conj(g[..., sums.ant2]))[:, None])


def _rank_one(residual: Float, count: Float, sums: Comparison) -> Float:
    """s (pol, block, antenna) with residual / count = s_i s_j, weighted by count; NaN without samples."""
    out = np.empty((*residual.shape[:-1], sums.n_antennas))
    flat = out.reshape(-1, sums.n_antennas)
    _fit_rank_one(residual.reshape(flat.shape[0], -1), count.reshape(flat.shape[0], -1), sums.ant1, sums.ant2, flat)
    return out


@njit(cache=True, parallel=True)
def _fit_rank_one(residual, count, ant1, ant2, out):  # type: ignore[no-untyped-def]
    """Alternating least squares of each row; halfway between two iterates, which would oscillate."""
    for row in prange(residual.shape[0]):
        total, samples = 0.0, 0.0
        seen = np.zeros(out.shape[1])
        for b in range(ant1.size):
            total += residual[row, b] * (count[row, b] > 0)
            samples += count[row, b]
            seen[ant1[b]] += count[row, b]
            seen[ant2[b]] += count[row, b]
        s = np.full(out.shape[1], np.sqrt(max(total / samples, 1e-30)) if samples > 0 else 1.0)
        top, bottom = np.empty(s.size), np.empty(s.size)
        for _ in range(_ROUNDS):
            top[:] = 0
            bottom[:] = 0
            for b in range(ant1.size):
                n = count[row, b]
                if n > 0:
                    i, j = ant1[b], ant2[b]
                    top[i] += residual[row, b] * s[j]
                    top[j] += residual[row, b] * s[i]
                    bottom[i] += n * s[j] * s[j]
                    bottom[j] += n * s[i] * s[i]
            for a in range(s.size):
                if bottom[a] > 0:
                    s[a] = (s[a] + max(top[a] / bottom[a], 1e-30)) / 2
        for a in range(s.size):
            out[row, a] = s[a] if seen[a] >= _LEAST_SAMPLES else np.nan
