"""Careful access to members of an HDF5 file that somebody else wrote.

Links out of the file or in circles are refused, and nothing is allocated from a size the file claims before
that size is found plausible.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError


def require(good: bool, path: Path, reason: str) -> None:
    """Raise BadDataError naming the file and the reason unless `good`."""
    if not good:
        raise BadDataError(f"{path}: {reason}; not a usable subband file")


def member(group: Any, name: str, kind: type, path: Path) -> Any:
    """A hard-linked member of the given kind: soft and external links could point anywhere, or in circles."""
    link = group.get(name, getlink=True)
    require(isinstance(link, h5py.HardLink), path, f"{group.name}/{name} is missing or a link")
    member = group[name]
    require(isinstance(member, kind), path, f"{group.name}/{name} is a {type(member).__name__}")
    return member


def dataset(group: Any, name: str, path: Path, shape: tuple[int, ...] | None = None) -> Any:
    """A dataset whose data are in this file, of the given shape if one is given."""
    data = member(group, name, h5py.Dataset, path)
    require(
        data.external is None and not data.is_virtual, path, f"{data.name} keeps its data in another file"
    )
    require(
        shape is None or data.shape == shape, path, f"{data.name} has shape {data.shape}, expected {shape}"
    )
    return data


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


def has(group: Any, name: str) -> bool:
    """Whether a hard-linked member of that name exists."""
    return isinstance(group.get(name, getlink=True), h5py.HardLink)
