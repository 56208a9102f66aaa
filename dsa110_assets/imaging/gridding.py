"""Samples to images and back, with w: ducc0's gridder in the telescope's sign and FITS's orientation.

Images are (ny, nx) with rows towards north and columns towards west (FITS with CDELT1 < 0); the phase
centre is pixel (ny // 2, nx // 2). V = sum S exp[+2 pi i (u l + v m + w (n - 1))] exactly: no division by n.

Where little w is left (an array on flat ground, see `slant`) exp[2 pi i w (n - 1)] is a short Taylor series about
the field's mean n - 1, whose terms are products of a function of the sample and one of the pixel: a few
two-dimensional transforms of a fifth of the cost of ducc0's three-dimensional one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ducc0 import wgridder
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

_SINGLE_PRECISION_LIMIT = 1e-5
"""ducc0 refuses to promise more than this with complex64."""
_COARSEST = 1e-2
"""A smaller kernel than for this saves nothing."""
_MOST_SAMPLES = 100_000
"""Enough to know a mean square to a per cent."""
_MOST_W_TERMS = 4
"""Terms of the series beyond which ducc0's own treatment of w is quicker."""
_ONE_METRE_HZ = np.array([speed_of_light])
"""The frequency at which metres are wavelengths."""


@dataclass(frozen=True)
class Gridder:
    """The measurement operator of samples at uvw [wavelengths], (sample, 3).

    Computes in single precision unless `epsilon` (relative L2 error) is below 1e-5. `flat` leaves w out.
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

    @cached_property
    def w_terms(self) -> tuple[int, ...]:
        """How many samples, from the first, each order of the series in w takes; empty: ducc0's way.

        What is left out keeps 0.7 of `epsilon` in the mean square over samples and pixels. Samples sorted by falling
        |w| need the fewest.
        """
        if self.flat:
            return (self.uvw.shape[0],)
        if self._double:
            return ()
        turns = 2 * np.pi * np.abs(self.uvw[:, 2])
        some, height = turns[:: max(1, turns.size // _MOST_SAMPLES)], self._height.reshape(-1).astype(np.float64)
        height = height[:: max(1, height.size // _MOST_SAMPLES)]
        some = np.sort(some)
        counts: list[int] = []
        for order in range(_MOST_W_TERMS + 1):
            error = np.sqrt(np.cumsum(some ** (2 * order)) / some.size * np.mean(height ** (2 * order))) / math.factorial(order)
            needless = int(np.searchsorted(error, 0.7 * self.epsilon / math.sqrt(_MOST_W_TERMS)))
            if order and needless == some.size:
                return tuple(counts)
            counts.append(1 + int(np.flatnonzero(turns >= some[needless]).max()) if order else turns.size)
        return ()

    @cached_property
    def _mean_height(self) -> float:
        return -((self.n_pixels * self.pixel_rad) ** 2) / 12

    @cached_property
    def _height(self) -> NDArray[np.float32]:
        """(ny, nx): n - 1 beyond the field's mean."""
        offset = (np.arange(self.n_pixels) - self.n_pixels // 2) * self.pixel_rad
        squared = np.minimum(offset[:, None] ** 2 + offset**2, 1.0)
        return np.asarray(-squared / (1 + np.sqrt(1 - squared)) - self._mean_height, dtype=np.float32)

    @cached_property
    def _factors(self) -> list[NDArray[np.complex64]]:
        """For each order of the series what its samples are multiplied by; the zeroth holds the mean n - 1."""
        turns = 2 * np.pi * self.uvw[:, 2]
        factors = [np.exp(1j * self._mean_height * turns).astype(np.complex64)]
        for order, count in enumerate(self.w_terms[1:], start=1):
            factors.append((factors[-1][:count] * (1j * turns[:count] / order)).astype(np.complex64))
        return factors

    @cached_property
    def _uvw(self) -> NDArray[np.float64]:
        # ducc0's phase is u x + v y - w (n - 1) and its first axis x. Exchanging u and v makes rows north; the
        # telescope's opposite sense flips u, v; columns towards west flip u back. What remains flipped is v.
        return self.uvw[:, [1, 0, 2]]

    @property
    def _geometry(self) -> dict[str, Any]:
        # 0.7 of epsilon to the series and to its transforms: added in squares that is epsilon
        share = 0.7 if len(self.w_terms) > 1 else 1.0
        return {
            "freq": _ONE_METRE_HZ,
            "pixsize_x": self.pixel_rad,
            "pixsize_y": self.pixel_rad,
            "epsilon": min(share * self.epsilon, _COARSEST),
            "do_wgridding": not self.w_terms,
            "flip_u": True,
            "divide_by_n": False,
            "nthreads": self.threads,
        }

    def to_image(self, data: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
        """Adjoint: sum of weight * Re(V exp[-i phase]) per pixel; (ny, nx) float32 (float64 in double
        precision).

        `data` and `weights` are (sample,). Divide by the sum of the weights for Jy/beam.
        """
        data = data.astype(np.complex128 if self._double else np.complex64, copy=False)
        weights = weights.astype(np.float64 if self._double else np.float32, copy=False)
        if self.flat or not self.w_terms:
            return self._to_plane(data, weights)
        image = self._to_plane(_turned_back(data, self._factors[0]), weights)
        for order, factor in enumerate(self._factors[1:], start=1):
            image += self._to_plane(_turned_back(data, factor), weights[: factor.size]) * self._height**order
        return image

    def to_visibilities(self, image: NDArray[Any]) -> NDArray[Any]:
        """The visibilities (sample,) of an image (ny, nx) [Jy/pixel]; complex64 (complex128 in double)."""
        image = image.astype(np.float64 if self._double else np.float32, copy=False)
        total = self._from_plane(image, self.uvw.shape[0])
        if self.flat or not self.w_terms:
            return total
        total *= self._factors[0]
        for order, factor in enumerate(self._factors[1:], start=1):
            _add(total, self._from_plane(image * self._height**order, factor.size), factor)
        return total

    def _to_plane(self, data: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(
            wgridder.vis2dirty(
                vis=data[:, None],
                wgt=weights[:, None],
                uvw=self._uvw[: data.size],
                npix_x=self.n_pixels,
                npix_y=self.n_pixels,
                **self._geometry,
            )
        )

    def _from_plane(self, image: NDArray[Any], count: int) -> NDArray[Any]:
        return np.asarray(wgridder.dirty2vis(dirty=image, uvw=self._uvw[:count], **self._geometry))[:, 0]


@njit(cache=True, parallel=True)
def _turned_back(data, factor):  # type: ignore[no-untyped-def]
    out = np.empty(factor.size, dtype=np.complex64)
    for k in prange(factor.size):
        out[k] = data[k] * np.conj(factor[k])
    return out


@njit(cache=True, parallel=True)
def _add(total, term, factor):  # type: ignore[no-untyped-def]
    for k in prange(factor.size):
        total[k] += factor[k] * term[k]
