"""Gains between two transits: what an observation is corrected by if they drifted steadily from one to the other.

Two sets of tables are compared receptor by receptor, both referred to one antenna. What turned between them is a delay, a
phase at the band's centre, and what is left per channel. Each goes from the one set to the other linearly in time, and so
do amplitudes; a phase that wraps over the band, or a delay that wraps it otherwise in either set, makes no difference.
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
"""A turn beyond this may as well be one the other way round. Of turns that scatter by as much as 60 degrees, one in a hundred
that are seen as 135 is in truth -225: exp[-(225^2 - 135^2) / (2 60^2)]."""
LEAST_COHERENCE = 0.5
"""Mean phasor of channels once delay and phase are taken out: channels that scatter by 67 degrees, exp(-sigma^2 / 2)."""
_RECEPTORS = "XY"


@dataclass(frozen=True)
class Interpolated:
    """gains: a table of kind "B" at the observation's first and last integration. nearest: receptors ("20X") whose two solutions
    disagree too much, where the nearer one holds; one_sided: those that only one set has solutions of, which holds.
    """

    gains: Gains
    nearest: tuple[str, ...]
    one_sided: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """One set on an observation's grid: values (antenna, channel, pol) complex128, good alike, snr (antenna, pol), NaN of nothing."""

    values: NDArray[np.complex128]
    good: NDArray[np.bool_]
    snr: NDArray[np.float64]


@dataclass(frozen=True)
class _Receptor:
    """What one receptor has at the wanted times: values (time, channel), good (channel,), and how they came about."""

    values: NDArray[np.complex128]
    good: NDArray[np.bool_]
    nearest: bool = False
    one_sided: bool = False


def interpolate(frame: Visibilities, before: Sequence[Gains], after: Sequence[Gains], mids_mjd: tuple[float, float]) -> Interpolated:
    """The gains of an observation with the axes of `frame`, from the tables of a set before and of one after it.

    `mids_mjd` are the times that the sets are good at, the middles of their transits: the tables' own solution intervals are
    interpolated to those. A channel with a solution in one set only takes that one, turned and scaled as the receptor's others.
    Raises BadDataError if a bandpass does not have the data's channels.
    """
    first, last = (_seen(frame, tables, mid) for tables, mid in zip((before, after), mids_mjd, strict=True))
    refant = _reference(first.good & last.good, frame.antennas.names, before)
    old, new = (_referred(one, refant) for one in (first, last))
    times = frame.times_mjd[[0, -1]] if frame.times_mjd.size > 1 else frame.times_mjd
    shares = (times - mids_mjd[0]) / (mids_mjd[1] - mids_mjd[0])
    values = np.ones((times.size, *first.good.shape), np.complex128)
    good = np.zeros(values.shape, np.bool_)
    nearest, one_sided = [], []
    for a, name in enumerate(frame.antennas.names):
        for p, letter in enumerate(_RECEPTORS):
            found = _receptor((old[a, :, p], new[a, :, p]), (first.good[a, :, p], last.good[a, :, p]), shares, frame.frequencies_hz)
            good[:, a, :, p] = found.good
            values[:, a, :, p] = np.where(found.good, found.values, 1)
            nearest += [f"{name}{letter}"] * found.nearest
            one_sided += [f"{name}{letter}"] * found.one_sided
    snr = np.where(good, np.fmin(first.snr, last.snr)[:, None], 0)
    fields = " and ".join(dict.fromkeys(tables[0].field_name for tables in (before, after)))
    span_s = frame.times_mjd.size * frame.interval_s / times.size
    gains = Gains("B", values, ~good, snr.astype(np.float32), times, span_s, frame.frequencies_hz, frame.antennas.names, refant, fields)
    return Interpolated(gains, tuple(nearest), tuple(one_sided))


def _seen(frame: Visibilities, tables: Sequence[Gains], mjd: float) -> _Seen:
    values, good = apply.total_gains(replace(frame, times_mjd=np.array([mjd])), tables)
    shape = (len(frame.antennas.names), frame.frequencies_hz.size, 2)
    told = [receptors.snr(table) for table in tables]
    unknown = (np.nan, np.nan)
    snr = [np.fmin.reduce([one.get(name, unknown) for one in told]) for name in frame.antennas.names]
    return _Seen(np.broadcast_to(values[0], shape), np.broadcast_to(good[0], shape), np.array(snr))


