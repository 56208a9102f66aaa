"""The noise of receptors, from residual visibilities: calibrated data less the model."""

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
    """Return the variance of each receptor's noise over that implied by the weights, (antenna, block, pol) with a median of 1.

    A baseline's mean w |V - g_i conj(g_j) M|^2 is proportional to s_i s_j if the noise comes from the receptors. s is the
    least-squares fit of rank one in every slot of time, then the median over slots, so that a burst does not count. V is
    corrected first, so a receptor that lost signal has the noise that its correction leaves. NaN for lost receptors and
    where there are too few samples.
    """
    z = _pairs(sums, found)
    power = np.abs(z) ** 2
    size = np.maximum(power, 1e-12)
    # of corrected data, V / z with weight w: energy / |z|^2 and so on
    residual = (sums.energy - 2 * (np.conj(z) * sums.r).real * found.common**2 + power * found.common**4 * sums.d) / size
    good = (sums.count >= 1) & ~(found.lost.T[:, None, sums.ant1] | found.lost.T[:, None, sums.ant2])
    count = np.where(good, sums.count, 0.0)
    of_slots = np.stack([_rank_one(residual[i, h], count[i, h], sums) for i in range(z.shape[0]) for h in range(2)])
    enough = np.isfinite(of_slots).any(axis=0)
    s = np.where(enough, np.nanmedian(np.where(enough, of_slots, 0.0), axis=0), np.nan)
    median = np.nanmedian(s) if np.isfinite(s).any() else 1.0
    return np.asarray(np.moveaxis(s / median, -1, 0).swapaxes(1, 2))


def _pairs(sums: Comparison, epoch: EpochGains) -> NDArray[np.complex128]:
    """Return g_i conj(g_j) of the applied gains: (interval, 1, pol, block, baseline)."""
    delay_phasor = delays.phasor(epoch.delay_ns, sums.block_hz, float(sums.block_hz.mean())).transpose(0, 2, 1)  # antenna, block, pol
    g = (epoch.gains * delay_phasor[None]).transpose(0, 3, 2, 1)
    return np.asarray((g[..., sums.ant1] * np.conj(g[..., sums.ant2]))[:, None])


def _rank_one(residual: Float, count: Float, sums: Comparison) -> Float:
    """Return s (pol, block, antenna) that fits residual / count = s_i s_j, weighted by count; NaN without samples."""
    out = np.empty((*residual.shape[:-1], sums.n_antennas))
    flat = out.reshape(-1, sums.n_antennas)
    _fit_rank_one(residual.reshape(flat.shape[0], -1), count.reshape(flat.shape[0], -1), sums.ant1, sums.ant2, flat)
    return out


@njit(cache=True, parallel=True)
def _fit_rank_one(residual, count, ant1, ant2, out):  # type: ignore[no-untyped-def]
    """Fit each row by alternating least squares. Each step goes halfway to the new iterate, because full steps would oscillate."""
    for row in prange(residual.shape[0]):
        total, samples = 0.0, 0.0
        n_samples = np.zeros(out.shape[1])
        for b in range(ant1.size):
            total += residual[row, b] * (count[row, b] > 0)
            samples += count[row, b]
            n_samples[ant1[b]] += count[row, b]
            n_samples[ant2[b]] += count[row, b]
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
            out[row, a] = s[a] if n_samples[a] >= _LEAST_SAMPLES else np.nan
