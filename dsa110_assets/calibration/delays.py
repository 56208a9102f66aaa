"""Delays: the phase slope of a bandpass over frequency, split off into a K table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration.gains import Gains

_PAD = 16
_REFINEMENTS = 3


def phasor(delay_ns: NDArray[np.float64], frequencies_hz: NDArray[np.float64], reference_hz: float) -> NDArray[np.complex128]:
    """Return exp[2 pi i delay (nu - reference)], shape delay.shape + (channel,)."""
    return np.asarray(np.exp(2j * np.pi * 1e-9 * delay_ns[..., None] * (frequencies_hz - reference_hz)))


def split(bandpass: Gains) -> tuple[Gains, Gains]:
    """Return (K, B') with K B' = B. K has one delay [ns] per time and receptor, with phase 0 at the lowest channel as in CASA.

    The delay maximises |sum_nu B/|B| exp(-2 pi i delay nu)|. Receptors without solutions are flagged in K.
    """
    values = np.moveaxis(bandpass.values, 2, -1)
    good = ~np.moveaxis(bandpass.flags, 2, -1)
    reference_hz = float(bandpass.frequencies_hz[0])
    unit = np.where(good, np.exp(1j * np.angle(values)), 0)
    delay_ns = peak_delay_ns(unit, bandpass.frequencies_hz, reference_hz)
    flat = np.where(good, values * phasor(-delay_ns, bandpass.frequencies_hz, reference_hz), 1)
    flags = np.asarray(~good.any(axis=-1))
    snr = np.where(flags, 0, np.median(np.moveaxis(bandpass.snr, 2, -1), axis=-1)).astype(np.float32)
    k = replace(
        bandpass,
        kind="K",
        values=np.where(flags, 0, delay_ns).astype(np.complex128)[:, :, None],
        flags=flags[:, :, None],
        snr=snr[:, :, None],
        frequencies_hz=np.array([reference_hz]),
    )
    return k, replace(bandpass, values=np.moveaxis(flat, -1, 2))


def peak_delay_ns(unit: NDArray[np.complex128], frequencies_hz: NDArray[np.float64], reference_hz: float) -> NDArray[np.float64]:
    """Return the delay [ns] of unit phasors (..., channel) on a regular grid: from a padded transform, refined by slope fits."""
    n_chan = frequencies_hz.size
    if n_chan == 1:
        return np.zeros(unit.shape[:-1])
    step_hz = (frequencies_hz[-1] - frequencies_hz[0]) / (n_chan - 1)
    spectrum = np.fft.fft(unit, n=_PAD * n_chan, axis=-1)
    trial_ns = np.fft.fftfreq(_PAD * n_chan, step_hz) * 1e9
    delay_ns = np.asarray(trial_ns[np.argmax(np.abs(spectrum), axis=-1)])
    x = frequencies_hz - reference_hz
    weight = np.abs(unit)
    for _ in range(_REFINEMENTS):
        residual = unit * phasor(-delay_ns, frequencies_hz, reference_hz)
        total = residual.sum(axis=-1, keepdims=True)
        phase = np.angle(residual * np.exp(-1j * np.angle(total)))
        n = np.maximum(weight.sum(axis=-1), 1)
        mean_x = (weight * x).sum(axis=-1) / n
        centred = weight * (x - mean_x[..., None])
        spread = (centred * x).sum(axis=-1)
        slope = (centred * phase).sum(axis=-1) / np.where(spread > 0, spread, np.inf)
        delay_ns = delay_ns + slope / (2 * np.pi) * 1e9
    return delay_ns
