"""Calibrating, averaging and phasing in one pass against the separate stages in sequence."""

import dataclasses

import numpy as np
import pytest

from dsa110_assets.calibration import apply, calibrated
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.errors import BadDataError
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities import averaging, measurement_set, phasing
from dsa110_assets.visibilities.types import Antennas, Visibilities

N_TIMES, N_CHANNELS = 5, 12


@pytest.fixture
def vis() -> Visibilities:
    """6 antennas with noise and uneven weights; a fifth of the samples and all of one integration of one baseline are flagged."""
    rng = np.random.default_rng(5)
    ant1, ant2 = (a.astype(np.int32) for a in np.triu_indices(6))
    shape = N_TIMES, ant1.size, N_CHANNELS, 2
    times = 61065.9345 + np.arange(N_TIMES) * 12.885 / 86400
    centres = astrometry.meridian_icrs_rad(times, 0.28)
    relative = rng.normal(0, 400, (6, 3))
    antenna_uvw = astrometry.icrs_uvw_m(relative, centres, times)
    flags = rng.random(shape) < 0.2
    flags[2, 4] = True
    return Visibilities(
        data=(rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64),
        flags=flags,
        weights=rng.uniform(0.5, 2, shape).astype(np.float32),
        ant1=ant1,
        ant2=ant2,
        times_mjd=times,
        interval_s=12.885,
        frequencies_hz=1.4e9 + 1e6 * np.arange(N_CHANNELS),
        channel_width_hz=1e6,
        uvw_m=antenna_uvw[:, ant2] - antenna_uvw[:, ant1],
        phase_centres_rad=centres,
        pointing_dec_rad=0.28,
        antennas=Antennas(tuple(str(i + 1) for i in range(6)), relative, np.full(6, 4.65)),
    )


def tables(vis: Visibilities, n_solutions: int) -> list[Gains]:
    """A bandpass with a flagged antenna, and gains at `n_solutions` times."""
    rng = np.random.default_rng(6)

    def made(kind, times, frequencies) -> Gains:  # type: ignore[no-untyped-def]
        shape = times.size, 6, frequencies.size, 2
        values = 0.07 * rng.uniform(0.8, 1.2, shape) * np.exp(1j * rng.uniform(-3, 3, shape))
        flags = np.zeros(shape, bool)
        flags[:, 3, : frequencies.size // 2] = kind == "B"
        snr = np.ones(shape, np.float32)
        return Gains(kind, np.where(flags, 1, values), flags, snr, times, 60.0, frequencies, vis.antennas.names, 0, "x")

    at = np.linspace(vis.times_mjd[0], vis.times_mjd[-1], n_solutions)
    return [made("B", vis.times_mjd[2:3], vis.frequencies_hz), made("G", at, vis.frequencies_hz[5:6])]


@pytest.mark.parametrize("n_solutions", [1, 3])
@pytest.mark.parametrize(("channels", "times"), [(1, 1), (4, 1), (3, 2), (1, 5)])
def test_one_pass_equals_the_stages(vis, tmp_path, channels: int, times: int, n_solutions: int) -> None:  # type: ignore[no-untyped-def]
    """The stages round to complex64 three times more: 1e-7 of |V| / |g|^2 (to 5 / 0.003) each, so 2e-6 of the largest."""
    measurement_set.write(vis, tmp_path / "raw.ms")
    solved = tables(vis, n_solutions)
    made = calibrated.calibrate_set(tmp_path / "raw.ms", solved, tmp_path / "a.ms", channels=channels, times=times)
    got = measurement_set.read(tmp_path / "a.ms")
    expected = calibrated.write_averaged(apply.apply(vis, solved), tmp_path / "b.ms", channels=channels, times=times)
    stages = measurement_set.read(tmp_path / "b.ms")
    np.testing.assert_allclose(got.data, stages.data, rtol=0, atol=2e-6 * np.abs(stages.data).max())
    np.testing.assert_array_equal(got.flags, stages.flags)
    np.testing.assert_allclose(got.weights, np.where(stages.flags, 0, stages.weights), rtol=1e-6)
    assert made.flag_fraction == expected.flag_fraction
    for name in ("ant1", "ant2", "times_mjd", "frequencies_hz", "uvw_m", "phase_centres_rad"):
        np.testing.assert_array_equal(getattr(got, name), getattr(stages, name), err_msg=name)
    assert (got.interval_s, got.channel_width_hz) == (stages.interval_s, stages.channel_width_hz)
    assert measurement_set.problems(tmp_path / "a.ms") == []


def test_a_point_source_is_recovered(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """1 Jy at the common centre, corrupted by the gains, is 1 + 0j in every unflagged sample, to a few roundings of complex64."""
    solved = tables(vis, 1)
    gains, good = apply.total_gains(vis, solved)
    unit = dataclasses.replace(vis, data=np.ones_like(vis.data))
    common = phasing.to_common_centre(vis)
    back = (common.uvw_m - vis.uvw_m)[..., 2] / 299792458.0
    sky = phasing.rotate(unit.data, back, vis.frequencies_hz)
    raw = sky * gains[:, vis.ant1] * np.conj(gains[:, vis.ant2])
    measurement_set.write(dataclasses.replace(vis, data=raw.astype(np.complex64)), tmp_path / "raw.ms")
    calibrated.calibrate_set(tmp_path / "raw.ms", solved, tmp_path / "a.ms")
    got = measurement_set.read(tmp_path / "a.ms")
    np.testing.assert_allclose(got.data[~got.flags], 1, atol=2e-6)
    unsolved = ~(good[:, vis.ant1] & good[:, vis.ant2])[0]
    assert got.flags[:, unsolved].all()
    np.testing.assert_array_equal(got.flags, vis.flags | unsolved)


def test_data_that_cannot_be_averaged_are_refused(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    measurement_set.write(vis, tmp_path / "raw.ms")
    with pytest.raises(ValueError, match="must divide"):
        calibrated.calibrate_set(tmp_path / "raw.ms", tables(vis, 1), tmp_path / "a.ms", channels=5)
    averaged = averaging.average(vis, 2)
    with pytest.raises(BadDataError, match="other channels"):
        calibrated.calibrate_set(tmp_path / "raw.ms", tables(averaged, 1), tmp_path / "a.ms")
