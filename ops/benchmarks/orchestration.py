"""Overhead of orchestration: time from the last subband on disk to the first step under `dsa110 up`, and per run beyond its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare

ARRIVAL, OVERHEAD = "last subband to first step", "overhead of a run"


def rows(data: Data, repeats: int) -> list[Row]:
    remark = "daemon up and idle; a small group of 16 files arrives within a second"
    row, imports = compare(
        [
            Contender(ARRIVAL, "dsa110_assets", live, {"place": str(data.scratch / "live")}, remark),
            Contender("imports of the code server", "dsa110_assets", imported, remark="once: runs are forked from it, with all imported"),
        ]
    )
    if row.failed:
        return [row, replace(row, stage=OVERHEAD), imports]
    told = dict(row.accuracy)
    overheads = tuple(value for name, value in told.items() if name.startswith("run "))
    arrival = replace(row, accuracy={})
    remark = "from the run's creation to its end, less its steps: one figure per run of that group"
    return [arrival, replace(row, stage=OVERHEAD, wall_s=overheads, cpu_s=(float("nan"),), accuracy={}, remark=remark), imports]


def imported() -> dict[str, Any]:
    import sys

    import dsa110_assets.cli.warm  # noqa: F401

    return {"CASA imported": float("casatools" in sys.modules)}


def live(place: str) -> dict[str, Any]:
    """Start the platform on an empty inbox, let a group arrive, and read the times off Dagster's own events."""
    import os
    import shutil
    import time

    from dsa110_assets.simulator import simulate
    from dsa110_assets.simulator.options import SimulationOptions

    root = Path(place)
    shutil.rmtree(root, ignore_errors=True)
    inbox, staged = root / "inbox", root / "staged"
    inbox.mkdir(parents=True)
    simulate.simulate(staged, SimulationOptions(start="2026-01-26T04:52:00", groups=1, antennas=24, channels=2))
    with platform(root, inbox, staged / "catalogue.csv") as up:
        time.sleep(20)  # sensors have ticked on the empty inbox, so that start-up is not timed
        for path in sorted(staged.glob("*.hdf5")):
            os.rename(path, inbox / path.name)
        arrived = time.time()
        return _times(arrived, up)


@contextmanager
def platform(root: Path, inbox: Path, catalogue: Path) -> Iterator[Any]:
    """Run `dsa110 up` on an inbox with everything else below `root`. This process gets the same settings."""
    import os
    import signal
    import socket
    import subprocess

    os.environ.update(
        DSA110_INBOX=str(inbox), DSA110_ARCHIVE=str(root / "archive"), DAGSTER_HOME=str(root / "dagster"),
        DSA110_CATALOGUES=f'["{catalogue}"]',
    )  # fmt: skip
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    command = [*derived.COMMAND, "up", "--port", ports[0], "--portal-port", ports[1]]
    with (root / "up.log").open("w") as log:
        up = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: "Ctrl-C" in (root / "up.log").read_text(), 180, "dsa110 up is ready", up)
        yield up
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(60)
        except subprocess.TimeoutExpired:
            up.kill()


def _times(arrived: float, up: Any) -> dict[str, Any]:
    """Seconds from `arrived` to the first step, and seconds of every run that its steps do not account for."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        ended: list[Any] = []

        def first_run_over() -> bool:
            over = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]))
            # leaves out the runs that made the catalogues before the group arrived
            ended[:] = [record for record in over if record.create_timestamp.timestamp() > arrived]
            return bool(ended)

        until(first_run_over, 300, "the group's first run is over", up)
        first, figures = float("inf"), {}
        for number, record in enumerate(reversed(ended)):
            steps = instance.get_records_for_run(record.dagster_run.run_id, limit=2000).records
            starts = [r.timestamp for r in steps if _is(r, "STEP_START")]
            stops = [r.timestamp for r in steps if _is(r, "STEP_SUCCESS") or _is(r, "STEP_FAILURE")]
            busy = sum(stops) - sum(starts) if len(starts) == len(stops) else float("nan")
            first = min([first, *starts])
            figures[f"run {number}"] = record.end_time - record.create_timestamp.timestamp() - busy
    return {"wall_s": first - arrived, **figures}


def _is(record: Any, kind: str) -> bool:
    event = record.event_log_entry.dagster_event
    return event is not None and event.event_type_value == kind


def until(there: Any, seconds: float, what: str, up: Any) -> None:
    import time

    ends = time.monotonic() + seconds
    while not there():
        if up.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"after {seconds:.0f} s still waiting until {what}; exit status {up.poll()}")
        time.sleep(0.5)
