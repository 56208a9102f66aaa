"""CLEAN: minor cycles between major cycles that go back to the visibilities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.imaging import resolved
from dsa110_assets.imaging.clark import Cleaned, Depth, clean, limited_to_sources
from dsa110_assets.imaging.measurement import ROUGH, Measurement
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.points import NO_POINTS, Points, spectral_indices, take_out
from dsa110_assets.imaging.restoring import Beam, add_points, flipped, restore
from dsa110_assets.imaging.statistics import robust_rms

Image = NDArray[np.float32]
_ROUNDING = 1e-6
"""Relative accuracy of sums of many products in single precision."""
_IGNORED_SHARES = (0.15, 0.03, 0.03)
"""The share of a resolved source's height that components may leave, in successive searches: in the first, errors of other sources
are still in it."""
_SETTLED, _SETTLED_SHARE = 1.0, 0.004
"""The change of resolved sources below which CLEAN is not repeated: in rms of the image, plus a share of the sources' own
brightness there. A fit scatters by less than this share where other sources' components lie under the source; CLEAN finds what
that leaves."""
_QUICK_ROUNDS = 2
"""Rounds in which the quick clean takes out points: first the brightest, whose drift through the beam would be noise everywhere,
then those next to them and the errors of the first."""
_NOISIER = 1.01
"""The growth of a residual's rms that exceeds chance."""
_NOISIER_KEPT = 1.05
"""The same where fewer components are left; the others had fitted noise."""


@dataclass(frozen=True)
class Deconvolved:
    """`model` [Jy/pixel] and `points`, the exact `residual` [Jy/beam] of both, and the counts of major cycles and minor
    iterations.

    `points` include resolved sources; `resolved_dropped` is the number that were tried and dropped, in which case there are
    none. `index` and `index_err` (point,) are those of `points.spectral_indices`.
    """

    model: Image
    points: Points
    residual: Image
    major_cycles: int
    minor_iterations: int
    index: NDArray[np.float64]
    index_err: NDArray[np.float64]
    resolved_dropped: int = 0

    @property
    def resolved_ones(self) -> Points:
        """The `points` that are Gaussians."""
        return self.points.select(self.points.resolved)


def deconvolve(
    measurement: Measurement,
    wide_psf: Image,
    options: ImagingOptions,
    *,
    pixel_rad: float,
    beam: Beam,
    threads: int,
    within: NDArray[np.bool_] | None = None,
    resolved_ones: Points = NO_POINTS,
) -> Deconvolved:
    """Take bright points out of the visibilities and CLEAN the rest, with the dirty beam (2n, 2n), unit peak at its centre.

    The `resolved_ones` found in nearly the same data are taken out first. Sources are searched for `within` (n, n). The
    deconvolver "quick" takes only the brightest points out of the visibilities, then works in the image alone, as if every
    other source had the dirty beam of a steady one: its residual is not exact. Otherwise the returned residual is exact for the
    returned model and points, and earlier residuals are accurate to a tenth of the noise. The clean is never deeper than sums
    in single precision are accurate: each cycle grids only what it found, and sums the brightest of that directly, so that the
    gridder's error is a share of what was left before it.
    """
    dirty = measurement.image(ROUGH if options.clean_iterations else 0.0)
    if options.clean_iterations == 0:
        return Deconvolved(np.zeros_like(dirty), NO_POINTS, dirty, 0, 0, np.empty(0), np.empty(0))
    depth = Depth(
        iterations=options.clean_iterations,
        gain=options.clean_gain,
        major_gain=options.major_gain,
        max_major_cycles=options.max_major_cycles,
        auto_mask_sigma=options.auto_mask_sigma,
        auto_threshold_sigma=options.auto_threshold_sigma,
        floor_jy=max(options.threshold_jy, _ROUNDING * float(np.abs(dirty).max())),
    )
    if options.deconvolver == "quick":
        return _quick_clean(dirty, wide_psf, measurement, depth, threads, within)
    if resolved_ones.flux_jy.size:
        measurement.without(resolved_ones)
        dirty = measurement.image(ROUGH)
    sources, dropped = _with_resolved(resolved_ones, dirty, wide_psf, measurement, depth, beam, math.degrees(pixel_rad), threads, within)
    points, cleaned, rounds = sources.points, sources.cleaned, sources.rounds
    residual = measurement.image()
    cycles, iterations = rounds + cleaned.major_cycles, points.flux_jy.size + cleaned.minor_iterations
    index, index_err = spectral_indices(points, measurement, robust_rms(residual))
    return Deconvolved(cleaned.model, points, residual, cycles, iterations, index, index_err, dropped)


