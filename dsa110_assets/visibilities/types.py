"""The one in-memory form of visibilities, which every stage reads and returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex64]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Antennas:
    """The antennas of an observation, in file numbering (index = 0-based antenna number).

    `names` are station names ('1'..'117'); `relative_m` (n, 3) float64 are ITRF positions minus the site's
    [m]; `diameters_m` (n,) float64.
    """

    names: tuple[str, ...]
    relative_m: Float
    diameters_m: Float


@dataclass(frozen=True)
class Visibilities:
    """Visibilities of one observation on a regular (time, baseline, channel, polarisation) grid.

    data      (time, baseline, channel, pol) complex64; the telescope's sign: uvw = pos(ant2) - pos(ant1) and
              V = sum S exp[+2 pi i nu/c (u l + v m + w (n - 1))]. Never NaN: bad samples are 0 and flagged.
    flags     same shape, bool; True = do not use.
    weights   same shape, float32; 1/sigma^2 in units of data^-2 up to one common factor; 0 where missing.
    ant1, ant2        (baseline,) int32 indices into `antennas`; autocorrelations have ant1 == ant2.
    times_mjd         (time,) float64, UTC, integration centres [d].
    interval_s        integration length [s].
    frequencies_hz    (channel,) float64, ascending.
    channel_width_hz  positive.
    uvw_m             (time, baseline, 3) float64 [m], v towards ICRS north at that time's phase centre.
    phase_centres_rad (time, 2) float64 ICRS (ra, dec); equal rows = one common phase centre.
    pointing_dec_rad  apparent (of-date) declination the dishes point at; they point at hour angle 0.
    subbands_missing  subband numbers that were absent and filled with flagged zeros.
    Polarisations are always (XX, YY), I = (XX + YY) / 2.
    """

    data: Complex
    flags: NDArray[np.bool_]
    weights: NDArray[np.float32]
    ant1: NDArray[np.int32]
    ant2: NDArray[np.int32]
    times_mjd: Float
    interval_s: float
    frequencies_hz: Float
    channel_width_hz: float
    uvw_m: Float
    phase_centres_rad: Float
    pointing_dec_rad: float
    antennas: Antennas
    subbands_missing: tuple[int, ...] = ()

    @property
    def common_phase_centre(self) -> bool:
        """Whether all integrations share one phase centre."""
        return bool(np.all(self.phase_centres_rad == self.phase_centres_rad[0]))

    @property
    def is_auto(self) -> NDArray[np.bool_]:
        """(baseline,) True for autocorrelations."""
        return np.asarray(self.ant1 == self.ant2)

    @property
    def mid_mjd(self) -> float:
        """Middle of the observation [MJD UTC, d]."""
        return float((self.times_mjd[0] + self.times_mjd[-1]) / 2)

    @property
    def active_antennas(self) -> NDArray[np.int32]:
        """Indices of the antennas that have data, ascending."""
        return np.unique(np.concatenate([self.ant1, self.ant2]))