def _reference(common: NDArray[np.bool_], names: Sequence[str], before: Sequence[Gains]) -> int:
    """The antenna that both sets are referred to: the earlier one's own if it is as good in both as others, else the best."""
    share = common.mean(axis=(1, 2))
    own = before[0].antenna_names[before[0].refant]
    index = names.index(own) if own in names else -1
    return index if index >= 0 and share[index] > MIN_GOOD_FRACTION * share.max() else int(np.argmax(share))


def _referred(seen: _Seen, refant: int) -> NDArray[np.complex128]:
    """The values with the phase of `refant` zero in every channel."""
    turned = [rotate(seen.values[:, :, p].T, seen.good[:, :, p].T, refant).T for p in range(2)]
    return np.stack(turned, axis=-1)


def _receptor(
    values: tuple[NDArray[np.complex128], NDArray[np.complex128]],
    good: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    shares: NDArray[np.float64],
    frequencies_hz: NDArray[np.float64],
) -> _Receptor:
    """One receptor's solutions, of the earlier and the later set (channel,), at `shares` (time,) of the way between them."""
    counts = [int(np.count_nonzero(one)) for one in good]
    nearer = int(shares.mean() > 0.5)
    common = good[0] & good[1]
    if np.count_nonzero(common) < MIN_GOOD_FRACTION * max(counts) or not max(counts):
        held = nearer if counts[0] == counts[1] else int(np.argmax(counts))
        return _Receptor(_held(values[held], shares), good[held], one_sided=max(counts) > 0)
    ratio = np.where(common, values[1] * values[0].conj(), 0)
    slope, phase, rest, coherence = _turn(ratio, frequencies_hz)
    if coherence < LEAST_COHERENCE or abs(phase) > AMBIGUOUS_RAD:
        return _Receptor(_held(values[nearer], shares), good[nearer], nearest=True)
    odd = np.abs(rest) > AMBIGUOUS_RAD
    if odd.any():  # what turned otherwise than all others is believed in the nearer set only
        slope, phase, rest, _ = _turn(np.where(odd, 0, ratio), frequencies_hz)
    known = tuple(one & ~(odd & (which != nearer)) for which, one in enumerate(good))
    return _Receptor(_between(values, known, slope + phase + rest, shares), known[0] | known[1])


def _held(values: NDArray[np.complex128], shares: NDArray[np.float64]) -> NDArray[np.complex128]:
    return np.broadcast_to(values, (shares.size, values.size))


def _turn(
    ratio: NDArray[np.complex128], frequencies_hz: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64], float]:
    """How far a receptor turned [rad], of its later over its earlier values (channel,), 0 where there is none: by a delay
    about the band's centre (channel,), by a phase there, and what is left (channel,), 0 where unknown; and the mean phasor
    without delay."""
    there, centre_hz = ratio != 0, float(frequencies_hz.mean())
    unit = np.where(there, np.exp(1j * np.angle(ratio)), 0)
    delay_ns = peak_delay_ns(unit, frequencies_hz, centre_hz)
    slope = 2e-9 * np.pi * delay_ns * (frequencies_hz - centre_hz)
    flat = unit * phasor(-delay_ns, frequencies_hz, centre_hz)
    mean = flat.sum() / np.count_nonzero(there)
    return slope, float(np.angle(mean)), np.where(there, np.angle(flat * mean.conj()), 0), float(abs(mean))


def _between(
    values: tuple[NDArray[np.complex128], NDArray[np.complex128]],
    known: tuple[NDArray[np.bool_], ...],
    turn: NDArray[np.float64],
    shares: NDArray[np.float64],
) -> NDArray[np.complex128]:
    """Values (time, channel) that turn by `turn` [rad] (channel,) from the earlier to the later; channels that only one of them
    knows have the other from their neighbours' growth and turn."""
    sizes, common = [np.abs(one) for one in values], known[0] & known[1]
    growth = float(np.median(sizes[1][common] / sizes[0][common]))
    old = np.where(known[0], sizes[0], sizes[1] / growth)
    new = np.where(known[1], sizes[1], sizes[0] * growth)
    start = np.where(known[0], np.angle(values[0]), np.angle(values[1]) - turn)
    way = shares[:, None]
    return np.asarray((old + way * (new - old)) * np.exp(1j * (start + way * turn)))
