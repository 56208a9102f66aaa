"""The one-pass ingest of subband files into a flagged measurement set against the same in steps, bit for bit."""

import dataclasses
import mmap
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numba
import numpy as np
import pytest
from casacore import tables

from dsa110_assets.visibilities import flagging, ingest, measurement_set, ms_columns, reader
from dsa110_assets.visibilities.options import FlaggingOptions


@pytest.fixture
def files(observe, meridian_radec, tmp_path):  # type: ignore[no-untyped-def]
    """Two of three subbands of 8 antennas with noise, a source, zeros and interference; rows out of order."""
    made = observe(n_times=24, n_channels=8, noise=0.01, antenna_order=[5, 3, 8, 1, 2, 7, 4, 6])
    ra, dec = meridian_radec(made, made.mjd_start)
    made.sources = [(ra + 0.002, dec, 0.02)]
    (tmp_path / "in").mkdir()
    paths = made.write_all(tmp_path / "in")
    with h5py.File(paths[0], "r+") as file:
        values = file["Data/visdata"][()]
        values[36 * 5 : 36 * 6, 0, 2:5] += 0.2
        values[:, 0, 6] += 0.1
        values[7] = 0
        file["Data/visdata"][...] = values
        marks = file["Data/flags"][()]
        marks[100:103, 0, 1, 0] = True
        file["Data/flags"][...] = marks
    return paths


def in_steps(files, options):  # type: ignore[no-untyped-def]
    return flagging.flag(reader.read_group(files, 3), options)


