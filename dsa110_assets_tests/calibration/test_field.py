"""A field that differs from its catalogue, and the gains solved on it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.time import Time

from dsa110_assets.calibration import field, field_fit, night, transits
from dsa110_assets.calibration.apply import total_gains
from dsa110_assets.calibration.field_fit import FLUX, INDEX
from dsa110_assets.calibration.field_model import Field
from dsa110_assets.calibration.field_scale import unknown_sky
from dsa110_assets.calibration.group import Group
from dsa110_assets.calibration.solve import SolveOptions
from dsa110_assets.calibration.structure import BaselineSums
from dsa110_assets.imaging.search import bright_sources
from dsa110_assets.simulator.options import FixedSource, SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import calibrators, model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities import grouping, reader, uvh5
from dsa110_assets_tests.imaging import synthetic

FLARE_JY = 3.0
TRUSTING = SolveOptions(field_rounds=0)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Visibilities, transit and true sky of 3C138's transit with noise, and a source of 3 Jy at 0.87 of the beam."""
    out = tmp_path_factory.mktemp("flare")
    source = calibrators.find("3C138")
    middle = transits.transit_mjd(source.ra_deg, source.dec_deg, 61066.2)
    flare = FixedSource("FLARE", source.ra_deg + 0.55, source.dec_deg - 0.45, FLARE_JY)
    options = SimulationOptions(
        start=Time(middle - 150 / 86400, format="mjd").isot[:19], groups=1, antennas=16, channels=4, subbands=4,
        rfi_tones=0, rfi_bursts=0.0, variables=False, noise_scale=0.3, fixed_sources=(flare,),
    )  # fmt: skip
    truth = simulate(out, options)
    (group,) = grouping.group_headers([uvh5.read_header(path) for path in sorted(out.glob("*.hdf5"))])
    vis = reader.read_group({s: header.path for s, header in group.files.items()}, 4)
    dec_deg = float(np.rad2deg(vis.pointing_dec_rad))
    (transit,) = transits.transits([source], vis.times_mjd[0], vis.times_mjd[-1], dec_deg)
    sources = truth["sources"]
    sky = SkyModel(
        tuple(s["name"] for s in sources), np.deg2rad([s["ra_deg"] for s in sources]),
        np.deg2rad([s["dec_deg"] for s in sources]), np.array([s["flux_jy"] for s in sources]),
        np.array([s["spectral_index"] for s in sources]),
    )  # fmt: skip
    return vis, transit, sky


@pytest.fixture(scope="module")
def true_gains(seen):
    vis, transit, sky = seen
    return gains(vis, night.calibrate_transit(vis, sky, transit, TRUSTING))


def gains(vis, solution):
    """Amplitudes, NaN where there is no solution."""
    values, good = total_gains(vis, solution.tables)
    return np.where(good, np.abs(values), np.nan)


def bias(found, true):
    """Median over receptors, channels and times of found / true - 1, and the standard deviation of the ratio."""
    ratio = found / true
    middle = float(np.nanmedian(ratio))
    return middle - 1, float(np.nanstd(ratio))


def catalogue(sky, flux_jy):
    """The sky in a catalogue made when the source had `flux_jy`; for None, without the source."""
    flaring = np.array([name == "FLARE" for name in sky.names])
    if flux_jy is None:
        return sky.select(~flaring)
    return replace(sky, flux_jy=np.where(flaring, flux_jy, sky.flux_jy))


