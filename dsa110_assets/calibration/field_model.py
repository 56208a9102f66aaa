"""The model of a calibrator's field: its sources, which of their parameters are fitted, and their predicted visibilities."""

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
"""Number of sources whose fluxes are fitted, brightest first; a fainter one that flares is found by the search."""


@dataclass(frozen=True)
class Field:
    """A calibrator's field. `sky` has the calibrator first. `moves` (n,): the position is fitted as well, because no catalogue has it.

    `before_jy` (n,): the catalogue's flux, 0 for a source it lacks; `sigma_jy` (n,): the fitted flux's error, NaN
    where the flux is the catalogue's. `fitted` (n,): the flux is fitted; never the calibrator's. `size`: the size of the
    calibrator, in addition to its structure if it is a standard of known structure. `moved_rad`: its modelled position minus the
    listed one, east and north. `rescaled`: its flux was set to fit the field.
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
        """Sources that differ from the catalogue: name, catalogue flux, fitted flux with its error [Jy], position [deg]."""
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
        """Number of components of the calibrator: those of a standard's known structure, else 1."""
        known_structures = structures.in_model(self.sky.select([0]))
        return len(known_structures[0].components) if known_structures else 1

    @property
    def factor(self) -> float:
        """The calibrator's flux over its listed one."""
        return float(self.sky.flux_jy[0] / self.before_jy[0])

    def select(self, keep: NDArray[np.bool_]) -> Field:
        """Return the field with only the sources selected by `keep`, (n,)."""
        parts = {name: getattr(self, name)[keep] for name in ("fitted", "moves", "before_jy", "sigma_jy")}
        return replace(self, sky=self.sky.select(keep), **parts)

    def scaled(self, factor: float) -> Field:
        """Return the field with the calibrator's flux multiplied by `factor`."""
        flux = self.sky.flux_jy.copy()
        flux[0] *= factor
        return replace(self, sky=replace(self.sky, flux_jy=flux), rescaled=True)

    def displaced(self, east_rad: float, north_rad: float) -> Field:
        """Return the field with the calibrator moved east and north."""
        ra, dec = self.sky.ra_rad.copy(), self.sky.dec_rad.copy()
        ra[0] += east_rad / np.cos(dec[0])
        dec[0] += north_rad
        moved = (self.moved_rad[0] + east_rad, self.moved_rad[1] + north_rad)
        return replace(self, sky=replace(self.sky, ra_rad=ra, dec_rad=dec), moved_rad=moved)


def of_catalogue(sky: SkyModel) -> Field:
    """Return the field as in the catalogue; `sky` has the calibrator first, then the others, brightest first."""
    number = np.arange(len(sky))
    # other standards are not fitted: their flux is known as well as the calibrator's, and their spectrum is no power law
    fitted = (number > 0) & (number <= MOST_FITTED) & ~np.any(sky.log_coefficients != 0, axis=1)
    return Field(sky, fitted, np.zeros(len(sky), bool), sky.flux_jy.copy(), np.full(len(sky), np.nan))


