"""Known bright sources that CLEAN cannot reach: beyond the image, or where the beam all but vanishes.

Their sidelobes cross the whole image, and near the beam's null their response changes too fast for the
drifting-beam terms. They are predicted sample by sample, each scaled to what the data show of it, and taken out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.imaging.stokes import StokesI
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry, beam
from dsa110_assets.visibilities.predict import predict
from dsa110_assets.visibilities.types import Visibilities

RADIUS_DEG = 10.0
"""How far out sources are looked for: the Airy pattern is below 0.3 % from there on."""
DIM = 0.05
"""Mean response below which a source inside the image is treated as outside."""
MOST = 8
"""Sources taken out at most, brightest first: each costs one prediction of all samples, and its memory."""
FIELD_SOURCES = 40
"""Sources within reach that are fitted along, as one model with one factor, so that their sidelobes are not taken
for an outlier's flux. They are not taken out: CLEAN does that."""
SIGNIFICANT = 5.0


def subtract(
    vis: Visibilities,
    stokes: StokesI,
    sky: SkyModel,
    header: Header,
    primary_beam: NDArray[np.float32],
    faintest_jy: float,
) -> tuple[StokesI, dict[str, float]]:
    """`stokes` without the known sources out of CLEAN's reach, and figures of what was taken out.

    Sources whose apparent flux reaches `faintest_jy` [Jy] at any time count. Their predictions are scaled jointly to
    the data by weighted least squares (one real factor a source, as sidelobes of the real beam are known only roughly);
    a source that the data do not show at 5 sigma stays untouched. Figures: outliers, outliers_jy.
    """
    sources, field = _split(vis, sky, header, primary_beam, faintest_jy)
    taken, total_jy = 0, 0.0
    if len(sources):
        parts = [sources.select(np.array([i])) for i in range(len(sources))] + ([field] if len(field) else [])
        models = np.stack([_rows(vis, part) for part in parts])
        factors, errors = _fit(models, stokes)
        left = stokes.data.copy()
        for model, factor, error in zip(models[: len(sources)], factors, errors, strict=False):
            if factor > SIGNIFICANT * error:
                left -= np.float32(factor) * model
                taken += 1
                total_jy += float(factor * np.abs(model).max())
        stokes = replace(stokes, data=left)
    return stokes, {"outliers": float(taken), "outliers_jy": total_jy}


def _split(
    vis: Visibilities, sky: SkyModel, header: Header, primary_beam: NDArray[np.float32], faintest_jy: float
) -> tuple[SkyModel, SkyModel]:
    """The brightest sources out of CLEAN's reach, and the brightest within it."""
    middle = vis.phase_centres_rad[0]
    near = sky.within(float(middle[0]), float(middle[1]), RADIUS_DEG)
    if not len(near):
        return near, near
    column, row = WCS(header).celestial.world_to_pixel_values(np.rad2deg(near.ra_rad), np.rad2deg(near.dec_rad))
    inside = np.isfinite(column) & np.isfinite(row)  # a projection may not reach that far
    inside[inside] &= _within(row[inside], primary_beam.shape[0]) & _within(column[inside], primary_beam.shape[1])
    response = np.zeros(len(near))
    response[inside] = primary_beam[np.rint(row[inside]).astype(int), np.rint(column[inside]).astype(int)]
    pointings = astrometry.meridian_icrs_rad(vis.times_mjd, vis.pointing_dec_rad)
    angle = astrometry.separation_deg(near.ra_rad[:, None], near.dec_rad[:, None], pointings[:, 0], pointings[:, 1])
    middle_hz = float(np.mean(vis.frequencies_hz))
    brightest = near.flux_at(np.array([middle_hz]))[:, 0] * beam.power(angle, middle_hz).max(axis=1)
    order = np.argsort(-brightest)
    order = order[brightest[order] >= faintest_jy]
    beyond = response[order] < DIM
    return near.select(order[beyond][:MOST]), near.select(order[~beyond][:FIELD_SOURCES])


def _within(pixel: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    return np.asarray((pixel >= 0) & (pixel <= size - 1))


def _rows(vis: Visibilities, sources: SkyModel) -> NDArray[np.complex64]:
    """The prediction of sources as rows of `StokesI`."""
    cross = predict(vis, sources)[:, ~vis.is_auto]
    return cross.reshape(-1, cross.shape[-1])


def _fit(models: NDArray[np.complex64], stokes: StokesI) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One real factor per model, and its standard error, by weighted least squares."""
    weighted = models.conj() * stokes.weights
    normal = np.array([[float(np.sum((w * m).real, dtype=np.float64)) for m in models] for w in weighted])
    right = np.array([float(np.sum((w * stokes.data).real, dtype=np.float64)) for w in weighted])
    inverse = np.linalg.pinv(normal)
    return inverse @ right, np.sqrt(np.diag(inverse) * stokes.variance_scale)
