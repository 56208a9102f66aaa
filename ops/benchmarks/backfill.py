"""Backfill at full scale: groups per hour, compared with the time of the stages alone as their products record it.

Measured with `dsa110 process`, with as many groups at a time as cores and with one after another, and under the daemon.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare

GROUPS = 4
NIGHT = "2026-01-26"
STAGES = ("subband_group", "measurement_set", "caltables", "calibrated_ms", "tile_image", "hour_mosaic", "source_measurements")


def rows(data: Data, repeats: int) -> list[Row]:
    inbox = derived.once(data.scratch / f"inbox-{GROUPS}", simulated)
    call = {"inbox": str(inbox), "place": str(data.scratch / "backfill")}
    what, engine = f"{GROUPS} groups of a night", "dsa110_assets"
    return compare(
        [
            Contender(what, engine, processed, call, "`dsa110 process`, start-up included"),
            Contender(f"{what}, one after another", engine, processed, call | {"at_once": 1}, "`dsa110 process --at-once 1`"),
            Contender(f"{what}, under the daemon", engine, queued, call, "its files appear in the inbox of `dsa110 up`, up and idle"),
        ],
        min(repeats, 2),
    )


def simulated(out: str) -> dict[str, Any]:
    """Simulate the groups of one hour of the night that end with the calibrator's transit."""
    from dsa110_assets.simulator import simulate
    from dsa110_assets.simulator.options import SimulationOptions

    simulate.simulate(Path(out), SimulationOptions(start=f"{NIGHT}T04:36:33", groups=GROUPS, antennas=96, channels=48))
    return {}


def processed(inbox: str, place: str, at_once: int | None = None) -> dict[str, Any]:
    import group

    took = group.whole(inbox, place, at_once=at_once)["wall_s"]
    return _figures(took, Path(place) / "archive")


def queued(inbox: str, place: str) -> dict[str, Any]:
    """Time from the arrival of an old night's files to the measurements of its hour, including the sensors' intervals."""
    import os
    import shutil
    import time

    import orchestration

    from dsa110_assets.archive.store import Archive

    root = Path(place)
    shutil.rmtree(root, ignore_errors=True)
    (root / "inbox").mkdir(parents=True)
    with orchestration.platform(root, root / "inbox", Path(inbox) / "catalogue.csv") as up:
        archive = Archive(root / "archive")
        orchestration.until(lambda: archive.products("sky_model"), 300, "the catalogues are made", up)
        time.sleep(20)  # so that start-up is not timed
        began = time.perf_counter()
        for path in sorted(Path(inbox).glob("*.hdf5")):
            os.link(path, root / "inbox" / path.name)
        orchestration.until(lambda: _is_made(archive), 900, "the night is made", up)
        return _figures(time.perf_counter() - began, root / "archive")


def _is_made(archive: Any) -> bool:
    """Whether an hour mosaic was made of all tiles and its sources were measured."""
    measured = {one.inputs for one in archive.products("source_measurements")}
    hours = [one for one in archive.products("hour_mosaic") if any(one.id in inputs for inputs in measured)]
    return any(sum(name.startswith("tile_image") for name in one.inputs) == GROUPS for one in hours)


def _figures(wall_s: float, archive: Path) -> dict[str, Any]:
    from dsa110_assets.archive.store import Archive

    told = [float(product.metadata["seconds"]) for name in STAGES for product in Archive(archive).products(name)]
    return {"wall_s": wall_s, "groups an hour": 3600 * GROUPS / wall_s, "stages alone s": sum(told), "their share": sum(told) / wall_s}
