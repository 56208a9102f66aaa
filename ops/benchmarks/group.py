"""One full-scale group through the whole graph: `dsa110 process`, one command from subband files to a catalogued tile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare

REAL_TIME_S = 309.24


def rows(data: Data, repeats: int) -> list[Row]:
    place = str(derived.simulated(data).scratch / "group")
    remark = f"`dsa110 process --through source_measurements` into a new archive, Dagster included; real time is {REAL_TIME_S} s"
    call = {"inbox": str(data.inbox), "place": place}
    return compare(
        [
            Contender("whole group", "dsa110_assets", whole, call, remark, inputs=(str(data.inbox),)),
            Contender(
                "a group in an archive that has its catalogues",
                "dsa110_assets",
                whole,
                call | {"in_use": True},
                "as from the second group on; they and Dagster's database are made before the clock starts",
                most=3,
                inputs=(str(data.inbox),),
            ),
            Contender("a group of another night", "dsa110_assets", whole, call | {"cold": True}, "its files out of the page cache", most=1),
        ],
        min(repeats, 3),
    )


def whole(inbox: str, place: str, cold: bool = False, in_use: bool = False, at_once: int | None = None) -> dict[str, Any]:
    """Process the inbox into a new archive, with `in_use` one that already has its catalogues.

    The remark gives the seconds of each asset as the command reports them.
    """
    import shutil
    import subprocess
    import time

    shutil.rmtree(place, ignore_errors=True)
    Path(place).mkdir(parents=True)
    environment = {
        **os.environ, "DSA110_ARCHIVE": f"{place}/archive", "DAGSTER_HOME": f"{place}/dagster", "DSA110_INBOX": inbox,
        "DSA110_CATALOGUES": json.dumps([f"{inbox}/catalogue.csv"]),
    }  # fmt: skip
    for file in Path(inbox).glob("*.hdf5") if cold else ():
        with file.open("rb") as forgotten:
            os.posix_fadvise(forgotten.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def process(through: str) -> subprocess.CompletedProcess[str]:
        side_by_side = ["--at-once", str(at_once)] if at_once else []
        command = [*derived.COMMAND, "process", inbox, "--through", through, "--json", *side_by_side]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    if in_use:
        process("sky_model")
    began = time.perf_counter()
    told = process("source_measurements")
    took = time.perf_counter() - began
    try:
        report = json.loads(told.stdout)
    except ValueError:
        raise RuntimeError(f"exit status {told.returncode}: {told.stderr[-300:]}") from None
    seconds: dict[str, float] = {}
    for made in report["made"]:
        seconds[made["asset"]] = seconds.get(made["asset"], 0.0) + made["seconds"]
    failures = [f"{one['asset']}: {one['reason']}" for one in report["failed"]]
    if "source_measurements" not in seconds:
        raise RuntimeError(f"no catalogued tile: {'; '.join(failures) or told.stderr[-300:]}")
    own = "; ".join(f"{asset} {value:.1f} s" for asset, value in seconds.items() if value >= 0.05)
    held = f"; checks that failed: {'; '.join(failures)}" if failures else ""
    return {"wall_s": took, "times real time": REAL_TIME_S / took, "remark": f"{own}{held}"}
