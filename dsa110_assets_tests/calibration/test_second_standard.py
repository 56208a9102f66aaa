"""The quantities by which a calibrator is judged, against direct computation: moments, closure, robust means, shifts, receptors."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.calibration import group, receptors, structure
from dsa110_assets.calibration.field_model import Field, predicted, prediction
from dsa110_assets.calibration.solve import SolveOptions, solve
from dsa110_assets.calibration.structure import BaselineSums
from dsa110_assets.errors import BadDataError
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.sky.structures import POINT, Gaussian

ARCSEC = np.deg2rad(1 / 3600)
SIZE = Gaussian((20 * ARCSEC) ** 2, 0.3 * (15 * ARCSEC) ** 2, (12 * ARCSEC) ** 2)
SMALL = Gaussian((8 * ARCSEC) ** 2, 0.3 * (6 * ARCSEC) ** 2, (5 * ARCSEC) ** 2)
"""Its visibility is 0.7 or more on these baselines, so errors of logarithms are nearly those of a point."""


def sums(visibility, noise=0.01, n=24, seed=1):
    """Sums of a source of 1 Jy seen by `n` antennas whose gains are 2 % and 0.02 rad off, noise [Jy] on each baseline's mean."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1500, (2, n))
    i, j = np.triu_indices(n, 1)
    u, v = x[j] - x[i], y[j] - y[i]
    gains = rng.normal(1, 0.02, n) * np.exp(1j * rng.normal(0, 0.02, n))
    samples = 200
    errors = noise / np.sqrt(2) * (rng.normal(size=i.size) + 1j * rng.normal(size=i.size))
    mean = visibility(u, v) * gains[i] * gains[j].conj() + errors
    # the energy of the mean, plus that of the scatter of `samples` about it
    energy = samples * np.abs(mean) ** 2 + (samples - 1) * samples * noise**2
    return BaselineSums(samples * mean, np.full(i.size, float(samples)), energy, np.full(i.size, samples), i, j, u, v)


def test_a_gaussians_visibility_is_its_fourier_transform():
    """Summed over an image of 1 arcsec pixels out to 60; FWHM along an axis is where the profile is half."""
    axis = np.arange(-60, 61) * ARCSEC
    east, north = np.meshgrid(axis, axis, indexing="ij")
    squares = np.array([[SIZE.uu, SIZE.uv], [SIZE.uv, SIZE.vv]])
    place = np.stack([east, north])
    image = np.exp(-4 * np.log(2) * np.einsum("axy,ab,bxy->xy", place, np.linalg.inv(squares), place))
    image /= image.sum()
    for u, v in ((3000.0, 0.0), (-2000.0, 2500.0), (1000.0, 4000.0)):
        direct = np.sum(image * np.exp(-2j * np.pi * (u * east + v * north)))
        assert SIZE.visibility(np.array(u), np.array(v)) == pytest.approx(direct.real, abs=2e-5)  # the image ends at 60 arcsec
    major, minor, position = Gaussian((20 * ARCSEC) ** 2, 0.0, (8 * ARCSEC) ** 2).axes_arcsec
    assert (major, minor, position) == pytest.approx((20, 8, 90))


def test_moments_of_the_structure_are_distinguished_from_gains():
    pulls = []
    for seed in range(20):
        shape = structure.shape(sums(SMALL.visibility, seed=seed))
        assert shape.significance > 20
        assert shape.amplitude_excess < 2e-3
        pulls.append((shape.more.uu - SMALL.uu) / shape.error_rad2)
        point = structure.shape(sums(lambda u, v: 1 + 0 * u, seed=seed))
        assert point.significance < 5  # of three parameters, once in 4e5
        assert point.amplitude_excess == point.phase_excess_rad == 0
        assert point.reduced_chi2 == pytest.approx(1, abs=5 * np.sqrt(2 / 480))
    # the reported error is the largest of three, so pulls are no wider than 1
    assert np.std(pulls) < 1 + 3 / np.sqrt(40)


def test_a_double_source_leaves_a_large_excess_over_a_gaussian():
    """A double of 60 arcsec: most of its closure amplitudes and signs cannot be explained."""
    shape = structure.shape(sums(lambda u, v: np.cos(np.pi * 60 * ARCSEC * u)))
    assert max(shape.amplitude_excess, shape.phase_excess_rad) > 0.3


def test_adding_sizes_never_gives_a_negative_size():
    both = Gaussian(4e-9, 0.0, 1e-9).plus(Gaussian(-5e-9, 0.0, 1e-9))
    assert (both.uu, both.vv) == pytest.approx((0.0, 2e-9))


def test_too_few_baselines_give_no_shape():
    assert math.isnan(structure.shape(sums(SIZE.visibility, n=4)).amplitude_excess)


