"""Between a model of the sky and its residual image, through everything known about how it was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.imaging import components
from dsa110_assets.imaging.attenuation import Attenuation
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.stokes import StokesI
from dsa110_assets.imaging.weighting import ImagingWeights

Image = NDArray[np.float32]
_TERM_EPSILON = 5.0
"""Accuracy of a term relative to the whole's: terms are a tenth of it, a half at the rim of the beam."""


def residual_image(
    stokes: StokesI, weighted: ImagingWeights, gridder: Gridder, attenuation: Attenuation
) -> Callable[[Image], Image]:
    """The exact residual [Jy/beam] of a model [Jy/pixel] of mean apparent brightness, as a function of the
    model.

    Each sample is predicted with the primary beam it had, so that a source fading as it drifts leaves no
    residual.
    """
    total = float(np.sum(weighted.weights, dtype=np.float64))
    # a term is a fraction of the whole, so it needs a fraction of the accuracy
    rough = replace(gridder, epsilon=min(1e-2, _TERM_EPSILON * gridder.epsilon))

    def of(model: Image) -> Image:
        if not np.any(model):
            return np.asarray(gridder.to_image(stokes.data, weighted.weights) / total, dtype=np.float32)
        if components.is_quicker(int(np.count_nonzero(model)), gridder):
            left = components.predict(model, gridder, attenuation, stokes.n_times)
        else:
            left = np.asarray(gridder.to_visibilities(model))
            for pattern, ratio in attenuation.terms:
                _add_term(left, rough.to_visibilities(model * ratio), pattern)
        np.subtract(stokes.data, left, out=left)
        return np.asarray(gridder.to_image(left, weighted.weights) / total, dtype=np.float32)

    return of


@njit(cache=True, parallel=True)
def _add_term(total, term, pattern):  # type: ignore[no-untyped-def]
    rows_per_time = total.shape[0] // pattern.shape[0]
    for row in prange(total.shape[0]):
        for channel in range(total.shape[1]):
            total[row, channel] += pattern[row // rows_per_time, channel] * term[row, channel]
