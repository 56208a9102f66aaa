"""The rows of a UVH5 file: the integration and baseline of each, in whatever order they were written.

The correlator writes integration by integration. A file from another program may be ordered by baseline, by antenna, or
not at all. Every integration must have the same baselines, each once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.telescope import timegrid
from dsa110_assets.visibilities import hdf5

JD_MJD = 2400000.5
MAX_ANTENNAS = 256
MAX_INTEGRATIONS = 4 * timegrid.INTEGRATIONS_PER_FILE
MAX_ROWS = MAX_ANTENNAS * (MAX_ANTENNAS + 1) // 2 * timegrid.INTEGRATIONS_PER_FILE
SAME_TIME_D = 1e-3 / 86400
"""Rows of one integration may differ by the rounding of a Julian date (40 microseconds) and more, not by a millisecond."""


@dataclass(frozen=True, eq=False)
class Rows:
    """times_mjd (time,) ascending; ant1, ant2 (baseline,) int32, indices on the antenna axis, in the order of the first
    integration's rows; rows (time, baseline) int32: row numbers in the file."""

    times_mjd: NDArray[np.float64]
    ant1: NDArray[np.int32]
    ant2: NDArray[np.int32]
    rows: NDArray[np.int32]


def read(header: Any, numbers: NDArray[np.int64], path: Path) -> Rows:
    """Read the row axis of a Header group. `numbers` are the telescope's antenna numbers, in the order of the antenna
    axis.

    Raises BadDataError unless every integration has the same baselines, each once and in the same direction, and
    integrations follow each other.
    """
    jd = hdf5.vector(header, "time_array", MAX_ROWS, path)
    times, moment = _integrations(jd, path)
    end1, end2 = (_ends(header, name, jd.size, numbers, path) for name in ("ant_1_array", "ant_2_array"))
    rows = _table(moment, times.size, end1, end2, path)
    ant1, ant2 = end1[rows[0]], end2[rows[0]]
    same = bool(np.all(end1[rows] == ant1))
    hdf5.require(same, path, "ant_1_array differs between integrations: a baseline is reversed in some")
    return Rows(times - JD_MJD, ant1, ant2, rows)


def _integrations(jd: NDArray[np.float64], path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(times [JD], ascending; index of the integration of each row)."""
    values, inverse, counts = np.unique(jd, return_inverse=True, return_counts=True)
    first = np.flatnonzero(np.diff(values, prepend=-np.inf) > SAME_TIME_D)
    moment = np.searchsorted(first, inverse, side="right") - 1
    counts = np.add.reduceat(counts, first)
    message = f"{jd.size} rows are not whole integrations: {counts.min()} to {counts.max()} rows have the same time"
    hdf5.require(counts.min() == counts.max(), path, message)
    hdf5.require(first.size <= MAX_INTEGRATIONS, path, f"{first.size} integrations, limit {MAX_INTEGRATIONS}")
    return values[first], moment


def _ends(header: Any, name: str, n_rows: int, numbers: NDArray[np.int64], path: Path) -> NDArray[np.int32]:
    """(row,) indices on the antenna axis of the antennas, which the file gives by number."""
    rows = hdf5.vector(header, name, MAX_ROWS, path)
    hdf5.require(rows.size == n_rows, path, f"{name} has {rows.size} rows, time_array {n_rows}")
    order = np.argsort(numbers)
    place = order[np.searchsorted(numbers, rows, sorter=order).clip(max=numbers.size - 1)]
    absent = numbers[place] != rows
    hdf5.require(not absent.any(), path, f"{name} names an antenna that antenna_numbers lacks: {rows[absent][:3].tolist()}")
    return np.asarray(place, dtype=np.int32)


def _table(moment: NDArray[np.int64], n_times: int, ant1: NDArray[np.int32], ant2: NDArray[np.int32], path: Path) -> NDArray[np.int32]:
    """(time, baseline) file rows, with baselines in the order of the first integration's rows."""
    pair = np.minimum(ant1, ant2).astype(np.int64) * MAX_ANTENNAS + np.maximum(ant1, ant2)
    table = np.lexsort((pair, moment)).reshape(n_times, -1)
    pairs = pair[table]
    hdf5.require(bool(np.all(pairs == pairs[0])), path, "ant_1_array or ant_2_array differs between integrations")
    hdf5.require(bool(np.all(np.diff(pairs[0]) > 0)), path, "a baseline occurs twice in one integration")
    follow = bool(np.all(np.diff(table, axis=0) > 0))
    hdf5.require(follow, path, "its integrations are not contiguous: their rows are not in the order of time")
    return np.asarray(table[:, np.argsort(table[0])], dtype=np.int32)
