"""A calibrator's field as it is modelled: which sources there are, what is fitted, and what each adds to visibilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.sky import structures
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.sky.structures import POINT, Gaussian
from dsa110_assets.visibilities.predict import Prediction, predict, predict_each
from dsa110_assets.visibilities.types import Visibilities

Float = NDArray[np.float64]

MOST_FITTED = 30
"""Sources whose fluxes are fitted, brightest first; a fainter one that flares is found by the search."""


@dataclass(frozen=True)
class Field:
    """`sky` has the calibrator first. `moves` (n,): its position is fitted as well, for no catalogue has it.

    `before_jy` (n,): the catalogue's flux, 0 for a source it lacks; `sigma_jy` (n,): the fitted flux's error, NaN
    where the flux is the catalogue's. `fitted` (n,): its flux is looked at; never the calibrator's. `size` is the
    calibrator's, beyond the structure that it has if it is a standard of known structure, `moved_rad` how far east and north
    of its listed place it is taken to be; `rescaled`: its flux is the field's.
    """

    sky: SkyModel
    fitted: NDArray[np.bool_]
    moves: NDArray[np.bool_]
    before_jy: Float
    sigma_jy: Float
    size: Gaussian = POINT
    moved_rad: tuple[float, float] = (0.0, 0.0)
    rescaled: bool = False

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

    @property
    def is_standard(self) -> bool:
        """Whether the calibrator's flux is a standard's polynomial."""
        return bool(np.any(self.sky.log_coefficients[0] != 0))

    @property
    def components(self) -> int:
        """What the calibrator is made up of: of a standard's known structure, else 1."""
        known = structures.in_model(self.sky.select([0]))
        return len(known[0].components) if known else 1

    @property
    def factor(self) -> float:
        """The calibrator's flux over its listed one."""
        return float(self.sky.flux_jy[0] / self.before_jy[0])

    def select(self, keep: NDArray[np.bool_]) -> Field:
        """The field with only the sources that are kept, (n,)."""
        parts = {name: getattr(self, name)[keep] for name in ("fitted", "moves", "before_jy", "sigma_jy")}
        return replace(self, sky=self.sky.select(keep), **parts)

    def scaled(self, factor: float) -> Field:
        """The field with another flux of the calibrator's."""
        flux = self.sky.flux_jy.copy()
        flux[0] *= factor
        return replace(self, sky=replace(self.sky, flux_jy=flux), rescaled=True)

    def displaced(self, east_rad: float, north_rad: float) -> Field:
        """The field with the calibrator moved."""
        ra, dec = self.sky.ra_rad.copy(), self.sky.dec_rad.copy()
        ra[0] += east_rad / np.cos(dec[0])
        dec[0] += north_rad
        moved = (self.moved_rad[0] + east_rad, self.moved_rad[1] + north_rad)
        return replace(self, sky=replace(self.sky, ra_rad=ra, dec_rad=dec), moved_rad=moved)


def of_catalogue(sky: SkyModel) -> Field:
    """The field as the catalogue has it; `sky` has the calibrator first, then the others, brightest first."""
    number = np.arange(len(sky))
    # another standard's flux is known as well as the calibrator's, and its spectrum is no power law
    fitted = (number > 0) & (number <= MOST_FITTED) & ~np.any(sky.log_coefficients != 0, axis=1)
    return Field(sky, fitted, np.zeros(len(sky), bool), sky.flux_jy.copy(), np.full(len(sky), np.nan))


