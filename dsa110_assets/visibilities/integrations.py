"""Which integrations the subbands of an observation have in common.

All correlator nodes count from the same start, so their integrations lie on one grid. A node that stopped early,
began late or lost some in between holds fewer of them than the others.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.visibilities.uvh5 import SubbandHeader

SAME_START_S = 1e-3
"""A file that starts at another millisecond followed another clock: its fringes are not where the others' are."""


def same_grid(a: SubbandHeader, b: SubbandHeader) -> bool:
    """Whether the two start a whole number of integrations apart, to a millisecond."""
    apart = (a.mjd_start - b.mjd_start) * 86400 / b.interval_s
    return abs(apart - round(apart)) * b.interval_s < SAME_START_S


def overlap(a: SubbandHeader, b: SubbandHeader) -> bool:
    """Whether one begins before the other has ended."""
    slack = b.interval_s / 2 / 86400
    return bool(a.times_mjd[0] < b.times_mjd[-1] + slack and b.times_mjd[0] < a.times_mjd[-1] + slack)


def shared(headers: Iterable[SubbandHeader]) -> NDArray[np.float64]:
    """Times [MJD] of the integrations that all of these headers of one grid have, ascending; empty if there is none."""
    first, *others = headers
    common = np.ones(first.times_mjd.size, np.bool_)
    for other in others:
        common &= np.isin(_numbers(first.times_mjd, first), _numbers(other.times_mjd, first))
    times: NDArray[np.float64] = first.times_mjd[common]
    return times


def places(header: SubbandHeader, times_mjd: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where these integrations, which the header has, are on its time axis."""
    return np.searchsorted(_numbers(header.times_mjd, header), _numbers(times_mjd, header))


def _numbers(times_mjd: NDArray[np.float64], origin: SubbandHeader) -> NDArray[np.float64]:
    """Integrations since the start of `origin`, rounded."""
    numbers: NDArray[np.float64] = np.rint((times_mjd - origin.times_mjd[0]) * (86400 / origin.interval_s))
    return numbers
