"""The noise of receptors, from what is left of calibrated data when the model is taken out."""

from __future__ import annotations

import numpy as np
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
    shape = (*residual.shape[:-1], sums.n_antennas)
    q = np.divide(residual, count, out=np.zeros_like(residual), where=count > 0)
    total = np.zeros(shape)
    _collect(total, count, count, sums)
    s = np.full(shape, np.sqrt(max(float(q[count > 0].mean()), 1e-30)) if (count > 0).any() else 1.0)
    for _ in range(_ROUNDS):
        top, bottom = np.zeros(shape), np.zeros(shape)
        _collect(top, count * q * s[..., sums.ant2], count * q * s[..., sums.ant1], sums)
        _collect(bottom, count * s[..., sums.ant2] ** 2, count * s[..., sums.ant1] ** 2, sums)
        new = np.divide(top, bottom, out=s.copy(), where=bottom > 0)
        s = (s + np.maximum(new, 1e-30)) / 2
    return np.where(total >= _LEAST_SAMPLES, s, np.nan)


def _collect(out: Float, to_first: Float, to_second: Float, sums: Comparison) -> None:
    """Add per-baseline values (..., baseline) to the antennas at either end, (..., antenna)."""
    for ends, values in ((sums.ant1, to_first), (sums.ant2, to_second)):
        np.add.at(np.moveaxis(out, -1, 0), ends, np.moveaxis(values, -1, 0))
