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
_NEGLIGIBLE = 2.0
"""Times the noise: a term that changes no gridded pixel by more is left out, as its sidelobes are some hundredths."""
_DIRECT = 6e8
"""Points x samples summed directly (1 ns each), the brightest first; the rest is gridded."""
_FAINT = 1e-3
"""Of the dirty peak: points below are gridded in any case, at a millionth of the peak if epsilon is 1e-3."""


def residual_image(
    stokes: StokesI, weighted: ImagingWeights, gridder: Gridder, attenuation: Attenuation
) -> Callable[[Image], Image]:
    """The residual [Jy/beam] of a model [Jy/pixel] of mean apparent brightness, as a function of the model.

    Each sample is predicted with the primary beam it had, so that a source fading as it drifts leaves no residual.
    Only what changed since the last call is predicted, so what an earlier call predicted is rounded, not repeated:
    bright components are exact, and gridding errors are a share of the faint ones'. The gridder's relative accuracy is
    that of the first, dirty image; what is fainter needs as much less of it, and takes fewer terms of w.
    """
    total = float(np.sum(weighted.weights, dtype=np.float64))
    terms = [(stokes.cell_means(pattern), ratio) for pattern, ratio in attenuation.terms]
    strengths = [float(np.sqrt(np.mean(np.square(pattern, dtype=np.float64)))) for pattern, _ in terms]
    known = np.zeros((gridder.n_pixels, gridder.n_pixels), dtype=np.float32)
    left = stokes.data.copy()
    dirty_peak, dirty_rms, last_rms = 0.0, 0.0, 0.0

    def predicted(rows: NDArray[np.intp], columns: NDArray[np.intp], flux: NDArray[np.float32]) -> None:
        order = np.argsort(-np.abs(flux), kind="stable")
        bright = int(np.count_nonzero(np.abs(flux) > _FAINT * dirty_peak))
        near, far = np.split(order, [min(bright, int(_DIRECT) // left.size)])
        if near.size:
            lmn = components.lmn_of_pixels(rows[near], columns[near], gridder.n_pixels, gridder.pixel_rad)
            here = [(pattern, ratio[rows[near], columns[near]]) for pattern, ratio in terms]
            np.subtract(left, components.predict(gridder.uvw, lmn, flux[near], here), out=left)
        if far.size:
            rest = np.zeros_like(known)
            rest[rows[far], columns[far]] = flux[far]
            enough = gridder.epsilon * dirty_peak / float(np.abs(flux[far]).sum())
            np.subtract(left, gridder.to_visibilities(rest, enough), out=left)
            for (pattern, ratio), strength in zip(terms, strengths, strict=True):
                if np.abs(rest * ratio).max() * strength > _NEGLIGIBLE * weighted.noise_jy:
                    np.subtract(left, pattern * gridder.to_visibilities(rest * ratio, _TERM_EPSILON), out=left)

    def of(model: Image) -> Image:
        nonlocal dirty_peak, dirty_rms, last_rms
        fresh = model - known
        rows, columns = np.nonzero(fresh)
        if rows.size:
            predicted(rows, columns, fresh[rows, columns])
            known[...] = model
        enough = gridder.epsilon * dirty_rms / last_rms if last_rms else gridder.epsilon
        image = np.asarray(gridder.to_image(left, weighted.weights, enough) / np.float32(total), dtype=np.float32)
        last_rms = float(image.std(dtype=np.float64))
        if not dirty_rms:
            dirty_peak, dirty_rms = float(np.abs(image).max()), last_rms
        return image

    return of
