"""One common beam for all tiles of a mosaic, so that Jy/beam has one meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.imaging.restoring import Beam, convolve


def spread(beams: Sequence[Beam]) -> float:
    """Return the largest relative difference between any two beams' widths along any direction, 0 if all are equal."""
    directions = np.linspace(0, np.pi, 37)
    vectors = np.stack([np.sin(directions), np.cos(directions)], axis=-1)
    widths = np.array([np.sqrt(np.einsum("di,ij,dj->d", vectors, beam.covariance, vectors)) for beam in beams])
    return float(np.max(widths.max(axis=0) / widths.min(axis=0)) - 1)


def common_beam(beams: Sequence[Beam]) -> Beam:
    """Return the smallest beam of a simple family that all given beams can be convolved to.

    It is the largest of them if that contains the others, else the largest enlarged just enough, else a circle with the largest
    major axis.
    """
    largest = max(beams, key=lambda beam: beam.area_sr)
    for growth in (1.0, 1.02, 1.05, 1.1):
        candidate = Beam(largest.bmaj_deg * growth, largest.bmin_deg * growth, largest.bpa_deg)
        if all(_contains(candidate, beam) for beam in beams):
            return candidate
    width = max(beam.bmaj_deg for beam in beams)
    return Beam(width, width, 0.0)


def to_beam(image: NDArray[np.float32], beam: Beam, target: Beam, pixel_deg: float, threads: int) -> NDArray[np.float32]:
    """Return an image [Jy/beam of `beam`] convolved to `target`, in Jy per target beam, so that a point source keeps its
    peak."""
    excess = target.covariance - beam.covariance
    values, vectors = np.linalg.eigh(excess)
    kernel = vectors @ np.diag(np.clip(values, 0, None)) @ vectors.T
    return convolve(image, kernel, pixel_deg, threads) * np.float32(target.area_sr / beam.area_sr)


def _contains(outer: Beam, inner: Beam) -> bool:
    # a relative 1e-9 so that a beam contains itself in spite of rounding
    return bool(np.linalg.eigvalsh(outer.covariance - inner.covariance)[0] >= -1e-9 * outer.bmaj_deg**2)
