"""Prediction of the visibilities of a sky model: the measurement equation, source by source.

Over frequency a source's fringe on a baseline turns according to its delay. So each source is summed at nodes, eight or
more per turn: at every channel, every second, every fourth and so on. The sums are then interpolated, as band-limited
functions, from each grid to the next finer one, and finally to the channels. Most fringes have sixty to a hundred nodes
where there are 768 channels.

The sums themselves are computed in fringe_kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.sky import structures
from dsa110_assets.telescope import astrometry, beam, timegrid
from dsa110_assets.visibilities import fringe_kernels
from dsa110_assets.visibilities.types import Visibilities

if TYPE_CHECKING:
    from dsa110_assets.sky.model import SkyModel

_SIDEREAL_RAD_S = 2 * np.pi * timegrid.SIDEREAL_RATIO / 86400
_MOST_GRIDS = 5
_SPECTRUM_NODES = 16
"""Chebyshev nodes over the band for spectra times the beam: this few interpolate an Airy pattern to 1e-9."""
_STRUCTURE_NODES = 6
"""The same for the structure of a source: 1e-7 for a source of 10 arcsec on the longest baseline."""


def predict(vis: Visibilities, sky: SkyModel, primary_beam: bool = True, smearing: bool = True) -> NDArray[np.complex64]:
    """Model visibilities of Stokes I (= XX = YY) in vis's frame: (time, baseline, channel) complex64 [Jy].

    V = sum S(nu) A(nu, angle) exp[2 pi i nu (tau_source - tau_centre)], with delays of apparent places, so aberration
    across the field is exact. A is the primary beam about (hour angle 0, apparent pointing dec) at each integration's
    centre. `smearing` multiplies by sinc(width dtau) sinc(nu interval dtau/dt), with delays relative to the tracked
    meridian direction. This is right at the telescope's own resolution, so predict before averaging, and average the
    prediction. With the beam on, sources 90 degrees or more from the pointing contribute nothing. The error of each
    source's apparent flux is up to 4e-6 from interpolation and 1e-6 from single precision. Standards of known structure
    are predicted with it (`structures.in_model`).
    """
    model = np.zeros((*vis.data.shape[:3],), np.complex64)
    points, resolved = _parts(sky)
    for t, integration in enumerate(integrations(vis, points, primary_beam, smearing) if len(points) else ()):
        integration.fringes().into(model[t : t + 1])
    for source, structure in resolved:
        for t, integration in enumerate(integrations(vis, source, primary_beam, smearing)):
            model[t] += _resolved(integration.fringes(), t, structure)
    return model


class Prediction:
    """The result of `predict`, computed on request: some integrations of some baselines at a time."""

    def __init__(self, vis: Visibilities, sky: SkyModel) -> None:
        self.shape: tuple[int, ...] = vis.data.shape[:3]
        points, resolved = _parts(sky)
        self._integrations = list(integrations(vis, points)) if len(points) else []
        self._resolved = [(structure, list(integrations(vis, source))) for source, structure in resolved]
        self._memory = np.zeros(0, np.complex64)

    def during(self, first: int, end: int) -> Callable[[NDArray[np.intp]], NDArray[np.complex64]]:
        """Return a function for integrations from `first` to `end` (not included): it computes the visibilities (time,
        baseline, channel) [Jy] of some baselines, which are valid until its next call."""
        fringes = [integration.fringes() for integration in self._integrations[first:end]]
        resolved = [
            (structure, [integration.fringes() for integration in source_integrations[first:end]])
            for structure, source_integrations in self._resolved
        ]

        def model(baselines: NDArray[np.intp]) -> NDArray[np.complex64]:
            n_items = (end - first) * baselines.size * self.shape[2]
            if n_items > self._memory.size:
                self._memory = np.zeros(n_items, np.complex64)
            out = self._memory[:n_items].reshape(end - first, baselines.size, self.shape[2])
            if not fringes:
                out[...] = 0
            for t, integration_fringes in enumerate(fringes):
                integration_fringes.into(out[t : t + 1], baselines)
            for structure, source_fringes in resolved:
                for t, integration_fringes in enumerate(source_fringes):
                    out[t] += _resolved(integration_fringes, first + t, structure, baselines)
            return out

        return model


def beam_responses(vis: Visibilities, ra_rad: NDArray[np.float64], dec_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Primary beam power at mid-band, for ICRS directions [rad] (source,) during each integration: (source, time)."""
    pointings = astrometry.meridian_icrs_rad(vis.times_mjd, vis.pointing_dec_rad)
    angle = astrometry.separation_deg(ra_rad[:, None], dec_rad[:, None], pointings[:, 0], pointings[:, 1])
    return beam.power(angle, float(np.mean(vis.frequencies_hz)))


