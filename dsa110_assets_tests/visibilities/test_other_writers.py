"""Files rewritten by another program: read correctly, or refused with the fault and a remedy."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pyuvdata import UVData

from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities import reader, uvh5

PER_ROW = ("ant_1_array", "ant_2_array", "time_array", "integration_time", "uvw_array")
SAMPLES = ("visdata", "flags", "nsamples")
LATITUDE_RAD = np.radians(37.2334051)


@pytest.fixture
def files(observe, meridian_radec, tmp_path) -> dict[int, Path]:  # type: ignore[no-untyped-def]
    """Two subbands as the telescope writes them: rows with ant1 > ant2, noise, a source, a flag, a NaN."""
    made = observe(noise=0.2, antenna_order=[5, 3, 8, 1], n_antennas=4, yy_over_xx=2.0)
    ra, dec = meridian_radec(made, made.mjd_start)
    made.sources = [(ra + 0.003, dec, 1.0)]
    paths = made.write_all(tmp_path)
    with h5py.File(paths[1], "r+") as file:
        file["Data/visdata"][7, 0, 1, 0] = np.nan
        file["Data/flags"][9, 0, 2, 1] = True
    return paths


@contextmanager
def rewritten(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the file's datasets {name: value}, and write them back with the changes made to them."""
    datasets: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: datasets.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    yield datasets
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value


