"""The part of a grid that an image covers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS


@dataclass(frozen=True)
class Window:
    """Pixels x0 <= x < x1, y0 <= y < y1 of a grid."""

    x0: int
    x1: int
    y0: int
    y1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """For indexing an image (ny, nx)."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def covered(image: Header, grid: Header) -> Window | None:
    """Return the window of `grid` that an image covers, with a small margin; None if they do not overlap."""
    width, height = int(image["NAXIS1"]), int(image["NAXIS2"])
    x, y = np.meshgrid(np.linspace(-0.5, width - 0.5, 17), np.linspace(-0.5, height - 0.5, 17))
    ra, dec = WCS(image).celestial.wcs_pix2world(x, y, 0)
    gx, gy = WCS(grid).celestial.wcs_world2pix(ra, dec, 0)
    finite = np.isfinite(gx) & np.isfinite(gy)
    if not finite.any():
        return None
    x0, x1 = int(np.floor(gx[finite].min())) - 2, int(np.ceil(gx[finite].max())) + 3
    y0, y1 = int(np.floor(gy[finite].min())) - 2, int(np.ceil(gy[finite].max())) + 3
    window = Window(max(x0, 0), min(x1, int(grid["NAXIS1"])), max(y0, 0), min(y1, int(grid["NAXIS2"])))
    return window if window.x1 > window.x0 and window.y1 > window.y0 else None