def test_the_resolved_model_is_the_same_in_parts_and_as_a_whole(observation):
    obs = observation()
    centre = obs.vis.phase_centres_rad[0]
    sky = SkyModel(("c", "f"), centre[0] + np.array([0, 0.005]), centre[1] + np.array([0, 0.003]), np.array([10.0, 2.0]), np.zeros(2))
    field = Field(sky, np.zeros(2, bool), np.zeros(2, bool), sky.flux_jy, np.full(2, np.nan), size=SIZE)
    whole = predicted(obs.vis, field)
    some = np.array([3, 7, 20])
    np.testing.assert_allclose(prediction(obs.vis, field).during(1, 4)(some), whole[1:4, some], atol=1e-5)
    assert np.abs(whole - predicted(obs.vis, replace(field, size=POINT))).max() > 0.1


def test_the_error_of_a_robust_mean_matches_its_scatter():
    """Pulls about the truth over 400 draws, with a catalogue scatter of 3 % that the errors do not include, and with an outlier. The
    outlier shifts Huber's estimate by at most 1.5 errors of one value: 1.5 / sqrt(20) of the estimate's error."""
    rng = np.random.default_rng(1)
    pulls, spoilt = [], []
    for _ in range(400):
        sigma = rng.uniform(0.005, 0.05, 20)
        values = rng.normal(1.1, np.hypot(sigma, 0.03))
        mean, error = group.robust_mean(values, sigma)
        pulls.append((mean - 1.1) / error)
        mean, error = group.robust_mean(np.append(values[1:], 3.0), sigma)
        spoilt.append((mean - 1.1) / error)
    # Huber's estimate is 5 % less efficient than the mean, and the scatter is measured on 20: 1.1 +- 3 sigma of the spread of 400
    assert 0.85 < np.std(pulls) < 1.25
    assert abs(np.mean(pulls)) < 3 * 1.2 / 20
    assert abs(np.mean(spoilt)) < 1.5 / np.sqrt(20) + 3 * 1.2 / 20
    assert 0.85 < np.std(spoilt) < 1.25


def test_too_few_or_uncertain_sources_form_no_group():
    ratio, sigma, shift = np.ones(4), np.full(4, 0.01), np.zeros((2, 4))
    assert not group.of_sources(ratio, sigma, shift, shift + 1).known
    unclear = group.of_sources(np.ones(9), np.full(9, 0.3), np.zeros((2, 9)), np.ones((2, 9)))
    assert (unclear.count, unclear.known) == (0, False)


def test_a_shift_of_many_fringes_is_found():
    rng = np.random.default_rng(3)
    u, v = rng.normal(0, 3000, (2, 2000))
    visibilities = np.exp(2j * np.pi * (u * -31 * ARCSEC + v * 22 * ARCSEC))
    east, north, gain = group.coarse_shift(visibilities, u, v)
    assert (east / ARCSEC, north / ARCSEC) == pytest.approx((-31, 22), abs=2)
    assert gain > 1000


def test_receptor_powers_are_stored_and_compared(observation, tmp_path):
    """Autocorrelations of |g|^2 5000 Jy give 5000 Jy; a dead receptor is null in the file and NaN when read."""
    obs = observation(noise=0.0005)
    vis = obs.vis
    autos = vis.is_auto
    data = vis.data.copy()
    data[:, autos] = 5000 * np.abs(obs.gains[:, vis.ant1[autos]]) ** 2
    flags = vis.flags.copy()
    dead = int(vis.active_antennas[3])
    flags[:, (vis.ant1 == dead) | (vis.ant2 == dead), :, 1] = True
    solution = solve(vis, obs.model, SolveOptions(gain_solint_s=25.0))
    tables = solve(replace(vis, flags=flags), obs.model, SolveOptions(gain_solint_s=25.0)).tables
    power = receptors.system_jy(replace(vis, data=data, flags=flags), tables)
    name = vis.antennas.names[dead]
    assert np.isnan(power[name][1])
    alive = [value for other, both in power.items() for value in both if not (other == name and np.isnan(value))]
    assert alive == pytest.approx([5000.0] * 23, rel=0.01)  # gains of 0.1 %, their squares, four sigma
    receptors.write(tmp_path, power)
    assert json.loads((tmp_path / receptors.FILE).read_text())["system_jy"][name][1] is None
    again = receptors.read_receptors(tmp_path)
    assert list(again) == list(power)
    np.testing.assert_array_equal(list(again.values()), list(power.values()))
    assert receptors.read_receptors(tmp_path / "older") == {}
    (tmp_path / receptors.FILE).write_text("{}")
    with pytest.raises(BadDataError, match="system_jy"):
        receptors.read_receptors(tmp_path)
    first = receptors.amplitudes(solution.bandpass)
    brighter = {other: (x * math.sqrt(1.15), y * math.sqrt(1.15)) for other, (x, y) in first.items()}
    scales = receptors.scales([first, brighter, first])
    assert scales == pytest.approx([1, 1.15, 1])
    assert np.isnan(receptors.scales([first, {}])).all()
