"""A tiny telescope for plumbing: 8 antennas, 4 subbands of 4 channels, real numerics end to end in seconds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets.settings import Settings
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate

SUBBANDS = 4
OPTIONS: dict[str, Any] = {
    "start": "2026-01-25T22:20:00", "groups": 3, "antennas": 8, "channels": 4, "subbands": SUBBANDS, "seed": 3,
    "noise_scale": 0.2, "rfi_tones": 0, "rfi_bursts": 0.0, "dead_antennas": 0, "dead_receptors": 0,
    "restart_every": 0, "source_density": 0.3, "flux_min_jy": 0.2,
}  # fmt: skip
"""3C454.3 transits at 22:26:05, in the second group of 22:20, 22:25 and 22:30."""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups around a calibrator transit; do not write into it."""
    out = tmp_path_factory.mktemp("tiny")
    simulate(out, SimulationOptions(**OPTIONS))
    return out


@pytest.fixture
def inbox(tiny_run: Path, tmp_path: Path) -> Path:
    """An inbox of its own with the tiny run's files (hard links: nothing writes into a raw file)."""
    place = tmp_path / "inbox"
    place.mkdir()
    for path in tiny_run.glob("*.hdf5"):
        os.link(path, place / path.name)
    return place


@pytest.fixture
def make_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Settings for the tiny telescope: small images, one thread."""
    for name in [n for n in os.environ if n.startswith("DSA110_") or n == "DAGSTER_HOME"]:
        monkeypatch.delenv(name)

    def make(inbox: Path, **more: Any) -> Settings:
        from dsa110_assets import settings

        imaging = {"field_deg": 2.0, "pixels_per_beam": 3.0, "max_major_cycles": 3, "clean_iterations": 300, "threads": 1}
        given: dict[str, Any] = {
            "inbox": inbox, "archive": tmp_path / "archive", "DAGSTER_HOME": tmp_path / "home",
            "subbands": SUBBANDS, "min_subbands": SUBBANDS - 1, "imaging": imaging, **more,
        }  # fmt: skip
        return settings.load(**given)

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings], inbox: Path) -> Settings:
    """The tiny telescope's settings over its own inbox."""
    return make_settings(inbox)


@pytest.fixture
def truncate(inbox: Path) -> Iterator[Callable[[Path, int], None]]:
    """Cut a file short, in a copy: hard links share their bytes with the other tests."""

    def cut(path: Path, size: int) -> None:
        copy = path.with_suffix(".copy")
        shutil.copyfile(path, copy)
        with copy.open("r+b") as handle:
            handle.truncate(size)
        copy.replace(path)

    yield cut
