"""A calibrator's structure, from the part of it that antenna gains cannot absorb: second moments, and closure residuals.

Gains absorb every factor that is a product of antenna factors. The rest of a resolved calibrator's visibilities, which determines
closure amplitudes and phases, stays in the data. To second order every source is a Gaussian, whose Fourier transform is
exp[-pi^2 / (4 ln 2) (FWHM x baseline)^2], the baseline in wavelengths. A source that is not Gaussian, such as a double, leaves
closure residuals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.sky.structures import EXPONENT, POINT, Gaussian

Float = NDArray[np.float64]

_LEAST_SNR = 3.0
"""Least expected SNR of the calibrator on a baseline that counts. The mean of ln |1 + noise| is 0 except for noise that
reaches the origin, E1(snr^2) / 2 in total: 6e-6 here."""
_BEYOND_SIGMA = 3.0
"""An excess is the part of chi-squared above its expectation plus so many of its standard errors."""
_RELATIVE_RANK = 1e-9


@dataclass(frozen=True)
class BaselineSums:
    """Sums over time, channels and polarisations of V, the data less the field's other sources, and the calibrator's model M:
    top sum w V conj(M), bottom sum w |M|^2, energy sum w |V|^2 and count of samples, (baseline,); ant1, ant2; u, v
    [wavelengths] at the middle of time and band."""

    top: NDArray[np.complex128]
    bottom: Float
    energy: Float
    count: Float
    ant1: NDArray[np.int32]
    ant2: NDArray[np.int32]
    u: Float
    v: Float


@dataclass(frozen=True)
class Shape:
    """Closure errors of data over model. `more`: the fitted size by which the source exceeds the model; `error_rad2`: its error;
    `significance` of that in sigma, and `loss`: the part of the visibility lost to it on the longest baseline used.
    `amplitude_excess`, `phase_excess_rad`: rms of the residuals after antenna terms and `more`, less what noise may cause, as parts
    of the calibrator's signal; `reduced_chi2` of both against the scatter within the baselines. NaN where too few baselines are left."""

    more: Gaussian
    error_rad2: float
    significance: float
    loss: float
    amplitude_excess: float
    phase_excess_rad: float
    reduced_chi2: float


NO_SHAPE = Shape(POINT, *(math.nan,) * 6)


def shape(sums: BaselineSums) -> Shape:
    """Return second moments and closure residuals of calibrated data over a model.

    ln |V / M| = a_i + a_j - pi^2 / (4 ln 2) (uu u^2 + 2 uv u v + vv v^2) and arg (V / M) = p_i - p_j are fitted by
    weighted least squares, with weights from the samples' scatter about each baseline's mean. This includes noise and sources missing
    from the field's model, but not the calibrator's structure.
    """
    within = np.maximum(sums.energy - np.abs(sums.top) ** 2 / np.maximum(sums.bottom, 1e-300), 0)[sums.bottom > 0]
    spare = float(np.maximum(sums.count - 1, 0)[sums.bottom > 0].sum())
    if spare <= 0 or within.sum() <= 0:
        return NO_SHAPE
    variance = within.sum() / spare  # of a complex sample of unit weight
    used = (sums.bottom > _LEAST_SNR**2 * variance) & (sums.top != 0)
    ratio = sums.top[used] / sums.bottom[used]
    weight = 2 * sums.bottom[used] / variance  # a real part has half the variance
    scale = float(np.hypot(sums.u, sums.v)[used].max(initial=1.0))
    x, y = sums.u[used] / scale, sums.v[used] / scale
    moments = np.asarray(-EXPONENT * np.stack([x * x, 2 * x * y, y * y]), np.float64)
    ends = sums.ant1[used], sums.ant2[used]
    amplitude = _fit_closure(np.log(np.abs(ratio)), weight, *ends, 1, moments)
    phase = _fit_closure(np.angle(ratio), weight, *ends, -1, moments[:0])
    if amplitude is None or phase is None:
        return NO_SHAPE
    fitted_moments = amplitude.values
    inverse = np.linalg.pinv(amplitude.covariance, hermitian=True)
    noise = max(amplitude.chi2 / amplitude.spare, 1.0)
    exponents = fitted_moments @ -moments
    return Shape(
        Gaussian(*(fitted_moments / scale**2).tolist()),
        math.sqrt(float(np.diag(amplitude.covariance).max(initial=0.0)) * noise) / scale**2,
        math.sqrt(max(float(fitted_moments @ inverse @ fitted_moments), 0.0) / noise),
        1 - math.exp(-float(np.abs(exponents).max(initial=0.0))),
        _excess(amplitude, weight),
        _excess(phase, weight),
        (amplitude.chi2 + phase.chi2) / (amplitude.spare + phase.spare),
    )


@dataclass(frozen=True)
class _ClosureFit:
    """A fit of antenna terms and further terms, whose coefficients are `values`; `spare`: degrees of freedom."""

    values: Float
    covariance: Float
    chi2: float
    spare: int


def _fit_closure(
    measured: Float, weight: Float, ant1: NDArray[np.int32], ant2: NDArray[np.int32], sign: int, further: Float
) -> _ClosureFit | None:
    """Fit measured = t_i + sign t_j + sum_k values_k further_k by weighted least squares; None without degrees of freedom."""
    names, ends = np.unique(np.concatenate([ant1, ant2]), return_inverse=True)
    i, j, n = ends[: ant1.size], ends[ant1.size :], names.size
    normal = np.zeros((n + len(further), n + len(further)))
    np.add.at(normal, (i, j), sign * weight)
    np.add.at(normal, (j, i), sign * weight)
    np.add.at(normal, (np.concatenate([i, j]),) * 2, np.concatenate([weight, weight]))

    def on_antennas(values: Float) -> Float:
        return np.asarray(np.bincount(i, weight * values, n) + sign * np.bincount(j, weight * values, n), np.float64)

    for k, term in enumerate(further):
        normal[n + k, :n] = normal[:n, n + k] = on_antennas(term)
        normal[n + k, n:] = further @ (weight * term)
    values, vectors = np.linalg.eigh(normal)
    kept = values > _RELATIVE_RANK * values.max(initial=0.0)
    spare = measured.size - int(kept.sum())
    if spare <= 0:
        return None
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    solved = inverse @ np.concatenate([on_antennas(measured), further @ (weight * measured)])
    residual = measured - solved[i] - sign * solved[j] - solved[n:] @ further
    return _ClosureFit(solved[n:], inverse[n:, n:], float(weight @ residual**2), spare)


def _excess(fit: _ClosureFit, weight: Float) -> float:
    """Return the weighted rms of residuals beyond the noise."""
    noise = fit.spare + _BEYOND_SIGMA * math.sqrt(2 * fit.spare)
    return math.sqrt(max(fit.chi2 - noise, 0.0) / float(weight.sum()))
