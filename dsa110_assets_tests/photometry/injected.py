"""The completeness of the blind search by flux, from points injected into a mosaic and searched for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from astropy.io.fits import Header
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dsa110_assets.photometry.blind import find_in_scene
from dsa110_assets.photometry.forced import Scene, beam_coordinates, prepare
from dsa110_assets.photometry.geometry import form_reach
from dsa110_assets.photometry.options import PhotometryOptions

FloatArray = NDArray[np.float64]
_APART_BEAMS, _MATCH_BEAMS = 4.0, 0.5
_REACH_BEAMS = 1.5


def completeness(
    image: NDArray[np.floating],
    noise: NDArray[np.floating],
    header: Header,
    fluxes_jy: Sequence[float],
    options: PhotometryOptions,
    *,
    each: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the fraction of injected points of each flux that the blind search finds: flux_jy, injected, found, completeness, error.

    `image` and `noise` (ny, nx) as for `find_sources`. About `each` beams per flux are added at random places with data, four
    beams apart from one another, in as many rounds as needed. Sources in the image may hide them, as they would hide real ones. A
    detection within half a beam counts as found; `error` is binomial, of (found + 1) in (injected + 2). An image without data gives
    0 injected and NaN.
    """
    rng = np.random.default_rng(seed)
    scene = prepare(image, noise, header, options)
    valid = np.flatnonzero(np.isfinite(scene.image.ravel()) & (scene.noise.ravel() > 0))
    rows = []
    for flux in fluxes_jy:
        injected = found = 0
        while injected < each and valid.size:
            places = _places(scene, valid, each - injected, rng)
            injected += len(places)
            found += _found(scene, places, flux, options, header)
        prior = (found + 1) / (injected + 2)
        rows.append((flux, injected, found, found / injected if injected else np.nan, np.sqrt(prior * (1 - prior) / (injected + 3))))
    return pd.DataFrame(rows, columns=["flux_jy", "injected", "found", "completeness", "error"])


def _places(scene: Scene, valid: NDArray[np.int64], number: int, rng: np.random.Generator) -> FloatArray:
    """Up to `number` places (n, 2) as (x, y) between pixels, on data and _APART_BEAMS apart."""
    chosen = rng.choice(valid, min(valid.size, 8 * number), replace=False)
    places = np.stack([chosen % scene.image.shape[1], chosen // scene.image.shape[1]], -1) + rng.uniform(-0.5, 0.5, (chosen.size, 2))
    points = beam_coordinates(places[:, 0], places[:, 1], scene.geometry.central_form())
    kept = np.ones(len(places), np.bool_)
    for index, hits in enumerate(cKDTree(points).query_ball_point(points, _APART_BEAMS)):
        kept[index] = not any(hit < index and kept[hit] for hit in hits)
    return np.asarray(places[kept][:number])


def _found(scene: Scene, places: FloatArray, flux_jy: float, options: PhotometryOptions, header: Header) -> int:
    """The number of beams of a flux, added to the image at places (n, 2), that the search finds."""
    image = scene.image.astype(np.float64)
    form = scene.geometry.central_form()
    half = (int(form_reach(form, _REACH_BEAMS)[0]) + 1, int(form_reach(form, _REACH_BEAMS)[1]) + 1)
    for x, y in places:
        i, j = int(np.rint(x)), int(np.rint(y))
        low, high = max(j - half[1], 0), min(j + half[1] + 1, image.shape[0])
        left, right = max(i - half[0], 0), min(i + half[0] + 1, image.shape[1])
        dy, dx = np.mgrid[low:high, left:right] - np.array([y, x])[:, None, None]
        image[low:high, left:right] += flux_jy * np.exp(-0.5 * (form[0] * dx**2 + 2 * form[1] * dx * dy + form[2] * dy**2))
    out = find_in_scene(prepare(image, scene.noise, header, options), options)
    if out.empty:
        return 0
    x, y = scene.geometry.to_pixels(out["ra_deg"].to_numpy(), out["dec_deg"].to_numpy())
    distance, _ = cKDTree(beam_coordinates(x, y, form)).query(beam_coordinates(places[:, 0], places[:, 1], form))
    return int(np.sum(distance < _MATCH_BEAMS))
