"""Measurement sets: bit-exact round trips, comparison with pyuvdata's write_ms and read_ms, and with stock CASA."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from casacore import tables
from pyuvdata import UVData

from dsa110_assets.engines import casa
from dsa110_assets.errors import BadDataError
from dsa110_assets.telescope import site
from dsa110_assets.visibilities import measurement_set, phasing, reader
from dsa110_assets.visibilities.types import Visibilities

C_M_S = 299792458.0


@pytest.fixture
def observation(observe, meridian_radec):  # type: ignore[no-untyped-def]
    made = observe(n_times=4, noise=0.2, yy_over_xx=0.5)
    ra, dec = meridian_radec(made, made.mjd_start)
    made.sources = [(ra + 0.012, dec - 0.005, 2.0)]
    return made


@pytest.fixture
def vis(observation, tmp_path) -> Visibilities:  # type: ignore[no-untyped-def]
    """Two of three subbands, with some flags and uneven weights."""
    (tmp_path / "in").mkdir()
    got = reader.read_group(observation.write_all(tmp_path / "in"), 3)
    rng = np.random.default_rng(2)
    flags = got.flags | (rng.random(got.flags.shape) < 0.1)
    flags[1, 2] = True
    weights = got.weights * rng.uniform(0.5, 2, got.weights.shape).astype(np.float32)
    return dataclasses.replace(got, flags=flags, weights=weights)


def assert_same(a: Visibilities, b: Visibilities) -> None:
    """Every field equal, bit for bit."""
    for field in dataclasses.fields(Visibilities):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "antennas":
            assert x.names == y.names
            np.testing.assert_array_equal(x.relative_m, y.relative_m)
            np.testing.assert_array_equal(x.diameters_m, y.diameters_m)
        elif isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y, err_msg=field.name)
            assert x.dtype == y.dtype, field.name
        else:
            assert x == y, field.name


@pytest.mark.parametrize("common", [False, True])
def test_round_trip_is_bit_exact(vis, tmp_path, common: bool) -> None:  # type: ignore[no-untyped-def]
    written = phasing.to_common_centre(vis) if common else vis
    measurement_set.write(written, tmp_path / "a.ms", observer_note="a test")
    assert_same(measurement_set.read(tmp_path / "a.ms"), written)
    assert measurement_set.problems(tmp_path / "a.ms") == []


def test_model_column(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Trap 13: Stokes I of a model is written whole into XX and YY."""
    model = vis.data[..., 0] * 3
    measurement_set.write(vis, tmp_path / "a.ms", model=model)
    back = measurement_set.read(tmp_path / "a.ms", "MODEL_DATA")
    np.testing.assert_array_equal(back.data[..., 0], model)
    np.testing.assert_array_equal(back.data[..., 1], model)
    with pytest.raises(ValueError, match="model has shape"):
        measurement_set.write(vis, tmp_path / "b.ms", model=model[:1])


