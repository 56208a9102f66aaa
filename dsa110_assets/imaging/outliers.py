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

from dsa110_assets.imaging import components
from dsa110_assets.imaging.attenuation import Attenuation
from dsa110_assets.imaging.components import lmn_of_pixels
from dsa110_assets.imaging.points import NO_POINTS, Points
from dsa110_assets.imaging.stokes import StokesI, averaged
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities import ms_columns
from dsa110_assets.visibilities.predict import beam_responses, predict_each
from dsa110_assets.visibilities.types import Visibilities

RADIUS_DEG = 10.0
"""How far out sources are looked for: the Airy pattern is below 0.3 % from there on."""
DIM = 0.05
"""Mean response below which a source inside the image is treated as outside."""
ALONE = 8
"""The brightest have a factor each, which costs a prediction of all samples in memory; the others one together: their
sidelobes as well are above the noise, and least squares takes out no more than what of them is in the data."""
MOST = 40
"""Sources taken out at most, brightest first."""
FIELD_SOURCES = 40
"""Sources within reach that are fitted along, as one model with one factor, so that their sidelobes are not taken
for an outlier's flux. They are not taken out: CLEAN does that."""
SIGNIFICANT = 5.0
_NEARBY = 1.01
"""Ratio of frequencies over which a spectrum's local index is taken."""
_AT_ONCE = 16384
"""Samples whose products are summed in single precision, and stay in the cache meanwhile."""
_SAME_PIXELS = 6.0
"""Distance from a bright point up to which a catalogue's source is that point: the pixels CLEAN leaves to a point."""
_MISSED = 0.5
"""A point of which the catalogue knows less than this share is one it does not know."""
FAINTEST_NOISE = 1.5
"""Apparent brightness, in expected rms of the image, below which even many sources' sidelobes (some per cent) drown in
it. From 5 and 8 sources alone, 24 antennas had 7 % more rms."""


def subtract(
    vis: Visibilities,
    stokes: StokesI,
    sky: SkyModel,
    header: Header,
    dimming: Attenuation,
    patterns: NDArray[np.float32],
    spectral: tuple[NDArray[np.float32], float],
    noise_jy: float,
    points: Points = NO_POINTS,
    without_points: NDArray[np.complex64] | None = None,
) -> tuple[StokesI, dict[str, float]]:
    """`stokes` without the known sources out of CLEAN's reach, and figures of what was taken out.

    `spectral`: ln(nu / RESTFRQ) of the samples, and the spectral index that `patterns` follow. Sources whose apparent flux
    ever reaches 1.5 times `noise_jy`, the expected rms, count. Their predictions are scaled
    jointly to the data by weighted least squares (a real factor for each of the brightest and one for the others, as
    sidelobes of the real beam are known only roughly); what the data do not show at 5 sigma stays untouched. Bright `points` found
    in the image, if given with the samples `without_points`, take the place of the catalogue's sources there. Figures:
    outliers, outliers_jy.
    """
    sources, field = _split(vis, sky, header, dimming.mean, FAINTEST_NOISE * noise_jy)
    field = field.select(~_near(*_pixels(field, header), points).any(axis=1))
    seen = stokes.data if without_points is None else without_points
    taken, total_jy = 0, 0.0
    if len(sources):
        of_parts = [1] * min(len(sources), ALONE) + [len(sources) - ALONE] * (len(sources) > ALONE)
        models = averaged(vis, stokes, predict_each(vis, sources, ALONE))
        ms_columns.forget(vis.weights)
        within = [_field_model(stokes, field, header, dimming, patterns, *spectral)] if len(field) else []
        factors, errors = _fit([*models, *within], seen, stokes)
        left = stokes.data.copy()
        for model, n_sources, factor, error in zip(models, of_parts, factors, errors, strict=False):
            if factor > SIGNIFICANT * error:
                model *= np.float32(factor)
                left -= model
                taken += n_sources
                total_jy += float(np.abs(model).max())
        stokes = replace(stokes, data=left)
    return stokes, {"outliers": float(taken), "outliers_jy": total_jy}


