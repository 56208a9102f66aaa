"""Many machines: a backfill of nights beside live observing on 1 to 64 cores, simulated from the stages' measured seconds.

A discrete-event simulation: a slot (one core) takes a run, waits its turn at the file server for the bytes, computes for the
stage's measured CPU seconds, and becomes free again. The planner is modelled as it is: it looks every 5 s, requests at most ten
runs, and takes its measured time for each. All measured times come from results.json; bandwidth and network are assumptions, which
the rows state.
"""

from __future__ import annotations

import heapq
import itertools
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

CORES = (1, 2, 4, 8, 16, 32, 64)
NIGHT = 280
"""Number of groups of 309 s in a day."""
GROUP_S, TILES = 309.0, 12
"""Seconds between observations, and tiles per hour."""
INGEST_GB = 2.3 + 1.4
"""Files read and a measurement set written."""
WRITTEN_GB = {"image": 0.35 + 0.1, "hour": TILES * 0.1}
"""For an image, the calibrated set and the image written; for an hour, its tiles read. A measurement set is not read again, because
it is still in the memory of the machine that continues with it."""
PLANNER_S, PER_TICK, EVERY_S = 0.33, 10, 5.0
"""Time to request one run, `planner.REQUESTS_PER_TICK`, and the sensor's interval."""
SERVERS = {"a file server of 1.2 GB/s": 1.2, "a parallel one of 10 GB/s": 10.0}


def rows(data: Data, repeats: int) -> list[Row]:
    del data, repeats
    remark = "simulated; seconds are those of a night of 280 groups"
    return compare(
        [
            Contender(f"{cores} core{'s' * (cores > 1)}, {name}", "simulated", simulate, {"cores": cores, "gb_s": gb_s}, remark)
            for name, gb_s in SERVERS.items()
            for cores in (CORES if gb_s < 10 else CORES[3:])
        ]
    )


def measured() -> dict[str, float]:
    """CPU seconds of the stages, and seconds of Dagster per run and per tick, from results.json."""
    kept = json.loads(Path(__file__).with_name("results.json").read_text())

    def median(benchmark: str, stage: str, what: str = "cpu_s") -> float:
        found = [row for row in kept[benchmark]["rows"] if row["stage"] == stage and row["engine"].startswith("dsa110_assets")]
        return statistics.median(found[0][what])

    return {
        "ingest": median("visibilities", "UVH5 to measurement set, flagged"),
        "image": median("apply", "calibrate, compare with the sky and average") + median("imaging", IMAGE),
        "hour": median("mosaic", "hour mosaic of 14 tiles of 2,500 pixels a side") + median("photometry", PHOTOMETRY),
        "run": median("orchestration", "overhead of a run", "wall_s"),
        "tick": median("years", "tick of the planner", "wall_s"),
    }


IMAGE, PHOTOMETRY = "tile image as the platform makes it, robust 0.5", "forced photometry of 100,000 positions"


@dataclass
class Site:
    """The machines: free slots, the queue of runs, the file server, and how long each part was busy [s]."""

    cores: int
    gb_s: float
    now_s: float = 0.0
    free: int = 0
    backfilling: int = 0
    served_until_s: float = 0.0
    busy_s: dict[str, float] = field(default_factory=lambda: {"cores": 0.0, "file server": 0.0, "planner": 0.0})
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    waiting: list[tuple[int, int, float, float, Callable[[], None]]] = field(default_factory=list)
    count: Any = field(default_factory=itertools.count)

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when_s, next(self.count), what))

    def ask(self, priority: int, gb: float, cpu_s: float, then: Callable[[], None]) -> None:
        """Queue a run. Smaller priorities run first. Priority 0 is live; if there are at least two slots, one is always left for it."""
        heapq.heappush(self.waiting, (priority, next(self.count), gb, cpu_s, then))
        self.start()

    def start(self) -> None:
        """Give free slots to waiting runs."""
        while self.waiting and self.free and (self.waiting[0][0] == 0 or self.backfilling < max(1, self.cores - 1)):
            priority, _, gb, cpu_s, then = heapq.heappop(self.waiting)
            self.free -= 1
            self.backfilling += priority > 0
            io_s = gb / self.gb_s
            self.served_until_s = max(self.served_until_s, self.now_s) + io_s
            self.busy_s["file server"] += io_s
            took_s = self.served_until_s - self.now_s + cpu_s
            self.busy_s["cores"] += cpu_s
            self.at(self.now_s + took_s, lambda priority=priority, then=then: self._end(priority, then))  # type: ignore[misc]

    def _end(self, priority: int, then: Callable[[], None]) -> None:
        self.free += 1
        self.backfilling -= priority > 0
        then()
        self.start()


def simulate(cores: int, gb_s: float, groups: int = NIGHT) -> dict[str, Any]:
    """Simulate a backfill of `groups` groups, with a live observation every 309 s, until the backfill has ended."""
    took = measured()
    site = Site(cores, gb_s, free=cores)
    imaged, late_s = [0], list[float]()
    ready: list[tuple[int, str, Callable[[], None]]] = []

    def observation(priority: int, began_s: float) -> None:
        def measurement_set() -> None:
            ready.append((max(priority - 1, 0), "image", tile))

        def tile() -> None:
            if priority == 0:
                late_s.append(site.now_s - began_s)
                return
            imaged[0] += 1
            if imaged[0] % TILES == 0:
                ready.append((1, "hour", lambda: None))

        site.ask(priority, INGEST_GB, took["ingest"] + took["run"], measurement_set)

    def planner() -> None:
        """Request the runs that are ready, live ones first."""
        chosen = sorted(ready, key=lambda one: one[0])[:PER_TICK]
        spent_s = took["tick"] + PLANNER_S * len(chosen) if chosen else 0.0
        site.busy_s["planner"] += spent_s
        for one in chosen:
            ready.remove(one)
            cpu_s = took[one[1]] + took["run"]
            site.at(site.now_s + spent_s, lambda one=one, cpu_s=cpu_s: site.ask(one[0], WRITTEN_GB[one[1]], cpu_s, one[2]))  # type: ignore[misc]
        site.at(site.now_s + max(EVERY_S, spent_s), planner)

    def arrives() -> None:
        observation(0, site.now_s)
        site.at(site.now_s + GROUP_S, arrives)

    for _ in range(groups):
        observation(2, 0.0)
    site.at(GROUP_S / 2, arrives)
    site.at(EVERY_S, planner)
    while imaged[0] < groups:
        site.now_s, _, what = heapq.heappop(site.events)
        what()
    rate = 3600 * groups / site.now_s
    alone = 3600 / (took["ingest"] + took["image"] + took["hour"] / TILES)
    busy = {name: seconds / site.now_s / (cores if name == "cores" else 1) for name, seconds in site.busy_s.items()}
    return {
        "wall_s": site.now_s, "groups an hour": rate, "efficiency": rate / cores / alone, "days for a year": 365 * NIGHT / rate / 24,
        **{f"{name} busy": share for name, share in busy.items()},
        "live s, median": statistics.median(late_s or [float("nan")]), "live s, longest": max(late_s, default=float("nan")),
        "remark": f"busiest: {max(busy, key=busy.__getitem__)}",
    }  # fmt: skip
