"""History at full scale by `dsa110 process`: groups an hour beside what the stages alone take, by their products' own account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare

GROUPS = 3
NIGHT = "2026-01-26"
STAGES = ("subband_group", "measurement_set", "caltables", "calibrated_ms", "tile_image", "hour_mosaic", "source_measurements")


def rows(data: Data, repeats: int) -> list[Row]:
    inbox = derived.once(data.scratch / f"inbox-{GROUPS}", simulated)
    call = {"inbox": str(inbox), "place": str(data.scratch / "backfill")}
    return compare([Contender(f"{GROUPS} groups of a night", "dsa110_assets", processed, call, "`dsa110 process`, start-up included")])


def simulated(out: str) -> dict[str, Any]:
    """The groups that end with the calibrator's transit, in one hour of the night."""
    from dsa110_assets.simulator import simulate
    from dsa110_assets.simulator.options import SimulationOptions

    simulate.simulate(Path(out), SimulationOptions(start=f"{NIGHT}T04:41:42", groups=GROUPS, antennas=96, channels=48))
    return {}


def processed(inbox: str, place: str) -> dict[str, Any]:
    import group

    took = group.whole(inbox, place)["wall_s"]
    return _figures(took, Path(place) / "archive")


def _figures(wall_s: float, archive: Path) -> dict[str, Any]:
    from dsa110_assets.archive.store import Archive

    told = [float(product.metadata["seconds"]) for name in STAGES for product in Archive(archive).products(name)]
    return {"wall_s": wall_s, "groups an hour": 3600 * GROUPS / wall_s, "stages alone s": sum(told), "their share": sum(told) / wall_s}
