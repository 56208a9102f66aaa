"""Careful access to members of an HDF5 file that somebody else wrote.

Links out of the file or in circles are refused, and nothing is allocated from a size the file claims before
that size is found plausible.
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
"""A chunk is decompressed whole, whatever part of it is asked for; the correlator's hold 12 KB."""
MAX_ITEM_BYTES = 64 << 10
"""One element: numbers have 16 bytes at most, the string of cable delays some 1500."""
FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip", h5py.h5z.FILTER_SHUFFLE: "shuffle", h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_LZF: "lzf", h5py.h5z.FILTER_SZIP: "szip", h5py.h5z.FILTER_NBIT: "nbit", h5py.h5z.FILTER_SCALEOFFSET: "scale-offset",
    32008: "bitshuffle", 32001: "blosc", 32004: "lz4", 32015: "zstd",
}  # fmt: skip
"""What correlators and UVH5 writers pack with. The last four come with hdf5plugin or HDF5_PLUGIN_PATH, or not at all."""
COPY_AGAIN = "copy the correlator's own file again"


LOCK_REFUSED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO})
"""What a file server says that gives no locks, or none at the moment."""


_PASSING = LOCK_REFUSED | {
    errno.EAGAIN, errno.EACCES, errno.ENOENT, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.EBUSY,
    errno.EINTR, errno.ENOMEM, errno.ENODEV, errno.ECONNRESET, errno.EHOSTDOWN,
}  # fmt: skip


def is_passing(error: Exception) -> bool:
    """Whether an error says nothing about the data: a writer still holds its lock, permission, disk or file server is lost for now."""
    return isinstance(error, OSError) and error.errno in _PASSING


def opened(path: Path) -> h5py.File:
    """A file for reading: with HDF5's lock, which tells of a writer, or without it where the file server refuses locks."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in LOCK_REFUSED:
            raise
        return h5py.File(path, "r", locking=False)


def require(good: bool, path: Path, reason: str, remedy: str = COPY_AGAIN) -> None:
    """Raise BadDataError naming the file, the reason and what to do unless `good`."""
    if not good:
        raise BadDataError(f"{path}: {reason}; not a usable subband file: {remedy}", path)


def member(group: Any, name: str, kind: type, path: Path) -> Any:
    """A member of the given kind, by hard links all the way: soft and external ones point anywhere, or in circles."""
    *above, last = name.split("/")
    for part in above:
        group = member(group, part, h5py.Group, path)
    link = group.get(last, getlink=True)
    require(isinstance(link, h5py.HardLink), path, f"{group.name}/{last} is missing or a link")
    member_ = group[last]
    require(isinstance(member_, kind), path, f"{group.name}/{last} is a {type(member_).__name__}")
    return member_


def dataset(group: Any, name: str, path: Path, shape: tuple[int, ...] | None = None) -> Any:
    """A dataset whose data are in this file, of the given shape if one is given, and modest to read in parts."""
    data = member(group, name, h5py.Dataset, path)
    require(not data.is_virtual and data.external is None, path, f"{data.name} keeps its data in another file")
    require(shape is None or data.shape == shape, path, f"{data.name} has shape {data.shape}, expected {shape}")
    require(data.dtype.itemsize <= MAX_ITEM_BYTES, path, f"{data.name} has elements of {data.dtype.itemsize} bytes")
    if data.chunks is not None:
        chunk_bytes = math.prod(data.chunks) * data.dtype.itemsize
        require(chunk_bytes <= MAX_CHUNK_BYTES, path, f"{data.name} has chunks of {chunk_bytes} bytes")
        for filter_ in _filters(data):
            usable = filter_ in FILTERS and bool(h5py.h5z.filter_avail(filter_))
            told = f"{data.name} is packed by {FILTERS.get(filter_, 'an unknown filter')} ({filter_}), which is not installed here"
            require(usable, path, told, "unpack it with `h5repack -f NONE`, or write it again without that filter")
    return data


def _filters(data: Any) -> list[int]:
    """Numbers of the filters that pack a dataset's chunks."""
    plist = data.id.get_create_plist()
    return [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]


def missing_bytes(data: Any) -> int:
    """Bytes of a dataset that were never written; a packed one lacks the chunks that are not there."""
    itemsize = data.dtype.itemsize
    if not _filters(data):
        return int(max(0, data.size * itemsize - data.id.get_storage_size()))
    expected = math.prod(-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True))
    return int(max(0, expected - data.id.get_num_chunks()) * math.prod(data.chunks) * itemsize)


def vector(group: Any, name: str, limit: int, path: Path) -> NDArray[Any]:
    """A finite numeric dataset as one dimension, refused before it is read if longer than `limit`."""
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
    """A finite number that may be a scalar or an array of one; None if there is none of that name."""
    return float(vector(group, name, 1, path)[0]) if has(group, name, path) else None


def text(group: Any, name: str, path: Path) -> str | None:
    """A string, of fixed or variable length; None if there is none of that name or it is no string."""
    if not has(group, name, path):
        return None
    data = dataset(group, name, path)
    if data.shape not in ((), (1,)) or data.dtype.kind not in "SO":
        return None
    value = np.ravel(data[()])[0] if data.shape else data[()]
    return decoded(value).strip()


def decoded(value: Any) -> str:
    """A string as files hold it: bytes in UTF-8, of which ASCII is a part, or a str; padding of NULs is none of it."""
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).rstrip("\0")


def has(group: Any, name: str, path: Path) -> bool:
    """Whether a member of that name exists; by hard links all the way, or the file is refused."""
    *above, last = name.split("/")
    for part in above:
        if not has(group, part, path):
            return False
        group = member(group, part, h5py.Group, path)
    link = group.get(last, getlink=True)
    require(link is None or isinstance(link, h5py.HardLink), path, f"{group.name}/{last} is a link")
    return link is not None