def assert_equal(a, b) -> None:  # type: ignore[no-untyped-def]
    for name in ("data", "flags", "weights", "ant1", "ant2", "uvw_m", "times_mjd", "phase_centres_rad", "frequencies_hz"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.subbands_missing == b.subbands_missing


@pytest.mark.parametrize("engine", ["own", "none"])
@pytest.mark.parametrize("memory_bytes", [np.inf, 300_000])
def test_one_pass_is_the_same_as_steps(files, tmp_path, memory_bytes, engine) -> None:  # type: ignore[no-untyped-def]
    """The result does not depend on the memory: 300 kB make blocks of 4 to 5 of the 36 baselines."""
    options = FlaggingOptions(engine=engine)
    vis, expected = in_steps(files, options)
    _, report = ingest.ingest(files, tmp_path / "a.ms", n_subbands=3, options=options, memory_bytes=memory_bytes)
    assert report == expected
    assert report.causes["zeros"] > 0
    assert (report.causes.get("sumthreshold", 0) > 0.02) == (engine == "own")
    assert_equal(measurement_set.read(tmp_path / "a.ms"), vis)
    assert measurement_set.problems(tmp_path / "a.ms") == []
    measurement_set.write(vis, tmp_path / "b.ms")
    for column in ("DATA", "FLAG", "WEIGHT_SPECTRUM", "WEIGHT", "SIGMA", "FLAG_ROW"):
        with tables.table(str(tmp_path / "a.ms"), ack=False) as a, tables.table(str(tmp_path / "b.ms"), ack=False) as b:
            np.testing.assert_array_equal(a.getcol(column), b.getcol(column), err_msg=column)


def test_samples_that_are_not_finite_have_weight_zero(files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with h5py.File(files[1], "r+") as file:
        file["Data/visdata"][200, 0, 3, 1] = complex(np.nan, 1)
        file["Data/visdata"][300, 0, 5, 0] = complex(1, np.inf)
    vis, expected = in_steps(files, FlaggingOptions())
    assert np.sum(vis.weights == 0) == 24 * 36 * 8 * 2 + 2
    _, report = ingest.ingest(files, tmp_path / "a.ms", n_subbands=3, memory_bytes=300_000)
    assert report == expected
    assert_equal(measurement_set.read(tmp_path / "a.ms"), vis)


@pytest.mark.alone
def test_the_number_of_threads_does_not_matter(files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    several = numba.get_num_threads()
    _, report = ingest.ingest(files, tmp_path / "a.ms", n_subbands=3)
    try:
        numba.set_num_threads(1)
        _, single_thread = ingest.ingest(files, tmp_path / "b.ms", n_subbands=3)
    finally:
        numba.set_num_threads(several)
    assert report == single_thread
    assert_equal(measurement_set.read(tmp_path / "a.ms"), measurement_set.read(tmp_path / "b.ms"))


@pytest.mark.parametrize("reader_engine", ["direct", "pyuvdata"])
def test_other_engines_process_the_whole_group(files, tmp_path, reader_engine) -> None:  # type: ignore[no-untyped-def]
    options = FlaggingOptions(engine="none" if reader_engine == "pyuvdata" else "aoflagger")
    vis, expected = in_steps(files, options)
    _, report = ingest.ingest(files, tmp_path / "a.ms", n_subbands=3, options=options, engine=reader_engine)
    assert report == expected
    assert_equal(measurement_set.read(tmp_path / "a.ms"), vis)


def test_our_files_are_casacores_byte_for_byte(files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Writing the same values again with casacore changes no byte of the columns' files, and casacore reads these values."""
    vis, _ = in_steps(files, FlaggingOptions())
    weights = np.random.default_rng(3).uniform(0.5, 2, vis.weights.shape).astype(np.float32)
    path = tmp_path / "a.ms"
    measurement_set.write(dataclasses.replace(vis, weights=weights), path)
    with tables.table(str(path), ack=False) as main:
        places = {name: ms_columns.find(main, path, name).path for name in ("DATA", "FLAG", "WEIGHT_SPECTRUM")}
    before = {name: place.read_bytes() for name, place in places.items()}
    rows = vis.data.shape[0] * vis.data.shape[1]
    values = {"DATA": vis.data.conj(), "FLAG": vis.flags, "WEIGHT_SPECTRUM": weights}
    with tables.table(str(path), ack=False, readonly=False) as main:
        for name, cube in values.items():
            np.testing.assert_array_equal(main.getcol(name), cube.reshape(rows, -1, 2))
            main.putcol(name, np.zeros_like(cube).reshape(rows, -1, 2))
            main.putcol(name, cube.reshape(rows, -1, 2))
    for name, place in places.items():
        assert place.read_bytes() == before[name], name


def test_released_pages_are_read_again_from_disk(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """With cells of one and a half pages, the whole pages of the part are released, and all cells still read as on disk."""
    cells = np.random.default_rng(6).normal(size=(40, 768, 2)).astype(np.float32).view(np.complex64)[..., 0]
    path = tmp_path / "table.f0_TSM0"
    path.touch()
    column = ms_columns.TiledColumn(path, 40, 768, np.dtype(np.complex64))
    with column.opened(os.O_WRONLY):
        column.put(0, cells[:24])
        column.put(24, cells[24:])
        column.settle()
    mapped = column.mapped().reshape(cells.shape)
    assert mapped.sum() == cells.sum()
    held = _resident_pages(path)
    assert held == 40 * 768 * 8 // mmap.PAGESIZE
    ms_columns.release_pages(mapped[3:])
    assert _resident_pages(path) < held / 5
    np.testing.assert_array_equal(mapped, cells)
    ms_columns.release_pages(cells)  # memory of another kind is not touched
    ms_columns.release_pages(mapped[:, ::2])
    np.testing.assert_array_equal(mapped, cells)


def _resident_pages(path: Path) -> int:
    """The number of a file's pages that this process has in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return next(int(row.split()[1]) for row in lines if row.startswith("Rss:")) * 1024 // mmap.PAGESIZE
    return 0


def test_columns_with_another_layout_are_read_by_casacore(files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A copy that casacore wrote with another storage manager is read through casacore, with the same result."""
    vis, _ = in_steps(files, FlaggingOptions())
    measurement_set.write(vis, tmp_path / "a.ms")
    with tables.table(str(tmp_path / "a.ms"), ack=False) as main:
        managers = main.getdminfo()
        for manager in managers.values():
            if manager["TYPE"] == "TiledColumnStMan":
                manager["TYPE"], manager["SPEC"] = "StandardStMan", {}
        main.copy(str(tmp_path / "b.ms"), deep=True, valuecopy=True, dminfo=managers).close()
    with tables.table(str(tmp_path / "b.ms"), ack=False) as main:
        assert ms_columns.find(main, tmp_path / "b.ms", "DATA") is None
    assert_equal(measurement_set.read(tmp_path / "b.ms"), vis)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_files_with_other_chunks_read_the_same(files, tmp_path, compression) -> None:  # type: ignore[no-untyped-def]
    """The telescope's chunks (whole spectra), split spectra, and compressed ones."""
    expected = reader.read_group(files, 3)
    for rows, channels in ((16, 8), (7, 4)):
        for path in files.values():
            with h5py.File(path, "r+") as file:
                for name in ("visdata", "flags"):
                    values = file[f"Data/{name}"][()]
                    del file[f"Data/{name}"]
                    file["Data"].create_dataset(name, data=values, chunks=(rows, 1, channels, 2), compression=compression)
        assert_equal(reader.read_group(files, 3), expected)


def test_a_file_truncated_during_reading_is_bad_data(files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Contiguous samples at the end of a file that loses its tail after its header was read."""
    from dsa110_assets.errors import BadDataError

    with h5py.File(files[0], "r+") as file:
        values = file["Data/visdata"][()]
        del file["Data/visdata"]
        file["Data"].create_dataset("visdata", data=values)
    group = reader.open_group(files, 3)
    shape = group.frame.data.shape
    data, flags = np.empty(shape, np.complex64), np.empty(shape, bool)
    group.load(np.arange(shape[1]), data, flags)
    os.truncate(files[0], os.path.getsize(files[0]) - 100_000)
    with pytest.raises(BadDataError, match="copy it again"):
        group.load(np.arange(shape[1]), data, flags)


@pytest.mark.row(38, cases="the same input twice with the same bytes")
def test_the_same_files_are_the_same_bytes(files, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The bytes do not depend on previous memory contents: glibc fills memory with another byte in every child process."""
    code = (
        "import sys; from pathlib import Path; from dsa110_assets.visibilities import ingest; "
        "ingest.ingest({n: Path(path) for n, path in enumerate(sys.argv[2:])}, Path(sys.argv[1]), n_subbands=2)"
    )
    trees = []
    for byte in ("17", "34"):
        path = tmp_path / byte / "set.ms"
        path.parent.mkdir()
        environment = os.environ | {"MALLOC_PERTURB_": byte, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, path, files[0], files[1]], env=environment, check=True)
        trees.append({file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()})
    assert len(trees[0]) > 40
    assert [name for name in trees[0] if trees[0][name] != trees[1][name]] == []
