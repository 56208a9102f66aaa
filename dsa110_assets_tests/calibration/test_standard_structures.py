"""Standards that consist of several known components: their model, the gains solved with it, and how they are judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.time import Time

from dsa110_assets.calibration import night, quality, structure, transits
from dsa110_assets.calibration.apply import total_gains
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.imaging.search import bright_sources
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import calibrators, flux_scale, structures
from dsa110_assets.sky import model as sky_model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.sky.structures import Component, Gaussian, Structure
from dsa110_assets.thresholds import Thresholds
from dsa110_assets.visibilities import grouping, reader, uvh5
from dsa110_assets.visibilities.predict import Prediction, predict, predict_each

ARCSEC = np.deg2rad(1 / 3600)
STRUCTURED = ("3C196", "3C295")


@pytest.mark.parametrize("name", STRUCTURED)
def test_shares_are_of_one_flux_about_its_centroid(name: str) -> None:
    """To the file's rounding: three decimals of an arcsecond, four of a share."""
    parts = structures.of_standards()[name].components
    assert sum(one.share for one in parts) == pytest.approx(1, abs=2e-4)
    assert sum(one.share * one.east_rad for one in parts) == pytest.approx(0, abs=2e-3 * ARCSEC)
    assert sum(one.share * one.north_rad for one in parts) == pytest.approx(0, abs=2e-3 * ARCSEC)
    assert name in flux_scale.standards()


def test_a_structures_visibility_is_its_fourier_transform() -> None:
    """Against a sum over an image of 0.25 arcsec pixels, east to the right, of a point and an ellipse."""
    ellipse = Gaussian.of_axes(6, 3, 27)
    assert ellipse.axes_arcsec == pytest.approx((6, 3, 27))
    source = Structure((Component(4 * ARCSEC, -2 * ARCSEC, 0.7, ellipse), Component(-3 * ARCSEC, 5 * ARCSEC, 0.3, Gaussian())))
    axis = np.arange(-80, 81) * 0.25 * ARCSEC
    east, north = np.meshgrid(axis, axis, indexing="ij")
    x, y = east - 4 * ARCSEC, north + 2 * ARCSEC
    angle = np.deg2rad(27)
    along, across = x * np.sin(angle) + y * np.cos(angle), x * np.cos(angle) - y * np.sin(angle)
    image = np.exp(-4 * np.log(2) * ((along / (6 * ARCSEC)) ** 2 + (across / (3 * ARCSEC)) ** 2))
    image *= 0.7 / image.sum()
    image[68, 100] += 0.3  # 3 arcsec west, 5 north
    for u, v in ((9000.0, 3000.0), (-12000.0, 6000.0), (500.0, 13000.0)):
        direct = np.sum(image * np.exp(2j * np.pi * (u * east + v * north)))
        assert source.visibility(np.array(u), np.array(v)) == pytest.approx(direct, abs=1e-6)


@pytest.mark.parametrize("name", STRUCTURED)
def test_all_predictions_have_a_standards_structure(observation, name: str) -> None:
    """All ways to predict agree to single precision; a fitted flux keeps the structure."""
    vis, sky, field = observation(n_subbands=16, n_channels=2, n_times=3).vis, *in_the_middle(observation, name)
    whole = sky_model.concat(field.select([0]), sky, field.select([1]))
    total, standard_only = predict(vis, whole), predict(vis, sky)
    np.testing.assert_allclose(total, predict(vis, field) + standard_only, atol=1e-5)
    for n_alone in (0, 1, 2, None):
        separate = np.stack(list(predict_each(vis, whole, n_alone)), axis=1)
        np.testing.assert_allclose(separate.sum(axis=0), total, atol=1e-5)
        if n_alone == 2:
            np.testing.assert_allclose(separate[1], standard_only, atol=1e-5)
    some = np.array([3, 7, 20])
    for sources, expected in ((whole, total), (sky, standard_only)):
        made = Prediction(vis, sources).during(1, 3)
        for _ in range(2):
            np.testing.assert_allclose(made(some), expected[1:3, some], atol=1e-5)
    brighter = replace(sky, log_coefficients=sky.log_coefficients + np.eye(1, 6) * 0.1)
    np.testing.assert_allclose(predict(vis, brighter), 10**0.1 * standard_only, rtol=1e-4)
    unresolved = predict(vis, of_no_standard(sky))
    assert np.abs(standard_only - unresolved).max() > 0.1 * np.abs(unresolved).max()


