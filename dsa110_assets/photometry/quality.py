"""Quality bits of a measurement: reasons to use it with care."""

from __future__ import annotations

from enum import IntFlag


class Quality(IntFlag):
    """Bits of the `quality` column; 0 is a clean, isolated, compact measurement."""

    EDGE = 1
    """Closer to missing pixels than `edge_beams`: the noise there is steep and the beam may be cut off."""
    BLENDED = 2
    """Another measured position lies within `blend_beams`: fluxes were solved together and their errors are correlated."""
    EXTENDED = 4
    """The free fit is significantly larger than the beam: the peak understates the flux (see RESOLVED)."""
    NAN = 8
    """The pixel under the position, or most of the beam around it, is missing: no flux was measured."""
    CONFUSED = 16
    """Positions closer than `merge_beams` cannot be separated: all of them report the flux of the sum."""
    BAD_FIT = 32
    """The free fit did not converge; the fixed-beam fit is used."""
    UNNORMALISED = 64
    """Too few reference sources in this epoch and its night: the correction is 1, its error unknown."""
    RESOLVED = 128
    """The flux is the integrated one of an elliptical Gaussian wider than the beam, not the peak of a point."""
    PEAK_ONLY = 256
    """No fit described the island: position and flux are those of its brightest pixel."""
    TILE_SUSPECT = 1024
    """More than a tenth of the weight here comes from tiles with wrong noise, flux scale or positions."""
    DOUBTFUL_NEW = 2048
    """New in an hour whose negative image has too many detections, so noise or sidelobes produce sources there."""


def decode(bits: int) -> tuple[str, ...]:
    """Names of the bits set in a `quality` value, lowest first."""
    return tuple(flag.name for flag in Quality if flag.name is not None and bits & flag)
