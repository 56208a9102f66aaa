"""Resolved sources and blends against injected truth: only resolved sources are called so, and flux and size agree in every hour."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from dsa110_assets.photometry import carried
from dsa110_assets.photometry.association import associate
from dsa110_assets.photometry.blind import find_sources
from dsa110_assets.photometry.forced import SIZES, measure_forced
from dsa110_assets.photometry.measure import measure_mosaic
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality
from dsa110_assets_tests.photometry.injected import completeness

OPTIONS, FLAT = PhotometryOptions(), PhotometryOptions(subtract_background=False)
BEAM = {"beam_arcsec": (35.0, 21.0), "pa_deg": 100.0}
RMS = 1e-3


def seen(size, beam=(35.0, 21.0), pa_deg=100.0):
    """(major, minor, pa) of an ellipse convolved with the beam, and its solid angle over the beam's: covariances add."""
    total = np.zeros((2, 2))
    for major, minor, pa in (size, (*beam, pa_deg)):
        angle = np.deg2rad(pa)
        turn = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]])
        total += turn.T @ np.diag([major**2, minor**2]) @ turn
    squares, vectors = np.linalg.eigh(total)
    minor, major = np.sqrt(squares)
    shape = {"major_arcsec": major, "minor_arcsec": minor, "pa_deg": float(np.rad2deg(np.arctan2(vectors[0, 1], vectors[1, 1])) % 180)}
    return shape, major * minor / (beam[0] * beam[1])


def grid(rng, size, step):
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.arange(60, size - 50, step)] * 2))
    return x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, x.size)


def found_at(sky, out, x, y, apart_arcsec=40.0):
    """The row of `out` that belongs to each place, in their order; a NaN row where there is none."""
    ra, dec = sky.world(x, y)
    match = associate(
        out, pd.DataFrame({"ra_deg": ra, "dec_deg": dec}), de_ruiter=10.0, systematic_arcsec=4.0, max_separation_arcsec=apart_arcsec
    )
    return out[match >= 0].set_index(match[match >= 0]).reindex(range(x.size))


def test_point_sources_are_hardly_ever_called_resolved(make_sky) -> None:
    """1,620 points at 8 to 1,000 sigma: the significance of their extent is normal, at most 1 % is resolved.

    Standard errors: 0.025 of the mean, 0.018 of the sd, to which the noise's correlation, measured per image, adds 2 %; the
    threshold of 3 sigma expects 0.13 %, two in 1,620; more than 16 never occur by chance.
    """
    rng = np.random.default_rng(31)
    extents, called = [], 0
    for _ in range(5):
        sky = make_sky((1100, 1100), **BEAM)
        image = sky.correlated_noise(rng, RMS)
        x, y = grid(rng, 1100, 56)
        flux = RMS * np.exp(rng.uniform(np.log(8), np.log(1000), x.size))
        for place in zip(x, y, flux, strict=True):
            sky.add(image, *place)
        out = found_at(sky, find_sources(image, np.full(image.shape, RMS), sky.header, OPTIONS), x, y)
        extents.append(out["extent_sigma"].dropna())
        called += int((out["quality"].fillna(0).astype(int) & int(Quality.RESOLVED) > 0).sum())
    extent = np.concatenate(extents)
    assert extent.size > 1600
    assert called <= 0.01 * extent.size
    assert abs(extent.mean()) < 0.12
    assert abs(extent.std() - 1) < 0.09


