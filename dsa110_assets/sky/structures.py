"""The structure of calibrators: points, Gaussians, and standards with several known components.

`data/standard_structures.csv` holds the structure of each standard whose public model can be trusted at 1.4 GHz: the
positions of its components relative to the flux centroid, their shares of the flux and their sizes. docs/flux-standards.md
gives the origin of each, how far it can be trusted, and why the other standards are points.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.sky import flux_scale

if TYPE_CHECKING:
    from dsa110_assets.sky.model import SkyModel

Float = NDArray[np.float64]

EXPONENT = float(np.pi**2 / (4 * np.log(2)))
"""The negative exponent of a Gaussian's Fourier transform where the square of FWHM times baseline is 1."""
_ARCSEC = float(np.rad2deg(1)) * 3600
_COLUMNS = ("east_arcsec", "north_arcsec", "share", "major_arcsec", "minor_arcsec", "pa_deg")


@dataclass(frozen=True)
class Gaussian:
    """The square of a source's FWHM as a quadratic form [rad^2]: along a direction (u, v) of unit length it is
    uu u^2 + 2 uv u v + vv v^2. A point has all 0."""

    uu: float = 0.0
    uv: float = 0.0
    vv: float = 0.0

    @staticmethod
    def of_axes(major_arcsec: float, minor_arcsec: float, pa_deg: float) -> Gaussian:
        """Return the Gaussian with these FWHM [arcsec] and this position angle [deg] of the major axis, north through east."""
        major, minor, angle = (major_arcsec / _ARCSEC) ** 2, (minor_arcsec / _ARCSEC) ** 2, np.deg2rad(pa_deg)
        sine, cosine = float(np.sin(angle)), float(np.cos(angle))
        return Gaussian(major * sine**2 + minor * cosine**2, (major - minor) * sine * cosine, major * cosine**2 + minor * sine**2)

    @property
    def is_point(self) -> bool:
        return self.uu == self.uv == self.vv == 0

    def visibility(self, u: Float, v: Float) -> Float:
        """Return the visibility at (u, v) [wavelengths] relative to that of a point; any shape."""
        return np.asarray(np.exp(-EXPONENT * (self.uu * u * u + 2 * self.uv * u * v + self.vv * v * v)))

    def plus(self, other: Gaussian) -> Gaussian:
        """Return this Gaussian convolved with `other`: the squares add. No axis gets narrower than a point."""
        squares = np.array([[self.uu + other.uu, self.uv + other.uv], [self.uv + other.uv, self.vv + other.vv]])
        values, axes = np.linalg.eigh(squares)
        (uu, uv), (_, vv) = axes @ np.diag(np.maximum(values, 0.0)) @ axes.T
        return Gaussian(float(uu), float(uv), float(vv))

    @property
    def axes_arcsec(self) -> tuple[float, float, float]:
        """FWHM [arcsec] along the major and the minor axis, and the major one's position angle [deg], north through east."""
        values, axes = np.linalg.eigh(np.array([[self.uu, self.uv], [self.uv, self.vv]]))
        minor, major = np.sqrt(np.maximum(values, 0.0)) * _ARCSEC
        return float(major), float(minor), float(np.rad2deg(np.arctan2(axes[0, 1], axes[1, 1])) % 180)


POINT = Gaussian()


@dataclass(frozen=True)
class Component:
    """A component of a source: its offsets east and north of the source's position, its share of the flux, and its shape."""

    east_rad: float
    north_rad: float
    share: float
    shape: Gaussian


@dataclass(frozen=True)
class Structure:
    """A source of several components whose shares add up to 1, with the same structure at all frequencies of the band."""

    components: tuple[Component, ...]

    def visibility(self, u: Float, v: Float) -> NDArray[np.complex128]:
        """Return the visibility at (u, v) [wavelengths], u east, relative to that of a point at the source's position; any shape.

        The sign convention is V ~ exp[+2 pi i (u l + v m)].
        """
        total = np.zeros(np.broadcast(u, v).shape, np.complex128)
        for component in self.components:
            total += (
                component.share * component.shape.visibility(u, v) * np.exp(2j * np.pi * (u * component.east_rad + v * component.north_rad))
            )
        return total


@cache
def of_standards() -> dict[str, Structure]:
    """Return the known structures by the standards' names."""
    components: dict[str, list[Component]] = {}
    with files("dsa110_assets.sky").joinpath("data/standard_structures.csv").open() as handle:
        for row in csv.DictReader(handle):
            east, north, share, *axes = (float(row[name]) for name in _COLUMNS)
            component = Component(east / _ARCSEC, north / _ARCSEC, share, Gaussian.of_axes(*axes))
            components.setdefault(row["standard"], []).append(component)
    return {name: Structure(tuple(parts)) for name, parts in components.items()}


def in_model(sky: SkyModel) -> dict[int, Structure]:
    """Return the structures of those sources of a sky model that are standards of known structure, by the source's index.

    A standard is identified by its polynomial without the constant term, which changes when a source's flux is fitted.
    """
    structures = {}
    for k in np.flatnonzero(np.any(sky.log_coefficients != 0, axis=1)).tolist():
        for name, structure in of_standards().items():
            if np.array_equal(sky.log_coefficients[k, 1:], flux_scale.coefficients(name)[1:]):
                structures[k] = structure
    return structures
