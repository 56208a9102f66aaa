"""The sources around a calibrator, corrected by what its own transit shows of them.

A catalogue's fluxes are years old. A source of the field that has flared since pulls the gains: antennas cannot
tell it from the calibrator, and 2 Jy too much beside 8.5 Jy move amplitudes by several per cent. So the transit is
solved in rounds: solve with the model there is, fit the field's fluxes to the corrected data by linear least
squares, look for sources the model lacks, and solve again with the corrected model. An error shrinks to a fifth per
round. The calibrator's own flux stays what its anchor says: the flux scale rests on it alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.calibration.apply import apply
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.solve import solve
from dsa110_assets.sky import model as sky_model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry, beam
from dsa110_assets.visibilities import ms_columns
from dsa110_assets.visibilities.predict import predict, predict_each
from dsa110_assets.visibilities.types import Visibilities

Float = NDArray[np.float64]
Search = Callable[[Visibilities, float], SkyModel]
"""Finds sources above a flux [Jy] in residual visibilities: brightest first, at their apparent (dimmed) fluxes."""

MOST_SAMPLES = 1_500_000
"""Samples that fits are made on; more would know the fluxes no better than the gains need them."""
MOST_FITTED = 30
"""Sources whose fluxes are fitted, brightest first; a fainter one that flares is found by the search."""
SIGNIFICANT_SIGMA = 5.0
LEAST_CHANGE = 1e-3
"""Changes below this part of the calibrator's signal cannot move gains by a thousandth: they are left."""
LEAST_NEW = 1e-2
"""Sources the model lacks are looked for down to this part of the calibrator's apparent flux."""
DOMINANT = 0.5
SAME_SOURCE_DEG = 60 / 3600
_STEP_RAD = float(np.deg2rad(2 / 3600))
"""Step of the derivatives by position, small against any beam."""
_FARTHEST_STEPS = 15.0
_RUN = 1024


@dataclass(frozen=True)
class Field:
    """`sky` has the calibrator first. `moves` (n,): its position is fitted as well, for no catalogue has it.

    `before_jy` (n,): the catalogue's flux, 0 for a source it lacks; `sigma_jy` (n,): the fitted flux's error, NaN
    where the flux is the catalogue's. `fitted` (n,): its flux is looked at; never the calibrator's.
    """

    sky: SkyModel
    fitted: NDArray[np.bool_]
    moves: NDArray[np.bool_]
    before_jy: Float
    sigma_jy: Float

    @property
    def changes(self) -> list[dict[str, Any]]:
        """What is not as the catalogue says: name, flux there, flux found with its error [Jy], position [deg]."""
        return [
            {
                "name": self.sky.names[i],
                "catalogue_jy": float(self.before_jy[i]),
                "fitted_jy": float(self.sky.flux_jy[i]),
                "error_jy": float(self.sigma_jy[i]),
                "ra_deg": float(np.rad2deg(self.sky.ra_rad[i])),
                "dec_deg": float(np.rad2deg(self.sky.dec_rad[i])),
            }
            for i in np.flatnonzero(np.isfinite(self.sigma_jy))
        ]


def of_catalogue(sky: SkyModel) -> Field:
    """The field as the catalogue has it; `sky` has the calibrator first, then the others, brightest first."""
    number = np.arange(len(sky))
    # another standard's flux is known as well as the calibrator's, and its spectrum is no power law
    fitted = (number > 0) & (number <= MOST_FITTED) & ~np.any(sky.log_coefficients != 0, axis=1)
    return Field(sky, fitted, np.zeros(len(sky), bool), sky.flux_jy.copy(), np.full(len(sky), np.nan))


def refine(
    vis: Visibilities, sky: SkyModel, known: SkyModel, options: SolveOptions, search: Search | None
) -> tuple[Field, int]:
    """The field of uncalibrated `vis`, starting from `sky` with the calibrator first; and the rounds it took.

    `known` are the catalogue's sources: one that `search` finds in the residual is taken from there, if there. At
    most `options.field_rounds` rounds, fewer once nothing changes. Raises what `solve` raises.
    """
    thin, field = thinned(vis), of_catalogue(sky)
    steady = replace(options, gain_solint_s=np.inf)  # gains hardly turn within a transit, and the rounds need no more
    parts = Parts(thin, field.sky.select(~field.fitted))
    for number in range(1, options.field_rounds + 1):
        corrected = apply(thin, solve(thin, parts.model(field), steady).tables)
        before = len(field.sky)
        if search is not None:
            residual = replace(corrected, data=corrected.data - parts.model(field)[..., None])
            anchor_jy = float((field.sky.flux_jy * _mean_beam(corrected, field.sky))[0])
            field = _with_brightest(corrected, field, search(residual, LEAST_NEW * anchor_jy), known)
        added = len(field.sky) > before
        # a source just found is fitted first: until it is in the gains, the catalogue's fluxes seem to be wrong
        field, changed = fit_fluxes(corrected, field, parts, options, doubt_catalogue=not added)
        changed |= added
        if not changed:
            return field, number
    return field, options.field_rounds


