"""A source's spectrum across the band: its flux density in every subband, fitted to the calibrated visibilities themselves.

In each subband the source, a point at its position, and the catalogue sources around it are fitted together by weighted least
squares, each with the primary-beam response of every integration. The result therefore does not depend on how the band's one
image was weighted or cleaned. Sources missing from the catalogue stay in the residuals, whose scatter gives the errors; the
uncertainty of the beam and of the flux scale is not included.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry, band
from dsa110_assets.visibilities import measurement_set, predict
from dsa110_assets.visibilities.types import Visibilities

Float = NDArray[np.float64]
REACH_DEG = 3.0
"""The distance from the pointing within which catalogue sources are included in the fit."""
ALONE, MOST = 12, 120
"""The number of apparently brightest sources with a factor each, and the total number of sources; all others share one factor."""
SAME_DEG = 30 / 3600
"""A catalogue source this close is the source itself."""
DIMMEST = 0.05
"""The beam response below which it is not known well enough to divide by."""
LEAST_SUBBANDS = 3
"""The fewest subbands from which an index is determined."""


@dataclass(frozen=True)
class Subband:
    """One subband: number, edges and mean frequency [Hz], flux density with error [Jy], and the number of visibilities used."""

    subband: int
    frequency_hz: float
    low_hz: float
    high_hz: float
    flux_jy: float
    flux_err_jy: float
    n_visibilities: int


@dataclass(frozen=True)
class Spectrum:
    """All subbands with data, ascending in frequency, and the power law S ~ nu^index through them (NaN where they cannot determine
    one).

    `response` is the primary beam's mean at the source, in power.
    """

    subbands: tuple[Subband, ...]
    response: float
    index: float
    index_err: float
    flux_jy: float
    flux_err_jy: float
    frequency_hz: float


def measure(ms: Path, ra_deg: float, dec_deg: float, sky: SkyModel) -> Spectrum:
    """Return the spectrum of the source at an ICRS position in a calibrated set [Jy]; `sky` is the catalogue's model of all
    others.

    Raises BadDataError for a set that is not in Jy, or if the position is outside the set's beam.
    """
    if measurement_set.unit(ms) != "Jy":
        raise BadDataError(f"{ms}: DATA is not in Jy, so the set is not calibrated")
    vis = measurement_set.mapped(ms)
    place = np.deg2rad([ra_deg, dec_deg])
    response = float(predict.beam_responses(vis, place[:1], place[1:]).mean())
    if response < DIMMEST:
        raise BadDataError(
            f"{ms}: the beam's response at {ra_deg:.4f}, {dec_deg:+.4f} deg is {response:.3f}; below {DIMMEST} it is too uncertain"
        )
    return _spectrum(vis, _models(vis, place, sky), response)


def _models(vis: Visibilities, place: Float, sky: SkyModel) -> SkyModel:
    """Return the source as 1 Jy with a flat spectrum, then the apparently brightest of the others."""
    middle = vis.phase_centres_rad[0]
    near = sky.within(float(middle[0]), float(middle[1]), REACH_DEG)
    near = near.select(astrometry.separation_deg(near.ra_rad, near.dec_rad, *place) > SAME_DEG)
    if len(near):
        response = predict.beam_responses(vis, near.ra_rad, near.dec_rad)
        apparent_jy = near.flux_at(np.array([float(np.mean(vis.frequencies_hz))]))[:, 0] * response.max(axis=1)
        near = near.select(np.argsort(-apparent_jy)[:MOST])
    return SkyModel(
        ("the source", *near.names), np.concatenate([place[:1], near.ra_rad]), np.concatenate([place[1:], near.dec_rad]),
        np.concatenate([[1.0], near.flux_jy]), np.concatenate([[0.0], near.spectral_index]), near.reference_hz,
        np.concatenate([np.zeros((1, near.log_coefficients.shape[1])), near.log_coefficients]),
    )  # fmt: skip


class _Sums:
    """The least-squares sums of one subband: normal matrix, right side, sum of w |V|^2, and number of visibilities."""

    def __init__(self, n_models: int) -> None:
        self.normal, self.right, self.power, self.count = np.zeros((n_models, n_models)), np.zeros(n_models), 0.0, 0

    def add(self, models: NDArray[np.complex64], data: NDArray[np.complex64], weights: NDArray[np.float32]) -> None:
        """Add samples: `models` (model, sample), `data` and `weights` (sample,)."""
        columns = np.ascontiguousarray(models).view(np.float32)
        weighted = columns * np.repeat(weights, 2)
        observed = np.ascontiguousarray(data).view(np.float32)
        self.normal += weighted @ columns.T
        self.right += weighted @ observed
        self.power += float(np.repeat(weights, 2) @ (observed * observed))
        self.count += int(np.count_nonzero(weights))

    def solved(self) -> tuple[float, float]:
        """Return the first model's factor, and its standard error from the scatter of the residuals."""
        inverse = np.linalg.pinv(self.normal, hermitian=True)
        factors = inverse @ self.right
        freedom = max(2 * self.count - self.right.size, 1)
        scatter = max(self.power - float(factors @ self.right), 0.0) / freedom
        return float(factors[0]), float(np.sqrt(inverse[0, 0] * scatter))