def test_times_start_at_the_headers_time(vis, observation, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Trap 24: TIME is seconds from MJD 0; OBSERVATION spans the whole integrations."""
    measurement_set.write(vis, tmp_path / "a.ms")
    with tables.table(str(tmp_path / "a.ms"), ack=False) as main:
        # A double holds 5.3e9 s to 1 microsecond; the file's Julian date to 40.
        assert abs(main.getcol("TIME")[0] - observation.mjd_start * 86400) < 5e-5
        assert main.getcolkeyword("TIME", "MEASINFO")["Ref"] == "UTC"
    with tables.table(f"{tmp_path / 'a.ms'}::OBSERVATION", ack=False) as table:
        low, high = table.getcol("TIME_RANGE")[0]
        assert high - low == pytest.approx(4 * 12.884901888, abs=1e-4)
        assert table.getcol("TELESCOPE_NAME") == [site.TELESCOPE_NAME]


def test_tables_hold_what_casa_needs(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    measurement_set.write(vis, tmp_path / "a.ms")
    with tables.table(f"{tmp_path / 'a.ms'}::FIELD", ack=False) as field:
        assert field.getcol("NAME") == [f"meridian_icrs_t{i}" for i in range(4)]
        for column in ("PHASE_DIR", "REFERENCE_DIR", "DELAY_DIR"):
            np.testing.assert_array_equal(field.getcol(column)[:, 0], vis.phase_centres_rad)
            assert field.getcolkeyword(column, "MEASINFO")["Ref"] == "ICRS"
    with tables.table(f"{tmp_path / 'a.ms'}::ANTENNA", ack=False) as antenna:
        assert antenna.getcol("NAME") == list(vis.antennas.names)
        assert set(antenna.getcol("MOUNT")) == {"ALT-AZ"}
        np.testing.assert_array_equal(antenna.getcol("DISH_DIAMETER"), 4.65)
        geocentric = np.linalg.norm(antenna.getcol("POSITION"), axis=1)
        assert np.all(np.abs(geocentric - 6.371e6) < 1e4)
    with tables.table(f"{tmp_path / 'a.ms'}::POINTING", ack=False) as pointing:
        assert pointing.nrows() == 4 * 12
        np.testing.assert_array_equal(pointing.getcell("DIRECTION", 0)[0], vis.phase_centres_rad[0])
    with tables.table(str(tmp_path / "a.ms"), ack=False) as main:
        weight, sigma = main.getcol("WEIGHT"), main.getcol("SIGMA")
        flagged = main.getcol("FLAG_ROW")
        np.testing.assert_array_equal(flagged, vis.flags.reshape(-1, 24).all(axis=1))
        assert flagged.sum() == 1
        np.testing.assert_allclose(sigma[weight > 0] ** -2, weight[weight > 0], rtol=1e-6)
        good = np.ma.masked_array(vis.weights, vis.flags).reshape(-1, 12, 2).mean(axis=1).filled(0)
        np.testing.assert_allclose(weight, good, rtol=1e-6)


def as_uvdata(vis: Visibilities, path: Path) -> UVData:
    """A subband as pyuvdata reads it, with its phase centres set. The peer is what write_ms then writes."""
    uvd = UVData()
    uvd.read(str(path), file_type="uvh5", run_check=False)
    n_baselines, n_times = vis.ant1.size, vis.times_mjd.size
    uvd.phase_center_id_array = np.repeat(np.arange(n_times), n_baselines)
    uvd.phase_center_catalog = {
        t: {
            "cat_name": f"t{t}",
            "cat_type": "sidereal",
            "cat_lon": ra,
            "cat_lat": dec,
            "cat_frame": "icrs",
            "cat_epoch": 2000.0,
            "info_source": "test",
            "cat_pm_ra": None,
            "cat_pm_dec": None,
            "cat_dist": None,
            "cat_vrad": None,
            "cat_times": None,
        }
        for t, (ra, dec) in enumerate(vis.phase_centres_rad)
    }
    uvd.Nphase = n_times
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyuvdata is right to warn: the phases must stay as they are
        uvd.uvw_array = uvd.uvw_array.astype(float)
        uvd._set_app_coords_helper()
        uvd.set_uvws_from_antenna_positions(update_vis=False)
    return uvd


def test_agrees_with_pyuvdata_write_ms(observation, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The sign convention of DATA and UVW is pyuvdata's: DATA agrees exactly, UVW (by pyuvdata's own phasing) to polar
    motion.
    """
    path = observation.write(tmp_path, 0)
    vis = reader.read_group({0: path}, 1)
    peer = as_uvdata(vis, path)
    place = {pair: row for row, pair in enumerate(zip(vis.ant1.tolist(), vis.ant2.tolist(), strict=True))}
    rows = [place[pair] for pair in zip(peer.ant_1_array[: vis.ant1.size], peer.ant_2_array[: vis.ant1.size], strict=True)]
    own_uvw = peer.uvw_array.reshape(vis.uvw_m.shape)
    # pyuvdata's apparent places include polar motion (< 0.6 arcsec, 3e-6 rad), twice for the angle of north
    # at +-0.5 deg.
    length = np.linalg.norm(vis.uvw_m, axis=-1).max()
    assert np.max(np.abs(own_uvw - vis.uvw_m[:, rows])) < 1e-5 * length
    peer.uvw_array = vis.uvw_m[:, rows].reshape(-1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units "uncalib"
        peer.write_ms(str(tmp_path / "peer.ms"), run_check=False)
    measurement_set.write(vis, tmp_path / "ours.ms")
    with (
        tables.table(str(tmp_path / "peer.ms"), ack=False) as a,
        tables.table(str(tmp_path / "ours.ms"), ack=False) as b,
    ):
        order = np.lexsort((a.getcol("ANTENNA2"), a.getcol("ANTENNA1"), a.getcol("TIME")))
        for column in ("TIME", "ANTENNA1", "ANTENNA2", "FIELD_ID", "UVW"):
            np.testing.assert_allclose(a.getcol(column)[order], b.getcol(column), rtol=0, atol=1e-9, err_msg=column)
        np.testing.assert_allclose(a.getcol("DATA")[order][:, ::-1], b.getcol("DATA"), rtol=0, atol=1e-6)


def test_pyuvdata_reads_ours(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    measurement_set.write(vis, tmp_path / "a.ms")
    uvd = UVData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about uvw without polar motion, and instrument names
        uvd.read_ms(str(tmp_path / "a.ms"))
    np.testing.assert_array_equal(uvd.data_array.reshape(vis.data.shape), vis.data)
    np.testing.assert_array_equal(uvd.flag_array.reshape(vis.flags.shape), vis.flags)
    np.testing.assert_array_equal(uvd.uvw_array.reshape(vis.uvw_m.shape), vis.uvw_m)
    np.testing.assert_array_equal(uvd.freq_array, vis.frequencies_hz)
    np.testing.assert_allclose(uvd.telescope.antenna_positions, vis.antennas.relative_m, atol=1e-8)
    assert uvd.telescope.name == site.TELESCOPE_NAME
    assert uvd.Nphase == 4
    np.testing.assert_allclose(np.unique(uvd.time_array) - 2400000.5, vis.times_mjd, atol=1e-9)


@pytest.mark.parametrize(("unit", "expected"), [("", "uncalib"), ("Jy", "Jy")])
def test_the_data_say_their_unit(vis, tmp_path, unit: str, expected: str) -> None:  # type: ignore[no-untyped-def]
    """The unit is stored where CASA stores it, and pyuvdata reads it."""
    path = tmp_path / "a.ms"
    measurement_set.write(vis, path, unit=unit, model=np.ones(vis.data.shape[:3], np.complex64))
    with tables.table(str(path), ack=False) as main:
        assert main.getcolkeywords("DATA").get("QuantumUnits", [""]) == [unit]
        assert main.getcolkeywords("MODEL_DATA")["QuantumUnits"] == ["Jy"]
    uvd = UVData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uvd.read_ms(str(path), run_check=False)
    assert uvd.vis_units == expected


def test_read_survives_what_stock_tools_drop_and_reorder(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The same visibilities are read without our keyword, with shuffled rows and with (n, 2, 1) directions."""
    measurement_set.write(vis, tmp_path / "a.ms")
    with tables.table(str(tmp_path / "a.ms"), ack=False) as main:
        shuffled = main.selectrows(np.random.default_rng(1).permutation(main.nrows()))
        shuffled.copy(str(tmp_path / "b.ms"), deep=True).close()
    with tables.table(str(tmp_path / "b.ms"), ack=False, readonly=False) as main:
        main.removekeyword(measurement_set.KEYWORD)
    back = measurement_set.read(tmp_path / "b.ms")
    for name in ("data", "flags", "weights", "ant1", "ant2", "uvw_m", "phase_centres_rad", "frequencies_hz"):
        np.testing.assert_array_equal(getattr(back, name), getattr(vis, name), err_msg=name)
    np.testing.assert_allclose(back.times_mjd, vis.times_mjd, atol=1e-10)
    assert back.pointing_dec_rad == pytest.approx(vis.pointing_dec_rad, abs=1e-10)


def turned_back(vis: Visibilities) -> Visibilities:
    """The visibilities with every baseline reversed and its data conjugated."""
    return dataclasses.replace(vis, data=vis.data.conj(), ant1=vis.ant2, ant2=vis.ant1, uvw_m=-vis.uvw_m)


@pytest.mark.parametrize("weights", ["uneven", "the same in every row", "weighed anew"])
def test_mapped_data_equal_read_data_with_baselines_reversed(vis, tmp_path, weights: str) -> None:  # type: ignore[no-untyped-def]
    """Bit for bit, without a copy of the data, and with one row of weights if there is no more than one."""
    path = tmp_path / "a.ms"
    if weights != "uneven":
        vis = dataclasses.replace(vis, weights=np.ascontiguousarray(np.broadcast_to(vis.weights[0, 0], vis.weights.shape)))
    measurement_set.write(vis, path)
    if weights == "weighed anew":
        vis = dataclasses.replace(vis, weights=vis.weights + 1 + np.arange(vis.ant1.size, dtype=np.float32)[:, None, None])
        with tables.table(str(path), ack=False, readonly=False) as main:
            main.putcol("WEIGHT_SPECTRUM", vis.weights.reshape(-1, *vis.weights.shape[2:]))
    got = measurement_set.mapped(path)
    assert_same(turned_back(got), vis)
    assert_same(measurement_set.read(path), vis)
    assert (got.weights.strides[:2] == (0, 0)) == (weights == "the same in every row")
    before = (path / "table.dat").stat().st_mtime_ns, measurement_set.read(path).data.tobytes()
    got.data[:] = 0
    assert before == ((path / "table.dat").stat().st_mtime_ns, measurement_set.read(path).data.tobytes())


def test_a_set_in_another_order_is_read(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    measurement_set.write(vis, tmp_path / "a.ms")
    with tables.table(str(tmp_path / "a.ms"), ack=False) as main:
        main.selectrows(np.random.default_rng(1).permutation(main.nrows())).copy(str(tmp_path / "b.ms"), deep=True).close()
    np.testing.assert_array_equal(measurement_set.mapped(tmp_path / "b.ms").data, vis.data)


def test_autocorrelations_equal_those_of_the_whole_set(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Read directly from the column's file, and through casacore from a copy with its rows in another order."""
    path, other = tmp_path / "a.ms", tmp_path / "b.ms"
    measurement_set.write(vis, path)
    with tables.table(str(path), ack=False) as main:
        main.selectrows(np.random.default_rng(1).permutation(main.nrows())).copy(str(other), deep=True).close()
    for place in (path, other):
        with measurement_set.opened(place) as stored:
            np.testing.assert_array_equal(stored.autocorrelations(2), vis.data[:2, vis.is_auto])
            assert stored.autocorrelations(100).shape[0] == vis.times_mjd.size


def test_refusals(vis, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadDataError, match="not a measurement set"):
        measurement_set.read(tmp_path)
    measurement_set.write(vis, tmp_path / "a.ms")
    with pytest.raises(FileExistsError, match="written once"):
        measurement_set.write(vis, tmp_path / "a.ms")
    with pytest.raises(BadDataError, match="no column CORRECTED_DATA"):
        measurement_set.read(tmp_path / "a.ms", "CORRECTED_DATA")
    _edit(tmp_path / "a.ms", "", "ANTENNA1", lambda x: np.where(np.arange(x.size) == 3, 9, x).astype(np.int32))
    with pytest.raises(BadDataError, match="baselines"):
        measurement_set.read(tmp_path / "a.ms")


def _edit(path: Path, table: str, column: str, change) -> None:  # type: ignore[no-untyped-def]
    with tables.table(f"{path}{table}", ack=False, readonly=False) as opened:
        opened.putcol(column, change(opened.getcol(column)))


@pytest.mark.parametrize(
    ("table", "column", "change", "problem"),
    [
        ("::FIELD", "PHASE_DIR", lambda x: x + 1e-4, "PHASE_DIR"),
        ("::FIELD", "PHASE_DIR", lambda x: x * np.nan, "not finite"),
        ("::FIELD", "REFERENCE_DIR", lambda x: x + 1e-6, "REFERENCE_DIR"),
        ("::FIELD", "DELAY_DIR", lambda x: x + 1e-6, "DELAY_DIR"),
        ("::OBSERVATION", "TELESCOPE_NAME", lambda x: ["DSA_110"], "TELESCOPE_NAME"),
        ("", "FIELD_ID", lambda x: x[::-1], "fields are not in the order"),
        ("", "FIELD_ID", lambda x: np.arange(x.size, dtype=np.int32) % 4, "FIELD_ID"),
        ("", "UVW", lambda x: 2 * x, "lengths differ"),
        ("", "UVW", lambda x: -x, "from those of PHASE_DIR"),
        ("", "TIME", lambda x: x[::-1], "time order"),
        ("", "TIME", lambda x: x + 60, "from the meridian"),
        ("::SPECTRAL_WINDOW", "CHAN_FREQ", lambda x: x[:, ::-1], "ascending"),
    ],
)
def test_problems_are_found(vis, tmp_path, table: str, column: str, change, problem: str) -> None:  # type: ignore[no-untyped-def]
    """Traps 21 and 23: each silent fault is named."""
    measurement_set.write(vis, tmp_path / "a.ms")
    _edit(tmp_path / "a.ms", table, column, change)
    problems_found = measurement_set.problems(tmp_path / "a.ms")
    assert any(problem in text for text in problems_found), problems_found


@pytest.mark.casa
def test_casa_images_a_source_where_it_is(observe, meridian_radec, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Traps 4, 13 and 22, and the sign: stock tclean of all 24 fields puts a source of 1 Jy at its position with its
    flux.

    Around the peak the dirty image is the direct Fourier sum of our visibilities (without the w term, as
    gridded here) within the gridder's 1 %; there is little flux at the mirrored position.
    """
    observation = observe(n_times=24, n_antennas=8)
    ra, dec = meridian_radec(observation, observation.times_mjd().mean())
    ra, dec = ra + 0.004, dec + 0.002
    observation.sources = [(ra, dec, 1.0)]
    vis = reader.read_group(observation.write_all(tmp_path), 2)
    common = phasing.to_common_centre(vis)
    measurement_set.write(common, tmp_path / "common.ms")
    l = np.cos(dec) * np.sin(ra - common.phase_centres_rad[0, 0])
    m = np.sin(dec - common.phase_centres_rad[0, 1])
    cell_arcsec = 10.0
    casa.run_task(
        "tclean",
        {
            "vis": "common.ms",
            "imagename": "dirty",
            "imsize": 512,
            "cell": f"{cell_arcsec}arcsec",
            "niter": 0,
            "weighting": "natural",
            "stokes": "I",
            "specmode": "mfs",
            "gridder": "standard",
            "pblimit": -1,
        },
        work_dir=tmp_path,
    )
    with tables.table(str(tmp_path / "dirty.image"), ack=False) as image:
        pixels = np.squeeze(image.getcell("map", 0))
    y, x = np.unravel_index(np.argmax(pixels), pixels.shape)
    pixel = np.deg2rad(cell_arcsec / 3600)
    assert abs((256 - x) * pixel - l) < pixel
    assert abs((y - 256) * pixel - m) < pixel
    assert pixels[512 - y, 512 - x] < 0.6
    cross = ~common.is_auto
    turns = common.uvw_m[:, cross, :, None] * common.frequencies_hz / C_M_S
    stokes_i = common.data[:, cross].mean(axis=-1)
    for dy, dx in ((0, 0), (0, 2), (-2, 1), (1, -2)):
        phase = turns[:, :, 0] * (256 - x - dx) * pixel + turns[:, :, 1] * (y + dy - 256) * pixel
        direct = np.mean(stokes_i.real * np.cos(2 * np.pi * phase) + stokes_i.imag * np.sin(2 * np.pi * phase))
        assert pixels[y + dy, x + dx] == pytest.approx(direct, abs=0.01)
