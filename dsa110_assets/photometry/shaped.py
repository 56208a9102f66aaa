"""Forced fluxes of sources with a known size, and of the points around them: the linear system of `forced`, with a shape for each
source.

A handful of sources per mosaic need this; the others share one kernel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from dsa110_assets.photometry.forcedkernel import MIN_APERTURE
from dsa110_assets.photometry.geometry import FWHM_PER_SIGMA, form_reach
from dsa110_assets.photometry.noise import LocalNoise, convolved

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ImageArray = NDArray[np.float32]
_LARGEST_CLUSTER = 64


def clusters(x: FloatArray, y: FloatArray, forms: FloatArray, wide: NDArray[np.bool_], beams: float) -> list[IntArray]:
    """Return row numbers of sources to be solved together: chains of sources within `beams` FWHMs of one another, including at
    least one that is `wide`.

    A chain of more than 64 is reduced to a wide source and its neighbours.
    """
    far = max((max(form_reach(form, beams)) for form in forms), default=0.0)
    places = np.stack([x, y], axis=-1)
    near = cKDTree(places).query_ball_point(places[wide], far)
    around = np.unique(np.concatenate([np.asarray(hits, np.int64) for hits in near]))
    pairs = around[cKDTree(places[around]).query_pairs(far, output_type="ndarray")]
    dx, dy = x[pairs[:, 0]] - x[pairs[:, 1]], y[pairs[:, 0]] - y[pairs[:, 1]]
    squares = [form[:, 0] * dx**2 + 2 * form[:, 1] * dx * dy + form[:, 2] * dy**2 for form in (forms[pairs[:, 0]], forms[pairs[:, 1]])]
    pairs = pairs[np.minimum(*squares) <= (beams * FWHM_PER_SIGMA) ** 2]
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(x.size,) * 2)
    _, label = connected_components(graph, directed=False)
    out = []
    for group in np.unique(label[wide]):
        members = np.flatnonzero(label == group)
        if members.size <= _LARGEST_CLUSTER:
            out.append(members)
            continue
        for source in members[wide[members]]:
            neighbours = np.unique(np.r_[source, pairs[(pairs == source).any(axis=1)].ravel()])
            nearest = np.argsort(np.hypot(x[neighbours] - x[source], y[neighbours] - y[source]), kind="stable")
            out.append(neighbours[nearest[:_LARGEST_CLUSTER]])
    return out


def solve_cluster(
    image: ImageArray, noise: ImageArray, local: LocalNoise, x: FloatArray, y: FloatArray, forms: FloatArray, beams: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return heights [Jy/beam] and errors of Gaussians (k,) of forms (k, 3) at pixels x, y, each summed within `beams` (k,) of its
    own FWHMs.

    NaN where too little of that area has data. The errors use the measured correlation of the noise.
    """
    reach = np.array([form_reach(form, float(radius)) for form, radius in zip(forms, beams, strict=True)])
    cut = (beams * FWHM_PER_SIGMA) ** 2
    rows = np.arange(max(int(np.min(y - reach[:, 1])), 0), min(int(np.max(y + reach[:, 1])) + 2, image.shape[0]))
    columns = np.arange(max(int(np.min(x - reach[:, 0])), 0), min(int(np.max(x + reach[:, 0])) + 2, image.shape[1]))
    v, u = (grid.astype(np.float64) for grid in np.meshgrid(rows, columns, indexing="ij"))
    background, scale = (values.reshape(u.shape) for values in local.at(u.ravel(), v.ravel()))
    window = np.ix_(rows, columns)
    sigma = noise[window] * scale
    has_data = np.isfinite(image[window]) & np.isfinite(sigma) & (sigma > 0)
    data = np.where(has_data, image[window] - background, 0.0)
    sigma = np.where(has_data, sigma, 1.0)
    dx, dy = u - x[:, None, None], v - y[:, None, None]
    a, b, c = (forms[:, n, None, None] for n in range(3))
    square = a * dx**2 + 2 * b * dx * dy + c * dy**2
    kernel = np.exp(-0.5 * square)
    inside = np.where(square <= cut[:, None, None], kernel, 0.0)
    full_area = np.pi / np.sqrt(forms[:, 0] * forms[:, 2] - forms[:, 1] ** 2) * (1 - np.exp(-cut))
    kept = np.flatnonzero(np.sum(inside**2 * has_data, axis=(1, 2)) >= MIN_APERTURE * full_area)
    weighted = np.where(has_data, inside[kept] / sigma**2, 0.0)
    height, error = np.full(x.size, np.nan), np.full(x.size, np.nan)
    if kept.size:
        inverse = np.linalg.pinv(np.einsum("pji,qji->pq", weighted, kernel[kept]))
        height[kept] = inverse @ np.einsum("pji,ji->p", weighted, data)
        spread = np.array([_smeared(weight * sigma, local.correlation) for weight in weighted])
        noise_covariance = np.einsum("pji,qji->pq", weighted * sigma, spread)
        error[kept] = np.sqrt(np.diag(inverse @ noise_covariance @ inverse.T))
    return height, error


def _smeared(weight: FloatArray, correlation: FloatArray) -> FloatArray:
    """Return weights (ny, nx) summed with the noise's correlation at every pixel."""
    margin = correlation.shape[0] // 2, correlation.shape[1] // 2
    return convolved(weight, correlation)[margin[0] : margin[0] + weight.shape[0], margin[1] : margin[1] + weight.shape[1]]
