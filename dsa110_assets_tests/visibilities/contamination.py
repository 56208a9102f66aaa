"""All interference of a group in the order of a measurement set: the truth that flags are compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.simulator import array as arrays
from dsa110_assets.simulator import instrument, interference, transmitters
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.schedule import ScheduledGroup
from dsa110_assets.telescope import band


def visibilities(options: SimulationOptions, group: ScheduledGroup) -> NDArray[np.complex64]:
    """Interference [Jy] (time, baseline, channel): tones, bursts and planted transmitters, before gains.

    Baselines ant1 <= ant2 in ascending order, autocorrelations among them; channels ascending.
    """
    array, width = arrays.build(options), band.channel_width_hz(options.channels)
    order, dec_rad = _order(array), float(np.deg2rad(options.dec_deg))
    swapped = (array.baselines[0] > array.baselines[1])[order]
    out = np.empty((options.integrations, order.size, options.subbands * options.channels), np.complex64)
    flashes = interference.bursts(options, group, array)
    for subband in range(options.subbands):
        frequencies = band.subband_frequencies_hz(subband, options.channels)
        added = np.zeros((options.integrations, order.size, options.channels), np.complex128)
        interference.add(added, array, interference.tones(options), flashes, dec_rad, frequencies, width, options.seed)
        for item in transmitters.planted(options.signal_faults(group=group.index)):
            transmitters.add(added, array, item, dec_rad, frequencies, width, options.seed)
        added = added[:, order, ::-1]
        first = out.shape[2] - (subband + 1) * options.channels
        out[:, :, first : first + options.channels] = np.where(swapped[:, None], added.conj(), added)
    return out


def gains(options: SimulationOptions, group: ScheduledGroup) -> NDArray[np.complex64]:
    """g_1 conj(g_2) of the receptors (time, baseline, channel, pol), without gain faults, in the same order; 0 for dead receptors."""
    array = arrays.build(options)
    made = instrument.build(options, array)
    values = made.gains(group.night, group.times_mjd, band.band_frequencies_hz(options.subbands, options.channels))
    values = values * made.sky_response()[None, :, None, :]
    low, high = np.searchsorted(array.numbers, np.sort(np.stack(array.baselines), axis=0)[:, _order(array)])
    return np.asarray(values[:, low] * values[:, high].conj(), dtype=np.complex64)


def _order(array: arrays.Array) -> NDArray[np.int64]:
    low, high = np.sort(np.stack(array.baselines), axis=0)
    return np.asarray(np.lexsort((high, low)))
