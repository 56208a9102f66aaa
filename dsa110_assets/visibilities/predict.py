"""What the telescope would see of a sky model: the measurement equation, source by source.

Over frequency a source's fringe on a baseline turns by its delay there. So each source is summed at nodes eight or more
to its turn: at every channel, every second, fourth ... one. The sums are then brought from each grid to the next finer
one, at last the channels, by interpolation of band-limited functions. Most fringes have sixty to a hundred nodes
where there are 768 channels.

No kernel here may contract or reorder: what a compiler then makes of a sum depends on what it has inlined, and that on
whether code is fresh or from numba's cache. Tables would differ in the seventh digit from one process to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.telescope import astrometry, beam, timegrid
from dsa110_assets.visibilities.types import Visibilities

if TYPE_CHECKING:
    from dsa110_assets.sky.model import SkyModel

_SIDEREAL_RAD_S = 2 * np.pi * timegrid.SIDEREAL_RATIO / 86400
_MOST_GRIDS = 5
_MOST_TURN = 1 / 8
"""Turns from node to node, at most: the interpolation is then good to 4e-6 of the flux."""
_LANES = 16
_DEALT = 16
"""Baselines are dealt out to as many heaps, whatever the number of threads."""
_OUTSIDE = 6
"""Nodes before the band that grids but the finest have, for the interpolation about it."""
_SPECTRUM_NODES = 16
"""Chebyshev nodes over the band for spectra times the beam: Airy's pattern is brought to 1e-9 from as few."""


def predict(
    vis: Visibilities, sky: SkyModel, primary_beam: bool = True, smearing: bool = True
) -> NDArray[np.complex64]:
    """Model visibilities of Stokes I (= XX = YY) in vis's frame: (time, baseline, channel) complex64 [Jy].

    V = sum S(nu) A(nu, angle) exp[2 pi i nu (tau_source - tau_centre)], with delays of apparent places, so
    aberration across the field is exact. A is the primary beam about (hour angle 0, apparent pointing dec) at
    each integration's centre. `smearing` multiplies by sinc(width dtau) sinc(nu interval dtau/dt), delays
    relative to the tracked meridian direction: right at the telescope's own resolution, so predict before
    averaging, and average the prediction. With the beam on, sources 90 degrees or more from the pointing
    contribute nothing. Of each source's apparent flux 4e-6 may be wrong by interpolation, 1e-6 by single precision.
    """
    model = np.zeros((*vis.data.shape[:3],), np.complex64)
    for t, seen in enumerate(integrations(vis, sky, primary_beam, smearing) if len(sky) else ()):
        seen.into(model[t : t + 1])
    return model


class Prediction:
    """What `predict` gives, but made when asked for: a slice of integrations at a time, in memory used again by the next."""

    def __init__(self, vis: Visibilities, sky: SkyModel) -> None:
        self.shape: tuple[int, ...] = vis.data.shape[:3]
        self._seen = list(integrations(vis, sky)) if len(sky) else []
        self._memory = np.zeros((0, *self.shape[1:]), np.complex64)

    def __getitem__(self, times: slice) -> NDArray[np.complex64]:
        """(time, baseline, channel) [Jy] of the integrations, good until the next are asked for."""
        wanted = range(*times.indices(self.shape[0]))
        if len(wanted) > len(self._memory):
            self._memory = np.zeros((len(wanted), *self.shape[1:]), np.complex64)
        for k, t in enumerate(wanted if self._seen else ()):
            self._seen[t].into(self._memory[k : k + 1])
        return self._memory[: len(wanted)]


def predict_each(vis: Visibilities, sky: SkyModel) -> Iterator[NDArray[np.complex64]]:
    """Model visibilities of every source apart, one integration after another: (source, baseline, channel) [Jy].

    Their sum over the sources is what `predict` gives.
    """
    for seen in integrations(vis, sky):
        each = np.empty((len(sky), *vis.data.shape[1:3]), np.complex64)
        seen.into(each)
        yield each


@dataclass(frozen=True)
class Nodes:
    """Where fringes are summed: the channels, then every second of them, and so on, each grid padded to whole lanes.

    sizes (grid,) nodes of each without the padding; bounds (grid + 1,) in lanes; frequencies_hz (node,), the padding's too.
    """

    step_hz: float
    sizes: NDArray[np.int64]
    bounds: NDArray[np.int64]
    frequencies_hz: NDArray[np.float64]

    def spectra(self, sky: SkyModel, angle_deg: NDArray[np.float64] | None) -> NDArray[np.float32]:
        """Flux densities [Jy] at the nodes, through the primary beam if the sources' angles are given: (source, node)."""
        low, high = self.frequencies_hz.min(), self.frequencies_hz.max()
        few = np.polynomial.chebyshev.chebpts1(_SPECTRUM_NODES)
        at_hz = (low + high) / 2 + (high - low) / 2 * few
        spectra = sky.flux_at(at_hz)
        if angle_deg is not None:
            spectra = spectra * beam.power(angle_deg[:, None], at_hz)
        place = (self.frequencies_hz - (low + high) / 2) * 2 / max(high - low, 1.0)
        terms, theirs = (np.polynomial.chebyshev.chebvander(x, _SPECTRUM_NODES - 1) for x in (place, few))
        return np.asarray(spectra @ np.linalg.solve(theirs.T, terms.T), np.float32)


