"""Blind source finding: islands above the local noise and their components (`islands`), as rows of sky quantities.

A fixed-beam fit gives the peak flux and the position, which are right for a point source; a free fit gives the shape and the
integrated flux, which is the flux of a source wider than the beam. The fitted pixels are chosen by distance from the peaks, not
by brightness, because a cut in brightness would bias faint fluxes and sizes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from astropy.io.fits import Header
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from dsa110_assets.photometry.condon import PA_UNKNOWN_DEG, condon_errors
from dsa110_assets.photometry.forced import Scene, near_missing, prepare
from dsa110_assets.photometry.islandfit import Component
from dsa110_assets.photometry.islands import components
from dsa110_assets.photometry.noise import normalised_image
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.photometry.shapes import ARCSEC_PER_RAD, deconvolved, shape_errors

FloatArray = NDArray[np.float64]
SIZE_COLUMNS = (
    "deconvolved_major_arcsec",
    "deconvolved_minor_arcsec",
    "deconvolved_pa_deg",
    "deconvolved_major_err_arcsec",
    "deconvolved_minor_err_arcsec",
    "deconvolved_pa_err_deg",
)
COLUMNS = (
    "ra_deg",
    "dec_deg",
    "ra_err_arcsec",
    "dec_err_arcsec",
    "flux_jy",
    "flux_err_jy",
    "rms_jy",
    "snr",
    "peak_jy",
    "integrated_jy",
    "integrated_err_jy",
    "major_arcsec",
    "minor_arcsec",
    "pa_deg",
    "pa_err_deg",
    *SIZE_COLUMNS,
    "extent_sigma",
    "quality",
)


def _islands(scene: Scene, options: PhotometryOptions) -> Iterator[tuple[FloatArray, tuple[int, int]]]:
    """Yield the signal-to-noise of each island's bounding box (NaN off the island) and its corner (row, column)."""
    everything = (slice(0, scene.image.shape[0]), slice(0, scene.image.shape[1]))
    snr = normalised_image(scene.image, scene.noise, scene.local, *everything)
    labels, _ = label(snr > options.flood_sigma)
    for number, box in enumerate(find_objects(labels), start=1):
        island = labels[box] == number
        if box is not None and snr[box][island].max() > options.detect_sigma:
            yield np.where(island, snr[box], np.nan).astype(np.float64), (box[0].start, box[1].start)


def _row(scene: Scene, component: Component, options: PhotometryOptions) -> dict[str, float | int]:
    """Return one component as a row of sky quantities."""
    geometry, resolved = scene.geometry, component.is_resolved(options)
    x, y = (component.best if resolved else component.fixed)[1:3]
    ra, dec = (float(value[0]) for value in geometry.to_sky([x], [y]))
    jacobian = geometry.pixels_per_rad(ra, dec)[0]
    beam = np.deg2rad([geometry.bmaj_deg, geometry.bmin_deg])
    row: dict[str, float | int] = dict.fromkeys(COLUMNS, np.nan)
    covariance = component.free_covariance if resolved and component.free_covariance is not None else component.fixed_covariance
    error = float(np.sqrt(component.fixed_covariance[0, 0]))
    inverse = np.linalg.inv(jacobian)
    east, north = np.sqrt(np.diag(inverse @ covariance[1:3, 1:3] @ inverse.T)) * ARCSEC_PER_RAD
    if options.error_model == "condon" and component.fitted and not resolved:
        point = condon_errors(component.fixed[0], component.rms, beam[0], beam[1], beam[0], beam[1])
        error, (east, north) = float(point.peak), (float(value) * ARCSEC_PER_RAD for value in point.on_sky(geometry.bpa_deg))
    row.update(ra_deg=ra, dec_deg=dec, ra_err_arcsec=east, dec_err_arcsec=north, rms_jy=component.rms)
    row.update(
        flux_jy=component.fixed[0],
        flux_err_jy=error,
        peak_jy=component.fixed[0],
        extent_sigma=component.extent_jy / component.extent_err_jy,
    )
    quality = int(Quality.BLENDED) if component.blended else 0
    if near_missing(scene, np.array([x]), np.array([y]), options.edge_beams)[0]:
        quality |= int(Quality.EDGE)
    if component.free is None or component.free_covariance is None:
        quality |= int(Quality.BAD_FIT) if component.fitted else int(Quality.BAD_FIT | Quality.PEAK_ONLY)
    else:
        row.update(_shape(component.free, component.free_covariance, component.rms, jacobian, scene, options))
        if resolved:
            quality |= int(Quality.EXTENDED | Quality.RESOLVED)
            size = deconvolved(geometry, component.free[3:], component.free_covariance[3:, 3:], jacobian)
            row.update({f"deconvolved_{name}": value for name, value in vars(size).items()})
            row.update(flux_jy=row["integrated_jy"], flux_err_jy=row["integrated_err_jy"])
    row.update(snr=row["flux_jy"] / row["flux_err_jy"], quality=quality)
    return row


