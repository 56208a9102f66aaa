"""The system's flux density for each receptor during the calibrator's transit: a small file beside a set's tables."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration.apply import total_gains
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities.types import Visibilities

FILE = "receptors.json"
_MOST_CHANNELS = 64
Receptors = dict[str, tuple[float, float]]
"""A number for each antenna's X and Y, NaN where the receptor is dead or the number unknown."""


def system_jy(vis: Visibilities, tables: Sequence[Gains]) -> Receptors:
    """Return the system equivalent flux density [Jy] of every receptor with data.

    The median over integrations and channels (some sixty of them) of corrected autocorrelations |V| / |g|^2, the
    arithmetic of apply.weight_factors. NaN for dead receptors and without autocorrelation.
    """
    rows = np.flatnonzero(vis.is_auto)
    channels = slice(None, None, max(1, vis.frequencies_hz.size // _MOST_CHANNELS))
    data = np.stack(
        [integration[rows][:, channels] for integration in vis.data]
    )  # autocorrelations are all flagged, so that they are not imaged
    antennas = vis.ant1[rows]
    frame = replace(
        vis, data=data, flags=np.zeros(data.shape, np.bool_), weights=np.ones(data.shape, np.float32), ant1=antennas, ant2=antennas,
        uvw_m=vis.uvw_m[:, rows], frequencies_hz=vis.frequencies_hz[channels],
    )  # fmt: skip
    gains, good = total_gains(frame, tables)
    power = np.where(good, gains.real**2 + gains.imag**2, np.nan)[:, antennas]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the median of a dead receptor is to be NaN
        medians = np.nanmedian(np.where(data.real <= 0, np.nan, data.real) / power, axis=(0, 2))
    unknown = {vis.antennas.names[a]: (math.nan, math.nan) for a in vis.active_antennas}
    return unknown | {vis.antennas.names[a]: (float(x), float(y)) for a, (x, y) in zip(antennas, medians, strict=True)}


def amplitudes(bandpass: Gains) -> Receptors:
    """The median gain amplitude of every receptor with solutions, in raw units per sqrt(Jy); NaN for the others."""
    return _medians(bandpass, np.abs(bandpass.values))


def snr(table: Gains) -> Receptors:
    """The median signal-to-noise of every receptor with solutions; NaN for the others."""
    return _medians(table, table.snr)


def _medians(table: Gains, of: NDArray[np.float64] | NDArray[np.float32]) -> Receptors:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        medians = np.nanmedian(np.where(table.flags, np.nan, of), axis=(0, 2))
    return {name: (float(x), float(y)) for name, (x, y) in zip(table.antenna_names, medians, strict=True)}


def scales(sets: Sequence[Mapping[str, tuple[float, float]]]) -> NDArray[np.float64]:
    """Flux scales of sets of gains by their amplitudes, relative to their middle: (set,), NaN without common receptors.

    Data calibrated with a set whose calibrator is brighter than its model by a factor f have too large gains by sqrt f:
    squares of amplitudes of the same receptors are in the ratio of the scales, apart from the drift of the instrument's gains.
    """
    names = sorted({name for of_set in sets for name in of_set})
    unknown = (math.nan, math.nan)
    log = np.log(np.array([[of_set.get(name, unknown) for name in names] for of_set in sets], np.float64).reshape(len(sets), -1))
    common = log[:, np.isfinite(log).all(axis=0)]
    if not common.shape[1]:
        return np.full(len(sets), np.nan)
    return np.asarray(np.exp(2 * np.median(common - np.median(common, axis=0), axis=1)))


def write(directory: Path, system: Mapping[str, tuple[float, float]]) -> None:
    """Write the set's file."""
    plain = {name: [value if math.isfinite(value) else None for value in pair] for name, pair in system.items()}
    (directory / FILE).write_text(json.dumps({"system_jy": plain}, indent=1), encoding="utf-8")


def read_receptors(set_directory: Path) -> Receptors:
    """Return the system's flux density [Jy] by antenna name, X and Y, during the calibrator's transit of the set in this directory.

    NaN for dead or unknown receptors; empty for a set that was made before this file existed. Raises BadDataError for a
    file of another form.
    """
    try:
        stored = json.loads((set_directory / FILE).read_text(encoding="utf-8"))["system_jy"]
        return {name: (_number(x), _number(y)) for name, (x, y) in stored.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadDataError(f"{set_directory / FILE} does not hold system_jy of receptors ({error})") from None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
