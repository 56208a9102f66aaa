"""Linear least squares of a field's fluxes, positions and spectra to calibrated visibilities of a calibrator's transit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.calibration import group
from dsa110_assets.calibration.field_model import Field, Parts
from dsa110_assets.calibration.group import Group
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.structure import BaselineSums
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities.types import Visibilities

Float = NDArray[np.float64]

SIGNIFICANT_SIGMA = 5.0
LEAST_CHANGE = 1e-3
"""Changes below this part of the calibrator's signal cannot change gains by a thousandth, and are not made."""
DOMINANT = 0.5
_STEP_RAD = float(np.deg2rad(2 / 3600))
"""Step of the derivatives with respect to position, small compared with any beam."""
STEP_INDEX, _STEEPEST = 0.1, 3.0
LEAST_KNOWN = 0.2
"""An index that cannot be determined to this, half the scatter of sources' indices, is left as it is."""
_INDEX_FROM = 0.02
"""Part of the calibrator's flux above which a source whose flux is not the catalogue's is fitted with an index: an index that is too
small by 0.5 leaves 4 % of the source at the edges of the band."""
FLUX, EAST, NORTH, INDEX = range(4)
_FARTHEST_STEPS = 15.0
_RUN = 1024
ROUNDING = float(np.finfo(np.float32).eps) * _RUN**0.5
"""Relative error of a sum in single precision over such a run, whose rounding errors add in quadrature."""
_FIXED = 2
"""Number of columns before those of the fitted sources: the calibrator, and all sources too faint to be fitted."""


@dataclass(frozen=True)
class Equations:
    """Sums over calibrated visibilities V and the columns A of a field's model, A_0 being the calibrator.

    normal Re A^H W A; target Re A^H W V; energy sum w |V|^2; count of samples. `sources` (column - 2,): the source of each
    column; `what`: its parameter: FLUX, or in steps the shift EAST or NORTH or the change of INDEX. `turned` (column, 2):
    Re A^H W r / (2 pi i u) and the same with v, r being the residual of V; `moments` (2, 2): sums of w (2 pi u)^2, of u v, and of
    v^2; `weight` sum w.
    """

    normal: Float
    target: Float
    energy: float
    count: int
    sources: NDArray[np.int64]
    what: NDArray[np.int64]
    turned: Float
    moments: Float
    weight: float
    baselines: BaselineSums

    @property
    def whole(self) -> Float:
        """Coefficients of the current model: every source's flux once, no shifts."""
        return np.concatenate([np.ones(_FIXED), (self.what == FLUX) * 1.0])

    @property
    def size(self) -> Float:
        return np.sqrt(np.diag(self.normal))

    def solve(self, free: NDArray[np.intp]) -> tuple[Float, Float, float]:
        """Return solution and errors with the columns `free` fitted and the others fixed, and the variance of a sample's real part."""
        x, sigma, fixed = self.whole, np.zeros(self.what.size + _FIXED), self.whole
        fixed[free] = 0
        inverse = inverted(self.normal[np.ix_(free, free)])
        x[free] = inverse @ (self.target - self.normal @ fixed)[free]
        chi2 = max(self.energy - 2 * float(x @ self.target) + float(x @ self.normal @ x), ROUNDING * self.energy)
        # |V|^2 has both parts of a complex sample, but a real parameter is determined by one
        variance = chi2 / max(self.count - free.size, 1) / 2
        sigma[free] = np.sqrt(variance * np.maximum(np.diag(inverse), 0))
        return x, sigma, variance


