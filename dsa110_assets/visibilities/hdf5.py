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
KNOWN_FILTERS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF})


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


def require(good: bool, path: Path, reason: str) -> None:
    """Raise BadDataError naming the file and the reason unless `good`."""
    if not good:
        raise BadDataError(f"{path}: {reason}; not a usable subband file", path)


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
        plist = data.id.get_create_plist()
        filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
        require(filters <= KNOWN_FILTERS, path, f"{data.name} is packed by unknown filters {sorted(filters - KNOWN_FILTERS)}")
    return data


def missing_bytes(data: Any) -> int:
    """Bytes of a dataset that were never written; a packed one lacks the chunks that are not there."""
    itemsize = data.dtype.itemsize
    if data.compression is None:
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
    return values if values.dtype.kind in "iu" else values.astype(np.float64)


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
