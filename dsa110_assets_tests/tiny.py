"""A tiny telescope for tests of the pipeline: 8 antennas, 4 subbands of 4 channels, with real numerics end to end in seconds.

The conftest.py of all tests imports its fixtures, so that one simulation and one processed night serve every folder.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dsa110_assets.orchestration.running.process import ProcessReport
    from dsa110_assets.settings import Settings

SUBBANDS = 4
OBSERVATIONS = ("2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30")
SMALL_DISK = Path(__file__).parents[1] / "ops" / "small_disk.toml"
"""Thresholds with which the platform does not pause on a developer's nearly full disk."""
OPTIONS: dict[str, Any] = {
    "start": "2026-01-25T22:20:00", "groups": 3, "antennas": 8, "channels": 4, "subbands": SUBBANDS, "seed": 3,
    "noise_scale": 0.2, "rfi_tones": 0, "rfi_bursts": 0.0, "dead_antennas": 0, "dead_receptors": 0,
    "restart_every": 0, "source_density": 0.3, "flux_min_jy": 0.2,
}  # fmt: skip
"""3C454.3 transits at 22:27:24, in the second group of 22:20, 22:25 and 22:30."""


def tiny_settings(inbox: Path, place: Path, **more: Any) -> Settings:
    """Settings for the tiny telescope with archive and Dagster home in `place`: small images, one thread."""
    from dsa110_assets import settings

    imaging = {"field_deg": 2.0, "pixels_per_beam": 2.5, "max_major_cycles": 2, "clean_iterations": 100, "threads": 1}
    values: dict[str, Any] = {
        "inbox": inbox, "archive": place / "archive", "DAGSTER_HOME": place / "home", "thresholds": SMALL_DISK,
        "subbands": SUBBANDS, "min_subbands": SUBBANDS - 1, "still_s": 0, "imaging": imaging, **more,
    }  # fmt: skip
    return settings.load(**values)


@pytest.fixture(scope="session")
def no_settings_of_this_machine() -> Iterator[None]:
    """Remove this machine's settings of the platform from the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("DSA110_") or n == "DAGSTER_HOME"]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups around a calibrator transit; do not write into it."""
    with made_once(tmp_path_factory, "tiny", simulate_tiny) as place:
        return place


@contextmanager
def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """A directory that `make` fills once for all worker processes of a test run; during the block only this process uses it."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place, made = run / f"once-{name}", run / f"once-{name}.made"
    with (run / f"once-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(place, ignore_errors=True)  # remains of a worker that failed
            place.mkdir()
            make(place)
            made.touch()
        yield place


def simulate_tiny(out: Path, **changes: Any) -> None:
    """Simulate the tiny telescope's files, with options changed by `changes`."""
    from dsa110_assets.simulator.options import SimulationOptions
    from dsa110_assets.simulator.simulate import simulate

    simulate(out, SimulationOptions(**OPTIONS | changes))


@pytest.fixture(scope="session")
def finished_run(
    tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, no_settings_of_this_machine: None
) -> tuple[Settings, ProcessReport]:
    """The tiny run, processed once; do not change its archive, use `processed` for a copy.

    Each worker process has a separate copy, because SQLite makes and removes files beside an index that is read.
    """

    def make(place: Path) -> None:
        (place / "report").write_bytes(pickle.dumps(finish(tiny_settings(tiny_run, place))[1]))

    with made_once(tmp_path_factory, "finished", make) as place:
        report = pickle.loads((place / "report").read_bytes())  # noqa: S301  this test run wrote it
        return copy_of(tiny_settings(tiny_run, place), tmp_path_factory.mktemp("finished")), report


def finish(settings: Settings) -> tuple[Settings, ProcessReport]:
    """Process everything. Return the settings and the report."""
    from dsa110_assets.orchestration.running.process import process

    return settings, process(settings)


@pytest.fixture
def processed(finished_run: tuple[Settings, ProcessReport], tmp_path: Path) -> Settings:
    """A copy of the processed tiny run: its archive and its Dagster home."""
    return copy_of(finished_run[0], tmp_path)


def copy_of(original: Settings, place: Path) -> Settings:
    """Copy a processed run to `place`. Return its settings, with the same inbox."""
    shutil.copytree(original.archive, place / "archive", symlinks=True)
    assert original.dagster_home is not None
    shutil.copytree(original.dagster_home, place / "home")
    return tiny_settings(original.inbox, place)


@pytest.fixture
def inbox(tiny_run: Path, tmp_path: Path) -> Path:
    """A separate inbox with the tiny run's files (hard links, because nothing writes into a raw file)."""
    place = tmp_path / "inbox"
    place.mkdir()
    for path in tiny_run.glob("*.hdf5"):
        os.link(path, place / path.name)
    return place


@pytest.fixture
def settings(inbox: Path, tmp_path: Path, no_settings_of_this_machine: None) -> Settings:
    """The tiny telescope's settings with a separate inbox, before anything is processed."""
    return tiny_settings(inbox, tmp_path)


def regular_assets() -> set[str]:
    """The assets that every run makes: all except those made on request."""
    from dsa110_assets.orchestration.graph import specifications

    return {name for name, asset in specifications().items() if asset.grain != "request"}


def cut_short(path: Path, size: int) -> None:
    """Replace a file by a copy of its first `size` bytes; hard links share their bytes with other tests."""
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes()[:size])
    copy.replace(path)


def spoil_data(path: Path) -> None:
    """Replace a subband file by one with a good header whose compressed visibilities are corrupt."""
    import h5py

    content = path.read_bytes()
    path.unlink()  # hard links share their bytes with other tests
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        data = file["Data/visdata"][()]
        del file["Data/visdata"]
        file.create_dataset("Data/visdata", data=data, chunks=True, compression="gzip")
        place = file["Data/visdata"].id.get_chunk_info(0)
    with path.open("r+b") as handle:
        handle.seek(place.byte_offset + place.size // 2)
        handle.write(b"\xff" * 16)
