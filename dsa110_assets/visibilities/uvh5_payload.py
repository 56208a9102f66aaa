"""The samples of a UVH5 file as its datasets declare them: shapes, types, and whether all of them were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dsa110_assets.visibilities import hdf5
from dsa110_assets.visibilities.uvh5_rows import MAX_ROWS

MAX_SAMPLES = 2 * MAX_ROWS * 48
"""Samples of one subband: 256 antennas, the correlator's 48 channels, two polarisations: 606 MB."""
_MAX_BYTES = 16
"""Size of a sample: a complex128, the widest that pyuvdata writes."""


def check(file: Any, n_rows: int, n_channels: int, n_pols: int, path: Path) -> None:
    """Raise BadDataError unless Data holds all samples of visdata, flags and nsamples.

    Each is (row, channel, pol), or (row, 1, channel, pol) as before UVH5 1.2.
    """
    data = hdf5.member(file, "Data", h5py.Group, path)
    shape = n_rows, n_channels, n_pols
    samples = n_rows * n_channels * n_pols
    hdf5.require(samples <= MAX_SAMPLES, path, f"its shape {shape} claims {samples} samples, limit {MAX_SAMPLES}")
    for name, usable in (("visdata", is_complex), ("flags", is_flag), ("nsamples", is_number)):
        dataset = hdf5.dataset(data, name, path)
        old = n_rows, 1, n_channels, n_pols
        hdf5.require(dataset.shape in (shape, old), path, f"{dataset.name} has shape {dataset.shape}, expected {shape}")
        hdf5.require(usable(dataset.dtype), path, f"{name} has type {dataset.dtype}")
        absent = hdf5.missing_bytes(dataset)
        hdf5.require(not absent, path, f"{name} lacks {absent} bytes of its data: not completely written")


def is_complex(dtype: np.dtype[Any]) -> bool:
    """Complex numbers, or pairs r and i of integers, as some correlators write them."""
    pair = dtype.names is not None and set(dtype.names) == {"r", "i"} and all(dtype[part].kind in "if" for part in ("r", "i"))
    return (dtype.kind == "c" or pair) and dtype.itemsize <= _MAX_BYTES


def is_flag(dtype: np.dtype[Any]) -> bool:
    """Booleans, or bytes that are 0 where a sample is good."""
    return dtype.kind in "biu" and dtype.itemsize == 1


def is_number(dtype: np.dtype[Any]) -> bool:
    """Whole or fractional numbers."""
    return dtype.kind in "fiu" and dtype.itemsize <= _MAX_BYTES // 2