def predict_each(vis: Visibilities, sky: SkyModel, alone: int | None = None) -> Iterator[NDArray[np.complex64]]:
    """Yield model visibilities of every source separately, one integration after another: (source, baseline, channel)
    [Jy].

    With `alone`, only that many sources, the first ones, are separate and all others are summed: (alone + 1, baseline,
    channel) if there are others. The sum over sources is the result of `predict`.
    """
    n_alone = len(sky) if alone is None else min(alone, len(sky))
    structure_of = structures.in_model(sky)
    summed_resolved = [k for k in structure_of if k >= n_alone]
    others = np.setdiff1d(np.arange(n_alone, len(sky)), summed_resolved)
    parts = [(sky.select(np.arange(n_alone)), slice(0, n_alone)), (sky.select(others), slice(n_alone, n_alone + 1))]
    parts = [(part, models) for part, models in parts if len(part)]
    part_integrations = (integrations(vis, part) for part, _ in parts)
    resolved_integrations = (integrations(vis, sky.select([k])) for k in summed_resolved)
    for t, current in enumerate(zip(*part_integrations, *resolved_integrations, strict=True)):
        out = np.empty((n_alone + (n_alone < len(sky)), *vis.data.shape[1:3]), np.complex64)
        if not others.size:
            out[n_alone:] = 0
        for integration, (_, models) in zip(current, parts, strict=False):
            integration.fringes().into(out[models])
        for k in structure_of.keys() - set(summed_resolved):
            out[k] *= _factor(vis, t, structure_of[k])
        for integration, k in zip(current[len(parts) :], summed_resolved, strict=True):
            out[n_alone] += _resolved(integration.fringes(), t, structure_of[k])
        yield out


def _parts(sky: SkyModel) -> tuple[SkyModel, list[tuple[SkyModel, structures.Structure]]]:
    """Split a sky model into its point sources, and the resolved sources one by one."""
    structure_of = structures.in_model(sky)
    if not structure_of:
        return sky, []
    return sky.select(np.setdiff1d(np.arange(len(sky)), list(structure_of))), [
        (sky.select([k]), structure) for k, structure in structure_of.items()
    ]


def _resolved(
    fringes: Fringes, t: int, structure: structures.Structure, baselines: NDArray[np.intp] | None = None
) -> NDArray[np.complex64]:
    """Visibilities (baseline, channel) [Jy] of the single source of `fringes` in integration `t`."""
    n_baselines = fringes.vis.ant1.size if baselines is None else baselines.size
    points = np.empty((1, n_baselines, fringes.vis.frequencies_hz.size), np.complex64)
    fringes.into(points, baselines)
    return np.asarray(points[0] * _factor(fringes.vis, t, structure, baselines))


def _factor(vis: Visibilities, t: int, structure: structures.Structure, baselines: NDArray[np.intp] | None = None) -> NDArray[np.complex64]:
    """Visibilities of a structure relative to those of a point source (baseline, channel) in integration `t`.

    They are interpolated to the channels from a few Chebyshev nodes over the band: a structure some arcseconds wide
    turns by a radian or two from frequency 0, and over the band by an eighth of that.
    """
    uv_s = vis.uvw_m[t, slice(None) if baselines is None else baselines, :2] / speed_of_light
    channels_hz = vis.frequencies_hz
    middle_hz, half_hz = (channels_hz[-1] + channels_hz[0]) / 2, max(abs(channels_hz[-1] - channels_hz[0]) / 2, 1.0)
    nodes = np.polynomial.chebyshev.chebpts1(_STRUCTURE_NODES)
    uv = uv_s[:, None] * (middle_hz + half_hz * nodes)[:, None]
    terms, node_terms = (np.polynomial.chebyshev.chebvander(x, nodes.size - 1) for x in ((channels_hz - middle_hz) / half_hz, nodes))
    weights = np.linalg.solve(node_terms.T, terms.T).astype(np.complex64)
    return np.asarray(structure.visibility(uv[..., 0], uv[..., 1]).astype(np.complex64) @ weights)


