"""The plane of an array, and the slanted projection in which its images need almost no w.

Antennas on flat ground have w = a u + b v at any instant, so that u l + v m + w (n - 1) is u [l + a (n - 1)] + v [m + b (n -
1)]: an image in l + a (n - 1), m + b (n - 1) needs no w at all. FITS calls this projection SIN with PV2_1 = -a, PV2_2 = -b
(Calabretta & Greisen 2002, section 5.1.5). The rest of w (relief, and the change of a and b during a tile) takes a few planes
instead of dozens (`gridding`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dsa110_assets.imaging.stokes import StokesI


@dataclass(frozen=True)
class Slant:
    """w = a u + b v + rest. `pv` are FITS's PV2_1, PV2_2."""

    a: float
    b: float

    @property
    def pv(self) -> tuple[float, float]:
        """(PV2_1, PV2_2)."""
        return -self.a, -self.b

    @property
    def is_flat(self) -> bool:
        """Whether a plane was taken out, so that little w is left."""
        return self.a != 0 or self.b != 0


def flattened(stokes: StokesI, field_rad: float) -> tuple[StokesI, Slant]:
    """Return the samples with the best plane's w taken out, and that plane; unchanged if this would save little w.

    The gridder takes n from slanted coordinates n', which is an error in phase of 2 pi w' (n - n'), w' being the rest of w:
    below a hundredth of a turn on the longest baseline at the corner of a 4 degree field.
    """
    u_v, w = stokes.uvw[:, :2], stokes.uvw[:, 2]
    normal = u_v.T @ u_v
    if np.linalg.matrix_rank(normal) < 2:  # points on one line, as of a single baseline, lie in many planes
        return stokes, Slant(0.0, 0.0)
    a, b = np.linalg.solve(normal, u_v.T @ w)
    uvw = stokes.uvw.copy()
    uvw[:, 2] -= u_v @ (a, b)
    corner = 1 - math.cos(field_rad / math.sqrt(2))
    turns = np.array([np.abs(w).max(), np.abs(uvw[:, 2]).max()]) * corner
    if turns[0] < 0.5 or turns[1] > 0.7 * turns[0]:
        return stokes, Slant(0.0, 0.0)
    return replace(stokes, uvw=uvw), Slant(float(a), float(b))
