"""Times of groups and names of their files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.telescope import timegrid

SECONDS_PER_DAY = 86400.0
SIDEREAL_DAY_S = SECONDS_PER_DAY / timegrid.SIDEREAL_RATIO
JD_MINUS_MJD = 2400000.5
_STREAM_NAMES = 1


@dataclass(frozen=True)
class ScheduledGroup:
    """One group: `times_mjd` are integration centres, rounded as in the file's float64 JD; one stamp per subband.

    `night` is the key of the day on which this night's run began; gains are drawn once for each night.
    """

    index: int
    night_index: int
    night: str
    times_mjd: NDArray[np.float64]
    stamps: tuple[str, ...]
    after_restart: bool

    @property
    def mjd_start(self) -> float:
        """Centre of the first integration."""
        return float(self.times_mjd[0])

    @property
    def mjd_mid(self) -> float:
        """Middle of the group."""
        return float((self.times_mjd[0] + self.times_mjd[-1]) / 2)


def start_mjd(options: SimulationOptions) -> float:
    """The run's start [MJD UTC]. ConfigurationError unless it is an ISO date and time."""
    try:
        return timegrid.datetime_to_mjd(datetime.fromisoformat(options.start))
    except ValueError:
        raise ConfigurationError(f"start = {options.start!r}: write an ISO time such as 2026-01-25T22:00:00") from None


def group_seed(options: SimulationOptions, times_mjd: NDArray[np.float64], stream: int, *more: int) -> np.random.Generator:
    """The generator of one random stream of one group; it depends on seed and group time, not on the call."""
    tenths = round((float(times_mjd[0]) - timegrid.MJD_UNIX_EPOCH) * SECONDS_PER_DAY * 10)
    return np.random.default_rng([options.seed, stream, tenths, *more])


def schedule(options: SimulationOptions) -> list[ScheduledGroup]:
    """All groups of all nights in time order: cadence 309.24 s, a gap after every `restart_every` groups."""
    start = start_mjd(options)
    groups: list[ScheduledGroup] = []
    for night_index in range(options.nights):
        begin = start + night_index * SIDEREAL_DAY_S / SECONDS_PER_DAY
        for number in range(options.groups):
            restarts = number // options.restart_every if options.restart_every else 0
            after_restart = bool(number and options.restart_every and number % options.restart_every == 0)
            offset_s = number * timegrid.GROUP_S + restarts * options.restart_lost_s
            centres_s = offset_s + (np.arange(options.integrations) + 0.5) * timegrid.INTEGRATION_S
            julian = np.asarray(begin + JD_MINUS_MJD + centres_s / SECONDS_PER_DAY, dtype=np.float64)
            times = julian - JD_MINUS_MJD
            groups.append(
                ScheduledGroup(
                    index=len(groups),
                    night_index=night_index,
                    night=timegrid.night_key(begin),
                    times_mjd=times,
                    stamps=_stamps(options, times, after_restart),
                    after_restart=after_restart,
                )
            )
    return groups


def _stamps(options: SimulationOptions, times_mjd: NDArray[np.float64], after_restart: bool) -> tuple[str, ...]:
    """The wall-clock time of each node when it opened the file.

    Spreads are as in the inventory of real files: mostly within a second, 2 s in one group of twenty, 13 to 22 s after
    a restart, when names also precede the data by 102 to 106 s.
    """
    rng = group_seed(options, times_mjd, _STREAM_NAMES)
    if after_restart:
        common, spread = -rng.uniform(102, 106), rng.uniform(13, 22)
    else:
        common, spread = rng.uniform(0.1, 0.9), (0.5 if rng.uniform() < 0.95 else 1.9)
    opened = timegrid.mjd_to_datetime(float(times_mjd[0])) - timedelta(seconds=timegrid.INTEGRATION_S / 2)
    lag = rng.uniform(size=options.subbands)
    lag = (lag - lag.min()) / max(float(np.ptp(lag)), 1e-9) * spread
    shifts = common + options.name_shift_s + lag
    return tuple((opened + timedelta(seconds=float(shift))).strftime("%Y-%m-%dT%H:%M:%S") for shift in shifts)
