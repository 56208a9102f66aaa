"""The measurement equation: what the correlator would record of a sky of points and Gaussians.

For every baseline, integration and channel V = sum_s S A exp[2 pi i nu tau] sinc(dnu tau) sinc(nu tau' dt), with tau =
(u l + v m + w (n - 1)) / c, sinc x = sin(pi x) / (pi x), l, m, n and uvw in the apparent frame about (hour angle 0,
pointing declination), and tau' the rate of tau while the correlator tracks that direction. The sinc factors are the
exact average over a channel and, to first order in the rate, over an integration. A Gaussian of FWHM theta has a
further factor exp[-(pi theta q)^2 / (4 ln 2)] along each axis, where q is the baseline's length [wavelengths] along
that axis (Thompson, Moran & Swenson 2017, section 10).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.simulator.array import Array
from dsa110_assets.simulator.sky import SKY_RADIUS_DEG, SimulatedSky, offset_rad
from dsa110_assets.sky import structures
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry, beam, timegrid

_BAND_EDGES_HZ = np.array([1.311e9, 1.4e9, 1.499e9])
_STEP_RAD = np.deg2rad(30 / 3600)
Float = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class ApparentSky:
    """The sources that matter to one group: `lmn` (time, source, 3), separations and flux factors (time, source).

    stokes_q (source,): Q over I. `extended` (k,): indices of the Gaussian sources, and `axes` (time, k, 2, 3): the
    change of their lmn along the major and the minor axis, over the FWHM.
    """

    model: SkyModel
    lmn: Float
    separation_deg: Float
    factors: Float
    stokes_q: Float
    extended: NDArray[np.int64]
    axes: Float

    def amplitudes(self, frequencies_hz: Float) -> Float:
        """Apparent flux densities [Jy] (time, source, channel): spectrum, light curve and primary beam."""
        response = beam.power(self.separation_deg[..., None], frequencies_hz)
        return np.asarray(self.model.flux_at(frequencies_hz)[None] * response * self.factors[..., None])


def apparent_sky(sky: SimulatedSky, times_mjd: Float, dec_rad: float, faintest_jy: float) -> ApparentSky:
    """Apparent positions at each integration of the sources that reach `faintest_jy` [Jy] after the primary beam."""
    lst = astrometry.apparent_lst_rad(times_mjd)
    ra, dec = astrometry.icrs_to_apparent_rad(sky.model.ra_rad, sky.model.dec_rad, times_mjd[len(times_mjd) // 2])
    # the beam drifts by up to 0.65 deg from mid-group: sources are preselected that far on both sides before the exact
    # transformation
    middle = astrometry.separation_deg(ra, dec, lst[len(lst) // 2], dec_rad)
    nearest = np.maximum(middle - 0.7, 0)[:, None] + np.linspace(0, 1.4, 15)
    reach = np.max(beam.power(nearest[..., None], _BAND_EDGES_HZ), axis=(1, 2))
    peak = np.max(sky.factors(times_mjd), axis=0, initial=0) * sky.model.flux_jy
    keep = np.flatnonzero((peak * reach >= faintest_jy) & (middle <= SKY_RADIUS_DEG))
    kept, shapes, source = _in_components(sky.model.select(keep), sky.shapes[keep])
    keep = keep[source]
    ra, dec = _apparent_places(kept.ra_rad, kept.dec_rad, times_mjd)
    extended = np.flatnonzero(shapes[:, 0])
    centre = np.stack([lst, np.full_like(lst, dec_rad)], axis=-1)[:, None, :]
    return ApparentSky(
        model=kept,
        lmn=np.stack(astrometry.lmn(ra, dec, centre), axis=-1),
        separation_deg=astrometry.separation_deg(ra, dec, lst[:, None], dec_rad),
        factors=sky.factors(times_mjd)[:, keep],
        stokes_q=sky.stokes_q[keep],
        extended=extended,
        axes=_axes(kept.select(extended), shapes[extended], times_mjd, centre),
    )


def _in_components(sources: SkyModel, shapes: Float) -> tuple[SkyModel, Float, NDArray[np.int64]]:
    """Replace standards of known structure by their components.

    Returns the sources, their shapes, and for each the index of the source it came from.
    """
    structure_of = structures.in_model(sources)
    count = np.array([len(structure_of[k].components) if k in structure_of else 1 for k in range(len(sources))], dtype=np.int64)
    source = np.repeat(np.arange(len(sources)), count)
    parts, shapes = sources.select(source), shapes[source]
    ra, dec, flux, log = parts.ra_rad.copy(), parts.dec_rad.copy(), parts.flux_jy.copy(), parts.log_coefficients.copy()
    for k, structure in structure_of.items():
        for i, component in zip(np.flatnonzero(source == k), structure.components, strict=True):
            offset = np.hypot(component.east_rad, component.north_rad), np.arctan2(component.east_rad, component.north_rad)
            ra[i], dec[i] = offset_rad(ra[i], dec[i], *offset)
            flux[i] *= component.share
            log[i, 0] += np.log10(component.share)
            shapes[i] = component.shape.plus(structures.Gaussian.of_axes(*shapes[i])).axes_arcsec
    return replace(parts, ra_rad=ra, dec_rad=dec, flux_jy=flux, log_coefficients=log), shapes, source


def _axes(sources: SkyModel, shapes: Float, times_mjd: Float, centre_rad: Float) -> Float:
    """(time, source, 2, 3): the difference of lmn over the FWHM along major and minor axis.

    Computed from positions 30 arcsec to both sides (good to 1e-8), so it includes precession, convergence of meridians
    and projection.
    """
    out = np.zeros((times_mjd.size, len(sources), 2, 3))
    for axis in range(2):
        angle = np.deg2rad(shapes[:, 2] + 90 * axis)
        ends = [
            astrometry.lmn(
                *_apparent_places(*offset_rad(sources.ra_rad, sources.dec_rad, side * _STEP_RAD, angle), times_mjd),
                centre_rad,
            )
            for side in (1, -1)
        ]
        slope = (np.stack(ends[0], axis=-1) - np.stack(ends[1], axis=-1)) / (2 * _STEP_RAD)
        out[:, :, axis] = slope * np.deg2rad(shapes[:, axis] / 3600)[:, None]
    return out


def _apparent_places(ra_rad: Float, dec_rad: Float, times_mjd: Float) -> tuple[Float, Float]:
    """Apparent (ra, dec) [rad], each (time, source), of ICRS positions (source,): linear between the first and last
    times.

    Within five minutes positions move by milliarcseconds (aberration); the non-linear part is below 1e-4 arcsec.
    """
    ends = times_mjd[[0, -1]]
    ra, dec = astrometry.icrs_to_apparent_rad(ra_rad[None], dec_rad[None], ends[:, None])
    where = ((times_mjd - ends[0]) / max(ends[1] - ends[0], 1e-9))[:, None]
    moved = (ra[1] - ra[0] + np.pi) % (2 * np.pi) - np.pi
    return ra[0] + where * moved, dec[0] + where * (dec[1] - dec[0])


def visibilities(array: Array, sky: ApparentSky, dec_rad: float, frequencies_hz: Float, width_hz: float) -> Complex:
    """True visibilities of Stokes I [Jy] (time, row of one integration, channel), autocorrelations included; channels evenly spaced."""
    return _visibilities(array, sky, sky.amplitudes(frequencies_hz), dec_rad, frequencies_hz, width_hz)


def stokes_q_visibilities(array: Array, sky: ApparentSky, dec_rad: float, frequencies_hz: Float, width_hz: float) -> Complex | None:
    """The same for Stokes Q, in the receptors' frame (XX = I + Q, YY = I - Q); None if no source is polarised."""
    if not np.any(sky.stokes_q):
        return None
    amplitudes = sky.amplitudes(frequencies_hz) * sky.stokes_q[:, None]
    return _visibilities(array, sky, amplitudes, dec_rad, frequencies_hz, width_hz)


