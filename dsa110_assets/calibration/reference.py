"""Choose the reference antenna, and rotate solutions so that its phase is zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError

MIN_GOOD_FRACTION = 0.5
"""Both receptors of a reference antenna have solutions in at least this share of the solvable cells."""


def choose_refant(names: Sequence[str], chain: Sequence[int], good_fraction: NDArray[np.float64]) -> tuple[int, dict[str, str]]:
    """Return the index of the first usable antenna of `chain` (stations), else of the best one, and the reasons by station passed over.

    `good_fraction` (antenna,) is the share of solvable cells that have a solution, of the worse receptor.
    Raises BadDataError if no antenna has a solution in both receptors.
    """
    index = {name: i for i, name in enumerate(names)}
    passed: dict[str, str] = {}
    for station in chain:
        i = index.get(str(station))
        if i is None:
            passed[str(station)] = "not in the data"
        elif good_fraction[i] >= MIN_GOOD_FRACTION:
            return i, passed
        else:
            passed[str(station)] = f"solutions in {good_fraction[i]:.0%} of cells"
    best = int(np.argmax(good_fraction))
    if good_fraction[best] <= 0:
        raise BadDataError("no antenna has solutions in both receptors; look at flags and calibrator flux")
    return best, passed


def rotate(values: NDArray[np.complex128], good: NDArray[np.bool_], refant: int) -> NDArray[np.complex128]:
    """Rotate the phases of each cell of `values` (cell, antenna) so that `refant` has phase zero.

    Cells in which `refant` has no solution are rotated to agree best with the nearest cell that has one, so
    that phases do not jump when solutions are interpolated.
    """
    if not good.any():
        return values
    rotated = values.copy()
    has_refant = good[:, refant]
    rotated[has_refant] *= np.exp(-1j * np.angle(values[has_refant, refant]))[:, None]
    anchored = np.flatnonzero(has_refant)
    for cell in np.flatnonzero(~has_refant & good.any(axis=1)):
        if anchored.size == 0:
            break
        near = anchored[np.argmin(np.abs(anchored - cell))]
        common = good[cell] & good[near]
        agreement = np.vdot(rotated[near, common], values[cell, common])
        rotated[cell] *= np.exp(-1j * np.angle(agreement))
    return rotated