@pytest.mark.parametrize(("size", "snr"), [((30.0, 20.0, 40.0), 20.0), ((30.0, 20.0, 40.0), 200.0), ((45.0, 40.0, 0.0), 50.0)])
def test_pulls_of_integrated_fluxes_are_standard(make_sky, size, snr) -> None:
    """600 resolved sources of each kind, 1,800 in all: pulls of the flux, blind and with the known size, have mean 0, sd 1.

    The noise has no background, so none is subtracted: in a field so full of wide sources it would be too high, because their
    wings raise the median. Standard errors are 0.041 and 0.029, with the noise's correlation, measured per image,
    0.035: the required 0.1 is 2.5 and 3 of them, with fixed seeds.
    The median flux is within 1 % (error at most 12 % / sqrt(600) = 0.5 %); deconvolved axes within 3 standard errors.
    """
    rng = np.random.default_rng(7)
    shape, area = seen(size)
    truth, blind, forced, sizes = snr * RMS * area, [], [], []
    for _ in range(5):
        sky = make_sky((1100, 1100), **BEAM)
        image = sky.correlated_noise(rng, RMS)
        x, y = grid(rng, 1100, 90)
        for place in zip(x, y, strict=True):
            sky.add(image, *place, snr * RMS, **shape)
        noise, (ra, dec) = np.full(image.shape, RMS), sky.world(x, y)
        out = found_at(sky, find_sources(image, noise, sky.header, FLAT), x, y)
        assert out["flux_jy"].notna().all()
        assert (out["quality"].astype(int) & int(Quality.RESOLVED) > 0).all()
        blind.append((out["flux_jy"] - truth) / out["flux_err_jy"])
        sizes.append(out)
        positions = pd.DataFrame({"ra_deg": ra, "dec_deg": dec, **dict(zip(SIZES, size, strict=True))})
        known = measure_forced(image, noise, sky.header, positions, FLAT)
        assert (known["quality"] & int(Quality.RESOLVED) > 0).all()
        forced.append((known["flux_jy"] - truth) / known["flux_err_jy"])
    for pull in (np.concatenate(blind), np.concatenate(forced)):
        assert abs(pull.mean()) < 0.1
        assert abs(pull.std() - 1) < 0.1
    table = pd.concat(sizes)
    assert np.median(table["flux_jy"]) == pytest.approx(truth, rel=0.01)
    for name, true in zip(("major", "minor"), size, strict=False):
        # The longer axis is called major, so noise separates nearly equal axes, here by at most half their errors.
        error = np.median(table[f"deconvolved_{name}_err_arcsec"])
        margin = 3 * error / np.sqrt(len(table)) + (0.5 if size[0] < 1.2 * size[1] else 0.15) * error
        assert abs(np.median(table[f"deconvolved_{name}_arcsec"]) - true) < margin


@pytest.mark.parametrize("size", [(60.0, 60.0, 0.0), (60.0, 30.0, 20.0)])
def test_a_source_that_clean_broke_up_is_one_source(make_sky, size) -> None:
    """A source made of points 1.2 beams apart, as CLEAN leaves it, is one row, its flux within 2 % and its size within 2 arcsec.

    The points undersample the source: their sum is its flux to 1e-4; the rest of the error is from the ripple in the fit.
    """
    sky = make_sky((512, 512), **BEAM)
    image = sky.correlated_noise(np.random.default_rng(4), RMS)
    angle = np.deg2rad(size[2])
    step = 26.0 / sky.pixel_arcsec
    flux = []
    for j in range(-6, 7):
        for i in range(-6, 7):
            x, y = 256.3 + i * step, 255.8 + j * step
            east, north = -i * 26.0, j * 26.0
            along, across = east * np.sin(angle) + north * np.cos(angle), east * np.cos(angle) - north * np.sin(angle)
            flux.append((x, y, np.exp(-4 * np.log(2) * ((along / size[0]) ** 2 + (across / size[1]) ** 2))))
    table = np.array(flux)
    table[:, 2] *= 2.0 / table[:, 2].sum()
    for place in table:
        sky.add(image, *place)
    out = find_sources(image, np.full(image.shape, RMS), sky.header, OPTIONS)
    assert len(out) == 1
    assert out["flux_jy"][0] == pytest.approx(2.0, rel=0.02)
    assert out["deconvolved_major_arcsec"][0] == pytest.approx(size[0], abs=2.0)
    assert out["deconvolved_minor_arcsec"][0] == pytest.approx(size[1], abs=2.0)


def test_a_point_beside_a_resolved_source_keeps_its_own_flux(make_sky) -> None:
    """A point is two beams from a resolved source of eight times its flux, whose size is known or not: both fluxes within 4 errors."""
    sky = make_sky((400, 400), **BEAM)
    size = (60.0, 40.0, 10.0)
    shape, area = seen(size)
    image = sky.correlated_noise(np.random.default_rng(8), RMS)
    sky.add(image, 200.0, 200.0, 0.8 / area, **shape)
    sky.add(image, 200.0, 224.0, 0.1)
    ra, dec = sky.world([200.0, 200.0], [200.0, 224.0])
    positions = pd.DataFrame({"ra_deg": ra, "dec_deg": dec})
    for name, value in zip(SIZES, size, strict=True):
        positions[name] = [value, np.nan]
    noise = np.full(image.shape, RMS)
    sized = measure_forced(image, noise, sky.header, positions, OPTIONS)
    assert (np.abs(sized["flux_jy"] - [0.8, 0.1]) < 4 * sized["flux_err_jy"]).all()
    assert list(sized["quality"] & int(Quality.RESOLVED) > 0) == [True, False]
    # Measured as points, the resolved source is too faint, and part of its flux counts as the point's.
    points = measure_forced(image, noise, sky.header, positions[["ra_deg", "dec_deg"]], OPTIONS)
    np.testing.assert_array_equal(points["flux_jy"], sized["peak_jy"])
    assert points["flux_jy"][0] < 0.6