def test_components_have_the_right_positions(observation) -> None:
    """3C295 as two sources. Axes of date and of ICRS differ by 3e-3, which moves either by 0.006 arcsec: 2.2e-3 rad at 12
    kilowavelengths."""
    vis, (sky, _) = observation(n_subbands=16, n_channels=2, n_times=3).vis, in_the_middle(observation, "3C295")
    pair = of_no_standard(sky).select([0, 0])
    parts = structures.of_standards()["3C295"].components
    east, north, share = (np.array([getattr(one, name) for one in parts]) for name in ("east_rad", "north_rad", "share"))
    points = replace(
        pair, ra_rad=pair.ra_rad + east / np.cos(pair.dec_rad), dec_rad=pair.dec_rad + north,
        log_coefficients=pair.log_coefficients + np.log10(share)[:, None] * np.eye(1, 6),
    )  # fmt: skip
    standard_only = predict(vis, sky)
    np.testing.assert_allclose(standard_only, predict(vis, points), atol=2.2e-3 * np.abs(standard_only).max())


def in_the_middle(observation, name):
    """A standard moved to an observation's first pointing, and two other sources."""
    centre = observation(n_subbands=16, n_channels=2, n_times=3).vis.phase_centres_rad[0]
    sky = sky_model.from_calibrator(calibrators.find(name))
    others = centre[0] + np.array([-0.01, 0.01]), centre[1] + np.array([0, 0.01])
    field = SkyModel(("before", "after"), *others, np.array([5.0, 3.0]), np.zeros(2))
    return replace(sky, ra_rad=centre[:1] + 0.002, dec_rad=centre[1:] + 0.001), field


def of_no_standard(sky):
    """The sky with a polynomial that belongs to no standard, while the flux hardly changes."""
    return replace(sky, log_coefficients=sky.log_coefficients + np.eye(1, 6, 5) * 1e-12)


def observed(out, name: str, **more):
    """A standard's simulated transit: visibilities, transit, all sources as points, and true |g| (antenna, pol)."""
    source = calibrators.find(name)
    middle = transits.transit_mjd(source.ra_deg, source.dec_deg, 61066.2)
    options = SimulationOptions(
        groups=1, channels=1, subbands=8, seed=2, dec_deg=source.dec_deg, rfi_tones=0, rfi_bursts=0.0, variables=False,
        dead_antennas=0, dead_receptors=0, integrations=12, start=Time(middle - 77 / 86400, format="mjd").isot[:19], **more,
    )  # fmt: skip
    truth = simulate(out, options)
    (group,) = grouping.group_headers([uvh5.read_header(path) for path in sorted(out.glob("*.hdf5"))])
    vis = reader.read_group({s: header.path for s, header in group.files.items()}, 8)
    (transit,) = transits.transits([source], vis.times_mjd[0], vis.times_mjd[-1], float(np.rad2deg(vis.pointing_dec_rad)))
    sources = truth["sources"]
    sky = SkyModel(
        tuple(s["name"] for s in sources), *(np.array([s[key] for s in sources]) * unit for key, unit in (
            ("ra_deg", np.pi / 180), ("dec_deg", np.pi / 180), ("flux_jy", 1), ("spectral_index", 1))),
    )  # fmt: skip
    (night_gains,) = truth["gains"]["nights"].values()
    true = np.full((117, len(night_gains["frequencies_hz"]), 2), np.nan)
    true[np.array(truth["antennas"]) - 1] = np.abs(np.array(night_gains["real"]) + 1j * np.array(night_gains["imag"]))
    return vis, transit, sky, true