def equations(vis: Visibilities, field: Field, parts: Parts, options: SolveOptions) -> Equations:
    """Return the sums of calibrated `vis` and `field`, whose predicted visibilities are `parts`."""
    columns, parameters = [parts.calibrator(field), parts.rest], list[tuple[int, int]]()
    for k in np.flatnonzero(field.fitted).tolist():
        source = field.sky.select([k])
        flux = np.float32(source.flux_jy[0])
        (unmoved,) = parts.per_jy(source)
        steps = stepped(source, field.moves[k], field.sigma_jy[k] > 0 and flux > _INDEX_FROM * field.sky.flux_jy[0])
        columns += [flux * unmoved, *(flux * (shifted - unmoved) for moved in steps.values() for shifted in parts.once(moved))]
        parameters += [(k, what) for what in (FLUX, *steps)]
    sources, what = np.array(parameters, dtype=np.int64).reshape(-1, 2).T
    flux_columns = [1, *(np.flatnonzero(what == FLUX) + _FIXED).tolist()]
    cross = np.flatnonzero(~vis.is_auto)

    def of_integration(t: int) -> tuple[Any, ...]:
        weights = weights_of(vis, t, cross, options)
        data = np.where(weights > 0, vis.data[t][cross], 0)
        total = weights.sum(axis=2)
        root = np.sqrt(total)
        mean = np.divide((weights * data).sum(axis=2), root, out=np.zeros(root.shape, np.complex64), where=root > 0)
        rows = np.stack([column[t][cross] for column in columns]) * root
        others = sum((rows[k] for k in flux_columns[1:]), rows[flux_columns[0]])
        uv = -2j * np.pi * (vis.uvw_m[t, cross, :2].T[..., None] * (vis.frequencies_hz / speed_of_light))
        turned = uv.astype(np.complex64) * (mean - rows[0] - others)
        normal, targets = products(_as_real(rows), _as_real(np.concatenate([mean[None], turned])))
        energy = float(np.sum(weights * (data.real**2 + data.imag**2), dtype=np.float64))
        uv_2 = np.einsum("abc,dbc,bc->ad", uv.imag, uv.imag, total)
        calibrator = mean - others
        others_mean = np.divide(others, root, out=np.zeros_like(others), where=root > 0)[..., None]
        calibrator_energy = np.sum(weights * np.abs(np.where(weights > 0, data - others_mean, 0)) ** 2, axis=(1, 2), dtype=np.float64)
        return (
            normal, targets, energy, int(np.count_nonzero(weights)), uv_2, float(total.sum(dtype=np.float64)),
            np.sum(calibrator * np.conj(rows[0]), axis=1, dtype=np.complex128), np.sum(np.abs(rows[0]) ** 2, axis=1, dtype=np.float64),
            calibrator_energy, np.count_nonzero(weights, axis=(1, 2)),
        )  # fmt: skip

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # map keeps the order, so the sums are reproducible to the bit
        sums = _summed(pool.map(of_integration, range(vis.times_mjd.size)))
    normal, targets, energy, count, uv_2, weight, top, bottom, calibrator_energy, samples = sums
    middle = vis.uvw_m[vis.times_mjd.size // 2, cross, :2] * (vis.frequencies_hz.mean() / speed_of_light)
    baselines = BaselineSums(top, bottom, calibrator_energy, samples, vis.ant1[cross], vis.ant2[cross], middle[:, 0], middle[:, 1])
    return Equations(normal, targets[:, 0], energy, count, sources, what, targets[:, 1:], uv_2, weight, baselines)


def stepped(one: SkyModel, place: bool, index: bool) -> dict[int, SkyModel]:
    """Return copies of a source, each a step away in one of the parameters to be fitted: position if `place`, index if `index`."""
    steps = {}
    if place:
        steps[EAST] = replace(one, ra_rad=one.ra_rad + _STEP_RAD / np.cos(one.dec_rad))
        steps[NORTH] = replace(one, dec_rad=one.dec_rad + _STEP_RAD)
    if index:
        steps[INDEX] = replace(one, spectral_index=one.spectral_index + STEP_INDEX)
    return steps


def inverted(normal: Float) -> Float:
    """Return the inverse of a normal matrix summed in single precision. The rounding error is added to its diagonal, so that degenerate
    parameters get large errors but not large values."""
    return np.asarray(np.linalg.pinv(normal + ROUNDING * np.diag(np.diag(normal)), hermitian=True))


def _summed(parts: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return the sum of each member over the parts, in their order."""
    first, *others = parts
    total = list(first)
    for part in others:
        total = [summed + more for summed, more in zip(total, part, strict=True)]
    return total


def group_of(equations: Equations, field: Field) -> Group:
    """Return the common flux ratio and shift, relative to the calibrator, of the field's sources that are as in the catalogue. All
    fluxes are fitted, including the calibrator's.

    A source's shift follows from the phases of the residual: Re M^H W r / (2 pi i (u, v)) = sum w |M|^2 (2 pi)^2 (u, v)^T (u, v) shift,
    assuming that other sources' shifts cancel.
    """
    flux = np.concatenate([[False, False], equations.what == FLUX])
    free = np.flatnonzero((equations.size > 0) & ~np.isin(np.arange(flux.size), [1]))
    if not free.size or free[0] != 0:
        return Group(0)
    x, sigma, variance = equations.solve(free)
    sources = np.concatenate([[0, 0], equations.sources])
    listed = flux & ~np.isfinite(field.sigma_jy)[sources] & (field.before_jy > 0)[sources] & (equations.size > 0)
    power = np.diag(equations.normal)[listed] / equations.weight  # |M|^2
    inverse = np.linalg.pinv(equations.moments)
    shift = inverse @ equations.turned[listed].T / power
    shift_sigma = np.sqrt(variance * np.diag(inverse)[:, None] / power)
    anchor = max(float(x[0]), 1e-3)
    return group.of_sources(x[listed] / anchor, np.hypot(sigma[listed], sigma[0]) / anchor, shift, shift_sigma)


def fit_fluxes(equations: Equations, field: Field, common: Group, *, doubt_catalogue: bool = True) -> tuple[Field, bool]:
    """Fit the field's fluxes to calibrated data with the calibrator's fixed. Return the field, and whether anything changed.

    min sum w |V - M_0 - sum_k x_k M_k|^2 over x, M_0 being the calibrator and the sources too faint to be fitted, with
    positions and indices of new sources linearised. A catalogue flux is replaced only where the fit differs by 5 sigma from the ratio
    that the field's sources have in `common`, by enough to matter, and by at least half as much as for the most changed source. One
    wrong flux biases the gains, which causes small spurious changes all over the field; they vanish once that flux is right.
    Without `doubt_catalogue`, only fluxes already replaced are fitted.
    """
    current, size = equations.whole, equations.size
    free = np.flatnonzero(size[_FIXED:] > 0) + _FIXED
    doubted = np.isin(np.arange(size.size), departures(equations, common)[0]) & doubt_catalogue
    not_catalogued = np.isfinite(field.sigma_jy)[equations.sources] | field.moves[equations.sources]
    chosen = np.intersect1d(np.flatnonzero(doubted | np.concatenate([[False] * _FIXED, not_catalogued])), free)
    if not chosen.size:
        return field, False
    _, sigma, _ = equations.solve(chosen)
    unclear = (equations.what[chosen - _FIXED] == INDEX) & ~(sigma[chosen] * STEP_INDEX < LEAST_KNOWN)
    chosen = chosen[~unclear]
    x, sigma, _ = equations.solve(chosen)
    changed = bool(np.any((np.abs(x - current) * size)[chosen] > LEAST_CHANGE * size[0]))
    fitted = _updated(field, equations, x, sigma, chosen)
    # the fit gives no significant flux to a sidelobe that was found together with its source
    vanished = fitted.moves & ~(fitted.sky.flux_jy > SIGNIFICANT_SIGMA * fitted.sigma_jy)
    return fitted.select(~vanished), changed


def departures(equations: Equations, common: Group) -> tuple[NDArray[np.intp], float]:
    """Return the columns that differ from the sources' `common` ratio significantly and by enough to matter, and the largest of these
    differences as part of the calibrator's signal."""
    current, size = equations.whole, equations.size
    free = np.flatnonzero(size[_FIXED:] > 0) + _FIXED
    if not free.size:
        return free, 0.0
    x, sigma, _ = equations.solve(free)
    departure = np.abs(x - np.where(current > 0, common.ratio if common.known else 1.0, 0.0))
    change = departure * size
    most = float(change[free].max())
    heavy = change > max(LEAST_CHANGE * size[0], DOMINANT * most)
    departing = free[(heavy & (departure > SIGNIFICANT_SIGMA * sigma))[free]]
    return departing, float(change[departing].max(initial=0.0) / size[0])


def _updated(field: Field, equations: Equations, x: Float, sigma: Float, chosen: NDArray[np.intp]) -> Field:
    """Return the field updated with the solved columns."""
    sources, what = equations.sources[chosen - _FIXED], equations.what[chosen - _FIXED]
    errors, is_flux = field.sigma_jy.copy(), what == FLUX
    errors[sources[is_flux]] = sigma[chosen[is_flux]] * field.sky.flux_jy[sources[is_flux]]
    return replace(field, sky=with_fitted_steps(field.sky, sources, what, x[chosen]), sigma_jy=errors)


def with_fitted_steps(sky: SkyModel, sources: NDArray[np.int64], what: NDArray[np.int64], x: Float) -> SkyModel:
    """Return a sky updated with fitted columns: first factors of fluxes, then shifts of position and index, which are in steps at the
    old flux."""
    flux, ra, dec, index = sky.flux_jy.copy(), sky.ra_rad.copy(), sky.dec_rad.copy(), sky.spectral_index.copy()
    flux[sources[what == FLUX]] *= np.maximum(x[what == FLUX], 0.0)
    for value, source, which in zip(x, sources, what, strict=True):
        factor = flux[source] / sky.flux_jy[source]
        steps = float(np.clip(value / factor if factor > 0 else 0.0, -_FARTHEST_STEPS, _FARTHEST_STEPS))
        if which == EAST:
            ra[source] += steps * _STEP_RAD / np.cos(dec[source])
        elif which == NORTH:
            dec[source] += steps * _STEP_RAD
        elif which == INDEX:
            index[source] = np.clip(index[source] + steps * STEP_INDEX, -_STEEPEST, _STEEPEST)
    return replace(sky, flux_jy=flux, ra_rad=ra, dec_rad=dec, spectral_index=index)


def coarse_shift(vis: Visibilities, field: Field, parts: Parts, options: SolveOptions, variance: float) -> tuple[float, float]:
    """Return the field's shift east and north [rad], searched up to 48 arcsec; 0 unless significant."""
    calibrator = parts.calibrator(field)
    others = parts.model(field) - calibrator
    cross = np.flatnonzero(~vis.is_auto)
    total = np.zeros((cross.size, vis.frequencies_hz.size), np.complex128)
    for t in range(vis.times_mjd.size):
        weights = weights_of(vis, t, cross, options)
        residual = np.where(weights > 0, vis.data[t][cross] - calibrator[t][cross][..., None], 0)
        total += (weights * residual).sum(axis=2) * np.conj(others[t][cross])
    uv = vis.uvw_m[vis.times_mjd.size // 2, cross, :2].T[..., None] * (vis.frequencies_hz / speed_of_light)
    east, north, gain = group.coarse_shift(total.ravel(), *(coordinate.ravel() for coordinate in uv))
    return (east, north) if 2 * gain > 2 * SIGNIFICANT_SIGMA**2 * variance else (0.0, 0.0)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def products(rows, columns):  # type: ignore[no-untyped-def]
    """Return rows rows^T and rows columns^T, summed in single precision over runs of _RUN.

    BLAS is not used: its threads wait for one another by spinning, for seconds if other processes run.
    """
    normal, target = np.zeros((rows.shape[0], rows.shape[0])), np.zeros((rows.shape[0], columns.shape[0]))
    for first in range(0, columns.shape[1], _RUN):
        for i in range(rows.shape[0]):
            first_row = rows[i, first : first + _RUN]
            for j in range(columns.shape[0]):
                data = columns[j, first : first + _RUN]
                total = np.float32(0)
                for k in range(first_row.size):
                    total += first_row[k] * data[k]
                target[i, j] += total
            for j in range(i + 1):
                second_row = rows[j, first : first + _RUN]
                total = np.float32(0)
                for k in range(first_row.size):
                    total += first_row[k] * second_row[k]
                normal[i, j] += total
                if j < i:
                    normal[j, i] += total
    return normal, target


def weights_of(vis: Visibilities, t: int, cross: NDArray[np.intp], options: SolveOptions) -> NDArray[np.float32]:
    """Return weights of one integration's cross-correlations (baseline, channel, pol): 0 where flagged or outside the solve's
    uv range."""
    uv_s = np.hypot(vis.uvw_m[t, cross, 0], vis.uvw_m[t, cross, 1]) / speed_of_light
    uv = uv_s[:, None] * vis.frequencies_hz
    inside = (uv >= options.min_uv_wavelengths) & (uv <= options.max_uv_wavelengths)
    return np.asarray(np.where(vis.flags[t][cross] | ~inside[..., None], np.float32(0), vis.weights[t][cross]))


def _as_real(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return complex (row, ...) as real (row, n), real and imaginary parts side by side."""
    flat = np.ascontiguousarray(rows.reshape(rows.shape[0], -1), dtype=np.complex64)
    return flat.view(np.float32)