def _spectrum(vis: Visibilities, models: SkyModel, response: float) -> Spectrum:
    subband = np.array([band.subband_of(float(frequency)) for frequency in vis.frequencies_hz])
    n_models = min(len(models), 1 + ALONE) + (len(models) > 1 + ALONE)
    sums = {int(number): _Sums(n_models) for number in np.unique(subband)}
    cross = np.flatnonzero(~vis.is_auto)
    for t, predictions in enumerate(predict.predict_each(vis, models, 1 + ALONE)):
        data, weights = _stokes_i(vis.data[t, cross], vis.flags[t, cross], vis.weights[t, cross])
        for number, subband_sums in sums.items():
            channels = subband == number
            used = np.flatnonzero(weights[:, channels].ravel())
            if used.size:
                model_samples = predictions[:, cross][:, :, channels].reshape(n_models, -1)[:, used]
                subband_sums.add(model_samples, data[:, channels].ravel()[used], weights[:, channels].ravel()[used])
    subbands = []
    for number, subband_sums in sorted(sums.items(), reverse=True):  # subbands are numbered from the top of the band
        frequencies = vis.frequencies_hz[subband == number]
        if subband_sums.count > n_models and subband_sums.normal[0, 0] > 0:
            half = vis.channel_width_hz / 2
            edges = float(frequencies.min() - half), float(frequencies.max() + half)
            subbands.append(Subband(number, float(frequencies.mean()), *edges, *subband_sums.solved(), subband_sums.count))
    if not subbands:
        raise BadDataError("no subband of this set has unflagged data")
    return Spectrum(tuple(subbands), response, *power_law(subbands))


def _stokes_i(
    data: NDArray[np.complex64], flags: NDArray[np.bool_], weights: NDArray[np.float32]
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Return I = (XX + YY) / 2 (baseline, channel) and its weights; where one of them is flagged, the other alone."""
    w = np.where(flags, np.float32(0), weights)
    x, y = w[..., 0], w[..., 1]
    both = (x > 0) & (y > 0)
    total = x + y
    weight = np.where(both, 4 * x * y / np.where(both, total, 1), total).astype(np.float32)
    share = np.where(both, np.float32(0.5), (x > 0).astype(np.float32))
    value = share * data[..., 0] + (1 - share) * data[..., 1]
    return np.asarray(value, np.complex64), weight


def power_law(subbands: list[Subband]) -> tuple[float, float, float, float, float]:
    """Return (index, its error, flux density [Jy], its error, the frequency [Hz] they refer to) of a power law through subbands.

    By weighted least squares in Jy, linearised about the mean: ln S would be biased where the noise is a large part of S. NaN
    where there are fewer than LEAST_SUBBANDS, or their mean is below five errors.
    """
    flux, error = (np.array([getattr(one, name) for one in subbands]) for name in ("flux_jy", "flux_err_jy"))
    frequency = np.array([one.frequency_hz for one in subbands])
    weight = np.where(error > 0, 1 / np.where(error > 0, error, 1) ** 2, 0.0)
    if np.count_nonzero(weight) == 0:
        return (np.nan,) * 5
    pivot = float(np.exp(weight @ np.log(frequency) / weight.sum()))
    level, level_err = float(weight @ flux / weight.sum()), float(weight.sum() ** -0.5)
    if np.count_nonzero(weight) < LEAST_SUBBANDS or level < 5 * level_err:
        return np.nan, np.nan, level, level_err, pivot
    along, index = np.log(frequency / pivot), 0.0
    for _ in range(20):
        shape = np.exp(index * along)
        columns = np.stack([shape, level * along * shape], axis=1)
        covariance = np.linalg.pinv((columns * weight[:, None]).T @ columns)
        step = covariance @ ((columns * weight[:, None]).T @ (flux - level * shape))
        level, index = level + float(step[0]), float(np.clip(index + step[1], -10, 10))
        if abs(step[1]) < 1e-6:
            break
    return index, float(np.sqrt(covariance[1, 1])), level, float(np.sqrt(covariance[0, 0])), pivot
