"""Interpolate gains between two transits, assuming that they drifted steadily from one to the other.

Two sets of tables are compared receptor by receptor, both with phases relative to one antenna. The phase change between them is
split into a delay, a phase at the band's centre, and a remainder per channel. Each of these is interpolated linearly in time, and so
are amplitudes. Phase wraps over the band, also different ones in the two sets, make no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration import apply, receptors
from dsa110_assets.calibration.delays import peak_delay_ns, phasor
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.reference import MIN_GOOD_FRACTION, rotate
from dsa110_assets.visibilities.types import Visibilities

AMBIGUOUS_RAD = np.deg2rad(135)
"""A phase change beyond this may as well have gone the other way round. If changes scatter by as much as 60 degrees, one in a hundred
that appear as 135 is in truth -225: exp[-(225^2 - 135^2) / (2 60^2)]."""
LEAST_COHERENCE = 0.5
"""Least mean phasor of channels with delay and phase removed: that of a scatter of 67 degrees, exp(-sigma^2 / 2)."""
_RECEPTORS = "XY"


@dataclass(frozen=True)
class Interpolated:
    """Interpolated gains. gains: a table of kind "B" at the observation's first and last integration. nearest: receptors ("20X") whose
    two solutions disagree too much, for which the nearer one is used. one_sided: receptors with solutions in only one set, which are
    used.
    """

    gains: Gains
    nearest: tuple[str, ...]
    one_sided: tuple[str, ...]


@dataclass(frozen=True)
class _GridSet:
    """One set on an observation's grid: values (antenna, channel, pol) complex128, good (same shape), snr (antenna, pol), NaN where
    unknown."""

    values: NDArray[np.complex128]
    good: NDArray[np.bool_]
    snr: NDArray[np.float64]


@dataclass(frozen=True)
class _Receptor:
    """One receptor's gains at the required times: values (time, channel), good (channel,), and how they were obtained."""

    values: NDArray[np.complex128]
    good: NDArray[np.bool_]
    nearest: bool = False
    one_sided: bool = False


def interpolate(frame: Visibilities, before: Sequence[Gains], after: Sequence[Gains], mids_mjd: tuple[float, float]) -> Interpolated:
    """Return the gains of an observation with the axes of `frame`, from the tables of a set before and of one after it.

    `mids_mjd` are the times the sets are valid for, the middles of their transits; the tables' solution intervals are
    interpolated to these. A channel with a solution in only one set uses that one, with the phase change and scaling of the receptor's
    other channels. Raises BadDataError if a bandpass does not have the data's channels.
    """
    first, last = (_on_grid(frame, tables, mid) for tables, mid in zip((before, after), mids_mjd, strict=True))
    refant = _reference(first.good & last.good, frame.antennas.names, before)
    old, new = (_referred(grid_set, refant) for grid_set in (first, last))
    times = frame.times_mjd[[0, -1]] if frame.times_mjd.size > 1 else frame.times_mjd
    shares = (times - mids_mjd[0]) / (mids_mjd[1] - mids_mjd[0])
    values = np.ones((times.size, *first.good.shape), np.complex128)
    good = np.zeros(values.shape, np.bool_)
    nearest, one_sided = [], []
    for a, name in enumerate(frame.antennas.names):
        for p, letter in enumerate(_RECEPTORS):
            receptor = _receptor((old[a, :, p], new[a, :, p]), (first.good[a, :, p], last.good[a, :, p]), shares, frame.frequencies_hz)
            good[:, a, :, p] = receptor.good
            values[:, a, :, p] = np.where(receptor.good, receptor.values, 1)
            nearest += [f"{name}{letter}"] * receptor.nearest
            one_sided += [f"{name}{letter}"] * receptor.one_sided
    snr = np.where(good, np.fmin(first.snr, last.snr)[:, None], 0)
    fields = " and ".join(dict.fromkeys(tables[0].field_name for tables in (before, after)))
    span_s = frame.times_mjd.size * frame.interval_s / times.size
    gains = Gains("B", values, ~good, snr.astype(np.float32), times, span_s, frame.frequencies_hz, frame.antennas.names, refant, fields)
    return Interpolated(gains, tuple(nearest), tuple(one_sided))


def _on_grid(frame: Visibilities, tables: Sequence[Gains], mjd: float) -> _GridSet:
    values, good = apply.total_gains(replace(frame, times_mjd=np.array([mjd])), tables)
    shape = (len(frame.antennas.names), frame.frequencies_hz.size, 2)
    known_snr = [receptors.snr(table) for table in tables]
    unknown = (np.nan, np.nan)
    snr = [np.fmin.reduce([of_table.get(name, unknown) for of_table in known_snr]) for name in frame.antennas.names]
    return _GridSet(np.broadcast_to(values[0], shape), np.broadcast_to(good[0], shape), np.array(snr))