@dataclass(frozen=True)
class Nodes:
    """The grids of nodes at which fringes are summed: all channels, then every second one, and so on.

    sizes (grid,): number of nodes of each; bounds (grid + 1,): where each begins, with room for at least one node more,
    rounded up to a multiple of fringe_kernels.NODES_TOGETHER; frequencies_hz (node,).
    """

    step_hz: float
    sizes: NDArray[np.int64]
    bounds: NDArray[np.int64]
    frequencies_hz: NDArray[np.float64]

    def spectra(self, sky: SkyModel, angle_deg: NDArray[np.float64] | None) -> NDArray[np.float32]:
        """Flux densities [Jy] at the nodes, times the primary beam if the sources' angles are given: (node, source)."""
        low, high = self.frequencies_hz.min(), self.frequencies_hz.max()
        nodes = np.polynomial.chebyshev.chebpts1(_SPECTRUM_NODES)
        at_hz = (low + high) / 2 + (high - low) / 2 * nodes
        spectra = sky.flux_at(at_hz)
        if angle_deg is not None:
            spectra = spectra * beam.power(angle_deg[:, None], at_hz)
        place = (self.frequencies_hz - (low + high) / 2) * 2 / max(high - low, 1.0)
        terms, node_terms = (np.polynomial.chebyshev.chebvander(x, _SPECTRUM_NODES - 1) for x in (place, nodes))
        return np.asarray(np.linalg.solve(node_terms.T, terms.T).T @ spectra.T, np.float32)


