"""Careful access to members of an HDF5 file written by another program.

Links out of the file or in circles are refused, and no memory is allocated for a size that the file states before that
size is found plausible.
"""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError

MAX_CHUNK_BYTES = 64 << 20
"""A chunk is decompressed as a whole even if only a part is read; the correlator's chunks are 12 KB."""
MAX_ITEM_BYTES = 64 << 10
"""Size limit of one element: numbers have 16 bytes at most, the string of cable delays some 1500."""
FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip", h5py.h5z.FILTER_SHUFFLE: "shuffle", h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_LZF: "lzf", h5py.h5z.FILTER_SZIP: "szip", h5py.h5z.FILTER_NBIT: "nbit", h5py.h5z.FILTER_SCALEOFFSET: "scale-offset",
    32008: "bitshuffle", 32001: "blosc", 32004: "lz4", 32015: "zstd",
}  # fmt: skip
"""Compression filters of correlators and UVH5 writers. The last four are available only with hdf5plugin or HDF5_PLUGIN_PATH."""
COPY_AGAIN = "copy the correlator's own file again"


LOCK_REFUSED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO})
"""Errors of a file server that does not support locks, or has none available at the moment."""


_PASSING = LOCK_REFUSED | {
    errno.EAGAIN, errno.EACCES, errno.ENOENT, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.EBUSY,
    errno.EINTR, errno.ENOMEM, errno.ENODEV, errno.ECONNRESET, errno.EHOSTDOWN,
}  # fmt: skip


def is_temporary(error: Exception) -> bool:
    """Whether an error is temporary and unrelated to the data: a writer holds its lock, or permission, disk or file
    server is lost for now."""
    return isinstance(error, OSError) and error.errno in _PASSING


def opened(path: Path) -> h5py.File:
    """Open a file for reading: with HDF5's lock, which detects a writer, or without it where the file server refuses locks."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in LOCK_REFUSED:
            raise
        return h5py.File(path, "r", locking=False)


def require(good: bool, path: Path, reason: str, remedy: str = COPY_AGAIN) -> None:
    """Unless `good`, raise BadDataError with the file, the reason and the remedy."""
    if not good:
        raise BadDataError(f"{path}: {reason}; not a usable subband file: {remedy}", path)


def member(group: Any, name: str, kind: type, path: Path) -> Any:
    """Return a member of the given kind, reached only by hard links: soft and external links can lead anywhere, or in circles."""
    *above, last = name.split("/")
    for part in above:
        group = member(group, part, h5py.Group, path)
    link = group.get(last, getlink=True)
    require(isinstance(link, h5py.HardLink), path, f"{group.name}/{last} is missing or a link")
    member_ = group[last]
    require(isinstance(member_, kind), path, f"{group.name}/{last} is a {type(member_).__name__}")
    return member_


def dataset(group: Any, name: str, path: Path, shape: tuple[int, ...] | None = None) -> Any:
    """Return a dataset whose data are in this file, of the given shape if one is given, and small enough to read in parts."""
    data = member(group, name, h5py.Dataset, path)
    require(not data.is_virtual and data.external is None, path, f"{data.name} keeps its data in another file")
    require(shape is None or data.shape == shape, path, f"{data.name} has shape {data.shape}, expected {shape}")
    require(data.dtype.itemsize <= MAX_ITEM_BYTES, path, f"{data.name} has elements of {data.dtype.itemsize} bytes")
    if data.chunks is not None:
        chunk_bytes = math.prod(data.chunks) * data.dtype.itemsize
        require(chunk_bytes <= MAX_CHUNK_BYTES, path, f"{data.name} has chunks of {chunk_bytes} bytes")
        for filter_ in _filters(data):
            usable = filter_ in FILTERS and bool(h5py.h5z.filter_avail(filter_))
            message = f"{data.name} is packed by {FILTERS.get(filter_, 'an unknown filter')} ({filter_}), which is not installed here"
            require(usable, path, message, "unpack it with `h5repack -f NONE`, or write it again without that filter")
    return data


def _filters(data: Any) -> list[int]:
    """Numbers of the filters that compress a dataset's chunks."""
    plist = data.id.get_create_plist()
    return [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]


def missing_bytes(data: Any) -> int:
    """Number of a dataset's bytes that were never written; for a compressed one, those of missing chunks."""
    itemsize = data.dtype.itemsize
    if not _filters(data):
        return int(max(0, data.size * itemsize - data.id.get_storage_size()))
    expected = math.prod(-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True))
    return int(max(0, expected - data.id.get_num_chunks()) * math.prod(data.chunks) * itemsize)


def vector(group: Any, name: str, limit: int, path: Path) -> NDArray[Any]:
    """Read a finite numeric dataset as one dimension; it is refused before it is read if longer than `limit`."""
    data = dataset(group, name, path)
    require(
        data.shape is not None and 0 < data.size <= limit,
        path,
        f"{data.name} has shape {data.shape}, limit {limit}",
    )
    require(data.dtype.kind in "iuf", path, f"{data.name} has type {data.dtype}")
    values = np.atleast_1d(np.asarray(data[()])).ravel()
    require(bool(np.all(np.isfinite(values))), path, f"{data.name} is not finite")
    return values.astype(np.int64 if values.dtype.kind in "iu" else np.float64)


def number(group: Any, name: str, path: Path) -> float | None:
    """Read a finite number, stored as a scalar or an array of one element; None if there is none of that name."""
    return float(vector(group, name, 1, path)[0]) if has(group, name, path) else None


def text(group: Any, name: str, path: Path) -> str | None:
    """Read a string of fixed or variable length; None if there is none of that name or it is not a string."""
    if not has(group, name, path):
        return None
    data = dataset(group, name, path)
    if data.shape not in ((), (1,)) or data.dtype.kind not in "SO":
        return None
    value = np.ravel(data[()])[0] if data.shape else data[()]
    return decoded(value).strip()


def decoded(value: Any) -> str:
    """Return a string as files store it: bytes in UTF-8 (which includes ASCII), or a str; NUL padding is removed."""
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).rstrip("\0")


def has(group: Any, name: str, path: Path) -> bool:
    """Whether a member of that name exists. It must be reached by hard links only, or the file is refused."""
    *above, last = name.split("/")
    for part in above:
        if not has(group, part, path):
            return False
        group = member(group, part, h5py.Group, path)
    link = group.get(last, getlink=True)
    require(link is None or isinstance(link, h5py.HardLink), path, f"{group.name}/{last} is a link")
    return link is not None
