"""Tiles against the sky they were simulated from, and against the radiometer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.imaging import points
from dsa110_assets.imaging.attenuation import attenuation
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.peaks import find_peaks
from dsa110_assets.imaging.tile import TileImage, make_tile
from dsa110_assets.telescope import astrometry
from dsa110_assets.telescope import beam as primary_beam
from dsa110_assets_tests.imaging.synthetic import START_MJD, direct_phase, observe, position_rad

STATIC = ImagingOptions(field_deg=2.5, threads=1, drift_terms=0, spectral_index=0.0)
"""`observe` makes flat spectra."""
"""For skies simulated without a primary beam: there is no drift through it to follow."""


def _nearest(tile: TileImage, centre: np.ndarray, east_deg: float, north_deg: float) -> tuple[float, float]:
    """(separation from the truth [beams], peak [Jy/beam]) of the peak next to a true offset."""
    ra, dec = position_rad(centre, east_deg, north_deg)
    x, y = WCS(tile.header).wcs_world2pix(np.rad2deg(ra), np.rad2deg(dec), 0)
    peaks = find_peaks(tile.image, 5 * tile.rms_jy)
    away = np.hypot(peaks.x - x, peaks.y - y) * tile.header["CDELT2"] / tile.beam.bmin_deg
    return float(away.min()), float(peaks.value[np.argmin(away)])


def test_one_jansky_at_the_centre_is_one_jansky() -> None:
    """Trap 13: XX = YY = I, so 1 Jy in is 1.00 +- 0.01 Jy/beam out; also before CLEAN."""
    vis = observe([(0, 0, 1.0)], n_times=6)
    dirty = make_tile(vis, replace(STATIC, clean_iterations=0))
    # the dirty peak of a lone source at the centre is the dirty beam's, exactly to the gridder's epsilon
    assert dirty.image[dirty.image.shape[0] // 2, dirty.image.shape[1] // 2] == pytest.approx(1.0, rel=2e-4)
    tile = make_tile(vis, STATIC)
    away, peak = _nearest(tile, vis.phase_centres_rad[0], 0, 0)
    assert peak == pytest.approx(1.0, abs=0.01)
    assert away < 0.05


@pytest.mark.parametrize("robust", [-1.0, 0.5, 2.0])
def test_sources_off_centre_keep_their_places_and_fluxes(robust: float) -> None:
    """Position < 0.05 beam, flux < 1 %, between pixels, at a degree from the centre, for any
    weighting."""
    sources = [(0.4137, 0.6291, 1.0), (-0.9013, -0.3702, 0.6), (0.1, -1.05, 0.4)]
    vis = observe(sources, n_times=12, n_subbands=16, noise_jy=0.3)
    tile = make_tile(vis, replace(STATIC, robust=robust))
    for east, north, flux in sources:
        away, peak = _nearest(tile, vis.phase_centres_rad[0], east, north)
        assert away < 0.05
        assert peak == pytest.approx(flux, abs=0.01 * flux + 4 * tile.rms_jy)
        assert 3 * tile.rms_jy < 0.01  # so that the line above tests something


def test_east_is_to_the_left() -> None:
    vis = observe([(0.5, 0.0, 1.0), (0.0, 0.7, 2.0)], n_times=6)
    tile = make_tile(vis, STATIC)
    peaks = find_peaks(tile.image, 0.5)
    centre = tile.image.shape[0] // 2
    assert peaks.y[0] > centre + 50  # the 2 Jy source lies north
    assert peaks.x[1] < centre - 50  # the 1 Jy source lies east


def test_two_sources_three_beams_apart_separate() -> None:
    probe = make_tile(observe([(0, 0, 1.0)], n_times=6), STATIC)
    separation_deg = 3 * probe.beam.bmaj_deg
    sources = [(-separation_deg / 2, 0.2, 1.0), (separation_deg / 2, 0.2, 0.3)]
    vis = observe(sources, n_times=12, noise_jy=0.2)
    tile = make_tile(vis, STATIC)
    for east, north, flux in sources:
        away, peak = _nearest(tile, vis.phase_centres_rad[0], east, north)
        assert peak == pytest.approx(flux, rel=0.01, abs=3 * tile.rms_jy)
        assert away < 0.05


def test_the_residual_is_exact_for_the_model() -> None:
    """After the published model, summed directly, is subtracted, the dirty image of the visibilities is the published residual."""
    vis = observe([(0.3, 0.1, 1.0), (-0.4, 0.52, 0.05)], n_times=6, noise_jy=0.5)
    tile = make_tile(vis, STATIC)
    assert tile.figures["points"] >= 1
    components = tile.model.copy()
    np.subtract.at(components, tile.points.nearest(), tile.points.flux_jy.astype(np.float32))
    rows, columns = np.nonzero(np.abs(components) > 1e-7)
    assert rows.size  # there are components on pixels as well as points between pixels
    sky = [*zip(rows, columns, components[rows, columns], np.zeros(rows.size), strict=True)]
    sky += zip(tile.points.rows, tile.points.columns, tile.points.flux_jy, tile.points.index, strict=True)
    predicted = np.zeros(vis.data.shape[:3], np.complex128)
    for row, column, flux, index in sky:
        place = np.deg2rad(WCS(tile.header).celestial.wcs_pix2world(column, row, 0))
        lmn = astrometry.lmn(*place, vis.phase_centres_rad[0])
        predicted += flux * (vis.frequencies_hz / tile.header["RESTFRQ"]) ** index * direct_phase(vis.uvw_m, vis.frequencies_hz, *lmn)
    residual = replace(vis, data=(vis.data - predicted[..., None]).astype(np.complex64))
    again = make_tile(residual, replace(STATIC, clean_iterations=0))
    # both images are the gridder's, each accurate to 2e-4 of what it is given
    np.testing.assert_allclose(again.image, tile.residual, rtol=0, atol=2 * 2e-4 * 1.05)
    assert np.std(tile.residual) > 10 * np.std(again.image - tile.residual)


@pytest.mark.parametrize("weighting", ["natural", "uniform", "briggs"])
def test_noise_is_what_the_radiometer_says(weighting: str) -> None:
    """Traps 22 and 30: the image of pure noise has the thermal rms, from all integrations, for any
    weighting."""
    sigma = 2.0
    vis = observe([], n_times=12, n_subbands=16, noise_jy=sigma)
    tile = make_tile(vis, replace(STATIC, weighting=weighting, clean_iterations=0))  # type: ignore[arg-type]
    samples = int((~vis.is_auto).sum()) * 12 * 16 * 2
    natural = sigma / np.sqrt(samples)
    if weighting == "natural":
        assert tile.rms_jy == pytest.approx(natural, rel=0.1)
    else:
        assert tile.rms_jy > natural
    # XX - YY of 4e4 samples gives sigma to 0.5 %, the image's ~1e4 beams its rms to 1 %
    assert tile.figures["rms_over_radiometer"] == pytest.approx(1.0, abs=0.05)
    expected_sefd = sigma * np.sqrt(2 * vis.channel_width_hz * vis.interval_s)
    assert tile.figures["sefd_jy"] == pytest.approx(expected_sefd, rel=0.02)


def test_noise_falls_with_the_root_of_the_integrations() -> None:
    """Trap 22: were only one integration imaged, these would be equal."""
    rms = [
        make_tile(observe([], n_times=n, noise_jy=2.0), replace(STATIC, weighting="natural", clean_iterations=0)).rms_jy for n in (2, 18)
    ]
    assert rms[0] / rms[1] == pytest.approx(3.0, rel=0.1)


def test_the_common_scale_of_weights_does_not_matter() -> None:
    vis = observe([(0.2, 0.3, 1.0)], n_times=4, noise_jy=1.0)
    tile = make_tile(vis, replace(STATIC, clean_iterations=0))
    scaled = make_tile(replace(vis, weights=vis.weights * np.float32(256)), replace(STATIC, clean_iterations=0))
    np.testing.assert_allclose(scaled.image, tile.image, atol=1e-5)
    assert scaled.figures["radiometer_jy"] == pytest.approx(tile.figures["radiometer_jy"], rel=1e-5)


@pytest.mark.parametrize("dec_deg", [16.27, 71.6])
def test_flux_through_the_drifting_beam_is_recovered(dec_deg: float) -> None:
    """Trap 26: the sky drifts by up to 1.3 degrees through the beam; the corrected flux is right within
    1.5 %.

    A static beam at the phase centre is wrong by several per cent at the half-power point, which is
    checked too.
    """
    sources = [(0.0, 0.0, 1.0), (1.0, -0.2, 1.0), (-0.6, 0.9, 1.0)]
    vis = observe(sources, n_times=24, n_channels=4, dec_deg=dec_deg, primary_beam=True, smeared=True)
    tile = make_tile(vis, replace(STATIC, field_deg=3.0, drift_terms=2))
    centre, off_static = vis.phase_centres_rad[0], []
    for east, north, flux in sources:
        ra, dec = position_rad(centre, east, north)
        x, y = (int(np.rint(p)) for p in WCS(tile.header).wcs_world2pix(np.rad2deg(ra), np.rad2deg(dec), 0))
        _, peak = _nearest(tile, centre, east, north)
        assert peak / tile.primary_beam[y, x] == pytest.approx(flux, rel=0.015)
        static = primary_beam.power(np.hypot(east, north), tile.header["RESTFRQ"])
        off_static.append(abs(tile.primary_beam[y, x] / static - 1))
    assert dec_deg > 20 or max(off_static) > 0.03


def test_the_effective_beam_is_the_mean_of_the_drift() -> None:
    """Against the definition, evaluated pixel by pixel, with uneven weights: one integration flagged."""

    vis = observe([], n_antennas=4, n_times=5, n_subbands=3)
    tile = make_tile(observe([(0, 0, 1.0)], n_times=2), replace(STATIC, clean_iterations=0))
    weights = np.random.default_rng(1).uniform(0, 1, (5, 3))
    weights[2] = 0
    n_pixels = tile.image.shape[0]
    ours = attenuation(vis, weights, tile.header, n_pixels, n_terms=5)
    x, y = np.meshgrid(np.arange(0, n_pixels, 37), np.arange(0, n_pixels, 37))
    ra, dec = np.deg2rad(WCS(tile.header).wcs_pix2world(x, y, 0))
    pointings = astrometry.meridian_icrs_rad(vis.times_mjd, vis.pointing_dec_rad)
    away = np.stack([astrometry.separation_deg(ra, dec, *pointing) for pointing in pointings])
    literal = primary_beam.power(away[:, None], vis.frequencies_hz[None, :, None, None])
    mean = np.einsum("tc,tcyx->yx", weights, literal) / weights.sum()
    np.testing.assert_allclose(ours.mean[y, x], mean, atol=1e-5)
    followed = mean * (1 + sum(pattern[..., None, None] * ratio[y, x] for pattern, ratio in ours.terms))
    # with five integrations and three channels, five terms follow nearly all of it
    np.testing.assert_allclose(followed, literal, atol=1e-3)


def test_missing_channels_leave_fluxes_unbiased() -> None:
    """Trap 11: a subband of flagged zeros with weight 0 must not dilute anything."""
    vis = observe([(0.3, 0.2, 1.0)], n_times=6)
    data, flags, weights = vis.data.copy(), vis.flags.copy(), vis.weights.copy()
    data[:, :, 5:7], flags[:, :, 5:7], weights[:, :, 5:7] = 0, True, 0
    tile = make_tile(replace(vis, data=data, flags=flags, weights=weights, subbands_missing=(9, 10)), STATIC)
    _, peak = _nearest(tile, vis.phase_centres_rad[0], 0.3, 0.2)
    assert peak == pytest.approx(1.0, abs=0.01)
    assert tile.header["SUBBMISS"] == "9 10"


def test_across_zero_hours_the_image_is_the_same() -> None:
    """Trap 27: the same sky with its phase centre at RA 359.95 and at RA 10.x degrees."""
    sidereal_day = 0.9972695663
    vis = observe([(0.4, 0.3, 1.0)], n_times=6)
    away_deg = 359.95 - np.rad2deg(vis.phase_centres_rad[0, 0])
    later = observe([(0.4, 0.3, 1.0)], n_times=6, start_mjd=START_MJD + away_deg / 360 * sidereal_day)
    assert abs((np.rad2deg(later.phase_centres_rad[0, 0]) + 180) % 360 - 180) < 0.3
    for observation in (vis, later):
        tile = make_tile(observation, STATIC)
        away, peak = _nearest(tile, observation.phase_centres_rad[0], 0.4, 0.3)
        assert away < 0.05
        assert peak == pytest.approx(1.0, abs=0.01)


def test_an_image_larger_than_allowed_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="max_pixels"):
        make_tile(observe([(0, 0, 1)], n_times=2), replace(STATIC, pixel_arcsec=1.0, max_pixels=1024))


def test_a_typical_spectrum_leaves_no_wide_band_sidelobes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source with S ~ nu^-0.7: if the imager is given its index, the noise-free residual falls at least fivefold.

    Over the band its flux runs from +5 to -5 % of the mean; unmodelled, that remains in the sidelobes.
    Bright points have their index fitted, which would remove it in any case, so that fit is switched off here.
    """
    monkeypatch.setattr(points, "_STEEPNESS_SIGMA", np.inf)
    vis = observe([(0.4, 0.3, 1.0)], n_times=8, primary_beam=True)
    spectrum = (vis.frequencies_hz / vis.frequencies_hz.mean()) ** -0.7
    steep = replace(vis, data=(vis.data * spectrum[:, None]).astype(np.complex64))
    options = replace(STATIC, drift_terms=2, threshold_jy=1e-4)
    rms_flat, rms_with_index = (make_tile(steep, replace(options, spectral_index=index)).rms_jy for index in (0.0, -0.7))
    assert rms_with_index < rms_flat / 5


def test_the_number_of_threads_changes_rounding_only() -> None:
    """The gridder sums in another order: a few times 1e-7 of sums of 1 Jy, and the course of CLEAN changes with it."""
    vis = observe([(0.3, 0.2, 1.0), (-0.5, 0.1, 0.2)], n_antennas=12, n_times=4, noise_jy=0.5)
    single_thread, two_threads = (make_tile(vis, replace(STATIC, threads=n)) for n in (1, 2))
    np.testing.assert_allclose(two_threads.image, single_thread.image, atol=2e-5)
    assert single_thread.rms_jy / 50 > 2e-5
