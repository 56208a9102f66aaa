"""Visibilities of a model of few pixels, summed directly: quicker than gridding up to hundreds of them."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.imaging.attenuation import Attenuation
from dsa110_assets.imaging.gridding import Gridder

_MOST_TERMS = 5e8
"""Components x visibilities up to which a direct sum (1 ns each) beats degridding the model and its terms."""
_UNEVEN = 1e-9
"""Relative unevenness of channels above which phases cannot be stepped from one to the next."""


def is_quicker(n_components: int, gridder: Gridder) -> bool:
    """Whether `predict` is the quicker way, and possible: channels must be evenly spaced."""
    frequencies = gridder.frequencies_hz
    if n_components * gridder.uvw_m.shape[0] * frequencies.size > _MOST_TERMS:
        return False
    steps = np.diff(frequencies)
    return steps.size == 0 or float(np.ptp(steps)) <= _UNEVEN * float(frequencies[0])


def predict(
    model: NDArray[np.float32], gridder: Gridder, attenuation: Attenuation, n_times: int
) -> NDArray[np.complex64]:
    """Visibilities (row, channel) complex64 of a model [Jy/pixel], each sample dimmed as `attenuation` says.

    The same sum that `gridder` approximates, to single precision.
    """
    rows, columns = np.nonzero(model)
    middle = model.shape[0] // 2
    l, m = (middle - columns) * gridder.pixel_rad, (rows - middle) * gridder.pixel_rad
    lmn = np.stack([l, m, np.sqrt(1 - l * l - m * m) - 1])
    channels = gridder.frequencies_hz.size
    seen = np.ones((n_times, channels, rows.size), dtype=np.float32)
    for pattern, ratio in attenuation.terms:
        seen += pattern[:, :, None] * ratio[rows, columns]
    seen *= model[rows, columns]
    first = 2 * np.pi * gridder.frequencies_hz[0] / speed_of_light
    step = (
        2 * np.pi * (gridder.frequencies_hz[1] - gridder.frequencies_hz[0]) / speed_of_light
        if channels > 1
        else 0.0
    )
    out = np.empty((gridder.uvw_m.shape[0], channels), dtype=np.complex64)
    _sum(gridder.uvw_m, lmn, first, step, seen, out)
    return out


@njit(cache=True, parallel=True, fastmath=True)
def _sum(uvw, lmn, first, step, seen, out):  # type: ignore[no-untyped-def]
    n_sources = lmn.shape[1]
    rows_per_time = uvw.shape[0] // seen.shape[0]
    for row in prange(uvw.shape[0]):
        time = row // rows_per_time
        path = uvw[row, 0] * lmn[0] + uvw[row, 1] * lmn[1] + uvw[row, 2] * lmn[2]
        real, imag = np.cos(first * path), np.sin(first * path)
        turn_real, turn_imag = np.cos(step * path), np.sin(step * path)
        for channel in range(out.shape[1]):
            total_real, total_imag = 0.0, 0.0
            for k in range(n_sources):
                total_real += seen[time, channel, k] * real[k]
                total_imag += seen[time, channel, k] * imag[k]
                turned = real[k] * turn_real[k] - imag[k] * turn_imag[k]
                imag[k] = real[k] * turn_imag[k] + imag[k] * turn_real[k]
                real[k] = turned
            out[row, channel] = complex(total_real, total_imag)
