"""The antennas of a simulated array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.telescope import astrometry, stations

SMALL_ARRAY_ORDER = (
    103, 12, 102, 2, 48, 87, 29, 20, 73, 68, 31, 76, 35, 8, 82, 45, 18, 72, 85, 42, 78, 69, 30, 3,
)  # fmt: skip
"""Stations in the order in which a small array takes them: the arms of the T and station 103, no far outrigger.

Found by annealing for 24 antennas, 16 subbands and declination 16.27: the highest sidelobe of the snapshot beam is 0.26
(robust 0.5), their rms 0.021; baselines stay below 500 m, so that a field of 4 degrees is a small image. The order
comes from removing, one by one, the station whose loss costs least.
"""


@dataclass(frozen=True)
class Array:
    """The connected antennas: `numbers` (n,) 0-based, ascending; `order` the same in the correlator's input order.

    `relative_m` (117, 3) are the positions of all stations minus the site's [m].
    """

    numbers: NDArray[np.int64]
    order: NDArray[np.int64]
    relative_m: NDArray[np.float64]

    @property
    def baselines(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ant1, ant2) of one integration in the telescope's row order: for i, for j <= i: (order[j],
        order[i])."""
        i, j = np.tril_indices(self.order.size)
        return self.order[j], self.order[i]

    def static_uvw_m(self, dec_rad: float) -> NDArray[np.float64]:
        """uvw [m] of all rows of one integration, pos(ant2) - pos(ant1), at hour angle 0 and the pointing
        declination."""
        ant1, ant2 = self.baselines
        uvw = astrometry.apparent_uvw_m(self.relative_m, 0.0, dec_rad)[0]
        return np.asarray(uvw[ant2] - uvw[ant1])


def build(options: SimulationOptions) -> Array:
    """The array of a run: all 96 active antennas, or the first `antennas` of the small-array order."""
    active = stations.active_stations()
    others = [station for station in active if station not in SMALL_ARRAY_ORDER]
    preferred = [*SMALL_ARRAY_ORDER, *others[::2], *others[1::2]]
    numbers = np.array(sorted(preferred[: options.antennas]), dtype=np.int64) - 1
    order = numbers
    if options.antenna_order == "scrambled":
        order = np.random.default_rng([options.seed, 2]).permutation(numbers)
    return Array(numbers, order, stations.surveyed().relative_m)