@pytest.mark.parametrize("flux_jy", [FLARE_JY / 3, None], ids=["three times brighter", "not in the catalogue"])
def test_a_flare_in_the_field_does_not_pull_the_gains(seen, true_gains, flux_jy):
    """A third of a gain's noise is allowed; gains of one solve have an error of 1/SNR each.

    If the catalogue is trusted, their median is off by several per cent, and they scatter by as much.
    """
    vis, transit, sky = seen
    listed = catalogue(sky, flux_jy)
    before = bias(gains(vis, night.calibrate_transit(vis, listed, transit, TRUSTING)), true_gains)
    assert max(abs(before[0]), before[1]) > 0.02
    solution = night.calibrate_transit(vis, listed, transit, SolveOptions(), search=bright_sources)
    shift, scatter = bias(gains(vis, solution), true_gains)
    noise = 1 / solution.report["bandpass_snr"]
    assert abs(shift) < 0.002
    assert scatter < noise / 3
    (change,) = [c for c in solution.report["field_changes"] if abs(c["fitted_jy"] - FLARE_JY) < 1]
    assert change["fitted_jy"] == pytest.approx(FLARE_JY, abs=5 * change["error_jy"] + 0.01 * FLARE_JY)
    assert change["catalogue_jy"] == (flux_jy or 0.0)
    assert solution.report["field_new"] == (flux_jy is None)
    place = sky.select([name == "FLARE" for name in sky.names])
    away_arcsec = np.hypot(
        (change["ra_deg"] - np.rad2deg(place.ra_rad[0])) * np.cos(place.dec_rad[0]), change["dec_deg"] - np.rad2deg(place.dec_rad[0])
    )
    assert 3600 * away_arcsec < 2  # a thirtieth of the beam
    json.dumps(solution.report)


def test_a_correct_catalogue_is_not_changed(seen, true_gains):
    """Nothing differs by 5 sigma, so the model and hence the gains are identical, after one round."""
    vis, transit, sky = seen
    solution = night.calibrate_transit(vis, sky, transit, SolveOptions(), search=bright_sources)
    assert (solution.report["field_changes"], solution.report["field_rounds"]) == ([], 1)
    np.testing.assert_array_equal(gains(vis, solution), true_gains)


def test_the_calibrator_keeps_its_flux(seen):
    """If the catalogue's field is too bright by a factor of two, the field changes and not the scale, which is the anchor's."""
    vis, transit, sky = seen
    calibrator = model.from_calibrator(transit.calibrator)
    refined = field.refine(vis, night.field_of(vis, transit.calibrator, catalogue(sky, 1.0), 30), sky, SolveOptions(), None).field
    assert refined.sky.flux_jy[0] == calibrator.flux_jy[0]
    np.testing.assert_array_equal(refined.sky.log_coefficients[0], calibrator.log_coefficients[0])


def test_thinning_keeps_channels_and_their_width(seen):
    vis, _, _ = seen
    wide = replace(vis, **{name: np.repeat(getattr(vis, name), 40, axis=2) for name in ("data", "flags", "weights")},
                   frequencies_hz=np.linspace(1.3e9, 1.5e9, 40 * vis.frequencies_hz.size))  # fmt: skip
    thin = field.thinned(wide)
    assert thin.data.size <= field.MOST_SAMPLES < wide.data.size
    assert set(thin.frequencies_hz) <= set(wide.frequencies_hz)
    assert np.ptp(np.diff(thin.frequencies_hz)) < 1
    assert thin.channel_width_hz == vis.channel_width_hz


NOTHING = SkyModel((), *(np.empty(0) for _ in range(4)))


@pytest.mark.parametrize(("antennas", "found"), [(8, 2), (24, 3)])
def test_sources_are_found_and_their_sidelobes_are_not(antennas: int, found: int) -> None:
    """Sources of 1, 0.7, 0.4 and 0.2 Jy. With 8 antennas those below the root of 2/7 (0.53) are not found, with 24 antennas those below
    the root of 2/23 (0.29).

    The highest sidelobes are 0.93 with 8 antennas, 0.74 with 24. A peak gives the flux to 2 % (a third of a pixel of a quarter of a
    beam), and to the sidelobes of the others, a fifth here, before all are fitted together.
    """
    offsets, flux = [(0.1, 0.2), (-0.6, 0.35), (0.45, -0.5), (-0.3, -0.65)], [1.0, 0.7, 0.4, 0.2]
    vis = synthetic.observe(
        [(*place, jy) for place, jy in zip(offsets, flux, strict=True)],
        n_antennas=antennas, n_subbands=4, n_channels=4, noise_jy=0.05, primary_beam=True, smeared=True,
    )  # fmt: skip
    sources = field.new_sources(vis, 0.05, NOTHING, bright_sources)
    ra, dec = np.array([synthetic.position_rad(vis.phase_centres_rad[0], *place) for place in offsets[:found]]).T
    assert len(sources) == found
    away_deg = np.rad2deg(np.hypot((sources.ra_rad - ra) * np.cos(dec), sources.dec_rad - dec))
    assert away_deg.max() < 10 / 3600
    np.testing.assert_allclose(sources.flux_jy, flux[:found], rtol=0.2)