def test_shaped_solution_without_sizes_is_the_forced_one(make_sky) -> None:
    """A size of a tenth of a pixel is a point: the slow system gives the fast one's fluxes and errors, also for neighbours."""
    rng = np.random.default_rng(9)
    sky = make_sky((512, 512), **BEAM)
    image = sky.correlated_noise(rng, RMS)
    x, y = rng.uniform(150, 360, (2, 40))
    for place in zip(x, y, strict=True):
        sky.add(image, *place, 0.05)
    image[300:306, 200:206] = np.nan
    positions = pd.DataFrame(dict(zip(("ra_deg", "dec_deg"), sky.world(x, y), strict=True)))
    noise = np.full(image.shape, RMS)
    fast = measure_forced(image, noise, sky.header, positions, OPTIONS)
    same = PhotometryOptions(resolved_radius_beams=OPTIONS.fit_radius_beams)
    slow = measure_forced(image, noise, sky.header, positions.assign(**dict(zip(SIZES, (0.3, 0.3, 0.0), strict=True))), same)
    far = np.isfinite(fast["flux_jy"]) & (fast["quality"] & int(Quality.EDGE) == 0)
    # They differ because the joint solution uses the beam's metric at each place, not the centre's, and does not cut the kernels'
    # tails: 1 % of the noise.
    np.testing.assert_allclose(slow["flux_jy"][far], fast["flux_jy"][far], atol=0.1 * RMS)
    np.testing.assert_allclose(slow["flux_err_jy"][far], fast["flux_err_jy"][far], rtol=0.03)


def test_no_source_is_dropped_in_a_crowd(make_sky) -> None:
    """180 sources of 10 to 100 sigma at random places, many of them blended. Every source that is a maximum of the noise-free sky has a
    component within a beam or within the resolved source that it is part of.
    """
    rng = np.random.default_rng(12)
    sky = make_sky((700, 700), **BEAM)
    image = np.zeros(sky.shape)
    x, y = rng.uniform(60, 640, (2, 180))
    flux = RMS * np.exp(rng.uniform(np.log(10), np.log(100), x.size))
    for k, place in enumerate(zip(x, y, flux, strict=True)):
        shape, _ = seen((rng.uniform(20, 60), 20.0, rng.uniform(0, 180))) if k % 5 == 0 else ({}, 1.0)
        sky.add(image, *place, **shape)
    around = [[image[j - n : j + n + 1, i - n : i + n + 1].max() for n in (2, 4)] for i, j in np.rint([x, y]).astype(int).T]
    top = np.equal(*np.array(around).T)
    assert top.sum() > 150
    x, y = x[top], y[top]
    out = find_sources(image + sky.correlated_noise(rng, RMS), np.full(image.shape, RMS), sky.header, OPTIONS)
    ra, dec = sky.world(x, y)
    east = (out["ra_deg"].to_numpy()[None] - ra[:, None]) * np.cos(np.deg2rad(16)) * 3600
    distance = np.hypot(east, (out["dec_deg"].to_numpy()[None] - dec[:, None]) * 3600)
    size = np.where(out["quality"] & int(Quality.RESOLVED) > 0, out["major_arcsec"], 35.0)
    assert (distance < size[None]).any(axis=1).all()
    assert np.isfinite(out["flux_jy"]).all()


@pytest.fixture
def hour(make_sky, tmp_path):
    """write(seed, known, flux [Jy]): write an hour with a catalogued resolved source of this flux, an unknown one and points; return its
    rows."""
    sky = make_sky((512, 512), **BEAM)
    x, y = np.array([120.0, 380.0, 130.0, 300.0]), np.array([120.0, 130.0, 390.0, 400.0])
    ra, dec = sky.world(x, y)
    catalogue = pd.DataFrame(
        {"source_id": ["resolved", "point"], "ra_deg": ra[:2], "dec_deg": dec[:2], "flux_jy": 0.5, "frequency_hz": 1.4e9}
    )
    # The catalogue has the centre 2 arcsec off.
    catalogue.loc[0, "dec_deg"] += 2 / 3600

    def write(seed, known, flux_jy=0.5):
        image = sky.correlated_noise(np.random.default_rng(seed), RMS)
        for k, size in enumerate([(30.0, 20.0, 40.0), None, (60.0, 30.0, 70.0), None]):
            shape, area = seen(size) if size else ({}, 1.0)
            sky.add(image, x[k], y[k], flux_jy / area, **shape)
        paths = tmp_path / f"mosaic{seed}.fits", tmp_path / f"noise{seed}.fits"
        fits.writeto(paths[0], image.astype(np.float32), sky.header)
        fits.writeto(paths[1], np.full(image.shape, RMS, np.float32), sky.header)
        return measure_mosaic(*paths, known, OPTIONS, f"e{seed}", 61000.0 + seed, f"m{seed}")

    return write, catalogue


