"""The measurement between a sky model and its residual image: prediction of visibilities with every known effect, and imaging of
the rest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.imaging import components
from dsa110_assets.imaging.attenuation import Attenuation
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.points import NO_POINTS, Points
from dsa110_assets.imaging.stokes import StokesI
from dsa110_assets.imaging.weighting import ImagingWeights

Image = NDArray[np.float32]
_TERM_EPSILON = 5e-2
"""Accuracy of a beam term for the gridded part, which is the faint rest of a model: terms are a tenth of the model, half of it at
the rim."""
_NEGLIGIBLE = 2.0
"""Times the noise: a term that changes no gridded pixel by more than this is omitted, because its sidelobes are some hundredths of that."""
ROUGH = 2e-3
"""Accuracy of an image that is only searched for points: errors left in the visibilities show up again in the next image."""
_DIRECT = 6e8
"""Points x samples summed directly (1 ns each), brightest points first; the remaining pixels are gridded."""
_POINTS_PER_TRANSFORM, _TRANSFORMS_WITH_W = 25, 10
"""The number of points whose direct sum takes as long as one transform of their image, and the number of transforms that take as
long as the gridder's own treatment of w."""
_HIDDEN_BY_NOISE = 0.1
"""Times the noise: the error allowed in a faint pixel, and in every pixel of an image that is not the last."""
_SIDELOBES = 0.05
"""Of the dirty beam's peak: an upper bound of the rms of its sidelobes."""
_FAINT = 1e-3
"""Of the dirty peak: fainter points are gridded in any case, with an error of a millionth of the peak if epsilon is 1e-3."""


