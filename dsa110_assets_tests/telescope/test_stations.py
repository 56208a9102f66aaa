"""The surveyed array."""

import numpy as np
from astropy.coordinates import EarthLocation

from dsa110_assets.calibration.options import REFANT_CHAIN
from dsa110_assets.telescope import site, stations


def _baselines(numbers: tuple[int, ...]) -> np.ndarray:
    position = stations.surveyed().itrf_m[np.array(numbers) - 1]
    i, j = np.triu_indices(len(numbers), 1)
    return np.linalg.norm(position[i] - position[j], axis=1)


def test_ninety_six_are_active() -> None:
    active = stations.active_stations()
    assert len(active) == 96
    assert sum(n <= 51 for n in active) == 47
    assert sum(52 <= n <= 102 for n in active) == 35
    assert sum(n >= 103 for n in active) == 14
    assert not {10, 21, 22, 23, 117} & set(active)


def test_baseline_lengths() -> None:
    """Lengths measured from the survey and quoted to 0.1 m (the median to 1 m)."""
    length = _baselines(stations.active_stations())
    assert length.size == 4560
    assert abs(length.max() - 2601.6) < 0.1
    assert abs(length.min() - 5.75) < 0.02
    assert abs(np.median(length) - 308) < 1
    assert abs(_baselines((*stations.active_stations(), 117)).max() - 2707.2) < 0.1
    core = tuple(n for n in stations.active_stations() if n <= 102)
    assert abs(_baselines(core).max() - 483.9) < 0.1
    for limit, percent in ((20, 3.9), (50, 9), (100, 16.6), (213.7, 31)):
        assert abs(100 * np.mean(length < limit) - percent) < 0.5


def test_positions_are_relative_to_the_files_site() -> None:
    surveyed = stations.surveyed()
    assert surveyed.names == tuple(str(n) for n in range(1, 118))
    np.testing.assert_allclose(surveyed.relative_m + site.location_itrf_m(), surveyed.itrf_m, atol=1e-8)
    assert np.linalg.norm(surveyed.relative_m, axis=1).max() < 2500
    header = EarthLocation.from_geodetic(-118.2830, 37.2334051, 1188.0519)
    np.testing.assert_allclose(site.location_itrf_m(), [x.to_value("m") for x in header.geocentric], atol=1e-6)


def test_refant_chain_tries_outriggers_first_and_every_station_once() -> None:
    assert REFANT_CHAIN[0] == 103
    assert sorted(set(REFANT_CHAIN)) == sorted(REFANT_CHAIN)
    assert set(stations.active_stations()) <= set(REFANT_CHAIN)
