"""Partition keys and the telescope's cadence."""

from datetime import UTC, datetime

import numpy as np
import pytest

from dsa110_assets.telescope import astrometry, site, timegrid


def test_integration_and_group_lengths_are_those_of_the_telescope() -> None:
    """96 x 0.134217728 s; 24 integrations; 309.238 s (facts, to 1 ms)."""
    assert abs(timegrid.INTEGRATION_S - 12.884901888) < 1e-12
    assert abs(timegrid.GROUP_S - 309.238) < 1e-3


@pytest.mark.parametrize(
    ("moment", "observation", "hour", "night"),
    [
        ("2026-01-25T22:26:05", "2026-01-25T22:25", "2026-01-25T22:00", "2026-01-25"),
        ("2026-01-25T22:25:00", "2026-01-25T22:25", "2026-01-25T22:00", "2026-01-25"),
        ("2026-01-25T23:59:59", "2026-01-25T23:55", "2026-01-25T23:00", "2026-01-25"),
        ("2024-02-29T00:00:00", "2024-02-29T00:00", "2024-02-29T00:00", "2024-02-29"),
    ],
)
def test_partition_keys_follow_from_times(moment: str, observation: str, hour: str, night: str) -> None:
    when = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    mjd = timegrid.datetime_to_mjd(when)
    # An MJD is stored to 6e-7 s; whole seconds must not fall into the window before.
    assert abs((timegrid.mjd_to_datetime(mjd) - when).total_seconds()) < 2e-6
    assert timegrid.observation_key(mjd + 1e-9) == observation
    assert timegrid.hour_key(mjd + 1e-9) == hour
    assert timegrid.night_key(mjd + 1e-9) == night
    assert timegrid.hour_of(observation) == hour
    assert timegrid.night_of(hour) == timegrid.night_of(night) == night


def test_mjd_epoch() -> None:
    assert timegrid.datetime_to_mjd(datetime(2000, 1, 1, 12)) == 51544.5


@pytest.mark.parametrize("key", ["2026-01-25T22:26", "2026-01-25 22:25", "2026-1-25", "2026-01-25T22:25:00", "", "x"])
def test_invalid_partition_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no partition key"):
        timegrid.parse_key(key)


def test_mean_sidereal_time_agrees_within_its_neglected_terms() -> None:
    """Against apparent sidereal time: UT1 - UTC is below 0.9 s (0.0038 deg), nutation in right ascension below 1.2 s (0.005 deg)."""
    times_mjd = np.linspace(58849.0, 61400.0, 50)
    apparent_deg = np.rad2deg(astrometry.apparent_lst_rad(times_mjd))
    mean_deg = np.array([timegrid.mean_sidereal_deg(float(mjd), site.LONGITUDE_DEG) for mjd in times_mjd])
    assert np.abs((mean_deg - apparent_deg + 180) % 360 - 180).max() < 0.009
