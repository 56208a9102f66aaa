"""Samples to images and back, with w: ducc0's gridders in the telescope's sign and FITS's orientation.

Images are (ny, nx) with rows towards north and columns towards west (FITS with CDELT1 < 0); the phase centre is pixel (ny // 2,
nx // 2). V = sum S exp[+2 pi i (u l + v m + w (n - 1))] exactly: no division by n.

Where little w is left (an array on flat ground, see `slant`), exp[2 pi i w (n - 1)] is a short Taylor series about the field's
mean n - 1. Its terms are products of a function of the sample and one of the pixel, so it takes a few two-dimensional
transforms of samples that are sorted only once. Each costs a tenth of ducc0's treatment of w, which sorts the samples every
time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ducc0 import nufft, wgridder
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

_SINGLE_PRECISION_LIMIT = 1e-5
"""The best accuracy that ducc0 accepts with complex64."""
_COARSEST = 1e-2
"""A kernel smaller than the one for this accuracy saves nothing."""
_MOST_SAMPLES = 100_000
"""Enough to determine a mean square to a per cent."""
_MOST_TERMS = 8
"""Terms of the series beyond which ducc0's own treatment of w is quicker."""
_SHARE = 0.7
"""Of epsilon: the error allowed to the series and to its transforms, which add up to epsilon in quadrature."""
_ROUNDING = 1.5e-8
"""Relative error, per pixel of the side, from coordinates in single precision: 4e-8 of a radian times 0.4 of the side."""
_ONE_METRE_HZ = np.array([speed_of_light])
"""The frequency at which metres are wavelengths."""