def _visibilities(array: Array, sky: ApparentSky, amplitudes: Float, dec_rad: float, frequencies_hz: Float, width_hz: float) -> Complex:
    uvw = array.static_uvw_m(dec_rad)
    delay, rate = uvw / speed_of_light, uvw_rate_m_s(uvw, dec_rad) / speed_of_light
    step = float(frequencies_hz[1] - frequencies_hz[0]) if frequencies_hz.size > 1 else 0.0

    def summed(lmn: Float, amplitude: Float) -> Complex:
        out = np.zeros((lmn.shape[0], uvw.shape[0], frequencies_hz.size), dtype=np.complex128)
        first = float(frequencies_hz[0])
        _accumulate(delay, rate, lmn, amplitude, first, step, width_hz, timegrid.INTEGRATION_S, out)
        return out

    if not sky.extended.size:
        return summed(sky.lmn, amplitudes)
    points = np.setdiff1d(np.arange(len(sky.model)), sky.extended)
    total = summed(sky.lmn[:, points], amplitudes[:, points])
    for k, source in enumerate(sky.extended):
        resolved = _gaussian(delay, sky.axes[:, k], frequencies_hz)
        total += summed(sky.lmn[:, [source]], amplitudes[:, [source]]) * resolved
    return total


def _gaussian(delay_uvw: Float, axes: Float, frequencies_hz: Float) -> Float:
    """(time, row, channel): factor by which a Gaussian's size reduces its visibility, for `axes` (time, 2, 3) over the FWHM."""
    across_s = np.einsum("rx,tax->tra", delay_uvw, axes)
    return np.asarray(np.exp(-(np.pi**2) / (4 * np.log(2)) * np.sum(across_s**2, axis=-1)[..., None] * frequencies_hz**2))


