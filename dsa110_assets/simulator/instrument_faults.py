"""Effects of planted faults on the instrument: lost sky, lost power, delays, swapped feeds, more noise.

The correlator's input p of antenna i records g (s E + n N), where g is its gain, E the sky's field in the feed
connected to it, and N the noise of the system temperature; s and n are 1 on a healthy antenna. Faults first act on
feeds; then cables, gains or labels are exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator.array import Array
from dsa110_assets.simulator.fault_kinds import SignalFault
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.telescope import band

_STREAM_DRIFT = 11
_BAND_CENTRE_HZ = float(np.mean(band.band_frequencies_hz()))
Float = NDArray[np.float64]
Complex = NDArray[np.complex128]
Index = NDArray[np.int64]
FEEDS = {"both": (0, 1), "x": (0,), "y": (1,)}


@dataclass(frozen=True)
class Disturbance:
    """The faults of one group, along antennas as in `array.numbers`.

    `gain` (antenna, channel, feed) multiplies gains, `sky` and `noise` (antenna, feed) the amplitudes of sky and noise.
    `cables`, `gains`, `labels` (antenna,) are True where X and Y are exchanged: inputs with their gains, gains only, or
    the finished products of all the antenna's baselines.
    """

    gain: Complex
    sky: Float
    noise: Float
    cables: NDArray[np.bool_]
    gains: NDArray[np.bool_]
    labels: NDArray[np.bool_]

    def applied_to(self, gains: Complex, response: Float) -> tuple[Complex, Float, Float, Index]:
        """Apply the faults to gains (time, antenna, channel, feed) and sky response (antenna, feed).

        Returns the inputs' gains, responses and noise amplitudes, in the same shapes, and the feed (0: X, 1: Y)
        connected to each input (antenna, pol).
        """
        feed = np.tile(np.arange(2), (self.cables.size, 1))
        feed[self.cables] = [1, 0]
        input_gains = gains * self.gain
        exchanged = self.cables ^ self.gains
        input_gains[:, exchanged] = input_gains[:, exchanged][..., ::-1]
        response, noise = (np.take_along_axis(a, feed, axis=1) for a in (response * self.sky, self.noise))
        return input_gains, response, noise, feed


def disturbance(options: SimulationOptions, array: Array, group: int, frequencies_hz: Float) -> Disturbance:
    """Combine all faults of the group with this index, at frequencies [Hz] (n,)."""
    n = array.numbers.size
    total = Disturbance(
        np.ones((n, frequencies_hz.size, 2), dtype=np.complex128), np.ones((n, 2)), np.ones((n, 2)),
        *(np.zeros(n, dtype=bool) for _ in range(3)),
    )  # fmt: skip
    for fault in options.signal_faults(*_ACTIONS, group=group):
        where = np.searchsorted(array.numbers, np.array(fault.antennas, dtype=np.int64) - 1)
        _ACTIONS[fault.kind](total, fault, where, options, array, frequencies_hz)
    return total


def check_antennas(options: SimulationOptions, array: Array) -> None:
    """Raise ConfigurationError unless the array has every antenna that a fault names."""
    present = [int(number) + 1 for number in array.numbers]
    for fault in options.signal_faults():
        for station in fault.antennas:
            if station not in present:
                raise ConfigurationError(f"fault {fault.kind}: antenna={station}: the array has {', '.join(map(str, present))}")


def truth_details(fault: SignalFault, options: SimulationOptions, array: Array) -> dict[str, Any]:
    """Return what truth.json records beyond a fault's parameters: the errors drawn for gain_drift, per antenna (X, Y)."""
    if fault.kind != "gain_drift":
        return {}
    drift = _drift(fault, options, array)
    log_amplitude, phase_deg = drift.real, np.rad2deg(drift.imag)
    return {
        "errors": [
            {"antenna": int(number) + 1, "ln_amplitude": log_amplitude[i].tolist(), "phase_deg": phase_deg[i].tolist()}
            for i, number in enumerate(array.numbers)
        ]
    }


def _deaf(total: Disturbance, fault: SignalFault, where: Index, *_: Any) -> None:
    for feed in FEEDS[fault.word("receptor")]:
        total.sky[where, feed] = 0


def _quiet(total: Disturbance, fault: SignalFault, where: Index, *_: Any) -> None:
    total.sky[where] = 0
    total.noise[where] *= 10 ** (-fault.number("db") / 20)


def _power_loss(total: Disturbance, fault: SignalFault, where: Index, *_: Any) -> None:
    total.gain[where] *= 10 ** (-fault.number("db") / 20)


def _delay_jump(
    total: Disturbance, fault: SignalFault, where: Index, options: SimulationOptions, array: Array, frequencies_hz: Float
) -> None:
    delays_s = np.broadcast_to(np.array(fault.numbers("ns")) * 1e-9, where.shape)
    from_centre = frequencies_hz - _BAND_CENTRE_HZ
    total.gain[where] *= np.exp(2j * np.pi * delays_s[:, None] * from_centre)[..., None]


def _gain_drift(
    total: Disturbance, fault: SignalFault, where: Index, options: SimulationOptions, array: Array, frequencies_hz: Float
) -> None:
    total.gain[:] *= np.exp(_drift(fault, options, array))[:, None, :]


def _drift(fault: SignalFault, options: SimulationOptions, array: Array) -> Complex:
    """(antenna, feed): ln of the gain errors; depends only on seed, antenna, feed and the fault's groups."""
    size = fault.number("amplitude") + 1j * np.deg2rad(fault.number("phase_deg"))
    last = -1 if fault.last is None else fault.last
    draws = np.array(
        [
            np.random.default_rng([options.seed, _STREAM_DRIFT, int(number), feed, fault.first, last + 1]).normal(size=2)
            for number in array.numbers
            for feed in (0, 1)
        ]
    ).reshape(-1, 2, 2)
    return np.asarray(size.real * draws[..., 0] + 1j * size.imag * draws[..., 1])


def _swapped_feeds(total: Disturbance, fault: SignalFault, where: Index, *_: Any) -> None:
    which = {"inputs": total.cables, "labels": total.labels, "gains": total.gains}[fault.word("how")]
    which[where] = True


def _power_down(total: Disturbance, fault: SignalFault, where: Index, *_: Any) -> None:
    total.gain[:] *= np.sqrt(fault.number("factor"))


def _noise_up(total: Disturbance, fault: SignalFault, where: Index, *_: Any) -> None:
    total.noise[where] *= np.sqrt(fault.number("factor"))


def _receptor_noise(total: Disturbance, fault: SignalFault, where: Index, *_: Any) -> None:
    total.noise[:, 1] *= np.sqrt(fault.number("ratio"))


_ACTIONS: dict[str, Callable[..., None]] = {
    "deaf_antenna": _deaf,
    "quiet_antenna": _quiet,
    "power_loss": _power_loss,
    "delay_jump": _delay_jump,
    "gain_drift": _gain_drift,
    "swapped_feeds": _swapped_feeds,
    "power_down": _power_down,
    "noise_up": _noise_up,
    "receptor_noise": _receptor_noise,
}