@dataclass(frozen=True)
class Gridder:
    """The measurement operator of samples at uvw [wavelengths], (sample, 3).

    Computes in single precision unless `epsilon` (relative L2 error) is below 1e-5. `flat` neglects w.
    """

    uvw: NDArray[np.float64]
    n_pixels: int
    pixel_rad: float
    epsilon: float
    threads: int = 1
    flat: bool = False

    @property
    def _double(self) -> bool:
        return self.epsilon < _SINGLE_PRECISION_LIMIT

    def terms(self, epsilon: float = 0.0) -> int:
        """Return the number of terms of the series in w whose error is at most 0.7 of `epsilon` (the gridder's own at least), in
        the mean square over samples and pixels; 0 if that takes too many, so that ducc0's treatment is better."""
        if self.flat:
            return 1
        accurate = np.flatnonzero(self._left_out <= _SHARE * max(self.epsilon, epsilon))
        return int(accurate[0]) + 1 if accurate.size and not self._double else 0

    @cached_property
    def _left_out(self) -> NDArray[np.float64]:
        """The relative error of a series of 1, 2, ... terms: the first term omitted."""
        turns, height = (
            values[:: max(1, values.size // _MOST_SAMPLES)].astype(np.float64) for values in (self._turns, self._height.reshape(-1))
        )
        return np.array(
            [math.sqrt(np.mean(turns ** (2 * k)) * np.mean(height ** (2 * k))) / math.factorial(k) for k in range(1, _MOST_TERMS + 1)]
        )

    @cached_property
    def _mean_height(self) -> float:
        return -((self.n_pixels * self.pixel_rad) ** 2) / 12

    @cached_property
    def _height(self) -> NDArray[np.float32]:
        """n - 1 minus the field's mean, (ny, nx)."""
        offset = (np.arange(self.n_pixels) - self.n_pixels // 2) * self.pixel_rad
        squared = np.minimum(offset[:, None] ** 2 + offset**2, 1.0)
        return np.asarray(-squared / (1 + np.sqrt(1 - squared)) - self._mean_height, dtype=np.float32)

    @cached_property
    def _turns(self) -> NDArray[np.float32]:
        """2 pi w (sample,)."""
        return (2 * np.pi * self.uvw[:, 2]).astype(np.float32)

    @cached_property
    def _middle(self) -> NDArray[np.complex64]:
        """exp[2 pi i w times the mean n - 1] (sample,)."""
        phases = np.empty(self.uvw.shape[0], np.complex64)
        _rotations(self.uvw, 2 * np.pi * self._mean_height, phases)
        return phases

    @cached_property
    def _plan(self) -> Any:
        """The sorted samples of the two-dimensional transforms, in double precision where rounding would matter."""
        coordinates = np.empty((self.uvw.shape[0], 2), self._kind[1])
        np.multiply(self.uvw[:, 1], 2 * np.pi * self.pixel_rad, out=coordinates[:, 0])
        np.multiply(self.uvw[:, 0], -2 * np.pi * self.pixel_rad, out=coordinates[:, 1])
        return nufft.plan(
            nu2u=True,
            coord=coordinates,
            grid_shape=(self.n_pixels, self.n_pixels),
            epsilon=min(self.epsilon if self.flat else _SHARE * self.epsilon, _COARSEST),
            nthreads=self.threads,
        )

    @property
    def _kind(self) -> tuple[type[np.complexfloating], type[np.floating]]:
        """Precision of the two-dimensional transforms."""
        exact = self._double or _ROUNDING * self.n_pixels > self.epsilon / 2
        return (np.complex128, np.float64) if exact else (np.complex64, np.float32)

    def to_image(self, data: NDArray[Any], weights: NDArray[Any], epsilon: float = 0.0) -> NDArray[Any]:
        """Return the adjoint: the sum of weight * Re(V exp[-i phase]) per pixel; (ny, nx) float32 (float64 in double precision).

        `data` and `weights` are (sample,). Divide by the sum of the weights for Jy/beam. An `epsilon` larger than the gridder's
        own may save terms of w.
        """
        terms = self.terms(epsilon)
        if not terms:
            return self._with_w_to_image(data, weights)
        data, weights = data.astype(np.complex64, copy=False), weights.astype(np.float32, copy=False)
        if self.flat:
            return self._to_plane(data * weights)
        rotated = np.empty_like(data)
        _turn_back(data, weights, self._middle, rotated)
        image = self._to_plane(rotated)
        for order in range(1, terms):
            _multiply(rotated, self._turns, np.complex64(-1j / order))
            image += self._to_plane(rotated) * self._height**order
        return image

    def to_visibilities(self, image: NDArray[Any], epsilon: float = 0.0) -> NDArray[Any]:
        """Return the visibilities (sample,) of an image (ny, nx) [Jy/pixel]; complex64 (complex128 in double precision)."""
        terms = self.terms(epsilon)
        if not terms:
            return self._with_w_to_visibilities(image)
        image = image.astype(np.float32, copy=False)
        total = self._from_plane(image * self._height ** (terms - 1) if terms > 1 else image)
        for order in range(terms - 1, 0, -1):
            _multiply(total, self._turns, np.complex64(1j / order))
            total += self._from_plane(image * self._height ** (order - 1))
        if not self.flat:
            total *= self._middle
        return total

    def _to_plane(self, weighted: NDArray[np.complex64]) -> NDArray[np.float32]:
        points = weighted.astype(self._kind[0], copy=False)
        return np.asarray(self._plan.nu2u(points=points, forward=True).real, dtype=np.float32)

    def _from_plane(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        grid = image.astype(self._kind[0])
        return np.asarray(self._plan.u2nu(grid=grid, forward=False), dtype=np.complex64)

    # ducc0's phase is u x + v y - w (n - 1) and its first axis x. Exchanging u and v makes rows north; the
    # telescope's opposite sense flips u, v; columns towards west flip u back. Only v remains flipped.
    @property
    def _geometry(self) -> dict[str, Any]:
        return {
            "uvw": self.uvw[:, [1, 0, 2]],
            "freq": _ONE_METRE_HZ,
            "pixsize_x": self.pixel_rad,
            "pixsize_y": self.pixel_rad,
            "epsilon": min(self.epsilon, _COARSEST),
            "do_wgridding": True,
            "flip_u": True,
            "divide_by_n": False,
            "nthreads": self.threads,
        }

    def _with_w_to_image(self, data: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
        data = data.astype(np.complex128 if self._double else np.complex64, copy=False)[:, None]
        weights = weights.astype(np.float64 if self._double else np.float32, copy=False)[:, None]
        size = {"npix_x": self.n_pixels, "npix_y": self.n_pixels}
        return np.asarray(wgridder.vis2dirty(vis=data, wgt=weights, **size, **self._geometry))

    def _with_w_to_visibilities(self, image: NDArray[Any]) -> NDArray[Any]:
        image = image.astype(np.float64 if self._double else np.float32, copy=False)
        return np.asarray(wgridder.dirty2vis(dirty=image, **self._geometry))[:, 0]


@njit(cache=True, parallel=True)
def _rotations(uvw, by, out):  # type: ignore[no-untyped-def]
    """exp[i w by]"""
    for k in prange(out.size):
        out[k] = complex(np.cos(uvw[k, 2] * by), np.sin(uvw[k, 2] * by))


@njit(cache=True, parallel=True)
def _turn_back(values, weights, phases, out):  # type: ignore[no-untyped-def]
    for k in prange(values.size):
        out[k] = values[k] * weights[k] * np.conj(phases[k])


@njit(cache=True, parallel=True)
def _multiply(values, by, factor):  # type: ignore[no-untyped-def]
    for k in prange(values.size):
        values[k] *= by[k] * factor
