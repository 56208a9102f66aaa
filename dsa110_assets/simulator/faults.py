"""Planted faults of files: errors between the correlator and the inbox."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import h5py

from dsa110_assets.simulator.options import Fault
from dsa110_assets.simulator.writer import file_name

_TRUNCATED_FRACTION = 142_348_126 / 145_348_600
"""As for the one truncated file in the inventory of real data."""
_DUPLICATE_SHIFT = timedelta(seconds=4)


def deliver(written: Path, directory: Path, stamp: str, subband: int, faults: Sequence[Fault]) -> list[str]:
    """Move a file written under its `_incomplete` name to its final place; return the names delivered.

    Faults are applied on the way: the file may end up truncated, empty, missing, duplicated, or still incomplete.
    """
    kinds = {fault.kind for fault in faults}
    final = directory / file_name(stamp, subband)
    if "missing_subband" in kinds:
        written.unlink()
        return []
    if "truncated" in kinds:
        os.truncate(written, int(written.stat().st_size * _TRUNCATED_FRACTION))
    if "zero_length" in kinds:
        os.truncate(written, 0)
    if "incomplete" in kinds:
        return [written.name]
    os.replace(written, final)
    names = [final.name]
    if kinds & {"duplicate_same", "duplicate_different"}:
        later = (datetime.fromisoformat(stamp) + _DUPLICATE_SHIFT).strftime("%Y-%m-%dT%H:%M:%S")
        twin = directory / file_name(later, subband)
        shutil.copyfile(final, twin)
        if "duplicate_different" in kinds:
            _lose_last_row(twin)
        names.append(twin.name)
    return names


def _lose_last_row(path: Path) -> None:
    """Keep the header but change the data: the last row becomes zero."""
    with h5py.File(path, "r+") as file:
        file["Data/visdata"][-1] = 0