def amplitudes_off(vis, tables, true):
    """(antenna in the data,) solved |g| / true |g|, averaged over the other axes, less 1."""
    values, good = total_gains(vis, tables)
    in_data = vis.active_antennas
    assert good[:, in_data].all()
    return np.mean(np.abs(values[:, in_data]) / true[in_data], axis=(0, 2, 3)) - 1


@pytest.mark.parametrize(("name", "as_a_point"), [("3C196", 0.13), ("3C295", 0.10)])
def test_a_standard_of_known_structure_gives_true_gains(tmp_path, monkeypatch, name: str, as_a_point: float) -> None:
    """Without noise, out to 2.3 km. The model's axes are the field's of date and the simulator's ICRS: from 2000 to 2026 they
    turn by 3e-3, which moves a component of a seventh of the flux by 0.011 arcsec, 4e-3 rad on the longest baseline: 6e-4
    of the visibility, half of it on either antenna.

    A point model is wrong by a tenth on the outriggers, which have long baselines to all others: gains absorb nearly all of it.
    """
    vis, transit, sky, true = observed(tmp_path, name, antennas=60, noise_scale=0.0, flux_min_jy=1.0, gain_drift=0.0)
    options = SolveOptions(field_rounds=0)
    solution = night.calibrate_transit(vis, sky, transit, options)
    assert np.abs(amplitudes_off(vis, solution.tables, true)).max() < 3e-4
    assert quality.calibrator_problems(name, solution.report, Thresholds()) == []
    monkeypatch.setattr(structures, "of_standards", dict)
    point = night.calibrate_transit(vis, sky, transit, options)
    off = amplitudes_off(vis, point.tables, true)
    assert off.min() == pytest.approx(-as_a_point, abs=0.01)
    assert np.abs(off).max() == -off.min()


def test_a_standard_of_known_structure_agrees_with_its_model(tmp_path) -> None:
    """With the telescope's noise, and the field examined: nothing is changed and nothing refused."""
    vis, transit, sky, _ = observed(tmp_path, "3C196", antennas=40)
    report = night.calibrate_transit(vis, sky, transit, SolveOptions(), search=bright_sources).report
    assert quality.problems(report, Thresholds()) + quality.calibrator_problems("3C196", report, Thresholds()) == []
    assert report["calibrator_major_arcsec"] == report["calibrator_offset_ra_arcsec"] == report["field_new"] == 0
    assert report["anchor"] == "PB17:3C196"
    assert report["field_flux_ratio"] == pytest.approx(1, abs=5 * report["field_flux_ratio_error"])


def test_closure_is_judged_against_the_model() -> None:
    """A wide double, 60 arcsec and 3 to 1, seen by 24 antennas out to some kilometres. With its model no closure error is left; with
    a point as its model, the antennas' gains cannot absorb the error."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1500, (2, 24))
    i, j = np.triu_indices(24, 1)
    u, v = x[j] - x[i], y[j] - y[i]
    source = Structure((Component(15 * ARCSEC, 0, 0.75, Gaussian()), Component(-45 * ARCSEC, 0, 0.25, Gaussian())))
    visibilities, samples, noise = source.visibility(u, v), 200, 0.01
    energy = samples * np.abs(visibilities) ** 2 + (samples - 1) * samples * noise**2
    for model, lower, upper in ((source.visibility(u, v), 0, 1e-9), (np.ones(i.size), 0.1, np.inf)):
        bottom = samples * np.abs(model) ** 2
        sums = structure.BaselineSums(samples * visibilities * model.conj(), bottom, energy, np.full(i.size, samples), i, j, u, v)
        shape = structure.shape(sums)
        assert lower <= shape.amplitude_excess <= upper
