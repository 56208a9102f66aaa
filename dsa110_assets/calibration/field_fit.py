"""Linear least squares of a field's fluxes and positions to calibrated visibilities of a calibrator's transit."""

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
from dsa110_assets.visibilities.types import Visibilities

Float = NDArray[np.float64]

SIGNIFICANT_SIGMA = 5.0
LEAST_CHANGE = 1e-3
"""Changes below this part of the calibrator's signal cannot move gains by a thousandth: they are left."""
DOMINANT = 0.5
_STEP_RAD = float(np.deg2rad(2 / 3600))
"""Step of the derivatives by position, small against any beam."""
_FARTHEST_STEPS = 15.0
_RUN = 1024
_FIXED = 2
"""Columns before the fitted sources': the calibrator, and all that is too faint to be fitted."""


@dataclass(frozen=True)
class Equations:
    """Sums over calibrated visibilities V and the columns A of a field's model, A_0 the calibrator.

    normal Re A^H W A; target Re A^H W V; energy sum w |V|^2; count of samples; `owner` (column - 2,): the source k whose
    flux a column is, ~k for its shifts in right ascension and declination. `turned` (column, 2): Re A^H W r / (2 pi i u)
    and by v, r being what the model leaves of V; `moments` (2, 2): sums of w (2 pi u)^2, of u v, and of v^2; `weight` sum w.
    """

    normal: Float
    target: Float
    energy: float
    count: int
    owner: NDArray[np.int64]
    turned: Float
    moments: Float
    weight: float
    baselines: BaselineSums

    @property
    def whole(self) -> Float:
        """The model as it is: every source once, nothing moved."""
        return np.concatenate([np.ones(_FIXED), (self.owner >= 0) * 1.0])

    @property
    def size(self) -> Float:
        return np.sqrt(np.diag(self.normal))

    @property
    def sources(self) -> NDArray[np.int64]:
        """Whose each column after the first two is."""
        return np.where(self.owner < 0, ~self.owner, self.owner)

    def solve(self, free: NDArray[np.intp]) -> tuple[Float, Float, float]:
        """Solution and errors with the columns `free` fitted, the others as they are; variance of a sample's real part."""
        x, sigma, fixed = self.whole, np.zeros(self.owner.size + _FIXED), self.whole
        fixed[free] = 0
        inverse = np.linalg.pinv(self.normal[np.ix_(free, free)], hermitian=True)
        x[free] = inverse @ (self.target - self.normal @ fixed)[free]
        chi2 = max(self.energy - 2 * float(x @ self.target) + float(x @ self.normal @ x), 0.0)
        # |V|^2 counts both parts of a complex sample, a real parameter feels one
        variance = chi2 / max(self.count - free.size, 1) / 2
        sigma[free] = np.sqrt(variance * np.maximum(np.diag(inverse), 0))
        return x, sigma, variance


