"""Prediction against the visibilities made with ERFA (conftest), and each factor against its definition."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import j1

from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry, beam, stations
from dsa110_assets.visibilities import phasing, reader
from dsa110_assets.visibilities.predict import predict, predict_each
from dsa110_assets.visibilities.types import Antennas, Visibilities

C_M_S = 299792458.0


def sky_of(sources, index: float = 0.0) -> SkyModel:  # type: ignore[no-untyped-def]
    ra, dec, flux = (np.array(column) for column in zip(*sources, strict=True))
    return SkyModel(tuple(f"s{i}" for i in range(ra.size)), ra, dec, flux, np.full(ra.size, index))


@pytest.fixture
def made(observe, meridian_radec, tmp_path):  # type: ignore[no-untyped-def]
    observation = observe(n_times=4)
    ra, dec = meridian_radec(observation, observation.mjd_start)
    observation.sources = [
        (ra + 0.012, dec - 0.005, 2.0),
        (ra - 0.02, dec + 0.015, 1.0),
        (ra + 0.2, dec, 0.5),
    ]
    return reader.read_group(observation.write_all(tmp_path), 2), observation


@pytest.mark.parametrize("centre", ["meridian", "common", "elsewhere"])
def test_prediction_is_what_was_observed(made, centre: str) -> None:  # type: ignore[no-untyped-def]
    """Trap 13: 1 Jy in the model is amplitude 1 in XX and in YY. complex64: 3.5 Jy x 3e-7."""
    vis, observation = made
    if centre != "meridian":
        vis = phasing.to_common_centre(vis, None if centre == "common" else (observation.sources[1][:2]))
    model = predict(vis, sky_of(observation.sources), primary_beam=False, smearing=False)
    assert model.shape == vis.data.shape[:3]
    assert model.dtype == np.complex64
    np.testing.assert_allclose(model, vis.data[..., 0], atol=2e-6)
    np.testing.assert_allclose(model, vis.data[..., 1], atol=2e-6)


def test_one_jansky_at_the_pointing_is_one(made) -> None:  # type: ignore[no-untyped-def]
    """Trap 13, with the beam on: the source has its full flux only in the integration at which it is on the meridian."""
    vis, _ = made
    ra, dec = vis.phase_centres_rad[2]
    model = predict(vis, sky_of([(ra, dec, 1.0)]))
    np.testing.assert_allclose(model[2], 1.0, atol=1e-6)
    assert np.all(np.abs(model[0]) < 1 - 1e-4)


def test_primary_beam_follows_the_drift(made, meridian_radec) -> None:  # type: ignore[no-untyped-def]
    """Autocorrelations show flux x beam: the Airy formula at the angle from each integration's meridian
    direction.
    """
    vis, observation = made
    ra, dec, _ = observation.sources[0]
    model = predict(vis, sky_of([(ra, dec, 1.0)]), smearing=False)[:, vis.is_auto]
    for t, mjd in enumerate(vis.times_mjd):
        ra0, dec0 = meridian_radec(observation, mjd)
        cosine = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0)
        x = np.pi * 4.65 * vis.frequencies_hz / C_M_S * np.sqrt(1 - cosine**2)
        # ICRS and apparent separations differ by aberration, 1e-4 of 0.7 degrees.
        np.testing.assert_allclose(model[t], np.tile((2 * j1(x) / x) ** 2, (8, 1)), rtol=2e-4)
    assert np.ptp(model.real, axis=0).min() > 1e-3


def test_spectral_index(made) -> None:  # type: ignore[no-untyped-def]
    vis, observation = made
    steep = predict(vis, sky_of(observation.sources[:1], -0.7), primary_beam=False)
    flat = predict(vis, sky_of(observation.sources[:1], 0.0), primary_beam=False)
    np.testing.assert_allclose(steep / flat, np.broadcast_to((vis.frequencies_hz / 1.4e9) ** -0.7, flat.shape), rtol=1e-6)


def test_sources_behind_the_dish_and_empty_models_give_zero(made) -> None:  # type: ignore[no-untyped-def]
    vis, observation = made
    ra, _, _ = observation.sources[0]
    assert not predict(vis, sky_of([(ra + np.pi, 0.0, 100.0)])).any()
    empty = sky_of([(ra, 0.0, 1.0)]).select([False])
    assert not predict(vis, empty).any()


def test_smearing_over_bandwidth_and_time_is_predicted(made) -> None:  # type: ignore[no-untyped-def]
    """Smearing against the mean of the fringe, with its delay and rate, over the channel's width and the integration.

    The fringe is integrated numerically, with rates found by predicting the delays half a second apart: 1e-4.
    """
    vis, observation = made
    source = sky_of(observation.sources[1:2])
    sharp = predict(vis, source, primary_beam=False, smearing=False)
    smeared = predict(vis, source, primary_beam=False)
    t, row = 1, int(np.argmax(np.linalg.norm(vis.uvw_m[1], axis=1)))
    delay = _delay_s(vis, observation, vis.times_mjd[t], t, row)
    rate = (_delay_s(vis, observation, vis.times_mjd[t] + 5 / 86400, t, row) - delay) / 5
    for k in (0, 3, 7):
        nu = vis.frequencies_hz[k]
        band, _ = quad(lambda x: np.cos(2 * np.pi * x * delay), -vis.channel_width_hz / 2, vis.channel_width_hz / 2)
        time, _ = quad(lambda x, nu=nu: np.cos(2 * np.pi * nu * rate * x), -vis.interval_s / 2, vis.interval_s / 2)
        expected = band / vis.channel_width_hz * time / vis.interval_s
        assert expected < 0.99
        assert smeared[t, row, k] / sharp[t, row, k] == pytest.approx(expected, abs=1e-3)


def _delay_s(vis, observation, mjd: float, t: int, row: int) -> float:  # type: ignore[no-untyped-def]
    """Delay of source 1 against the direction tracked in integration t, by ERFA, at a time near it."""
    import erfa
    from astropy.time import Time

    time = Time(mjd, format="mjd", scale="utc")
    lon = np.radians(-118.2830)
    astrom = erfa.apco13(
        time.jd1,
        time.jd2,
        float(time.delta_ut1_utc),
        lon,
        np.radians(37.2334051),
        1188.0519,
        0,
        0,
        0,
        0,
        0,
        1,
    )[0]
    vector = vis.antennas.relative_m[vis.ant2[row]] - vis.antennas.relative_m[vis.ant1[row]]

    def path(ra: float, dec: float) -> float:
        ri, di = erfa.atciqz(ra, dec, astrom)
        angle = lon - (astrom["eral"] - ri)
        return float(vector @ np.array([np.cos(di) * np.cos(angle), np.cos(di) * np.sin(angle), np.sin(di)]))

    return (path(*observation.sources[1][:2]) - path(*vis.phase_centres_rad[t])) / C_M_S


def test_sources_apart_add_up_to_the_whole(made) -> None:  # type: ignore[no-untyped-def]
    """Float32 sums in another order: 3.5 Jy x a few 1e-7."""
    vis, observation = made
    sky = sky_of(observation.sources, -0.7)
    separate = np.stack(list(predict_each(vis, sky)))
    assert separate.shape == (vis.times_mjd.size, len(sky), *vis.data.shape[1:3])
    np.testing.assert_allclose(separate.sum(axis=1), predict(vis, sky), atol=5e-6)
    some = np.stack(list(predict_each(vis, sky, alone=1)))
    assert some.shape[1] == 2
    np.testing.assert_allclose(some[:, 0], separate[:, 0], atol=5e-6)
    np.testing.assert_allclose(some[:, 1], separate[:, 1:].sum(axis=1), atol=5e-6)


def frame_of(n_channels: int) -> Visibilities:
    """Two integrations of six antennas, outriggers among them, all over the band."""
    survey = stations.surveyed()
    used = [survey.names.index(str(number)) for number in (1, 35, 70, 103, 110, 113)]
    ant1, ant2 = np.array([(i, j) for i in used for j in used if i <= j], np.int32).T
    times = 61065.93 + np.arange(2) * 12.884901888 / 86400
    shape = 2, ant1.size, n_channels, 2
    centres = astrometry.meridian_icrs_rad(times, np.deg2rad(16.27))
    antenna = astrometry.icrs_uvw_m(survey.relative_m, centres, times)
    return Visibilities(
        np.broadcast_to(np.complex64(0), shape), np.broadcast_to(False, shape), np.broadcast_to(np.float32(1), shape),
        ant1, ant2, times, 12.884901888, np.linspace(1.311e9, 1.4985e9, n_channels), 187.5e6 / n_channels,
        antenna[:, ant2] - antenna[:, ant1], centres, float(np.deg2rad(16.27)),
        Antennas(survey.names, survey.relative_m, np.full(117, 4.65)),
    )  # fmt: skip


def direct(vis: Visibilities, sky: SkyModel, t: int) -> np.ndarray:
    """The measurement equation channel by channel and source by source, in double precision."""
    lst = astrometry.apparent_lst_rad(vis.times_mjd[t])
    out = np.zeros(vis.data.shape[1:3], complex)
    for k in range(len(sky)):
        ra, dec = astrometry.icrs_to_apparent_rad(sky.ra_rad[k], sky.dec_rad[k], vis.times_mjd[t])
        there, here = (
            astrometry.apparent_uvw_m(vis.antennas.relative_m, h, d)[0] / C_M_S for h, d in ((lst - ra, dec), (0.0, vis.pointing_dec_rad))
        )
        (path, path0), (u, u0) = (
            ((there[vis.ant2] - there[vis.ant1])[:, axis], (here[vis.ant2] - here[vis.ant1])[:, axis]) for axis in (2, 0)
        )
        rate = 2 * np.pi * 1.002737909350795 / 86400 * (u * np.cos(dec) - u0 * np.cos(vis.pointing_dec_rad))
        nu = vis.frequencies_hz
        size = sky.flux_at(nu)[k] * beam.power(astrometry.separation_deg(lst, vis.pointing_dec_rad, ra, dec), nu)
        smear = np.sinc(vis.channel_width_hz * (path - path0))[:, None] * np.sinc(rate[:, None] * nu * vis.interval_s)
        out += size * smear * np.exp(2j * np.pi * nu * (path - path0)[:, None])
    return out


@pytest.mark.parametrize("n_channels", [768, 767, 100, 16, 3, 1])
def test_interpolation_over_channels_is_as_good_as_it_says(n_channels: int) -> None:
    """Sources from the centre to where the beam is a thousandth, spectra of all slopes, against the equation itself.

    Errors, relative to each source's apparent flux: 4e-6 from interpolation (the worst case of _HALFWAY, at an eighth of a turn from
    node to node), 2e-6 from the smearing's cubic and 1e-6 from single precision; both sides compute delays by the same formula.
    """
    rng = np.random.default_rng(7)
    vis, n = frame_of(n_channels), 24
    away, angle = np.deg2rad(np.linspace(0, 4.5, n)), rng.uniform(0, 2 * np.pi, n)
    ra = vis.phase_centres_rad[0, 0] + away * np.cos(angle) / np.cos(vis.phase_centres_rad[0, 1])
    dec = vis.phase_centres_rad[0, 1] + away * np.sin(angle)
    sky = SkyModel(tuple(f"s{i}" for i in range(n)), ra, dec, rng.uniform(0.5, 2, n), rng.uniform(-2, 1, n))
    predicted = predict(vis, sky)
    for t in range(2):
        bright = np.abs(direct(vis, sky, t)[vis.is_auto]).max()
        np.testing.assert_allclose(predicted[t], direct(vis, sky, t), atol=7e-6 * bright)


def three_sources(vis: Visibilities) -> SkyModel:
    ra, dec = vis.phase_centres_rad[0]
    return sky_of([(ra, dec, 1.0), (ra + 0.01, dec - 0.02, 2.0), (ra - 0.03, dec, 3.0)], -0.7)


@pytest.mark.alone
def test_any_number_of_threads_predicts_the_same() -> None:
    import numba

    vis = frame_of(768)
    sky = three_sources(vis)
    many = predict(vis, sky)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(predict(vis, sky), many)
    finally:
        numba.set_num_threads(before)


def predicted_digest() -> str:
    vis = frame_of(768)
    return hashlib.sha256(predict(vis, three_sources(vis)).tobytes()).hexdigest()


@pytest.mark.slow
def test_fresh_and_cached_code_predict_the_same(tmp_path: Path) -> None:
    """To the last bit, in a process that compiles the kernels and in the next, which loads them from numba's cache."""
    command = [sys.executable, "-c", f"from {__name__} import predicted_digest; print(predicted_digest())"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).parents[2]
    first, again = (subprocess.run(command, env=environment, cwd=root, capture_output=True, check=True).stdout for _ in range(2))
    assert len(first) == 65
    assert first == again