def missed(sky: SkyModel, header: Header, primary_beam: NDArray[np.float32], points: Points) -> NDArray[np.bool_]:
    """(point,) which bright points found in the image the catalogue knows less than half of: next to them a far source's factor
    is no measure of it, for it fits the point's sidelobes as well."""
    row, column = _pixels(sky, header)
    inside = np.isfinite(row) & np.isfinite(column)
    inside[inside] &= _within(row[inside], primary_beam.shape[0]) & _within(column[inside], primary_beam.shape[1])
    there = sky.select(inside)
    flux = there.flux_at(np.array([float(header["RESTFRQ"])]))[:, 0] * _nearest(primary_beam, row[inside], column[inside])
    return np.asarray(flux @ _near(row[inside], column[inside], points) < _MISSED * points.flux_jy)


def _near(row: NDArray[np.float64], column: NDArray[np.float64], points: Points) -> NDArray[np.bool_]:
    """(source, point) whether a source at this pixel is that point; False for a NaN place."""
    return np.asarray(np.hypot(row[:, None] - points.rows, column[:, None] - points.columns) <= _SAME_PIXELS)


def _split(
    vis: Visibilities, sky: SkyModel, header: Header, primary_beam: NDArray[np.float32], faintest_jy: float
) -> tuple[SkyModel, SkyModel]:
    """The brightest sources out of CLEAN's reach, and the brightest within it."""
    middle = vis.phase_centres_rad[0]
    near = sky.within(float(middle[0]), float(middle[1]), RADIUS_DEG)
    if not len(near):
        return near, near
    row, column = _pixels(near, header)
    inside = np.isfinite(column) & np.isfinite(row)  # a projection may not reach that far
    inside[inside] &= _within(row[inside], primary_beam.shape[0]) & _within(column[inside], primary_beam.shape[1])
    response = np.zeros(len(near))
    response[inside] = _nearest(primary_beam, row[inside], column[inside])
    middle_hz = float(np.mean(vis.frequencies_hz))
    brightest = near.flux_at(np.array([middle_hz]))[:, 0] * beam_responses(vis, near.ra_rad, near.dec_rad).max(axis=1)
    order = np.argsort(-brightest)
    order = order[brightest[order] >= faintest_jy]
    beyond = response[order] < DIM
    return near.select(order[beyond][:MOST]), near.select(order[~beyond][:FIELD_SOURCES])


def _pixels(sources: SkyModel, header: Header) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """0-based (row, column) of sources; NaN where the projection does not reach."""
    column, row = WCS(header).celestial.world_to_pixel_values(np.rad2deg(sources.ra_rad), np.rad2deg(sources.dec_rad))
    return np.asarray(row), np.asarray(column)


def _nearest(image: NDArray[np.float32], row: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(image[np.rint(row).astype(int), np.rint(column).astype(int)])


def _field_model(
    stokes: StokesI,
    field: SkyModel,
    header: Header,
    dimming: Attenuation,
    patterns: NDArray[np.float32],
    log_frequency: NDArray[np.float32],
    typical_index: float,
) -> NDArray[np.complex64]:
    """Sources within the image as the samples see them: dimmed as `dimming` says, of their own spectra, unsmeared."""
    row, column = _pixels(field, header)
    middle, above = field.flux_at(float(header["RESTFRQ"]) * np.array([1.0, _NEARBY])).T
    spectra = components.Spectra(log_frequency, np.log(above / middle) / np.log(_NEARBY) - typical_index)
    flux = middle * _nearest(dimming.mean, row, column)
    lmn = lmn_of_pixels(row, column, dimming.mean.shape[0], np.deg2rad(header["CDELT2"]))
    return components.predict(stokes.uvw, lmn, flux, patterns, dimming.ratios_near(row, column), spectra)


def _within(pixel: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    return np.asarray((pixel >= 0) & (pixel <= size - 1))


def _fit(
    models: list[NDArray[np.complex64]], seen: NDArray[np.complex64], stokes: StokesI
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One real factor per model, and its standard error, by weighted least squares to `seen` (sample,)."""
    normal, right = np.zeros((len(models), len(models))), np.zeros(len(models))
    for first in range(0, stokes.weights.size, _AT_ONCE):
        here = slice(first, first + _AT_ONCE)
        columns = np.stack([model[here] for model in models]).view(np.float32)
        weighted = columns * np.repeat(stokes.weights[here], 2)
        normal += weighted @ columns.T
        right += weighted @ seen[here].view(np.float32)
    inverse = np.linalg.pinv(normal)
    return inverse @ right, np.sqrt(np.diag(inverse) * stokes.variance_scale)