def equations(vis: Visibilities, field: Field, parts: Parts, options: SolveOptions) -> Equations:
    """The sums of calibrated `vis` and `field`, whose parts are `parts`."""
    columns, owner = [parts.calibrator(field), parts.rest], list[int]()
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
    whole = [number for number, k in enumerate([0, 0, *owner]) if k >= 0][1:]
    cross = np.flatnonzero(~vis.is_auto)

    def of_integration(t: int) -> tuple[Any, ...]:
        weights = weights_of(vis, t, cross, options)
        data = np.where(weights > 0, vis.data[t][cross], 0)
        total = weights.sum(axis=2)
        root = np.sqrt(total)
        mean = np.divide((weights * data).sum(axis=2), root, out=np.zeros(root.shape, np.complex64), where=root > 0)
        rows = np.stack([column[t][cross] for column in columns]) * root
        others = sum((rows[k] for k in whole[1:]), rows[whole[0]])
        uv = -2j * np.pi * (vis.uvw_m[t, cross, :2].T[..., None] * (vis.frequencies_hz / speed_of_light))
        turned = uv.astype(np.complex64) * (mean - rows[0] - others)
        normal, targets = products(_as_real(rows), _as_real(np.concatenate([mean[None], turned])))
        energy = float(np.sum(weights * (data.real**2 + data.imag**2), dtype=np.float64))
        uv_2 = np.einsum("abc,dbc,bc->ad", uv.imag, uv.imag, total)
        lone = mean - others
        less = np.divide(others, root, out=np.zeros_like(others), where=root > 0)[..., None]
        alone = np.sum(weights * np.abs(np.where(weights > 0, data - less, 0)) ** 2, axis=(1, 2), dtype=np.float64)
        return (
            normal, targets, energy, int(np.count_nonzero(weights)), uv_2, float(total.sum(dtype=np.float64)),
            np.sum(lone * np.conj(rows[0]), axis=1, dtype=np.complex128), np.sum(np.abs(rows[0]) ** 2, axis=1, dtype=np.float64),
            alone, np.count_nonzero(weights, axis=(1, 2)),
        )  # fmt: skip

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # map keeps their order, and so the sums their bits
        sums = _summed(pool.map(of_integration, range(vis.times_mjd.size)))
    normal, targets, energy, count, uv_2, weight, top, bottom, alone, samples = sums
    middle = vis.uvw_m[vis.times_mjd.size // 2, cross, :2] * (vis.frequencies_hz.mean() / speed_of_light)
    baselines = BaselineSums(top, bottom, alone, samples, vis.ant1[cross], vis.ant2[cross], middle[:, 0], middle[:, 1])
    return Equations(normal, targets[:, 0], energy, count, np.array(owner, dtype=np.int64), targets[:, 1:], uv_2, weight, baselines)


def _summed(parts: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Sums of each member, one part after the other."""
    first, *others = parts
    total = list(first)
    for part in others:
        total = [one + more for one, more in zip(total, part, strict=True)]
    return total


def group_of(equations: Equations, field: Field) -> Group:
    """The field's sources that are as in the catalogue, as one, against the calibrator: all fluxes fitted, its own too.

    A source's shift is what turns the phases of what is left: Re M^H W r / (2 pi i (u, v)) = sum w |M|^2 (2 pi)^2 (u, v)^T (u, v) shift,
    with others' shifts taken to cancel.
    """
    flux = np.concatenate([[False, False], equations.owner >= 0])
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
    """The field's fluxes fitted to calibrated data, the calibrator's kept; and whether any changed.

    min sum w |V - M_0 - sum_k x_k M_k|^2 over x, M_0 being the calibrator and what is too faint to be fitted, with
    the positions of new sources linearised. A catalogue's flux is replaced only where the fit differs by 5 sigma from what
    the field's sources have in `common`, by enough to matter, and by half of what the most changed source does: one wrong
    flux bends the gains, which feigns small changes all over the field; they are gone when it is right. Without
    `doubt_catalogue` only fluxes that are not the catalogue's any more are fitted.
    """
    whole, size = equations.whole, equations.size
    free = np.flatnonzero(size[_FIXED:] > 0) + _FIXED
    doubted = np.isin(np.arange(size.size), departures(equations, common)[0]) & doubt_catalogue
    wanted = np.isfinite(field.sigma_jy)[equations.sources] | field.moves[equations.sources]
    chosen = np.intersect1d(np.flatnonzero(doubted | np.concatenate([[False] * _FIXED, wanted])), free)
    if not chosen.size:
        return field, False
    x, sigma, _ = equations.solve(chosen)
    changed = bool(np.any((np.abs(x - whole) * size)[chosen] > LEAST_CHANGE * size[0]))
    return _updated(field, equations.owner, x, sigma, chosen), changed


def departures(equations: Equations, common: Group) -> tuple[NDArray[np.intp], float]:
    """Columns that differ from what the sources have in `common` significantly and by enough to matter, and by how much the
    most differing one does, as part of the calibrator's signal."""
    whole, size = equations.whole, equations.size
    free = np.flatnonzero(size[_FIXED:] > 0) + _FIXED
    if not free.size:
        return free, 0.0
    x, sigma, _ = equations.solve(free)
    away = np.abs(x - np.where(whole > 0, common.ratio if common.known else 1.0, 0.0))
    moved = away * size
    most = float(moved[free].max())
    heavy = moved > max(LEAST_CHANGE * size[0], DOMINANT * most)
    found = free[(heavy & (away > SIGNIFICANT_SIGMA * sigma))[free]]
    return found, float(moved[found].max(initial=0.0) / size[0])


def _updated(field: Field, owner: NDArray[np.int64], x: Float, sigma: Float, chosen: NDArray[np.intp]) -> Field:
    """The field with the solved columns put in: fluxes first, then shifts of position."""
    sky, errors = field.sky, field.sigma_jy.copy()
    flux, ra, dec = sky.flux_jy.copy(), sky.ra_rad.copy(), sky.dec_rad.copy()
    for column in chosen:
        source = int(owner[column - _FIXED])
        if source >= 0:
            errors[source] = sigma[column] * flux[source]
            flux[source] *= max(float(x[column]), 0.0)
    for column in chosen:
        source = int(owner[column - _FIXED])
        if source < 0:
            source = ~source
            factor = flux[source] / sky.flux_jy[source]
            steps = float(np.clip(x[column] / factor if factor > 0 else 0.0, -_FARTHEST_STEPS, _FARTHEST_STEPS))
            if owner[column - _FIXED - 1] == source:  # the first of a source's two shifts is in right ascension
                ra[source] += steps * _STEP_RAD / np.cos(dec[source])
            else:
                dec[source] += steps * _STEP_RAD
    return replace(field, sky=replace(sky, flux_jy=flux, ra_rad=ra, dec_rad=dec), sigma_jy=errors)


def coarse_shift(vis: Visibilities, field: Field, parts: Parts, options: SolveOptions, variance: float) -> tuple[float, float]:
    """The field's shift east and north [rad] as far as 48 arcsec, 0 where none is significant."""
    calibrator = parts.calibrator(field)
    others = parts.model(field) - calibrator
    cross = np.flatnonzero(~vis.is_auto)
    total = np.zeros((cross.size, vis.frequencies_hz.size), np.complex128)
    for t in range(vis.times_mjd.size):
        weights = weights_of(vis, t, cross, options)
        left = np.where(weights > 0, vis.data[t][cross] - calibrator[t][cross][..., None], 0)
        total += (weights * left).sum(axis=2) * np.conj(others[t][cross])
    uv = vis.uvw_m[vis.times_mjd.size // 2, cross, :2].T[..., None] * (vis.frequencies_hz / speed_of_light)
    east, north, gain = group.coarse_shift(total.ravel(), *(one.ravel() for one in uv))
    return (east, north) if 2 * gain > 2 * SIGNIFICANT_SIGMA**2 * variance else (0.0, 0.0)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def products(rows, columns):  # type: ignore[no-untyped-def]
    """rows rows^T and rows columns^T, summed in single precision over runs of _RUN.

    Not by BLAS: its threads wait for one another by spinning, beside other processes for seconds.
    """
    normal, target = np.zeros((rows.shape[0], rows.shape[0])), np.zeros((rows.shape[0], columns.shape[0]))
    for first in range(0, columns.shape[1], _RUN):
        for i in range(rows.shape[0]):
            one = rows[i, first : first + _RUN]
            for j in range(columns.shape[0]):
                data = columns[j, first : first + _RUN]
                total = np.float32(0)
                for k in range(one.size):
                    total += one[k] * data[k]
                target[i, j] += total
            for j in range(i + 1):
                other = rows[j, first : first + _RUN]
                total = np.float32(0)
                for k in range(one.size):
                    total += one[k] * other[k]
                normal[i, j] += total
                if j < i:
                    normal[j, i] += total
    return normal, target


def weights_of(vis: Visibilities, t: int, cross: NDArray[np.intp], options: SolveOptions) -> NDArray[np.float32]:
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
