"""Between a model of the sky and its residual image, through everything known about how it was measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.imaging import components
from dsa110_assets.imaging.attenuation import Attenuation
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.stokes import StokesI
from dsa110_assets.imaging.weighting import ImagingWeights

Image = NDArray[np.float32]
_TERM_EPSILON = 5e-2
"""Accuracy of a term for what is gridded, the faint rest of a model: terms are a tenth of it, a half at the rim."""
_NEGLIGIBLE = 10.0
"""Pixels of a model below so many times the noise do without terms: a fifth of their sidelobes' hundredth is a fiftieth
of the noise."""
_DIRECT = 6e8
"""Points x samples summed directly (1 ns each), the brightest first; the rest is gridded."""


def residual_image(
    stokes: StokesI, weighted: ImagingWeights, gridder: Gridder, attenuation: Attenuation
) -> Callable[[Image], Image]:
    """The residual [Jy/beam] of a model [Jy/pixel] of mean apparent brightness, as a function of the model.

    Each sample is predicted with the primary beam it had, so that a source fading as it drifts leaves no residual.
    Only what changed since the last call is predicted, so what an earlier call predicted is rounded, not repeated:
    bright components are exact, and gridding errors are a share of the faint ones'.
    """
    total = float(np.sum(weighted.weights, dtype=np.float64))
    terms = [(stokes.cell_means(pattern), ratio) for pattern, ratio in attenuation.terms]
    known = np.zeros((gridder.n_pixels, gridder.n_pixels), dtype=np.float32)
    left = stokes.data.copy()

    def predicted(rows: NDArray[np.intp], columns: NDArray[np.intp], flux: NDArray[np.float32]) -> None:
        order = np.argsort(-np.abs(flux), kind="stable")
        near, far = np.split(order, [int(_DIRECT) // left.size])
        lmn = components.lmn_of_pixels(rows[near], columns[near], gridder.n_pixels, gridder.pixel_rad)
        here = [(pattern, ratio[rows[near], columns[near]]) for pattern, ratio in terms]
        np.subtract(left, components.predict(gridder.uvw, lmn, flux[near], here), out=left)
        if far.size:
            rest = np.zeros_like(known)
            rest[rows[far], columns[far]] = flux[far]
            np.subtract(left, gridder.to_visibilities(rest), out=left)
            bright = np.abs(flux[far]).max() > _NEGLIGIBLE * weighted.noise_jy
            for pattern, ratio in terms if bright else ():
                np.subtract(left, pattern * gridder.to_visibilities(rest * ratio, _TERM_EPSILON), out=left)

    def of(model: Image) -> Image:
        fresh = model - known
        rows, columns = np.nonzero(fresh)
        if rows.size:
            predicted(rows, columns, fresh[rows, columns])
            known[...] = model
        return np.asarray(gridder.to_image(left, weighted.weights) / total, dtype=np.float32)

    return of
