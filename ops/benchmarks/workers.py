"""Workers on many hosts, measured: a backlog on one to four workers beside live observations, and Dagster's overhead per run.

The arrays are small, so that the platform is measured and not the arithmetic. Every host is a separate namespace with a control
group that gives it a quarter of a core; database and broker are Debian's. Needs root, PostgreSQL, Redis, and `dagster-celery`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

ENGINE = "dsa110_assets"
WORKERS = (1, 2, 3, 4)
CORES_EACH = 0.25
"""Four workers together have one core; the daemon, the database and the broker have the other."""
BACKLOG = 6
"""Number of observations of an old night for each number of workers."""
CALIBRATING = 3
"""Number of observations of the present night that are processed first, with a transit in the second."""
TRANSIT = datetime(2026, 1, 25, 22, 26, 5, tzinfo=UTC)
"""The middle of the observation in which 3C454.3 transits, on the present night."""
SIDEREAL_DAY, GROUP_S = timedelta(seconds=86164.0905), 309.24
NOW = "2026-01-25T23:05:00"
LIVE_AFTER_S = 20.0
"""Seconds from the arrival of a backlog to that of the live observation."""
AT_ONCE = (1, 4, 16)
RUNS = 32
"""Number of runs for each number at once."""
WITHIN_S = 1800.0
CONTROL = Path("/sys/fs/cgroup")
LAUNCH = """mutation ($given: ExecutionParams!) { launchRun(executionParams: $given) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def rows(data: Data, repeats: int) -> list[Row]:
    del repeats
    place = str(data.scratch / "workers")
    scaling, overhead = compare(
        [
            Contender("backlog on workers", ENGINE, backlogs, {"place": place}, limit_s=2 * WITHIN_S),
            Contender("overhead of a run on PostgreSQL", ENGINE, overheads, {"place": place}, limit_s=WITHIN_S),
        ]
    )
    of_night = f"{BACKLOG} observations of a small array, an old night's, to the last tile; one arrives live meanwhile"
    of_runs = f"of {RUNS}, each finds its partition up to date: from when it was asked for to its end, less its step; 2 cores for all"
    return [
        *_each(scaling, lambda number: f"backlog on {number} worker{'s' * (number != '1')} of {CORES_EACH} cores", of_night),
        *_each(overhead, lambda number: f"overhead of a run on PostgreSQL, {number} at once", of_runs),
    ]


def _each(row: Row, name: Any, remark: str) -> Iterator[Row]:
    """Split a row into one row per number of workers or of runs at once."""
    if row.failed:
        yield row
        return
    for number, told in row.accuracy.items():
        figures = dict(told)  # type: ignore[call-overload]
        more = "; ".join(filter(None, (remark, figures.pop("remark", ""))))
        cpu_s, wall_s = figures.pop("cpu_s", float("nan")), tuple(figures.pop("wall_s"))
        yield replace(row, stage=name(number), wall_s=wall_s, cpu_s=(cpu_s,), accuracy=figures, remark=more)


# -- a backlog on workers


def backlogs(place: str) -> dict[str, Any]:
    """Figures for each number of workers, which are started one after another on the same platform."""
    import shutil

    from dsa110_assets_tests.live.fleet import fleet
    from dsa110_assets_tests.live.test_night import TINY

    root = Path(place) / "backlogs"
    shutil.rmtree(root, ignore_errors=True)
    present = simulated(root / "present", 0, CALIBRATING + len(WORKERS), 1)
    nights = [simulated(root / f"night-{number}", 5 + number, BACKLOG, BACKLOG // 2) for number in WORKERS]
    names = [f"worker{number}" for number in WORKERS]
    with ExitStack() as left:
        made = left.enter_context(fleet(root / "fleet", names, **TINY))
        shares = {name: left.enter_context(share(name)) for name in names}
        live, found = made.live, {}
        live.clock(NOW)
        live.start()
        _begin(made.hosts[0], shares[names[0]], live)
        present.arrive(live, range(CALIBRATING))
        live.until(lambda: live.made("tile_image", *present.keys[:CALIBRATING]), "the present night is calibrated", WITHIN_S)
        for number, night, host in zip(WORKERS, nights, made.hosts, strict=True):
            if number > 1:
                _begin(host, shares[host.name], live)
            live.until(live.idle, "nothing is left of the backlog before", WITHIN_S)
            working = [shares[name] for name in names[:number]]
            found[str(number)] = _one_backlog(made, night, present, CALIBRATING + number - 1, working)
        first = found["1"]["groups an hour"]
        return {number: told | {"efficiency": told["groups an hour"] / int(number) / first} for number, told in found.items()}


def _begin(host: Any, into: Share, live: Any) -> None:
    from dsa110_assets.children import descendants

    host.start()
    into.take(host.process.pid)
    live.until(lambda: host.ready, f"{host.name} takes runs", WITHIN_S)
    for pid in descendants(host.process.pid):
        into.take(pid)


def _one_backlog(made: Any, night: Scene, present: Scene, which: int, working: list[Share]) -> dict[str, Any]:
    """Let a night arrive, and a little later a live observation; wait until every tile is made, and return the figures."""
    live, key = made.live, present.keys[which]
    before, began = _spent(made, working), time.time()
    night.arrive(live, range(BACKLOG))
    live.until(lambda: time.time() > began + LIVE_AFTER_S, "the backlog is at work", WITHIN_S)
    present.arrive(live, [which])
    arrived, late_s = time.time(), list[float]()

    def is_done() -> bool:
        if not late_s and live.made("tile_image", key):
            late_s.append(time.time() - arrived)
        return live.made("tile_image", *night.keys) and bool(late_s)

    live.until(is_done, "every tile of the backlog is made", WITHIN_S)
    took = time.time() - began
    spent = {name: seconds - before[name] for name, seconds in _spent(made, working).items()}
    busy = {
        "workers busy": spent["workers"] / took / CORES_EACH / len(working),
        "disk busy": spent["disk"] / took,
        "platform cores": spent["platform"] / took,
        "database cores": spent["database"] / took,
        "broker cores": spent["broker"] / took,
    }
    return {
        "wall_s": [took], "cpu_s": sum(spent[name] for name in ("workers", "platform", "database", "broker")),
        "groups an hour": 3600 * (BACKLOG + 1) / took, "live s": late_s[0], **busy,
    }  # fmt: skip


def _spent(made: Any, working: list[Share]) -> dict[str, float]:
    """CPU seconds used so far by each part of the system, and seconds in which the disk was busy."""
    postmaster = int((made.postgres.home / "data" / "postmaster.pid").read_text().split()[0])
    return {
        "workers": sum(one.cpu_s for one in working),
        "platform": _tree_cpu_s(made.live.process.pid),
        "database": _tree_cpu_s(postmaster),
        "broker": _tree_cpu_s(made.redis.process.pid),
        "disk": _disk_s(made.live.root),
    }


def _tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and its descendants, including ended children."""
    from dsa110_assets.children import descendants, process_stat

    ticks = 0
    for one in {pid, *descendants(pid)}:
        try:
            ticks += sum(int(field) for field in process_stat(one)[11:15])
        except OSError:
            continue  # it has just ended
    return ticks / os.sysconf("SC_CLK_TCK")


def _disk_s(place: Path) -> float:
    """Seconds in which the disk that holds `place` was busy (Linux Documentation/block/stat); nan if it has no such file."""
    device = os.stat(place).st_dev
    told = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(told.read_text().split()[9]) / 1000 if told.exists() else float("nan")


@dataclass(frozen=True)
class Scene:
    """Simulated observations with their keys and files."""

    place: Path
    keys: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]

    def arrive(self, live: Any, which: Any) -> None:
        """Let the observations with these numbers arrive."""
        for number in which:
            live.drop(self.place, self.files[number])


def simulated(place: Path, days_before: int, groups: int, first: int) -> Scene:
    """Simulate `groups` observations of a small array, `first` of them before the one with the transit."""
    from dsa110_assets.simulator.options import SimulationOptions
    from dsa110_assets.simulator.simulate import simulate
    from dsa110_assets_tests.tiny import OPTIONS

    start = TRANSIT - days_before * SIDEREAL_DAY - timedelta(seconds=(first + 0.5) * GROUP_S)
    simulate(place, SimulationOptions(**{**OPTIONS, "start": f"{start:%Y-%m-%dT%H:%M:%S}", "groups": groups}))
    told = json.loads((place / "truth.json").read_text())["groups"]
    return Scene(place, tuple(one["observation"] for one in told), tuple(tuple(one["files"]) for one in told))


@dataclass(frozen=True)
class Share:
    """Control groups with a share of a core: one of version 2, or two of version 1, of which one limits and one counts."""

    groups: tuple[Path, ...]

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes that were ever in the group."""
        counted = self.groups[-1]
        if (counted / "cpuacct.usage").exists():
            return int((counted / "cpuacct.usage").read_text()) / 1e9
        return int((counted / "cpu.stat").read_text().split()[1]) / 1e6

    def take(self, pid: int) -> None:
        """Put a process, and with it the children it will start, into the group."""
        for group in self.groups:
            _move(pid, group)


@contextmanager
def share(name: str, cores: float = CORES_EACH) -> Iterator[Share]:
    """A control group with a share of `cores`, which it gets also on a busy machine. It is removed at the end of the block."""
    own, period_us = f"dsa110-benchmark-{os.getpid()}-{name}", 100_000
    if (CONTROL / "cgroup.controllers").exists():
        groups = (CONTROL / own,)
        limits = {"cpu.max": f"{cores * period_us:.0f} {period_us}", "cpu.weight": "1000"}
    else:
        groups = (CONTROL / "cpu" / own, CONTROL / "cpuacct" / own)
        limits = {"cpu.cfs_period_us": str(period_us), "cpu.cfs_quota_us": f"{cores * period_us:.0f}", "cpu.shares": "10240"}
    for group in groups:
        group.mkdir()
    for file, limit in limits.items():
        (groups[0] / file).write_text(limit)
    try:
        yield Share(groups)
    finally:
        for group in groups:
            for pid in (group / "cgroup.procs").read_text().split():
                _move(int(pid), group.parent)
            group.rmdir()


def _move(pid: int, group: Path) -> None:
    """Put a process into a control group, unless it has just ended."""
    with suppress(ProcessLookupError):
        (group / "cgroup.procs").write_text(str(pid))


# -- overhead of Dagster per run


def overheads(place: str) -> dict[str, Any]:
    """For each number of runs at once: seconds of the runs beyond their steps, and runs per hour."""
    import shutil

    import pytest
    import yaml

    from dsa110_assets_tests.live.platform import LivePlatform
    from dsa110_assets_tests.live.test_night import TINY
    from dsa110_assets_tests.postgres import private_server

    root = Path(place) / "overheads"
    shutil.rmtree(root, ignore_errors=True)
    scene = simulated(root / "scene", 0, max(AT_ONCE), max(AT_ONCE) // 2)
    with private_server() as server, pytest.MonkeyPatch.context() as patch:
        where = {"DSA110_DATABASE_URL": server.new_database("index"), "DAGSTER_PG_URL": server.new_database("dagster")}
        for name, value in where.items():
            patch.setenv(name, value)
        live = LivePlatform(root / "platform", **where, **TINY)
        live.home.mkdir(parents=True)
        config = yaml.safe_load((Path(__file__).parents[1] / "dagster.postgres.yaml").read_text())
        config["run_coordinator"]["config"]["max_concurrent_runs"] = max(AT_ONCE)
        config["concurrency"]["runs"]["tag_concurrency_limits"] = []
        (live.home / "dagster.yaml").write_text(yaml.safe_dump(config))
        live.clock(NOW)
        try:
            live.start()
            scene.arrive(live, range(max(AT_ONCE)))
            live.until(
                lambda: live.made("tile_image", *scene.keys), "there is something to find up to date, and nothing to follow", WITHIN_S
            )
            live.until(live.idle, "nothing runs", WITHIN_S)
            return {str(at_once): _overhead(live, scene, at_once) for at_once in AT_ONCE}
        finally:
            live.stop()


def _overhead(live: Any, scene: Scene, at_once: int) -> dict[str, Any]:
    asked_s: dict[str, float] = {}
    began = time.time()
    while len(asked_s) < RUNS:
        now = {_launched(live, scene.keys[number]): time.time() for number in range(at_once)}
        live.until(lambda now=now: _are_over(live, list(now)), "so many runs at a time", WITHIN_S)  # type: ignore[misc]
        asked_s |= now
    took = time.time() - began
    told = [_run_figures(live, run_id, asked) for run_id, asked in asked_s.items()]
    return {
        "wall_s": [one["overhead"] for one in told], "runs an hour": 3600 * len(told) / took,
        "waiting s": _median([one["waiting"] for one in told]), "step s": _median([one["step"] for one in told]),
    }  # fmt: skip


def _launched(live: Any, key: str) -> str:
    selector = {
        "repositoryName": "__repository__", "repositoryLocationName": "dsa110_assets", "pipelineName": "observations",
        "assetSelection": [{"path": ["subband_group"]}],
    }  # fmt: skip
    tags = [{"key": "dagster/partition", "value": key}, {"key": "dsa110/lane", "value": "live"}]
    given = {"selector": selector, "mode": "default", "runConfigData": {}, "executionMetadata": {"tags": tags}}
    told = live.graphql(LAUNCH, given=given)["launchRun"]
    if told["__typename"] != "LaunchRunSuccess":
        raise RuntimeError(str(told))
    return str(told["run"]["runId"])


def _are_over(live: Any, ids: list[str]) -> bool:
    import dagster as dg

    with live.instance() as instance:
        return all(run.is_finished for run in instance.get_runs(dg.RunsFilter(run_ids=ids)))


def _run_figures(live: Any, run_id: str, asked_s: float) -> dict[str, float]:
    """Seconds of a run from its request to its end without its step, from its request to its start, and of its step."""
    with live.instance() as instance:
        record = instance.get_run_record_by_id(run_id)
        events = [one.event_log_entry for one in instance.get_records_for_run(run_id, limit=500).records]
    if record.dagster_run.status.value != "SUCCESS":
        raise RuntimeError(f"run {run_id} ended as {record.dagster_run.status.value}")
    at = {one.dagster_event.event_type_value: one.timestamp for one in events if one.dagster_event is not None}
    step_s = at["STEP_SUCCESS"] - at["STEP_START"]
    return {"overhead": record.end_time - asked_s - step_s, "waiting": record.start_time - asked_s, "step": step_s}


def _median(values: list[float]) -> float:
    import statistics

    return statistics.median(values)
