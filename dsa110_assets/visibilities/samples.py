"""Reading rows of a subband file's samples: directly from their place in the file, or through HDF5.

The telescope writes chunks of 12 KB without a filter, most of them contiguous. Their places are looked up once; a run
of them is then read by one system call, from any number of threads. A file with another layout (compressed, or with
chunks that split a spectrum) is read by HDF5 itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, DsaError, TransientError
from dsa110_assets.visibilities.hdf5 import is_temporary, opened


class Samples:
    """Data/visdata and Data/flags of one file whose header has been checked. `read` works inside its `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with opened(path) as file:
                self._visdata, self._flags = _Rows(file, "Data/visdata"), _Rows(file, "Data/flags")
        except (OSError, KeyError) as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> Samples:
        try:
            self._fd = os.open(self.path, os.O_RDONLY)
            self._file = None if self._visdata.plain and self._flags.plain else opened(self.path)
        except OSError as error:
            raise self._unreadable(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)
        if self._file is not None:
            self._file.close()

    def read(self, first_row: int, data: NDArray[np.complex64], flags: NDArray[np.bool_]) -> None:
        """Fill data and flags (row, channel, pol), C-contiguous, with the rows from `first_row` on.

        Raises BadDataError when the file ends too early or cannot be read, TransientError if the cause is a failing
        file server.
        """
        try:
            self._visdata.read(self._fd, self._file, first_row, data)
            self._flags.read(self._fd, self._file, first_row, flags)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DsaError:
        if is_temporary(error):
            return TransientError(f"{self.path}: cannot be read now ({error})")
        return BadDataError(f"{self.path}: data cannot be read ({error}); copy it again", self.path)


class _Rows:
    """Rows of one dataset (row, channel, pol) or (row, 1, channel, pol). If plain, `runs` are their (first row, end
    row, byte offset), ascending."""

    def __init__(self, file: h5py.File, name: str) -> None:
        dataset = file[name]
        self._name = name
        self._row_bytes = int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize
        self._runs = _runs(dataset, self._row_bytes) if dataset.dtype in (np.complex64, np.bool_) else None

    @property
    def plain(self) -> bool:
        """Whether the bytes of rows in the file are the same as in memory."""
        return self._runs is not None

    def read(self, fd: int, file: h5py.File | None, first_row: int, out: NDArray[Any]) -> None:
        """Fill `out` (row, channel, pol) from `first_row` on, through HDF5 if the rows are not plain."""
        end_row = first_row + out.shape[0]
        if self._runs is None:
            assert file is not None, "a dataset that is not plain needs its file open"
            _convert(file[self._name], np.s_[first_row:end_row], out)
            return
        where = int(np.searchsorted(self._runs[:, 1], first_row, side="right"))
        while first_row < end_row:
            low, high, offset = (int(value) for value in self._runs[where])
            n = min(high, end_row) - first_row
            _fill(fd, out[out.shape[0] - (end_row - first_row) :][:n], offset + (first_row - low) * self._row_bytes)
            first_row, where = first_row + n, where + 1


def _convert(dataset: Any, rows: slice, out: NDArray[Any]) -> None:
    """Read rows of any compression, byte order, precision or (of flags) type; a value that float32 cannot hold becomes infinite."""
    shape = out.shape[0], *dataset.shape[1:]
    if out.dtype == np.bool_ and dataset.dtype != np.bool_:
        out[:] = dataset[rows].reshape(out.shape) != 0
    elif dataset.dtype.kind == "c" or out.dtype == np.bool_:
        dataset.read_direct(out.reshape(shape), rows)
    else:
        pairs = dataset[rows].reshape(out.shape)
        out.real, out.imag = pairs["r"], pairs["i"]


def _runs(dataset: Any, row_bytes: int) -> NDArray[np.int64] | None:
    """Locate rows: (run, 3) of first row, end row, byte offset; None if a row's bytes differ from those in memory."""
    n_rows = dataset.shape[0]
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return None if offset is None or dataset.external else np.array([[0, n_rows, offset]])
    if dataset.id.get_create_plist().get_nfilters() or dataset.chunks[1:] != dataset.shape[1:]:
        return None
    chunks: list[tuple[int, int]] = []
    dataset.id.chunk_iter(lambda chunk: chunks.append((chunk.chunk_offset[0], chunk.byte_offset)))
    places = np.array(sorted(chunks), dtype=np.int64).reshape(-1, 2)
    firsts, offsets, per_chunk = places[:, 0], places[:, 1], dataset.chunks[0]
    if not np.array_equal(firsts, np.arange(0, n_rows, per_chunk)):
        return None  # a chunk that was never written has HDF5's fill value, and no place in the file
    starts = np.flatnonzero(np.diff(offsets, prepend=-1) != per_chunk * row_bytes)
    ends = np.append(firsts[starts[1:]], n_rows)
    return np.stack([firsts[starts], ends, offsets[starts]], axis=1)


def _fill(fd: int, out: NDArray[Any], offset: int) -> None:
    """Read bytes at `offset` until `out` is full. Raises OSError at the end of the file."""
    view = out.data.cast("B")
    while view.nbytes:
        n = os.preadv(fd, [view], offset)
        if n == 0:
            raise OSError(f"the file ends {view.nbytes} bytes too early")
        view, offset = view[n:], offset + n
