"""New sources that an earlier observation of the same place did not show.

A source gets forced fluxes only from its discovery on. Earlier epochs still give information: a neighbour measured then
proves that the place was observed, and the blind search would have found any source above its limit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtr

from dsa110_assets.photometry.geometry import unit_vectors
from dsa110_assets.photometry.transits import HALF_TRANSIT_DAYS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BLIND_SIGMA = 5.0


class Unseen(NamedTuple):
    """For each source: the chance that a constant source was missed before, and Vs and m against the limit; NaN if the place was not
    observed before."""

    p: FloatArray
    vs: FloatArray
    m: FloatArray


def unseen_before(rows: pd.DataFrame, starts: IntArray, new: IntArray, neighbour_deg: float) -> Unseen:
    """Compare each new source's first flux with the detection limits of earlier transits of its place.

    `rows` are light-curve points sorted by source and time, `starts` (source + 1,) the first row of each source, `new` the numbers of
    the new sources. An earlier transit counts if a source within `neighbour_deg` was measured; its limit is 5 rms of the nearest such
    neighbour. The deepest of L transits is used and its chance multiplied by L. Vs = (F - limit)/sqrt(sigma^2 + rms^2): for any
    constant flux, the chance of both a flux as high as F and a miss is below that of this difference.
    """
    n = starts.size - 1
    p, vs, m = (np.full(n, np.nan) for _ in range(3))
    if new.size == 0:
        return Unseen(p, vs, m)
    mjd, rms = rows["mjd"].to_numpy(np.float64), rows["rms_jy"].to_numpy(np.float64)
    flux, error = rows["flux_jy"].to_numpy(np.float64), rows["flux_err_jy"].to_numpy(np.float64)
    first = starts[:-1]
    places = unit_vectors(rows["ra_deg"].to_numpy()[first], rows["dec_deg"].to_numpy()[first])
    tree = cKDTree(places)
    for k in new:
        near = [q for q in tree.query_ball_point(places[k], 2 * np.sin(np.deg2rad(neighbour_deg) / 2)) if q != k]
        near.sort(key=lambda q: float(np.sum((places[q] - places[k]) ** 2)))
        rms_by_transit: dict[int, float] = {}
        for q in near:
            for r in range(starts[q], starts[q + 1]):
                if mjd[r] < mjd[first[k]] - HALF_TRANSIT_DAYS and np.isfinite(rms[r]):
                    rms_by_transit.setdefault(int(np.floor(mjd[r] / 0.99727)), float(rms[r]))
        if not rms_by_transit:
            continue
        depth, row = min(rms_by_transit.values()), first[k]
        limit = BLIND_SIGMA * depth
        vs[k] = (flux[row] - limit) / np.hypot(error[row], depth)
        m[k] = 2 * (flux[row] - limit) / (flux[row] + limit)
        p[k] = min(float(ndtr(-vs[k])) * len(rms_by_transit), 1.0)
    return Unseen(p, vs, m)
