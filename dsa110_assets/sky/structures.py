"""What calibrators look like: points, Gaussians, and the standards that are known to consist of several.

Where a public model of a standard's structure can be trusted at 1.4 GHz, `data/standard_structures.csv` has it: its
components' places about the flux's centroid, their shares of the flux and their sizes. docs/flux-standards.md says where each
comes from, how far it can be trusted, and why the other standards are points.
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
"""Of a Gaussian's Fourier transform, where the square of its FWHM times the baseline is 1."""
_ARCSEC = float(np.rad2deg(1)) * 3600
_COLUMNS = ("east_arcsec", "north_arcsec", "share", "major_arcsec", "minor_arcsec", "pa_deg")


@dataclass(frozen=True)
class Gaussian:
    """The square of a source's FWHM as a quadratic form [rad^2]: along a direction (u, v) of unit length it is
    uu u^2 + 2 uv u v + vv v^2. All 0: a point."""

    uu: float = 0.0
    uv: float = 0.0
    vv: float = 0.0

    @staticmethod
    def of_axes(major_arcsec: float, minor_arcsec: float, pa_deg: float) -> Gaussian:
        """From FWHM [arcsec] and the major axis's position angle [deg], north through east."""
        major, minor, angle = (major_arcsec / _ARCSEC) ** 2, (minor_arcsec / _ARCSEC) ** 2, np.deg2rad(pa_deg)
        sine, cosine = float(np.sin(angle)), float(np.cos(angle))
        return Gaussian(major * sine**2 + minor * cosine**2, (major - minor) * sine * cosine, major * cosine**2 + minor * sine**2)

    @property
    def is_point(self) -> bool:
        return self.uu == self.uv == self.vv == 0

    def visibility(self, u: Float, v: Float) -> Float:
        """Visibility relative to a point's at (u, v) [wavelengths]; any shape."""
        return np.asarray(np.exp(-EXPONENT * (self.uu * u * u + 2 * self.uv * u * v + self.vv * v * v)))

    def plus(self, other: Gaussian) -> Gaussian:
        """Convolved with `other`: the squares add. No axis gets narrower than a point."""
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
    """A part of a source: how far east and north of its place, its share of the flux, and its shape."""

    east_rad: float
    north_rad: float
    share: float
    shape: Gaussian


@dataclass(frozen=True)
class Structure:
    """A source of several components, whose shares add up to 1, in this form at all frequencies of the band."""

    components: tuple[Component, ...]

    def visibility(self, u: Float, v: Float) -> NDArray[np.complex128]:
        """Visibility relative to that of a point at the source's place, at (u, v) [wavelengths], u east; any shape.

        In the sense of V ~ exp[+2 pi i (u l + v m)].
        """
        total = np.zeros(np.broadcast(u, v).shape, np.complex128)
        for one in self.components:
            total += one.share * one.shape.visibility(u, v) * np.exp(2j * np.pi * (u * one.east_rad + v * one.north_rad))
        return total


@cache
def of_standards() -> dict[str, Structure]:
    """The structures that are known, by the standards' names."""
    found: dict[str, list[Component]] = {}
    with files("dsa110_assets.sky").joinpath("data/standard_structures.csv").open() as handle:
        for row in csv.DictReader(handle):
            east, north, share, *axes = (float(row[name]) for name in _COLUMNS)
            part = Component(east / _ARCSEC, north / _ARCSEC, share, Gaussian.of_axes(*axes))
            found.setdefault(row["standard"], []).append(part)
    return {name: Structure(tuple(parts)) for name, parts in found.items()}


def in_model(sky: SkyModel) -> dict[int, Structure]:
    """The sources of a sky model that are standards of known structure, by their number.

    A standard is known by its polynomial; not by the constant, which a source keeps no longer once its flux is fitted.
    """
    found = {}
    for k in np.flatnonzero(np.any(sky.log_coefficients != 0, axis=1)).tolist():
        for name, structure in of_standards().items():
            if np.array_equal(sky.log_coefficients[k, 1:], flux_scale.coefficients(name)[1:]):
                found[k] = structure
    return found
