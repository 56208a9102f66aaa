"""Tiles of one mosaic whose flux scales rest on different calibrators: compare the scales, and bring all tiles to one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsa110_assets.imaging.reference import Factor, robust_mean
from dsa110_assets.mosaics.overlap import PAIR_SCATTER, Pair

STANDARD = "PB17:"
"""Prefix of anchors on the Perley-Butler (2017, ApJS 230, 7) scale, which are preferred to a listed calibrator."""
LARGEST_CORRECTION = 0.2
"""Largest difference of scales that a wrong listed flux of a calibrator explains: beyond it nothing is corrected, and the check fails."""
_SIGNIFICANT = 3.0
_UNKNOWN = Factor(np.nan, np.nan, np.nan, 0)


def reference_anchor(anchors: Mapping[str, str]) -> str:
    """Return the anchor that the others are brought to, given anchors by tile (product id): a standard, else that of most tiles, else
    the first by name.
    """
    count = Counter(anchors.values())
    return min(count, key=lambda name: (not name.startswith(STANDARD), -count[name], name))


def anchor_scales(anchors: Mapping[str, str], pairs: Sequence[Pair]) -> dict[str, Factor]:
    """Return each anchor's fluxes over those of `reference_anchor`, from the sources that neighbouring tiles share; NaN where no chain of
    overlaps leads to it.
    """
    scales = {reference_anchor(anchors): Factor(1.0, 0.0, 0.0, 0)}
    links = _links(anchors, pairs)
    while reached := [(a, b) for a, b in links if a in scales and b not in scales]:
        for before, after in reached:
            step, start = links[before, after], scales[before]
            error = start.value * step.value * np.hypot(step.error / step.value, start.error / start.value)
            scales.setdefault(after, Factor(start.value * step.value, float(error), step.scatter, step.n))
    return {name: scales.get(name, _UNKNOWN) for name in sorted(set(anchors.values()))}


def _links(anchors: Mapping[str, str], pairs: Sequence[Pair]) -> dict[tuple[str, str], Factor]:
    """Return the flux ratio of every two anchors whose tiles overlap, in both directions."""
    values: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for pair in pairs:
        anchor, other_anchor = anchors[pair.first], anchors[pair.second]
        for ratio, error in zip(pair.ratio, pair.error, strict=True) if anchor != other_anchor else ():
            values.setdefault((anchor, other_anchor), []).append((ratio, error))
            values.setdefault((other_anchor, anchor), []).append((1 / ratio, error / ratio**2))
    columns = {link: np.array(measurements).T for link, measurements in values.items()}
    return {link: robust_mean(ratio, error, PAIR_SCATTER) for link, (ratio, error) in columns.items()}


def corrections(scales: Mapping[str, Factor]) -> dict[str, float]:
    """Return the factor that each anchor's fluxes are divided by: its scale if that differs from 1 by more than 3 errors and at most by
    LARGEST_CORRECTION, else 1.
    """
    return {
        name: scale.value if _SIGNIFICANT * scale.error < abs(scale.value - 1) <= LARGEST_CORRECTION else 1.0
        for name, scale in scales.items()
    }


def anchor_figures(scales: Mapping[str, Factor], applied: Mapping[str, float]) -> dict[str, Any]:
    """Return n_anchors; for the anchor furthest from the reference in units of its error, after correction: anchor_difference
    (|ratio - 1|, NaN if any anchor cannot be compared) and anchor_difference_error; anchor_scales: a line for each anchor except
    the reference.
    """
    others = [name for name, scale in scales.items() if scale.error != 0]
    remaining = [(abs(scales[name].value / applied[name] - 1), scales[name].error / applied[name]) for name in others]
    unknown = any(np.isnan(difference) for difference, _ in remaining)
    worst = (
        (np.nan, np.nan)
        if unknown
        else max(remaining, key=lambda difference_and_error: difference_and_error[0] / difference_and_error[1], default=(0.0, 0.0))
    )
    return {
        "n_anchors": len(scales),
        "anchor_difference": float(worst[0]),
        "anchor_difference_error": float(worst[1]),
        "anchor_scales": [
            f"{name}: {scales[name].value:.4f} +- {scales[name].error:.4f}, divided by {applied[name]:.4f}" for name in others
        ],
    }
