"""The image plane: its size, pixels and FITS header."""

from __future__ import annotations

import math

import numpy as np
from astropy.io.fits import Header
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, ConfigurationError
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.restoring import Beam, fit_beam, set_beam
from dsa110_assets.imaging.weighting import ImagingWeights, curvature_fwhm_rad, synthesised_beam
from dsa110_assets.telescope import site, timegrid
from dsa110_assets.visibilities.types import Visibilities

_PATCH_PIXELS = 129
_FOOT = 0.35
"""Share of the dirty beam's peak down to which its lobe gets `pixels_per_beam` pixels."""
_LEAST_ACROSS = 3.5
"""Pixels across the restoring beam, which is narrower than the lobe because a dense core adds a wide foot to the peak."""


def choose_pixels(weighted: ImagingWeights, options: ImagingOptions) -> tuple[int, float]:
    """Return (pixels per side, pixel size [rad]); the number is even, quick to Fourier transform and covers `field_deg`.

    With `pixel_arcsec` 0 the minor axis of the dirty beam's lobe gets `pixels_per_beam` pixels, and that of the restoring beam
    at least 3.5. Raises ConfigurationError beyond `max_pixels`.
    """
    pixel_deg = options.pixel_arcsec / 3600 or _pixel_deg(weighted, options.pixels_per_beam)
    n_pixels = _fast_even(math.ceil(options.field_deg / pixel_deg))
    if n_pixels > options.max_pixels:
        raise ConfigurationError(
            f"imaging: a field of {options.field_deg:g} deg at {3600 * pixel_deg:.2f} arcsec needs "
            f"{n_pixels} pixels a side, more than imaging.max_pixels = {options.max_pixels}; "
            "image a smaller field or raise the limit"
        )
    if not options.pixel_arcsec:
        pixel_deg = options.field_deg / n_pixels
    return n_pixels, math.radians(pixel_deg)


def _pixel_deg(weighted: ImagingWeights, per_beam: float) -> float:
    """Return the pixel size [deg] for the beam that the weights make.

    The patch is sampled by the curvature's lower bound, so it always resolves the beam. If the lobe is no ellipse, as with few
    baselines left, the pixel size follows from that bound; later steps that need a beam raise their own errors.
    """
    least = curvature_fwhm_rad(weighted)
    step = least / 5
    patch, step_deg = synthesised_beam(weighted, step, _PATCH_PIXELS), math.degrees(step)
    try:
        return min(fit_beam(patch, step_deg, _FOOT).bmin_deg / per_beam, fit_beam(patch, step_deg).bmin_deg / _LEAST_ACROSS)
    except BadDataError:
        return math.degrees(least) / max(per_beam, _LEAST_ACROSS)


def _fast_even(minimum: int) -> int:
    import scipy.fft  # not needed where only a header is read or written

    size = max(64, minimum + minimum % 2)
    while size % 2 or scipy.fft.next_fast_len(size, real=True) != size:
        size += 1
    return size


def tile_header(vis: Visibilities, n_pixels: int, pixel_rad: float, beam: Beam, weight_time_channel: NDArray[np.float64]) -> Header:
    """Return the FITS header of a tile: ICRS, SIN about the phase centre, Jy/beam with its beam, times and frequency.

    `weight_time_channel`: sums of the imaging weights; channels without any weight do not count as bandwidth.
    """
    pixel_deg = math.degrees(pixel_rad)
    weight = weight_time_channel.sum(axis=0)
    bandwidth_hz = vis.channel_width_hz * int(np.count_nonzero(weight))
    half = vis.interval_s / 2 / 86400
    moments = {"OBS": vis.times_mjd[0] - half, "AVG": vis.mid_mjd, "END": vis.times_mjd[-1] + half}
    ra_deg, dec_deg = np.rad2deg(vis.phase_centres_rad[0])
    header = Header()
    header["BUNIT"] = ("Jy/beam", "brightness unit")
    for axis, kind, value, step in (
        (1, "RA---SIN", ra_deg % 360, -pixel_deg),
        (2, "DEC--SIN", dec_deg, pixel_deg),
    ):
        header[f"CTYPE{axis}"] = kind
        header[f"CRVAL{axis}"] = (float(value), "[deg] phase centre")
        header[f"CDELT{axis}"] = (step, "[deg]")
        header[f"CRPIX{axis}"] = float(n_pixels // 2 + 1)
        header[f"CUNIT{axis}"] = "deg"
    header["RADESYS"] = "ICRS"
    header["EQUINOX"] = 2000.0
    set_beam(header, beam)
    header["RESTFRQ"] = (
        float(weight @ vis.frequencies_hz / weight.sum()),
        "[Hz] mean frequency by imaging weight",
    )
    header["BANDWID"] = (bandwidth_hz, "[Hz] bandwidth")
    header["STOKES"] = "I"
    header["TELESCOP"] = site.TELESCOPE_NAME
    header["INSTRUME"] = "DSA-110"
    header["TIMESYS"] = "UTC"
    for name, mjd in moments.items():
        header[f"DATE-{name}"] = timegrid.mjd_to_datetime(float(mjd)).strftime("%Y-%m-%dT%H:%M:%S.%f")
        header[f"MJD-{name}"] = (float(mjd), "[d]")
    header["EXPTIME"] = (vis.interval_s * vis.times_mjd.size, "[s]")
    header["DECPOINT"] = (math.degrees(vis.pointing_dec_rad), "[deg] apparent pointing declination")
    header["SUBBMISS"] = (" ".join(map(str, vis.subbands_missing)) or "none", "subbands missing")
    return header
