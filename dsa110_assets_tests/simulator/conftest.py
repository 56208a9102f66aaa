"""Simulated runs, read back from their files as plain arrays."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from dsa110_assets.simulator.options import SimulationOptions, parse_fault
from dsa110_assets.simulator.simulate import simulate


@dataclass(frozen=True)
class Run:
    """A run's files: `data` (group, time, row, channel of all subbands in file order, pol); stations (1 to 117) per row."""

    out: Path
    truth: dict[str, Any]
    data: NDArray[np.complex128]
    station1: NDArray[np.int64]
    station2: NDArray[np.int64]
    frequencies_hz: NDArray[np.float64]
    times_mjd: NDArray[np.float64]
    positions_m: NDArray[np.float64]

    def with_any(self, *stations: int) -> NDArray[np.bool_]:
        """Rows with one of these stations at either end."""
        return np.isin(self.station1, stations) | np.isin(self.station2, stations)

    @property
    def auto(self) -> NDArray[np.bool_]:
        return self.station1 == self.station2

    def catalogue(self) -> dict[str, dict[str, str]]:
        """The rows of catalogue.csv by name."""
        with (self.out / "catalogue.csv").open() as handle:
            return {row["name"]: row for row in csv.DictReader(handle)}


Written = Callable[..., Run]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """`written(options, *faults, **changes)`: simulate with these faults (as on the command line) and read the files."""

    def make(options: SimulationOptions, *faults: str, **changes: Any) -> Run:
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        truth = simulate(out, replace(options, **changes, faults=tuple(map(parse_fault, faults))))
        return read(out, truth)

    return make


def read(out: Path, truth: dict[str, Any]) -> Run:
    groups, frequencies, head = [], [], {}
    for group in truth["groups"]:
        parts, frequencies = [], []
        for name in group["files"]:
            with h5py.File(out / name) as file:
                head = {key: item[()] for key, item in file["Header"].items() if isinstance(item, h5py.Dataset)}
                data = file["Data/visdata"][:, 0].astype(np.complex128)
            parts.append(data.reshape(int(head["Ntimes"]), int(head["Nbls"]), *data.shape[1:]))
            frequencies.append(head["freq_array"][0])
        groups.append(np.concatenate(parts, axis=2))
    n = int(head["Nbls"])
    return Run(
        out, truth, np.array(groups), head["ant_1_array"][:n] + 1, head["ant_2_array"][:n] + 1,
        np.concatenate(frequencies), head["time_array"][::n] - 2400000.5, head["antenna_positions"],
    )  # fmt: skip
