"""A field that is not as its catalogue says, and the gains solved in it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.time import Time

from dsa110_assets.calibration import field, night, transits
from dsa110_assets.calibration.apply import total_gains
from dsa110_assets.calibration.solve import SolveOptions
from dsa110_assets.imaging.search import bright_sources
from dsa110_assets.simulator.options import FixedSource, SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import calibrators, model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.visibilities import grouping, reader, uvh5

FLARE_JY = 3.0
TRUSTING = SolveOptions(field_rounds=0)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """3C138's transit with noise, and a source of 3 Jy at 0.87 of the beam; visibilities, transit and true sky."""
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
    """Median over receptors, channels and times of found over true, less 1, and the rms of what is about it."""
    ratio = found / true
    middle = float(np.nanmedian(ratio))
    return middle - 1, float(np.nanstd(ratio))


def catalogue(sky, flux_jy):
    """The sky as a catalogue has it that was made when the source had `flux_jy`; without it for None."""
    flaring = np.array([name == "FLARE" for name in sky.names])
    if flux_jy is None:
        return sky.select(~flaring)
    return replace(sky, flux_jy=np.where(flaring, flux_jy, sky.flux_jy))


@pytest.mark.parametrize("flux_jy", [FLARE_JY / 3, None], ids=["three times brighter", "not in the catalogue"])
def test_a_flare_in_the_field_does_not_pull_the_gains(seen, true_gains, flux_jy):
    """A third of the noise of a gain is allowed: those of one solve are good to 1/SNR each.

    Trusting the catalogue, their median is per cents off, and they scatter by as much.
    """
    vis, transit, sky = seen
    known = catalogue(sky, flux_jy)
    before = bias(gains(vis, night.calibrate_transit(vis, known, transit, TRUSTING)), true_gains)
    assert max(abs(before[0]), before[1]) > 0.02
    solution = night.calibrate_transit(vis, known, transit, SolveOptions(), search=bright_sources)
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


def test_a_true_catalogue_stays_as_it_is(seen, true_gains):
    """Nothing differs by 5 sigma, so the model and with it the gains are the very same; one round says so."""
    vis, transit, sky = seen
    solution = night.calibrate_transit(vis, sky, transit, SolveOptions(), search=bright_sources)
    assert (solution.report["field_changes"], solution.report["field_rounds"]) == ([], 1)
    np.testing.assert_array_equal(gains(vis, solution), true_gains)


def test_the_calibrator_keeps_its_flux(seen):
    """A field twice too bright in the catalogue moves the field, not the scale: that is the anchor's."""
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
