"""The files are like the telescope's: header, rows, names, noise, gains, faults; and the same seed gives the same files."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pyuvdata import UVData

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator import array, instrument, receiver, schedule
from dsa110_assets.simulator.options import Fault, FixedSource, SimulationOptions, parse_fault, perfect
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import stations

START = "2026-01-25T22:25:00"
SMALL = SimulationOptions(
    start=START,
    groups=1,
    antennas=6,
    channels=4,
    subbands=2,
    integrations=4,
    dead_antennas=0,
    dead_receptors=0,
)


def header(path: Path) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    with h5py.File(path) as file:
        file["Header"].visititems(lambda name, item: entries.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return entries


def data(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["Data/visdata"][()]


def only(out: Path, subband: int) -> Path:
    (path,) = out.glob(f"*_sb{subband:02d}.hdf5")
    return path


def test_header_is_the_telescopes(tmp_path: Path) -> None:
    o = replace(SMALL, antennas=96, channels=48, subbands=1, integrations=2)
    simulate(tmp_path, o)
    head = header(only(tmp_path, 0))
    n = 96 * 97 // 2
    assert set(head) == {
        "latitude", "longitude", "altitude", "telescope_name", "instrument", "object_name", "phase_type",
        "phase_center_app_dec", "Nants_data", "Nants_telescope", "antenna_names", "antenna_numbers",
        "antenna_diameters", "antenna_positions", "ant_1_array", "ant_2_array", "Nbls", "Nblts", "Nfreqs",
        "Npols",
        "Ntimes", "Nspws", "uvw_array", "time_array", "integration_time", "freq_array", "channel_width",
        "spw_array",
        "polarization_array", "history", "extra_keywords/phase_center_dec", "extra_keywords/ha_phase_center",
        "extra_keywords/phase_center_epoch", "extra_keywords/fs_table", "extra_keywords/applied_delays_ns",
    }  # fmt: skip
    assert (head["telescope_name"], head["instrument"], head["phase_type"]) == (b"OVRO_MMA", b"DSA", b"drift")
    assert (head["Nbls"], head["Nblts"], head["Nants_data"], head["Nants_telescope"]) == (n, 2 * n, 96, 117)
    # the telescope's sb00 runs from 1498.643188477 down to 1487.168579102 MHz
    np.testing.assert_allclose(head["freq_array"][0, [0, -1]], [1498.643188477e6, 1487.168579102e6], atol=0.5e-3)
    assert head["channel_width"] == 244140.625
    assert head["integration_time"][0] == 12.884902000427246
    assert np.rad2deg(head["phase_center_app_dec"]) == pytest.approx(16.27, abs=1e-12)
    np.testing.assert_array_equal(head["polarization_array"], [-5, -6])
    assert list(head["antenna_names"][[0, 116]]) == [b"1", b"117"]
    active = np.array(stations.active_stations()) - 1
    np.testing.assert_array_equal(np.unique(head["ant_1_array"]), active)
    # rows: 0-0, 0-1, 1-1, 0-2, 1-2, 2-2 of the input order, the same at every time
    np.testing.assert_array_equal(head["ant_1_array"][:6], active[[0, 0, 1, 0, 1, 2]])
    np.testing.assert_array_equal(head["ant_2_array"][:6], active[[0, 1, 1, 2, 2, 2]])
    np.testing.assert_array_equal(head["ant_1_array"][:n], head["ant_1_array"][n:])
    assert np.all(np.diff(head["time_array"]) >= 0)
    delays = np.array(head["extra_keywords/applied_delays_ns"].split(), dtype=int).reshape(117, 2)
    assert np.all(delays % 2 == 0)
    np.testing.assert_array_equal(np.flatnonzero(delays[:, 0]), active)
    with h5py.File(only(tmp_path, 0)) as file:
        vis, flags, samples = (file[f"Data/{name}"] for name in ("visdata", "flags", "nsamples"))
        assert vis.shape == flags.shape == samples.shape == (2 * n, 1, 48, 2)
        assert (vis.dtype, flags.dtype, samples.dtype) == (np.complex64, bool, np.float32)
        assert vis.chunks == (16, 1, 48, 2)  # 12 KB
        assert vis.compression is None
        assert not flags[()].any()
        assert np.all(samples[()] == 96)


def test_uvw_are_position_differences(tmp_path: Path) -> None:
    simulate(
        tmp_path,
        replace(SMALL, antennas=96, subbands=1, integrations=2, channels=1, population=False, variables=False),
    )
    head = header(only(tmp_path, 0))
    uvw, positions = head["uvw_array"], head["antenna_positions"]
    assert uvw.dtype == np.float32
    difference = positions[head["ant_2_array"]] - positions[head["ant_1_array"]]
    # rounding to float32 of 2.6 km: half of 2^-12 m is 122 um per component at worst; real files show 6 um in
    # the norm
    np.testing.assert_allclose(np.linalg.norm(uvw.astype(float), axis=1), np.linalg.norm(difference, axis=1), atol=1.3e-4)
    north = (head["ant_1_array"] == 67) & (head["ant_2_array"] == 101)  # stations 68 and 102, due south and north
    east = (head["ant_1_array"] == 0) & (head["ant_2_array"] == 50)
    assert np.all(uvw[east][:, 0] > 380)
    assert np.all(uvw[north][:, 1] > 250)
    n = head["Nbls"]
    np.testing.assert_array_equal(uvw[:n], uvw[n:])


def test_pyuvdata_opens_the_files_and_agrees(tmp_path: Path) -> None:
    simulate(tmp_path, SMALL)
    path = only(tmp_path, 1)
    uv = UVData()
    uv.read(path, file_type="uvh5", run_check=False)
    assert uv.telescope.name == "OVRO_MMA"
    assert uv.telescope.location.lon.deg == pytest.approx(-118.2830)
    np.testing.assert_array_equal(uv.data_array, data(path)[:, 0])
    np.testing.assert_array_equal(uv.freq_array, header(path)["freq_array"][0])
    assert (uv.Ntimes, uv.Nbls, uv.Nants_data) == (4, 21, 6)


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    # with the full VLA list and population, and every random stream
    o = replace(SMALL, noise_scale=1.0, rfi_bursts=3.0)
    for name, options in (("a", o), ("b", o), ("c", replace(o, seed=2))):
        simulate(tmp_path / name, options)
    contents = {name: {p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())} for name in "abc"}
    assert contents["a"] == contents["b"]
    assert set(contents["a"].values()).isdisjoint(contents["c"].values())


def test_a_group_does_not_depend_on_the_run_it_is_part_of(tmp_path: Path) -> None:
    o = replace(SMALL, variables=False, calibrator="none", start="2026-01-25T22:20:00")
    simulate(tmp_path / "long", replace(o, groups=3))
    simulate(tmp_path / "short", replace(o, groups=1))
    np.testing.assert_array_equal(data(only(tmp_path / "short", 0)), data(sorted((tmp_path / "long").glob("*_sb00.hdf5"))[0]))


def test_noise_follows_the_radiometer_equation(tmp_path: Path) -> None:
    o = perfect(
        start=START,
        groups=1,
        antennas=12,
        channels=8,
        subbands=1,
        noise_scale=1.0,
        sefd_jy=6500.0,
        gain_amplitude=0.068,
    )
    simulate(tmp_path, o)
    head, vis = header(only(tmp_path, 0)), data(only(tmp_path, 0))[:, 0]
    auto = head["ant_1_array"] == head["ant_2_array"]
    sigma = 6500 / np.sqrt(2 * 1464843.75 * 12.884901888) * 0.068**2
    cross = vis[~auto].astype(np.complex128)
    n = cross.size
    for part in (cross.real, cross.imag):
        # standard error of a standard deviation: 1 / sqrt(2 n), n = 25,344; 4 of them
        assert np.std(part) == pytest.approx(sigma, rel=4 / np.sqrt(2 * n))
        assert abs(np.mean(part)) < 4 * sigma / np.sqrt(n)
    assert abs(np.mean(cross.real * cross.imag)) < 4 * sigma**2 / np.sqrt(n)
    # the two polarisations are independent
    assert abs(np.mean(cross[..., 0].real * cross[..., 1].real)) < 4 * sigma**2 / np.sqrt(n / 2)
    assert np.all(vis[auto].imag == 0)
    assert np.mean(vis[auto].real) == pytest.approx(6500 * 0.068**2, rel=1e-4)
    assert np.std(vis[auto].real) == pytest.approx(np.sqrt(2) * sigma, rel=4 / np.sqrt(2 * vis[auto].size))
    assert receiver.noise_sigma_jy(6500, 244140.625) == pytest.approx(2.6, abs=0.02)  # the radiometer equation: 2.6 Jy


def test_gains_multiply_as_g1_conj_g2_and_match_the_truth(tmp_path: Path) -> None:
    source = FixedSource("s", 343.3, 16.1, 10.0, -0.7)
    plain = perfect(start=START, groups=1, antennas=5, channels=4, subbands=16, integrations=3, fixed_sources=(source,))
    simulate(tmp_path / "plain", plain)
    real = replace(plain, gain_amplitude=0.068, gain_scatter=1.0, gain_drift=0.0, gain_night_scatter=0.03)
    truth = simulate(tmp_path / "gains", real)
    night_gains = truth["gains"]["nights"]["2026-01-25"]
    g = np.array(night_gains["real"]) + 1j * np.array(night_gains["imag"])
    assert np.all((np.abs(g) > 0.035) & (np.abs(g) < 0.13))
    assert np.std(np.angle(g[:, 8])) > 0.5
    head = header(only(tmp_path / "plain", 7))
    first, second = (np.searchsorted(np.array(truth["antennas"]) - 1, head[f"ant_{i}_array"]) for i in (1, 2))
    cross = first != second
    ratio = (data(only(tmp_path / "gains", 7)) / data(only(tmp_path / "plain", 7)))[:, 0]
    telescope = array.build(real)
    box = instrument.build(real, telescope)
    exact = box.gains("2026-01-25", np.array([night_gains["mjd"]]), head["freq_array"][0])[0]
    expected = exact[first] * np.conj(exact[second])
    np.testing.assert_allclose(ratio[cross], expected[cross], rtol=2e-6)  # complex64
    # the truth lists gains at subband centres, ascending: subband 7 is entry 8 of 16
    middle = box.gains("2026-01-25", np.array([night_gains["mjd"]]), np.array([np.mean(head["freq_array"])]))[0]
    np.testing.assert_allclose(g[:, 8], middle[:, 0], atol=2e-9)


def test_gains_change_a_little_from_night_to_night() -> None:
    o = SimulationOptions()
    box = instrument.build(o, array.build(o))
    frequencies, mjd = np.array([1.4e9]), np.array([61065.9])
    first_night, second_night = (box.gains(night, mjd, frequencies) for night in ("2026-01-25", "2026-01-26"))
    step = second_night / first_night
    assert 0.01 < np.std(np.abs(step)) < 0.1
    assert 0.03 < np.std(np.angle(step)) < 0.4
    later = box.gains("2026-01-25", mjd + 300 / 86400, frequencies)
    assert 0 < np.max(np.abs(later / first_night - 1)) < 5e-4  # the daily drift over one group


def test_dead_antennas_write_zeros_and_dead_receptors_see_no_sky(tmp_path: Path) -> None:
    o = perfect(
        start=START, groups=1, antennas=8, channels=4, subbands=1, integrations=3, dead_antennas=1,
        dead_receptors=2,
        fixed_sources=(FixedSource("s", 343.3, 16.1, 100.0),),
    )  # fmt: skip
    truth = simulate(tmp_path, o)
    head, vis = header(only(tmp_path, 0)), data(only(tmp_path, 0))[:, 0]
    (dead,) = truth["bad_antennas"]["dead_antennas"]
    involved = (head["ant_1_array"] == dead - 1) | (head["ant_2_array"] == dead - 1)
    assert np.all(vis[involved] == 0)
    assert len(truth["bad_antennas"]["dead_receptors"]) == 2
    cross = head["ant_1_array"] != head["ant_2_array"]
    for station, pol in truth["bad_antennas"]["dead_receptors"]:
        mine = ((head["ant_1_array"] == station - 1) | (head["ant_2_array"] == station - 1)) & cross
        assert np.all(vis[mine][..., ("XX", "YY").index(pol)] == 0)  # without noise all data are zero
    assert 103 not in [dead, *(s for s, _ in truth["bad_antennas"]["dead_receptors"])]
    assert np.any(np.abs(vis[cross & ~involved]) > 50)


def test_scrambled_order_is_the_same_data_in_other_rows(tmp_path: Path) -> None:
    o = perfect(start=START, groups=1, antennas=7, channels=4, subbands=1, integrations=2,
                fixed_sources=(FixedSource("s", 343.3, 16.1, 3.0),), gain_scatter=1.0)  # fmt: skip
    simulate(tmp_path / "sorted", o)
    simulate(tmp_path / "mixed", replace(o, antenna_order="scrambled"))
    by_row = []
    for name in ("sorted", "mixed"):
        head, vis = header(only(tmp_path / name, 0)), data(only(tmp_path / name, 0))[:, 0]
        rows = zip(head["time_array"], head["ant_1_array"], head["ant_2_array"], vis, strict=True)
        by_row.append({(t, min(a, b), max(a, b)): (v if a <= b else np.conj(v)) for t, a, b, v in rows})
        flipped = int(np.sum(head["ant_1_array"] > head["ant_2_array"]))
        assert (flipped > 0) == (name == "mixed")
    assert by_row[0].keys() == by_row[1].keys()
    for key, value in by_row[0].items():
        np.testing.assert_allclose(by_row[1][key], value, rtol=1e-5)


def test_variants_of_headers_and_names_are_written(tmp_path: Path) -> None:
    o = replace(SMALL, negative_channel_width=True, fs_table=False, name_shift_s=-105.0)
    simulate(tmp_path / "odd", o)
    simulate(tmp_path / "plain", SMALL)
    odd, plain = only(tmp_path / "odd", 0), only(tmp_path / "plain", 0)
    assert header(odd)["channel_width"] == -header(plain)["channel_width"] < 0
    assert "extra_keywords/fs_table" not in header(odd)
    np.testing.assert_array_equal(header(odd)["time_array"], header(plain)["time_array"])
    shift = datetime.fromisoformat(odd.name[:19]) - datetime.fromisoformat(plain.name[:19])
    assert shift.total_seconds() == -105
    np.testing.assert_array_equal(data(odd), data(plain))


def test_names_spread_and_restarts_are_as_in_the_inventory() -> None:
    o = SimulationOptions(groups=240, restart_every=11)
    groups = schedule.schedule(o)
    starts = np.array([g.mjd_start for g in groups]) * 86400
    gaps = np.diff(starts)
    normal = np.isclose(gaps, 309.238, atol=1e-2)
    # after a restart 398.5 s are lost, so that name gaps come out as 605 s and 412 s
    assert np.sum(~normal) == 21
    np.testing.assert_allclose(gaps[~normal], 309.238 + 398.5, atol=1e-2)
    spreads, offsets = [], []
    for g in groups:
        stamps = np.array([datetime.fromisoformat(s + "+00:00").timestamp() for s in g.stamps])
        spreads.append(stamps.max() - stamps.min())
        offsets.append((g.mjd_start - 40587) * 86400 - stamps.min())
    after = np.array([g.after_restart for g in groups])
    assert np.all(np.array(spreads)[~after] <= 2)
    assert np.mean(np.array(spreads)[~after] <= 1) > 0.9
    assert np.all((np.array(spreads)[after] >= 11) & (np.array(spreads)[after] <= 23))
    assert np.all((np.array(offsets)[after] > 105) & (np.array(offsets)[after] < 115))
    assert np.all(np.abs(np.array(offsets)[~after] - 6) < 2)


def test_faults_are_planted_and_recorded(tmp_path: Path) -> None:
    faults = tuple(
        parse_fault(text)
        for text in ("missing_subband:0:0", "truncated:0:1", "zero_length:0:2", "incomplete:0:3",
        "duplicate_same:0:4",
                     "duplicate_different:0:5")
    )  # fmt: skip
    truth = simulate(tmp_path, replace(SMALL, subbands=7, faults=faults))
    assert not list(tmp_path.glob("*_sb00*"))
    with pytest.raises(OSError, match="truncated"), h5py.File(only(tmp_path, 1)):
        pass
    assert only(tmp_path, 2).stat().st_size == 0
    assert not list(tmp_path.glob("*_sb03.hdf5"))
    assert len(list(tmp_path.glob("*_sb03_incomplete.hdf5"))) == 1
    same, different = (sorted(tmp_path.glob(f"*_sb0{s}.hdf5")) for s in (4, 5))
    assert same[0].read_bytes() == same[1].read_bytes()
    assert different[0].read_bytes() != different[1].read_bytes()
    np.testing.assert_array_equal(data(different[0])[:-1], data(different[1])[:-1])
    (group,) = truth["groups"]
    assert sorted(group["files"]) == sorted(p.name for p in tmp_path.glob("*.hdf5"))
    assert [(f["kind"], f["subband"]) for f in truth["faults"]] == [(f.kind, f.subband) for f in faults]
    assert json.loads((tmp_path / "truth.json").read_text()) == json.loads(json.dumps(truth))


def test_real_time_shows_groups_when_their_last_integration_ends(tmp_path: Path) -> None:
    now, seen = [1000.0], []

    def wait(seconds: float) -> None:
        finished = [p for p in tmp_path.glob("*.hdf5") if "_incomplete" not in p.name]
        unfinished = list(tmp_path.glob("*_incomplete.hdf5"))
        seen.append((round(now[0] + seconds - 1000, 1), len(finished), len(unfinished)))
        now[0] += seconds

    simulate(tmp_path, replace(SMALL, groups=2, integrations=24, real_time=True), clock=lambda: now[0], wait=wait)
    # both files of a group have unfinished names until the group is complete
    assert seen == [(309.2, 0, 2), (618.5, 2, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 5}, "384"),
        ({"start": "tonight"}, "tonight"),
        ({"flux_min_jy": 3.0}, "flux_max_jy"),
        ({"faults": (Fault("truncated", 9, 0),)}, "group 9"),
    ],
)
def test_wrong_options_are_refused_with_their_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        simulate(tmp_path / "out", replace(SMALL, **changes))


def test_an_unusable_directory_or_another_sky_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        simulate(tmp_path / "file", SMALL)
    simulate(tmp_path / "out", SMALL)
    with pytest.raises(ConfigurationError, match="seed = 1, not 2"):
        simulate(tmp_path / "out", replace(SMALL, seed=2))
    with pytest.raises(ConfigurationError, match="KIND:GROUP:SUBBAND"):
        parse_fault("explode:1")