def uvw_rate_m_s(uvw_m: Float, dec_rad: float) -> Float:
    """d(uvw)/dt [m/s] of baselines (n, 3) at the meridian while a direction of the given declination is tracked."""
    u, v, w = uvw_m.T
    sin_dec, cos_dec = np.sin(dec_rad), np.cos(dec_rad)
    return timegrid.EARTH_RATE_RAD_S * np.stack([cos_dec * w - sin_dec * v, sin_dec * u, -cos_dec * u], axis=-1)


@numba.njit(cache=True, inline="always")
def _sinc(x):  # type: ignore[no-untyped-def]
    y = (np.pi * x) ** 2
    if y < 0.25:  # the series to y^5 is good to 1e-13 here and four times as fast
        return 1 - y / 6 * (1 - y / 20 * (1 - y / 42 * (1 - y / 72 * (1 - y / 110))))
    return np.sin(np.pi * x) / (np.pi * x)


@numba.njit(parallel=True, cache=True)
def _accumulate(delay_uvw, delay_rate, lmn, amplitude, first_hz, step_hz, width_hz, interval_s, out):  # type: ignore[no-untyped-def]
    """Sum over sources.

    Along a subband's channels the phasor is advanced by multiplication (384 steps: 1e-13). The smearing over time,
    which changes by less than 1 % there, is interpolated linearly (1e-6 on the longest baselines).
    """
    n_times, n_rows, n_channels = out.shape
    for row in numba.prange(n_rows):
        real, imag = np.empty(n_channels), np.empty(n_channels)
        for t in range(n_times):
            real[:] = 0
            imag[:] = 0
            for s in range(lmn.shape[1]):
                l, m, n1 = lmn[t, s, 0], lmn[t, s, 1], lmn[t, s, 2] - 1
                tau = delay_uvw[row, 0] * l + delay_uvw[row, 1] * m + delay_uvw[row, 2] * n1
                rate = delay_rate[row, 0] * l + delay_rate[row, 1] * m + delay_rate[row, 2] * n1
                channel_loss = _sinc(width_hz * tau)
                loss = channel_loss * _sinc(first_hz * rate * interval_s)
                last_hz = first_hz + (n_channels - 1) * step_hz
                last = channel_loss * _sinc(last_hz * rate * interval_s)
                slope = (last - loss) / max(n_channels - 1, 1)
                turn = first_hz * tau
                angle = 2 * np.pi * (turn - np.floor(turn))
                x, y = np.cos(angle), np.sin(angle)
                angle = 2 * np.pi * step_hz * tau
                c, d = np.cos(angle), np.sin(angle)
                for k in range(n_channels):
                    size = amplitude[t, s, k] * (loss + k * slope)
                    real[k] += size * x
                    imag[k] += size * y
                    x, y = x * c - y * d, x * d + y * c
            for k in range(n_channels):
                out[t, row, k] = complex(real[k], imag[k])
