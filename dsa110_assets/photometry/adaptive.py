"""Adaptive binning of a source's spectrum: the fewest adjacent channels are joined that reach a signal-to-noise ratio.

The joined channels are chosen by their errors and the source's mean flux over all channels, not by their individual fluxes:
bins chosen because noise made them bright would be too bright on average. A bin therefore reaches the target except for its own
noise, and for the deviation of the spectrum from its mean.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Channels `first` to `last`, inclusive, of which `count` have data: the inverse-variance mean of their fluxes [Jy], its
    error, and the mean of their frequencies [Hz] with the same weights."""

    first: int
    last: int
    count: int
    flux_jy: float
    flux_err_jy: float
    frequency_hz: float

    @property
    def snr(self) -> float:
        """The flux in units of its error."""
        return self.flux_jy / self.flux_err_jy


def join(flux_jy: Float, error_jy: Float, frequencies_hz: Float, target_snr: float) -> list[Bin]:
    """Return bins of channels (n,) in their order; none without data. NaN fluxes are treated as missing.

    From the first channel on, channels are joined until |mean flux| is `target_snr` errors; the rest at the end joins the bin
    before it. A source that does not reach the target with all channels is one bin.
    """
    good = np.isfinite(flux_jy) & np.isfinite(error_jy) & (error_jy > 0)
    weight = np.where(good, 1 / np.where(good, error_jy, 1) ** 2, 0.0)
    if not good.any():
        return []
    mean_jy = abs(float(weight @ np.where(good, flux_jy, 0)) / float(weight.sum()))
    edges, first = [0], 0
    for channel in range(flux_jy.size):
        if mean_jy * np.sqrt(weight[first : channel + 1].sum()) >= target_snr:
            first = channel + 1
            edges.append(first)
    edges = edges if len(edges) > 1 else [0, flux_jy.size]
    edges[-1] = flux_jy.size
    return [_bin(flux_jy, weight, frequencies_hz, low, high) for low, high in itertools.pairwise(edges)]


def _bin(flux_jy: Float, weight: Float, frequencies_hz: Float, low: int, high: int) -> Bin:
    used = np.flatnonzero(weight[low:high] > 0) + low
    share = weight[used] / weight[used].sum()
    return Bin(
        int(used[0]), int(used[-1]), int(used.size), float(share @ flux_jy[used]), float(1 / np.sqrt(weight[used].sum())),
        float(share @ frequencies_hz[used]),
    )  # fmt: skip
