"""pyuvdata as a second reader of subband files: without projection or checks; only its arrays are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyuvdata import UVData

from dsa110_assets.errors import DsaError
from dsa110_assets.telescope import earth

_XX_YY = (-5, -6)


def load(
    path: Path,
    frequencies_hz: NDArray[np.float64],
    rows: NDArray[np.int32],
    baselines: tuple[NDArray[np.int32], NDArray[np.int32]],
    data: NDArray[Any],
    flags: NDArray[Any],
    weights: NDArray[Any],
) -> None:
    """Fill (time, baseline, channel, pol) arrays, in place, from `rows` (time, baseline in the file) of a file.

    `baselines` are (ant1, ant2) of the arrays, ant1 <= ant2; channels ascend. A sample that is not finite becomes 0 and is flagged,
    with weight 0. Raises DsaError if the frequencies that pyuvdata reads differ from `frequencies_hz` (channel,), in the file's order.
    """
    uvd = UVData()
    with earth.bulletins_as_installed():
        uvd.read(str(path), file_type="uvh5", run_check=False)
    values, marks = uvd.data_array[rows], uvd.flag_array[rows]
    if not np.array_equal(uvd.freq_array.ravel(), frequencies_hz):
        raise DsaError(f"{path}: pyuvdata and the direct reader disagree on the frequencies")
    number = {n: i for i, n in enumerate(uvd.telescope.antenna_numbers)}
    ant1, ant2 = (np.array([number[n] for n in ends[rows[0]]]) for ends in (uvd.ant_1_array, uvd.ant_2_array))
    pols = list(uvd.polarization_array)
    step = -1 if frequencies_hz.size > 1 and frequencies_hz[1] < frequencies_hz[0] else 1
    for row, (first, second) in enumerate(zip(ant1, ant2, strict=True)):
        baseline = int(np.flatnonzero((baselines[0] == min(first, second)) & (baselines[1] == max(first, second)))[0])
        for p, code in enumerate(_XX_YY):
            value = values[:, row, ::step, pols.index(code)]
            bad = ~np.isfinite(value)
            value = np.where(bad, 0, value)
            data[:, baseline, :, p] = value.conj() if first > second else value
            flags[:, baseline, :, p] = marks[:, row, ::step, pols.index(code)] | bad
            weights[:, baseline, :, p] = ~bad
