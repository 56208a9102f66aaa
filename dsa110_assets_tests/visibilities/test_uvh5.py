"""Headers: files of the telescope and its known variants are read; everything else is refused with the
reason.
"""

import h5py
import numpy as np
import pytest

from dsa110_assets.errors import BadDataError, TransientError
from dsa110_assets.visibilities import uvh5


def test_header_says_what_was_written(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    observation = observe(subbands=(5,))
    header = uvh5.read_header(observation.write(tmp_path, 5))
    assert header.subband == 5
    assert header.name_stamp == observation.stamp
    assert (header.n_channels, header.n_antennas, header.times_mjd.size) == (4, 8, 3)
    # A Julian date is stored to 2^-31 d = 40 microseconds.
    np.testing.assert_allclose(header.times_mjd, observation.times_mjd(), atol=1e-9)
    assert header.mjd_start == header.times_mjd[0]
    assert header.interval_s == pytest.approx(12.884902, abs=1e-6)
    assert header.pointing_dec_rad == np.radians(16.27)
    assert header.antenna_names == tuple(str(n) for n in range(1, 13))
    assert header.active_antennas == tuple(str(n) for n in range(2, 10))
    np.testing.assert_array_equal(header.antenna_positions_m, observation.positions())
    np.testing.assert_array_equal(header.ant1, observation.baselines()[0])
    np.testing.assert_array_equal(header.ant2, observation.baselines()[1])
    np.testing.assert_array_equal(header.applied_delays_ns, np.full((12, 2), 15002))
    assert header.has_fs_table


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("fs_table", [True, False])
def test_variants_of_the_writer(observe, tmp_path, sign: float, fs_table: bool) -> None:  # type: ignore[no-untyped-def]
    """Trap 10: channel_width of either sign, fs_table or none; lst_array and three others are absent in every fixture."""
    header = uvh5.read_header(observe(channel_width_sign=sign, fs_table=fs_table).write(tmp_path, 0))
    assert header.has_fs_table is fs_table
    assert header.frequencies_hz[0] > header.frequencies_hz[1]


def test_pointing_per_row_and_from_the_keyword(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = observe().write(tmp_path, 0)
    with h5py.File(path, "r+") as file:
        n = file["Header/time_array"].size
        del file["Header/phase_center_app_dec"]
    assert uvh5.read_header(path).pointing_dec_rad == np.radians(16.27)
    with h5py.File(path, "r+") as file:
        file["Header/phase_center_app_dec"] = np.full(n, 0.5)
        file["Header/extra_keywords/phase_center_dec"][()] = 0.5  # both statements of the declination must agree: uvw give 16.27
        del file["Header/uvw_array"]
        del file["Header/extra_keywords/applied_delays_ns"]
    header = uvh5.read_header(path)
    assert header.pointing_dec_rad == 0.5
    assert header.applied_delays_ns is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("2026-01-25T22:24:57_sb00_incomplete.hdf5", "still being written"),
        ("2026-01-25T22:24:57_sb16.hdf5", "not a subband file name"),
        ("2026-01-25T22:24:57.hdf5", "not a subband file name"),
        ("notes.txt", "not a subband file name"),
        ("2026-13-45T22:24:57_sb00.hdf5", "is no time"),
        ("2026-03-25T22:24:57_sb00.hdf5", "far from its name"),
        ("2026-01-25T22:24:57_sb01.hdf5", "named sb01"),
    ],
)
def test_invalid_file_names_are_refused(observe, tmp_path, name: str, reason: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadDataError, match=reason):
        uvh5.read_header(observe().write(tmp_path, 0, name))


def test_empty_and_absent_files_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "2026-01-25T22:24:57_sb00.hdf5"
    with pytest.raises(TransientError, match="cannot be opened"):
        uvh5.read_header(path)
    path.touch()
    with pytest.raises(BadDataError, match="0 bytes"):
        uvh5.read_header(path)
    path.write_bytes(b"not HDF5 at all" * 100)
    with pytest.raises(BadDataError, match="not a readable UVH5 file"):
        uvh5.read_header(path)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.98, 0.9999])
def test_files_truncated_anywhere_are_refused(observe, tmp_path, kept: float) -> None:  # type: ignore[no-untyped-def]
    path = observe(n_times=8).write(tmp_path, 0)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(BadDataError, match=path.name):
        uvh5.read_header(path)