def _quick_clean(
    dirty: Image, wide_psf: Image, measurement: Measurement, depth: Depth, threads: int, within: NDArray[np.bool_] | None
) -> Deconvolved:
    """Take the brightest points out of the visibilities, and CLEAN the rest with residuals computed from the image and the dirty beam."""
    points, residual, rounds = take_out(dirty, wide_psf, measurement, depth.floor_jy, within, _QUICK_ROUNDS)
    cleaned = clean(residual, wide_psf, None, depth, threads, points.nearest(), within)
    unknown = np.full(points.flux_jy.size, np.nan)
    cycles, iterations = rounds + cleaned.major_cycles, points.flux_jy.size + cleaned.minor_iterations
    return Deconvolved(cleaned.model, points, cleaned.residual, cycles, iterations, unknown, unknown)


@dataclass(frozen=True)
class _Sources:
    """`points`, the CLEAN of the rest, and the number of `rounds` for the points."""

    points: Points
    cleaned: Cleaned
    rounds: int


def _with_resolved(
    taken: Points, residual: Image, wide_psf: Image, measurement: Measurement, depth: Depth, beam: Beam, pixel_deg: float, threads: int,
    within: NDArray[np.bool_] | None,
) -> tuple[_Sources, int]:  # fmt: skip
    """Return points and the CLEAN of the rest, repeated with resolved sources (`resolved`) taken out, which are then among the
    points; and the number of Gaussians that were tried and dropped.

    Gaussians are dropped if they explain nothing or made the residual noisier. Those in `taken` are out of the `residual`
    already. Nothing that CLEAN found in resolved sources, and none of the points found in them, is kept, because it may lie far
    away.
    """

    def deconvolved(resolved_ones: Points, remaining: Image) -> _Sources:
        points, remaining, rounds = take_out(remaining, wide_psf, measurement, depth.floor_jy, within)
        points = points.joined_with(resolved_ones)
        return _Sources(points, clean(remaining, wide_psf, measurement.residual_of, depth, threads, points.nearest(), within), rounds)

    def limited(sources: _Sources) -> _Sources:
        cleaned = _limited_to_sources(sources.cleaned, wide_psf, measurement, depth, beam, pixel_deg, threads, within)
        return replace(sources, cleaned=cleaned)

    first = deconvolved(taken, residual)
    rms, rounds, beam_pixels = robust_rms(first.cleaned.residual), first.rounds, flipped(beam.covariance) / pixel_deg**2
    first = latest = limited(first)
    before, tried = measurement.state(), 0
    for ignored_share in _IGNORED_SHARES[-1:] if taken.flux_jy.size else _IGNORED_SHARES:
        model, residual = latest.cleaned.model, latest.cleaned.residual
        image = restore(model, residual, beam, pixel_deg, threads)
        add_points(image, latest.points, beam, pixel_deg)
        found = resolved.find(image, residual, model, latest.points, wide_psf, beam_pixels, ignored_share)
        found = found if within is None else found.select(within[found.nearest()])
        if not (found.flux_jy.size or taken.flux_jy.size):
            break
        found_image, change_image = np.zeros_like(model), np.zeros_like(model)
        add_points(found_image, found, beam, pixel_deg)
        add_points(change_image, found.joined_with(taken.negative()), beam, pixel_deg)
        if (np.abs(change_image) < _SETTLED * robust_rms(residual) + _SETTLED_SHARE * np.abs(found_image)).all():
            if ignored_share == _IGNORED_SHARES[-1]:
                break
            continue
        measurement.without(latest.points.negative().joined_with(found))
        taken, latest = found, deconvolved(found, measurement.residual_of(np.zeros_like(model)))
        rounds += latest.rounds
        tried = max(tried, int(np.count_nonzero(taken.resolved)))
    if latest is first:
        return first, 0
    if taken.flux_jy.size and robust_rms(latest.cleaned.residual) <= _NOISIER * rms:
        return replace(limited(latest), rounds=rounds), 0
    measurement.back_to(before)
    return first, tried


def _limited_to_sources(
    first: Cleaned, wide_psf: Image, measurement: Measurement, depth: Depth, beam: Beam, pixel_deg: float, threads: int,
    within: NDArray[np.bool_] | None,
) -> Cleaned:  # fmt: skip
    """Return `first` limited to its sources if it settled and the new residual is no noisier; otherwise `first`."""
    if not (first.settled and depth.auto_mask_sigma):
        return first
    restored = restore(first.model, first.residual, beam, pixel_deg, threads)
    rms = robust_rms(first.residual)
    sources = (first.model > 0) & (restored > depth.auto_mask_sigma * rms)
    before = measurement.state()
    limited = limited_to_sources(sources, first, wide_psf, measurement.residual_of, depth, threads, within)
    if robust_rms(limited.residual) <= _NOISIER_KEPT * rms:
        return limited
    measurement.back_to(before)
    return first
