"""Compare two sets of calibration tables: how every receptor's gain differs, in figures a person can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration.delays import phasor
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.errors import BadDataError


@dataclass(frozen=True)
class Difference:
    """One receptor's gain in a first set of tables over its gain in a second.

    ratio: median of the amplitudes' ratio over the channels both have; phase_deg: relative to the common reference antenna; delay_ns:
    by which the first lags more, from the phase's slope over frequency (0 with one channel); scatter_deg: scatter of the phases about
    phase and delay. NaN where one of the sets has no solution.
    """

    antenna: str
    receptor: str
    ratio: float
    phase_deg: float
    delay_ns: float
    scatter_deg: float


@dataclass(frozen=True)
class Compared:
    """All receptors' differences, and the antenna that both sets' phases are relative to."""

    reference: str
    differences: tuple[Difference, ...]


def compare(first: Sequence[Gains], second: Sequence[Gains]) -> Compared:
    """Compare the tables of two sets. Each set is the product of its K, B and G tables, averaged over time.

    The reference is the first set's reference antenna, or if that is not solved in both, the antenna with most common solutions.
    Raises BadDataError without a common antenna, or if both have bandpasses of other channels.
    """
    names = [name for name in first[0].antenna_names if name in set(second[0].antenna_names)]
    if not names:
        raise BadDataError("the two sets have no antenna in common; name sets of the same array")
    grids = [table.frequencies_hz for table in (*first, *second) if table.kind == "B"] or [first[0].frequencies_hz]
    if any(grid.shape != grids[0].shape or not np.allclose(grid, grids[0], rtol=1e-9) for grid in grids):
        raise BadDataError("the two sets' bandpasses have other channels; compare sets of the same channels")
    (a, good_a), (b, good_b) = (_total(tables, grids[0], names) for tables in (first, second))
    good = good_a & good_b
    common = good.sum(axis=(1, 2))
    first_reference = first[0].antenna_names[first[0].refant]
    reference = names.index(first_reference) if first_reference in names and common[names.index(first_reference)] else int(common.argmax())
    ratio = np.where(good, a / np.where(good, b, 1), np.nan)
    referenced = ratio * np.exp(-1j * np.angle(ratio[reference]))
    differences = [
        _difference(name, "XY"[p], referenced[k, :, p], grids[0]) for k, name in enumerate(names) for p in range(2)
    ]  # fmt: skip
    return Compared(names[reference], tuple(differences))


def _total(
    tables: Sequence[Gains], frequencies_hz: NDArray[np.float64], names: Sequence[str]
) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """Return the product of a set's tables, (antenna, channel, pol), and the mask of where all have a solution."""
    total = np.ones((len(names), frequencies_hz.size, 2), np.complex128)
    good = np.ones(total.shape, np.bool_)
    for table in tables:
        rows = [table.antenna_names.index(name) for name in names]
        values, flags = table.values[:, rows], table.flags[:, rows]
        if table.kind == "K":
            values = np.moveaxis(phasor(values[:, :, 0].real, frequencies_hz, float(table.frequencies_hz[0])), -1, 2)
        number = (~flags).sum(axis=0)
        total = total * np.where(flags, 0, values).sum(axis=0) / np.maximum(number, 1)
        good = good & (number > 0)
    return total, good & (total != 0)


def _difference(name: str, receptor: str, ratio: NDArray[np.complex128], frequencies_hz: NDArray[np.float64]) -> Difference:
    solved = np.isfinite(ratio)
    if not solved.any():
        return Difference(name, receptor, *(float("nan"),) * 4)
    with np.errstate(invalid="ignore"):  # NaN where one of the sets has no solution
        unit = ratio / np.abs(ratio)
    offset_hz = frequencies_hz - frequencies_hz.mean()
    steps = unit[1:] * unit[:-1].conj()
    steps = steps[np.isfinite(steps)]
    width_hz = float(np.median(np.diff(frequencies_hz))) if frequencies_hz.size > 1 else 1.0
    slope = (
        float(np.angle(steps.sum()) / width_hz) if steps.size else 0.0
    )  # [rad/Hz]: free of phase wraps, but as uncertain as two channels
    unit, offset_hz = unit[solved], offset_hz[solved]
    for _ in range(2):  # the remaining phase and slope are small, so a straight line fits
        flattened = unit * np.exp(-1j * slope * offset_hz)
        phase = float(np.angle(flattened.sum()))
        residual = np.angle(flattened * np.exp(-1j * phase))
        centred = offset_hz - offset_hz.mean()
        slope += float((centred @ residual) / (centred @ centred)) if steps.size else 0.0
    ratio_median, delay_ns = float(np.median(np.abs(ratio[solved]))), 1e9 * slope / (2 * np.pi)
    return Difference(name, receptor, ratio_median, np.degrees(phase), delay_ns, float(np.degrees(np.sqrt(np.mean(residual**2)))))
