"""What the telescope would see of a sky model: the measurement equation, source by source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.telescope import astrometry, beam, timegrid
from dsa110_assets.visibilities.types import Visibilities

if TYPE_CHECKING:
    from dsa110_assets.sky.model import SkyModel

_SIDEREAL_RAD_S = 2 * np.pi * timegrid.SIDEREAL_RATIO / 86400


def predict(
    vis: Visibilities, sky: SkyModel, primary_beam: bool = True, smearing: bool = True
) -> NDArray[np.complex64]:
    """Model visibilities of Stokes I (= XX = YY) in vis's frame: (time, baseline, channel) complex64 [Jy].

    V = sum S(nu) A(nu, angle) exp[2 pi i nu (tau_source - tau_centre)], with delays of apparent places, so
    aberration across the field is exact. A is the primary beam about (hour angle 0, apparent pointing dec) at
    each integration's centre. `smearing` multiplies by sinc(width dtau) sinc(nu interval dtau/dt), delays
    relative to the tracked meridian direction: right at the telescope's own resolution, so predict before
    averaging, and average the prediction. With the beam on, sources 90 degrees or more from the pointing
    contribute nothing.
    """
    model = np.zeros((*vis.data.shape[:3],), np.complex64)
    for t, seen in enumerate(_seen(vis, sky, primary_beam, smearing) if len(sky) else ()):
        _accumulate(*seen, vis.frequencies_hz, vis.ant1, vis.ant2, model[t])
    return model


def predict_each(vis: Visibilities, sky: SkyModel) -> Iterator[NDArray[np.complex64]]:
    """Model visibilities of every source apart, one integration after another: (source, baseline, channel) [Jy].

    Their sum over the sources is what `predict` gives, and as dear.
    """
    for seen in _seen(vis, sky, primary_beam=True, smearing=True):
        each = np.empty((len(sky), *vis.data.shape[1:3]), np.complex64)
        for k in range(len(sky)):
            one = (np.ascontiguousarray(of_sources[k : k + 1]) for of_sources in seen)
            _accumulate(*one, vis.frequencies_hz, vis.ant1, vis.ant2, each[k])
        yield each


def _seen(vis: Visibilities, sky: SkyModel, primary_beam: bool, smearing: bool) -> Iterator[tuple[NDArray[Any], ...]]:
    """Per integration, each source's delays [s], turns over a channel and per Hz over an integration, by antenna; and
    its apparent flux by channel [Jy]."""
    positions = vis.antennas.relative_m
    lst = astrometry.apparent_lst_rad(vis.times_mjd)
    centre_ra, centre_dec = astrometry.icrs_to_apparent_rad(
        vis.phase_centres_rad[:, 0], vis.phase_centres_rad[:, 1], vis.times_mjd
    )
    centre_w = astrometry.apparent_uvw_m(positions, lst - centre_ra, centre_dec)[..., 2]
    tracked = astrometry.apparent_uvw_m(positions, 0.0, vis.pointing_dec_rad)[0]
    flux = sky.flux_at(vis.frequencies_hz)
    for t in range(vis.times_mjd.size):
        ra, dec = astrometry.icrs_to_apparent_rad(sky.ra_rad, sky.dec_rad, vis.times_mjd[t])
        apparent = flux
        if primary_beam:
            angle = astrometry.separation_deg(lst[t], vis.pointing_dec_rad, ra, dec)
            apparent = flux * beam.power(angle[:, None], vis.frequencies_hz)
        source_uvw = astrometry.apparent_uvw_m(positions, lst[t] - ra, dec)
        smear_delay = (
            (source_uvw[..., 2] - tracked[:, 2]) / speed_of_light
            if smearing
            else np.zeros(source_uvw.shape[:2])
        )
        # dw/dt = -u cos(dec) dH/dt, for the source and for the tracked direction alike (TMS 2017, eq. 4.9).
        rate = _SIDEREAL_RAD_S * (
            source_uvw[..., 0] * np.cos(dec)[:, None] - tracked[:, 0] * np.cos(vis.pointing_dec_rad)
        )
        yield (
            (source_uvw[..., 2] - centre_w[t]) / speed_of_light,
            smear_delay * vis.channel_width_hz,
            rate / speed_of_light * (vis.interval_s if smearing else 0.0),
            np.ascontiguousarray(apparent, dtype=np.float32),
        )


_LANES = 16
_SMALL_TURNS = 0.7
"""Below this many turns seven terms of sin(pi x) / (pi x) are exact to 5e-8."""


@numba.njit(cache=True)
def _sinc(x):  # type: ignore[no-untyped-def]
    return np.sin(np.pi * x) / (np.pi * x) if x != 0 else 1.0


@numba.njit(cache=True)
def _smeared(rate, across, flux, frequencies_hz, squares, out):  # type: ignore[no-untyped-def]
    """across flux sinc(rate nu) per channel, float32; `squares` are nu^2 over that of the last channel."""
    most = rate * frequencies_hz[-1]
    if abs(most) > _SMALL_TURNS:
        for k in range(flux.size):
            out[k] = flux[k] * np.float32(across * _sinc(rate * frequencies_hz[k]))
        return
    scale, size = np.float32((np.pi * most) ** 2), np.float32(across)
    one, c2, c4, c6 = np.float32(1), np.float32(1 / 6), np.float32(1 / 20), np.float32(1 / 42)
    c8, c10, c12 = np.float32(1 / 72), np.float32(1 / 110), np.float32(1 / 156)
    for k in range(flux.size):
        y = scale * squares[k]
        series = one - c8 * y * (one - c10 * y * (one - c12 * y))
        out[k] = size * flux[k] * (one - c2 * y * (one - c4 * y * (one - c6 * y * series)))


@numba.njit(cache=True)
def _add_source(delay, step_hz, frequencies_hz, amplitude, real, imaginary):  # type: ignore[no-untyped-def]
    """Add amplitude exp(i delay nu) over channels a step apart, _LANES at a time.

    The lanes' phases against a block's first channel are the same in every block, so that a channel costs two
    complex multiplications the compiler can do eight at a time; blocks advance in double precision.
    """
    lane_real, lane_imaginary = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    for lane in range(_LANES):
        turn = delay * step_hz * lane
        lane_real[lane], lane_imaginary[lane] = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    angle = delay * step_hz * _LANES
    block = complex(np.cos(angle), np.sin(angle))
    angle = delay * frequencies_hz[0]
    start = complex(np.cos(angle), np.sin(angle))
    for first in range(0, amplitude.size, _LANES):
        c, s = np.float32(start.real), np.float32(start.imag)
        # views, as their indices need no check for being negative
        a, x, y = amplitude[first:], real[first:], imaginary[first:]
        for lane in range(_LANES):
            x[lane] += a[lane] * (c * lane_real[lane] - s * lane_imaginary[lane])
            y[lane] += a[lane] * (c * lane_imaginary[lane] + s * lane_real[lane])
        start *= block


@numba.njit(cache=True, parallel=True)
def _accumulate(delay_s, turns_band, turns_per_hz, flux, frequencies_hz, ant1, ant2, model):  # type: ignore[no-untyped-def]
    """Sources summed into model (baseline, channel), from delays per source and antenna; flux is float32."""
    n_sources, n_channels = flux.shape
    step_hz = frequencies_hz[1] - frequencies_hz[0] if n_channels > 1 else 0.0
    padded = -(-n_channels // _LANES) * _LANES
    squares = ((frequencies_hz / frequencies_hz[-1]) ** 2).astype(np.float32)
    for b in numba.prange(ant1.size):
        i, j = ant1[b], ant2[b]
        real, imaginary = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
        amplitude = np.zeros(padded, np.float32)
        for s in range(n_sources):
            delay = 2 * np.pi * (delay_s[s, j] - delay_s[s, i])
            across = _sinc(turns_band[s, j] - turns_band[s, i])
            _smeared(turns_per_hz[s, j] - turns_per_hz[s, i], across, flux[s], frequencies_hz, squares, amplitude)
            _add_source(delay, step_hz, frequencies_hz, amplitude, real, imaginary)
        for k in range(n_channels):
            model[b, k] = complex(real[k], imaginary[k])
