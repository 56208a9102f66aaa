"""The data that tools read: calibrated sets, or the requested part of them, and catalogues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from dsa110_assets.calibration.field import at_times
from dsa110_assets.errors import BadDataError
from dsa110_assets.sky import catalogues
from dsa110_assets.telescope import band
from dsa110_assets.visibilities import measurement_set, phasing
from dsa110_assets.visibilities.types import Visibilities

Range = tuple[int, int]
Stokes = Literal["I", "Q"]


@dataclass(frozen=True)
class Part:
    """The samples of a calibrated set that are used, and how they are read.

    `subbands` and `times` are the first and last (both included) subband number, and integration counted from 0. `phase_centre_deg` is
    ICRS (ra, dec); None: that of the set, or the middle of the meridian track. `column`: the data column. `as_jy`: data without a
    unit are taken to be calibrated.
    """

    subbands: Range | None = None
    times: Range | None = None
    phase_centre_deg: tuple[float, float] | None = None
    stokes: Stokes = "I"
    column: str = "DATA"
    as_jy: bool = False

    @property
    def whole(self) -> bool:
        """Whether the part is the whole set, unchanged, so that its file can be used as it is."""
        return self == Part(as_jy=self.as_jy)


def read_calibrated(ms: Path, part: Part) -> Visibilities:
    """A calibrated set, or part of it, with one phase centre. Raises BadDataError for a raw set, an empty part, and sets that
    measurement_set.read refuses."""
    if part.column == "DATA" and not part.as_jy and measurement_set.unit(ms) != "Jy":
        raise BadDataError(
            f"{ms}: DATA is not in Jy, so the set is not calibrated; calibrate it (dsa110 apply), or say that it is (--as-jy, or "
            "--column CORRECTED_DATA after CASA's applycal)"
        )
    vis = measurement_set.mapped(ms) if part.column == "DATA" else measurement_set.read(ms, part.column)
    vis = _in_subbands(_at_integrations(vis, part.times, ms), part.subbands, ms)
    if part.stokes == "Q":
        vis = _difference(vis)
    if part.phase_centre_deg is not None:
        return phasing.to_common_centre(vis, np.deg2rad(part.phase_centre_deg))
    return vis if vis.common_phase_centre else phasing.to_common_centre(vis)


def subbands_in(vis: Visibilities) -> list[int]:
    """The subbands of which a set has unflagged channels, ascending in number."""
    unflagged = np.flatnonzero(~vis.flags.all(axis=(0, 1, 3)))
    return sorted({band.subband_of(float(vis.frequencies_hz[channel])) for channel in unflagged})


def read_sources(files: Sequence[Path]) -> pd.DataFrame:
    """Catalogue files, best first, and the packaged calibrators, merged as the graph merges them."""
    return catalogues.with_builtin([catalogues.read_catalogue(path) for path in files])


def _at_integrations(vis: Visibilities, times: Range | None, ms: Path) -> Visibilities:
    if times is None:
        return vis
    first, last = times
    if not 0 <= first <= last < vis.times_mjd.size:
        raise BadDataError(f"{ms}: has integrations 0 to {vis.times_mjd.size - 1}, not {first}..{last}; choose among them")
    return at_times(vis, slice(first, last + 1))


def _in_subbands(vis: Visibilities, subbands: Range | None, ms: Path) -> Visibilities:
    if subbands is None:
        return vis
    first, last = subbands
    numbers = np.array([band.subband_of(float(frequency)) for frequency in vis.frequencies_hz])
    keep = np.flatnonzero((numbers >= first) & (numbers <= last))
    if not keep.size:
        raise BadDataError(f"{ms}: has subbands {numbers.min()} to {numbers.max()}, none of {first}..{last}; choose among them")
    channels = slice(int(keep[0]), int(keep[-1]) + 1)
    return replace(
        vis,
        data=np.ascontiguousarray(vis.data[:, :, channels]),
        flags=np.ascontiguousarray(vis.flags[:, :, channels]),
        weights=np.ascontiguousarray(vis.weights[:, :, channels]),
        frequencies_hz=vis.frequencies_hz[channels],
        subbands_missing=tuple(s for s in vis.subbands_missing if first <= s <= last),
    )


def _difference(vis: Visibilities) -> Visibilities:
    """Data with the sign of YY reversed, so that an image made as Stokes I is Q = (XX - YY) / 2. Samples without both receptors are
    flagged."""
    return replace(vis, data=vis.data * np.array([1, -1], np.complex64), flags=np.repeat(vis.flags.any(axis=-1, keepdims=True), 2, axis=-1))