class Measurement:
    """The residual image of a model [Jy/pixel] of mean apparent brightness, and of points between the pixels.

    Each sample is predicted with its own primary-beam response, so that a source fading as it drifts leaves no residual. Only
    changes since the last call are predicted, so earlier predictions are not repeated and suffer only rounding: bright components
    are exact, and gridding errors are a share of the faint ones. The gridder's relative accuracy refers to the first, dirty
    image; fainter residuals need proportionally less relative accuracy, and take fewer terms of w.
    """

    def __init__(
        self,
        stokes: StokesI,
        weighted: ImagingWeights,
        gridder: Gridder,
        attenuation: Attenuation,
        patterns: NDArray[np.float32],
        log_frequency: NDArray[np.float32],
    ) -> None:
        """`patterns` (term, sample) are those of `attenuation`, averaged over each sample's cell; `log_frequency` (sample,) is the
        same average of ln(nu / nu_0)."""
        self._weighted, self._gridder, self._beam = weighted, gridder, attenuation
        self._total = float(np.sum(weighted.weights, dtype=np.float64))
        self._patterns, self._log_frequency = patterns, log_frequency
        self.slope_rms = float(np.sqrt(np.average(np.square(log_frequency, dtype=np.float64), weights=weighted.weights)))
        self._strengths = [float(np.sqrt(np.mean(np.square(pattern, dtype=np.float64)))) for pattern in self._patterns]
        self._subtracted: Image = np.zeros((gridder.n_pixels, gridder.n_pixels), dtype=np.float32)
        self._residual = stokes.data.copy()
        self._dirty_peak, self._dirty_rms, self._last_rms = 0.0, 0.0, 0.0

    def image(self, rough: float = 0.0) -> Image:
        """Return the residual [Jy/beam], (ny, nx) float32, of everything taken out so far.

        Its error is the gridder's epsilon times the rms of the dirty image, or `rough` times the rms of the previous image
        where that is larger.
        """
        accuracy = self._gridder.epsilon * self._dirty_rms / self._last_rms if self._last_rms else self._gridder.epsilon
        accuracy = max(accuracy, rough)
        sums = self._gridder.to_image(self._residual, self._weighted.weights, accuracy)
        image: Image = np.asarray(sums / np.float32(self._total), dtype=np.float32)
        self._last_rms = float(np.linalg.norm(image)) / image.size**0.5
        if not self._dirty_rms:
            self._dirty_peak, self._dirty_rms = float(np.abs(image).max()), self._last_rms
        return image

    def samples(self) -> NDArray[np.complex64]:
        """Return a copy of the residual samples (sample,), which `anew` can start from."""
        return self._residual.copy()

    def anew(self, samples: NDArray[np.complex64], points: Points) -> Image:
        """Return the residual image of `samples` with `points` taken out, as accurate as that of `exchange`."""
        np.copyto(self._residual, samples)
        return self.exchange(NO_POINTS, points)

    def exchange(self, before: Points, after: Points) -> Image:
        """Return the residual image with the points `after` taken out instead of `before`, accurate enough to find and correct
        points in."""
        self.without(before.negative().joined_with(after))
        return self.image(max(ROUGH, self._tolerance))

    def without(self, points: Points) -> NDArray[np.complex64]:
        """Take out `points` as well; return the residual samples (sample,)."""
        unresolved, resolved = points.select(~points.resolved), points.select(points.resolved)
        self._sum(unresolved.rows, unresolved.columns, unresolved.flux_jy, unresolved.index)
        for k in range(resolved.flux_jy.size):
            self._taper(resolved.select(np.array([k])))
        return self._residual

    def _taper(self, source: Points) -> None:
        """Take out one Gaussian: a point's visibilities times exp(-2 pi^2 q C q), with q the cycles per pixel along rows and columns."""
        lmn, ratios = self._directions(source.rows, source.columns)
        predicted = components.predict(self._gridder.uvw, lmn, source.flux_jy, self._patterns, ratios)
        along_rows, along_columns = (self._gridder.uvw[:, k] * sign * self._gridder.pixel_rad for k, sign in ((1, 1), (0, -1)))
        (a, b), (_, c) = source.spread[0]
        squared = a * along_rows**2 + 2 * b * along_rows * along_columns + c * along_columns**2
        predicted *= np.exp(-2 * np.pi**2 * squared).astype(np.float32)
        np.subtract(self._residual, predicted, out=self._residual)

    def steeper(self, points: Points) -> NDArray[np.float64]:
        """Return the changes (point,) of the points' spectral indices that best fit the residual samples; NaN where the samples do
        not constrain them."""
        lmn, ratios = self._directions(points.rows, points.columns)
        weighted = self._residual * self._weighted.weights
        return components.steeper(
            self._gridder.uvw, lmn, points.flux_jy, self._patterns, ratios, self._log_frequency, weighted, self._beam_moments
        )

    @cached_property
    def _beam_moments(self) -> NDArray[np.float64]:
        return components.beam_moments(self._patterns, self._log_frequency, self._weighted.weights)

    def residual_of(self, model: Image) -> Image:
        """Return the residual image of a model [Jy/pixel], accurate enough to clean further; points that were taken out stay out."""
        self.without_image(model)
        return self.image(self._tolerance)

    def without_image(self, model: Image) -> None:
        """Take out a model [Jy/pixel] in place of the previous model."""
        change = model - self._subtracted
        rows, columns = np.nonzero(change)
        if rows.size:
            self._take_out(rows, columns, change[rows, columns])
            self._subtracted = model.copy()

    def state(self) -> tuple[NDArray[np.complex64], Image, float]:
        """Return the present state, for `back_to`."""
        return self._residual.copy(), self._subtracted, self._last_rms

    def back_to(self, state: tuple[NDArray[np.complex64], Image, float]) -> None:
        """Restore a state, exact to the last bit; each state can be restored only once."""
        self._residual, self._subtracted, self._last_rms = state

    @property
    def _tolerance(self) -> float:
        """The error that the noise hides, relative to the rms of the last image; 0 if the noise is not known."""
        noise_jy = self._weighted.noise_jy
        return _HIDDEN_BY_NOISE * noise_jy / self._last_rms if self._last_rms and noise_jy > 0 else 0.0

    def _take_out(self, rows: NDArray[np.intp], columns: NDArray[np.intp], flux: NDArray[np.float32]) -> None:
        order = np.argsort(-np.abs(flux), kind="stable")
        bright = int(np.count_nonzero(np.abs(flux) > _FAINT * self._dirty_peak))
        summed, gridded = np.split(order, [min(bright, int(_DIRECT) // self._residual.size)])
        steps = list(self._steps(rows[gridded], columns[gridded], flux[gridded])) if gridded.size else []
        if gridded.size < _POINTS_PER_TRANSFORM * sum(transforms for *_, transforms in steps):
            summed, steps = order, []
        if summed.size:
            self._sum(rows[summed], columns[summed], flux[summed])
        for pattern, image, accuracy, _ in steps:
            np.subtract(self._residual, pattern * self._gridder.to_visibilities(image, accuracy), out=self._residual)

    def _sum(self, rows: NDArray[Any], columns: NDArray[Any], flux: NDArray[np.floating], index: NDArray[np.float64] | None = None) -> None:
        """Predict points, which may lie between pixels, by a direct sum, and take them out."""
        lmn, ratios = self._directions(rows, columns)
        spectra = None if index is None else components.Spectra(self._log_frequency, index)
        np.subtract(self._residual, components.predict(self._gridder.uvw, lmn, flux, self._patterns, ratios, spectra), out=self._residual)

    def _directions(self, rows: NDArray[Any], columns: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return l, m, n - 1 of pixels, and the beam terms' ratios there."""
        lmn = components.lmn_of_pixels(rows, columns, self._gridder.n_pixels, self._gridder.pixel_rad)
        return lmn, self._beam.ratios_near(rows, columns)

    def _steps(
        self, rows: NDArray[np.intp], columns: NDArray[np.intp], flux: NDArray[np.float32]
    ) -> Iterator[tuple[NDArray[np.float32] | np.float32, Image, float, int]]:
        """Yield the gridded predictions of many faint pixels: factors of the samples, image, its accuracy, and the number of
        transforms it takes."""
        rest = np.zeros_like(self._subtracted)
        rest[rows, columns] = flux
        accuracy = self._accuracy_needed(flux)
        yield np.float32(1), rest, accuracy, self._gridder.terms(accuracy) or _TRANSFORMS_WITH_W
        for pattern, (_, ratio), strength in zip(self._patterns, self._beam.terms, self._strengths, strict=True):
            if np.abs(flux * ratio[rows, columns]).max() * strength > _NEGLIGIBLE * self._weighted.noise_jy:
                yield pattern, rest * ratio, _TERM_EPSILON, self._gridder.terms(_TERM_EPSILON) or _TRANSFORMS_WITH_W

    def _accuracy_needed(self, flux: NDArray[np.float32]) -> float:
        """Return the relative accuracy that these pixels need, the looser of two.

        One keeps the sum of all errors below the gridder's share of the dirty peak. The other keeps the error of the brightest
        pixel and the sidelobes of the others, added in quadrature, below a tenth of the noise.
        """
        size = np.abs(flux.astype(np.float64))
        certain = self._gridder.epsilon * self._dirty_peak / float(size.sum())
        likely = _HIDDEN_BY_NOISE * self._weighted.noise_jy / float(size.max() + _SIDELOBES * np.sqrt(np.sum(size**2)))
        return max(certain, likely if np.isfinite(likely) else 0.0)
