"""The large columns of a measurement set's main table, as casacore's tiled storage manager lays them out on disk.

A TiledColumnStMan column of fixed-shape cells in tiles of whole rows is one file of the cells in row order, padded to a
whole tile; booleans are bits, lowest first. casacore creates the table, and this module then fills and reads its files
without casacore's copies. Tests compare the files with those that casacore itself writes, byte for byte.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from numpy.typing import NDArray

TILE_BYTES = 1 << 20
_UNPACKED = 1 << 20
_MIN_ROWS, _MAX_ROWS = 8, 4096


def tiled(name: str, value_type: str, shape: Sequence[int], item_bytes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(column description, storage specification) of a column in tiles of whole rows, about 1 MiB each.

    `shape` is that of a cell in numpy's order. Rows per tile are a multiple of 8, so that bits fill bytes.
    """
    column = tables.makearrcoldesc(
        name, 0, valuetype=value_type, shape=list(shape), options=5, datamanagertype="TiledColumnStMan", datamanagergroup=name
    )["desc"]
    rows = int(np.clip(TILE_BYTES // (int(np.prod(shape)) * item_bytes), _MIN_ROWS, _MAX_ROWS)) // 8 * 8
    return column, {"DEFAULTTILESHAPE": np.array([*list(shape)[::-1], rows], dtype=np.int32)}


def constant(name: str, value_type: str, shape: Sequence[int]) -> dict[str, Any]:
    """Description of a column that stores a cell once while rows repeat it (IncrementalStMan)."""
    description: dict[str, Any] = tables.makearrcoldesc(
        name, 0, valuetype=value_type, shape=list(shape), options=5, datamanagertype="IncrementalStMan", datamanagergroup=name
    )["desc"]
    return description


def fix_shape(table: Any, name: str, shape: Sequence[int]) -> None:
    """Fix the shape of an array column, so that its cells are stored in the table's rows. `shape` is in numpy's order;
    the table is open and has no rows yet.

    Cells of variable shape go into a separate file, which casacore pads to whole 8 bytes with uninitialised memory: the
    same data would be different bytes in every run.
    """
    description = table.getcoldesc(name) | {"shape": list(shape), "ndim": len(shape), "option": 5}
    table.removecols([name])
    table.addcols({name: description})


def add_sparse(main: Any, path: Path, name: str, column: dict[str, Any], storage: dict[str, Any]) -> None:
    """Add a `tiled` column of zeros to the table at `path`, open and with its rows, without writing the zeros.

    casacore fills the tiles of new rows, which doubles the work of writing a column. It is made to fill /dev/null; the
    other files it writes are small. The file that then replaces /dev/null has the same length, with holes for zeros.
    """
    number = 1 + max(manager["SEQNR"] for manager in main.getdminfo().values())
    hole = path / f"table.f{number}_TSM0"
    hole.symlink_to(os.devnull)
    main.addcols({name: column}, tables.makedminfo({name: column}, {name: storage}))
    main.flush()
    hole.unlink()
    manager = next(m for m in main.getdminfo().values() if name in m["COLUMNS"])
    cube = manager["SPEC"]["HYPERCUBES"]["*1"]
    n_tiles = -(-main.nrows() // int(cube["TileShape"][-1]))
    with (path / f"table.f{manager['SEQNR']}_TSM0").open("xb") as new:
        new.truncate(n_tiles * int(cube["BucketSize"]))


class TiledColumn:
    """The file of a tiled column: `put` and `get` rows, of `cell` items each, inside an `opened` block."""

    def __init__(self, path: Path, n_rows: int, cell: int, dtype: np.dtype[Any]) -> None:
        self.path, self.n_rows, self.cell, self.dtype = path, n_rows, cell, dtype

    @contextmanager
    def opened(self, flags: int) -> Iterator[TiledColumn]:
        """Open the file with os.O_RDONLY or os.O_WRONLY."""
        with ExitStack() as stack:
            self._fd = os.open(self.path, flags)
            stack.callback(os.close, self._fd)
            yield self

    def put(self, first_row: int, values: NDArray[Any]) -> None:
        """Write whole rows, C-contiguous and of the column's dtype. Bits: first row and count are multiples of 8, or
        reach to the end.

        The rows stay in the page cache, for the step that seals the set and reads it next.
        """
        if self.dtype == np.bool_:
            values = np.packbits(values.view(np.uint8).reshape(-1), bitorder="little")
        view, offset = values.data.cast("B"), self._offset(first_row)
        while view.nbytes:
            n = os.pwrite(self._fd, view, offset)
            view, offset = view[n:], offset + n

    def settle(self) -> None:
        """Wait until the rows put are on the disk, so that sealing need not wait for it."""
        os.fdatasync(self._fd)

    def get(self, first_row: int, out: NDArray[Any]) -> None:
        """Read whole rows into `out`, C-contiguous and of the column's dtype (bits as for `put`). EOFError at the end."""
        bits = self.dtype == np.bool_
        raw = np.empty(-(-out.size // 8), np.uint8) if bits else out
        view, offset = raw.data.cast("B"), self._offset(first_row)
        while view.nbytes:
            n = os.preadv(self._fd, [view], offset)
            if n == 0:
                raise EOFError(f"{self.path} ends {view.nbytes} bytes too early")
            view, offset = view[n:], offset + n
        if bits:
            flat = out.reshape(-1).view(np.uint8)
            for first in range(0, flat.size, _UNPACKED):  # in pieces, as memory never used before is slow
                piece = flat[first : first + _UNPACKED]
                piece[:] = np.unpackbits(raw[first // 8 : first // 8 + _UNPACKED // 8], count=piece.size, bitorder="little")

    def mapped(self) -> NDArray[Any]:
        """All items in row order, flat, mapped from disk: values written to them stay in this process's memory.

        Not for bits. EOFError if the file is too short.
        """
        try:
            return np.asarray(np.memmap(self.path, self.dtype, mode="c", shape=(self.n_rows * self.cell,)))
        except ValueError as error:
            raise EOFError(f"{self.path} is shorter than its {self.n_rows} rows ({error})") from error

    def _offset(self, first_row: int) -> int:
        items = first_row * self.cell
        return items // 8 if self.dtype == np.bool_ else items * self.dtype.itemsize


def release_pages(values: NDArray[Any]) -> None:
    """Release the memory of `values`, a part of what TiledColumn.mapped returned: read again, it comes from the disk's
    page cache. Any other array is left unchanged."""
    owner: Any = values
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not isinstance(owner, mmap.mmap) or not values.flags.c_contiguous or not values.size:
        return
    start = values.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + values.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        owner.madvise(mmap.MADV_DONTNEED, first, length)


def find(main: Any, path: Path, column: str) -> TiledColumn | None:
    """The file of a column of the table at `path`, or None unless it is laid out as `tiled` describes.

    Byte order and position are verified on the first and last cells against what casacore reads.
    """
    manager = next((m for m in main.getdminfo().values() if column in m["COLUMNS"]), None)
    if manager is None or manager["TYPE"] != "TiledColumnStMan" or list(manager["COLUMNS"]) != [column]:
        return None
    cubes = list(manager["SPEC"]["HYPERCUBES"].values())
    n_rows, file = main.nrows(), path / f"table.f{manager['SEQNR']}_TSM0"
    if len(cubes) != 1 or not n_rows or not file.is_file():
        return None
    cube, tile = [[int(n) for n in cubes[0][key]] for key in ("CubeShape", "TileShape")]
    first = np.asarray(main.getcell(column, 0))
    if cube != [*first.shape[::-1], n_rows] or tile[:-1] != cube[:-1] or (first.dtype == np.bool_ and tile[-1] % 8):
        return None
    candidate = TiledColumn(file, n_rows, first.size, first.dtype)
    return candidate if _agrees(candidate, main, column) else None


def _agrees(candidate: TiledColumn, main: Any, column: str) -> bool:
    ends = sorted({0, (candidate.n_rows - 1) // 8 * 8})  # rows whose bits start on a byte boundary
    try:
        with candidate.opened(os.O_RDONLY):
            for row in ends:
                cells = np.asarray(main.getcol(column, row, min(8, candidate.n_rows - row)))
                read = np.empty_like(cells)
                candidate.get(row, read)
                if read.tobytes() != cells.tobytes():
                    return False
    except EOFError:
        return False
    return True
