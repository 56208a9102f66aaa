"""Forced fluxes against injected truth in noise with the beam's correlation (facts 11: traps 27, 32)."""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd
import pytest

from dsa110_assets.errors import BadDataError
from dsa110_assets.photometry.forced import measure_forced
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality, decode

OPTIONS = PhotometryOptions()


def frame(ra, dec):
    return pd.DataFrame({"ra_deg": np.atleast_1d(ra), "dec_deg": np.atleast_1d(dec)})


def grid(rng, size, step):
    """Positions `step` pixels apart with random sub-pixel phases."""
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.arange(40, size - 40, step)] * 2))
    return x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, x.size)


@pytest.mark.parametrize("correlation", [1.0, np.sqrt(2)], ids=["natural-weights", "smoothed-white"])
def test_pulls_in_correlated_noise(make_sky, correlation) -> None:
    """2,700 injections at 5 to 50 sigma: pull mean 0, sd 1, no flux bias above 10 sigma.

    Statistical errors: mean 1/sqrt(2700) = 0.019, sd 1/sqrt(2*2700) = 0.014. In addition, the noise scale and its
    correlation are measured on 12 images of about 2,300 beams (2 % in sd), and the background in boxes (0.06
    sigma each, averaging down over 12 x 4 boxes to 0.01). Four standard errors, 0.09 in the mean and 0.08 in sd,
    are loose; the requirement is 0.05 in sd.
    """
    rng = np.random.default_rng(11)
    pulls, ratios = [], []
    for _ in range(12):
        sky = make_sky((768, 768))
        image = sky.correlated_noise(rng, 1e-3, correlation)
        x, y = grid(rng, 768, 46)
        flux = rng.uniform(0.005, 0.05, x.size)
        for place in zip(x, y, flux, strict=True):
            sky.add(image, *place)
        out = measure_forced(image, np.full(image.shape, 2e-3), sky.header, frame(*sky.world(x, y)), OPTIONS)
        pulls.append((out["flux_jy"] - flux) / out["flux_err_jy"])
        ratios.append((out["flux_jy"] / flux)[flux > 0.01])
    pull, ratio = np.concatenate(pulls), np.concatenate(ratios)
    assert abs(pull.mean()) < 0.08
    assert abs(pull.std() - 1) < 0.05
    assert abs(ratio.mean() - 1) < 0.01


def test_error_is_the_exact_one_for_this_noise(make_sky) -> None:
    """sigma_F = sigma sqrt(sum K_i K_j rho_ij)/sum K^2, summed pixel by pixel with the true correlation; one
    768 x 768 image gives its correlation to 4 %.
    """
    sky = make_sky((768, 768))
    image = sky.correlated_noise(np.random.default_rng(2), 1e-3)
    out = measure_forced(image, np.full(image.shape, 1e-3), sky.header, frame(150.0, 16.0), OPTIONS)
    y, x = np.mgrid[-20:21, -20:21]
    local = make_sky((41, 41))
    kernel = local.gaussian(20, 20)
    inside = kernel >= 2.0 ** (-4 * 0.75**2)
    k, px, py = kernel[inside], x[inside], y[inside]
    wide = make_sky((161, 161)).gaussian(80, 80)
    rho = wide[py[:, None] - py + 80, px[:, None] - px + 80]
    assert out["flux_err_jy"][0] / out["rms_jy"][0] == pytest.approx(np.sqrt(k @ rho @ k) / np.sum(k**2), rel=0.04)


def test_noise_free_flux_is_exact_at_any_sub_pixel_phase(make_sky) -> None:
    """Without noise a point source gives its flux: the only loss is float32 (1e-6) and the background,
    switched off.
    """
    sky = make_sky((512, 512))
    image = np.zeros(sky.shape)
    x, y = grid(np.random.default_rng(3), 512, 90)
    for place in zip(x, y, strict=True):
        sky.add(image, *place, 1.0)
    options = PhotometryOptions(subtract_background=False)
    out = measure_forced(image, np.full(image.shape, 1e-3), sky.header, frame(*sky.world(x, y)), options)
    # The synthetic Gaussian uses flat pixels; the SIN projection's scale differs by (0.2 deg)^2/2 = 6e-6 of
    # the beam.
    np.testing.assert_allclose(out["flux_jy"], 1.0, atol=1e-4)


def test_beam_position_angle_is_north_through_east(make_sky) -> None:
    """With a PA of the wrong sign the 45 x 20 arcsec beam at 30 degrees would lose tens of percent."""
    sky = make_sky((256, 256))
    image = sky.gaussian(128.3, 127.6)
    options = PhotometryOptions(subtract_background=False)
    noise = np.full(image.shape, 1e-3)
    right = measure_forced(image, noise, sky.header, frame(*sky.world(128.3, 127.6)), options)
    mirrored = make_sky((256, 256), pa_deg=-30.0).header
    wrong = measure_forced(image, noise, mirrored, frame(*sky.world(128.3, 127.6)), options)
    assert right["flux_jy"][0] == pytest.approx(1.0, abs=1e-4)
    assert abs(wrong["flux_jy"][0] - 1) > 0.05


