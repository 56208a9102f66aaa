"""History at full scale: groups an hour beside what the stages alone take, by their products' own account.

A night's groups by `dsa110 process`, in one process; then their images again by `dsa110 backfill --asset tile_image` under the
running platform, a Dagster run each, one at a time as that lane has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare

GROUPS = 3
NIGHT = "2026-01-26"
IMAGE = "tile_image"
STAGES = ("subband_group", "measurement_set", "caltables", "calibrated_ms", IMAGE, "hour_mosaic", "source_measurements")


def rows(data: Data, repeats: int) -> list[Row]:
    inbox = derived.once(data.scratch / f"inbox-{GROUPS}", simulated)
    call = {"inbox": str(inbox), "place": str(data.scratch / "backfill")}
    return compare(
        [
            Contender(f"{GROUPS} groups of a night", "dsa110_assets", processed, call, "`dsa110 process`, start-up included"),
            Contender(f"{GROUPS} images again", "dsa110_assets", again, call, "backfill of tile_image, from the command to the last"),
        ]
    )


def simulated(out: str) -> dict[str, Any]:
    """The groups that end with the calibrator's transit, in one hour of the night."""
    from dsa110_assets.simulator import simulate
    from dsa110_assets.simulator.options import SimulationOptions

    simulate.simulate(Path(out), SimulationOptions(start=f"{NIGHT}T04:41:42", groups=GROUPS, antennas=96, channels=48))
    return {}


def processed(inbox: str, place: str) -> dict[str, Any]:
    import group

    took = group.whole(inbox, place)["wall_s"]
    return _figures(took, Path(place) / "archive", STAGES)


def again(inbox: str, place: str) -> dict[str, Any]:
    """On the archive that `processed` left."""
    import subprocess
    import time

    from orchestration import platform, until

    from dsa110_assets.archive.store import Archive

    archive = Path(place) / "archive"
    with platform(Path(place), Path(inbox), Path(inbox) / "catalogue.csv") as up:
        before = {product.id for product in Archive(archive).products(IMAGE)}
        began = time.perf_counter()
        subprocess.run([*derived.COMMAND, "backfill", "--nights", f"{NIGHT}..{NIGHT}", "--asset", IMAGE], check=True, capture_output=True)
        until(lambda: not before & {product.id for product in Archive(archive).products(IMAGE)}, 600, "all images are made again", up)
        took = time.perf_counter() - began
    return _figures(took, archive, (IMAGE,))


def _figures(wall_s: float, archive: Path, assets: Sequence[str]) -> dict[str, Any]:
    from dsa110_assets.archive.store import Archive

    told = [float(product.metadata["seconds"]) for name in assets for product in Archive(archive).products(name)]
    return {"wall_s": wall_s, "groups an hour": 3600 * GROUPS / wall_s, "stages alone s": sum(told), "their share": sum(told) / wall_s}