def test_columns_that_sums_cannot_distinguish_are_undetermined() -> None:
    """Two columns are equal: by Sherman and Morrison the inverse of 1 1^T + e I is (I - 1 1^T / (2 + e)) / e."""
    e = field_fit.ROUNDING
    inverse = field_fit.inverted(np.ones((2, 2)))
    np.testing.assert_allclose(inverse * e, np.eye(2) - 1 / (2 + e), rtol=1e-6)
    np.testing.assert_allclose(inverse @ np.ones(2), 0.5, rtol=1e-5)


@pytest.mark.parametrize(("power", "index"), [(2.6, -0.6), (2.4, -0.7)])
def test_an_undetermined_index_is_kept(power: float, index: float) -> None:
    """A new source has an index that is off by a step of 0.1; the sums are exact, with a variance of 10. The step's error is below 2 steps
    if the sum of its squared column is above 10 / 2^2."""
    normal, true = np.diag([1e5, 0.0, 1e4, power]), np.array([1.0, 1.0, 1.0, 1.0])
    kinds = np.array([FLUX, INDEX])
    energy = float(true @ normal @ true) + 2 * 10 * (1000 - kinds.size)
    empty = np.empty(0)
    sums = field_fit.Equations(
        normal, normal @ true, energy, 1000, np.array([1, 1]), kinds, np.empty((4, 2)), np.eye(2), 1.0, BaselineSums(*[empty] * 8)
    )
    sky = SkyModel(("calibrator", "new"), np.array([0.0, 0.01]), np.zeros(2), np.array([10.0, 1.0]), np.full(2, -0.7))
    new = np.array([False, True])
    start = Field(sky, new, new, np.array([10.0, 0.0]), np.array([np.nan, 0.1]))
    fitted, changed = field_fit.fit_fluxes(sums, start, Group(0))
    assert changed == (index == -0.6)
    np.testing.assert_allclose(fitted.sky.spectral_index, [-0.7, index])
    assert fitted.sigma_jy[1] == pytest.approx(np.sqrt(10 / 1e4), rel=0.01)


@pytest.mark.parametrize("antennas", [8, 24])
def test_the_part_absorbed_by_gains_follows_from_their_number(antennas: int) -> None:
    """With a point as the model, gains 1 + a + i b change a baseline's real part by a_i + a_j and its imaginary part by b_i - b_j. The
    fraction of white noise that least squares absorbs is the rank of this over the count; 2 / (n - 1) exceeds it by 1 / (2 n - 1) of
    it."""
    vis = synthetic.observe([(0.0, 0.0, 1.0)], n_antennas=antennas, n_times=1, n_subbands=1)
    i, j = np.triu_indices(antennas, 1)
    amplitudes, phases = np.zeros((2, i.size, antennas))
    row = np.arange(i.size)
    amplitudes[row, i], amplitudes[row, j], phases[row, i], phases[row, j] = 1, 1, 1, -1
    rank = np.linalg.matrix_rank(amplitudes) + np.linalg.matrix_rank(phases)
    assert field.absorbed_part(vis) ** 2 == pytest.approx(rank / (2 * i.size) * (1 + 1 / (2 * antennas - 1)))


def test_sky_missing_from_the_model_is_distinguished_from_noise() -> None:
    """A point of 0.1 Jy that is missing from a model of a point of 1 Jy: a tenth. The noise of XX times that of YY and of each times the
    source are sqrt(2) 0.05^2 and 0.05 0.1 in 10^5 samples, which gives the power to 0.2 %."""
    model = synthetic.observe([(0.0, 0.0, 1.0)], autos=False).data[..., 0]
    residual = synthetic.observe([(0.3, 0.2, 0.1)], autos=False, noise_jy=0.05)
    assert unknown_sky(residual, model) == pytest.approx((0.1, 0.1), rel=0.005)
    assert unknown_sky(synthetic.observe([], autos=False, noise_jy=0.05), model) == (0.0, 0.0)