@pytest.mark.parametrize("separation", [0.5, 0.8, 1.2, 1.45])
def test_blends_are_solved_together(make_sky, separation) -> None:
    """Two sources a fraction of a beam apart, noise-free: each has its own flux, while measured singly it would include the
    other's.
    """
    sky = make_sky((256, 256), beam_arcsec=(30.0, 30.0), pa_deg=0.0)
    image = np.zeros(sky.shape)
    places = [(120.0, 128.0, 1.0), (120.0 + 10 * separation, 128.0, 0.3)]
    for place in places:
        sky.add(image, *place)
    x, y, flux = np.array(places).T
    options = PhotometryOptions(subtract_background=False)
    together = measure_forced(image, np.full(image.shape, 1e-3), sky.header, frame(*sky.world(x, y)), options)
    np.testing.assert_allclose(together["flux_jy"], flux, atol=2e-3)
    assert all("BLENDED" in decode(q) for q in together["quality"])
    single = measure_forced(image, np.full(image.shape, 1e-3), sky.header, frame(*sky.world(x[1:], y[1:])), options)
    assert single["flux_jy"][0] > 1.03 * flux[1]


def test_blend_pulls_carry_the_shared_error(make_sky) -> None:
    """400 pairs 0.8 beams apart in correlated noise: sd of the pulls 1 within 4/sqrt(2*800) = 0.10."""
    rng = np.random.default_rng(5)
    pulls, errors = [], []
    for _ in range(6):
        sky = make_sky((768, 768), beam_arcsec=(30.0, 30.0), pa_deg=0.0)
        image = sky.correlated_noise(rng, 1e-3)
        x, y = grid(rng, 768, 80)
        flux = np.full(2 * x.size, 0.02)
        x, y = np.r_[x, x + 8], np.r_[y, y]
        for place in zip(x, y, flux, strict=True):
            sky.add(image, *place)
        out = measure_forced(image, np.full(image.shape, 1e-3), sky.header, frame(*sky.world(x, y)), OPTIONS)
        pulls.append((out["flux_jy"] - flux) / out["flux_err_jy"])
        errors.append(out["flux_err_jy"] / out["rms_jy"])
    assert abs(np.concatenate(pulls).std() - 1) < 0.10
    # Natural-weight noise is correlated between neighbours like the beam, so a blend costs little (1.10 is the single
    # source's).
    assert 1.05 < np.mean(errors) < 1.25


def test_duplicate_positions_share_one_flux(make_sky) -> None:
    sky = make_sky((256, 256))
    image = sky.gaussian(128, 128)
    ra, dec = sky.world([128.0, 128.3], [128.0, 128.0])
    out = measure_forced(image, np.full(image.shape, 1e-2), sky.header, frame(ra, dec), OPTIONS)
    assert out["flux_jy"][0] == out["flux_jy"][1] == pytest.approx(1.0, abs=0.02)
    assert all(q & Quality.CONFUSED for q in out["quality"])


@pytest.mark.parametrize("dec", [16.0, 71.6])
def test_sources_on_both_sides_of_ra_zero(make_sky, dec) -> None:
    """A field across 0 h (359.9 to 0.1): the same fluxes as anywhere else (trap 27)."""
    rng = np.random.default_rng(4)
    fluxes = []
    for centre in (0.0, 150.0):
        sky = make_sky((512, 512), ra_deg=centre, dec_deg=dec)
        image = np.zeros(sky.shape)
        x, y = grid(np.random.default_rng(4), 512, 100)
        for place in zip(x, y, strict=True):
            sky.add(image, *place, 1.0)
        ra, sources_dec = sky.world(x, y)
        assert centre or (ra.min() < 0.3 and ra.max() > 359.7)
        shuffled = rng.permutation(ra.size)
        out = measure_forced(image, np.full(image.shape, 1e-3), sky.header, frame(ra[shuffled], sources_dec[shuffled]), OPTIONS)
        fluxes.append(out["flux_jy"].to_numpy()[np.argsort(shuffled)])
    np.testing.assert_allclose(fluxes[0], fluxes[1], atol=1e-5)
    # At dec 71.6 local north turns by 0.2 deg / cos(dec) * sin(dec) = 0.6 deg across the field; the
    # synthetic beam does not turn.
    np.testing.assert_allclose(fluxes[0], 1.0, atol=5e-3)