def test_resolved_sources_keep_flux_and_size_from_hour_to_hour(hour) -> None:
    """The first hour finds the sizes and later ones use them: the flux agrees within errors, at 500 sigma and at 15 sigma."""
    write, catalogue = hour
    first = write(1, catalogue)
    assert len(first) == 4
    wide = first[first["quality"] & int(Quality.RESOLVED) > 0]
    assert set(wide["kind"]) == {"forced", "blind"}
    assert len(wide) == 2
    np.testing.assert_allclose(first["flux_jy"], 0.5, rtol=0.02)
    assert (np.abs(first["flux_jy"] - 0.5) < 4 * first["flux_err_jy"]).all()
    assert (wide["peak_jy"] < 0.9 * wide["flux_jy"]).all()
    points = first.drop(index=wide.index)
    assert points["deconvolved_major_arcsec"].isna().all()
    np.testing.assert_array_equal(points["peak_jy"], points["flux_jy"])

    known = carried.known_sources(catalogue, carried.carry(carried.nothing(), first))
    assert known["deconvolved_major_arcsec"].notna().sum() == 2
    for seed, flux in ((2, 0.5), (3, 0.02)):
        later = write(seed, known, flux).set_index("source_id").loc[first["source_id"]]
        assert (later["kind"] == "forced").all()
        np.testing.assert_array_equal(later["deconvolved_major_arcsec"], first["deconvolved_major_arcsec"])
        np.testing.assert_array_equal(later["quality"] & int(Quality.RESOLVED), first["quality"] & int(Quality.RESOLVED))
        assert (np.abs(later["flux_jy"] - flux) < 4 * later["flux_err_jy"]).all()
        # The size has an error of about a part in 500, and is common to all later hours.


def test_two_known_points_in_one_beam_are_fitted_as_points(make_sky, tmp_path) -> None:
    """One point has a fifth of the other's flux, 20 arcsec away: together they look wide, and a single ellipse would have the flux of both.
    Fitted jointly as points, each has its own flux within 4 errors."""
    sky = make_sky((256, 256), **BEAM)
    flux, x, y = np.array([0.5, 0.1]), np.array([120.0, 120.0]), np.array([120.0, 120.0])
    ra, dec = sky.world(x, y)
    dec[1] += 20 / 3600
    x[1], y[1] = (float(p) for p in WCS(sky.header).world_to_pixel_values(ra[1], dec[1]))
    image = sky.correlated_noise(np.random.default_rng(3), RMS)
    for k in range(2):
        sky.add(image, x[k], y[k], flux[k])
    paths = tmp_path / "mosaic.fits", tmp_path / "noise.fits"
    fits.writeto(paths[0], image.astype(np.float32), sky.header)
    fits.writeto(paths[1], np.full(image.shape, RMS, np.float32), sky.header)
    known = pd.DataFrame({"source_id": ["a", "b"], "ra_deg": ra, "dec_deg": dec, "flux_jy": flux, "frequency_hz": 1.4e9})
    rows = measure_mosaic(*paths, known, OPTIONS, "e", 61000.0, "m").set_index("source_id").loc[["a", "b"]]
    assert not (rows["quality"] & int(Quality.RESOLVED)).any()
    assert (np.abs(rows["flux_jy"] - flux) < 4 * rows["flux_err_jy"]).all()


def test_completeness_of_the_blind_search(make_sky) -> None:
    """Points in noise: half are found at the limit of 5 sigma, 16 % one error below, 84 % one above; 4 binomial errors of 150.

    The fit's error is 1.10 rms (fitted over 0.75 beams). Peaks must be above 5 sigma as well; the noise of the fit and that of
    the peak are almost the same, so this removes only 6 % at the limit.
    """
    sky = make_sky((768, 768), **BEAM)
    image = sky.correlated_noise(np.random.default_rng(2), RMS)
    fluxes = np.array([0.0039, 0.005, 0.0061, 0.01])
    table = completeness(image, np.full(image.shape, RMS), sky.header, fluxes, OPTIONS, each=150, seed=1)
    assert (table["injected"] == 150).all()
    np.testing.assert_allclose(table["completeness"], [0.16, 0.47, 0.84, 1.0], atol=0.16)
    np.testing.assert_allclose(table["error"][:3], np.sqrt([0.16 * 0.84, 0.25, 0.16 * 0.84]) / np.sqrt(150), rtol=0.25)
    nothing = completeness(np.full((64, 64), np.nan), np.full((64, 64), np.nan), make_sky((64, 64)).header, [1.0], OPTIONS)
    assert nothing["injected"][0] == 0
    assert np.isnan(nothing["completeness"][0])
