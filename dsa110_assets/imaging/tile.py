"""The image of one observation: weights, dirty image, CLEAN, restoring, primary beam, figures."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from astropy.io.fits import Header
from numpy.typing import NDArray

from dsa110_assets.imaging import outliers, unlisted
from dsa110_assets.imaging.attenuation import attenuation
from dsa110_assets.imaging.deconvolution import Deconvolved, deconvolve
from dsa110_assets.imaging.geometry import choose_pixels, tile_header
from dsa110_assets.imaging.gridding import Gridder
from dsa110_assets.imaging.measurement import Measurement
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.points import NO_POINTS, Points
from dsa110_assets.imaging.polarisation import polarisation_figures
from dsa110_assets.imaging.reference import reference_figures
from dsa110_assets.imaging.restoring import Beam, add_points, fit_beam, restore, slope_on_sky
from dsa110_assets.imaging.slant import flattened
from dsa110_assets.imaging.smearing import smearing
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.imaging.stokes import StokesI, stokes_i
from dsa110_assets.imaging.weighting import ImagingWeights, imaging_weights
from dsa110_assets.visibilities.types import Visibilities

if TYPE_CHECKING:
    from dsa110_assets.sky.model import SkyModel

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
_BEAM_EPSILON = 1e-3
"""Accuracy of the dirty beam: major cycles correct the errors that it causes in minor cycles, including, for a flat array, the
neglect of its small w."""


@dataclass(frozen=True)
class TileImage:
    """The image of an observation; all images are (ny, nx) float32, finite, [Jy/beam] except `model` [Jy/pixel].

    `points` are those taken out before CLEAN (none from CASA). `model` has each of them in the pixel it lies in, and resolved
    sources (`resolved`) in the pixels they cover; `image` has them at their exact positions and with their shapes.
    `spectral_index` (point,) and its error are NaN for faint and for resolved points (`points.spectral_indices`).

    `image` is not corrected for `primary_beam`, so its noise is uniform: `rms_jy`. `figures` are plain numbers: rms_jy,
    radiometer_jy (thermal noise expected from XX - YY and the weights), rms_over_radiometer, sensitivity_loss (noise over that
    of the weighted mean of XX and YY, minus 1), those of `polarisation` (own engine), sefd_jy (system equivalent flux density
    implied by the noise), peak_jy, dynamic_range, beam_major_arcsec, beam_minor_arcsec, beam_pa_deg, psf_sidelobe, clean_jy,
    major_cycles, minor_iterations, points, resolved (Gaussians), resolved_dropped (Gaussians tried without success, so that the
    image is as without them), n_pixels, pixel_arcsec, field_deg, visibilities_used, samples_gridded (after averaging), seconds
    and, with a sky model, those of `reference`.
    """

    image: Image
    residual: Image
    psf: Image
    model: Image
    primary_beam: Image
    header: Header
    beam: Beam
    rms_jy: float
    pblimit: float
    figures: dict[str, float]
    points: Points = NO_POINTS
    spectral_index: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    spectral_index_err: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def pbcor(self) -> Image:
        """`image` divided by the primary beam; NaN where the beam is below `pblimit`."""
        return pb_corrected(self.image, self.primary_beam, self.pblimit)


def pb_corrected(image: Image, primary_beam: Image, pblimit: float) -> Image:
    """`image / primary_beam`, NaN where the response is below `pblimit`."""
    usable = primary_beam >= pblimit
    return np.divide(image, primary_beam, out=np.full_like(image, np.nan), where=usable)


def make_tile(
    vis: Visibilities, options: ImagingOptions, sky: SkyModel | None = None, mask: Callable[[Header, Beam], Mask] | None = None
) -> TileImage:
    """Image calibrated visibilities with one common phase centre.

    `mask` returns, from an image's header and beam, where (ny, nx) sources may be cleaned; None: anywhere.

    With a sky model, its sources beyond CLEAN's reach are taken out first (`outliers`), and the figures compare the others with
    the image. If the image then shows bright points that the model lacks, both steps are repeated with these points. If the
    result is noisier than the radiometer's noise, the image is searched for sources beyond it that the model lacks
    (`unlisted`), and made again without them. Raises SilentWrongnessError without a common phase centre, BadDataError if
    nothing can be imaged, ConfigurationError if the image would be larger than allowed.
    """
    started = time.monotonic()
    threads = options.threads or len(os.sched_getaffinity(0))
    field_rad = math.radians(options.field_deg)
    stokes, slant = flattened(stokes_i(vis, field_rad / 2, options.smearing), field_rad)
    weighted = imaging_weights(stokes, options.weighting, options.robust, field_rad, options.min_uv_lambda)
    n_pixels, pixel_rad = choose_pixels(weighted, options)
    pixel_deg = math.degrees(pixel_rad)
    gridder = Gridder(stokes.uvw, n_pixels, pixel_rad, options.epsilon, threads)
    rough = max(options.epsilon, _BEAM_EPSILON)
    wide_psf = _dirty_beam(weighted, Gridder(stokes.uvw, 2 * n_pixels, pixel_rad, rough, threads, flat=slant.is_flat))
    beam = fit_beam(wide_psf, pixel_deg)
    by_time_channel = stokes.spread(weighted.weights)
    header = tile_header(vis, n_pixels, pixel_rad, beam, by_time_channel)
    header["PV2_1"], header["PV2_2"] = slant.pv
    dimming = attenuation(vis, by_time_channel, header, n_pixels, options.drift_terms, options.spectral_index)
    smeared = smearing(vis, stokes, weighted.weights, header, n_pixels)
    dimming = replace(dimming, mean=dimming.mean * smeared)
    log_frequency = np.log(vis.frequencies_hz / float(header["RESTFRQ"]))
    means = stokes.cell_means(*(pattern for pattern, _ in dimming.terms), np.broadcast_to(log_frequency, by_time_channel.shape))
    patterns = means[:-1]
    observed, taken_out = stokes, dict[str, float]()
    within = mask(header, beam) if mask is not None else None
    spectral = means[-1], options.spectral_index
    if sky is not None:
        stokes, taken_out = outliers.subtract(vis, observed, sky, header, dimming, patterns, spectral, weighted.noise_jy)

    def measurement_of(samples: StokesI) -> Measurement:
        return Measurement(samples, weighted, gridder, dimming, patterns, means[-1])

    def cleaned_of(samples: StokesI, resolved_ones: Points = NO_POINTS) -> Deconvolved:
        return deconvolve(
            measurement_of(samples),
            wide_psf,
            options,
            pixel_rad=pixel_rad,
            beam=beam,
            threads=threads,
            within=within,
            resolved_ones=resolved_ones,
        )

    cleaned = cleaned_of(stokes)
    if sky is not None and taken_out["outliers"] and outliers.missed(sky, header, dimming.mean, cleaned.points).any():
        residual_samples = measurement_of(observed).without(cleaned.points)
        stokes, taken_out = outliers.subtract(
            vis, observed, sky, header, dimming, patterns, spectral, weighted.noise_jy, cleaned.points, residual_samples
        )
        cleaned = cleaned_of(stokes, cleaned.resolved_ones)
    if options.clean_iterations and options.deconvolver != "quick":

        def beyond(samples: StokesI, inside: Deconvolved, sources: Image) -> unlisted.Unlisted:
            measurement = measurement_of(samples)
            measurement.without_image(sources)
            residual_samples = measurement.without(inside.points)
            return unlisted.take_out(samples, residual_samples, weighted.weights, means[-1], gridder, slant)

        cleaned, unlisted_figures = _without_unlisted(stokes, cleaned, cleaned_of, beyond, weighted.noise_jy, beam, pixel_deg)
        taken_out |= unlisted_figures
    slope = slope_on_sky(beam, header, n_pixels)
    image = restore(cleaned.model, cleaned.residual, beam, pixel_deg, threads, slope)
    add_points(image, cleaned.points, beam, pixel_deg, slope)
    rms_jy = robust_rms(cleaned.residual)
    header["PBLIMIT"] = (options.pblimit, "PB response below which pbcor is blank")
    header["RMS"] = (rms_jy, "[Jy/beam] robust, before PB correction")
    tile = TileImage(
        image=image,
        residual=cleaned.residual,
        psf=_middle(wide_psf),
        model=cleaned.points.onto(cleaned.model),
        primary_beam=dimming.mean,
        header=header,
        beam=beam,
        rms_jy=rms_jy,
        pblimit=options.pblimit,
        figures={
            "major_cycles": float(cleaned.major_cycles),
            "minor_iterations": float(cleaned.minor_iterations),
            "points": float(np.count_nonzero(~cleaned.points.resolved)),
            "resolved": float(np.count_nonzero(cleaned.points.resolved)),
            "resolved_dropped": float(cleaned.resolved_dropped),
            "field_deg": n_pixels * pixel_deg,
            **taken_out,
        },
        points=cleaned.points,
        spectral_index=options.spectral_index + cleaned.index,
        spectral_index_err=cleaned.index_err,
    )
    tile.figures.update(tile_figures(tile, vis, stokes, weighted))
    if options.deconvolver != "quick":
        tile.figures.update(polarisation_figures(vis, image, header, rms_jy, stokes.variance_scale))
    if sky is not None:
        tile.figures.update(reference_figures(image, tile.primary_beam, header, rms_jy, sky))
    tile.figures["seconds"] = time.monotonic() - started
    return tile


def _without_unlisted(
    stokes: StokesI,
    cleaned: Deconvolved,
    cleaned_of: Callable[[StokesI, Points], Deconvolved],
    beyond: Callable[[StokesI, Deconvolved, Image], unlisted.Unlisted],
    noise_jy: float,
    beam: Beam,
    pixel_deg: float,
) -> tuple[Deconvolved, dict[str, float]]:
    """If `cleaned` is noisier than the radiometer's noise, image again without the sources that `beyond` finds; return the image
    and figures of them.

    Figures are empty if it is not noisier. CLEAN represents half of a bright distant source's sidelobes by components, so the
    first search takes out only the points. In that residual the sources inside the image hide a fainter one, so the second
    search takes out the certain sources as well.
    """
    taken: list[float] = []
    figures: dict[str, float] = {}
    for with_sources in (False, True):
        if not (noise_jy > 0 and robust_rms(cleaned.residual) > unlisted.EXCESS * noise_jy):
            break
        certain = unlisted.certain(cleaned.model, cleaned.residual, beam, pixel_deg)
        unlisted_sources = beyond(stokes, cleaned, certain if with_sources else np.zeros_like(certain))
        without_sources = replace(stokes, data=unlisted_sources.data)
        recleaned = cleaned_of(without_sources, cleaned.resolved_ones) if unlisted_sources.flux_jy.size else cleaned
        if robust_rms(recleaned.residual) < robust_rms(cleaned.residual):
            stokes, cleaned = without_sources, recleaned
            taken += unlisted_sources.flux_jy.tolist()
        figures = {"unlisted": float(len(taken)), "unlisted_jy": float(sum(taken))}
    return cleaned, figures


def _dirty_beam(weighted: ImagingWeights, gridder: Gridder) -> Image:
    """Return the dirty beam, with unit peak at the centre, as wide as the image of `gridder`."""
    total = float(np.sum(weighted.weights, dtype=np.float64))
    ones = np.ones(weighted.weights.shape, dtype=np.complex64)
    return np.asarray(gridder.to_image(ones, weighted.weights) / total, dtype=np.float32)


def _middle(wide: Image) -> Image:
    quarter = wide.shape[0] // 4
    return wide[quarter : 3 * quarter, quarter : 3 * quarter].copy()


def tile_figures(tile: TileImage, vis: Visibilities, stokes: StokesI, weighted: ImagingWeights) -> dict[str, float]:
    """Return the figures of an image that apply to any engine: noise, radiometer's noise, peak, beam, size."""
    peak_jy = float(tile.image.max())
    pixel_deg = float(tile.header["CDELT2"])
    return {
        "rms_jy": tile.rms_jy,
        "radiometer_jy": weighted.noise_jy,
        "rms_over_radiometer": tile.rms_jy / weighted.noise_jy if weighted.noise_jy > 0 else float("nan"),
        "sensitivity_loss": stokes.sensitivity_loss,
        "sefd_jy": _implied_sefd_jy(vis, stokes),
        "peak_jy": peak_jy,
        "dynamic_range": peak_jy / tile.rms_jy if tile.rms_jy > 0 else float("inf"),
        "beam_major_arcsec": 3600 * tile.beam.bmaj_deg,
        "beam_minor_arcsec": 3600 * tile.beam.bmin_deg,
        "beam_pa_deg": tile.beam.bpa_deg,
        "psf_sidelobe": _highest_sidelobe(tile.psf, tile.beam, pixel_deg),
        "clean_jy": float(tile.model.sum(dtype=np.float64)),
        "n_pixels": float(tile.image.shape[0]),
        "pixel_arcsec": 3600 * pixel_deg,
        "visibilities_used": float(stokes.n_visibilities),
        "samples_gridded": float(stokes.weights.size),
    }


def _implied_sefd_jy(vis: Visibilities, stokes: StokesI) -> float:
    """Return the SEFD that explains the noise of one polarisation, baseline, channel and integration.

    sigma of a real part = SEFD / sqrt(2 dnu t); Stokes I of two equal polarisations has this divided by sqrt 2.
    """
    sigma_i = math.sqrt(stokes.variance_scale / stokes.typical_weight)
    return sigma_i * math.sqrt(2) * math.sqrt(2 * vis.channel_width_hz * vis.interval_s)


def _highest_sidelobe(psf: Image, beam: Beam, pixel_deg: float) -> float:
    """Return the largest absolute response of the dirty beam beyond 1.5 major axes of the main lobe."""
    rows, columns = np.ogrid[: psf.shape[0], : psf.shape[1]]
    squared = (rows - psf.shape[0] // 2) ** 2 + (columns - psf.shape[1] // 2) ** 2
    outside = squared > (1.5 * beam.bmaj_deg / pixel_deg) ** 2
    return float(np.abs(psf[outside]).max()) if outside.any() else 0.0
