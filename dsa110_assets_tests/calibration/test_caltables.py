"""Caltables: written and read back, in CASA's layout, and stock CASA agrees with us in both directions."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import casacore.tables as ct
import numpy as np
import pytest
from pyuvdata import UVCal

from dsa110_assets.calibration import caltables
from dsa110_assets.calibration.apply import apply
from dsa110_assets.calibration.solve import SolveOptions, solve
from dsa110_assets.engines import casa_calibration
from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities import measurement_set

OPTIONS = SolveOptions(gain_solint_s=25.0, solve_delays=True)


@pytest.fixture(scope="module")
def night(observation, tmp_path_factory):
    """A noisy drifting observation with a dead receptor and flags, its measurement set and its solution."""
    obs = observation(noise=0.002, drift=0.03, max_delay_ns=20.0, n_subbands=4)
    rng = np.random.default_rng(4)
    flags = rng.random(obs.vis.data.shape) < 0.05
    dead = obs.vis.antennas.names.index("35")
    flags[:, (obs.vis.ant1 == dead) | (obs.vis.ant2 == dead), :, 1] = True
    gone = obs.vis.antennas.names.index("9")
    flags[:, (obs.vis.ant1 == gone) | (obs.vis.ant2 == gone), 6] = True
    vis = replace(obs.vis, flags=flags, data=np.where(flags, 0, obs.vis.data).astype(np.complex64))
    directory = tmp_path_factory.mktemp("caltables")
    ms = directory / "night.ms"
    measurement_set.write(vis, ms, model=obs.model)
    return replace(obs, vis=vis), ms, solve(vis, obs.model, OPTIONS, field_name="3C138")


def test_round_trip(night, tmp_path):
    """Everything is read back; values to single precision, which is the format's."""
    _, ms, solution = night
    for gains in solution.tables:
        path = tmp_path / f"{gains.kind}.cal"
        caltables.write(gains, path, ms)
        back = caltables.read(path)
        np.testing.assert_allclose(back.values, gains.values, rtol=1e-6)
        np.testing.assert_array_equal(back.flags, gains.flags)
        np.testing.assert_allclose(back.snr, gains.snr, rtol=1e-6)
        np.testing.assert_allclose(back.times_mjd, gains.times_mjd, atol=1e-10)
        np.testing.assert_allclose(back.frequencies_hz, gains.frequencies_hz, rtol=1e-12)
        assert (back.kind, back.refant, back.field_name) == (gains.kind, gains.refant, "3C138")
        assert back.antenna_names == gains.antenna_names
        assert back.interval_s == pytest.approx(gains.interval_s)


@pytest.mark.row(38, cases="the same input twice with the same bytes")
def test_the_same_solution_is_the_same_bytes(night, tmp_path):
    """The bytes do not depend on previous memory contents: glibc fills memory with another byte in every child process."""
    _, ms, solution = night
    first = tmp_path / "first.cal"
    caltables.write(solution.bandpass, first, ms)
    code = (
        "import sys; from pathlib import Path; from dsa110_assets.calibration import caltables; a, b, ms = map(Path, sys.argv[1:]); "
        "caltables.write(caltables.read(a), b, ms)"
    )
    trees = []
    for byte in ("17", "34"):
        again = tmp_path / byte / "again.cal"
        again.parent.mkdir()
        environment = os.environ | {"MALLOC_PERTURB_": byte, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, first, again, ms], env=environment, check=True)
        trees.append({path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()})
    assert [name for name in trees[0] if trees[0][name] != trees[1][name]] == []


def test_tables_with_all_channels_of_the_telescope_are_read_back(night, tmp_path):
    """Rows of 768 channels are longer than casacore's default bucket; files that were not averaged would give 6144."""
    _, ms, solution = night
    for n_chan in (768, 6144):
        few = solution.bandpass
        wide = {name: np.resize(getattr(few, name), (*few.values.shape[:2], n_chan, 2)) for name in ("values", "flags", "snr")}
        gains = replace(few, frequencies_hz=1.3e9 + 1e5 * np.arange(n_chan), **wide)
        caltables.write(gains, tmp_path / f"{n_chan}.cal", ms)
        back = caltables.read(tmp_path / f"{n_chan}.cal")
        np.testing.assert_allclose(back.values, gains.values, rtol=1e-6)
        np.testing.assert_array_equal(back.flags, gains.flags)