def _replace(path, name: str, value) -> None:  # type: ignore[no-untyped-def]
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = value


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("Header/freq_array", lambda f: f + 15258.8, "named sb00"),
        ("Header/freq_array", lambda f: f[:, :3], "named sb00"),
        ("Header/freq_array", lambda f: np.repeat(f, 2)[None, :5], "5 channels"),
        ("Header/freq_array", lambda f: f * np.nan, "not finite"),
        ("Header/time_array", lambda t: t[::-1], "not contiguous"),
        ("Header/time_array", lambda t: t[:-1], "whole integrations"),
        ("Header/time_array", lambda t: np.where(np.arange(t.size) == 5, t + 1, t), "whole|order"),
        ("Header/time_array", lambda t: t - 6000, "far from its name"),
        ("Header/ant_1_array", lambda a: a + 40, "antenna_numbers lacks"),
        ("Header/ant_1_array", lambda a: a * 0 + 3, "occurs twice"),
        ("Header/ant_2_array", lambda a: np.where(np.arange(a.size) == a.size - 2, 1, a), "differs between"),
        ("Header/polarization_array", lambda p: np.array([1, 2]), "lack XX"),
        ("Header/longitude", lambda x: x + 0.1, "site lies"),
        ("Header/antenna_positions", lambda x: x[:-1], "shape"),
        ("Header/antenna_positions", lambda x: x * np.nan, "positions"),
        ("Header/phase_center_app_dec", lambda x: np.float64(np.nan), "not finite"),
        ("Header/phase_center_app_dec", lambda x: np.float64(7.0), "app_dec"),
        ("Header/antenna_names", lambda x: np.array([b"1"] * 12), "share a name"),
        ("Data/visdata", lambda x: x[:-1], "shape"),
        ("Data/visdata", lambda x: x.real.copy(), "type"),
        ("Data/flags", lambda x: x[..., :1], "shape"),
    ],
)
def test_invalid_headers_are_refused(observe, tmp_path, name: str, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    path = observe().write(tmp_path, 0)
    with h5py.File(path) as file:
        value = change(file[name][()])
    _replace(path, name, value)
    with pytest.raises(BadDataError, match=reason):
        uvh5.read_header(path)


@pytest.mark.parametrize("name", ["Header/time_array", "Header/ant_1_array", "Data/visdata", "Header/freq_array"])
def test_files_with_missing_members_are_refused(observe, tmp_path, name: str) -> None:  # type: ignore[no-untyped-def]
    path = observe().write(tmp_path, 0)
    with h5py.File(path, "r+") as file:
        del file[name]
    with pytest.raises(BadDataError, match=name.split("/")[1]):
        uvh5.read_header(path)


def test_huge_shapes_are_refused_before_they_are_allocated(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A file of a few kilobytes claims 8 TB: reading it would kill the process."""
    for name in ("Header/time_array", "Header/antenna_numbers", "Header/freq_array"):
        path = observe().write(tmp_path, 0)
        with h5py.File(path, "r+") as file:
            del file[name]
            file.create_dataset(name, shape=(10**12,), dtype="f8", chunks=(1000,))
        with pytest.raises(BadDataError, match="limit"):
            uvh5.read_header(path)
    path = observe().write(tmp_path, 0)
    with h5py.File(path, "r+") as file:
        del file["Data/visdata"]
        file.create_dataset("Data/visdata", shape=(10**9, 1, 4, 2), dtype="c8", chunks=(1000, 1, 4, 2))
    with pytest.raises(BadDataError, match="shape"):
        uvh5.read_header(path)


def test_data_that_were_never_written_are_refused(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A chunked dataset of the right shape with missing chunks reads as zeros: it is not accepted."""
    path = observe().write(tmp_path, 0)
    with h5py.File(path, "r+") as file:
        shape = file["Data/visdata"].shape
        del file["Data/visdata"]
        file.create_dataset("Data/visdata", shape=shape, dtype="c8", chunks=True)
    with pytest.raises(BadDataError, match="not completely written"):
        uvh5.read_header(path)


def test_links_out_of_the_file_and_in_circles(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    other = observe().write(tmp_path, 0, "other.hdf5")
    for name, link in (
        ("Data/visdata", h5py.ExternalLink(str(other), "/Data/visdata")),
        ("Header", h5py.ExternalLink(str(other), "/Header")),
        ("Data/visdata", h5py.SoftLink("/Data/visdata")),
        ("Header/freq_array", h5py.SoftLink("/Header")),
    ):
        path = observe().write(tmp_path, 0)
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = link
        with pytest.raises(BadDataError, match="missing or a link"):
            uvh5.read_header(path)
    path = observe().write(tmp_path, 0)
    with h5py.File(path, "r+") as file:
        file["Header/Header"] = file["Header"]
        del file["Data"]
        file["Data"] = file["/"]
    with pytest.raises(BadDataError, match="visdata"):
        uvh5.read_header(path)


def test_data_in_another_file_are_refused(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = observe().write(tmp_path, 0)
    with h5py.File(path, "r+") as file:
        shape = file["Data/visdata"].shape
        del file["Data/visdata"]
        secret = tmp_path / "secret"
        secret.write_bytes(bytes(8 * int(np.prod(shape))))
        file.create_dataset("Data/visdata", shape=shape, dtype="c8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(BadDataError, match="another file"):
        uvh5.read_header(path)
