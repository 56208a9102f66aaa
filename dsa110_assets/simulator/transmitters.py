"""Planted interference of known kinds: satellites that move, wide transmitters, radar, frequency hopping, combs.

The visibility of a transmitter in direction s, for which the correlator's delays were not set, is V = P g_1 g_2 exp[2
pi i nu tau] sinc(dnu tau) sinc(nu tau' dt), with tau = (b . s - w) / c and tau' its rate while the transmitter moves
and the correlator follows the sky inside an integration; g are the dishes' sidelobes, which change with s. The sinc
factors are the averages over a channel and an integration, as in `measurement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.simulator import fault_kinds
from dsa110_assets.simulator.array import Array
from dsa110_assets.simulator.fault_kinds import SignalFault
from dsa110_assets.simulator.measurement import uvw_rate_m_s
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.telescope import band, site, stations, timegrid

SIDELOBE_SCATTER = 0.5
"""Standard deviation of the natural logarithm of a dish's sidelobe amplitude, between dishes and directions."""
_SIDELOBES, _STREAM_SIDELOBES, _STREAM_HOPS = 6, 11, 12
_LINE_HZ = 10e3
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Transmitter:
    """One planted transmitter; times are from the start of each group's first integration.

    power_jy: flux density at the middle of its spectrum through a sidelobe of gain 1. Its direction at the middle of
    its time on is azimuth (north through east) and elevation; it moves by rate_deg_s along a great circle that leaves
    there at heading_deg from the zenith's direction. Medium-orbit satellites move by 0.01 degrees a second, low ones by
    0.05 to 1. Spectrum: raised cosine of full width at half power width_mhz, `rolloff` 0 (a box) to 1. A comb has lines
    of 10 kHz every spacing_mhz within it. Hopping occupies, in every integration, `hops` random places of that width
    within span_mhz. Radar (12 s per turn, 1.24 to 1.35 GHz for air surveillance) sweeps over the dishes every period_s.
    """

    kind: str
    power_jy: float
    centre_mhz: float
    width_mhz: float
    rolloff: float
    start_s: float
    duration_s: float
    azimuth_deg: float
    elevation_deg: float
    rate_deg_s: float
    heading_deg: float
    spacing_mhz: float = 0.0
    span_mhz: float = 0.0
    hops: float = 0.0
    period_s: float = 0.0


def planted(faults: Sequence[SignalFault]) -> tuple[Transmitter, ...]:
    """The transmitters among the faults."""
    return tuple(from_fault(fault) for fault in faults if fault_kinds.KINDS[fault.kind].where == "interference")


def from_fault(fault: SignalFault) -> Transmitter:
    """The transmitter that a fault of interference describes."""
    return Transmitter(fault.kind, **{name: float(value) for name, value in fault.values if isinstance(value, float)})


def truth_details(fault: SignalFault, options: SimulationOptions) -> dict[str, Any]:
    """Return what truth.json records beyond a fault's values: `touched`, ranges [integration, low MHz, high MHz] that
    contain any of its power."""
    if fault_kinds.KINDS[fault.kind].where != "interference":
        return {}
    frequencies, width = band.band_frequencies_hz(options.subbands, options.channels), band.channel_width_hz(options.channels)
    touched = spectra(from_fault(fault), options.integrations, frequencies, width, options.seed) > 0
    edges = np.diff(np.pad(touched, ((0, 0), (1, 1))).astype(int), axis=1)
    ranges = zip(*np.nonzero(edges > 0), np.nonzero(edges < 0)[1] - 1, strict=True)
    low, high = (frequencies - width / 2) / 1e6, (frequencies + width / 2) / 1e6
    return {"touched": [[int(t), round(float(low[first]), 6), round(float(high[last]), 6)] for t, first, last in ranges]}


def add(
    true: NDArray[np.complex128], array: Array, item: Transmitter, dec_rad: float, frequencies_hz: Float, width_hz: float,
    seed: int,
) -> NDArray[np.bool_]:  # fmt: skip
    """Add a transmitter [Jy] to true visibilities (time, row, channel) in place; return the (time, channel) it touches."""
    power = spectra(item, true.shape[0], frequencies_hz, width_hz, seed)
    ant1, ant2 = array.baselines
    uvw, ground = array.static_uvw_m(dec_rad), array.static_uvw_m(0.0)
    tracked = uvw_rate_m_s(uvw, dec_rad)[:, 2]
    for t in np.flatnonzero(power.any(axis=1)):
        towards, motion = direction(item, (t + 0.5) * timegrid.INTEGRATION_S)
        delay = (ground @ towards - uvw[:, 2]) / speed_of_light
        rate = (ground @ motion - tracked) / speed_of_light
        lobe = sidelobes(towards, len(array.relative_m), seed)
        channels = np.flatnonzero(power[t])
        frequencies = frequencies_hz[channels]
        response = np.exp(2j * np.pi * delay[:, None] * frequencies) * np.sinc(width_hz * delay)[:, None]
        response *= np.sinc(rate[:, None] * frequencies * timegrid.INTEGRATION_S) * (lobe[ant1] * lobe[ant2])[:, None]
        true[t][:, channels] += power[t, channels] * response
    return np.asarray(power > 0)