def test_layout_is_casas(night, tmp_path):
    """Types, names and units as in a table made by CASA 6.7 bandpass."""
    _, ms, solution = night
    caltables.write(solution.bandpass, tmp_path / "b.cal", ms)
    with ct.table(str(tmp_path / "b.cal"), ack=False) as table:
        assert table.info()["type"] == "Calibration"
        assert table.info()["subType"] == "B Jones"
        keywords = table.getkeywords()
        assert (keywords["ParType"], keywords["VisCal"], keywords["MSName"]) == (
            "Complex",
            "B Jones",
            "night.ms",
        )
        assert keywords["PolBasis"] == "unknown"
        types = {name: table.getcoldesc(name)["valueType"] for name in table.colnames()}
        assert types == {
            "TIME": "double", "FIELD_ID": "int", "SPECTRAL_WINDOW_ID": "int",
            "ANTENNA1": "int", "ANTENNA2": "int", "INTERVAL": "double",
            "SCAN_NUMBER": "int", "OBSERVATION_ID": "int", "CPARAM": "complex",
            "PARAMERR": "float", "FLAG": "boolean", "SNR": "float", "WEIGHT": "float",
        }  # fmt: skip
        assert table.getcolkeywords("TIME")["MEASINFO"]["Ref"] == "UTC"
        for name in ("ANTENNA", "FIELD", "HISTORY", "OBSERVATION", "SPECTRAL_WINDOW"):
            assert keywords[name] == f"Table: {tmp_path / 'b.cal' / name}"


def test_pyuvdata_reads_every_kind(night, tmp_path):
    """pyuvdata reads the same numbers without a warning: it conjugates gains; delays, in seconds, keep CASA's sign."""
    _, ms, solution = night
    assert {gains.kind for gains in solution.tables} == {"K", "B", "G"}
    for gains in solution.tables:
        path = tmp_path / f"{gains.kind}.cal"
        caltables.write(gains, path, ms)
        cal = UVCal()
        cal.read_ms_cal(str(path))
        assert (cal.Nants_data, cal.Ntimes, cal.Njones) == (gains.values.shape[1], gains.values.shape[0], 2)
        assert list(cal.jones_array) == [-5, -6]
        assert (cal.telescope.name, cal.telescope.get_x_orientation_from_feeds()) == ("OVRO_MMA", "north")
        assert (cal.gain_scale, cal.sky_catalog, cal.ref_antenna_name) == ("Jy", "3C138", gains.antenna_names[gains.refant])
        theirs = -1e9 * cal.delay_array if gains.kind == "K" else cal.gain_array
        good = ~np.moveaxis(gains.flags, 0, 2)
        np.testing.assert_array_equal(~cal.flag_array, good)
        np.testing.assert_allclose(theirs[good], np.moveaxis(gains.values, 0, 2)[good], rtol=1e-6, atol=1e-9)
        middle = cal.time_range.mean(axis=1) - 2400000.5
        np.testing.assert_allclose(middle, gains.times_mjd, atol=1e-8)
        if gains.kind == "B":
            np.testing.assert_allclose(cal.freq_array, gains.frequencies_hz)


def test_intervals_of_unequal_length_do_not_overlap(night, tmp_path):
    """24 integrations in runs of five leave one of four, and a gap ends a run early: each row has its own length."""
    _, ms, solution = night
    step = 12.884901888
    starts, lengths = np.array([0, 5, 10, 15, 20, 40, 45]), np.array([5, 5, 5, 5, 4, 5, 4])
    solved = solution.gains
    gains = replace(
        solved, times_mjd=solved.times_mjd[0] + (starts + lengths / 2) * step / 86400, interval_s=5 * step,
        **{name: np.repeat(getattr(solved, name)[:1], 7, axis=0) for name in ("values", "flags", "snr")},
    )  # fmt: skip
    caltables.write(gains, tmp_path / "g.cal", ms)
    cal = UVCal()
    cal.read_ms_cal(str(tmp_path / "g.cal"))
    np.testing.assert_allclose(np.diff(cal.time_range)[:, 0] * 86400, lengths * step, atol=1e-3)
    assert caltables.read(tmp_path / "g.cal").interval_s == pytest.approx(5 * step)


