"""Resolved sources against the sky they were made from, and skies of points, whose images do not change."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy.constants import speed_of_light
from scipy.special import j1

from dsa110_assets.imaging import resolved
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.points import Points
from dsa110_assets.imaging.restoring import Beam, add_points
from dsa110_assets.imaging.spectra import point_table
from dsa110_assets.imaging.tile import TileImage, make_tile
from dsa110_assets.visibilities.types import Visibilities
from dsa110_assets_tests.imaging.synthetic import observe, position_rad

OPTIONS = ImagingOptions(field_deg=0.8, threads=1, drift_terms=0, spectral_index=0.0)
NOISE_JY = 0.3
ARRAYS = {"core": {"n_antennas": 24, "n_times": 6}, "outriggers": {"n_antennas": 40, "n_times": 6, "core_only": False}}
BEAM_ARCSEC = {"core": 77.0, "outriggers": 26.0}
"""Geometric mean of both axes: the core's beam is 106 by 57, with arms that cross the field at up to 0.3 of the peak; the other's is
39 by 17."""
AROUND = [(-0.25, 0.2, 1.0), (0.3, 0.25, 0.7), (0.13, -0.3, 0.5)]
EAST, NORTH = 0.1, 0.1
Point = tuple[float, float, float]
Gaussian = tuple[float, float, float, float, float]
"""Flux [Jy], FWHM of both axes [beams], position angle [deg], and offset to the north of (EAST, NORTH) [beams]."""


def places(array: str, sources: list[Gaussian]) -> list[tuple[float, float, float, float, float]]:
    """(Jy, major, minor [arcsec], angle [deg], north [deg]) of each source."""
    beam = BEAM_ARCSEC[array]
    return [(flux, beam * major, beam * minor, angle, NORTH + beam / 3600 * north) for flux, major, minor, angle, north in sources]


def seen(array: str, sources: list[Gaussian], points: list[Point]) -> Visibilities:
    """The visibilities of Gaussians and points. A Gaussian's is that of a point times exp[-(pi theta q)^2 / (4 ln 2)] along either axis,
    theta the FWHM along that axis."""
    vis = observe(points, noise_jy=NOISE_JY, **ARRAYS[array])
    u, v = (vis.uvw_m[..., k, None] * vis.frequencies_hz / speed_of_light for k in (0, 1))
    for flux, major, minor, angle, north in places(array, sources):
        sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
        along, across = (np.pi * np.deg2rad(size / 3600) for size in (major, minor))
        squared = (along * (u * sine + v * cosine)) ** 2 + (across * (u * cosine - v * sine)) ** 2
        vis.data[...] += observe([(EAST, north, flux)], **ARRAYS[array]).data * np.exp(-squared / (4 * np.log(2)))[..., None]
    return vis


def truth(tile: TileImage, vis: Visibilities, array: str, sources: list[Gaussian], points: list[Point]) -> np.ndarray:
    """The sky convolved with the restoring beam: Gaussians with the sum of both covariances, and peaks lower by the ratio of the beam's
    area to theirs."""
    rows, columns = np.indices(tile.image.shape)
    pixel = tile.header["CDELT2"]
    image = np.zeros(tile.image.shape)
    everything = [(flux, Beam(a / 3600, b / 3600, angle).covariance, EAST, north) for flux, a, b, angle, north in places(array, sources)]
    everything += [(flux, np.zeros((2, 2)), east, north) for east, north, flux in points]
    for flux, covariance, east, north in everything:
        x, y = WCS(tile.header).wcs_world2pix(*np.rad2deg(position_rad(vis.phase_centres_rad[0], east, north)), 0)
        form = covariance + tile.beam.covariance
        (a, b), (_, c) = np.linalg.inv(form) * pixel**2
        to_east, to_north = x - columns, rows - y
        share = np.sqrt(np.linalg.det(tile.beam.covariance) / np.linalg.det(form))
        image += flux * share * np.exp(-(a * to_east**2 + 2 * b * to_east * to_north + c * to_north**2) / 2)
    return image


def without(vis: Visibilities, monkeypatch: pytest.MonkeyPatch) -> TileImage:
    """The image made with points and CLEAN only."""
    with monkeypatch.context() as patched:
        patched.setattr(resolved, "_MOST", 0)
        return make_tile(vis, OPTIONS)


@pytest.mark.parametrize(
    ("array", "sources", "points", "least_gain"),
    [
        ("core", [(2.0, 0.5, 0.35, 30, 0)], AROUND, 8),
        ("core", [(2.0, 1.0, 0.7, 30, 0)], AROUND, 7),
        ("core", [(2.0, 2.0, 1.4, 30, 0)], AROUND, 4),
        ("core", [(2.0, 3.0, 2.1, 30, 0)], AROUND, 6),
        ("core", [(2.0, 1.5, 1.0, 30, 0)], [*AROUND, (EAST, NORTH + 3 * 77 / 3600, 4.0)], 9),
        ("core", [(1.0, 1.0, 1.0, 0, 0), (0.7, 1.3, 1.0, 70, 2.0)], AROUND, 8),
        ("outriggers", [(2.0, 1.0, 0.7, 30, 0)], AROUND, 4),
        ("outriggers", [(2.0, 2.0, 1.4, 30, 0)], AROUND, 12),
        ("outriggers", [(2.0, 3.0, 2.0, 30, 0)], [*AROUND, (EAST, NORTH, 0.5)], 5),
    ],
    ids=["half a beam", "one", "two", "three", "beside a point", "blended", "one, outriggers", "two, outriggers", "core and halo"],
)
def test_image_and_truth_agree(
    array: str, sources: list[Gaussian], points: list[Point], least_gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image agrees with the truth everywhere to 5.5 sigma, so it contains nothing that is not in the sky. The highest of 1 to
    3.6 x 10^5 pixels of noise has 4.4 to 4.7 sigma (the normal quantile of 1 - 1 / 2N), and the highest of the few hundred pixels of a
    source 3.2; added to this are 1 sigma, the change below which a source counts as settled, and as much again from fitting the noise.
    CLEAN alone is off by at least `least_gain` times as much.

    Flux: for a fitted Gaussian, Condon (1997) gives sigma_S / S = sqrt(2) / rho from its height, and about as much from either width.
    rho is the signal to noise times (theta_s theta_m / 4 theta_n^2)^(1/2) [1 + theta_n^2 / theta_s^2]^(3/2), and at least the signal to
    noise for a source wider than half a beam. 5 sigma of the three together are 5 sqrt(6) over it. The noise's width here is the beam.
    """
    vis = seen(array, sources, points)
    tile = make_tile(vis, OPTIONS)
    expected = truth(tile, vis, array, sources, points)
    off = np.abs(tile.image - expected).max()
    assert off < 5.5 * tile.rms_jy
    assert tile.rms_jy == pytest.approx(make_tile(seen(array, [], []), OPTIONS).rms_jy, rel=0.03)
    assert tile.figures["rms_over_radiometer"] < 1.02
    points_only = without(vis, monkeypatch)
    assert np.abs(points_only.image - expected).max() > least_gain * off
    assert tile.figures["resolved_dropped"] == points_only.figures["resolved"] == 0
    assert tile.figures["resolved"] >= len(sources)
    gaussians = tile.points.select(tile.points.resolved)
    total = sum(flux for flux, *_ in sources) + sum(flux for east, north, flux in points if (east, north) == (EAST, NORTH))
    fitted_flux = tile.points.select(
        np.hypot(tile.points.rows - gaussians.rows[0], tile.points.columns - gaussians.columns[0]) < 25
    ).flux_jy.sum()
    assert fitted_flux == pytest.approx(total, rel=5 * np.sqrt(6) * tile.rms_jy / expected.max())
    assert len(point_table(tile)) == tile.figures["points"]
    assert tile.model.sum(dtype=np.float64) == pytest.approx(tile.figures["clean_jy"])