def nodes_of(frequencies_hz: NDArray[np.float64]) -> Nodes:
    """The grids for regular channels; coarser ones only as far as they have fewer nodes."""
    sizes = [frequencies_hz.size]
    while len(sizes) < _MOST_GRIDS:
        size = -(-sizes[-1] // 2) + _REACH + (_OUTSIDE - _OUTSIDE // 2 if len(sizes) == 1 else 0)
        if 4 * size > 3 * sizes[-1]:
            break
        sizes.append(size)
    lanes = [-(-(size + 1) // _LANES) for size in sizes]
    numbers = [2**l * (np.arange(k * _LANES) - (l > 0) * _OUTSIDE) for l, k in enumerate(lanes)]
    step_hz = float(frequencies_hz[1] - frequencies_hz[0]) if frequencies_hz.size > 1 else 0.0
    return Nodes(step_hz, np.array(sizes), np.concatenate([[0], np.cumsum(lanes)]), frequencies_hz[0] + step_hz * np.concatenate(numbers))


@dataclass(frozen=True)
class Integration:
    """The sky during one integration, (antenna, source) float64: delays [s], turns over a channel and per Hz over the
    integration; `spectra_jy` (source, node) float32."""

    vis: Visibilities
    nodes: Nodes
    spectra_jy: NDArray[np.float32]
    delay_s: NDArray[np.float64]
    turns_band: NDArray[np.float64]
    turns_per_hz: NDArray[np.float64]

    def into(self, models: NDArray[np.complex64]) -> None:
        """Write model visibilities (model, baseline, channel) [Jy], every one: one model of all sources, or one of each."""
        nodes = self.nodes
        bounds = np.linspace(0, len(self.spectra_jy), len(models) + 1).astype(np.int64)
        # each thread has a run of rows, and long baselines, which are neighbours, cost most
        rows = np.argsort(np.arange(self.vis.ant1.size) % _DEALT, kind="stable")
        spectra = self.spectra_jy.reshape(len(self.spectra_jy), -1, _LANES)
        _accumulate(
            rows, self.vis.ant1, self.vis.ant2, self.delay_s * nodes.step_hz, _turned(self.delay_s, nodes.frequencies_hz[0]),
            _turned(self.delay_s, nodes.step_hz), self.turns_band, self.turns_per_hz, spectra, nodes.frequencies_hz, nodes.sizes,
            nodes.bounds, _HALFWAY, bounds, models,
        )  # fmt: skip


def integrations(vis: Visibilities, sky: SkyModel, primary_beam: bool = True, smearing: bool = True) -> Iterator[Integration]:
    """The sky as each integration of `vis` sees it, in turn."""
    positions, pointing = vis.antennas.relative_m, vis.pointing_dec_rad
    lst = astrometry.apparent_lst_rad(vis.times_mjd)
    centre_ra, centre_dec = astrometry.icrs_to_apparent_rad(
        vis.phase_centres_rad[:, 0], vis.phase_centres_rad[:, 1], vis.times_mjd
    )
    centre_w = astrometry.apparent_uvw_m(positions, lst - centre_ra, centre_dec)[..., 2]
    tracked = astrometry.apparent_uvw_m(positions, 0.0, pointing)[0]
    ras, decs = astrometry.icrs_to_apparent_rad(sky.ra_rad, sky.dec_rad, vis.times_mjd[:, None])
    nodes = nodes_of(vis.frequencies_hz)
    for t, (ra, dec) in enumerate(zip(ras, decs, strict=True)):
        uvw = astrometry.apparent_uvw_m(positions, lst[t] - ra, dec).swapaxes(0, 1)
        # dw/dt = -u cos(dec) dH/dt, for the source and for the tracked direction alike (TMS 2017, eq. 4.9).
        rate = _SIDEREAL_RAD_S * (uvw[..., 0] * np.cos(dec) - tracked[:, :1] * np.cos(pointing))
        yield Integration(
            vis,
            nodes,
            nodes.spectra(sky, astrometry.separation_deg(lst[t], pointing, ra, dec) if primary_beam else None),
            (uvw[..., 2] - centre_w[t][:, None]) / speed_of_light,
            (uvw[..., 2] - tracked[:, 2:]) / speed_of_light * (vis.channel_width_hz if smearing else 0.0),
            rate / speed_of_light * (vis.interval_s if smearing else 0.0),
        )


def _halfway() -> NDArray[np.float32]:
    """Weights of the four nodes on either side of a place halfway between two, the near ones first.

    Those that bring exp(i theta k) from the whole k there best, in the least-squares sense, for all |theta| up to
    _MOST_TURN: then every slower turn, and every smooth spectrum, is brought there as well.
    """
    most, nodes = 2 * np.pi * _MOST_TURN, np.arange(8) - 3.5
    between = np.sinc(most * (nodes[:, None] - nodes) / np.pi)
    return np.asarray(np.linalg.lstsq(between, np.sinc(most * nodes / np.pi), rcond=1e-15)[0][4:], np.float32)


_HALFWAY = _halfway()
_REACH = 7
"""A node between others needs so many after the first it is brought from."""


@numba.njit(cache=True)
def _turned(delay_s, frequency_hz):  # type: ignore[no-untyped-def]
    """exp(2 pi i delay nu), double precision."""
    out = np.empty(delay_s.shape, np.complex128)
    for a in range(delay_s.shape[0]):
        for s in range(delay_s.shape[1]):
            angle = 2 * np.pi * delay_s[a, s] * frequency_hz
            out[a, s] = complex(np.cos(angle), np.sin(angle))
    return out


_CUBIC_TURNS = 0.7
"""Up to this many turns sin(pi x) / (pi x) is a cubic of x^2 to 2e-6 over a band of 20 %."""


@numba.njit(cache=True)
def _sinc(x):  # type: ignore[no-untyped-def]
    if abs(x) < 0.14:
        y = (np.pi * x) ** 2
        return 1 - y / 6 * (1 - y / 20 * (1 - y / 42 * (1 - y / 72)))
    return np.sin(np.pi * x) / (np.pi * x)


@numba.njit(cache=True)
def _cubic(z):  # type: ignore[no-untyped-def]
    """Coefficients of sin(sqrt(y)) / sqrt(y) as a cubic of y / z - 1: Taylor's, from its series in y."""
    if z < 0.1:
        t1, t2, t3 = -z / 6, z * z / 120, -z * z * z / 5040
        return 1 + t1 + t2 + t3, t1 + 2 * t2 + 3 * t3, t2 + 3 * t3, t3
    c0, c1, c2, c3, term = 0.0, 0.0, 0.0, 0.0, 1.0
    for k in range(10):
        c0 += term
        c1 += k * term
        c2 += k * (k - 1) / 2 * term
        c3 += k * (k - 1) * (k - 2) / 6 * term
        term *= -z / ((2 * k + 2) * (2 * k + 3))
    return c0, c1, c2, c3


@numba.njit(cache=True)
def _smeared(rate, across, spectra, s, frequencies_hz, squares, middle_hz, first, last, out):  # type: ignore[no-untyped-def]
    """across spectrum sinc(rate nu) of source s, in the lanes from `first` to `last`; `squares`: (nu / middle)^2 - 1."""
    most = rate * middle_hz
    if abs(most) > _CUBIC_TURNS:
        for k in range(first, last):
            for lane in range(_LANES):
                out[k, lane] = spectra[s, k, lane] * np.float32(across * _sinc(rate * frequencies_hz[k * _LANES + lane]))
        return
    c0, c1, c2, c3 = _cubic((np.pi * most) ** 2)
    f0, f1, f2, f3 = np.float32(across * c0), np.float32(across * c1), np.float32(across * c2), np.float32(across * c3)
    # no views of what threads share: they would all count its references
    for k in range(first, last):
        for lane in range(_LANES):
            x = squares[k, lane]
            out[k, lane] = spectra[s, k, lane] * (f0 + x * (f1 + x * (f2 + x * f3)))


@numba.njit(cache=True)
def _lanes(step, lanes):  # type: ignore[no-untyped-def]
    """Powers 0 .. _LANES - 1 of `step` as real and imaginary parts (2, lane), float32; returns the next power."""
    lanes[0, 0], lanes[1, 0] = 1, 0
    done = 1
    while done < _LANES:
        c, s = np.float32(step.real), np.float32(step.imag)
        for k in range(done):
            lanes[0, done + k] = c * lanes[0, k] - s * lanes[1, k]
            lanes[1, done + k] = c * lanes[1, k] + s * lanes[0, k]
        step *= step
        done *= 2
    return step


@numba.njit(cache=True)
def _add_source(start, block, lanes, amplitude, first, last, real, imaginary):  # type: ignore[no-untyped-def]
    """Add amplitude exp(i delay nu) over nodes a step apart, in the lanes from `first` to `last`.

    The lanes' phases against a block's first node, `lanes`, are the same in every block, so that a node costs two complex
    multiplications the compiler can do eight or more at a time; blocks advance in double precision.
    """
    for k in range(first, last):
        c, s = np.float32(start.real), np.float32(start.imag)
        for lane in range(_LANES):
            size = amplitude[k, lane]
            real[k, lane] += size * (c * lanes[0, lane] - s * lanes[1, lane])
            imaginary[k, lane] += size * (c * lanes[1, lane] + s * lanes[0, lane])
        start *= block


@numba.njit(cache=True)
def _refine(nodes, coarse, fine, size, outside, halfway):  # type: ignore[no-untyped-def]
    """Add the grid of `nodes` that begins at `coarse` to the next finer one, `size` nodes from `fine` on, `outside` of
    which are before the band."""
    w0, w1, w2, w3 = halfway
    n = (size + 1) // 2
    first = coarse + _OUTSIDE - outside // 2
    even, near = nodes[first : first + n], nodes[first + 1 : first + n + 1]
    before, after = nodes[first - 1 : first + n - 1], nodes[first + 2 : first + n + 2]
    before2, after2 = nodes[first - 2 : first + n - 2], nodes[first + 3 : first + n + 3]
    before3, after3 = nodes[first - 3 : first + n - 3], nodes[first + 4 : first + n + 4]
    out = nodes[fine : fine + 2 * n]
    for q in range(n):
        out[2 * q] += even[q]
        odd = w0 * (even[q] + near[q]) + w1 * (before[q] + after[q])
        out[2 * q + 1] += odd + (w2 * (before2[q] + after2[q]) + w3 * (before3[q] + after3[q]))


@numba.njit(cache=True, parallel=True)
def _accumulate(  # type: ignore[no-untyped-def]
    rows, ant1, ant2, turns, first, step, turns_band, turns_per_hz, spectra, frequencies_hz, sizes, bounds, halfway, parts, models
):
    """Sources of each part summed into models (part, baseline, channel). By antenna and source: `turns` per channel, exp(i delay nu) at the
    `first` channel and over a `step`, and the turns of Integration."""
    n_channels, n_nodes, n_grids = models.shape[2], frequencies_hz.size, bounds.size - 1
    middle_hz = frequencies_hz[n_channels // 2]
    squares = ((frequencies_hz / middle_hz) ** 2 - 1).astype(np.float32).reshape(-1, _LANES)
    for row in numba.prange(rows.size):
        b = rows[row]
        i, j = ant1[b], ant2[b]
        x, y, amplitude = np.zeros(n_nodes, np.float32), np.zeros(n_nodes, np.float32), np.empty((bounds[-1], _LANES), np.float32)
        real, imaginary = x.reshape(-1, _LANES), y.reshape(-1, _LANES)
        lanes = np.empty((2, _LANES), np.float32)
        for part in range(models.shape[0]):
            if part > 0:
                x[:] = 0
                y[:] = 0
            coarsest = 0
            for s in range(parts[part], parts[part + 1]):
                grid, turn = 0, 2 * abs(turns[j, s] - turns[i, s])
                start, along = first[j, s] * np.conj(first[i, s]), step[j, s] * np.conj(step[i, s])
                while grid + 1 < n_grids and turn <= _MOST_TURN:
                    grid, turn, along = grid + 1, 2 * turn, along * along
                if grid > 0:
                    start *= np.conj(along * along * along) ** (_OUTSIDE // 3)
                coarsest = max(coarsest, grid)
                across = _sinc(turns_band[j, s] - turns_band[i, s])
                rate = turns_per_hz[j, s] - turns_per_hz[i, s]
                low, high = bounds[grid], bounds[grid + 1]
                _smeared(rate, across, spectra, s, frequencies_hz, squares, middle_hz, low, high, amplitude)
                block = _lanes(along, lanes)
                _add_source(start, block, lanes, amplitude, low, high, real, imaginary)
            for grid in range(coarsest, 0, -1):
                coarse, fine, outside = bounds[grid] * _LANES, bounds[grid - 1] * _LANES, _OUTSIDE if grid > 1 else 0
                _refine(x, coarse, fine, sizes[grid - 1], outside, halfway)
                _refine(y, coarse, fine, sizes[grid - 1], outside, halfway)
            for k in range(n_channels):
                models[part, b, k] = complex(x[k], y[k])