class Parts:
    """What each source adds to the visibilities; every one is predicted once, as `rest` is: what is never fitted."""

    def __init__(self, vis: Visibilities, field: Field) -> None:
        lasting = ~field.fitted
        lasting[0] = False
        self.vis, self.rest = vis, predict(vis, field.sky.select(lasting))
        self._per_jy: dict[tuple[float, float, float], NDArray[np.complex64]] = {}
        self._calibrator: tuple[Any, NDArray[np.complex64]] = ((), self.rest)

    def calibrator(self, field: Field) -> NDArray[np.complex64]:
        """The calibrator alone (time, baseline, channel) [Jy]."""
        sky = field.sky.select([0])
        key = (sky.ra_rad[0], sky.dec_rad[0], sky.flux_jy[0], field.size)
        if self._calibrator[0] != key:
            self._calibrator = (key, predict(self.vis, sky) * resolution(self.vis.uvw_m, self.vis.frequencies_hz, field.size))
        return self._calibrator[1]

    def model(self, field: Field) -> NDArray[np.complex64]:
        """The whole field's visibilities (time, baseline, channel) [Jy]."""
        total = self.rest + self.calibrator(field)
        fitted = field.sky.select(field.fitted)
        for flux, part in zip(fitted.flux_jy, self.per_jy(fitted), strict=True):
            total += np.float32(flux) * part
        here = set(_places(fitted))  # what has moved since is not asked for again, and would fill the memory
        self._per_jy = {place: part for place, part in self._per_jy.items() if place in here}
        return total

    def per_jy(self, sky: SkyModel) -> list[NDArray[np.complex64]]:
        """The sources' visibilities for 1 Jy each, at their positions and with their spectral indices; kept for the next time."""
        places = _places(sky)
        lacking = np.flatnonzero([place not in self._per_jy for place in places])
        self._per_jy |= {places[k]: part for k, part in zip(lacking, self.once(sky.select(lacking)), strict=True)}
        return [self._per_jy[place] for place in places]

    def once(self, sky: SkyModel) -> list[NDArray[np.complex64]]:
        """The same, and not kept."""
        if not len(sky):
            return []
        each = np.empty((self.vis.times_mjd.size, len(sky), *self.vis.data.shape[1:3]), np.complex64)
        for t, seen in enumerate(predict_each(self.vis, replace(sky, flux_jy=np.ones(len(sky))))):
            each[t] = seen
        return [each[:, k].copy() for k in range(len(sky))]


def _places(sky: SkyModel) -> list[tuple[float, float, float]]:
    return list(zip(sky.ra_rad.tolist(), sky.dec_rad.tolist(), sky.spectral_index.tolist(), strict=True))


def resolution(uvw_m: Float, frequencies_hz: Float, size: Gaussian) -> NDArray[np.float32]:
    """Visibilities relative to a point's (time, baseline, channel), or (1, 1, 1) for a point."""
    if size.is_point:
        return np.ones((1, 1, 1), np.float32)
    uv = uvw_m[..., None, :2] * (frequencies_hz[:, None] / speed_of_light)
    return size.visibility(uv[..., 0], uv[..., 1]).astype(np.float32)


def prediction(vis: Visibilities, field: Field) -> Prediction:
    """The field's visibilities at full resolution, made when asked for."""
    return Prediction(vis, field.sky) if field.size.is_point else Resolved(vis, field)


class Resolved(Prediction):
    """A field whose first source is a Gaussian."""

    def __init__(self, vis: Visibilities, field: Field) -> None:
        super().__init__(vis, field.sky.select([0]))
        self._others, self._size, self._vis = Prediction(vis, field.sky.select(np.arange(1, len(field.sky)))), field.size, vis

    def during(self, first: int, end: int) -> Callable[[NDArray[np.intp]], NDArray[np.complex64]]:
        """As of Prediction."""
        lone, others = super().during(first, end), self._others.during(first, end)
        vis = self._vis

        def model(baselines: NDArray[np.intp]) -> NDArray[np.complex64]:
            total = lone(baselines)
            total *= resolution(vis.uvw_m[first:end, baselines], vis.frequencies_hz, self._size)
            total += others(baselines)
            return total

        return model


def predicted(vis: Visibilities, field: Field) -> NDArray[np.complex64]:
    """The field's visibilities (time, baseline, channel) [Jy] as one array."""
    if field.size.is_point:
        return predict(vis, field.sky)
    alone = predict(vis, field.sky.select([0])) * resolution(vis.uvw_m, vis.frequencies_hz, field.size)
    return np.asarray(alone + predict(vis, field.sky.select(np.arange(1, len(field.sky)))), np.complex64)
