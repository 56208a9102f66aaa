"""`calibrate` and `apply`: gains equal the graph's, corrected data equal CASA's, and tables that do not fit are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsa110_assets.calibration import caltables, night, transits
from dsa110_assets.calibration.apply import total_gains
from dsa110_assets.engines import casa_calibration
from dsa110_assets.errors import BadDataError, ConfigurationError, NotFoundError
from dsa110_assets.imaging.search import bright_sources
from dsa110_assets.sky import calibrators
from dsa110_assets.sky import model as sky_model
from dsa110_assets.tools.apply import apply
from dsa110_assets.tools.calibrate import Tables, calibrate
from dsa110_assets.tools.data import read_sources
from dsa110_assets.visibilities import measurement_set, phasing
from dsa110_assets.visibilities.predict import predict
from dsa110_assets_tests.calibration.test_night import sky_of
from dsa110_assets_tests.tools.conftest import CALIBRATOR, FAST, Transit


def test_tables_are_the_graphs(transit: Transit) -> None:
    """Equal to single precision: the graph's model is predicted as a whole, the tool's in parts."""
    vis = measurement_set.mapped(transit.ms)
    source = calibrators.find(CALIBRATOR)
    (transit_found,) = transits.transits([source], vis.times_mjd[0], vis.times_mjd[-1], float(np.rad2deg(vis.pointing_dec_rad)))
    sky = sky_model.from_frame(read_sources([transit.catalogue]))
    truth = night.calibrate_transit(vis, sky, transit_found, FAST, search=bright_sources)
    for name, theirs in (("B.cal", truth.bandpass), ("G.cal", truth.gains)):
        ours = caltables.read(transit.solved.path / name)
        assert np.array_equal(ours.flags, theirs.flags)
        assert np.max(np.abs(ours.values - theirs.values)[~theirs.flags]) < 1e-5 * np.abs(theirs.values[~theirs.flags]).max()
    assert transit.solved.figures["flux_ratio"] == pytest.approx(truth.report["flux_ratio"], abs=1e-5)


def test_the_report_shows_every_table(transit: Transit) -> None:
    files = {path.name for path in transit.solved.path.iterdir()}
    plots = {f"{table}-{kind}.png" for table in "BG" for kind in ("amplitude", "phase", "waterfall")} | {"closure.png"}
    assert files == plots | {"B.cal", "G.cal", "receptors.json", "report.html", "provenance.json"}
    page = (transit.solved.path / "report.html").read_text()
    assert all(f'src="{name}"' in page for name in plots)
    record = json.loads((transit.solved.path / "provenance.json").read_text())
    assert record["options"]["solve"]["field_rounds"] == 2
    assert record["figures"]["calibrator"] == "2253+161"


def test_corrected_data_are_the_skys_prediction(transit: Transit, tmp_path: Path) -> None:
    """The data are averaged over two channels, at one phase centre. Sources that the simulator leaves out make 9 mJy rms
    (calibration/test_night.py), 0.1 % of the calibrator."""
    made = apply(transit.ms, transit.solved.paths, tmp_path / "calibrated.ms", channels=2)
    assert made.path == tmp_path / "calibrated.ms"
    vis = measurement_set.read(made.path)
    assert measurement_set.unit(made.path) == "Jy"
    assert vis.common_phase_centre
    raw = measurement_set.read(transit.ms)
    sky = sky_of(json.loads((transit.inbox / "truth.json").read_text()))
    model = predict(raw, sky)
    turned = phasing.to_common_centre(replace(raw, data=np.repeat(model[..., None], 2, axis=-1)))
    expected = turned.data[..., 0].reshape(*model.shape[:2], -1, 2).mean(axis=3)
    good = ~vis.flags.any(axis=-1) & ~vis.is_auto[:, None]
    residual = (vis.data.mean(axis=-1) - expected)[good]
    assert np.sqrt(np.mean(np.abs(residual) ** 2)) < 0.01 * np.sqrt(np.mean(np.abs(expected[good]) ** 2))


@pytest.mark.slow
def test_options_make_the_requested_tables(transit: Transit, tmp_path: Path) -> None:
    """All of them correct the data in the same way: total gains agree for a steady instrument, and this one drifts only by 1 % a day."""
    vis = measurement_set.mapped(transit.ms)
    reference_gains, good = total_gains(vis, [caltables.read(path) for path in transit.solved.paths])
    quick = replace(FAST, field_rounds=0, model_sources=40)
    requests = {
        "delays": (replace(quick, solve_delays=True), Tables(), ["K.cal", "B.cal", "G.cal"]),
        "bandpass": (quick, Tables(gains=False), ["B.cal"]),
        "second": (replace(quick, gain_solint_s=np.inf), Tables(second_solint_s=60.0), ["B.cal", "G.cal", "2G.cal"]),
        "gains": (quick, Tables(bandpass=False, before=(transit.solved.path / "B.cal",)), ["G.cal"]),
    }
    for name, (options, tables, files) in requests.items():
        made = calibrate(transit.ms, tmp_path / name, CALIBRATOR, options, tables, catalogue_files=[transit.catalogue])
        assert list(made.tables) == files
        assert made.figures["closure_phase_deg"] < 1
        read = [caltables.read(path) for path in (*tables.before, *made.paths)]
        gains, ok = total_gains(vis, read)
        both = np.broadcast_to(ok & good, np.broadcast_shapes(ok.shape, good.shape))
        ratio = np.broadcast_to(gains / reference_gains, both.shape)[both]
        assert np.median(np.abs(ratio - 1)) < 5e-3, name
        assert np.quantile(np.abs(ratio - 1), 0.95) < 0.03, name


def test_a_model_can_replace_the_calibrator(transit: Transit, tmp_path: Path) -> None:
    made = calibrate(transit.ms, tmp_path / "a", None, FAST, model=transit.catalogue)
    assert made.figures["flux_ratio"] == pytest.approx(1, abs=0.01)
    planned = calibrate(transit.ms, tmp_path / "b", None, FAST, dry_run=True)
    assert planned.figures["calibrator"] == "2253+161"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.slow
@pytest.mark.casa
def test_applied_data_are_casas(transit: Transit, tmp_path: Path) -> None:
    """Stock applycal on the same set with the same tables gives the same data, to 1e-5 of each, and flags the same samples."""
    theirs = casa_calibration.apply_tables(transit.ms, transit.solved.paths, tmp_path / "casa.ms")
    made = apply(transit.ms, transit.solved.paths, tmp_path / "ours.ms", keep_fields=True)
    ours = measurement_set.read(made.path)
    theirs = casa_calibration.in_order_of(ours, theirs)
    cross = ~ours.is_auto
    assert np.array_equal(ours.flags[:, cross], theirs.flags[:, cross])
    good = ~ours.flags[:, cross]
    off = np.abs(ours.data[:, cross] - theirs.data[:, cross])[good] / np.abs(theirs.data[:, cross][good])
    assert off.max() < 1e-5


def test_tables_that_do_not_fit_are_refused_by_name(transit: Transit, tmp_path: Path) -> None:
    b, g = (caltables.read(path) for path in transit.solved.paths)
    shifted_set = tmp_path / "other.ms"
    vis = measurement_set.read(transit.ms)
    measurement_set.write(replace(vis, frequencies_hz=vis.frequencies_hz - 60e6), shifted_set)
    for table, word in ((b, "B"), (g, "G")):
        shifted = tmp_path / f"{word}.cal"
        caltables.write(replace(table, frequencies_hz=table.frequencies_hz - 60e6), shifted, shifted_set)
        with pytest.raises(BadDataError, match=rf"{word}.cal: .*(channels|MHz)"):
            apply(transit.ms, [shifted], tmp_path / "out.ms")
    with pytest.raises(BadDataError, match=r"not a caltable|no table.dat"):
        apply(transit.ms, [tmp_path], tmp_path / "out.ms")
    with pytest.raises(BadDataError, match=r"16 channels, which 5 do not divide"):
        apply(transit.ms, transit.solved.paths, tmp_path / "out.ms", channels=5)
    with pytest.raises(NotFoundError, match=r"3C48 is not near the beam"):
        calibrate(transit.ms, tmp_path / "out", "3C48")
    with pytest.raises(NotFoundError, match=r"nearest"):
        calibrate(transit.ms, tmp_path / "out", "3C4543")
    with pytest.raises(BadDataError, match=r"must first be corrected for the bandpass"):
        calibrate(transit.ms, tmp_path / "out", CALIBRATOR, tables=Tables(bandpass=False))
    with pytest.raises(ConfigurationError, match=r"--force"):
        calibrate(transit.ms, transit.solved.path, CALIBRATOR)
    done = apply(transit.ms, transit.solved.paths, tmp_path / "done.ms", channels=4)
    for again in (lambda: apply(done.path, transit.solved.paths, tmp_path / "out.ms"), lambda: calibrate(done.path, tmp_path / "out")):
        with pytest.raises(BadDataError, match=r"done.ms: DATA is in Jy"):
            again()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.ms").exists()
