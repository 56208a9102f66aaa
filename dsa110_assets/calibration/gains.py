"""Antenna-based solutions: the content of a calibration table, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["K", "B", "G"]
DEAD_FRACTION = 0.95
"""A receptor with more than this share of its solutions flagged is dead."""


@dataclass(frozen=True)
class Gains:
    """Solutions g with V_observed(ij) = g_i conj(g_j) V_true(ij), per receptor (XX uses X of both antennas).

    kind       "B" bandpass (per channel), "G" gain (one channel entry), "K" delay.
    values     (time, antenna, channel, pol) complex128, in data units; never NaN, 1 (K: 0) where flagged.
               For "K" the real part is a delay [ns] and g = exp[2 pi i delay (nu - frequencies_hz[0])].
    flags      same shape, bool; True = no usable solution.
    snr        same shape, float32: |g| over its rms complex error (CASA's convention); 0 where flagged.
    times_mjd  (time,) float64 UTC, centres of the solution intervals.
    interval_s length of a solution interval [s].
    frequencies_hz  (channel,) float64 ascending; for "G" the band centre, for "K" the lowest channel.
    antenna_names   (antenna,) station names, in the file numbering of the solved data.
    refant     index of the reference antenna, whose phase is zero.
    """

    kind: Kind
    values: NDArray[np.complex128]
    flags: NDArray[np.bool_]
    snr: NDArray[np.float32]
    times_mjd: NDArray[np.float64]
    interval_s: float
    frequencies_hz: NDArray[np.float64]
    antenna_names: tuple[str, ...]
    refant: int
    field_name: str

    def __post_init__(self) -> None:
        shape = (self.times_mjd.size, len(self.antenna_names), self.frequencies_hz.size, 2)
        for name in ("values", "flags", "snr"):
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{self.kind} gains: {name} has shape {found}, expected {shape}")

    @property
    def dead_receptors(self) -> NDArray[np.bool_]:
        """(antenna, pol) True where more than DEAD_FRACTION of the solvable cells are flagged.

        A cell (time, channel) counts as solvable if any receptor has a solution in it, so missing subbands
        make no receptor dead.
        """
        solvable = ~self.flags.all(axis=(1, 3))
        if not solvable.any():
            return np.ones(self.flags.shape[1::2], dtype=np.bool_)
        cells = np.moveaxis(self.flags, 2, 1)[solvable]
        return np.asarray(cells.mean(axis=0) > DEAD_FRACTION)