class Parts:
    """What each source adds to the visibilities; every one is predicted once, as `rest` is, which is never fitted."""

    def __init__(self, vis: Visibilities, rest: SkyModel) -> None:
        self.vis, self.rest = vis, predict(vis, rest)
        self._per_jy: dict[tuple[float, float], NDArray[np.complex64]] = {}

    def model(self, field: Field) -> NDArray[np.complex64]:
        """The whole field's visibilities (time, baseline, channel) [Jy]."""
        total = self.rest.copy()
        fitted = field.sky.select(field.fitted)
        for flux, part in zip(fitted.flux_jy, self.per_jy(fitted), strict=True):
            total += np.float32(flux) * part
        return total

    def per_jy(self, sky: SkyModel) -> list[NDArray[np.complex64]]:
        """The sources' visibilities for 1 Jy each, at their positions and with their spectral indices."""
        places = list(zip(sky.ra_rad.tolist(), sky.dec_rad.tolist(), strict=True))
        lacking = [k for k, place in enumerate(places) if place not in self._per_jy]
        if lacking:
            unit = replace(sky.select(lacking), flux_jy=np.ones(len(lacking)))
            each = np.empty((self.vis.times_mjd.size, len(lacking), *self.vis.data.shape[1:3]), np.complex64)
            for t, seen in enumerate(predict_each(self.vis, unit)):
                each[t] = seen
            self._per_jy |= {places[k]: each[:, number] for number, k in enumerate(lacking)}
        return [self._per_jy[place] for place in places]


def fit_fluxes(
    corrected: Visibilities, field: Field, parts: Parts, options: SolveOptions, *, doubt_catalogue: bool = True
) -> tuple[Field, bool]:
    """The field's fluxes fitted to calibrated data, the calibrator's kept; and whether any changed.

    min sum w |V - M_0 - sum_k x_k M_k|^2 over x, M_0 being the calibrator and what is too faint to be fitted, with
    the positions of new sources linearised. A catalogue's flux is replaced only where the fit differs by 5 sigma,
    by enough to matter, and by half of what the most changed source does: one wrong flux bends the gains, which feigns
    small changes all over the field; they are gone when it is right. Without `doubt_catalogue` only fluxes that are
    not the catalogue's any more are fitted.
    """
    normal, target, energy, count, owner = _normal_equations(corrected, field, parts, options)
    size = np.sqrt(np.diag(normal))
    whole = np.concatenate([[1.0], (owner >= 0) * 1.0])  # the model as it is: every source once, nothing moved
    free = np.flatnonzero(size[1:] > 0) + 1
    x, sigma = _least_squares(normal, target, energy, count, free, whole)
    moved = np.abs(x - whole) * size
    heavy = moved > max(LEAST_CHANGE * size[0], DOMINANT * float(moved[free].max(initial=0.0)))
    sources = np.where(owner < 0, ~owner, owner)
    wanted = np.concatenate([[False], np.isfinite(field.sigma_jy)[sources] | field.moves[sources]])
    doubted = heavy & (np.abs(x - whole) > SIGNIFICANT_SIGMA * sigma) & doubt_catalogue
    chosen = np.flatnonzero((doubted | wanted) & (size > 0))
    chosen = chosen[chosen > 0]
    if not chosen.size:
        return field, False
    x, sigma = _least_squares(normal, target, energy, count, chosen, whole)
    changed = bool(np.any((np.abs(x - whole) * size)[chosen] > LEAST_CHANGE * size[0]))
    return _updated(field, owner, x, sigma, chosen), changed


