"""The frequency table used everywhere: 16 subbands of 11.71875 MHz, descending from 1530 MHz.

Source: the correlator's own writer. Channel k of subband s is the mean of `384 / n_channels` fine channels
of 30.517578125 kHz, the first of which is fine channel 1024 + 384 s below the band top of 1530 MHz.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BAND_TOP_HZ = 1530e6
FINE_CHANNEL_HZ = 250e6 / 8192
FIRST_FINE_CHANNEL = 1024
FINE_PER_SUBBAND = 384
N_SUBBANDS = 16
N_CHANNELS = 48
"""Channels per subband as the telescope writes them."""
SUBBAND_WIDTH_HZ = FINE_PER_SUBBAND * FINE_CHANNEL_HZ


def channel_width_hz(n_channels: int = N_CHANNELS) -> float:
    """Width of one channel [Hz, positive] when a subband is written with `n_channels` channels.

    Raises ValueError unless `n_channels` divides the 384 fine channels of a subband.
    """
    if n_channels < 1 or FINE_PER_SUBBAND % n_channels:
        raise ValueError(f"{n_channels} channels per subband: must divide {FINE_PER_SUBBAND}")
    return SUBBAND_WIDTH_HZ / n_channels


def subband_frequencies_hz(subband: int, n_channels: int = N_CHANNELS) -> NDArray[np.float64]:
    """Channel centres [Hz] of one subband in file order (descending), shape (n_channels,) float64."""
    if not 0 <= subband < N_SUBBANDS:
        raise ValueError(f"subband {subband}: must be 0..{N_SUBBANDS - 1}")
    per_channel = round(channel_width_hz(n_channels) / FINE_CHANNEL_HZ)
    centre = FIRST_FINE_CHANNEL + FINE_PER_SUBBAND * subband + np.arange(n_channels) * per_channel
    return np.asarray(BAND_TOP_HZ - (centre + (per_channel - 1) / 2) * FINE_CHANNEL_HZ, dtype=np.float64)


def band_frequencies_hz(n_subbands: int = N_SUBBANDS, n_channels: int = N_CHANNELS) -> NDArray[np.float64]:
    """Channel centres [Hz] of subbands 0..n_subbands-1 in measurement-set order (ascending), float64."""
    descending = [subband_frequencies_hz(s, n_channels) for s in range(n_subbands)]
    return np.concatenate(descending)[::-1].copy()


def subband_of(frequency_hz: float) -> int:
    """The subband that contains `frequency_hz`. Raises ValueError outside the band."""
    subband = int(np.floor((BAND_TOP_HZ - frequency_hz) / FINE_CHANNEL_HZ + 0.5 - FIRST_FINE_CHANNEL) // FINE_PER_SUBBAND)
    if not 0 <= subband < N_SUBBANDS:
        raise ValueError(f"{frequency_hz / 1e6:.6f} MHz lies outside the band")
    return subband
