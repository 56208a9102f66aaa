"""What the receivers make of true visibilities: gains, thermal noise, dead receptors, raw units."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.simulator.instrument import Instrument
from dsa110_assets.simulator.schedule import ScheduledGroup, group_seed
from dsa110_assets.telescope import timegrid

_STREAM_NOISE = 10
Float = NDArray[np.float64]


def noise_sigma_jy(sefd_jy: float, width_hz: float, interval_s: float = timegrid.INTEGRATION_S) -> float:
    """Thermal noise [Jy] per real and imaginary part of one polarisation product: SEFD / sqrt(2 dnu dt)."""
    return float(sefd_jy / np.sqrt(2 * width_hz * interval_s))


def record(
    true: NDArray[np.complex128], instrument: Instrument, group: ScheduledGroup, subband: int,
    frequencies_hz: Float, width_hz: float,
) -> NDArray[np.complex64]:  # fmt: skip
    """Raw data (time x row, 1, channel, pol) complex64, time-major, of true visibilities (time, row, channel)
    [Jy].

    XX = YY = I for the sky; noise is independent. Autocorrelations carry the system's power, SEFD (1 +
    noise). Dead receptors correlate noise only; dead antennas write zeros.
    """
    o, array = instrument.options, instrument.array
    ant1, ant2 = (np.searchsorted(array.numbers, a) for a in array.baselines)
    gains = instrument.gains(group.night, group.times_mjd, frequencies_hz)
    sees = instrument.sky_response()
    alive = (~np.isin(array.numbers, instrument.dead_antennas)).astype(np.float64)
    rng = group_seed(o, group.times_mjd, _STREAM_NOISE, subband)
    shape = (*true.shape, 2)
    out = np.empty((true.shape[0] * true.shape[1], 1, true.shape[2], 2), dtype=np.complex64)
    sigma = noise_sigma_jy(o.sefd_jy, width_hz) * o.noise_scale
    view = out.reshape(shape)
    for t in range(
        true.shape[0]
    ):  # integration by integration: the noise of a whole file need not fit in memory
        noise = rng.standard_normal((*shape[1:], 2), dtype=np.float32)
        _corrupt(true[t], gains[t], sees, alive, ant1, ant2, noise, sigma, o.sefd_jy, view[t])
    return out


@numba.njit(cache=True)
def _corrupt(true, gains, sees, alive, ant1, ant2, noise, sigma, sefd, out):  # type: ignore[no-untyped-def]
    n_rows, n_channels = true.shape
    for row in range(n_rows):
        i, j = ant1[row], ant2[row]
        live = alive[i] * alive[j]
        for k in range(n_channels):
            for p in range(2):
                value = true[row, k] * sees[i, p] * sees[j, p]
                if i == j:
                    # the power of one receptor fluctuates by SEFD / sqrt(dnu dt), sqrt 2 above one part of a
                    # cross
                    value = complex(value.real + sefd + np.sqrt(2.0) * sigma * noise[row, k, p, 0], 0.0)
                else:
                    value += sigma * complex(noise[row, k, p, 0], noise[row, k, p, 1])
                out[row, k, p] = live * gains[i, k, p] * np.conj(gains[j, k, p]) * value
