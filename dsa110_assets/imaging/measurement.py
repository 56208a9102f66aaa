"""Between a model of the sky and its residual image, through everything known about how it was measured."""

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
"""Accuracy of a term for what is gridded, the faint rest of a model: terms are a tenth of it, a half at the rim."""
_NEGLIGIBLE = 2.0
"""Times the noise: a term that changes no gridded pixel by more is left out, as its sidelobes are some hundredths."""
ROUGH = 2e-3
"""Accuracy of an image in which only points are looked for: what they leave in the visibilities is seen again."""
_DIRECT = 6e8
"""Points x samples summed directly (1 ns each), the brightest first; the rest is gridded."""
_AS_MANY, _MANY = 25, 10
"""Points whose direct sum takes as long as one transform of their image, and transforms that the gridder's own treatment of w is as
long as."""
_UNNOTICED = 0.1
"""Of the noise, what a faint pixel may be wrong by, and all pixels of an image that is not the last."""
_SIDELOBES = 0.05
"""Of the dirty beam's peak: more than the rms of its sidelobes."""
_FAINT = 1e-3
"""Of the dirty peak: points below are gridded in any case, at a millionth of the peak if epsilon is 1e-3."""


class Measurement:
    """The residual image of a model [Jy/pixel] of mean apparent brightness, and of points between the pixels.

    Each sample is predicted with the primary beam it had, so that a source fading as it drifts leaves no residual.
    Only what changed since the last call is predicted, so what an earlier call predicted is rounded, not repeated:
    bright components are exact, and gridding errors are a share of the faint ones'. The gridder's relative accuracy is
    that of the first, dirty image; what is fainter needs as much less of it, and takes fewer terms of w.
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
        """`patterns` (term, sample) are the means over each sample's cell of those of `attenuation`, `log_frequency` (sample,)
        of ln(nu / nu_0)."""
        self._weighted, self._gridder, self._beam = weighted, gridder, attenuation
        self._total = float(np.sum(weighted.weights, dtype=np.float64))
        self._patterns, self._log_frequency = patterns, log_frequency
        self.slope_rms = float(np.sqrt(np.average(np.square(log_frequency, dtype=np.float64), weights=weighted.weights)))
        self._strengths = [float(np.sqrt(np.mean(np.square(pattern, dtype=np.float64)))) for pattern in self._patterns]
        self._known: Image = np.zeros((gridder.n_pixels, gridder.n_pixels), dtype=np.float32)
        self._left = stokes.data.copy()
        self._dirty_peak, self._dirty_rms, self._last_rms = 0.0, 0.0, 0.0

    def image(self, rough: float = 0.0) -> Image:
        """The residual [Jy/beam], (ny, nx) float32, of what was taken out so far; wrong by up to `rough` of the rms of the last
        such image if that is more than it may be wrong for good."""
        enough = self._gridder.epsilon * self._dirty_rms / self._last_rms if self._last_rms else self._gridder.epsilon
        enough = max(enough, rough)
        sums = self._gridder.to_image(self._left, self._weighted.weights, enough)
        image: Image = np.asarray(sums / np.float32(self._total), dtype=np.float32)
        self._last_rms = float(np.linalg.norm(image)) / image.size**0.5
        if not self._dirty_rms:
            self._dirty_peak, self._dirty_rms = float(np.abs(image).max()), self._last_rms
        return image

    def samples(self) -> NDArray[np.complex64]:
        """(sample,) what is left of them now, for `anew`."""
        return self._left.copy()

    def anew(self, samples: NDArray[np.complex64], points: Points) -> Image:
        """The residual with `points` taken out of those `samples`, as good as that of `exchange`."""
        np.copyto(self._left, samples)
        return self.exchange(NO_POINTS, points)

    def exchange(self, before: Points, after: Points) -> Image:
        """The residual with the points `after` taken out instead of `before`, good enough to find and correct points in."""
        self.without(before.negative().and_also(after))
        return self.image(max(ROUGH, self._unseen))

    def without(self, points: Points) -> NDArray[np.complex64]:
        """(sample,) what is left once `points` are taken out as well."""
        sharp, wide = points.select(~points.resolved), points.select(points.resolved)
        self._sum(sharp.rows, sharp.columns, sharp.flux_jy, sharp.index)
        for k in range(wide.flux_jy.size):
            self._taper(wide.select(np.array([k])))
        return self._left

    def _taper(self, source: Points) -> None:
        """A Gaussian: a point's visibilities times exp(-2 pi^2 q C q), q the cycles per pixel along rows and columns."""
        lmn, ratios = self._directions(source.rows, source.columns)
        seen = components.predict(self._gridder.uvw, lmn, source.flux_jy, self._patterns, ratios)
        along_rows, along_columns = (self._gridder.uvw[:, k] * sign * self._gridder.pixel_rad for k, sign in ((1, 1), (0, -1)))
        (a, b), (_, c) = source.spread[0]
        squared = a * along_rows**2 + 2 * b * along_rows * along_columns + c * along_columns**2
        seen *= np.exp(-2 * np.pi**2 * squared).astype(np.float32)
        np.subtract(self._left, seen, out=self._left)

    def steeper(self, points: Points) -> NDArray[np.float64]:
        """(point,) changes of the points' spectral indices that fit what is left; NaN where nothing tells."""
        lmn, ratios = self._directions(points.rows, points.columns)
        weighted = self._left * self._weighted.weights
        return components.steeper(
            self._gridder.uvw, lmn, points.flux_jy, self._patterns, ratios, self._log_frequency, weighted, self._beam_moments
        )

    @cached_property
    def _beam_moments(self) -> NDArray[np.float64]:
        return components.beam_moments(self._patterns, self._log_frequency, self._weighted.weights)

    def residual_of(self, model: Image) -> Image:
        """The residual of a model [Jy/pixel], good enough to clean further; points that were taken out stay so."""
        self.without_image(model)
        return self.image(self._unseen)

    def without_image(self, model: Image) -> None:
        """Take out a model [Jy/pixel], and nothing any more of the one before."""
        fresh = model - self._known
        rows, columns = np.nonzero(fresh)
        if rows.size:
            self._take_out(rows, columns, fresh[rows, columns])
            self._known = model.copy()

    def state(self) -> tuple[NDArray[np.complex64], Image, float]:
        """What is left now, for `back_to`."""
        return self._left.copy(), self._known, self._last_rms

    def back_to(self, state: tuple[NDArray[np.complex64], Image, float]) -> None:
        """As it was, to the last bit; a state is good for once."""
        self._left, self._known, self._last_rms = state

    @property
    def _unseen(self) -> float:
        """Of the last image's rms: an error that the noise hides. 0 if no noise is known."""
        noise_jy = self._weighted.noise_jy
        return _UNNOTICED * noise_jy / self._last_rms if self._last_rms and noise_jy > 0 else 0.0

    def _take_out(self, rows: NDArray[np.intp], columns: NDArray[np.intp], flux: NDArray[np.float32]) -> None:
        order = np.argsort(-np.abs(flux), kind="stable")
        bright = int(np.count_nonzero(np.abs(flux) > _FAINT * self._dirty_peak))
        near, far = np.split(order, [min(bright, int(_DIRECT) // self._left.size)])
        steps = list(self._steps(rows[far], columns[far], flux[far])) if far.size else []
        if far.size < _AS_MANY * sum(transforms for *_, transforms in steps):
            near, steps = order, []
        if near.size:
            self._sum(rows[near], columns[near], flux[near])
        for pattern, seen, enough, _ in steps:
            np.subtract(self._left, pattern * self._gridder.to_visibilities(seen, enough), out=self._left)

    def _sum(self, rows: NDArray[Any], columns: NDArray[Any], flux: NDArray[np.floating], index: NDArray[np.float64] | None = None) -> None:
        """Points of any place, one by one."""
        lmn, ratios = self._directions(rows, columns)
        spectra = None if index is None else components.Spectra(self._log_frequency, index)
        np.subtract(self._left, components.predict(self._gridder.uvw, lmn, flux, self._patterns, ratios, spectra), out=self._left)

    def _directions(self, rows: NDArray[Any], columns: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """l, m, n - 1 of pixels, and the beam's ratios there."""
        lmn = components.lmn_of_pixels(rows, columns, self._gridder.n_pixels, self._gridder.pixel_rad)
        return lmn, self._beam.ratios_near(rows, columns)

    def _steps(
        self, rows: NDArray[np.intp], columns: NDArray[np.intp], flux: NDArray[np.float32]
    ) -> Iterator[tuple[NDArray[np.float32] | np.float32, Image, float, int]]:
        """How many faint pixels at once are predicted: factors of samples, images, their accuracy, and transforms these take."""
        rest = np.zeros_like(self._known)
        rest[rows, columns] = flux
        enough = self._enough(flux)
        yield np.float32(1), rest, enough, self._gridder.terms(enough) or _MANY
        for pattern, (_, ratio), strength in zip(self._patterns, self._beam.terms, self._strengths, strict=True):
            if np.abs(flux * ratio[rows, columns]).max() * strength > _NEGLIGIBLE * self._weighted.noise_jy:
                yield pattern, rest * ratio, _TERM_EPSILON, self._gridder.terms(_TERM_EPSILON) or _MANY

    def _enough(self, flux: NDArray[np.float32]) -> float:
        """The relative accuracy these pixels need: that which keeps the sum of all errors below the gridder's share of the
        dirty peak, or the brightest's error and the others' sidelobes, added in squares, below a tenth of the noise."""
        size = np.abs(flux.astype(np.float64))
        certain = self._gridder.epsilon * self._dirty_peak / float(size.sum())
        likely = _UNNOTICED * self._weighted.noise_jy / float(size.max() + _SIDELOBES * np.sqrt(np.sum(size**2)))
        return max(certain, likely if np.isfinite(likely) else 0.0)