def test_missing_pixels_give_nan_and_never_zero(make_sky) -> None:
    sky = make_sky((256, 256))
    image = sky.correlated_noise(np.random.default_rng(6), 1e-3)
    image[:, :100] = np.nan
    noise = np.where(np.isfinite(image), 1e-3, np.nan)
    x = np.array([50.0, 98.0, 102.0, 180.0, -500.0])
    out = measure_forced(image, noise, sky.header, frame(*sky.world(x, np.full(5, 128.0))), OPTIONS)
    assert np.isnan(out["flux_jy"][[0, 1, 4]]).all()
    assert np.isnan(out["limit_jy"][[0, 1, 4]]).all()
    assert all(out["quality"][k] & Quality.NAN for k in (0, 1, 4))
    assert out["quality"][2] & Quality.EDGE
    assert out["quality"][3] == 0
    assert not out["detected"].any()
    assert out["limit_jy"][3] == pytest.approx(5 * out["flux_err_jy"][3])


def test_limits_hold_for_sources_below_them(make_sky) -> None:
    """None of 2,000 positions without a source reaches 5 sigma (expected 6e-4); the sd of SNR is 1 within 4/sqrt(4000)."""
    rng = np.random.default_rng(8)
    sky = make_sky((1024, 1024))
    image = sky.correlated_noise(rng, 1e-3)
    x, y = rng.uniform(60, 960, (2, 2000))
    out = measure_forced(
        image,
        np.full(image.shape, 1e-3),
        sky.header,
        frame(*sky.world(x, y)),
        PhotometryOptions(joint_beams=0.0, blend_beams=0.0, merge_beams=0.0),
    )
    assert not out["detected"].any()
    # 2,000 positions share 7,700 beams: about 1,500 are independent, 4/sqrt(2*1500) = 0.07.
    assert abs(out["snr"].std() - 1) < 0.07


def test_noise_map_is_scaled_to_the_real_noise(make_sky) -> None:
    """The noise map is three times too small, and the real noise doubles half-way: the local rms follows the real noise."""
    sky = make_sky((1024, 1024))
    image = sky.correlated_noise(np.random.default_rng(9), 1e-3)
    image[:, 512:] *= 2
    x, y = np.array([150.0, 870.0]), np.array([512.0, 512.0])
    out = measure_forced(image, np.full(image.shape, 3e-4), sky.header, frame(*sky.world(x, y)), OPTIONS)
    # A box holds about 500 independent beams: 1.17/sqrt(500) for the MAD, four of them interpolated: 10 %
    # is 4 sigma.
    np.testing.assert_allclose(out["rms_jy"], [1e-3, 2e-3], rtol=0.10)


def test_dense_neighbours_agree_with_a_direct_least_squares(make_sky) -> None:
    """Thirty crowded sources: the grouped numba solution against numpy's lstsq of the same estimating
    equations.
    """
    rng = np.random.default_rng(10)
    sky = make_sky((256, 256), beam_arcsec=(30.0, 30.0), pa_deg=0.0)
    x, y = rng.uniform(90, 160, (2, 30))
    image = rng.standard_normal(sky.shape) * 1e-3
    for place in zip(x, y, strict=True):
        sky.add(image, *place, 0.1)
    options = PhotometryOptions(subtract_background=False, joint_beams=5.0, merge_beams=0.0)
    out = measure_forced(image, np.full(image.shape, 1e-3), sky.header, frame(*sky.world(x, y)), options)
    kernels = np.array([sky.gaussian(*place) for place in zip(x, y, strict=True)])
    near = kernels >= 2.0 ** (-4 * 0.75**2)
    estimators = np.where(near, kernels, 0.0).reshape(30, -1)
    expected = np.linalg.solve(estimators @ kernels.reshape(30, -1).T, estimators @ image.astype(np.float32).ravel())
    # Kernel geometry differs by 1e-5 (projection) and by pixels on the aperture's rim; the noise per source
    # is 1e-4.
    np.testing.assert_allclose(out["flux_jy"], expected, atol=2e-4 + 0.01 * 0.1)


def test_header_without_beam_is_refused(make_sky) -> None:
    sky = make_sky((64, 64))
    header = sky.header
    del header["BMAJ"]
    with pytest.raises(BadDataError, match="beam"):
        measure_forced(np.zeros((64, 64)), np.ones((64, 64)), header, frame(150.0, 16.0), OPTIONS)
    with pytest.raises(BadDataError, match="shape"):
        measure_forced(np.zeros((64, 64)), np.ones((64, 60)), sky.header, frame(150.0, 16.0), OPTIONS)


@pytest.mark.alone
def test_threads_change_nothing(make_sky) -> None:
    """Blended and single sources, a hole, and more groups than a thread takes at once: results are the same to the last bit."""
    rng = np.random.default_rng(5)
    sky = make_sky((768, 768))
    image = sky.correlated_noise(rng, 1e-3)
    x, y = rng.uniform(20, 748, (2, 1500))
    for place in zip(x, y, rng.uniform(0.005, 0.05, x.size), strict=True):
        sky.add(image, *place)
    image[300:310, 200:230] = np.nan
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        results.append(measure_forced(image, np.full(image.shape, 1e-3), sky.header, frame(*sky.world(x, y)), OPTIONS))
    pd.testing.assert_frame_equal(*results, check_exact=True)