def _shape(
    free: FloatArray, covariance: FloatArray, rms: float, jacobian: FloatArray, scene: Scene, options: PhotometryOptions
) -> dict[str, float]:
    """Return integrated flux and axes of a free fit, with their errors."""
    beam = np.deg2rad([scene.geometry.bmaj_deg, scene.geometry.bmin_deg])
    values, errors = shape_errors(free, covariance, jacobian)
    if options.error_model == "condon":
        shape = condon_errors(free[0], rms, values[1], values[2], beam[0], beam[1])
        errors = np.array([float(shape.integrated) * beam.prod(), shape.major, shape.minor, shape.pa_deg], np.float64)
    return {
        "integrated_jy": values[0] / beam.prod(),
        "integrated_err_jy": errors[0] / beam.prod(),
        "major_arcsec": values[1] * ARCSEC_PER_RAD,
        "minor_arcsec": values[2] * ARCSEC_PER_RAD,
        "pa_deg": values[3],
        "pa_err_deg": min(errors[3], PA_UNKNOWN_DEG),
    }


def find_in_scene(scene: Scene, options: PhotometryOptions) -> pd.DataFrame:
    """Find sources on a prepared image, like `find_sources`."""
    rows: list[dict[str, float | int]] = []
    for island, corner in _islands(scene, options):
        y, x = np.unravel_index(int(np.nanargmax(island)), island.shape)
        ra, dec = scene.geometry.to_sky(np.array([x + corner[1]]), np.array([y + corner[0]]))
        form = scene.geometry.beam_forms(scene.geometry.pixels_per_rad(ra, dec))[0]
        rows.extend(_row(scene, found, options) for found in components(scene, island, corner, form, options))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"quality": np.int64})
    kept = table[table["flux_jy"] > options.detect_sigma * table["rms_jy"]]
    return kept.sort_values("flux_jy", ascending=False, kind="stable").reset_index(drop=True)


def find_sources(image: NDArray[np.floating], noise: NDArray[np.floating], header: Header, options: PhotometryOptions) -> pd.DataFrame:
    """Return components above `detect_sigma` local rms on an image (ny, nx) [Jy/beam] with its noise map; brightest first.

    Columns `COLUMNS`: position [deg] with errors [arcsec] (fit only, without the systematic term); flux_jy: the peak of the
    fixed-beam fit for a point, the integrated flux for a source wider than the beam (RESOLVED); peak_jy: that of the fixed-beam
    fit for either [Jy/beam]; integrated_jy, major/minor_arcsec (FWHM, not deconvolved) and pa_deg (north through east) of the
    free fit, NaN with the BAD_FIT bit where that failed; the deconvolved size with its errors, NaN for points; extent_sigma:
    the flux added by a free shape, in units of its error for a point, normally distributed for points; quality bits. Every
    island gives at least one component; only those whose fitted flux is below `detect_sigma` rms are omitted. NaN pixels are
    treated as missing. Errors follow `options.error_model`. Raises BadDataError for a header without a beam.
    """
    return find_in_scene(prepare(image, noise, header, options), options)