def _updated(field: Field, owner: NDArray[np.int64], x: Float, sigma: Float, chosen: NDArray[np.intp]) -> Field:
    """The field with the solved columns put in: fluxes first, then shifts of position."""
    sky, errors = field.sky, field.sigma_jy.copy()
    flux, ra, dec = sky.flux_jy.copy(), sky.ra_rad.copy(), sky.dec_rad.copy()
    for column in chosen:
        source = int(owner[column - 1])
        if source >= 0:
            errors[source] = sigma[column] * flux[source]
            flux[source] *= max(float(x[column]), 0.0)
    for column in chosen:
        source = int(owner[column - 1])
        if source < 0:
            source = ~source
            factor = flux[source] / sky.flux_jy[source]
            steps = float(np.clip(x[column] / factor if factor > 0 else 0.0, -_FARTHEST_STEPS, _FARTHEST_STEPS))
            if owner[column - 2] == source:  # the first of a source's two shifts is in right ascension
                ra[source] += steps * _STEP_RAD / np.cos(dec[source])
            else:
                dec[source] += steps * _STEP_RAD
    changed = replace(sky, flux_jy=flux, ra_rad=ra, dec_rad=dec)
    return replace(field, sky=changed, sigma_jy=errors)


def _normal_equations(
    vis: Visibilities, field: Field, parts: Parts, options: SolveOptions
) -> tuple[Float, Float, float, int, NDArray[np.int64]]:
    """Sums over the visibilities: Re A^H W A, Re A^H W V, sum w |V|^2, number of samples; and whose columns these are.

    Column 0 is what is not fitted; then each fitted source k (owner k), followed by its shifts in right ascension
    and declination (owner ~k) if it moves.
    """
    columns, owner = [parts.rest], list[int]()
    for k in np.flatnonzero(field.fitted).tolist():
        one = field.sky.select([k])
        flux = np.float32(one.flux_jy[0])
        (here,) = parts.per_jy(one)
        columns.append(flux * here)
        owner.append(k)
        if field.moves[k]:
            east = replace(one, ra_rad=one.ra_rad + _STEP_RAD / np.cos(one.dec_rad))
            north = replace(one, dec_rad=one.dec_rad + _STEP_RAD)
            columns += [flux * (there - here) for moved in (east, north) for there in parts.per_jy(moved)]
            owner += [~k, ~k]
    cross = np.flatnonzero(~vis.is_auto)

    def of_integration(t: int) -> tuple[Float, Float, float, int]:
        weights = _weights(vis, t, cross, options)
        data = np.where(weights > 0, vis.data[t][cross], 0)
        root = np.sqrt(weights.sum(axis=2))
        mean = np.divide((weights * data).sum(axis=2), root, out=np.zeros(root.shape, np.complex64), where=root > 0)
        rows = _as_real(np.stack([column[t][cross] for column in columns]) * root)
        normal, target = _products(rows, _as_real(mean[None])[0])
        energy = float(np.sum(weights * (data.real**2 + data.imag**2), dtype=np.float64))
        return normal, target, energy, int(np.count_nonzero(weights))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # map keeps their order, and so the sums their bits
        parts_of_sums = zip(*pool.map(of_integration, range(vis.times_mjd.size)), strict=True)
    normal, target, energy, count = (sum(each) for each in parts_of_sums)
    return normal, target, energy, count, np.array(owner, dtype=np.int64)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _products(rows, column):  # type: ignore[no-untyped-def]
    """rows rows^T and rows column, summed in single precision over runs of _RUN.

    Not by BLAS: its threads wait for one another by spinning, beside other processes for seconds.
    """
    normal, target = np.zeros((rows.shape[0], rows.shape[0])), np.zeros(rows.shape[0])
    for first in range(0, column.size, _RUN):
        data = column[first : first + _RUN]
        for i in range(rows.shape[0]):
            one = rows[i, first : first + _RUN]
            total = np.float32(0)
            for k in range(one.size):
                total += one[k] * data[k]
            target[i] += total
            for j in range(i + 1):
                other = rows[j, first : first + _RUN]
                total = np.float32(0)
                for k in range(one.size):
                    total += one[k] * other[k]
                normal[i, j] += total
                if j < i:
                    normal[j, i] += total
    return normal, target


def _weights(vis: Visibilities, t: int, cross: NDArray[np.intp], options: SolveOptions) -> NDArray[np.float32]:
    """Weights of one integration's cross-correlations (baseline, channel, pol): 0 where flagged or out of the solve's
    uv range."""
    uv_s = np.hypot(vis.uvw_m[t, cross, 0], vis.uvw_m[t, cross, 1]) / speed_of_light
    uv = uv_s[:, None] * vis.frequencies_hz
    inside = (uv >= options.min_uv_wavelengths) & (uv <= options.max_uv_wavelengths)
    return np.asarray(np.where(vis.flags[t][cross] | ~inside[..., None], np.float32(0), vis.weights[t][cross]))


def _as_real(rows: NDArray[Any]) -> NDArray[np.float32]:
    """(row, ...) complex as (row, real and imaginary parts side by side)."""
    flat = np.ascontiguousarray(rows.reshape(rows.shape[0], -1), dtype=np.complex64)
    return flat.view(np.float32)


