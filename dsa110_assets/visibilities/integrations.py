"""Integrations shared by the subbands of an observation.

All correlator nodes count from the same start, so their integrations lie on one grid. A node that stopped early, began
late or lost some in between has fewer of them than the others.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.visibilities.uvh5 import SubbandHeader

SAME_START_S = 1e-3
"""A file that starts at another millisecond used another clock: its fringes are not consistent with the others."""


def same_grid(a: SubbandHeader, b: SubbandHeader) -> bool:
    """Whether the start times of two files differ by a whole number of integrations, to a millisecond."""
    offset = (a.mjd_start - b.mjd_start) * 86400 / b.interval_s
    return abs(offset - round(offset)) * b.interval_s < SAME_START_S


def overlap(a: SubbandHeader, b: SubbandHeader) -> bool:
    """Whether two files overlap in time."""
    slack = b.interval_s / 2 / 86400
    return bool(a.times_mjd[0] < b.times_mjd[-1] + slack and b.times_mjd[0] < a.times_mjd[-1] + slack)


def shared(headers: Iterable[SubbandHeader]) -> NDArray[np.float64]:
    """Times [MJD] of the integrations that all of these headers, of one grid, have; ascending; empty if there are none."""
    first, *others = headers
    common = np.ones(first.times_mjd.size, np.bool_)
    for other in others:
        if np.array_equal(other.times_mjd, first.times_mjd):
            continue  # nearly always the case
        common &= np.isin(_numbers(first.times_mjd, first), _numbers(other.times_mjd, first))
    times: NDArray[np.float64] = first.times_mjd[common]
    return times


def places(header: SubbandHeader, times_mjd: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices on the header's time axis of the given integrations, all of which it has."""
    return np.searchsorted(_numbers(header.times_mjd, header), _numbers(times_mjd, header))


def _numbers(times_mjd: NDArray[np.float64], origin: SubbandHeader) -> NDArray[np.float64]:
    """Numbers of integrations since the start of `origin`, rounded."""
    numbers: NDArray[np.float64] = np.rint((times_mjd - origin.times_mjd[0]) * (86400 / origin.interval_s))
    return numbers