class Parts:
    """Predicted visibilities of each source, computed once and kept. `rest`: those of all sources that are never fitted."""

    def __init__(self, vis: Visibilities, field: Field) -> None:
        never_fitted = ~field.fitted
        never_fitted[0] = False
        self.vis, self.rest = vis, predict(vis, field.sky.select(never_fitted))
        self._per_jy: dict[tuple[float, float, float], NDArray[np.complex64]] = {}
        self._calibrator: tuple[Any, NDArray[np.complex64]] = ((), self.rest)

    def calibrator(self, field: Field) -> NDArray[np.complex64]:
        """Return the visibilities of the calibrator alone (time, baseline, channel) [Jy]."""
        sky = field.sky.select([0])
        key = (sky.ra_rad[0], sky.dec_rad[0], sky.flux_jy[0], field.size)
        if self._calibrator[0] != key:
            self._calibrator = (key, predict(self.vis, sky) * resolution(self.vis.uvw_m, self.vis.frequencies_hz, field.size))
        return self._calibrator[1]

    def model(self, field: Field) -> NDArray[np.complex64]:
        """Return the whole field's visibilities (time, baseline, channel) [Jy]."""
        total = self.rest + self.calibrator(field)
        fitted = field.sky.select(field.fitted)
        for flux, part in zip(fitted.flux_jy, self.per_jy(fitted), strict=True):
            total += np.float32(flux) * part
        current_places = set(_places(fitted))  # sources at former positions are not needed again, and would fill the memory
        self._per_jy = {place: part for place, part in self._per_jy.items() if place in current_places}
        return total

    def per_jy(self, sky: SkyModel) -> list[NDArray[np.complex64]]:
        """Return the sources' visibilities for 1 Jy each, at their positions and with their spectral indices; they are cached."""
        places = _places(sky)
        missing = np.flatnonzero([place not in self._per_jy for place in places])
        self._per_jy |= {places[k]: part for k, part in zip(missing, self.once(sky.select(missing)), strict=True)}
        return [self._per_jy[place] for place in places]

    def once(self, sky: SkyModel) -> list[NDArray[np.complex64]]:
        """Return the same as `per_jy` without caching."""
        if not len(sky):
            return []
        of_sources = np.empty((self.vis.times_mjd.size, len(sky), *self.vis.data.shape[1:3]), np.complex64)
        for t, of_integration in enumerate(predict_each(self.vis, replace(sky, flux_jy=np.ones(len(sky))))):
            of_sources[t] = of_integration
        return [of_sources[:, k].copy() for k in range(len(sky))]


def _places(sky: SkyModel) -> list[tuple[float, float, float]]:
    return list(zip(sky.ra_rad.tolist(), sky.dec_rad.tolist(), sky.spectral_index.tolist(), strict=True))


def resolution(uvw_m: Float, frequencies_hz: Float, size: Gaussian) -> NDArray[np.float32]:
    """Return visibilities relative to a point source's (time, baseline, channel), or ones (1, 1, 1) for a point."""
    if size.is_point:
        return np.ones((1, 1, 1), np.float32)
    uv = uvw_m[..., None, :2] * (frequencies_hz[:, None] / speed_of_light)
    return size.visibility(uv[..., 0], uv[..., 1]).astype(np.float32)


def prediction(vis: Visibilities, field: Field) -> Prediction:
    """Return the field's visibilities at full resolution, which are computed on demand."""
    return Prediction(vis, field.sky) if field.size.is_point else Resolved(vis, field)


class Resolved(Prediction):
    """A field whose first source is a Gaussian."""

    def __init__(self, vis: Visibilities, field: Field) -> None:
        super().__init__(vis, field.sky.select([0]))
        self._others, self._size, self._vis = Prediction(vis, field.sky.select(np.arange(1, len(field.sky)))), field.size, vis

    def during(self, first: int, end: int) -> Callable[[NDArray[np.intp]], NDArray[np.complex64]]:
        """As of Prediction."""
        calibrator, others = super().during(first, end), self._others.during(first, end)
        vis = self._vis

        def model(baselines: NDArray[np.intp]) -> NDArray[np.complex64]:
            total = calibrator(baselines)
            total *= resolution(vis.uvw_m[first:end, baselines], vis.frequencies_hz, self._size)
            total += others(baselines)
            return total

        return model


def predicted(vis: Visibilities, field: Field) -> NDArray[np.complex64]:
    """Return the field's visibilities (time, baseline, channel) [Jy] as one array."""
    if field.size.is_point:
        return predict(vis, field.sky)
    calibrator = predict(vis, field.sky.select([0])) * resolution(vis.uvw_m, vis.frequencies_hz, field.size)
    return np.asarray(calibrator + predict(vis, field.sky.select(np.arange(1, len(field.sky)))), np.complex64)
