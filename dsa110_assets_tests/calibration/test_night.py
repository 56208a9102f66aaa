"""A simulated transit, read from its files, solved against the simulator's truth."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.calibration import night, quality, transits
from dsa110_assets.calibration.apply import apply
from dsa110_assets.calibration.solve import SolveOptions
from dsa110_assets.errors import BadDataError, ConfigurationError
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import calibrators
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.thresholds import Thresholds
from dsa110_assets.visibilities import grouping, reader, uvh5
from dsa110_assets.visibilities.predict import predict


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """One noise-free group of twelve antennas with 3C454.3 in it, with its truth."""
    out = tmp_path_factory.mktemp("transit")
    source = calibrators.find("3C454.3")
    middle = transits.transit_mjd(source.ra_deg, source.dec_deg, 61065.9)
    from astropy.time import Time

    options = SimulationOptions(
        start=Time(middle - 150 / 86400, format="mjd").isot[:19],
        groups=1, antennas=12, channels=4, subbands=4,
        noise_scale=0.0, rfi_tones=0, rfi_bursts=0.0, dead_antennas=0, dead_receptors=1, variables=False,
    )  # fmt: skip
    truth = simulate(out, options)
    headers = [uvh5.read_header(path) for path in sorted(out.glob("*.hdf5"))]
    (group,) = grouping.group_headers(headers)
    vis = reader.read_group({s: header.path for s, header in group.files.items()}, 4)
    (transit,) = transits.transits([source], vis.times_mjd[0], vis.times_mjd[-1], float(np.rad2deg(vis.pointing_dec_rad)))
    return vis, truth, transit


def sky_of(truth):
    """The simulator's constant sky as a model."""
    sources = truth["sources"]
    return SkyModel(
        tuple(s["name"] for s in sources), np.deg2rad([s["ra_deg"] for s in sources]),
        np.deg2rad([s["dec_deg"] for s in sources]), np.array([s["flux_jy"] for s in sources]),
        np.array([s["spectral_index"] for s in sources]),
    )  # fmt: skip


def test_solved_transit_calibrates_the_data(simulated):
    """Corrected noise-free data of the simulator equal the sky's prediction: scale, signs, frames.

    The simulator samples the measurement equation with separate code, for sources down to 2.5 mJy through the
    beam; fainter sources, which our prediction includes, make 9 mJy rms.
    """
    vis, truth, transit = simulated
    sky = sky_of(truth)
    solution = night.calibrate_transit(vis, sky, transit, SolveOptions(gain_solint_s=12.9, model_sources=1000))
    assert quality.problems(solution.report, Thresholds()) == []
    assert solution.report["anchor"] == f"VLA:{transit.calibrator.name}"
    assert solution.report["anchor_provisional"] is True
    assert solution.report["flux_ratio"] == pytest.approx(1, abs=1e-3)
    assert solution.report["closure_phase_deg"] < 0.1
    json.dumps(solution.report)
    model = predict(vis, night.field_of(vis, transit.calibrator, sky, 1000))
    after = apply(vis, solution.tables)
    good = ~after.flags & ~vis.is_auto[None, :, None, None]
    assert good.mean() > 0.7
    residual = np.abs(after.data - model[..., None])[good]
    assert np.sqrt(np.mean(residual**2)) < 2e-3 * transit.apparent_flux_jy


def test_dead_receptor_of_the_simulator_is_found(simulated):
    vis, truth, transit = simulated
    solution = night.calibrate_transit(vis, sky_of(truth), transit, SolveOptions())
    assert solution.report["dead_receptor_names"] == [f"{n}{p[0]}" for n, p in truth["bad_antennas"]["dead_receptors"]]


def test_field_sources_matter(simulated):
    """Without the field's sources the solution is worse: the model is the whole sky, not one point."""
    vis, truth, transit = simulated
    sky = sky_of(truth)
    full = night.calibrate_transit(vis, sky, transit, SolveOptions())
    lone = night.calibrate_transit(vis, sky.select(np.zeros(len(sky), bool)), transit, SolveOptions())
    assert lone.report["reduced_chi2"] > 10 * full.report["reduced_chi2"]


def test_gains_absorb_no_flux_of_faint_sources(simulated):
    """Flux that the model lacks goes partly into the gains and is then missing from the data they correct.

    The test measures the response of corrected data to the field's sources beyond the 30 brightest, as a least-squares factor: 1
    if nothing is lost. The gains of twelve antennas absorb up to 2 / 12 of the flux missing from the model; the default model leaves
    out a hundredth of the flux in this sum.
    """
    vis, truth, transit = simulated
    field = night.field_of(vis, transit.calibrator, sky_of(truth), 1000)
    bright, faint = np.arange(31), np.arange(31, len(field))
    bright_model, faint_model = (predict(vis, field.select(which)) for which in (bright, faint))

    def seen(options):
        after = apply(vis, night.calibrate_transit(vis, sky_of(truth), transit, options).tables)
        good = ~after.flags & ~vis.is_auto[None, :, None, None]
        residual = np.where(good, after.data - bright_model[..., None], 0)
        power = np.where(good, np.abs(faint_model[..., None]) ** 2, 0)
        return float(np.sum((residual * np.conj(faint_model[..., None])).real) / power.sum())

    assert seen(SolveOptions()) == pytest.approx(1, abs=0.01)
    assert seen(SolveOptions(model_sources=30)) < 0.97


def test_calibrator_is_not_counted_twice(simulated):
    """The calibrator's flux replaces its entry in the catalogue."""
    vis, truth, transit = simulated
    field = night.field_of(vis, transit.calibrator, sky_of(truth), 30)
    ra, dec = np.deg2rad(transit.calibrator.ra_deg), np.deg2rad(transit.calibrator.dec_deg)
    assert len(field.within(ra, dec, 1 / 60)) == 1


def test_integrations_out_of_the_beam_are_left_out(simulated):
    """Integrations with less beam on the calibrator are not solved on; data without any are refused."""
    vis, truth, transit = simulated
    response = night.beam_on(vis, np.array([transit.calibrator.ra_deg]), np.array([transit.calibrator.dec_deg]))[:, 0]
    threshold = float(np.sort(response)[8])
    solution = night.calibrate_transit(vis, sky_of(truth), transit, SolveOptions(min_primary_beam=threshold))
    assert solution.report["integrations_used"] == 16
    later = replace(vis, times_mjd=vis.times_mjd + 0.3)
    with pytest.raises(BadDataError, match="never within"):
        night.calibrate_transit(later, sky_of(truth), transit, SolveOptions())


def test_no_flux_no_calibration(simulated):
    """Trap 40: a calibrator without flux does not calibrate with a default of 1 Jy."""
    vis, truth, transit = simulated
    unknown = replace(transit.calibrator, flux_20cm_jy=None, standard=None)
    with pytest.raises(ConfigurationError, match="flux"):
        night.calibrate_transit(vis, sky_of(truth), replace(transit, calibrator=unknown), SolveOptions())