@pytest.mark.parametrize(
    ("array", "points"),
    [
        ("core", [*AROUND, (EAST, NORTH, 2.0)]),
        ("core", [*AROUND, (EAST, NORTH, 1.0), (EAST, NORTH + 77 / 3600, 0.6)]),
        ("outriggers", [*AROUND, (EAST, NORTH, 1.0), (EAST + 40 / 3600, NORTH, 0.6), (EAST, NORTH + 40 / 3600, 0.3)]),
    ],
    ids=["alone", "a beam apart", "three"],
)
def test_point_sources_are_not_changed(array: str, points: list[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    """The image has the same bytes as that of an imager without resolved sources."""
    vis = seen(array, [], points)
    tile, points_only = make_tile(vis, OPTIONS), without(vis, monkeypatch)
    for image in ("image", "residual", "model"):
        assert getattr(tile, image).tobytes() == getattr(points_only, image).tobytes()
    assert tile.figures["resolved"] == tile.figures["resolved_dropped"] == 0


def test_a_disk_that_gaussians_do_not_fit_is_left_to_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform disk as wide as three beams, whose visibilities are 2 J1(x) / x, x = pi theta q: Gaussians leave a tenth of it."""
    vis = seen("core", [], AROUND)
    x = np.pi * np.deg2rad(3 * 77 / 3600) * np.hypot(*(vis.uvw_m[..., k, None] * vis.frequencies_hz / speed_of_light for k in (0, 1)))
    disk = np.divide(2 * j1(x), x, out=np.ones_like(x), where=x > 0)
    vis.data[...] += observe([(EAST, NORTH, 2.0)], **ARRAYS["core"]).data * disk[..., None]
    tile, points_only = make_tile(vis, OPTIONS), without(vis, monkeypatch)
    assert tile.figures["resolved"] == 0
    assert tile.figures["resolved_dropped"] > 0
    assert tile.image.tobytes() == points_only.image.tobytes()


def test_a_model_that_makes_the_residual_noisier_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that is not in the sky, as broad as the image, is dropped; the image is the same as without it."""
    vis = seen("core", [], AROUND)
    points_only = without(vis, monkeypatch)
    place, flux = np.array([points_only.image.shape[0] / 2]), np.array([1.0])
    wrong = Points(place, place, flux, np.zeros(1), np.array([np.diag([30.0, 90.0])]))
    monkeypatch.setattr(resolved, "find", lambda *_: wrong)
    tile = make_tile(vis, OPTIONS)
    assert tile.figures["resolved_dropped"] == 1
    assert tile.figures["resolved"] == 0
    assert tile.image.tobytes() == points_only.image.tobytes()
    np.testing.assert_allclose(tile.spectral_index, points_only.spectral_index, atol=1e-3)


def test_a_gaussian_keeps_its_flux_in_model_and_image() -> None:
    """The model's pixels sum to the flux, and the image's to the flux times the beam's area in pixels: 11 pixels are 7 standard
    deviations."""
    form = np.array([[9.0, 3.0], [3.0, 4.0]])
    gaussian = Points(np.array([60.3]), np.array([48.6]), np.array([2.0]), np.zeros(1), form[None])
    model = gaussian.onto(np.zeros((120, 100), np.float32))
    assert model.sum(dtype=np.float64) == pytest.approx(2.0, rel=1e-5)
    rows, columns = np.indices(model.shape)
    offsets = np.stack([rows - 60.3, columns - 48.6])
    assert np.abs((model * offsets).sum(axis=(1, 2)) / 2).max() < 1e-3
    np.testing.assert_allclose(np.einsum("ijk,ljk,jk->il", offsets, offsets, model) / 2, form + np.eye(2) / 12, atol=1e-2)
    beam, pixel_deg = Beam(8 / 3600, 5 / 3600, 30.0), 1 / 3600
    image = np.zeros(model.shape, np.float32)
    add_points(image, gaussian, beam, pixel_deg)
    assert image.sum(dtype=np.float64) == pytest.approx(2.0 * beam.area_sr / np.deg2rad(pixel_deg) ** 2, rel=1e-4)
    east_north = np.einsum("ijk,ljk,jk->il", offsets, offsets, image) / image.sum() * pixel_deg**2
    expected = beam.covariance[::-1, ::-1] * [[1, -1], [-1, 1]] + form * pixel_deg**2
    np.testing.assert_allclose(east_north, expected, rtol=1e-3)