def test_refusals(night, tmp_path):
    _, ms, solution = night
    path = tmp_path / "b.cal"
    caltables.write(solution.bandpass, path, ms)
    with pytest.raises(BadDataError, match="exists"):
        caltables.write(solution.bandpass, path, ms)
    with pytest.raises(BadDataError, match="no caltable"):
        caltables.read(tmp_path / "none.cal")
    with pytest.raises(BadDataError, match="B, G or K Jones"):
        caltables.read(ms)
    renamed = replace(solution.bandpass, antenna_names=tuple(f"a{n}" for n in solution.bandpass.antenna_names))
    with pytest.raises(BadDataError, match="other antennas"):
        caltables.write(renamed, tmp_path / "c.cal", ms)


@pytest.mark.casa
def test_stock_applycal_agrees_with_ours(night, tmp_path):
    """Our K, B and G by stock applycal: the same CORRECTED_DATA to 1e-5, the same flags, nothing extra.

    Autocorrelations are left out: applycal does not correct them.
    """
    obs, _, solution = night
    for with_delays in (False, True):
        tables = solution.tables if with_delays else solve(obs.vis, obs.model, replace(OPTIONS, solve_delays=False)).tables
        # a channel without a solution, amid others, flags data and is not interpolated
        tables = [replace(t, flags=t.flags | (np.arange(t.flags.shape[2]) == 3)[:, None]) if t.kind == "B" else t for t in tables]
        ours, theirs = apply(obs.vis, tables), casa_calibration.apply(obs.vis, tables, work_dir=tmp_path)
        cross = ~obs.vis.is_auto
        np.testing.assert_array_equal(theirs.flags[:, cross], ours.flags[:, cross])
        good = ~ours.flags & cross[None, :, None, None]
        assert good.mean() > 0.6
        scale = np.abs(ours.data[good]).mean()
        assert np.abs(theirs.data[good] - ours.data[good]).max() < 1e-5 * scale


@pytest.mark.casa
def test_casas_tables_applied_by_us(night, tmp_path):
    """CASA's own bandpass and gaincal tables: our apply gives what stock applycal gives, to 1e-5."""
    obs, ms, _ = night
    paths = casa_calibration.solve_tables(ms, tmp_path / "casa", OPTIONS, refant="103")
    assert [caltables.read(path).kind for path in paths] == ["B", "G"]
    ours = apply(obs.vis, [caltables.read(path) for path in paths])
    theirs = casa_calibration.in_order_of(obs.vis, casa_calibration.apply_tables(ms, paths, tmp_path / "corrected.ms"))
    cross = ~obs.vis.is_auto
    np.testing.assert_array_equal(theirs.flags[:, cross], ours.flags[:, cross])
    good = ~ours.flags & cross[None, :, None, None]
    scale = np.abs(ours.data[good]).mean()
    assert np.abs(theirs.data[good] - ours.data[good]).max() < 1e-5 * scale


@pytest.mark.casa
def test_casas_solution_agrees_with_ours(night, tmp_path):
    """The engines give the same solution for the same input. Both are at the noise limit, so they agree within the noise."""
    obs, _, solution = night
    theirs = casa_calibration.solve(obs.vis, obs.model, OPTIONS, work_dir=tmp_path, field_name="3C138")
    good = ~(solution.bandpass.flags | theirs.bandpass.flags)
    assert good.sum() > 0.9 * (~solution.bandpass.flags).sum()
    ours = apply(obs.vis, solution.tables)
    corrected = apply(obs.vis, theirs.tables)
    both = ~(ours.flags | corrected.flags) & ~obs.vis.is_auto[None, :, None, None]
    noise = np.abs(ours.data - obs.model[..., None])[both].mean()
    # solution noise is sqrt(2/N) of the sample noise per baseline at worst: 12 antennas, 2 integrations
    assert np.abs(ours.data - corrected.data)[both].mean() < 0.3 * noise