def assert_same(a, b) -> None:  # type: ignore[no-untyped-def]
    for name in ("data", "flags", "weights", "uvw_m", "frequencies_hz", "times_mjd", "ant1", "ant2", "phase_centres_rad"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def of_rows(order: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Callable[[dict[str, Any]], None]:
    """A change that puts rows in the order of `order(time, ant1, ant2)`."""

    def change(file: dict[str, Any]) -> None:
        rows = order(*(file[f"Header/{name}"] for name in ("time_array", "ant_1_array", "ant_2_array")))
        for name in (*(f"Header/{name}" for name in PER_ROW), *(f"Data/{name}" for name in SAMPLES)):
            file[name] = file[name][rows]

    return change


def conjugate_every_other(file: dict[str, Any]) -> None:
    ant1, ant2 = file["Header/ant_1_array"], file["Header/ant_2_array"]
    swap = (ant1 + ant2) % 2 == 1
    file["Header/ant_1_array"], file["Header/ant_2_array"] = np.where(swap, ant2, ant1), np.where(swap, ant1, ant2)
    file["Header/uvw_array"][swap] *= -1
    file["Data/visdata"][swap] = file["Data/visdata"][swap].conj()


def without_window_axis(file: dict[str, Any]) -> None:
    for name in SAMPLES:
        file[f"Data/{name}"] = file[f"Data/{name}"][:, 0]
    n = file["Header/freq_array"].size
    file["Header/freq_array"] = file["Header/freq_array"][0]
    file["Header/channel_width"] = np.full(n, file["Header/channel_width"])
    file["Header/flex_spw_id_array"] = np.ones(n, int)
    file["Header/version"] = b"1.2"


def upside_down(file: dict[str, Any]) -> None:
    file["Header/freq_array"] = file["Header/freq_array"][:, ::-1]
    for name in SAMPLES:
        file[f"Data/{name}"] = file[f"Data/{name}"][:, :, ::-1]


def yy_first(file: dict[str, Any]) -> None:
    file["Header/polarization_array"] = file["Header/polarization_array"][::-1]
    for name in SAMPLES:
        file[f"Data/{name}"] = file[f"Data/{name}"][..., ::-1]


def four_products(file: dict[str, Any]) -> None:
    file["Header/polarization_array"], file["Header/Npols"] = np.array([-7, -6, -8, -5]), 4
    for name in SAMPLES:
        cross = np.ones_like(file[f"Data/{name}"][..., :1])
        value = file[f"Data/{name}"]
        file[f"Data/{name}"] = np.concatenate([cross, value[..., 1:], cross, value[..., :1]], axis=-1)


def other_types(file: dict[str, Any]) -> None:
    """Big-endian, wider or narrower numbers; one-element arrays in place of scalars; strings of variable length."""
    for name in ("ant_1_array", "ant_2_array", "antenna_numbers"):
        file[f"Header/{name}"] = file[f"Header/{name}"].astype(">i2")
    for name in ("time_array", "freq_array", "antenna_positions"):
        file[f"Header/{name}"] = file[f"Header/{name}"].astype(">f8")
    file["Header/polarization_array"] = file["Header/polarization_array"].astype("i1")
    for name in ("latitude", "longitude", "altitude", "Nblts", "Nbls", "Ntimes", "phase_center_app_dec"):
        file[f"Header/{name}"] = np.atleast_1d(file[f"Header/{name}"])
    file["Header/integration_time"] = file["Header/integration_time"][0]
    file["Header/antenna_names"] = np.array([name.decode() for name in file["Header/antenna_names"]], dtype=h5py.string_dtype())
    file["Header/antenna_diameters"] = np.float32(4.65) * np.ones(12, "f4")
    file["Header/extra_keywords/applied_delays_ns"] = file["Header/extra_keywords/applied_delays_ns"].decode()
    file["Data/visdata"] = file["Data/visdata"].astype(">c16")
    file["Data/flags"] = file["Data/flags"].astype("u1")
    file["Data/nsamples"] = file["Data/nsamples"].astype(">i4")


def other_numbers(file: dict[str, Any]) -> None:
    """Antenna numbers with gaps, out of order."""
    number = np.random.default_rng(2).permutation(4000)[:12]
    for name in ("ant_1_array", "ant_2_array", "antenna_numbers"):
        file[f"Header/{name}"] = number[file[f"Header/{name}"]]


def no_more_than_needed(file: dict[str, Any]) -> None:
    for name in list(file):
        counted = name.startswith("Header/N")
        if counted or name.split("/")[-1] in ("uvw_array", "channel_width", "spw_array", "phase_type", "history", "antenna_diameters"):
            del file[name]


def elsewhere_on_the_circle(file: dict[str, Any]) -> None:
    file["Header/longitude"] = file["Header/longitude"] + 360
    file["Header/timesys"], file["Header/vis_units"] = b"UTC", b"uncalib"


FORMS: dict[str, Callable[[dict[str, Any]], None]] = {
    "by baseline": of_rows(lambda t, a, b: np.lexsort((t, b, a))),
    "by antenna, then time": of_rows(lambda t, a, b: np.lexsort((b, t, a))),
    "baselines in another order in every integration": of_rows(
        lambda t, a, b: np.lexsort((np.random.default_rng(1).permutation(t.size), t))
    ),
    "conjugated": conjugate_every_other,
    "UVH5 1.2": without_window_axis,
    "frequencies ascending": upside_down,
    "YY before XX": yy_first,
    "four products": four_products,
    "other types": other_types,
    "other antenna numbers": other_numbers,
    "longitude of 0 to 360": elsewhere_on_the_circle,
    "only what is needed": no_more_than_needed,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.row(34, cases="forms with the same samples")
def test_other_forms_are_read_as_the_same_data(files, form: str) -> None:  # type: ignore[no-untyped-def]
    """To the last bit, with the package's own reader (whole and a baseline at a time) and with pyuvdata."""
    expected = reader.read_group(files, 2)
    for path in files.values():
        with rewritten(path) as file:
            FORMS[form](file)
    assert_same(reader.read_group(files, 2), expected)
    group = reader.open_group(files, 2)
    for baseline in range(expected.ant1.size):
        data, flags = np.empty((3, 1, 8, 2), np.complex64), np.empty((3, 1, 8, 2), np.bool_)
        group.load(np.array([baseline]), data, flags)
        np.testing.assert_array_equal(data, expected.data[:, [baseline]])
        np.testing.assert_array_equal(flags, expected.flags[:, [baseline]])


@pytest.mark.parametrize("form", ["by baseline", "UVH5 1.2", "frequencies ascending", "conjugated", "four products"])
@pytest.mark.row(34)
def test_pyuvdata_reads_other_forms_alike(files, form: str) -> None:  # type: ignore[no-untyped-def]
    expected = reader.read_group(files, 2)
    for path in files.values():
        with rewritten(path) as file:
            FORMS[form](file)
    assert_same(reader.read_group(files, 2, engine="pyuvdata"), expected)


def test_pairs_of_integers_are_complex_numbers(files) -> None:  # type: ignore[no-untyped-def]
    """Correlators that do not scale to floats write them."""
    pairs = np.dtype([("r", "<i4"), ("i", "<i4")])
    for path in files.values():
        with rewritten(path) as file:
            scaled = np.nan_to_num(1000 * file["Data/visdata"])
            file["Data/visdata"] = np.rint(scaled.real) + 1j * np.rint(scaled.imag)
    expected = reader.read_group(files, 2)
    for path in files.values():
        with rewritten(path) as file:
            values = np.empty(file["Data/visdata"].shape, pairs)
            values["r"], values["i"] = file["Data/visdata"].real, file["Data/visdata"].imag
            file["Data/visdata"] = values
    assert_same(reader.read_group(files, 2), expected)


@pytest.mark.parametrize(
    "packing",
    [
        {"compression": "lzf"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"fletcher32": True},
        {"chunks": (7, 1, 3, 1)},
        {"chunks": None},
    ],
)
@pytest.mark.row(34, cases="packings with the same samples")
def test_files_with_other_packing_read_the_same(files, packing: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    expected = reader.read_group(files, 2)
    for path in files.values():
        with h5py.File(path, "r+") as file:
            for name in SAMPLES:
                value = file[f"Data/{name}"][()]
                del file[f"Data/{name}"]
                file.create_dataset(f"Data/{name}", data=value, **packing)
    assert_same(reader.read_group(files, 2), expected)


@pytest.mark.row(34)
def test_a_missing_compression_filter_is_named(files) -> None:  # type: ignore[no-untyped-def]
    """Bitshuffle comes with a plugin; without it HDF5 fails in the middle of reading."""
    if h5py.h5z.filter_avail(32008):
        pytest.skip("bitshuffle is installed here")
    with h5py.File(files[0], "r+") as file:
        shape = file["Data/visdata"].shape
        del file["Data/visdata"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((9, *shape[1:]))
        plist.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, (0, 2))
        h5py.h5d.create(file["Data"].id, b"visdata", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple(shape), plist)
    with pytest.raises(BadDataError, match=r"bitshuffle \(32008\).*h5repack"):
        uvh5.read_header(files[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda uvd: None,
        lambda uvd: uvd.reorder_blts(order="baseline", minor_order="time"),
        lambda uvd: uvd.reorder_blts(order="ant2", minor_order="time"),
        lambda uvd: uvd.conjugate_bls("ant2<ant1"),
        lambda uvd: uvd.reorder_freqs(channel_order="freq"),
        lambda uvd: uvd.reorder_pols("CASA"),
        lambda uvd: uvd.set_uvws_from_antenna_positions(),
    ],
    ids=["as read", "by baseline", "by antenna", "conjugated", "ascending", "polarisations", "zenith uvw"],
)
@pytest.mark.parametrize(
    "options", [{}, {"data_write_dtype": "c16", "chunks": None, "flags_compression": None, "nsample_compression": None}]
)
@pytest.mark.row(34, cases="passes through pyuvdata with the correlator's pointing")
def test_read_and_written_by_pyuvdata(files, tmp_path, change, options) -> None:  # type: ignore[no-untyped-def]
    """Its phase_center_app_dec is the site's latitude; the correlator's keyword is the pointing."""
    expected = reader.read_group(files, 2)
    again = tmp_path / "again"
    again.mkdir()
    passed = {}
    for subband, path in files.items():
        uvd = UVData()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pyuvdata warns about float32 uvw and missing sidereal times
            uvd.read(str(path), file_type="uvh5", run_check=False)
            uvd.uvw_array = uvd.uvw_array.astype(float)
            change(uvd)
            passed[subband] = again / path.name
            uvd.write_uvh5(str(passed[subband]), run_check=False, **options)
    with h5py.File(passed[0]) as file:
        assert file["Header/freq_array"].ndim == 1
        np.testing.assert_allclose(file["Header/phase_center_app_dec"], LATITUDE_RAD, atol=1e-9)
    assert np.rad2deg(uvh5.read_header(passed[0]).pointing_dec_rad) == pytest.approx(16.27, abs=1e-9)
    assert_same(reader.read_group(passed, 2), expected)


@pytest.mark.row(35)
def test_phased_by_pyuvdata_is_refused(files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """If they were taken for unprojected, the visibilities would be phased a second time. With the phasing undone they are right."""
    path = tmp_path / "again" / files[0].name
    path.parent.mkdir()
    uvd = UVData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uvd.read(str(files[0]), file_type="uvh5", run_check=False)
        uvd.uvw_array = uvd.uvw_array.astype(float)
        uvd.phase(lon=5.99, lat=0.28, phase_frame="icrs", cat_name="3C454.3", cat_type="sidereal")
        uvd.write_uvh5(str(path), run_check=False)
        with pytest.raises(BadDataError, match=r"phased to '3C454.3' \(sidereal\).*unproject_phase"):
            uvh5.read_header(path)
        uvd.unproject_phase()
        uvd.write_uvh5(str(path), run_check=False, clobber=True)
    expected = reader.read_group({0: files[0]}, 1)
    np.testing.assert_allclose(reader.read_group({0: path}, 1).data, expected.data, atol=2e-6)


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets a dataset to `value`, or to `value(previous)` if it is a function."""

    def change(file: dict[str, Any]) -> None:
        file[f"Header/{name}"] = value(file[f"Header/{name}"]) if callable(value) else value

    return change


def moved(file: dict[str, Any]) -> None:
    file["Header/antenna_positions"][3] += [0, 10, 0]


def zenith_alone(file: dict[str, Any]) -> None:
    file["Header/phase_center_app_dec"] = np.full(file["Header/time_array"].size, LATITUDE_RAD)
    del file["Header/extra_keywords/phase_center_dec"], file["Header/uvw_array"]


def nothing(file: dict[str, Any]) -> None:
    del file["Header/extra_keywords/phase_center_dec"], file["Header/uvw_array"], file["Header/phase_center_app_dec"]


def names_swapped(file: dict[str, Any]) -> None:
    file["Header/antenna_names"][[5, 8]] = file["Header/antenna_names"][[8, 5]]


def rows_twice(file: dict[str, Any]) -> None:
    of_rows(lambda t, a, b: np.r_[0 : t.size, 0 : t.size])(file)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "two declinations": (put("extra_keywords/phase_center_dec", 0.5), r"16.2700 deg, .*phase_center_dec 28.6479"),
    "uvw of another declination": (put("uvw_array", lambda u: u[:, [0, 2, 1]] * [1, 1, -1]), "uvw_array -73.7"),
    "uvw of another hour angle": (put("uvw_array", lambda u: u @ [[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]), "of hour angle"),
    "uvw of the other sign": (put("uvw_array", lambda u: -u), "uvw_array"),
    "uvw of other lengths": (put("uvw_array", lambda u: 1.001 * u), "lengths of baselines"),
    "an antenna moved": (moved, "lengths of baselines"),
    "uvw mirrored": (put("uvw_array", lambda u: u * [-1, 1, 1]), "however they are turned"),
    "uvw not finite": (put("uvw_array", lambda u: u * np.nan), "uvw_array is not finite"),
    "uvw of fewer rows": (put("uvw_array", lambda u: u[:-1]), "uvw_array has shape"),
    "zenith alone": (zenith_alone, "nothing in it tells where"),
    "no declination": (nothing, "nothing in it tells where"),
    "declination that varies": (put("phase_center_app_dec", np.linspace(0.28, 0.29, 30)), "drifting array"),
    "another hour angle": (put("extra_keywords/ha_phase_center", 0.1), "hour angle 5.730"),
    "another epoch": (put("extra_keywords/phase_center_epoch", b"J2000"), "epoch J2000"),
    "phased long ago": (put("phase_type", b"phased"), "phase_type is phased"),
    "sidereal time": (put("lst_array", np.full(30, 1.0)), "sidereal time off the meridian"),
    "channel width": (put("channel_width", 244140.625), "channel_width is 244140.625 Hz"),
    "one channel's width": (put("channel_width", np.array([2929687.5] * 3 + [3e6])), "channel_width is 3000000"),
    "duration": (put("integration_time", lambda t: t / 2 + np.arange(t.size)), "integration_time is"),
    "half the duration": (put("integration_time", lambda t: t * 0.7), "not contiguous"),
    "exactly half the duration": (put("integration_time", lambda t: t / 2), r"integration_time is 6.442 s, .*12.885 s or more apart"),
    "another time scale": (put("timesys", b"TAI"), "times are TAI, not UTC"),
    "calibrated since": (put("vis_units", b"Jy"), "visibilities are in Jy"),
    "names of each other": (names_swapped, "antenna_numbers 5 has the name '9' of another"),
    "two windows": (put("Nspws", 2), "Nspws is 2"),
    "two windows listed": (put("spw_array", np.array([1, 2])), "spw_array has more"),
    "row count": (put("Nblts", 29), "Nblts is 29.*hold 30"),
    "time count": (put("Ntimes", 24), "Ntimes is 24.*hold 3"),
    "baseline count": (put("Nbls", 6), "Nbls is 6.*hold 10"),
    "antenna count": (put("Nants_data", 8), "Nants_data is 8.*hold 4"),
    "telescope's count": (put("Nants_telescope", 117), "Nants_telescope is 117.*hold 12"),
    "channel count": (put("Nfreqs", 48), "Nfreqs is 48.*hold 4"),
    "polarisation count": (put("Npols", 4), "Npols is 4.*hold 2"),
    "repeated polarisation": (put("polarization_array", np.array([-5, -6, -6, -5])), "repeat"),
    "repeated numbers": (put("antenna_numbers", lambda a: np.where(a == 0, 1, a)), "share a number"),
    "rows twice": (rows_twice, "occurs twice"),
    "half complex": (lambda file: file.update({"Data/visdata": file["Data/visdata"].real}), "visdata has type float32"),
    "no flags": (lambda file: file.pop("Data/flags"), "flags is missing"),
    "no nsamples": (lambda file: file.pop("Data/nsamples"), "nsamples is missing"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.row(35, cases="contradictions refused")
def test_inconsistent_files_are_refused(files, what: str) -> None:  # type: ignore[no-untyped-def]
    """The message has the file, the value, and a remedy."""
    change, reason = REFUSED[what]
    with rewritten(files[0]) as file:
        change(file)
    with pytest.raises(BadDataError, match=reason) as refused:
        uvh5.read_header(files[0])
    assert str(files[0]) in str(refused.value)
    assert "not a usable subband file: " in str(refused.value)
    assert refused.value.path == files[0]


@pytest.mark.parametrize("kept", ["phase_center_app_dec", "extra_keywords/phase_center_dec", "uvw_array"])
@pytest.mark.row(35)
def test_any_one_of_three_values_gives_the_declination(files, kept: str) -> None:  # type: ignore[no-untyped-def]
    """float32 uvw of a kilometre give it to a tenth of an arcsecond."""
    with rewritten(files[0]) as file:
        for name in {"phase_center_app_dec", "extra_keywords/phase_center_dec", "uvw_array"} - {kept}:
            del file[f"Header/{name}"]
    assert np.rad2deg(uvh5.read_header(files[0]).pointing_dec_rad) == pytest.approx(16.27, abs=3e-5)


@pytest.mark.row(35)
def test_the_zenith_itself_may_be_observed(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = observe(dec_deg=37.2334051).write(tmp_path, 0)
    assert uvh5.read_header(path).pointing_dec_rad == LATITUDE_RAD


@pytest.mark.row(35)
def test_uninformative_uvw_are_accepted(files) -> None:  # type: ignore[no-untyped-def]
    """uvw that are zeros, or the baselines on the ground, are no reason to refuse a file."""
    for value in (lambda u: 0 * u, None):
        with rewritten(files[0]) as file:
            x = file["Header/antenna_positions"]
            ground = (x[file["Header/ant_2_array"]] - x[file["Header/ant_1_array"]]).astype("f4")
            file["Header/uvw_array"] = ground if value is None else value(file["Header/uvw_array"])
        assert uvh5.read_header(files[0]).pointing_dec_rad == np.radians(16.27)