def _least_squares(
    normal: Float, target: Float, energy: float, count: int, free: NDArray[np.intp], whole: Float
) -> tuple[Float, Float]:
    """Solution and errors with the columns `free` fitted, the others as in the model as it is, `whole`."""
    x, sigma, fixed = whole.copy(), np.zeros_like(whole), whole.copy()
    fixed[free] = 0
    inverse = np.linalg.pinv(normal[np.ix_(free, free)], hermitian=True)
    x[free] = inverse @ (target - normal @ fixed)[free]
    chi2 = max(energy - 2 * float(x @ target) + float(x @ normal @ x), 0.0)
    # |V|^2 counts both parts of a complex sample, a real parameter feels one
    sigma[free] = np.sqrt(chi2 / max(count - free.size, 1) / 2 * np.maximum(np.diag(inverse), 0))
    return x, sigma


def _with_brightest(vis: Visibilities, field: Field, found: SkyModel, known: SkyModel) -> Field:
    """The field and the brightest source found in its residual: from the catalogue where that has it, else as new.

    Only the brightest: the others may be its sidelobes. At a source of the field it is for the fit to put right.
    """
    one = found.select([0]) if len(found) else found
    if not len(one) or _nearest(one, field.sky)[1] < SAME_SOURCE_DEG:
        return field
    index, away_deg = _nearest(one, known)
    listed = away_deg < SAME_SOURCE_DEG / 2
    added = known.select([index]) if listed else one
    response = float(_mean_beam(vis, added)[0])
    before = float(added.flux_jy[0]) if listed else 0.0
    added = replace(added, flux_jy=one.flux_jy / response, log_coefficients=0 * added.log_coefficients)
    return Field(
        sky_model.concat(field.sky, added),
        np.append(field.fitted, True),
        np.append(field.moves, not listed),
        np.append(field.before_jy, before),
        np.append(field.sigma_jy, 0.0),
    )


def _nearest(one: SkyModel, others: SkyModel) -> tuple[int, float]:
    """Index and distance [deg] of the nearest of `others`; infinitely far if there are none."""
    if not len(others):
        return 0, float("inf")
    away = astrometry.separation_deg(one.ra_rad[0], one.dec_rad[0], others.ra_rad, others.dec_rad)
    return int(np.argmin(away)), float(np.min(away))


def _mean_beam(vis: Visibilities, sky: SkyModel) -> Float:
    """Primary beam on each source, the mean over the integrations, (n,)."""
    response: Float = beam_on(vis, np.rad2deg(sky.ra_rad), np.rad2deg(sky.dec_rad)).mean(axis=0)
    return response


def beam_on(vis: Visibilities, ra_deg: Float, dec_deg: Float) -> Float:
    """Primary beam at the band centre on ICRS directions [deg] (n,) during each integration, (time, n)."""
    ra, dec = astrometry.icrs_to_apparent_rad(np.deg2rad(ra_deg), np.deg2rad(dec_deg), vis.times_mjd[:, None])
    zenith_ra = astrometry.apparent_lst_rad(vis.times_mjd)[:, None]
    away_deg = astrometry.separation_deg(zenith_ra, vis.pointing_dec_rad, ra, dec)
    return beam.power(away_deg, vis.frequencies_hz.mean())


def thinned(vis: Visibilities) -> Visibilities:
    """Every so many-th channel, that no more than MOST_SAMPLES are left; the channels keep their own width."""
    step = -(-vis.data.size // MOST_SAMPLES)
    if step <= 1:
        return vis
    data = np.empty((*vis.data.shape[:2], -(-vis.data.shape[2] // step), vis.data.shape[3]), np.complex64)
    for t, seen in enumerate(vis.data):
        data[t] = seen[:, ::step]
        ms_columns.forget(seen)
    return replace(
        vis,
        data=data,
        flags=np.ascontiguousarray(vis.flags[:, :, ::step]),
        weights=np.ascontiguousarray(vis.weights[:, :, ::step]),
        frequencies_hz=vis.frequencies_hz[::step].copy(),
    )


def at_times(vis: Visibilities, keep: slice | NDArray[np.bool_] | list[int]) -> Visibilities:
    """The integrations of `vis` that `keep` (time,) picks; views for a slice."""
    return replace(
        vis,
        data=vis.data[keep],
        flags=vis.flags[keep],
        weights=vis.weights[keep],
        times_mjd=vis.times_mjd[keep],
        uvw_m=vis.uvw_m[keep],
        phase_centres_rad=vis.phase_centres_rad[keep],
    )
