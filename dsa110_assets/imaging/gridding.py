"""Visibilities to images and back, with w: ducc0's wgridder in the telescope's sign and FITS's orientation.

Images are (ny, nx) with rows towards north and columns towards west (FITS with CDELT1 < 0); the phase
centre is pixel (ny // 2, nx // 2). V = sum S exp[+2 pi i nu/c (u l + v m + w (n - 1))] exactly: no
division by n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ducc0 import wgridder
from numpy.typing import NDArray

_SINGLE_PRECISION_LIMIT = 1e-5
"""ducc0 refuses to promise more than this with complex64."""


@dataclass(frozen=True)
class Gridder:
    """The measurement operator of one set of uvw [m], (row, 3), and frequencies [Hz], (channel,).

    Computes in single precision unless `epsilon` (relative L2 error) is below 1e-5.
    """

    uvw_m: NDArray[np.float64]
    frequencies_hz: NDArray[np.float64]
    n_pixels: int
    pixel_rad: float
    epsilon: float
    threads: int = 1

    @property
    def _geometry(self) -> dict[str, Any]:
        # ducc0's phase is u x + v y - w (n - 1) and its first axis x. Exchanging u and v makes rows north;
        # the
        # telescope's opposite sense flips u, v; columns towards west flip u back. What remains flipped is v.
        return {
            "uvw": self.uvw_m[:, [1, 0, 2]],
            "freq": self.frequencies_hz,
            "pixsize_x": self.pixel_rad,
            "pixsize_y": self.pixel_rad,
            "epsilon": self.epsilon,
            "do_wgridding": True,
            "flip_u": True,
            "divide_by_n": False,
            "nthreads": self.threads,
        }

    @property
    def _double(self) -> bool:
        return self.epsilon < _SINGLE_PRECISION_LIMIT

    def to_image(self, data: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
        """Adjoint: sum of weight * Re(V exp[-i phase]) per pixel; (ny, nx) float32 (float64 in double
        precision).

        `data` and `weights` are (row, channel). Divide by the sum of the weights for Jy/beam.
        """
        image = wgridder.vis2dirty(
            vis=data.astype(np.complex128 if self._double else np.complex64, copy=False),
            wgt=weights.astype(np.float64 if self._double else np.float32, copy=False),
            npix_x=self.n_pixels,
            npix_y=self.n_pixels,
            **self._geometry,
        )
        return np.asarray(image)

    def to_visibilities(self, image: NDArray[Any]) -> NDArray[Any]:
        """The visibilities (row, channel) of an image (ny, nx) [Jy/pixel]; complex64 (complex128 in
        double)."""
        return np.asarray(
            wgridder.dirty2vis(
                dirty=image.astype(np.float64 if self._double else np.float32, copy=False), **self._geometry
            )
        )