def _reference(common: NDArray[np.bool_], names: Sequence[str], before: Sequence[Gains]) -> int:
    """Return the antenna that both sets' phases are relative to: the earlier set's reference antenna if it is good enough in both, else
    the best."""
    share = common.mean(axis=(1, 2))
    earlier_reference = before[0].antenna_names[before[0].refant]
    index = names.index(earlier_reference) if earlier_reference in names else -1
    return index if index >= 0 and share[index] > MIN_GOOD_FRACTION * share.max() else int(np.argmax(share))


def _referred(grid_set: _GridSet, refant: int) -> NDArray[np.complex128]:
    """Return the values with the phase of `refant` zero in every channel."""
    rotated = [rotate(grid_set.values[:, :, p].T, grid_set.good[:, :, p].T, refant).T for p in range(2)]
    return np.stack(rotated, axis=-1)


def _receptor(
    values: tuple[NDArray[np.complex128], NDArray[np.complex128]],
    good: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    shares: NDArray[np.float64],
    frequencies_hz: NDArray[np.float64],
) -> _Receptor:
    """Return one receptor's gains at fractions `shares` (time,) of the interval between the earlier and the later set (channel,)."""
    counts = [int(np.count_nonzero(is_good)) for is_good in good]
    nearer = int(shares.mean() > 0.5)
    common = good[0] & good[1]
    if np.count_nonzero(common) < MIN_GOOD_FRACTION * max(counts) or not max(counts):
        used = nearer if counts[0] == counts[1] else int(np.argmax(counts))
        return _Receptor(_constant(values[used], shares), good[used], one_sided=max(counts) > 0)
    ratio = np.where(common, values[1] * values[0].conj(), 0)
    slope, phase, rest, coherence = _phase_change(ratio, frequencies_hz)
    if coherence < LEAST_COHERENCE or abs(phase) > AMBIGUOUS_RAD:
        return _Receptor(_constant(values[nearer], shares), good[nearer], nearest=True)
    odd = np.abs(rest) > AMBIGUOUS_RAD
    if odd.any():  # channels whose phase changed unlike all others' are taken from the nearer set only
        slope, phase, rest, _ = _phase_change(np.where(odd, 0, ratio), frequencies_hz)
    known = tuple(is_good & ~(odd & (which != nearer)) for which, is_good in enumerate(good))
    return _Receptor(_between(values, known, slope + phase + rest, shares), known[0] | known[1])


def _constant(values: NDArray[np.complex128], shares: NDArray[np.float64]) -> NDArray[np.complex128]:
    return np.broadcast_to(values, (shares.size, values.size))


def _phase_change(
    ratio: NDArray[np.complex128], frequencies_hz: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64], float]:
    """Split a receptor's phase change [rad], given the ratio of its later to its earlier values (channel,), 0 where there is none. Return
    the part due to a delay about the band's centre (channel,), the phase there, the remainder (channel,), 0 where unknown, and the size
    of the mean phasor without delay."""
    has_ratio, centre_hz = ratio != 0, float(frequencies_hz.mean())
    unit = np.where(has_ratio, np.exp(1j * np.angle(ratio)), 0)
    delay_ns = peak_delay_ns(unit, frequencies_hz, centre_hz)
    slope = 2e-9 * np.pi * delay_ns * (frequencies_hz - centre_hz)
    flat = unit * phasor(-delay_ns, frequencies_hz, centre_hz)
    mean = flat.sum() / np.count_nonzero(has_ratio)
    return slope, float(np.angle(mean)), np.where(has_ratio, np.angle(flat * mean.conj()), 0), float(abs(mean))


def _between(
    values: tuple[NDArray[np.complex128], NDArray[np.complex128]],
    known: tuple[NDArray[np.bool_], ...],
    phase_change: NDArray[np.float64],
    shares: NDArray[np.float64],
) -> NDArray[np.complex128]:
    """Return values (time, channel) whose phase changes by `phase_change` [rad] (channel,) from the earlier to the later set.
    Channels known in only one set get the other value from the receptor's median amplitude ratio and from `phase_change`."""
    sizes, common = [np.abs(one) for one in values], known[0] & known[1]
    growth = float(np.median(sizes[1][common] / sizes[0][common]))
    old = np.where(known[0], sizes[0], sizes[1] / growth)
    new = np.where(known[1], sizes[1], sizes[0] * growth)
    start = np.where(known[0], np.angle(values[0]), np.angle(values[1]) - phase_change)
    share = shares[:, None]
    return np.asarray((old + share * (new - old)) * np.exp(1j * (start + share * phase_change)))
