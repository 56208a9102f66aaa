"""The receivers: gains, thermal noise, dead receptors and raw units applied to true visibilities."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.simulator import instrument_faults
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
    frequencies_hz: Float, width_hz: float, stokes_q: NDArray[np.complex128] | None = None,
) -> NDArray[np.complex64]:  # fmt: skip
    """Raw data (time x row, 1, channel, pol) complex64, time-major, from true visibilities (time, row, channel) [Jy].

    XX = I + Q and YY = I - Q of the sky, with Q = 0 if omitted; noise is independent. Autocorrelations contain the
    system's power, SEFD (1 + noise). Dead receptors correlate only noise; dead antennas write zeros; the run's faults
    of the instrument act where they are planted.
    """
    o, array = instrument.options, instrument.array
    ant1, ant2 = (np.searchsorted(array.numbers, a) for a in array.baselines)
    faults = instrument_faults.disturbance(o, array, group.index, frequencies_hz)
    gains, response, noise_amplitude, feed = faults.applied_to(
        instrument.gains(group.night, group.times_mjd, frequencies_hz), instrument.sky_response()
    )
    alive = (~np.isin(array.numbers, instrument.dead_antennas)).astype(np.float64)
    rng = group_seed(o, group.times_mjd, _STREAM_NOISE, subband)
    shape = (*true.shape, 2)
    out = np.empty((true.shape[0] * true.shape[1], 1, true.shape[2], 2), dtype=np.complex64)
    sigma = noise_sigma_jy(o.sefd_jy, width_hz) * o.noise_scale
    view = out.reshape(shape)
    no_q = np.zeros((0, 0), dtype=np.complex128)
    for t in range(true.shape[0]):  # integration by integration, so that the noise of a whole file need not fit in memory
        noise = rng.standard_normal((*shape[1:], 2), dtype=np.float32)
        q = no_q if stokes_q is None else stokes_q[t]
        _corrupt(true[t], q, gains[t], response, noise_amplitude, feed, alive, faults.labels, ant1, ant2, noise, sigma, o.sefd_jy, view[t])
    return out


@numba.njit(cache=True)
def _corrupt(true, q, gains, response, noise_amplitude, feed, alive, labels, ant1, ant2, noise, sigma, sefd, out):  # type: ignore[no-untyped-def]
    n_rows, n_channels = true.shape
    for row in range(n_rows):
        i, j = ant1[row], ant2[row]
        live = alive[i] * alive[j]
        swapped = 1 if labels[i] or labels[j] else 0
        for k in range(n_channels):
            for p in range(2):
                sky = true[row, k]
                if q.size:
                    sky += (1 - 2 * feed[i, p]) * q[row, k]
                # X of one antenna with Y of the other: linear feeds have no common signal from I and Q
                value = sky * response[i, p] * response[j, p] if feed[i, p] == feed[j, p] else 0j
                noise_product = noise_amplitude[i, p] * noise_amplitude[j, p]
                if i == j:
                    # the power of one receptor fluctuates by SEFD / sqrt(dnu dt), sqrt 2 more than one part of a
                    # cross-correlation
                    value = complex(value.real + noise_product * sefd + np.sqrt(2.0) * sigma * noise_product * noise[row, k, p, 0], 0.0)
                else:
                    value += sigma * noise_product * complex(noise[row, k, p, 0], noise[row, k, p, 1])
                out[row, k, p ^ swapped] = live * gains[i, k, p] * np.conj(gains[j, k, p]) * value