def spectra(item: Transmitter, n_times: int, frequencies_hz: Float, width_hz: float, seed: int) -> Float:
    """Flux density (time, channel) [Jy] at sidelobe gain 1, averaged over each integration and channel."""
    begin = np.arange(n_times) * timegrid.INTEGRATION_S
    end = begin + timegrid.INTEGRATION_S
    on = np.clip(np.minimum(end, item.start_s + item.duration_s) - np.maximum(begin, item.start_s), 0, None)
    part = on / timegrid.INTEGRATION_S
    centre, width = item.centre_mhz * 1e6, item.width_mhz * 1e6
    if item.kind == "hopping":
        rng = np.random.default_rng([seed, _STREAM_HOPS])
        places = centre + (rng.uniform(-0.5, 0.5, (n_times, int(item.hops)))) * item.span_mhz * 1e6
        spectrum = np.stack([sum(_raised_cosine(frequencies_hz - place, width, item.rolloff) for place in row) for row in places])
        return np.asarray(item.power_jy * part[:, None] * spectrum)
    spectrum = _raised_cosine(frequencies_hz - centre, width, item.rolloff)
    if item.kind == "comb":
        turns = frequencies_hz / (item.spacing_mhz * 1e6)
        spectrum = spectrum * (np.abs(turns - np.round(turns)) * item.spacing_mhz * 1e6 <= width_hz / 2) * (_LINE_HZ / width_hz)
    if item.kind == "radar":
        sweeps = np.floor(end / item.period_s) - np.floor(begin / item.period_s)
        part = part * sweeps * item.period_s / timegrid.INTEGRATION_S
    return np.asarray(item.power_jy * part[:, None] * spectrum)


def direction(item: Transmitter, time_s: float) -> tuple[Float, Float]:
    """(unit vector, its rate per second) of a transmitter in the frame of declination 0: east, celestial pole, equator on the meridian."""
    azimuth, elevation, heading = np.deg2rad([item.azimuth_deg, item.elevation_deg, item.heading_deg])
    middle = _local(np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth), np.sin(elevation))
    up = _local(-np.sin(elevation) * np.sin(azimuth), -np.sin(elevation) * np.cos(azimuth), np.cos(elevation))
    right = _local(np.cos(azimuth), -np.sin(azimuth), 0.0)
    along = np.cos(heading) * up + np.sin(heading) * right
    rate = np.deg2rad(item.rate_deg_s)
    angle = rate * (time_s - item.start_s - item.duration_s / 2)
    return np.cos(angle) * middle + np.sin(angle) * along, rate * (np.cos(angle) * along - np.sin(angle) * middle)


def sidelobes(towards: Float, n: int, seed: int) -> Float:
    """Sidelobe amplitude of every dish (station,) towards a direction: log-normal, varying on the scale of a dish's resolution."""
    rng = np.random.default_rng([seed, _STREAM_SIDELOBES])
    waves = rng.normal(size=(n, _SIDELOBES, 3)) * stations.DISH_DIAMETER_M * 1.4e9 / speed_of_light
    turns = waves @ towards + rng.uniform(size=(n, _SIDELOBES))
    return np.asarray(np.exp(SIDELOBE_SCATTER * np.sqrt(2 / _SIDELOBES) * np.cos(2 * np.pi * turns).sum(axis=1)))


def _raised_cosine(offset_hz: Float, width_hz: float, rolloff: float) -> Float:
    """1 inside, 1/2 at +- width / 2, 0 from (1 + rolloff) width / 2 outwards."""
    place = np.abs(offset_hz) / width_hz
    if rolloff == 0:
        return np.asarray((place <= 0.5).astype(float))
    return np.asarray(0.5 * (1 + np.cos(np.pi * np.clip((place - 0.5 * (1 - rolloff)) / rolloff, 0, 1))) * (place < 0.5 * (1 + rolloff)))


def _local(east: float, north: float, up: float) -> Float:
    latitude = np.deg2rad(site.LATITUDE_DEG)
    pole, equator = np.cos(latitude) * north + np.sin(latitude) * up, np.cos(latitude) * up - np.sin(latitude) * north
    return np.array([east, pole, equator])
