"""Removes the selection bias from the flux with which a new source was discovered.

A source enters the list because one flux passed the blind search's limit: of the many places where noise might have raised a flux
above it, this is one where it did. Compared with the later, forced fluxes such a point stands out whether or not the source varies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp

from dsa110_assets.variability.unseen import BLIND_SIGMA

FloatArray = NDArray[np.float64]
_LEAST_SIGMA = BLIND_SIGMA - 1
"""Least ratio of the flux at discovery to its total error. The limit of the search itself applies to a peak, whose error lacks the
systematic part."""


def unselected(flux_jy: FloatArray, flux_err_jy: FloatArray, starts: NDArray[np.int64], new: NDArray[np.bool_]) -> FloatArray:
    """Return `flux_jy` (row,) [Jy] with the first usable point of each `new` source (source,) moved to its value without selection.

    Source k has rows starts[k]:starts[k + 1] in order of time. Let m be the weighted mean of its other points and s the error of the
    first point's difference from it. A constant source's first point is at z = (F - m) / s, which is normal above
    a = (5 F_err - m) / s, so that Q(z) / Q(a) is uniform and z' = Q^-1[Q(z) / Q(a)] is standard normal (Q the upper tail; probability
    integral transform). The point becomes m + z' s. A flux up to a sigma below the limit, as forced photometry may find at the same
    place, gives no information and becomes m. A lower flux is no discovery and stays; so do sources with one usable point (finite,
    error above 0).
    """
    usable = np.isfinite(flux_jy) & (flux_err_jy > 0) & np.repeat(new, np.diff(starts))
    rows = np.flatnonzero(usable)
    source = np.searchsorted(starts, rows, side="right") - 1
    is_first = np.diff(source, prepend=-1) != 0
    first, others = rows[is_first], rows[~is_first]
    weight = 1 / flux_err_jy[others] ** 2
    total, product = (np.bincount(source[~is_first], w, new.size)[source[is_first]] for w in (weight, weight * flux_jy[others]))
    selected = (total > 0) & (flux_jy[first] > _LEAST_SIGMA * flux_err_jy[first])
    first, total, product = (values[selected] for values in (first, total, product))
    mean, scale = product / total, np.hypot(flux_err_jy[first], total**-0.5)
    z, limit = (flux_jy[first] - mean) / scale, (BLIND_SIGMA * flux_err_jy[first] - mean) / scale
    above = z > limit
    shift = np.zeros(first.size)
    shift[above] = -ndtri_exp(log_ndtr(-z[above]) - log_ndtr(-limit[above]))
    flux = flux_jy.copy()
    flux[first] = mean + shift * scale
    return flux