def nodes_of(frequencies_hz: NDArray[np.float64]) -> Nodes:
    """Return the grids for evenly spaced channels; coarser grids only as long as they have fewer nodes."""
    sizes = [frequencies_hz.size]
    outside = fringe_kernels.OUTSIDE
    while len(sizes) < _MOST_GRIDS:
        size = -(-sizes[-1] // 2) + _REACH + (outside - outside // 2 if len(sizes) == 1 else 0)
        if 4 * size > 3 * sizes[-1]:
            break
        sizes.append(size)
    padded_sizes = [-(-(size + 1) // fringe_kernels.NODES_TOGETHER) * fringe_kernels.NODES_TOGETHER for size in sizes]
    numbers = [2**l * (np.arange(size) - (l > 0) * outside) for l, size in enumerate(padded_sizes)]
    step_hz = float(frequencies_hz[1] - frequencies_hz[0]) if frequencies_hz.size > 1 else 0.0
    bounds = np.cumsum([0, *padded_sizes])
    return Nodes(step_hz, np.array(sizes), bounds, frequencies_hz[0] + step_hz * np.concatenate(numbers))


@dataclass(frozen=True)
class Integration:
    """The sky during one integration, (antenna, source) float64: delays [s], turns over a channel, and turns per Hz
    over the integration; `spectra_jy` (node, source) float32."""

    vis: Visibilities
    nodes: Nodes
    spectra_jy: NDArray[np.float32]
    delay_s: NDArray[np.float64]
    turns_band: NDArray[np.float64]
    turns_per_hz: NDArray[np.float64]

    def fringes(self) -> Fringes:
        """Prepare the input of every baseline's sums."""
        # a group needs the nodes of its fastest fringes, which are few near the phase centre: so sources of similar delays are grouped
        order = np.argsort(np.ptp(self.delay_s, axis=0), kind="stable")
        n_sources, lanes = order.size, fringe_kernels.LANES
        groups = -(-n_sources // lanes)

        def grouped(values: NDArray[Any]) -> NDArray[Any]:
            full = np.zeros((values.shape[0], groups * lanes), values.dtype)
            full[:, :n_sources] = values[:, order]
            return full.reshape(-1, groups, lanes)

        delay_s, nodes = grouped(self.delay_s), self.nodes
        phasors = _phasors(delay_s, nodes.frequencies_hz[0], nodes.step_hz, nodes.sizes.size)
        places = np.append(order, np.arange(n_sources, groups * lanes))
        return Fringes(
            self.vis, nodes, delay_s * nodes.step_hz, phasors, grouped(self.turns_band), grouped(self.turns_per_hz),
            np.ascontiguousarray(grouped(self.spectra_jy).swapaxes(0, 1)).reshape(groups, -1), places,
        )  # fmt: skip


def _phasors(delay_s: NDArray[np.float64], first_hz: float, step_hz: float, n_grids: int) -> NDArray[np.float64]:
    """exp(2 pi i delay nu) at each grid's first node, over its step, and over fringe_kernels.RUN steps: (these three,
    grid, real or imaginary, antenna, group, lane)."""
    first, step = (np.exp(2j * np.pi * hz * delay_s) for hz in (first_hz, step_hz))
    out = np.empty((3, n_grids, 2, *delay_s.shape))
    for grid in range(n_grids):
        run, doublings = step, fringe_kernels.RUN.bit_length() - 1
        for _ in range(doublings):
            run = run * run
        before = np.conj(step * step * step) ** 2 if grid else np.ones(())  # OUTSIDE nodes
        for values, into in zip((first * before, step, run), out[:, grid], strict=True):
            into[0], into[1] = values.real, values.imag
        step = step * step
    return out


@dataclass(frozen=True)
class Fringes:
    """An integration's sources in groups of lanes, as fringe_kernels.accumulate takes them; `places` (lane,): their indices."""

    vis: Visibilities
    nodes: Nodes
    turns: NDArray[np.float64]
    phasors: NDArray[np.float64]
    turns_band: NDArray[np.float64]
    turns_per_hz: NDArray[np.float64]
    spectra_jy: NDArray[np.float32]
    places: NDArray[np.int64]

    def into(self, models: NDArray[np.complex64], baselines: NDArray[np.intp] | None = None) -> None:
        """Overwrite all model visibilities (model, baseline, channel) [Jy]: one model of all sources, or one of each."""
        ends = [ant if baselines is None else ant[baselines] for ant in (self.vis.ant1, self.vis.ant2)]
        nodes = self.nodes
        middle_hz = nodes.frequencies_hz[models.shape[2] // 2]
        squares = np.repeat(((nodes.frequencies_hz / middle_hz) ** 2 - 1).astype(np.float32), fringe_kernels.LANES)
        fringe_kernels.accumulate(
            *ends, self.turns, *self.phasors, self.turns_band, self.turns_per_hz, self.spectra_jy, squares, nodes.frequencies_hz,
            nodes.sizes, nodes.bounds, _HALFWAY, self.places, models,
        )  # fmt: skip


def integrations(vis: Visibilities, sky: SkyModel, primary_beam: bool = True, smearing: bool = True) -> Iterator[Integration]:
    """Yield the sky as seen in each integration of `vis`, in turn."""
    positions, pointing = vis.antennas.relative_m, vis.pointing_dec_rad
    lst = astrometry.apparent_lst_rad(vis.times_mjd)
    centre_ra, centre_dec = astrometry.icrs_to_apparent_rad(vis.phase_centres_rad[:, 0], vis.phase_centres_rad[:, 1], vis.times_mjd)
    centre_w = astrometry.apparent_uvw_m(positions, lst - centre_ra, centre_dec)[..., 2]
    tracked = astrometry.apparent_uvw_m(positions, 0.0, pointing)[0]
    ras, decs = astrometry.icrs_to_apparent_rad(sky.ra_rad, sky.dec_rad, vis.times_mjd[:, None])
    nodes = nodes_of(vis.frequencies_hz)
    for t, (ra, dec) in enumerate(zip(ras, decs, strict=True)):
        uvw = astrometry.apparent_uvw_m(positions, lst[t] - ra, dec).swapaxes(0, 1)
        # dw/dt = -u cos(dec) dH/dt, both for the source and for the tracked direction (TMS 2017, eq. 4.9).
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
    """Weights of the four nodes on either side of a place halfway between two nodes, nearest first.

    They interpolate exp(i theta k) from integer k best, in the least-squares sense, for all |theta| up to
    fringe_kernels.MOST_TURN; so they also interpolate every slower turn and every smooth spectrum.
    """
    most, nodes = 2 * np.pi * fringe_kernels.MOST_TURN, np.arange(8) - 3.5
    between = np.sinc(most * (nodes[:, None] - nodes) / np.pi)
    return np.asarray(np.linalg.lstsq(between, np.sinc(most * nodes / np.pi), rcond=1e-15)[0][4:], np.float32)


_HALFWAY = _halfway()
_REACH = 7
"""Nodes that interpolation between nodes needs after the first one it uses."""
