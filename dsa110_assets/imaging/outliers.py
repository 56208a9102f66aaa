"""Known bright sources that CLEAN cannot reach: beyond the image, or where the beam response almost vanishes.

Their sidelobes cross the whole image, and near the beam's null their response changes too fast for the drifting-beam terms.
They are predicted sample by sample, scaled to fit the data, and taken out.
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
"""The radius within which sources are considered: beyond it the Airy pattern is below 0.3 %."""
DIM = 0.05
"""The mean response below which a source inside the image is treated as outside."""
ALONE = 8
"""The number of brightest sources with a factor each, which costs a prediction of all samples in memory. The others share one
factor: their sidelobes are above the noise as well, and least squares takes out no more of them than the data contain."""
MOST = 40
"""The largest number of sources taken out, brightest first."""
FIELD_SOURCES = 40
"""The number of sources within CLEAN's reach that are included in the fit, as one model with one factor, so that their sidelobes
are not taken for an outlier's flux. They are not taken out, because CLEAN does that."""
SIGNIFICANT = 5.0
_NEARBY = 1.01
"""The ratio of frequencies from which a spectrum's local index is computed."""
_CHUNK = 16384
"""Samples whose products are summed in single precision, few enough to stay in the cache."""
_SAME_PIXELS = 6.0
"""The largest distance at which a catalogue source is identified with a bright point: the pixels that CLEAN leaves to a point."""
_MISSED = 0.5
"""A point is missing from the catalogue if the catalogue has less than this share of its flux."""
FAINTEST_NOISE = 1.5
"""The apparent brightness, in expected rms of the image, below which even many sources' sidelobes (some per cent) are hidden by
the noise. With a limit of 5 and only the 8 brightest sources, images of 24 antennas had 7 % more rms."""


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
    """Return `stokes` without the known sources beyond CLEAN's reach, and figures of what was taken out.

    `spectral`: ln(nu / RESTFRQ) of the samples, and the spectral index that `patterns` follow. Sources count if their apparent
    flux ever reaches 1.5 times `noise_jy`, the expected rms. Their predictions are scaled jointly to the data by weighted least
    squares, with a real factor for each of the brightest and one for the others, because the sidelobes of the real beam are
    known only roughly. A model whose factor is below 5 sigma is not taken out. Bright `points` found in the image, if given
    together with the samples `without_points`, replace the catalogue sources at their positions. Figures: outliers,
    outliers_jy.
    """
    sources, field = _split(vis, sky, header, dimming.mean, FAINTEST_NOISE * noise_jy)
    field = field.select(~_near(*_pixels(field, header), points).any(axis=1))
    observed = stokes.data if without_points is None else without_points
    taken, total_jy = 0, 0.0
    if len(sources):
        sources_of_models = [1] * min(len(sources), ALONE) + [len(sources) - ALONE] * (len(sources) > ALONE)
        models = averaged(vis, stokes, predict_each(vis, sources, ALONE))
        ms_columns.release_pages(vis.weights)
        field_models = [_field_model(stokes, field, header, dimming, patterns, *spectral)] if len(field) else []
        factors, errors = _fit([*models, *field_models], observed, stokes)
        remaining = stokes.data.copy()
        for model, n_sources, factor, error in zip(models, sources_of_models, factors, errors, strict=False):
            if factor > SIGNIFICANT * error:
                model *= np.float32(factor)
                remaining -= model
                taken += n_sources
                total_jy += float(np.abs(model).max())
        stokes = replace(stokes, data=remaining)
    return stokes, {"outliers": float(taken), "outliers_jy": total_jy}


def missed(sky: SkyModel, header: Header, primary_beam: NDArray[np.float32], points: Points) -> NDArray[np.bool_]:
    """Return which bright points (point,) found in the image have less than half of their flux in the catalogue.

    Next to such a point the fitted factor of a distant source is unreliable, because it fits the point's sidelobes as well.
    """
    row, column = _pixels(sky, header)
    inside = np.isfinite(row) & np.isfinite(column)
    inside[inside] &= _within(row[inside], primary_beam.shape[0]) & _within(column[inside], primary_beam.shape[1])
    inside_sources = sky.select(inside)
    flux = inside_sources.flux_at(np.array([float(header["RESTFRQ"])]))[:, 0] * _nearest(primary_beam, row[inside], column[inside])
    return np.asarray(flux @ _near(row[inside], column[inside], points) < _MISSED * points.flux_jy)


def _near(row: NDArray[np.float64], column: NDArray[np.float64], points: Points) -> NDArray[np.bool_]:
    """Return (source, point) whether a source at this pixel is that point; False for a NaN position."""
    return np.asarray(np.hypot(row[:, None] - points.rows, column[:, None] - points.columns) <= _SAME_PIXELS)


def _split(
    vis: Visibilities, sky: SkyModel, header: Header, primary_beam: NDArray[np.float32], faintest_jy: float
) -> tuple[SkyModel, SkyModel]:
    """Return the brightest sources beyond CLEAN's reach, and the brightest within it."""
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
    """Return 0-based (row, column) of sources; NaN where the projection does not reach."""
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
    """Return the visibilities of sources within the image: attenuated by `dimming`, with their own spectra, unsmeared."""
    row, column = _pixels(field, header)
    middle, above = field.flux_at(float(header["RESTFRQ"]) * np.array([1.0, _NEARBY])).T
    spectra = components.Spectra(log_frequency, np.log(above / middle) / np.log(_NEARBY) - typical_index)
    flux = middle * _nearest(dimming.mean, row, column)
    lmn = lmn_of_pixels(row, column, dimming.mean.shape[0], np.deg2rad(header["CDELT2"]))
    return components.predict(stokes.uvw, lmn, flux, patterns, dimming.ratios_near(row, column), spectra)


def _within(pixel: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    return np.asarray((pixel >= 0) & (pixel <= size - 1))


def _fit(
    models: list[NDArray[np.complex64]], observed: NDArray[np.complex64], stokes: StokesI
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one real factor per model and its standard error, by weighted least squares to `observed` (sample,)."""
    normal, right = np.zeros((len(models), len(models))), np.zeros(len(models))
    for first in range(0, stokes.weights.size, _CHUNK):
        chunk = slice(first, first + _CHUNK)
        columns = np.stack([model[chunk] for model in models]).view(np.float32)
        weighted = columns * np.repeat(stokes.weights[chunk], 2)
        normal += weighted @ columns.T
        right += weighted @ observed[chunk].view(np.float32)
    inverse = np.linalg.pinv(normal)
    return inverse @ right, np.sqrt(np.diag(inverse) * stokes.variance_scale)
